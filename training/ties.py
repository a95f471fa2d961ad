# SPDX-License-Identifier: Apache-2.0
"""Weight scales whose accumulators stay away from ties.

An op's result is M n before it is rounded, n the int32 accumulator with its bias, M = S_in S_w / S_out. An engine that
takes the product in float32 (PyTorch, XNNPACK, ONNX Runtime, fake quantization) cannot see on which side of a tie M n
lies when it lies within a few 2^-24 of one, relative to its terms. Which n do is decided by the last bits of M: of the
accumulators that give results inside int8 a few in a hundred thousand, but when one of them is frequent, as sums of few
nonzero inputs are, all its values differ between engines. The last bits of S_w mean nothing to the network, so they can
be chosen.

Measured on a DS-CNN-S with 40 bands, over 57.6 million values of its layers: PyTorch's kernels differ from `half_even`
in 112 values without the choice and in 5 with it (then made for accumulators up to 2^16).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 32  # for each channel that shares the scale,
CANDIDATES_MAX = 512  # a change of the scale by at most 2^-14
N_MAX = 1 << 19  # results of int8 when M is at least 2^-11; the few larger sums are rare
REACH = 3 * 2.0**-24  # roundings of the bias, of M and of the product
_FRACTION_BITS = 44  # of M n <= 256, in int64
_N = np.arange(1, N_MAX + 1, dtype=np.int64)


def tie_free_scale(scale: float, ratio: float, biases: NDArray[np.int64]) -> float:
    """The float32 value among `scale` and the next ones above it with the fewest and rarest accumulators near a tie.

    `ratio` is S_in / S_out, `biases` the int32 biases of the channels that have this scale. An accumulator counts the
    less the further it is from the biases, where most lie.
    """
    count = min(CANDIDATES * len(biases), CANDIDATES_MAX)
    candidates = (np.float32(scale).view(np.int32) + np.arange(count, dtype=np.int32)).view(np.float32)
    n = _N[: int(min(256 / (scale * ratio), N_MAX))]
    reach = ((n + np.abs(biases).max()) * (REACH * scale * ratio * 2.0**_FRACTION_BITS)).astype(np.int64)
    best, lowest = float(candidates[0]), np.inf
    for candidate in map(float, candidates):
        near = n[_tie_distance(n, candidate * ratio) < reach]
        away = np.abs(near[:, None] - biases)
        cost = float((1 / (1 + away * (scale * ratio))).sum())
        if cost < lowest:
            best, lowest = candidate, cost
        if cost == 0:
            break
    return best


def _tie_distance(n: NDArray[np.int64], multiplier: float) -> NDArray[np.int64]:
    """|M n - nearest tie| in units of 2^-_FRACTION_BITS."""
    one = 1 << _FRACTION_BITS
    fraction = (n * round(multiplier * one)) & (one - 1)
    distance: NDArray[np.int64] = np.abs(fraction - one // 2)
    return distance
