# SPDX-License-Identifier: Apache-2.0
"""The listener in C: on any signal in any pieces it hears what NumPy hears, to the frame, for every kind of model."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kws
from deploy import native
from deploy.export.c import export
from deploy.graph import GraphBuilder
from deploy.listen import Heard
from deploy.native import Listener, Listening
from features.audio import read_audio
from features.config import FrontendConfig, get_preset
from kws.arithmetic.quant import QuantParams, choose_params
from kws.detector import Decider, DetectionConfig, Detector
from kws.model import Model
from kws.stream import Frames, Stream, listener_for_export

DATA = Path(__file__).parents[2] / "data"
LABELS = ("one", "two", "three", "_unknown_")


class WholeWindows(Detector):
    """A detector that takes the network for one that cannot stream."""

    def stream_plan(self, windows: int = 1) -> None:
        return None


def heard(stream: Frames | Listening, samples: Any, sizes: list[int]) -> list[Heard]:
    """What a stream hears in pieces of these sizes, again and again."""
    found, position, i = [], 0, 0
    while position < len(samples):
        size = sizes[i % len(sizes)]
        found += stream.push(samples[position : position + size])
        position, i = position + size, i + 1
    return found + stream.finish()


def random_model(frontend: FrontendConfig, detection: DetectionConfig, *, rows: int, seed: int) -> Model:
    """Random weights: a convolution over `rows` frames in steps of two, a mean over time, four labels."""
    rng = np.random.default_rng(seed)
    builder = GraphBuilder()
    x = builder.input(frontend.input_shape, choose_params(-12.0, 8.0))
    weights = rng.integers(-127, 128, (6, rows, frontend.n_features, 1)).astype(np.int8)
    scale = 4.0 / np.abs(weights.astype(float)).sum(axis=(1, 2, 3)).max()
    x = builder.conv2d(
        x, "conv", weights, float(np.float32(scale)), 0, np.zeros(6, np.int32),
        stride=(2, 1), output=QuantParams(0.0625, 0),
    )  # fmt: skip
    height = (frontend.n_frames - rows) // 2 + 1
    x = builder.average_pool(x, "pool", (height, 1))
    x = builder.reshape(x, "flat", shape=(6,))
    dense = rng.integers(-127, 128, (len(LABELS), 6)).astype(np.int8)
    x = builder.fully_connected(
        x, "dense", dense, float(np.float32(1 / 64)), 0, np.zeros(len(LABELS), np.int32), output=QuantParams(0.125, 0)
    )
    return Model(builder.finish(x), frontend, LABELS, detection)


def signal(parts: list[tuple[str, int]], seed: int) -> Any:
    """int16: parts of a kind and a length, among them what breaks fixed point."""
    rng, samples = np.random.default_rng(seed), [np.zeros(0)]
    for kind, n in parts:
        i = np.arange(n)
        samples.append({
            "silence": lambda i: np.zeros(len(i)),
            "square": lambda i: np.where(i // 37 % 2, 32767, -32768),
            "clipped": lambda i: np.clip(rng.normal(0, 60_000, len(i)), -32768, 32767),
            "noise": lambda i: rng.normal(0, 300, len(i)),
            "faint": lambda i: rng.integers(-1, 2, len(i)),
            "tone": lambda i: 9000 * np.sin(i * rng.uniform(0.05, 2.5)),
            "dc": lambda i: np.full(len(i), -32768),
        }[kind](i))  # fmt: skip
    return np.concatenate(samples).astype(np.int16)


KINDS = ["silence", "square", "clipped", "noise", "faint", "tone", "dc"]
SIGNALS = st.builds(
    signal,
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9000)), max_size=6),
    st.integers(0, 1000),
)
SIZES = st.lists(st.one_of(st.sampled_from([0, 1, 160, 1280]), st.integers(0, 30_000)), min_size=1, max_size=6).filter(
    any
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Front-ends of every kind, windows of 0.25 s, detection settings up to their edges."""
    frame_length = draw(st.sampled_from([256, 401, 512]))
    mfcc = draw(st.booleans())
    frontend = FrontendConfig(
        kind="mfcc" if mfcc else "mfb", frame_length=frame_length, hop_length=draw(st.sampled_from([100, 160, 256])),
        n_fft=512, n_mels=12, fmin=60.0, fmax=7000.0, n_mfcc=5 if mfcc else 0, clip_samples=4000,
        power=draw(st.sampled_from([1.0, 2.0])), log_floor=1e-5,
    )  # fmt: skip
    smoothing = draw(st.integers(1, 12))
    top = 255 * smoothing
    thresholds = tuple(draw(st.integers(1, top)) if draw(st.booleans()) else max(1, top // 3) for _ in range(3))
    releases = tuple(draw(st.integers(1, threshold)) for threshold in thresholds)
    detection = DetectionConfig(draw(st.integers(1, 6)), smoothing, draw(st.integers(0, 8)), thresholds, releases)
    return random_model(frontend, detection, rows=draw(st.integers(1, 6)), seed=draw(st.integers(0, 9)))


@settings(deadline=None, max_examples=120)
@given(models(), st.booleans(), SIGNALS, SIZES, st.sampled_from(native.levels()))
def test_any_model_hears_any_signal_in_any_pieces_as_numpy(
    model: Model, whole: bool, samples: Any, sizes: list[int], level: str
) -> None:
    detector = WholeWindows(model) if whole else Detector(model)
    expected = heard(Frames(detector), samples, [len(samples) or 1])
    listen = detector.listen()
    assert listen is not None
    assert heard(Listening(Listener(listen, level)), samples, sizes) == expected


def cases(streaming_model: Model, tone_model: Model) -> Iterator[tuple[str, Detector]]:
    detection = replace(streaming_model.hearing()[1], hop=8)
    yield "tc-stream", Detector(streaming_model)
    yield "tc-stream, windows two strides apart", Detector(streaming_model, detection)
    yield "tc-stream, whole windows", WholeWindows(streaming_model)
    yield "tones", Detector(tone_model)
    yield "commands", Detector(kws.load("commands"))


@pytest.fixture(scope="module")
def sounds(make_tones: Any) -> Any:
    """A recording of speech, tones, and what breaks fixed point."""
    recording = read_audio(sorted((DATA / "recordings").glob("*.wav"))[0], dtype="int16", sample_rate=16_000)
    hard = signal([(kind, 12_000) for kind in KINDS], seed=3)
    return np.concatenate([recording[:150_000], hard, make_tones(4.0, ("low", 1.0, 0.4), ("high", 2.2, 0.4))])


def test_real_models_hear_speech_and_hard_signals_as_numpy(
    streaming_model: Model, tone_model: Model, sounds: Any
) -> None:
    for name, detector in cases(streaming_model, tone_model):
        listener = detector.listener
        assert listener is not None
        expected = heard(Frames(detector), sounds, [len(sounds)])
        assert expected, name
        for sizes in ([1280], [0, 1, 7, 5000], [16_000], [len(sounds)]):
            assert heard(Listening(listener), sounds, sizes) == expected, (name, sizes)


def test_the_specification_is_numpy_alone(streaming_model: Model, sounds: Any) -> None:
    """The network in NumPy as well, and the events of `trace`, which knows no stream."""
    sounds = sounds[:48_000]
    detector = Detector(replace(streaming_model, engine="reference"))
    assert detector.listener is None
    stream = Stream(Detector(streaming_model))
    events = stream.push(sounds) + stream.finish()
    assert events
    assert events == detector.detect(sounds) == detector.decide(detector.trace(sounds))


def test_minutes_at_once_are_the_pieces(tone_model: Model, make_tones: Any) -> None:
    minutes = np.tile(make_tones(6.0, ("low", 1.0, 0.4), ("high", 3.5, 0.4)), 50)
    detector = Detector(tone_model)
    assert detector.listener is not None
    at_once = heard(Listening(detector.listener), minutes, [len(minutes)])
    assert len(at_once) == 100
    assert heard(Listening(detector.listener), minutes, [1280]) == at_once
    assert heard(Frames(detector), minutes, [len(minutes)]) == at_once


def test_reset_equals_fresh(streaming_model: Model, tone_model: Model, sounds: Any) -> None:
    for _, detector in cases(streaming_model, tone_model):
        stream = Stream(detector)
        fresh = stream.push(sounds) + stream.finish()
        for cut in (0, 77, 60_123):
            stream.reset()
            stream.push(sounds[:cut])
            stream.reset()
            assert stream.seconds == 0.0
            assert stream.push(sounds) + stream.finish() == fresh


def test_a_stream_keeps_as_many_bytes_as_the_description_says(streaming_model: Model, tone_model: Model) -> None:
    """Beyond what front-end and network compute in, which in whole windows share their place."""
    for name, detector in cases(streaming_model, tone_model):
        listen = detector.listen()
        assert listen is not None
        listener = Listener(listen, "portable")
        assert listener.memory_size == listener.computing_size + listen.lasting_size(native.FRAMES_AT_ONCE), name


PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "m_listen.h"
static int8_t memory[M_LISTEN_SIZE];
static int16_t samples[100000];
static m_event events[100];
static void print(int32_t n)
{
    int32_t i;
    for (i = 0; i < n; i++)
        printf("%d %d %ld %ld\\n", (int)events[i].keyword, (int)events[i].score, (long)events[i].first,
               (long)events[i].end);
}
int main(int count, char **arguments)
{
    size_t n;
    if (count != 2 || m_listen_init(memory, sizeof memory) != 0)
        return 1;
    while ((n = fread(samples, 2, (size_t)atoi(arguments[1]), stdin)) > 0)
        print(m_listen_push(memory, samples, n, events, 100));
    print(m_listen_finish(memory, events, 100));
    return 0;
}
"""


def test_an_exported_folder_hears_the_same(
    streaming_model: Model, tone_model: Model, sounds: Any, tmp_path: Path
) -> None:
    """Also what its example prints, in milliseconds."""
    warnings = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    for i, model in enumerate((streaming_model, tone_model, kws.load("commands"))):
        folder = tmp_path / str(i)
        export(model.graph, model.frontend, model.labels, folder, name="m", listener=listener_for_export(model))
        (folder / "main.c").write_text(PROGRAM)
        sources = sorted(map(str, (folder / "src").glob("*.c")))
        for main in ("main.c", "selftest/listen.c", "examples/listen.c"):
            program = Path(main).parts[0]
            subprocess.run(
                ["gcc", *warnings, f"-I{folder}/src", *sources, folder / main, "-o", folder / f"{program}.out"],
                check=True,
            )
        subprocess.run([folder / "selftest.out"], check=True, capture_output=True)

        def output(*command: object, given: bytes = sounds.astype("<i2").tobytes()) -> list[list[str]]:
            words = list(map(str, command))
            text = subprocess.run(words, input=given, check=True, capture_output=True, text=False).stdout.decode()
            return [line.split() for line in text.splitlines()]

        expected = heard(Frames(Detector(model)), sounds, [len(sounds)])
        assert expected
        for size in (1, 1280, 99_999):
            assert [Heard(*map(int, row)) for row in output(folder / "main.c.out", size)] == expected
        events = [Detector(model).event_of(each, len(sounds) / 16_000) for each in expected]
        for row, event in zip(output(folder / "examples.out"), events, strict=True):
            assert (row[5], row[6]) == (event.label + ",", str(round(event.score * 255)))
            assert [max(0.0, int(row[k]) / 1000) for k in (0, 3)] == pytest.approx([event.start, event.end], abs=2e-3)


def test_buffers_that_do_not_fit_are_refused(tone_model: Model) -> None:
    listener = Detector(tone_model).listener
    assert listener is not None
    memory = np.zeros(listener.memory_size - 1, np.int8)
    with pytest.raises(ValueError, match="too small"):
        listener.extension.listen_init(listener.address, memory)
    with pytest.raises(ValueError, match="too small"):
        listener.extension.listen_push(listener.address, memory, b"", memory, False)


def test_more_events_than_places_are_an_error(tone_model: Model, make_tones: Any) -> None:
    detector = Detector(tone_model)
    assert detector.listener is not None
    stream = Listening(detector.listener)
    stream._events = stream._events[:1]
    with pytest.raises(ValueError, match="more events than places"):
        stream.push(make_tones(6.0, ("low", 1.0, 0.4), ("high", 3.5, 0.4)))


def test_models_that_numpy_alone_hears_have_no_listener(tone_model: Model) -> None:
    frontend = get_preset("mfb40")
    for changed in (replace(frontend, arithmetic="float"), replace(frontend, normalize="peak")):
        assert Detector(replace(tone_model, frontend=changed)).listener is None


HARNESS = """
#include <stdio.h>
#include "m_nn_listen.c" /* what decides is static */
#include "m_listen.h"
static int8_t memory[M_LISTEN_SIZE + 16], outputs[16];
static int16_t levels[64];
int main(void)
{
    m_nn_network network = {0};
    m_nn_listen listen = m_listening;
    m_event event;
    stream s;
    void *aligned = memory + (16 - (size_t)memory % 16) % 16;
    listen.network = &network;
    m_nn_listen_init(&m_listening, aligned, M_LISTEN_SIZE);
    s = stream_in(&m_listening, aligned, &event, 1);
    s.listen = &listen;
    s.engine.network = &network;
    s.engine.memory = outputs;
    for (;;) {
        size_t n, i;
        if (fread(outputs, 1, M_N_LABELS, stdin) != M_N_LABELS)
            return 0;
        for (n = s.state->window == 0 ? (size_t)listen.n_frames : (size_t)(listen.every * listen.stride); n > 0; n--) {
            if (fread(levels, 2, 1, stdin) != 1)
                return 1;
            s.levels[s.state->level_at] = levels[0];
            s.state->level_at = (s.state->level_at + 1) % n_levels_of(&listen);
        }
        s.n_events = 0;
        decide(&s);
        for (i = 0; i < (size_t)s.n_events; i++)
            printf("%d %d %ld %ld\\n", (int)event.keyword, (int)event.score, (long)event.first, (long)event.end);
    }
}
"""


class Levels:
    """Windows of frames whose first coefficients are given."""

    def __init__(self, levels: Any, frontend: FrontendConfig, hop: int, silence: int) -> None:
        self.frames = np.zeros((len(levels), frontend.n_features), np.int8)
        self.frames[:, 0] = levels
        self.n_frames, self.hop, self.silence = frontend.n_frames, hop, silence

    def take(self, start: int, stop: int) -> Any:
        first = start * self.hop
        return self.frames[None, first : first + self.n_frames]

    def first_frame(self, window: int) -> int:
        return window * self.hop - self.silence


def test_it_decides_and_locates_as_numpy(tmp_path: Path) -> None:
    """The decision alone, on made-up posteriors with ties and made-up levels with words of all lengths and pauses."""
    frontend = FrontendConfig(
        kind="mfcc", frame_length=400, hop_length=160, n_fft=512, n_mels=12, fmin=60.0, fmax=7000.0, n_mfcc=5
    )
    detection = DetectionConfig(4, 9, 5, (600, 700, 650), (300, 700, 1))
    model = random_model(frontend, detection, rows=3, seed=1)
    detector = WholeWindows(model)
    listen = detector.listen()
    assert listen is not None
    export(model.graph, frontend, LABELS, tmp_path / "m", name="m", listener=(listen, []))
    (tmp_path / "m" / "harness.c").write_text(HARNESS)
    sources = [path for path in (tmp_path / "m" / "src").glob("*.c") if path.name != "m_nn_listen.c"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        ["gcc", "-std=c99", "-O1", *sanitizers, "-Isrc", *map(str, sources), "harness.c", "-o", "harness"],
        check=True,
        cwd=tmp_path / "m",
    )
    n_events = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n_windows = 400
        n_levels = frontend.n_frames + (n_windows - 1) * 4
        runs = rng.choice([0, 0, 3, 40, 90], 2000).repeat(rng.integers(1, 30, 2000))[:n_levels]
        levels = runs - 60 + rng.integers(0, 1 + seed % 7, n_levels)
        posteriors = rng.choice(np.array([0, 20, 60, 100, 255], np.uint8), (n_windows // 8, 4)).repeat(8, axis=0)
        windows = Levels(levels, frontend, 4, listen.silence)
        expected = [detector.heard(firing, windows) for firing in Decider(detection).push(posteriors)]
        n_events += len(expected)
        given = b""
        for window, row in enumerate(posteriors):
            first = 0 if window == 0 else frontend.n_frames + (window - 1) * 4
            given += (row.astype(np.int16) - 128).astype(np.int8).tobytes()
            given += levels[first : frontend.n_frames + window * 4].astype("<i2").tobytes()
        done = subprocess.run([tmp_path / "m" / "harness"], input=given, check=True, capture_output=True)
        found = [Heard(*map(int, line.split())) for line in done.stdout.decode().splitlines()]
        assert found == expected, seed
    assert n_events > 500
