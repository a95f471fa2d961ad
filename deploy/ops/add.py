# SPDX-License-Identifier: Apache-2.0
"""Add: two tensors of one shape, each with its own (S, Z)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.ops.base import INT32_MAX, OpAttributes, check_multipliers, check_requant
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant, quantize_multiplier
from kws.errors import ModelError

LEFT_SHIFT = 20  # |q - Z| <= 255, so (q - Z) << 20 < 2^28


@dataclass(frozen=True)
class Add(OpAttributes):
    """The graph's rounding rule in three requantizations, as TensorFlow Lite does it.

    Each (q - Z) << 20 is scaled by S / (2 max(Sa, Sb)) <= 1/2 to a common scale, the sum by 2 max(Sa, Sb) / (2^20 Sy).
    """

    kind = "add"
    n_activations = 2

    requant_a: Requant
    requant_b: Requant
    requant: Requant

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        if inputs[0].shape != inputs[1].shape:
            raise ModelError(f"shapes {inputs[0].shape} and {inputs[1].shape} differ")
        return inputs[0].shape

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        check_requant("requant_a", self.requant_a, 0, (-INT32_MAX, INT32_MAX))
        check_requant("requant_b", self.requant_b, 0, (-INT32_MAX, INT32_MAX))
        check_requant("requant", self.requant, output.zero_point, (-128, 127))
        if all(tensor.scale is not None for tensor in (*inputs, output)):
            expected = add_multipliers(inputs[0].params.scale, inputs[1].params.scale, output.params.scale)
            for name, pair in zip(("requant_a", "requant_b", "requant"), expected, strict=True):
                check_multipliers(name, getattr(self, name), pair)

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        total, largest = 0, 0
        for tensor, requant in zip(inputs, (self.requant_a, self.requant_b), strict=True):
            magnitude = max(127 - tensor.zero_point, tensor.zero_point + 128)
            shifted = magnitude << (LEFT_SHIFT + max(int(requant.shift[0]), 0))
            largest = max(largest, shifted)
            # M < 2^shift, and a rounding adds less than 1
            total += (shifted >> max(-int(requant.shift[0]), 0)) + 1
        return max(largest, total << max(int(self.requant.shift[0]), 0))

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        a, b = (
            requant.apply((array.astype(np.int32) - np.int32(tensor.zero_point)) << LEFT_SHIFT, np.int32)
            for array, tensor, requant in zip(arrays, inputs, (self.requant_a, self.requant_b), strict=True)
        )
        return self.requant.apply(a + b)


def add_multipliers(
    scale_a: float, scale_b: float, output_scale: float
) -> tuple[tuple[NDArray[np.int32], NDArray[np.int32]], ...]:
    """(multiplier, shift) for the two inputs and for the sum, from float32 scales in float64."""
    common = 2 * max(scale_a, scale_b)
    reals = (scale_a / common, scale_b / common, common / ((1 << LEFT_SHIFT) * output_scale))
    return tuple(quantize_multiplier(real) for real in reals)
