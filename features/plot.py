# SPDX-License-Identifier: Apache-2.0
"""A picture of what the network sees: waveform, float features, quantized features, on one time axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.config import FrontendConfig
from features.float_frontend import to_float64
from features.frontend import features, input_features
from kws.arithmetic.quant import QuantParams, choose_params
from kws.errors import MissingExtraError, UsageError

_PIXELS = 1000  # across the picture


def plot_features(
    samples: NDArray[Any],
    config: FrontendConfig,
    out: str | Path,
    *,
    params: QuantParams | None = None,
    title: str = "",
) -> None:
    """Writes the picture of `samples` (n,) to the PNG file `out`.

    `params` are a model's input (S, Z); without them the features' own range gives an int8 domain, as the title says.
    Raises UsageError when the samples do not fill one frame, MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("pictures need matplotlib", hint="pip install 'integer-kws[plot]'") from None
    values = features(samples, config)
    if len(values) == 0:
        raise UsageError(f"{len(samples)} samples are fewer than one frame of {config.frame_length}")
    domain = "the model's input"
    if params is None:
        params, domain = choose_params(float(values.min()), float(values.max())), "from this file's range"
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    wave, real, quantized = figure.subplots(3, 1, sharex=True)
    if title:
        figure.suptitle(title)
    draw_waveform(wave, samples, config.sample_rate, _PIXELS)
    wave.set(title="waveform", ylabel="full scale = 1", xlim=(0, len(samples) / config.sample_rate))
    kind = "log-mel bands, natural log" if config.kind == "mfb" else "MFCC"
    _image(real, values, config, f"{kind}: {values.shape[0]} frames of {values.shape[1]}")
    _image(
        quantized, input_features(samples, config, params), config,
        f"quantized: S = {params.scale:.6g}, Z = {params.zero_point} ({domain})",
    )  # fmt: skip
    quantized.set_xlabel("seconds")
    figure.savefig(out, dpi=100, format="png")


def draw_waveform(axes: Any, samples: NDArray[Any], sample_rate: int, pixels: int, **style: Any) -> None:
    """The samples as a line; of many, lowest and highest of each of 2 * `pixels` stretches, which looks the same."""
    n = len(samples)
    if n <= 4 * pixels:
        axes.plot(np.arange(n) / sample_rate, to_float64(samples), linewidth=0.5, **style)
        return
    starts = _starts(n, 2 * pixels)
    ends = np.stack([np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)], axis=1)
    axes.plot(np.repeat(starts / sample_rate, 2), to_float64(ends.ravel()), linewidth=0.5, **style)


def at_most(values: NDArray[Any], n: int) -> NDArray[Any]:
    """`values` (frames, bands); of more than `n` frames, the largest of each of `n` stretches."""
    return values if len(values) <= n else np.maximum.reduceat(values, _starts(len(values), n))


def _starts(n: int, parts: int) -> NDArray[np.int64]:
    """Where `parts` stretches of `n` values begin, of lengths that differ by at most one."""
    return np.arange(parts, dtype=np.int64) * n // parts


def _image(axes: Any, values: NDArray[Any], config: FrontendConfig, title: str) -> None:
    """One image; column i is drawn where frame i begins, one hop wide."""
    seconds = len(values) * config.hop_length / config.sample_rate
    image = axes.imshow(
        at_most(values, 2 * _PIXELS).T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, seconds, -0.5, values.shape[1] - 0.5),
    )
    axes.set(title=title, ylabel="mel band" if config.kind == "mfb" else "coefficient")
    axes.figure.colorbar(image, ax=axes, pad=0.01)
