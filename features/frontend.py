# SPDX-License-Identifier: Apache-2.0
"""The front-end that a `FrontendConfig` asks for: fixed-point, in C where that was built, or float."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features import fixed_frontend, float_frontend, native_frontend
from features.config import FrontendConfig
from features.fixed_frontend import OUTPUT
from features.float_frontend import to_float64, to_int16
from features.quantize import quantize_features
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import requantize

_FRAMES_AT_ONCE = 2048  # in float64 some 20 MB


def features(samples: ArrayLike, config: FrontendConfig) -> NDArray[np.float32]:
    """What a network is trained on: (n,) -> (n_frames, n_features), (B, n) -> (B, n_frames, n_features), float32.

    `samples` are int16, or floats in [-1, 1), which the fixed-point front-end rounds to int16. Its features are
    multiples of 2^-16. Raises AudioError on NaN or infinite samples, UsageError on another dtype or shape.
    """
    if config.arithmetic == "float":
        return float_frontend.features(samples, config)
    return np.ldexp(_fixed(samples, config, None).astype(np.float32), -16)


def input_features(samples: ArrayLike, config: FrontendConfig, params: QuantParams) -> NDArray[Any]:
    """What a network runs on: samples as in `features` -> integers of the same shape, in the (S, Z) of its input.

    The fixed-point features are requantized, in integers; float ones are quantized. Errors as in `features`.
    """
    if config.arithmetic == "float":
        return quantize_features(float_frontend.features(samples, config), params)
    return _fixed(samples, config, params)


def recording_features(
    samples: NDArray[Any], config: FrontendConfig, params: QuantParams, *, before: int = 0, after: int = 0
) -> NDArray[Any]:
    """`input_features` of a recording (n,), stretch by stretch: integers (n_frames, n_features).

    `before` and `after` zeros are taken to stand around the samples. A frame depends on its own samples alone, once a
    "peak" is known, so the integers are those of the whole; hours of sound never lie there in floats.
    """
    peak: float | int = 0
    if config.arithmetic == "fixed":
        samples = to_int16(samples)
        peak = int(fixed_frontend.peaks_of(samples[None], config)[0])
    elif config.normalize == "peak" and len(samples):
        peak = float(to_float64(samples.max(keepdims=True))[0])
        config = replace(config, normalize="none") if peak > 0.0 else config
    n_frames = config.frames_in(before + len(samples) + after)
    out = np.empty((n_frames, config.n_features), params.dtype)
    for start in range(0, n_frames, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, n_frames - start)
        first = start * config.hop_length - before
        last = first + (count - 1) * config.hop_length + config.frame_length
        part = samples[max(0, first) : max(0, last)]
        missing = min(max(0, -first), last - first)
        part = np.pad(part, (missing, last - first - missing - len(part)))
        if config.arithmetic == "fixed":
            out[start : start + count] = _fixed(part, config, params, peak=int(peak))
        else:
            part = to_float64(part) / peak if peak > 0.0 else part
            out[start : start + count] = quantize_features(float_frontend.features(part, config), params)
    return out


def _fixed(
    samples: ArrayLike, config: FrontendConfig, params: QuantParams | None, *, peak: int | None = None
) -> NDArray[Any]:
    """Q16, or the integers of `params`."""
    clips = to_int16(samples)
    batch = np.atleast_2d(clips)
    int8 = params is not None and params.bits == 8 and params.signed
    if native_frontend.available():
        out = native_frontend.run(batch, config, params if int8 else None, peak=peak)
    else:
        out = fixed_frontend.features_q16(batch, config, peak=peak)
    if params is not None and out.dtype == np.int32:
        out = requantize(out, OUTPUT, params)
    return out if clips.ndim == 2 else out[0]
