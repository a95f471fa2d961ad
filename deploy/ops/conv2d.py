# SPDX-License-Identifier: Apache-2.0
"""Convolution: every output channel sees every input channel under a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.affine import affine_bound, check_affine
from deploy.ops.base import OpAttributes, Padding, Pair
from deploy.ops.window import pad_hw, window_shape, windows
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant
from kws.errors import ModelError


@dataclass(frozen=True)
class Conv2d(OpAttributes):
    """Input (H, W, I), weight OHWI, bias (O,) -> (H', W', O). `padding`: ((top, bottom), (left, right)) of Z."""

    kind = "conv2d"
    constants = ("weight", "bias")

    stride: Pair
    padding: Padding
    requant: Requant

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        x, weight, _ = inputs
        if len(weight.shape) != 4:
            raise ModelError(f"weight of shape {weight.shape} is not OHWI")
        height, width = window_shape(x.shape, weight.shape[1:3], self.stride, self.padding)
        if weight.shape[3] != x.shape[2]:
            raise ModelError(f"weight of shape {weight.shape} does not fit {x.shape[2]} input channels")
        return height, width, weight.shape[0]

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        check_affine(inputs, output, self.requant, 0)

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return affine_bound(inputs, self.requant, 0)

    def macs(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return output.size * (inputs[1].size // inputs[1].shape[0])

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        x, weight, bias = arrays
        channels, kernel_h, kernel_w, _ = weight.shape
        centred = x.astype(np.int32) - np.int32(inputs[0].zero_point)
        if (kernel_h, kernel_w) == (1, 1):
            rows: IntArray = centred[:, :: self.stride[0], :: self.stride[1]]
        else:
            padded = pad_hw(centred, self.padding, 0)  # q = Z is the real number 0
            rows = windows(padded, (kernel_h, kernel_w), self.stride).transpose(0, 1, 2, 4, 5, 3)
        matrix = weight.reshape(channels, -1).T.astype(np.int32, order="C") - np.int32(inputs[1].zero_point)
        # NumPy's integer `@` is five times slower than einsum, "ij,kj->ik" slower too for short rows.
        acc = np.einsum("ij,jk->ik", rows.reshape(-1, matrix.shape[0]), matrix)
        acc += bias
        return self.requant.apply(acc).reshape(-1, *output.shape)
