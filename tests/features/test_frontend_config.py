# SPDX-License-Identifier: Apache-2.0
"""Front-end settings: the presets are what the documents say, and a wrong field is refused by name."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.config import PRESETS, FrontendConfig, get_preset
from kws.errors import ModelError, UsageError


@pytest.mark.parametrize(
    ("name", "shape", "milliseconds"),
    [("mfb40", (49, 40, 1), (30, 20)), ("mfcc10", (49, 10, 1), (40, 20)), ("mlperf-tiny", (49, 10, 1), (30, 20))],
)
def test_presets_have_the_documented_shapes(name, shape, milliseconds):
    config = get_preset(name)
    assert config.input_shape == shape
    assert (config.frame_length / 16, config.hop_length / 16) == milliseconds


def test_an_unknown_preset_lists_the_choices():
    with pytest.raises(UsageError, match=r"no preset 'mfb'.*mfb40, mfb40-10ms, mfcc10, mlperf-tiny"):
        get_preset("mfb")


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_a_config_survives_json(config):
    assert FrontendConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "plp"), ("kind", ["mfb"]), ("sample_rate", 0), ("sample_rate", 16000.0), ("sample_rate", True),
        ("clip_samples", 100), ("clip_samples", 1 << 40), ("frame_length", 513), ("frame_length", 0),
        ("hop_length", 0), ("hop_length", 481), ("n_fft", 500), ("n_fft", 1 << 30), ("power", 3.0), ("power", "2"),
        ("n_mels", 0), ("n_mels", 10_000), ("fmin", -1.0), ("fmin", 7600.0), ("fmin", math.nan), ("fmax", 8001.0),
        ("fmax", math.inf), ("fmax", None), ("mel_scale", "bark"), ("mel_triangles", ""), ("log_floor", 0.0),
        ("n_mfcc", 5), ("n_mfcc", -1), ("dct_norm", None), ("normalize", "rms"), ("normalize", {}),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_name(field, value):
    values = PRESETS["mfb40"].to_dict() | {field: value}
    named = "fmax" if (field, value) == ("fmin", 7600.0) else field
    with pytest.raises(ModelError, match=rf"^frontend\.{named}: "):
        FrontendConfig.from_dict(values)


def test_a_clip_of_too_many_features_is_refused():
    with pytest.raises(ModelError, match=r"^frontend\.hop_length: is 1: 2816400 features a clip, over 1048576"):
        replace(PRESETS["mfb40"], hop_length=1, clip_samples=70_889)


def test_a_missing_an_unknown_and_no_field_at_all_are_refused():
    values = PRESETS["mfcc10"].to_dict()
    with pytest.raises(ModelError, match=r"frontend\.window: is unknown"):
        FrontendConfig.from_dict(values | {"window": "hann"})
    del values["hop_length"]
    with pytest.raises(ModelError, match=r"frontend\.hop_length: is missing"):
        FrontendConfig.from_dict(values)
    with pytest.raises(ModelError, match="frontend: is a list"):
        FrontendConfig.from_dict([])


@given(st.integers(0, 100_000))
def test_the_frame_count_is_the_number_of_frames_that_fit(n):
    config = PRESETS["mfb40"]
    starts = range(0, max(0, n - config.frame_length + 1), config.hop_length)
    assert config.frames_in(n) == len(starts)
