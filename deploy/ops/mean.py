# SPDX-License-Identifier: Apache-2.0
"""Mean over H and W, into any (S, Z)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.ops.base import OpAttributes, check_multipliers, check_requant
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant, multiply_by_quantized_multiplier, quantize_multiplier
from kws.errors import ModelError


@dataclass(frozen=True)
class Mean(OpAttributes):
    """The graph's rounding rule in one requantization of the centred sum by M / n: (H, W, C) -> (C,), or (1, 1, C).

    `requant` holds M = Sx / Sy; the division by n = H W goes into the multiplier, as TensorFlow Lite Micro does it.
    """

    kind = "mean"

    keep_dims: bool
    requant: Requant

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        shape = inputs[0].shape
        if len(shape) != 3:
            raise ModelError(f"input of shape {shape} is not (H, W, C)")
        return (1, 1, shape[2]) if self.keep_dims else shape[2:]

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        check_requant("requant", self.requant, output.zero_point, (-128, 127))
        if inputs[0].scale is not None and output.scale is not None:
            check_multipliers("requant", self.requant, mean_multiplier(inputs[0].params.scale, output.params.scale))

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        count = _count(inputs[0])
        zero_point = inputs[0].zero_point
        raw_and_folded = count * (128 + abs(zero_point))  # a raw sum whose -n Z is folded into a bias
        return raw_and_folded << max(int(divided_multiplier(self.requant, count)[1][0]), 0)

    def macs(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return inputs[0].size

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        count = _count(inputs[0])
        acc = arrays[0].sum(axis=(1, 2), dtype=np.int32) - np.int32(count * inputs[0].zero_point)
        requant = self.requant
        mean = multiply_by_quantized_multiplier(acc, *divided_multiplier(requant, count), requant.rounding)
        mean += requant.zero_point
        clipped = np.clip(mean, requant.activation_min, requant.activation_max).astype(np.int8)
        return clipped.reshape(-1, *output.shape)


def mean_multiplier(input_scale: float, output_scale: float) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multiplier and shift of M = Sx / Sy, before the division by n."""
    return quantize_multiplier(input_scale / output_scale)


def divided_multiplier(requant: Requant, count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Floor: multiplier and shift of M / count, as TensorFlow Lite Micro makes them.

    The multiplier is moved left by k = floor(log2(count)) bits before the division, so it stays in (2^29, 2^31), and
    the shift falls by k, to -31 at least.
    """
    shift = int(requant.shift[0])
    k = min(count.bit_length() - 1, 31 + shift)
    multiplier = (int(requant.multiplier[0]) << k) // count
    return np.array([multiplier], np.int32), np.array([shift - k], np.int32)


def _count(tensor: Tensor) -> int:
    return tensor.shape[0] * tensor.shape[1]
