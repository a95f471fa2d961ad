# SPDX-License-Identifier: Apache-2.0
"""Mul: the product of two tensors of one shape, or of (H, W, C) and a factor a channel, each with its own (S, Z)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.ops.base import OpAttributes, check_multipliers, check_requant
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant, quantize_multiplier
from kws.errors import ModelError


@dataclass(frozen=True)
class Mul(OpAttributes):
    """The graph's rounding rule in one requantization of (a - Za)(b - Zb), M = Sa Sb / Sy.

    The factors of squeeze and excite are of shape (1, 1, C).
    """

    kind = "mul"
    n_activations = 2

    requant: Requant

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        shapes = [tensor.shape for tensor in inputs]
        for shape, other in (shapes, shapes[::-1]):
            if other == shape or (len(shape) == 3 and other == (1, 1, shape[2])):
                return shape
        raise ModelError(f"shapes {shapes[0]} and {shapes[1]} are neither equal nor (H, W, C) and (1, 1, C)")

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        check_requant("requant", self.requant, output.zero_point, (-128, 127))
        if all(tensor.scale is not None for tensor in (*inputs, output)):
            expected = mul_multiplier(inputs[0].params.scale, inputs[1].params.scale, output.params.scale)
            check_multipliers("requant", self.requant, expected)

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        a, b = (max(127 - tensor.zero_point, tensor.zero_point + 128) for tensor in inputs)
        return a * b << max(int(self.requant.shift[0]), 0)

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        a, b = (
            array.astype(np.int32) - np.int32(tensor.zero_point) for array, tensor in zip(arrays, inputs, strict=True)
        )
        return self.requant.apply(a * b)


def mul_multiplier(scale_a: float, scale_b: float, output_scale: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multiplier and shift of M = Sa Sb / Sy, from float32 scales in float64."""
    return quantize_multiplier(scale_a * scale_b / output_scale)
