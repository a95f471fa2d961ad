# SPDX-License-Identifier: Apache-2.0
"""Reshape: the same values in the same order under another shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.ops.base import OpAttributes, same_params
from deploy.tensor import IntArray, Shape, Tensor
from kws.errors import ModelError


@dataclass(frozen=True)
class Reshape(OpAttributes):
    """No rounding: `shape` has as many elements as the input, without the batch axis."""

    kind = "reshape"

    shape: tuple[int, ...]

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        if math.prod(self.shape) != inputs[0].size:
            raise ModelError(f"shape {self.shape} does not hold the {inputs[0].size} elements of {inputs[0].shape}")
        return self.shape

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        same_params(inputs, output)

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        return arrays[0].reshape(-1, *self.shape)
