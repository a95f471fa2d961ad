# SPDX-License-Identifier: Apache-2.0
"""The rounding primitives against exact rationals, ties on both sides of zero."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws.arithmetic.fixedpoint import (
    doubling_high_multiply,
    floor_shift,
    round_half_away_shift,
    round_half_even_shift,
    round_half_up_shift,
    saturate,
)

HALF = Fraction(1, 2)
PRIMITIVES = {
    floor_shift: math.floor,
    round_half_up_shift: lambda real: math.floor(real + HALF),
    round_half_away_shift: lambda real: math.floor(real + HALF) if real > 0 else math.ceil(real - HALF),
    round_half_even_shift: round,  # of a Fraction: half even
}
TIES = {  # of -2.5, -1.5, -0.5, 0.5, 1.5, 2.5
    floor_shift: [-3, -2, -1, 0, 1, 2],
    round_half_up_shift: [-2, -1, 0, 1, 2, 3],
    round_half_away_shift: [-3, -2, -1, 1, 2, 3],
    round_half_even_shift: [-2, -2, 0, 0, 2, 2],
}
each = pytest.mark.parametrize("primitive", PRIMITIVES, ids=lambda primitive: primitive.__name__)


@each
def test_ties_on_both_sides_of_zero(primitive):
    assert primitive(np.array([-5, -3, -1, 1, 3, 5]), 1).tolist() == TIES[primitive]
    assert primitive(np.array([-5, -3, -1, 1, 3, 5]) << 40, 41).tolist() == TIES[primitive]


@each
def test_the_docstring_begins_with_the_tie_rule(primitive):
    words = {"floor": "Floor", "up": "Half up", "away": "Half away", "even": "Half even"}
    assert primitive.__doc__.startswith(next(words[part] for part in primitive.__name__.split("_") if part in words))


@each
def test_every_small_integer_under_every_small_shift(primitive):
    x = np.arange(-300, 301)
    for shift in range(10):
        expected = [PRIMITIVES[primitive](Fraction(int(value), 2**shift)) for value in x]
        assert primitive(x, shift).tolist() == expected


@each
@given(x=st.integers(-(2**63), 2**63 - 1), shift=st.integers(0, 62))
def test_any_int64_under_any_shift(primitive, x, shift):
    exact = PRIMITIVES[primitive](Fraction(x, 2**shift))
    assert primitive(np.array([x]), shift).tolist() == [exact]
    assert primitive(np.array([x]), np.array([shift])).tolist() == [exact]


@each
@pytest.mark.parametrize("shift", range(2, 63))
def test_around_each_power_of_two_and_each_tie(primitive, shift):
    powers = [sign * 2**k + step for sign in (-1, 1) for k in (shift - 1, shift, 62) for step in (-2, -1, 0, 1, 2)]
    ends = [-(2**63), -(2**63) + 1, 2**63 - 1, 0]
    expected = [PRIMITIVES[primitive](Fraction(x, 2**shift)) for x in powers + ends]
    assert primitive(np.array(powers + ends), shift).tolist() == expected


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_the_doubling_high_multiply_is_half_up(x, multiplier):
    expected = math.floor(Fraction(x * multiplier, 2**31) + HALF)
    assert doubling_high_multiply(np.array([x]), multiplier).tolist() == [expected]


def test_the_doubling_high_multiply_at_its_ends_and_ties():
    ends = np.array([-(2**31), 2**31 - 1])
    assert doubling_high_multiply(ends, 2**31 - 1).tolist() == [-(2**31) + 1, 2**31 - 2]
    assert doubling_high_multiply(ends, -(2**31)).tolist() == [2**31, -(2**31) + 1]
    assert doubling_high_multiply(np.array([-3, -1, 1, 3]), 2**30).tolist() == [-1, 0, 1, 2]
    assert doubling_high_multiply(np.array([-3, -1, 1, 3]), -(2**30)).tolist() == [2, 1, 0, -1]


def test_saturate_clamps_and_keeps_the_type():
    clamped = saturate(np.array([-129, -128, 0, 127, 128], dtype=np.int32), -128, 127)
    assert clamped.tolist() == [-128, -128, 0, 127, 127]
    assert clamped.dtype == np.int32
