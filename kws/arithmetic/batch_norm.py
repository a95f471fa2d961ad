# SPDX-License-Identifier: Apache-2.0
"""Batch norm folded into the convolution before it, in float, before quantization (rule A16 of README.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws.errors import QuantError

FloatArray = NDArray[np.floating[Any]]


def fold_batch_norm(
    weight: FloatArray,
    bias: FloatArray | None,
    gamma: FloatArray,
    beta: FloatArray,
    mean: FloatArray,
    var: FloatArray,
    eps: float,
    *,
    channel_axis: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """weight * g and (bias - mean) * g + beta with g = gamma / sqrt(var + eps): conv then batch norm as one conv (A16).

    `channel_axis` of `weight` is the output channel; the other arrays are (C,), `bias` None means 0. Computed in
    float64 and returned in the type of `weight`. QuantError when lengths differ or var + eps is not positive.
    """
    channels = weight.shape[channel_axis]
    vectors = {"bias": bias, "gamma": gamma, "beta": beta, "mean": mean, "var": var}
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (channels,):
            raise QuantError(f"{name} of shape {vector.shape} does not fit {channels} output channels")
    spread = var.astype(np.float64) + eps
    if not (spread > 0).all():
        raise QuantError(f"var + eps of channel {int(np.argmin(spread > 0))} is not positive")
    factor = gamma.astype(np.float64) / np.sqrt(spread)
    shape = [1] * weight.ndim
    shape[channel_axis] = channels
    start = 0.0 if bias is None else bias.astype(np.float64)
    folded = (start - mean.astype(np.float64)) * factor + beta.astype(np.float64)
    return (weight.astype(np.float64) * factor.reshape(shape)).astype(weight.dtype), folded.astype(weight.dtype)
