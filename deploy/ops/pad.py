# SPDX-License-Identifier: Apache-2.0
"""Pad: a border of one value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.base import OpAttributes, Pair, same_params
from deploy.tensor import MAX_DIMENSION, IntArray, Shape, Tensor
from kws.errors import ModelError


@dataclass(frozen=True)
class Pad(OpAttributes):
    """No rounding: (before, after) a border along each axis, filled with Z, the real number 0."""

    kind = "pad"

    paddings: tuple[Pair, ...]

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        shape = inputs[0].shape
        if len(self.paddings) != len(shape):
            raise ModelError(f"paddings {self.paddings} do not fit an input of shape {shape}")
        if not all(0 <= end <= MAX_DIMENSION for pair in self.paddings for end in pair):
            raise ModelError(f"paddings {self.paddings} are outside [0, {MAX_DIMENSION}]")
        return tuple(size + before + after for size, (before, after) in zip(shape, self.paddings, strict=True))

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        same_params(inputs, output)

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        return np.pad(arrays[0], ((0, 0), *self.paddings), constant_values=output.zero_point)
