# SPDX-License-Identifier: Apache-2.0
"""Slice: a block of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.ops.base import OpAttributes, same_params
from deploy.tensor import IntArray, Shape, Tensor
from kws.errors import ModelError


@dataclass(frozen=True)
class Slice(OpAttributes):
    """No rounding: `size` elements from `begin` along each axis."""

    kind = "slice"

    begin: tuple[int, ...]
    size: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        shape = inputs[0].shape
        if len(self.begin) != len(shape) or len(self.size) != len(shape):
            raise ModelError(f"begin {self.begin} and size {self.size} do not fit an input of shape {shape}")
        if not all(b >= 0 and s >= 1 and b + s <= d for b, s, d in zip(self.begin, self.size, shape, strict=True)):
            raise ModelError(f"begin {self.begin} and size {self.size} are not inside shape {shape}")
        return self.size

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        same_params(inputs, output)

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        block = tuple(slice(b, b + s) for b, s in zip(self.begin, self.size, strict=True))
        return arrays[0][(slice(None), *block)]
