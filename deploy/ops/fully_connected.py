# SPDX-License-Identifier: Apache-2.0
"""Fully connected: every output sees every input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.affine import affine_bound, check_affine
from deploy.ops.base import OpAttributes
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant
from kws.errors import ModelError


@dataclass(frozen=True)
class FullyConnected(OpAttributes):
    """Input (I,), weight OI, bias (O,) -> (O,). A reshape before it flattens."""

    kind = "fully_connected"
    constants = ("weight", "bias")

    requant: Requant

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        x, weight, _ = inputs
        if len(weight.shape) != 2 or x.shape != weight.shape[1:]:
            raise ModelError(f"weight of shape {weight.shape} does not fit an input of shape {x.shape}")
        return (weight.shape[0],)

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        check_affine(inputs, output, self.requant, 0, product_in_float32=True)

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return affine_bound(inputs, self.requant, 0)

    def macs(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return inputs[1].size

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        x, weight, bias = arrays
        centred = x.astype(np.int32) - np.int32(inputs[0].zero_point)
        matrix = weight.T.astype(np.int32, order="C") - np.int32(inputs[1].zero_point)
        acc = np.einsum("ij,jk->ik", centred, matrix)
        acc += bias
        return self.requant.apply(acc)
