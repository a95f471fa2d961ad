# SPDX-License-Identifier: Apache-2.0
"""Streams: pieces of any size give the events of the whole, for networks that stream and those that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kws
from features.audio import read_audio
from kws.detector import Detector, Event
from kws.errors import AudioError, UsageError
from kws.model import Model
from kws.stream import Frames, Stream

DATA = Path(__file__).parents[2] / "data"
Pieces = Callable[[int], list[int]]


@pytest.fixture(scope="module")
def recording() -> Any:
    return read_audio(sorted((DATA / "recordings").glob("*.wav"))[0], dtype="int16", sample_rate=16_000)


@pytest.fixture(scope="module")
def commands() -> Model:
    return kws.load("commands")


def events_of(detector: Detector, samples: Any, sizes: list[int]) -> list[Event]:
    state, events = detector.step(None, samples[:0])
    position = 0
    while position < len(samples):
        for size in sizes:
            state, found = detector.step(state, samples[position : position + size])
            events += found
            position += size
    return events + state.finish()


@pytest.mark.parametrize("sizes", [[160], [1, 0, 7, 4000], [16_000], [10_000_000]])
def test_pieces_of_any_size_give_the_events_of_the_whole(commands: Model, recording: Any, sizes: list[int]) -> None:
    detector = Detector(commands)
    expected = detector.detect(recording)
    assert expected
    assert events_of(detector, recording, sizes) == expected


def test_floats_give_the_events_of_int16(commands: Model, recording: Any) -> None:
    detector = Detector(commands)
    assert events_of(detector, recording / np.float32(32768), [4000]) == detector.detect(recording)


def test_a_network_that_streams_gives_the_same_events_column_by_column(
    streaming_model: Model, recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector(streaming_model)
    assert detector.stream_plan() is not None
    by_column = detector.trace(recording)
    expected = detector.decide(by_column)
    assert events_of(detector, recording, [400]) == expected
    assert events_of(Detector(replace(streaming_model, engine="reference")), recording[:40_000], [4000]) == (
        detector.detect(recording[:40_000])
    )
    monkeypatch.setattr(Detector, "stream_plan", lambda self, windows=1: None)
    by_window = detector.trace(recording)
    np.testing.assert_array_equal(by_column.posteriors, by_window.posteriors)
    assert detector.decide(by_window) == expected == events_of(detector, recording, [400])


def test_an_hour_in_pieces_is_the_hour_at_once(commands: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sounds of data/ shuffled and looped, seeded; pieces of random size against the whole."""
    monkeypatch.syspath_prepend(DATA.parent / "benchmarks")  # its neighbours are imported as when it is run
    from benchmarks import soak

    sounds, rng = soak.read_sounds(DATA), np.random.default_rng(11)
    assert soak.soak(Detector(commands), sounds, rng, files=1, seconds=3600) > 300


def test_the_soak_names_the_first_event_that_differs(commands: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of which the second is heard otherwise alone."""
    monkeypatch.syspath_prepend(DATA.parent / "benchmarks")
    from benchmarks import soak

    detector, heard = Detector(commands), []
    detect = detector.detect
    monkeypatch.setattr(Detector, "detect", lambda self, file: detect(file)[len(heard) :])
    sounds, rng = soak.read_sounds(DATA / "recordings"), np.random.default_rng(0)
    with pytest.raises(AssertionError, match=r"file 2: the stream has \('"):
        soak.soak(detector, sounds, rng, files=3, seconds=40, heard=lambda *said: heard.append(said))
    assert [file for file, _, _ in heard] == [1]


def test_memory_does_not_grow(streaming_model: Model) -> None:
    """Ten minutes of noise in pieces of a tenth of a second: what is kept is as large as after one."""
    rng = np.random.default_rng(0)
    stream = Frames(Detector(streaming_model))
    sizes = []
    for _ in range(10):
        for _ in range(60):
            stream.push(rng.integers(-3000, 3000, 16_000).astype(np.int16))
        sizes.append(sum(len(value) for value in vars(stream).values() if isinstance(value, np.ndarray)))
    assert max(sizes) == sizes[0]


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("size", [160, 1600, 5000])
def test_outputs_between_windows_are_passed_over(
    streaming_model: Model, recording: Any, every: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `hop` is several strides: the posteriors themselves, as sums would hide a shift."""
    detection = replace(streaming_model.hearing()[1], hop=4 * every)
    detector = Detector(streaming_model, detection)
    expected = detector.trace(recording[:48_000]).posteriors
    stream, found = Frames(detector), []
    push = stream._decider.push
    monkeypatch.setattr(stream._decider, "push", lambda posteriors: found.append(posteriors) or push(posteriors))
    for start in range(0, 48_000, size):
        stream.push(recording[start : min(start + size, 48_000)])
    stream.finish()
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_samples_are_checked_before_anything_changes(commands: Model) -> None:
    stream = Stream(Detector(replace(commands, frontend=replace(commands.frontend, arithmetic="float"))))
    with pytest.raises(UsageError, match="dtype int32"):
        stream.push(np.zeros(10, np.int32))
    with pytest.raises(AudioError, match="NaN"):
        stream.push(np.full(10, np.nan))
    assert stream.push(np.zeros(10, np.float32)) == []
    assert stream.seconds == 10 / 16_000
    stream.finish()
    with pytest.raises(UsageError, match="has ended"):
        stream.push(np.zeros(10, np.float32))


def test_a_fresh_stream_is_as_the_first(commands: Model, recording: Any) -> None:
    detector = Detector(commands)
    assert events_of(detector, recording, [8000]) == events_of(detector, recording, [8000])


def test_a_front_end_that_needs_the_whole_clip_is_refused(commands: Model) -> None:
    model = replace(commands, frontend=replace(commands.frontend, normalize="peak"))
    with pytest.raises(UsageError, match="has no stream"):
        Detector(model).step(None, np.zeros(10, np.int16))


def test_two_channels_are_refused(commands: Model) -> None:
    with pytest.raises(UsageError, match="not one channel"):
        Detector(commands).step(None, np.zeros((10, 2), np.int16))


def test_silence_and_nothing_give_no_event(commands: Model) -> None:
    detector = Detector(commands)
    state, events = detector.step(None, np.zeros(0, np.int16))
    assert events == []
    assert state.finish() == []
    assert state.seconds == 0.0
