# SPDX-License-Identifier: Apache-2.0
"""The picture of `kws features`."""

import builtins

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from features.config import PRESETS
from features.plot import at_most, draw_waveform, plot_features
from kws.arithmetic.quant import QuantParams
from kws.errors import MissingExtraError, UsageError

TONE = (np.sin(np.arange(20_000) * 0.1) * 8_000).astype(np.int16)


@pytest.mark.parametrize(("preset", "params"), [("mfb40", None), ("mfcc10", QuantParams(0.25, 10))])
def test_a_picture_is_written(tmp_path, preset, params):
    plot_features(TONE, PRESETS[preset], tmp_path / "out.png", params=params, title="tone")
    picture = matplotlib.image.imread(tmp_path / "out.png")
    assert picture.shape == (750, 1000, 4)
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 20


def test_a_long_recording_is_drawn_from_what_the_pixels_show():
    axes = Figure().subplots()
    samples = np.zeros(1_000_001, np.int16)
    samples[[123_456, 777_777]] = 32767, -32768
    draw_waveform(axes, samples, 16_000, 1000)
    (line,) = axes.lines
    seconds, values = line.get_data()
    assert len(values) == 4000
    assert (values.max(), values.min()) == (32767 / 32768, -1.0)
    assert seconds[values.argmax()] == pytest.approx(123_456 / 16_000, abs=0.04)
    assert seconds[values.argmin()] == pytest.approx(777_777 / 16_000, abs=0.04)
    frames = np.arange(30.0).reshape(10, 3)
    assert at_most(frames, 10) is frames
    assert at_most(frames, 4).tolist() == frames[[1, 4, 6, 9]].tolist()


def test_less_than_a_frame_is_refused(tmp_path):
    with pytest.raises(UsageError, match="100 samples are fewer than one frame of 480"):
        plot_features(TONE[:100], PRESETS["mfb40"], tmp_path / "out.png")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    real_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"integer-kws\[plot\]"):
        plot_features(TONE, PRESETS["mfb40"], tmp_path / "out.png")
