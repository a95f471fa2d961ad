# SPDX-License-Identifier: Apache-2.0
"""Features as a network's integers: rounded, saturated, moved between two models' domains, and clips of one length."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import frontend as frontend_module
from features.audio import read_audio
from features.config import PRESETS
from features.float_frontend import features
from features.frontend import input_features, recording_features
from features.quantize import clip_samples, move_features, quantize_features
from kws.arithmetic.quant import QuantParams, choose_params
from kws.errors import QuantError

DATA = Path(__file__).parents[2] / "data"


def test_features_round_to_the_nearest_and_never_truncate():
    params = QuantParams(0.5, 10)
    values = np.array([-0.26, -0.24, 0.24, 0.26, 0.49, 0.99, -0.99])
    assert quantize_features(values, params).tolist() == [9, 10, 10, 11, 11, 12, 8]


def test_ties_go_to_even():
    params = QuantParams(0.5, 0)
    assert quantize_features([-0.75, -0.25, 0.25, 0.75, 1.25], params).tolist() == [-2, 0, 0, 2, 2]


def test_features_saturate_and_never_wrap():
    params = QuantParams(0.5, 10)
    q = quantize_features([-1e30, -69.5, -69.0, 58.5, 59.0, 1e30], params)
    assert q.dtype == np.int8
    assert q.tolist() == [-128, -128, -128, 127, 127, 127]


def test_nan_is_refused():
    with pytest.raises(QuantError, match="features"):
        quantize_features([0.0, np.nan], QuantParams(0.5, 10))


scales = st.floats(2.0**-7, 2.0, width=32)
zero_points = st.integers(-128, 127)


@given(scales, zero_points, scales, zero_points)
def test_moving_rounds_the_exact_product_and_saturates(scale1, zero1, scale2, zero2):
    source, target = QuantParams(scale1, zero1), QuantParams(scale2, zero2)
    q = np.arange(-128, 128, dtype=np.int8)
    moved = move_features(q, source, target)
    assert moved.dtype == np.int8
    ratio = Fraction(scale1) / Fraction(scale2)
    for before, after in zip(q.tolist(), moved.tolist(), strict=True):
        exact = ratio * (before - zero1) + zero2
        # The 31-bit multiplier is off by 2**-31 of the product at most; away from ties that decides nothing.
        assert -128 <= after <= 127
        assert abs(min(max(exact, -128), 127) - after) <= Fraction(1, 2) + abs(exact - zero2) / 2**30


def test_features_of_one_model_are_moved_into_anothers_domain():
    names = (DATA / "validation_list.txt").read_text().split()[::10]
    clips = np.stack([clip_samples(read_audio(DATA / name, dtype="int16"), 16_000) for name in names])
    values = features(clips, PRESETS["mfb40"])
    source = choose_params(float(values.min()), float(values.max()))
    target = QuantParams(float(np.float32(0.125)), -20)
    moved = move_features(quantize_features(values, source), source, target)
    direct = quantize_features(values, target)
    # Half a step of the source, half of the target: less than two steps of the finer domain, and mostly none.
    assert np.abs(moved.astype(int) - direct.astype(int)).max() <= 1
    inside = (direct > -128) & (direct < 127)
    real = target.scale * (moved[inside].astype(float) - target.zero_point)
    assert np.abs(real - values[inside]).max() <= 0.5 * (source.scale + target.scale) * (1 + 1e-5)


def test_a_move_to_the_same_domain_changes_nothing():
    params = QuantParams(float(np.float32(0.0937)), 23)
    q = np.arange(-128, 128, dtype=np.int8).reshape(2, 128)
    assert np.array_equal(move_features(q, params, params), q)


def test_a_short_clip_ends_in_zeros_and_a_long_one_keeps_its_middle():
    samples = np.arange(1, 6, dtype=np.int16)
    assert clip_samples(samples, 8).tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    assert clip_samples(samples, 5).tolist() == [1, 2, 3, 4, 5]
    assert clip_samples(samples, 3).tolist() == [2, 3, 4]
    assert clip_samples(samples[:0], 2).tolist() == [0, 0]
    assert clip_samples(samples, 8).dtype == np.int16


@pytest.mark.parametrize("preset", ["mfb40", "mfb40-10ms", "mfcc10", "mlperf-tiny"])
@pytest.mark.parametrize("arithmetic", ["fixed", "float"])
@pytest.mark.parametrize("n", [0, 1, 500, 16_000, 100_001])
def test_a_recording_in_stretches_equals_the_whole(monkeypatch, preset, arithmetic, n):
    """Of 1, 7 or all frames, with silence around it of 0 or many samples, int16 and float."""
    config, params = replace(PRESETS[preset], arithmetic=arithmetic), QuantParams(0.0625, 3)
    samples = np.round(np.random.default_rng(n).normal(0, 2000, n)).astype(np.int16)
    for recording in (samples, samples / np.float32(32768)):
        for before, after in ((0, 0), (6400, 16_000)):
            whole = input_features(np.pad(recording, (before, after)), config, params)
            for at_once in (1, 7, 2048):
                monkeypatch.setattr(frontend_module, "_FRAMES_AT_ONCE", at_once)
                result = recording_features(recording, config, params, before=before, after=after)
                assert result.dtype == np.int8
                assert np.array_equal(result, whole)
