# SPDX-License-Identifier: Apache-2.0
"""Integer rounding primitives, int64 in and out, no float anywhere (rules A7 and A8 of README.md).

Shifts are integers or integer arrays in [0, 62] that broadcast against `x`. Nothing here overflows: a shift rounds by
adding at most 1 to its floor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
IntLike = int | NDArray[np.integer[Any]]

ROUNDING_RULES = ("single", "tflm", "double_up", "half_even", "half_away")


def floor_shift(x: Int64Array, right_shift: IntLike) -> Int64Array:
    """Floor: x / 2^right_shift, towards minus infinity (A7)."""
    return x >> right_shift


def round_half_up_shift(x: Int64Array, right_shift: IntLike) -> Int64Array:
    """Half up: x / 2^right_shift to the nearest integer, ties towards plus infinity (1.5 -> 2, -1.5 -> -1) (A7)."""
    return _round_shift(x, right_shift, 0)


def round_half_away_shift(x: Int64Array, right_shift: IntLike) -> Int64Array:
    """Half away: x / 2^right_shift to the nearest integer, ties away from zero (1.5 -> 2, -1.5 -> -2) (A7)."""
    return _round_shift(x, right_shift, x < 0)


def round_half_even_shift(x: Int64Array, right_shift: IntLike) -> Int64Array:
    """Half even: x / 2^right_shift to the nearest integer, ties to even (1.5 -> 2, 2.5 -> 2, -1.5 -> -2) (A7)."""
    return _round_shift(x, right_shift, ((x >> right_shift) & 1) == 0)


def _round_shift(x: Int64Array, right_shift: IntLike, tie_down: int | NDArray[np.bool_]) -> Int64Array:
    """Nearest; a tie goes to the floor where `tie_down` is set, else to the floor plus 1.

    The remainder is compared with half of 2^right_shift, a tie being remainder == half. With right_shift 0 the
    remainder is 0 and nothing is added.
    """
    mask = (np.int64(1) << right_shift) - 1
    result: Int64Array = (x >> right_shift) + ((x & mask) > (mask >> 1) + tie_down)
    return result


def doubling_high_multiply(x: Int64Array, multiplier_q31: IntLike) -> Int64Array:
    """Half up: x * multiplier / 2^31 for an int32 `x` and a Q0.31 `multiplier_q31` (A8).

    Both are int32 of either sign. |x * multiplier| <= 2^62, so the int64 sum below stays under 2^63. The name is
    gemmlowp's: the high half of twice the product. Where both are -2^31 the result is 2^31, which int32 does not hold.
    """
    result: Int64Array = (x * multiplier_q31 + (1 << 30)) >> 31
    return result


def saturate(x: NDArray[np.integer[Any]], qmin: int, qmax: int) -> NDArray[np.integer[Any]]:
    """No rounding: x clamped to [qmin, qmax], in the type of `x`."""
    clamped: NDArray[np.integer[Any]] = np.clip(x, qmin, qmax)
    return clamped
