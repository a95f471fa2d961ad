# SPDX-License-Identifier: Apache-2.0
"""Posteriors to events: the decision against a plain restatement of its rule, the times against known sounds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.graph import GraphBuilder
from deploy.listen import Heard
from deploy.reference import run
from features.config import get_preset
from features.frontend import input_features
from kws.arithmetic.quant import QuantParams
from kws.detector import Decider, DetectionConfig, Detector, Windows, keywords_of, locate, posteriors_of
from kws.errors import AudioError, KwsError, ModelError, UsageError
from kws.model import Model

CONFIG = DetectionConfig(hop=2, smoothing=3, refractory=4, thresholds=(450, 600), releases=(200, 600))
Tones = Callable[..., np.ndarray]


def rows(*values: int, label: int = 0) -> np.ndarray:
    """Posteriors of four labels in which one keyword has `values` and the other nothing."""
    posteriors = np.zeros((len(values), 4), np.uint8)
    posteriors[:, label] = values
    return posteriors


def fired(posteriors: np.ndarray, config: DetectionConfig = CONFIG) -> list[tuple[int, int]]:
    return [(firing.window, firing.keyword) for firing in Decider(config).push(posteriors)]


def by_the_rule(posteriors: np.ndarray, config: DetectionConfig) -> list[tuple[int, int]]:
    """Step 3 of kws/detector.py, said once more over whole lists."""
    n_keywords = len(config.thresholds)
    result: list[tuple[int, int]] = []
    armed = [True] * n_keywords
    for t in range(len(posteriors)):
        recent = posteriors[max(0, t - config.smoothing + 1) : t + 1]
        sums = [sum(int(row[k]) for row in recent) for k in range(n_keywords)]
        armed = [armed[k] or sums[k] < config.releases[k] for k in range(n_keywords)]
        quiet = result and t - result[-1][0] < config.refractory
        ready = [k for k in range(n_keywords) if armed[k] and sums[k] >= config.thresholds[k]]
        if ready and not quiet:
            best = max(ready, key=lambda k: (sums[k], -k))
            result.append((t, best))
            armed[best] = False
    return result


@st.composite
def posteriors_and_configs(draw: st.DrawFn) -> tuple[np.ndarray, DetectionConfig]:
    smoothing = draw(st.integers(1, 5))
    thresholds = tuple(draw(st.integers(1, 255 * smoothing)) for _ in range(2))
    releases = tuple(draw(st.integers(1, threshold)) for threshold in thresholds)
    config = DetectionConfig(1, smoothing, draw(st.integers(0, 8)), thresholds, releases)
    levels = st.sampled_from([0, 1, 80, 128, 200, 254, 255])
    values = draw(st.lists(st.tuples(levels, levels), min_size=1, max_size=60))
    return np.array(values, np.uint8), config


@given(posteriors_and_configs())
@settings(max_examples=300, deadline=None)
def test_decider_follows_the_rule(case: tuple[np.ndarray, DetectionConfig]) -> None:
    posteriors, config = case
    assert fired(posteriors, config) == by_the_rule(posteriors, config)


@given(posteriors_and_configs(), st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=100, deadline=None)
def test_decider_in_pieces_equals_at_once(case: tuple[np.ndarray, DetectionConfig], cuts: list[int]) -> None:
    posteriors, config = case
    pieces = Decider(config)
    parts = np.split(posteriors, sorted(min(cut, len(posteriors)) for cut in cuts))
    assert [firing for part in parts for firing in pieces.push(part)] == Decider(config).push(posteriors)


def test_fires_where_the_sum_reaches_the_threshold() -> None:
    assert fired(rows(200, 249, 0)) == []
    assert fired(rows(200, 250, 0)) == [(1, 0)]


def test_fires_again_only_after_the_release() -> None:
    assert fired(rows(*[200] * 30)) == [(2, 0)]
    assert fired(rows(*[200] * 5, *[67] * 5, *[200] * 5)) == [(2, 0)]
    assert fired(rows(*[200] * 5, *[66] * 5, *[200] * 5)) == [(2, 0), (11, 0)]


def test_nothing_fires_in_the_refractory_time_of_another() -> None:
    posteriors = rows(255, 255, 0, 0, 0, 0, 0) + rows(0, 0, 255, 255, 255, 255, 255, label=1)
    assert fired(posteriors) == [(1, 0), (5, 1)]


def test_of_two_the_larger_sum_fires() -> None:
    assert fired(rows(210, 210, 210) + rows(230, 230, 230, label=1)) == [(2, 1)]


@pytest.mark.parametrize(
    ("values", "centre"),
    [((0, 0, 0, 200, 250), 4), ((0, 0, 0, 250, 10, 190), 4), ((0, 0, 250, 120, 80), 3)],
)
def test_centre_and_peak_are_those_of_the_posteriors_that_made_it_fire(values: tuple[int, ...], centre: int) -> None:
    """The mean of their windows, weighted, and rounded to the later one."""
    (firing,) = Decider(CONFIG).push(rows(*values))
    assert (firing.window, firing.centre, firing.peak) == (len(values) - 1, centre, 250)


def test_decision_and_place_are_made_in_integers() -> None:
    class Integers(np.ndarray):
        def __array_finalize__(self, source: Any) -> None:
            assert self.dtype.kind in "iub"

    frontend = get_preset("mfb40")
    window = np.random.default_rng(0).integers(-128, 128, frontend.input_shape[:2]).astype(np.int8)
    assert locate(window.view(Integers), 4, frontend) == locate(window, 4, frontend)
    assert fired(rows(200, 250, 0).view(Integers)) == [(1, 0)]
    with pytest.raises(AssertionError):
        _ = window.view(Integers) * 0.5


# ---- where the word lies ---------------------------------------------------------------------------------------------

MFB = get_preset("mfb40")


def window_with(*words: tuple[int, int], level: int = 60, noise: int = -80) -> np.ndarray:
    """A window of noise with frames first..last of each word raised."""
    rng = np.random.default_rng(1)
    window = rng.integers(noise - 5, noise + 6, MFB.input_shape[:2])
    for first, last in words:
        window[first : last + 1] = rng.integers(level - 20, level + 21, (last + 1 - first, MFB.n_features))
    return window.astype(np.int8)


@pytest.mark.parametrize(("first", "last"), [(3, 18), (10, 30), (20, 36), (24, 42)])
def test_locate_finds_a_word(first: int, last: int) -> None:
    """In the third, the centre's window ends with the word; in the fourth, before it."""
    assert locate(window_with((first, last)), 12, MFB) == pytest.approx((first, last), abs=2)


def test_locate_keeps_the_burst_after_a_closure_with_the_word() -> None:
    assert locate(window_with((10, 24), (31, 33)), 12, MFB) == pytest.approx((10, 33), abs=2)


def test_locate_leaves_out_what_a_longer_pause_separates() -> None:
    assert locate(window_with((0, 5), (21, 31), (47, 48)), 12, MFB) == pytest.approx((21, 31), abs=2)


def test_locate_ends_a_word_in_unbroken_speech_with_the_window() -> None:
    first, last = locate(window_with((0, 48)), 12, MFB)
    assert last == 48
    assert last - first < 46


@pytest.mark.parametrize("value", [-128, 0, 127])
def test_locate_stays_near_the_centre_where_nothing_is_to_be_heard(value: int) -> None:
    first, last = locate(np.full(MFB.input_shape[:2], value, np.int8), 12, MFB)
    assert 36 - 22 <= last <= 48
    assert last - first + 1 == 8


@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from(["mfb40", "mfcc10", "mlperf-tiny"]))
@settings(max_examples=100, deadline=None)
def test_locate_stays_in_the_window(seed: int, age: int, preset: str) -> None:
    frontend = get_preset(preset)
    window = np.random.default_rng(seed).integers(-128, 128, frontend.input_shape[:2]).astype(np.int8)
    first, last = locate(window, age, frontend)
    assert 0 <= first <= last < frontend.n_frames


# ---- recordings ------------------------------------------------------------------------------------------------------


def times(model: Model, samples: np.ndarray) -> list[tuple[str, float, float]]:
    return [(event.label, event.start, event.end) for event in Detector(model).detect(samples)]


def test_events_have_the_times_of_the_sounds(tone_model: Model, make_tones: Tones) -> None:
    truth = [("low", 1.0, 0.4), ("high", 2.3, 0.3), ("low", 5.0, 0.5), ("low", 6.6, 0.4)]
    long_sums = replace(tone_model.detection, smoothing=18, thresholds=(2295,) * 2, releases=(1377,) * 2)
    events = Detector(tone_model, long_sums).detect(make_tones(8, *truth, ("middle", 3.5, 0.4)))
    assert [event.label for event in events] == [label for label, _, _ in truth]
    for event, (_, start, length) in zip(events, truth, strict=True):
        assert event.start == pytest.approx(start, abs=0.08)
        assert event.end == pytest.approx(start + length, abs=0.08)
        assert 0.9 <= event.score <= 1


@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 1.3])
def test_short_files_are_padded(tone_model: Model, make_tones: Tones, seconds: float) -> None:
    (event,) = Detector(tone_model).detect(make_tones(seconds, ("low", 0.0, min(seconds, 0.5))))
    assert event.label == "low"
    assert 0 <= event.start < event.end <= seconds


def test_word_at_either_end_is_found(tone_model: Model, make_tones: Tones) -> None:
    assert [label for label, _, _ in times(tone_model, make_tones(3, ("low", 0, 0.4), ("high", 2.6, 0.4)))] == [
        "low",
        "high",
    ]


def test_one_sample_gives_no_event_and_none_is_an_error(tone_model: Model) -> None:
    assert Detector(tone_model).detect(np.zeros(1, np.int16)) == []
    with pytest.raises(AudioError, match="at least one sample"):
        Detector(tone_model).detect(np.zeros(0, np.int16))
    with pytest.raises(AudioError, match=r"\(2, 16000\)"):
        Detector(tone_model).detect(np.zeros((2, 16000), np.int16))


def test_file_int16_and_float_give_the_same(
    tone_model: Model, tone_file: Callable[..., Path], make_tones: Tones
) -> None:
    bursts = (("low", 0.5, 0.4), ("high", 2.0, 0.4))
    samples = make_tones(3, *bursts)
    events = tone_model.detect(samples)
    assert len(events) == 2
    assert tone_model.detect(samples.astype(np.float32) / 32768) == events
    assert tone_model.detect(str(tone_file("x.wav", 3, *bursts))) == events


def test_events_do_not_depend_on_what_comes_later(tone_model: Model, make_tones: Tones) -> None:
    """An event needs nothing after the window that fired: cut there, and it is the same."""
    samples = make_tones(6, ("low", 1.0, 0.4), ("high", 3.0, 0.4), ("low", 4.5, 0.3))
    detector = Detector(tone_model)
    trace = detector.trace(samples)
    whole = detector.decide(trace)
    firings = Decider(tone_model.detection).push(trace.posteriors)
    assert len(whole) == len(firings) == 3
    for count, firing in enumerate(firings, 1):
        end = round(trace.windows.ends()[firing.window] * 16000)
        assert detector.detect(samples[:end]) == whole[:count]


@pytest.mark.parametrize("preset", ["mfb40", "mfcc10", "mlperf-tiny"])
@pytest.mark.parametrize("hop", [1, 3])
def test_windows_are_the_clips_own_features(preset: str, hop: int, tone_model: Model, make_tones: Tones) -> None:
    """Cut out of the recording's frames or computed one by one, a window is what `Model.logits` sees of its samples."""
    frontend = get_preset(preset)
    samples = make_tones(1.7, ("low", 0.5, 0.4))
    windows = Windows(samples, frontend, tone_model.graph, hop)
    before, step = -windows.first_frame(0) * frontend.hop_length, hop * frontend.hop_length
    padded = np.pad(samples, (before, 32000))
    clips = np.stack([padded[i * step : i * step + frontend.clip_samples] for i in range(len(windows))])
    expected = input_features(clips, frontend, tone_model.graph.input_params)
    assert np.array_equal(windows.take(0, len(windows) + 5), expected)
    assert len(windows.ends()) == len(windows)
    assert windows.ends()[0] == pytest.approx((frontend.clip_samples - before) / 16000)


def test_posteriors_are_the_softmax_of_the_logits(tone_model: Model, make_tones: Tones) -> None:
    logits = tone_model.logits(np.stack([make_tones(1, ("low", 0.3, 0.4)), make_tones(1, ("high", 0.2, 0.2))]))
    exact = np.exp(logits * tone_model.graph.output_params.scale)
    exact /= exact.sum(axis=1, keepdims=True)
    posteriors = posteriors_of(tone_model.graph, logits)
    assert posteriors.dtype == np.uint8
    assert np.abs(posteriors / 256 - exact).max() <= 1.01 / 256


def test_graph_that_ends_in_softmax_needs_no_second() -> None:
    builder = GraphBuilder()
    graph = builder.finish(builder.softmax(builder.input((4,), QuantParams(0.125, 3)), "softmax"))
    probabilities = run(graph, np.random.default_rng(0).integers(-128, 128, (5, 4)).astype(np.int8))
    assert np.array_equal(posteriors_of(graph, probabilities), probabilities.astype(int) + 128)


def test_threshold_of_a_detector_can_be_another(tone_model: Model, make_tones: Tones) -> None:
    samples = make_tones(3, ("low", 1.0, 0.2))
    strict = replace(tone_model.detection, thresholds=(255 * 10,) * 2)
    assert Detector(tone_model, strict).detect(samples) == []
    assert (
        len(Detector(tone_model, replace(tone_model.detection, thresholds=(300, 300), releases=(9, 9))).detect(samples))
        == 1
    )


# ---- the configuration -----------------------------------------------------------------------------------------------


def test_configuration_survives_its_dictionary() -> None:
    assert DetectionConfig.from_dict(CONFIG.to_dict()) == CONFIG
    assert all(isinstance(v, int | list) for v in CONFIG.to_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, r"detection\.hop: is 0, not an integer in \[1, 256\]"),
        ({"hop": True}, r"detection\.hop: is True"),
        ({"smoothing": 2.0}, r"detection\.smoothing: is 2\.0"),
        ({"refractory": -1}, r"detection\.refractory: is -1"),
        ({"thresholds": [450, 766]}, r"detection\.thresholds\[1\]: is 766, not an integer in \[1, 765\]"),
        ({"thresholds": [450, "x"]}, r"detection\.thresholds\[1\]: is 'x'"),
        ({"thresholds": []}, r"detection\.thresholds: is not one integer a keyword"),
        ({"thresholds": 450}, r"detection\.thresholds: is not one integer a keyword"),
        ({"releases": [200]}, r"detection\.releases: is not one integer a keyword"),
        ({"releases": [451, 600]}, r"detection\.releases\[0\]: is 451, not an integer in \[1, 450\]"),
        ({"gap": 3}, r"detection\.gap: is unknown"),
    ],
)
def test_configuration_names_the_field_that_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        DetectionConfig.from_dict(CONFIG.to_dict() | change)


def test_configuration_names_what_is_missing_or_no_object() -> None:
    values = CONFIG.to_dict()
    del values["smoothing"]
    with pytest.raises(ModelError, match=r"detection\.smoothing: is missing"):
        DetectionConfig.from_dict(values)
    with pytest.raises(ModelError, match="detection: is a list"):
        DetectionConfig.from_dict([])


def test_configuration_must_fit_labels_and_front_end() -> None:
    CONFIG.check(("yes", "no", "_silence_", "_unknown_"), MFB)
    with pytest.raises(ModelError, match="2 values for 1 keywords"):
        CONFIG.check(("yes", "_silence_", "_unknown_"), MFB)
    with pytest.raises(ModelError, match="labels: do not begin with the keywords"):
        CONFIG.check(("_silence_", "yes", "no"), MFB)
    with pytest.raises(ModelError, match=r"detection\.hop: is 60 frames of a window of 49"):
        replace(CONFIG, hop=60).check(("yes", "no"), MFB)


@pytest.mark.parametrize("hop_length", [160, 320, 480])
def test_default_configuration_is_the_same_in_seconds(hop_length: int) -> None:
    config = DetectionConfig.default(replace(MFB, hop_length=hop_length), 3)
    seconds = config.hop * hop_length / 16000
    assert seconds == pytest.approx(0.04, abs=0.011)
    assert config.smoothing * seconds == pytest.approx(0.4, abs=0.03)
    assert config.thresholds == (round(0.5 * 255 * config.smoothing),) * 3


def test_accepts_is_firing_on_a_lasting_posterior() -> None:
    posteriors = np.array([[150, 0, 9, 9], [149, 0, 9, 9], [0, 200, 9, 9], [0, 199, 9, 9]], np.uint8)
    assert CONFIG.accepts(posteriors).tolist() == [[True, False], [False, False], [False, True], [False, False]]
    for row, accepted in zip(posteriors, CONFIG.accepts(posteriors), strict=True):
        assert bool(fired(np.repeat(row[None], 9, axis=0))) == accepted.any()


def test_keywords_are_the_labels_without_underscores() -> None:
    assert keywords_of(("yes", "no", "_silence_", "_unknown_")) == ("yes", "no")


def test_damaged_file_is_one_error(tone_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF")
    with pytest.raises(KwsError, match=r"x\.wav"):
        tone_model.detect(path)


def test_an_hour_takes_little_more_than_its_samples(tone_model: Model) -> None:
    samples = np.random.default_rng(0).integers(-99, 99, 600 * 16000).astype(np.int16)  # ten minutes: 19 MB
    tracemalloc.start()
    windows = Windows(samples, tone_model.frontend, tone_model.graph, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(windows) > 14_000
    assert peak < 60e6  # features in floats alone are 10 bytes a sample


@pytest.mark.parametrize("source", [[0.0] * 16000, None, 5])
def test_what_is_no_recording_is_a_usage_error(tone_model: Model, source: Any) -> None:
    with pytest.raises(UsageError, match=f"a {type(source).__name__} is neither a path nor a NumPy array"):
        tone_model.detect(source)


def test_a_word_located_behind_the_recording_ends_with_it(tone_model: Model) -> None:
    event = Detector(tone_model).event_of(Heard(0, 255, 90, 99), 1.5)
    assert (event.start, event.end) == (pytest.approx(1.34), 1.5)
    assert Detector(tone_model).event_of(Heard(0, 255, 0, 99), 0.1).start == 0.0
