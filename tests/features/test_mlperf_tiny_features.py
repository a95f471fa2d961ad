# SPDX-License-Identifier: Apache-2.0
"""The `mlperf-tiny` preset against TensorFlow: 50 clips, as the reference of the benchmark prepares them."""

from pathlib import Path

import numpy as np
import pytest

from features.audio import read_audio
from features.config import PRESETS
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.quant import QuantParams

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = PRESETS["mlperf-tiny"]
PARAMS = QuantParams(float(np.float32(0.584702909)), 83)
TOLERANCE = 5e-4
MOST_NEAR_TIES = 3


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "mlperf_tiny_features.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def clips(golden):
    """The 50 clips at their own lengths, int16."""
    samples = read_audio(GOLDEN / "mlperf_tiny_features_clips.flac", dtype="int16")
    parts = np.split(samples, np.cumsum(golden["lengths"])[:-1])
    assert [len(part) for part in parts] == golden["lengths"].tolist()
    return parts


def test_features_equal_tensorflows(golden, clips):
    ours = np.stack([features(clip_samples(clip, CONFIG.clip_samples), CONFIG) for clip in clips])
    assert ours.shape == golden["features"].shape == (50, 49, 10)
    assert np.abs(ours - golden["features"]).max() < TOLERANCE


def test_int8_inputs_equal_but_for_near_ties(golden, clips):
    ours = np.stack([features(clip_samples(clip, CONFIG.clip_samples), CONFIG) for clip in clips])
    differ = quantize_features(ours, PARAMS) != golden["quantized"]
    steps = golden["features"].astype(np.float64) / PARAMS.scale
    to_tie = np.abs(steps - np.floor(steps) - 0.5)
    listed = [(str(golden["names"][i]), t, c, to_tie[i, t, c]) for i, t, c in np.argwhere(differ)]
    print("int8 inputs that differ (clip, frame, coefficient, steps from the tie):", listed)
    assert to_tie[differ].max(initial=0.0) < TOLERANCE / PARAMS.scale
    assert len(listed) <= MOST_NEAR_TIES
