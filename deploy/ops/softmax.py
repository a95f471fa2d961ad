# SPDX-License-Identifier: Apache-2.0
"""Softmax in integers: logits in int8, probabilities in int8 with S = 1/256 and Z = -128.

Bit for bit the int8 softmax of TensorFlow Lite Micro: the exponential and the reciprocal are those of gemmlowp's
fixedpoint.h, in the Q formats that the names carry. One definition under every rounding rule of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.ops.base import INT32_MAX, OpAttributes
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.fixedpoint import Int64Array, doubling_high_multiply, round_half_away_shift
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import quantize_multiplier
from kws.errors import ModelError

PROBABILITY = QuantParams(1 / 256, -128)
MAX_CLASSES = 511  # so that the sum of exponentials, each at most 2^19 in Q12.19, stays below 2^28

_INTEGER_BITS = 5
_EXP_MINUS_EIGHTH_Q31 = 1895147668
_ONE_THIRD_Q31 = 715827883
# exp(-2^k) for k = -2..4, applied where that bit of the remainder is set
_EXP_MINUS_POWERS_Q31 = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_48_OVER_17_Q29 = 1515870810
_MINUS_32_OVER_17_Q29 = -1010580540


@dataclass(frozen=True)
class Softmax(OpAttributes):
    """Over the last axis. beta * S = `multiplier` * 2^(`left_shift` - 31) in Q5.26, multiplier in [2^30, 2^31)."""

    kind = "softmax"

    multiplier: int
    left_shift: int

    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        if inputs[0].shape[-1] > MAX_CLASSES:
            raise ModelError(f"softmax over {inputs[0].shape[-1]} values, more than {MAX_CLASSES}")
        return inputs[0].shape

    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        if not (1 << 30 <= self.multiplier < 1 << 31 and 0 <= self.left_shift <= 31):
            raise ModelError(f"multiplier {self.multiplier} or left_shift {self.left_shift} is outside its range")
        check_probability(output)

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        return INT32_MAX  # Q0.31 values fill the int32; each step saturates or is bounded by its format

    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        return integer_softmax(arrays[0], self.multiplier, self.left_shift)


def check_probability(output: Tensor) -> None:
    """ModelError unless S = 1/256 and Z = -128."""
    if output.zero_point != PROBABILITY.zero_point or output.scale not in (None, PROBABILITY.scale):
        raise ModelError(f"output '{output.name}' does not have scale 1/256 and zero_point -128")


def softmax_multiplier(scale: float, beta: float = 1.0) -> tuple[int, int]:
    """Multiplier and left shift of beta * S in Q5.26 for logits of scale S; ModelError when beta * S is below 2^-26."""
    real = min(beta * scale * 2.0**26, 2.0**31 - 1)
    if not real > 1:
        raise ModelError(f"beta {beta} times scale {scale} is too small for a softmax, below 2^-26")
    multiplier, shift = quantize_multiplier(real / 2)  # halved: the shift may be 31, one more than a requantization has
    return int(multiplier[0]), int(shift[0]) + 1


def integer_softmax(logits: IntArray, multiplier: int, left_shift: int) -> IntArray:
    """Probabilities int8, P = (q + 128) / 256, of int8 `logits` over the last axis (at most 511 values).

    Logits too far below the largest to count (31 or more once scaled) give -128. `softmax_multiplier` makes
    `multiplier` and `left_shift` from a scale.
    """
    difference = logits.astype(np.int64)
    difference = difference - difference.max(axis=-1, keepdims=True)
    counts = difference >= -((31 << (31 - _INTEGER_BITS)) >> left_shift)
    scaled_q26 = doubling_high_multiply(np.where(counts, difference, 0) << left_shift, multiplier)
    exp_q31 = np.where(counts, exp_of_negative_q31(scaled_q26, _INTEGER_BITS), 0)
    sum_q19 = round_half_away_shift(exp_q31, 12).sum(axis=-1, keepdims=True)
    headroom = 32 - _bit_length(sum_q19)  # leading zeros of the uint32: 4..12
    reciprocal_q31 = reciprocal_of_one_plus_q31((sum_q19 << headroom) - (1 << 31))
    probability = round_half_away_shift(doubling_high_multiply(exp_q31, reciprocal_q31), 35 - headroom)
    return np.clip(probability - 128, -128, 127).astype(np.int8)


def exp_of_negative_q31(x: Int64Array, integer_bits: int) -> Int64Array:
    """exp(x) in Q0.31 for x with i = `integer_bits` of at most 5 in Qi.(31 - i), -2^i < x <= 0; exp(0) is 2^31 - 1."""
    quarter_bit = 29 - integer_bits
    fraction = (x & ((1 << quarter_bit) - 1)) - (1 << quarter_bit)  # in [-1/4, 0)
    result_q31 = _exp_of_last_quarter_q31(fraction << integer_bits)
    remainder = fraction - x  # a multiple of 1/4
    for bit, factor_q31 in enumerate(_EXP_MINUS_POWERS_Q31, start=quarter_bit):
        scaled_q31 = doubling_high_multiply(result_q31, factor_q31)
        result_q31 = np.where((remainder >> bit) & 1 == 1, scaled_q31, result_q31)
    return np.where(x == 0, (1 << 31) - 1, result_q31)


def _exp_of_last_quarter_q31(x_q31: Int64Array) -> Int64Array:
    """exp(x) for x in [-1/4, 0): the Taylor polynomial of degree 4 around -1/8."""
    t_q31 = x_q31 + (1 << 28)
    t2_q31 = doubling_high_multiply(t_q31, t_q31)
    t3_q31 = doubling_high_multiply(t2_q31, t_q31)
    t4_over_4_q31 = round_half_away_shift(doubling_high_multiply(t2_q31, t2_q31), 2)
    tail_q31 = round_half_away_shift(doubling_high_multiply(t4_over_4_q31 + t3_q31, _ONE_THIRD_Q31) + t2_q31, 1)
    result_q31: Int64Array = _EXP_MINUS_EIGHTH_Q31 + doubling_high_multiply(t_q31 + tail_q31, _EXP_MINUS_EIGHTH_Q31)
    return result_q31


def reciprocal_of_one_plus_q31(x_q31: Int64Array) -> Int64Array:
    """1 / (1 + x) in Q0.31 for x in Q0.31, 0 <= x < 1: three Newton-Raphson steps from 48/17 - 32/17 (1 + x) / 2."""
    half_denominator_q31 = (x_q31 + (1 << 31)) >> 1
    inverse_q29 = _48_OVER_17_Q29 + doubling_high_multiply(half_denominator_q31, _MINUS_32_OVER_17_Q29)
    for _ in range(3):
        error_q29 = (1 << 29) - doubling_high_multiply(half_denominator_q31, inverse_q29)
        inverse_q29 = inverse_q29 + _saturating_left_shift(doubling_high_multiply(inverse_q29, error_q29), 2)
    return _saturating_left_shift(inverse_q29, 1)


def _saturating_left_shift(x: Int64Array, left_shift: int) -> Int64Array:
    """No rounding: x * 2^left_shift, saturated to int32."""
    saturated: Int64Array = np.clip(x << left_shift, -(1 << 31), (1 << 31) - 1)
    return saturated


def _bit_length(x: Int64Array) -> Int64Array:
    """Bits of 0 <= x < 2^31."""
    length: Int64Array = x * 0
    for bit in range(31):
        length = length + ((x >> bit) > 0)
    return length
