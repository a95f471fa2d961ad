# SPDX-License-Identifier: Apache-2.0
"""The picture of `kws features`."""

import builtins

import matplotlib.image
import numpy as np
import pytest

from features.config import PRESETS
from features.plot import plot_features
from kws.arithmetic.quant import QuantParams
from kws.errors import MissingExtraError, UsageError

TONE = (np.sin(np.arange(20_000) * 0.1) * 8_000).astype(np.int16)


@pytest.mark.parametrize(("preset", "params"), [("mfb40", None), ("mfcc10", QuantParams(0.25, 10))])
def test_a_picture_is_written(tmp_path, preset, params):
    plot_features(TONE, PRESETS[preset], tmp_path / "out.png", params=params, title="tone")
    picture = matplotlib.image.imread(tmp_path / "out.png")
    assert picture.shape == (750, 1000, 4)
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) > 20


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
