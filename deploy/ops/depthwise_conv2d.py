# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution: every output channel sees one input channel under a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.affine import affine_bound, check_affine
from deploy.ops.base import OpAttributes, Padding, Pair
from deploy.ops.window import pad_hw, tap, window_shape
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant
from kws.errors import ModelError


@dataclass(frozen=True)
class DepthwiseConv2d(OpAttributes):
    """Input (H, W, I), weight 1HWC with C = I * m, bias (C,) -> (H', W', C); channel c reads input channel c // m."""

    kind = "depthwise_conv2d"
    constants = ("weight", "bias")

    stride: Pair
    padding: Padding
    requant: Requant

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        x, weight, _ = inputs
        if len(weight.shape) != 4 or weight.shape[0] != 1:
            raise ModelError(f"weight of shape {weight.shape} is not 1HWC")
        height, width = window_shape(x.shape, weight.shape[1:3], self.stride, self.padding)
        if weight.shape[3] % x.shape[2] != 0:
            raise ModelError(f"weight of shape {weight.shape} does not fit {x.shape[2]} input channels")
        return height, width, weight.shape[3]

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        check_affine(inputs, output, self.requant, 3)

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return affine_bound(inputs, self.requant, 3)

    def macs(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return output.size * inputs[1].shape[1] * inputs[1].shape[2]

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        x, weight, bias = arrays
        _, kernel_h, kernel_w, channels = weight.shape
        centred = pad_hw(x.astype(np.int32) - np.int32(inputs[0].zero_point), self.padding, 0)
        centred_weight = weight.astype(np.int32) - np.int32(inputs[1].zero_point)
        acc = np.zeros_like(centred, shape=(x.shape[0], *output.shape)) + bias
        for row in range(kernel_h):
            for column in range(kernel_w):
                seen = tap(centred, row, column, output.shape[:2], self.stride)
                if channels != x.shape[3]:  # here, and not at once: `seen` is no larger than the output
                    seen = np.repeat(seen, channels // x.shape[3], axis=3)
                acc += seen * centred_weight[0, row, column]
        return self.requant.apply(acc)
