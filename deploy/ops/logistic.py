# SPDX-License-Identifier: Apache-2.0
"""Logistic, 1 / (1 + exp(-x)), in integers: int8 in, int8 with S = 1/256 and Z = -128 out.

Bit for bit the int8 logistic of TensorFlow Lite Micro, which is that of gemmlowp's fixedpoint.h on Q4.27. Ties of the
last shift go away from zero. One definition under every rounding rule of the graph; in C it is a table of 256 values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.base import INT32_MAX, OpAttributes
from deploy.ops.softmax import check_probability, exp_of_negative_q31, reciprocal_of_one_plus_q31
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.fixedpoint import doubling_high_multiply, round_half_away_shift
from kws.errors import ModelError

INTEGER_BITS = 4
MAX_LEFT_SHIFT = 62


@dataclass(frozen=True)
class Logistic(OpAttributes):
    """Elementwise. S = `multiplier` * 2^(`left_shift` - 31) in Q4.27, multiplier in [2^30, 2^31)."""

    kind = "logistic"

    multiplier: int
    left_shift: int

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        return inputs[0].shape

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        if not (1 << 30 <= self.multiplier < 1 << 31 and 0 <= self.left_shift <= MAX_LEFT_SHIFT):
            raise ModelError(f"multiplier {self.multiplier} or left_shift {self.left_shift} is outside its range")
        check_probability(output)
        held = self.multiplier, self.left_shift
        if inputs[0].scale is not None and held != logistic_multiplier(inputs[0].params.scale):
            raise ModelError("multiplier and left_shift are not those of the scale")

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return INT32_MAX  # Q0.31 values fill the int32; each step saturates or is bounded by its format

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        return integer_logistic(arrays[0], inputs[0].zero_point, self.multiplier, self.left_shift)


def logistic_multiplier(scale: float) -> tuple[int, int]:
    """Multiplier and left shift of S in Q4.27, exact for a float32.

    ModelError for a scale outside [2^-28, 2^35): there TensorFlow Lite Micro shifts by a negative number or by more
    than 62 bits, which C leaves undefined.
    """
    fraction, left_shift = math.frexp(scale * 2.0 ** (31 - INTEGER_BITS))
    if not 0 <= left_shift <= MAX_LEFT_SHIFT:
        raise ModelError(f"scale {scale} of the input of a logistic is not in [2^-28, 2^35)")
    return int(fraction * 2.0**31), left_shift


def integer_logistic(q: IntArray, zero_point: int, multiplier: int, left_shift: int) -> IntArray:
    """256 times the logistic of int8 `q`, minus 128, saturated: at its ends from a radius on.

    The radius, which does not look at `multiplier`, is the floor of a real in (7.5 / S, 15 / S].
    """
    x = q.astype(np.int64) - zero_point
    radius = (15 << (31 - INTEGER_BITS)) >> left_shift
    low, high = x <= -radius, x >= radius  # both where the radius is 0, for x = 0
    x_q27 = doubling_high_multiply(np.where(low | high, 0, x) << left_shift, multiplier)
    positive_q31 = reciprocal_of_one_plus_q31(exp_of_negative_q31(-np.abs(x_q27), INTEGER_BITS))
    value_q31 = np.where(x_q27 > 0, positive_q31, INT32_MAX - positive_q31)
    value_q31 = np.where(x_q27 == 0, 1 << 30, value_q31)
    value_q8 = round_half_away_shift(value_q31, 23)
    value_q8 = np.where(low, 0, np.where(high, 255, value_q8))
    return np.clip(value_q8 - 128, -128, 127).astype(np.int8)
