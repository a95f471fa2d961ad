# SPDX-License-Identifier: Apache-2.0
"""Average pool: the mean under a window, in the (S, Z) of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.pool import Pool
from deploy.ops.window import pad_hw, tap
from deploy.tensor import IntArray, Tensor


@dataclass(frozen=True)
class AveragePool(Pool):
    """Half away on the raw sum: sum(q) / n, under every rounding rule; n counts the positions that are not padding."""

    kind = "average_pool"

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        count = self.kernel[0] * self.kernel[1]
        return count * 128 + count // 2  # the sum, then half the divisor added to it

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        x = pad_hw(arrays[0].astype(np.int32), self.padding, 0)
        inside = pad_hw(np.ones_like(arrays[0], shape=(1, *inputs[0].shape[:2], 1), dtype=np.int32), self.padding, 0)
        acc = np.zeros_like(x, shape=(x.shape[0], *output.shape))
        count = np.zeros_like(x, shape=(1, *output.shape[:2], 1))
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                acc += tap(x, row, column, output.shape[:2], self.stride)
                count += tap(inside, row, column, output.shape[:2], self.stride)
        return np.clip(divide_half_away(acc, count), self.activation_min, self.activation_max).astype(np.int8)


def divide_half_away(acc: IntArray, count: IntArray | int) -> IntArray:
    """Half away: acc / count to the nearest integer, ties away from zero; count > 0."""
    magnitude: IntArray = np.floor_divide(np.abs(acc) + count // 2, count)
    return np.where(acc < 0, -magnitude, magnitude)
