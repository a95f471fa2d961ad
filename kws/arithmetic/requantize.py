# SPDX-License-Identifier: Apache-2.0
"""From one (S, Z) to another by an integer multiply and a shift, five rounding rules (A9 to A13 of README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kws.arithmetic.fixedpoint import (
    ROUNDING_RULES,
    round_half_away_shift,
    round_half_even_shift,
    round_half_up_shift,
    saturate,
)
from kws.arithmetic.quant import IntArray, QuantParams, dequantize, quantize
from kws.errors import QuantError

MIN_SHIFT, MAX_SHIFT = -31, 30


def quantize_multiplier(
    real_multiplier: ArrayLike, *, where: object = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Half away to 31 bits: M = multiplier * 2^(shift - 31), multiplier in [2^30, 2^31), shift in [-31, 30] (A9).

    `real_multiplier` is float64, one value a channel; returns two int32 arrays, (C,) or (1,). A multiplier that rounds
    up to 2^31 is halved and its shift raised. M below 2^-32, as dead channels have, becomes (0, 0). QuantError, with
    the channel, for M that is not a finite number of at least 0 or that needs a shift above 30.
    """
    real = np.atleast_1d(np.asarray(real_multiplier, dtype=np.float64))
    fraction, exponent = np.frexp(real)
    bad = ~(np.isfinite(real) & (real >= 0))
    scaled = np.floor(np.where(bad, 0.5, fraction) * 2.0**31 + 0.5).astype(np.int64)  # exact: 22 bits below the point
    carry = scaled == 1 << 31
    multiplier = np.where(carry, 1 << 30, scaled)
    shift = exponent.astype(np.int64) + carry
    bad |= shift > MAX_SHIFT
    if bad.any():
        channel = int(np.argmax(bad))
        raise QuantError(
            f"multiplier {real[channel]} of channel {channel} is not in [0, 2^{MAX_SHIFT}) at 31 bits",
            where=where,
            hint="the input scale is far too large for the output scale",
        )
    dead = (multiplier == 0) | (shift < MIN_SHIFT)
    return np.where(dead, 0, multiplier).astype(np.int32), np.where(dead, 0, shift).astype(np.int32)


def multiply_by_quantized_multiplier(
    x: IntArray, multiplier: NDArray[np.int32], shift: NDArray[np.int32], rounding: str
) -> NDArray[np.int64]:
    """`rounding` says the tie rule: round(x * multiplier * 2^(shift - 31)), int64, before any zero point (A10).

    `x` holds int32 values, channels last; `multiplier` and `shift` are (C,) or (1,). `tflm` and `double_up` round
    twice: a Q0.31 multiply half up, then a right shift. Where shift > 0 they shift left first and round once, which is
    `single`; runtimes do that in int32, so `Graph.check()` bounds x * 2^shift. QuantError for an unknown rule.
    """
    wide = x.astype(np.int64)
    factor = multiplier.astype(np.int64)
    right_shift = 31 - shift.astype(np.int64)  # 1..62; |x * factor| < 2^62, and adding 2^61 keeps it under 2^63
    if rounding == "single":
        product = wide * factor
        product += np.int64(1) << (right_shift - 1)
        product >>= right_shift
        return product
    if rounding == "half_even":
        return round_half_even_shift(wide * factor, right_shift)
    if rounding == "half_away":
        return round_half_away_shift(wide * factor, right_shift)
    if rounding not in ("tflm", "double_up"):
        raise QuantError(f"unknown rounding rule {rounding!r}", hint="one of " + ", ".join(ROUNDING_RULES))
    first_shift = np.minimum(right_shift, 31)
    high = round_half_up_shift(wide * factor, first_shift)
    second = round_half_away_shift if rounding == "tflm" else round_half_up_shift
    return second(high, right_shift - first_shift)


@dataclass(frozen=True, eq=False)
class Requant:
    """What an op does to its int32 accumulator: multiply, shift, add Z, clamp (A10, A11).

    `multiplier` and `shift` are int32 arrays of one shape, (1,) or (C,); `rounding` is one of ROUNDING_RULES; the clamp
    [activation_min, activation_max] follows the zero point. QuantError for values that `quantize_multiplier` never
    gives.
    """

    multiplier: NDArray[np.int32]
    shift: NDArray[np.int32]
    zero_point: int
    activation_min: int
    activation_max: int
    rounding: str

    def __post_init__(self) -> None:
        m, s = self.multiplier, self.shift
        if m.dtype != np.int32 or s.dtype != np.int32 or m.ndim != 1 or m.shape != s.shape or m.size == 0:
            raise QuantError(f"multiplier {m.dtype}{m.shape}, shift {s.dtype}{s.shape}: not int32 of one shape (C,)")
        valid = ((m >= 1 << 30) & (s >= MIN_SHIFT) & (s <= MAX_SHIFT)) | ((m == 0) & (s == 0))
        if not valid.all():
            channel = int(np.argmin(valid))
            raise QuantError(
                f"multiplier {m[channel]}, shift {s[channel]} of channel {channel} is not normalized",
                hint="multiplier in [2^30, 2^31) and shift in [-31, 30], or both 0",
            )
        if self.activation_min > self.activation_max:
            raise QuantError(f"activation_min {self.activation_min} is above activation_max {self.activation_max}")
        if self.rounding not in ROUNDING_RULES:
            raise QuantError(f"unknown rounding rule {self.rounding!r}", hint="one of " + ", ".join(ROUNDING_RULES))

    def apply(self, acc: IntArray, dtype: type[np.integer[Any]] = np.int8) -> IntArray:
        """`self.rounding` says the tie rule: int32 accumulators, channels last, to the output domain in `dtype`."""
        scaled = multiply_by_quantized_multiplier(acc, self.multiplier, self.shift, self.rounding)
        scaled += self.zero_point
        return saturate(scaled, self.activation_min, self.activation_max).astype(dtype)


def requantize(q: IntArray, source: QuantParams, target: QuantParams, *, rounding: str = "single") -> IntArray:
    """`rounding` says the tie rule: integers of `source` to integers of `target`, saturated, by integers alone (A10).

    q of any shape, returns the same shape in `target.dtype`. M = S1 / S2 is made an integer multiplier once; no float
    touches a value. QuantError when M is too large, and for q that are no integers or lie outside `source`.
    """
    if q.dtype.kind not in "iu":
        raise QuantError(f"values of dtype {q.dtype} are not integers")
    if q.size and not source.qmin <= int(q.min()) <= int(q.max()) <= source.qmax:
        raise QuantError(f"values in [{q.min()}, {q.max()}] are not all in [{source.qmin}, {source.qmax}]")
    multiplier, shift = quantize_multiplier(source.scale / target.scale)
    requant = Requant(multiplier, shift, target.zero_point, target.qmin, target.qmax, rounding)
    centred = q.astype(np.int64) - source.zero_point  # |q - Z| < 2^31, or Z = 0
    return requant.apply(centred, target.dtype.type).reshape(q.shape)


def requantize_float(q: IntArray, source: QuantParams, target: QuantParams) -> IntArray:
    """Half even on the float32 sum: through float32, quantize(dequantize(q)), to compare `requantize` with (A12)."""
    return quantize(dequantize(q, source), target)
