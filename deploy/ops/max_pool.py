# SPDX-License-Identifier: Apache-2.0
"""Max pool: the largest value under a window, in the (S, Z) of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.pool import Pool
from deploy.ops.window import pad_hw, tap
from deploy.tensor import IntArray, Tensor


@dataclass(frozen=True)
class MaxPool(Pool):
    """No rounding: moves values, then clamps."""

    kind = "max_pool"

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        x = pad_hw(arrays[0], self.padding, -128)  # never larger than a value inside
        largest = tap(x, 0, 0, output.shape[:2], self.stride)
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                largest = np.maximum(largest, tap(x, row, column, output.shape[:2], self.stride))
        return np.clip(largest, self.activation_min, self.activation_max)
