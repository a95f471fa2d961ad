# SPDX-License-Identifier: Apache-2.0
"""Features into a network's input domain (S, Z), or out of another's; clips to the network's length."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kws.arithmetic.quant import QuantParams, quantize
from kws.arithmetic.requantize import requantize


def quantize_features(features: ArrayLike, params: QuantParams) -> NDArray[Any]:
    """Round half even, saturate: float features of any shape -> integers of the same shape in `params`' type.

    `params` are those of the graph's input tensor, which the trained input quantizer set. Raises QuantError on NaN.
    """
    return quantize(features, params, where="features")


def move_features(q: NDArray[Any], source: QuantParams, target: QuantParams) -> NDArray[Any]:
    """Features quantized for one model, in another's (S, Z): `requantize` in integers, as between layers (`single`)."""
    return requantize(q, source, target)


def clip_samples(samples: NDArray[Any], n_samples: int) -> NDArray[Any]:
    """`samples` (n,) as exactly `n_samples`: zeros appended to a short clip, the middle of a long one."""
    if len(samples) < n_samples:
        return np.pad(samples, (0, n_samples - len(samples)))
    start = (len(samples) - n_samples) // 2
    return samples[start : start + n_samples]
