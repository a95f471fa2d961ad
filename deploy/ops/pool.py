# SPDX-License-Identifier: Apache-2.0
"""What the pools share: fields, shape rule and parameter rule. Both keep (S, Z); padding is never counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.ops.base import OpAttributes, Padding, Pair, check_activation, same_params
from deploy.ops.window import window_shape
from deploy.tensor import Shape, Tensor


@dataclass(frozen=True)
class Pool(OpAttributes):
    """Input (H, W, C) -> (H', W', C), each channel alone, under a `kernel` of (height, width)."""

    kernel: Pair
    stride: Pair
    padding: Padding
    activation_min: int
    activation_max: int

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        return *window_shape(inputs[0].shape, self.kernel, self.stride, self.padding), inputs[0].shape[2]

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        same_params(inputs, output)
        check_activation(self.activation_min, self.activation_max)

    def macs(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        """Values looked at."""
        return output.size * self.kernel[0] * self.kernel[1]
