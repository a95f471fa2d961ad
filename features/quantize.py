# SPDX-License-Identifier: Apache-2.0
"""Features into a network's input domain (S, Z), or out of another's; clips to the network's length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features.config import FrontendConfig
from features.float_frontend import features as compute
from features.float_frontend import to_float64
from kws.arithmetic.quant import QuantParams, quantize
from kws.arithmetic.requantize import requantize

_FRAMES_AT_ONCE = 2048  # features and their quantization in float64: some 20 MB


def quantize_features(features: ArrayLike, params: QuantParams) -> NDArray[Any]:
    """Round half even, saturate: float features of any shape -> integers of the same shape in `params`' type.

    `params` are those of the graph's input tensor, which the trained input quantizer set. Raises QuantError on NaN.
    """
    return quantize(features, params, where="features")


def recording_features(
    samples: NDArray[Any], config: FrontendConfig, params: QuantParams, *, before: int = 0, after: int = 0
) -> NDArray[Any]:
    """`quantize_features` of the `features` of a recording (n,), stretch by stretch: integers (n_frames, n_features).

    `before` and `after` zeros are taken to stand around the samples. A frame depends on its own samples alone, once a
    "peak" has been divided out, so the integers are those of the whole; hours of sound never lie there in floats.
    """
    peak = float(to_float64(samples.max(keepdims=True))[0]) if config.normalize == "peak" and len(samples) else 0.0
    if peak > 0.0:
        config = replace(config, normalize="none")
    n_frames = config.frames_in(before + len(samples) + after)
    out = np.empty((n_frames, config.n_features), params.dtype)
    for start in range(0, n_frames, _FRAMES_AT_ONCE):
        count = min(_FRAMES_AT_ONCE, n_frames - start)
        first = start * config.hop_length - before
        last = first + (count - 1) * config.hop_length + config.frame_length
        part = samples[max(0, first) : max(0, last)]
        missing = min(max(0, -first), last - first)
        part = np.pad(part, (missing, last - first - missing - len(part)))
        out[start : start + count] = quantize_features(
            compute(to_float64(part) / peak if peak > 0.0 else part, config), params
        )
    return out


def move_features(q: NDArray[Any], source: QuantParams, target: QuantParams) -> NDArray[Any]:
    """Features quantized for one model, in another's (S, Z): `requantize` in integers, as between layers (`single`)."""
    return requantize(q, source, target)


def clip_samples(samples: NDArray[Any], n_samples: int) -> NDArray[Any]:
    """`samples` (n,) as exactly `n_samples`: zeros appended to a short clip, the middle of a long one."""
    if len(samples) < n_samples:
        return np.pad(samples, (0, n_samples - len(samples)))
    start = (len(samples) - n_samples) // 2
    return samples[start : start + n_samples]
