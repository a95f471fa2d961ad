# SPDX-License-Identifier: Apache-2.0
"""Concatenation: inputs side by side along one axis, each brought to the output's (S, Z)."""

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
class Concatenation(OpAttributes):
    """The graph's rounding rule in one requantization an input, M = Sx / Sy, exact where the (S, Z) are equal.

    `axis` counts without the batch axis.
    """

    kind = "concatenation"
    n_activations = None

    axis: int
    requants_in: tuple[Requant, ...]

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        first = inputs[0].shape
        if not 0 <= self.axis < len(first):
            raise ModelError(f"axis {self.axis} is not an axis of shape {first}")
        for tensor in inputs:
            if tensor.shape[: self.axis] + tensor.shape[self.axis + 1 :] != first[: self.axis] + first[self.axis + 1 :]:
                raise ModelError(f"shapes {first} and {tensor.shape} differ outside axis {self.axis}")
            if len(tensor.shape) != len(first):
                raise ModelError(f"shapes {first} and {tensor.shape} have different ranks")
        return (*first[: self.axis], sum(t.shape[self.axis] for t in inputs), *first[self.axis + 1 :])

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        if len(self.requants_in) != len(inputs):
            raise ModelError(f"requants_in has {len(self.requants_in)} entries for {len(inputs)} inputs")
        for index, (tensor, requant) in enumerate(zip(inputs, self.requants_in, strict=True)):
            field = f"requants_in[{index}]"
            check_requant(field, requant, output.zero_point, (-128, 127))
            if tensor.scale is not None and output.scale is not None:
                check_multipliers(field, requant, concatenation_multipliers(tensor.params.scale, output.params.scale))

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return max(
            max(127 - t.zero_point, t.zero_point + 128) << max(int(r.shift[0]), 0)
            for t, r in zip(inputs, self.requants_in, strict=True)
        )

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        moved = [
            requant.apply(array.astype(np.int32) - np.int32(tensor.zero_point))
            for array, tensor, requant in zip(arrays, inputs, self.requants_in, strict=True)
        ]
        return np.concatenate(moved, axis=self.axis + 1)


def concatenation_multipliers(input_scale: float, output_scale: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multiplier and shift of M = Sx / Sy."""
    return quantize_multiplier(input_scale / output_scale)
