# SPDX-License-Identifier: Apache-2.0
"""The fixed-point front-end: its functions against exact ones, features against float ones, its C bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features import fixed_frontend, fixed_math, frontend, native_frontend
from features.audio import read_audio
from features.config import PRESETS, FrontendConfig
from features.fixed_frontend import OUTPUT, features_q16, fixed_tables
from features.fixed_math import LOG2_ERROR_Q16, bit_length, log2_q16, real_fft, square_root
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.quant import QuantParams, choose_params
from kws.arithmetic.requantize import requantize
from kws.errors import ModelError, UsageError
from tests.integer_only import FloatUsedError, IntegerOnly

DATA = Path(__file__).parents[2] / "data"
FIXED = {name: replace(config, arithmetic="fixed") for name, config in PRESETS.items()}
FULL_SCALE = 1 << 30


@pytest.fixture(scope="module")
def speech():
    """int16 (120, 16000): clips of every word."""
    names = (DATA / "validation_list.txt").read_text().split()[:120]
    return np.stack([clip_samples(read_audio(DATA / name, dtype="int16"), 16_000) for name in names])


def signals(n=24_000):
    """What breaks fixed point: int16 (10, n)."""
    rng, i = np.random.default_rng(5), np.arange(n)
    return np.stack([
        np.zeros(n), np.full(n, 32767), np.full(n, -32768), np.where(i // 37 % 2, 32767, -32768),
        np.where(i % 2, 32767, -32768), np.where(i % 5000 == 77, -32768, 0), rng.integers(-32768, 32768, n),
        rng.integers(-1, 2, n), np.clip(rng.normal(0, 60_000, n), -32768, 32767), 32767 * np.sin(0.31 * i),
    ]).astype(np.int16)  # fmt: skip


@pytest.mark.parametrize("n_fft", [64, 128, 512, 1024, 8192])
@pytest.mark.parametrize("amplitude", [FULL_SCALE, 1 << 20, 1 << 15])
def test_the_spectrum_is_that_of_a_float_fft_within_its_noise(n_fft, amplitude):
    x = np.random.default_rng(n_fft).integers(-amplitude, amplitude + 1, (16, n_fft))
    real, imag = real_fft(x)
    expected = np.fft.rfft(x.astype(np.float64)) / n_fft
    error = np.concatenate([real - expected.real, imag - expected.imag], axis=1)
    assert error.std() < 1.0
    assert np.abs(error).max() < 6.0
    assert abs(error.mean()) < 0.1


@pytest.mark.parametrize("n_fft", [64, 128, 256, 512])
def test_no_stage_of_the_spectrum_leaves_int32(monkeypatch, n_fft):
    """Every product and every sum of a stage ends in a rounding shift or a high product of the next, which look."""
    largest = 0

    def looking(function):
        def inner(x, n):
            nonlocal largest
            largest = max(largest, int(np.abs(x).max()))
            return function(x, n)

        return inner

    monkeypatch.setattr(fixed_math, "round_shift", looking(fixed_math.round_shift))
    monkeypatch.setattr(fixed_math, "multiply_high", looking(fixed_math.multiply_high))
    rng = np.random.default_rng(n_fft)
    i = np.arange(n_fft)
    phases = [np.cos(2 * np.pi * i * k / n_fft + p) for k in range(0, n_fft // 2, 7) for p in (0.0, 0.8, 1.6)]
    worst = np.sign(np.stack([*phases, rng.normal(size=n_fft)]) + 1e-9).astype(np.int64) * FULL_SCALE
    real, imag = fixed_math.real_fft(worst)
    assert largest <= 2**30.5 + 8
    assert max(np.abs(real).max(), np.abs(imag).max()) <= FULL_SCALE + 8


def test_log2_keeps_its_error_bound():
    rng = np.random.default_rng(1)
    powers = 1 << np.arange(62)
    v = np.concatenate([np.arange(1, 1 << 17), powers, powers + 1, rng.integers(1, 1 << 62, 100_000)])
    error = log2_q16(v) - np.log2(v.astype(np.longdouble)) * 65536
    assert float(np.abs(error).max()) <= LOG2_ERROR_Q16
    assert (log2_q16(powers) == np.arange(62) << 16).all()


def test_square_root_keeps_its_error_bound():
    x = np.concatenate([np.arange(1 << 16), 1 << np.arange(62), np.random.default_rng(2).integers(0, 1 << 62, 100_000)])
    x = np.append(x, (1 << 62) - 1)
    exact = np.sqrt(x.astype(np.longdouble))
    small = x < 1 << 30
    assert float(np.abs(square_root(x) - exact)[small].max()) <= 0.5
    assert float(np.abs(square_root(x)[~small] / exact[~small] - 1).max()) <= 2.0**-16


def test_bit_length_is_pythons():
    values = [0, 1, 2, 3, 255, 256, (1 << 32) - 1, 1 << 32, (1 << 62) - 1, 1 << 62]
    assert bit_length(np.array(values)).tolist() == [value.bit_length() for value in values]


@pytest.mark.parametrize(("name", "mean", "usual"), [
    ("mfb40", 2e-4, 6e-3), ("mfb40-10ms", 2e-4, 6e-3), ("mfcc10", 2e-3, 5e-2), ("mlperf-tiny", 1e-3, 3e-2),
])  # fmt: skip
def test_features_are_the_float_ones_on_speech(speech, name, mean, usual):
    """In nats for log-mel: 2e-4 are 0.0009 dB in the mean. The largest errors, a fourteenth of a nat at most, are those
    of frames that hold nothing but a few samples at an end, where a window in Q15 is coarse."""
    error = np.abs(features_q16(speech, FIXED[name]) / 65536 - features(speech, PRESETS[name]))
    assert error.mean() <= mean
    assert np.quantile(error, 0.999) <= usual
    assert error.max() <= 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_int8_features_are_the_float_ones(speech, name):
    """At an S that clips about 0.5 % of the values."""
    exact = features(speech, PRESETS[name])
    params = choose_params(*map(float, np.quantile(exact, (0.0025, 0.9975))))
    difference = np.abs(
        frontend.input_features(speech, FIXED[name], params).astype(int) - quantize_features(exact, params)
    )
    assert difference.mean() <= 0.005
    assert difference.max() <= 1


def test_quiet_sound_keeps_its_resolution():
    """A sine of 4 units of int16, -78 dBFS, in rounding noise: as the float front-end sees the same samples."""
    config = replace(FIXED["mfb40"], log_floor=1e-10)
    sine = np.rint(4 * np.sin(0.37 * np.arange(16_000)) + np.random.default_rng(3).uniform(-1, 1, 16_000))
    error = np.abs(features_q16(sine.astype(np.int16), config) / 65536 - features(sine.astype(np.int16), config))
    assert error.mean() < 1e-3


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("level", native_frontend.levels())
def test_c_equals_numpy(speech, name, level):
    for clips in (speech[:20], signals()):
        expected = features_q16(clips, FIXED[name])
        np.testing.assert_array_equal(native_frontend.run(clips, FIXED[name], level=level), expected)
        for params in (QuantParams(0.0625, 3), QuantParams(0.109375, -30)):
            np.testing.assert_array_equal(
                native_frontend.run(clips, FIXED[name], params, level=level), requantize(expected, OUTPUT, params)
            )


def test_the_extension_was_built():
    """Where it must be: this host has a compiler, and a silent fall back would let the tests above test nothing."""
    assert native_frontend.levels()[0] == "portable"


@st.composite
def configs(draw: st.DrawFn) -> FrontendConfig:
    n_fft = draw(st.sampled_from([64, 128, 256, 512, 1024, 2048]))
    frame_length = draw(st.integers(max(16, n_fft // 4), n_fft))
    return FrontendConfig(
        kind="mfb", frame_length=frame_length, hop_length=draw(st.integers(2, frame_length)), n_fft=n_fft,
        n_mels=draw(st.integers(1, max(1, n_fft // 16))), fmin=draw(st.floats(0, 900)),
        fmax=draw(st.floats(2500, 8000)), power=draw(st.sampled_from([1.0, 2.0])),
        mel_scale=draw(st.sampled_from(["htk", "slaney"])),
        mel_triangles=draw(st.sampled_from(["hz", "mel"])), log_floor=10.0 ** draw(st.floats(-12, 0)),
        log_offset=draw(st.floats(-30, 30)), normalize=draw(st.sampled_from(["none", "peak"])),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(configs(), st.integers(0, 2**32), st.integers(0, 15), st.integers(0, 3))
def test_c_equals_numpy_for_any_front_end(config, seed, attenuation, n_mfcc):
    try:
        fixed_tables(config)
    except ModelError:  # a band without a bin
        return
    if n_mfcc:
        config = replace(config, kind="mfcc", n_mfcc=min(n_mfcc, config.n_mels))
    clips = np.random.default_rng(seed).integers(-32768, 32768, (2, 3 * config.n_fft)).astype(np.int16) >> attenuation
    expected = features_q16(clips, config)
    for level in native_frontend.levels():
        np.testing.assert_array_equal(native_frontend.run(clips, config, level=level), expected)


def test_no_float_touches_a_value(monkeypatch):
    """The samples and every table as arrays that refuse floats; a planted float makes it fail."""
    frames = np.random.default_rng(4).integers(-3000, 3000, (3, 640)).view(IntegerOnly)
    for name in ("mfcc10", "mlperf-tiny"):
        config = replace(FIXED[name], frame_length=640, n_fft=1024)
        tables = fixed_tables(config)
        arrays = {key: value.view(IntegerOnly) for key, value in vars(tables).items() if isinstance(value, np.ndarray)}
        expected = fixed_frontend.frames_q16(frames.view(np.ndarray), 20_000, config)
        guarded = replace(tables, **arrays)
        planted = replace(guarded, log_offset_q16=0.5)
        monkeypatch.setattr(fixed_frontend, "fixed_tables", {config: guarded}.get)
        np.testing.assert_array_equal(fixed_frontend.frames_q16(frames, 20_000, config).view(np.ndarray), expected)
        monkeypatch.setattr(fixed_frontend, "fixed_tables", {config: planted}.get)
        with pytest.raises(FloatUsedError):
            fixed_frontend.frames_q16(frames, 20_000, config)
        monkeypatch.undo()


def test_floats_are_rounded_to_int16():
    clips = signals(4000)
    as_floats = clips / np.float32(32768)
    np.testing.assert_array_equal(features_q16(as_floats, FIXED["mfb40"]), features_q16(clips, FIXED["mfb40"]))
    loud = np.full(4000, 7.0)
    np.testing.assert_array_equal(
        features_q16(loud, FIXED["mfb40"]), features_q16(np.full(4000, 32767, np.int16), FIXED["mfb40"])
    )


def test_features_for_training_are_the_integers_times_their_scale(speech):
    expected = features_q16(speech[:3], FIXED["mfb40"])
    np.testing.assert_array_equal(frontend.features(speech[:3], FIXED["mfb40"]), expected / np.float64(65536))
    np.testing.assert_array_equal(
        frontend.features(speech[0], replace(FIXED["mfb40"], arithmetic="float")), features(speech[0], PRESETS["mfb40"])
    )


def test_without_the_extension_numpy_computes_the_same(speech, monkeypatch):
    params = QuantParams(0.0625, 3)
    expected = frontend.input_features(speech[:3], FIXED["mfb40"], params)
    monkeypatch.setattr(native_frontend, "_load", lambda: None)
    np.testing.assert_array_equal(frontend.input_features(speech[:3], FIXED["mfb40"], params), expected)
    with pytest.raises(UsageError, match="was not built"):
        native_frontend.run(speech[:1], FIXED["mfb40"])


def test_an_instruction_set_that_the_host_lacks_is_refused(speech):
    with pytest.raises(UsageError, match="this host has no 'z80'"):
        native_frontend.run(speech[:1], FIXED["mfb40"], level="z80")


def test_too_few_samples_give_no_frames():
    for n in (0, 1, 479):
        assert frontend.input_features(np.zeros(n, np.int16), FIXED["mfb40"], QuantParams(0.5, 0)).shape == (0, 40)
