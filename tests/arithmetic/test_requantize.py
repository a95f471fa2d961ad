# SPDX-License-Identifier: Apache-2.0
"""Requantization under all five rules against exact rationals, and how many ties that met."""

from __future__ import annotations

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws.arithmetic.fixedpoint import (
    ROUNDING_RULES,
    doubling_high_multiply,
    floor_shift,
    round_half_away_shift,
    round_half_up_shift,
)
from kws.arithmetic.quant import QuantParams, choose_params, clamp_range, dequantize, quantize
from kws.arithmetic.requantize import (
    Requant,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    requantize,
    requantize_float,
)
from kws.errors import QuantError

# The rules once more, as definitions on a rational numerator / denominator (denominator > 0). They know nothing of
# shifts, and work on int64 arrays and on arrays of Python integers, which cannot overflow.


def half_up(numerator, denominator):
    return (2 * numerator + denominator) // (2 * denominator)


def half_away(numerator, denominator):
    magnitude = (2 * abs(numerator) + denominator) // (2 * denominator)
    return magnitude * (1 - 2 * (numerator < 0))


def half_even(numerator, denominator):
    floor = numerator // denominator
    twice = 2 * (numerator - floor * denominator)
    return floor + ((twice > denominator) | ((twice == denominator) & (floor % 2 == 1)))


def exact(rule, x, multiplier, shift):
    """Round x * multiplier * 2^(shift - 31) as `rule` says."""
    left, right = 2 ** np.maximum(shift, 0), 2 ** np.maximum(-shift, 0)
    numerator, denominator = x * multiplier * left, right * 2**31
    if rule == "single":
        return half_up(numerator, denominator)
    if rule == "half_even":
        return half_even(numerator, denominator)
    if rule == "half_away":
        return half_away(numerator, denominator)
    high = half_up(numerator, 2**31)
    return half_away(high, right) if rule == "tflm" else half_up(high, right)


def count_ties(x, multiplier, shift):
    """How many x * multiplier * 2^(shift - 31) lie halfway between two integers: above zero, below zero."""
    numerator, denominator = x * multiplier * 2 ** np.maximum(shift, 0), 2 ** np.maximum(-shift, 0) * 2**31
    tie = 2 * (numerator - numerator // denominator * denominator) == denominator
    return int((tie & (x > 0)).sum()), int((tie & (x < 0)).sum())


def tie_grid():
    """Differences of 8-bit integers, and multipliers that give ties: M = 2^-k, and M0 = odd * 2^j with j >= 20.

    x * odd * 2^j * 2^(shift - 31) is a tie where x * odd * 2^(j + shift - 30) is odd: for shift = 30 - j - v those
    are the x with v factors of 2. For j = 20..29 and v = 0..12 that is M from 2^-12 to 2^10.
    """
    rng = np.random.default_rng(4)
    columns = [(2**30, 1 - k) for k in range(32)]
    for j, v in itertools.product(range(20, 30), range(13)):
        for odd in rng.integers(2 ** (29 - j), 2 ** (30 - j), 3) * 2 + 1:
            columns.append((int(odd) << j, 30 - j - v))
    multipliers, shifts = zip(*columns, strict=True)
    x = np.arange(-255, 256)[:, None]
    return x, np.array(multipliers, dtype=np.int32), np.array(shifts, dtype=np.int32)


@functools.cache
def exact_on_tie_grid(rule):
    return exact(rule, *(array.astype(object) for array in tie_grid())).astype(np.int64)


def check_rule(rule, used):
    """`used` equals the rational definition of `rule` on the whole tie grid."""
    np.testing.assert_array_equal(multiply_by_quantized_multiplier(*tie_grid(), used), exact_on_tie_grid(rule))


@pytest.mark.parametrize("rule", ROUNDING_RULES)
def test_ties_of_every_rule_equal_the_rationals(rule):
    check_rule(rule, rule)


def test_the_tie_grid_holds_ties_on_both_sides():
    positive, negative = count_ties(*(array.astype(object) for array in tie_grid()))
    assert min(positive, negative) >= 1000


@pytest.mark.parametrize(("rule", "other"), list(itertools.permutations(ROUNDING_RULES, 2)))
def test_another_rule_in_its_place_is_noticed(rule, other):
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        check_rule(rule, other)


def random_pairs(count):
    """Random (S1, Z1, S2, Z2) of 8-bit domains: M from 2^-13 to 2^5, signed and unsigned."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        s1 = np.float32(math.exp(rng.uniform(-9, 3)))
        s2 = np.float32(s1 * 2.0 ** rng.uniform(-5, 13))
        signs = rng.integers(0, 2, 2).astype(bool)
        z1, z2 = (int(z) - 128 * int(signed) for z, signed in zip(rng.integers(0, 256, 2), signs, strict=True))
        yield QuantParams(float(s1), z1, 8, bool(signs[0])), QuantParams(float(s2), z2, 8, bool(signs[1]))


def power_of_two_pairs():
    """M = 2^-k for k = -8..9 with every parity of Z1 and Z2: ties in every pair with k >= 1."""
    for k in range(-8, 10):
        for z1, z2 in itertools.product((-128, -65, 0, 3, 127), (0, 77, 128, 255)):
            yield QuantParams(0.5, z1), QuantParams(2.0 ** (k - 1), z2, signed=False)


@pytest.mark.parametrize("rule", ROUNDING_RULES)
@pytest.mark.parametrize("pairs", [lambda: random_pairs(3000), power_of_two_pairs], ids=["random", "power of two"])
def test_all_256_inputs_equal_the_rationals(rule, pairs):
    sources, targets = zip(*pairs(), strict=True)
    real_multipliers = np.array([s.scale / t.scale for s, t in zip(sources, targets, strict=True)])
    q = np.array([np.arange(s.qmin, s.qmax + 1) for s in sources])
    result = np.array(
        [requantize(row.astype(s.dtype), s, t, rounding=rule) for row, s, t in zip(q, sources, targets, strict=True)],
        dtype=np.int64,
    )
    # M0 from the definition, with fractions: M / 2^e in [1/2, 1), times 2^31, to the nearest
    exponents = [math.frexp(real)[1] for real in real_multipliers]
    multipliers = [
        math.floor(Fraction(real) / Fraction(2) ** e * 2**31 + Fraction(1, 2))
        for real, e in zip(real_multipliers.tolist(), exponents, strict=True)
    ]
    assert max(multipliers) < 2**31  # a carry is tested below
    column = [[s.zero_point, t.zero_point, t.qmin, t.qmax] for s, t in zip(sources, targets, strict=True)]
    z1, z2, qmin, qmax = (values[:, None] for values in np.array(column).T)
    multiplier, shift = np.array(multipliers)[:, None], np.array(exponents)[:, None]
    rounded = exact(rule, q - z1, multiplier, shift)  # int64: |x M0| 2^6 < 2^46 and the denominators are below 2^45
    np.testing.assert_array_equal(result, np.clip(rounded + z2, qmin, qmax))
    saturated = (rounded + z2 < qmin) | (rounded + z2 > qmax)
    assert 0.05 < saturated.mean() < 0.8
    assert (real_multipliers > 1).any()


def test_power_of_two_scales_meet_ties_on_both_sides():
    positive, negative = 0, 0
    for source, target in power_of_two_pairs():
        x = np.arange(source.qmin, source.qmax + 1) - source.zero_point
        multiplier, shift = quantize_multiplier(source.scale / target.scale)
        more = count_ties(x, multiplier.astype(np.int64), shift.astype(np.int64))
        positive, negative = positive + more[0], negative + more[1]
    assert min(positive, negative) >= 1000


int32s = st.integers(-(2**31), 2**31 - 1)
multipliers_q31 = st.integers(2**30, 2**31 - 1) | st.integers(0, 9).map(lambda j: 2**30 + 2 ** (29 - j))


@given(int32s | st.sampled_from([-(2**31), 2**31 - 1]), multipliers_q31, st.integers(-31, 30))
@pytest.mark.parametrize("rule", ROUNDING_RULES)
def test_any_int32_equals_the_fraction(rule, x, multiplier, shift):
    value = Fraction(x * multiplier) * Fraction(2) ** (shift - 31)
    high = math.floor(Fraction(x * multiplier, 2**31) * 2 ** max(shift, 0) + Fraction(1, 2))
    low = Fraction(high, 2 ** max(-shift, 0))
    expected = {
        "single": math.floor(value + Fraction(1, 2)),
        "half_even": round(value),
        "half_away": int(math.copysign(1, x)) * math.floor(abs(value) + Fraction(1, 2)),
        "double_up": math.floor(low + Fraction(1, 2)),
        "tflm": int(math.copysign(1, x)) * math.floor(abs(low) + Fraction(1, 2)),
    }
    arrays = np.array([x]), np.array([multiplier], dtype=np.int32), np.array([shift], dtype=np.int32)
    assert multiply_by_quantized_multiplier(*arrays, rule).tolist() == [expected[rule]]


def test_the_vectors_that_tell_single_from_tflm():
    multiplier, shift = quantize_multiplier(0.25)
    x = np.array([1, -2])
    results = {r: multiply_by_quantized_multiplier(x, multiplier, shift, r).tolist() for r in ROUNDING_RULES}
    assert results["single"] == [0, 0]
    assert results["tflm"] == [1, -1]
    assert results == {**results, "double_up": [1, 0], "half_even": [0, 0], "half_away": [0, -1]}


def test_single_and_half_even_agree_on_random_multipliers_and_not_on_a_quarter():
    rng = np.random.default_rng(6)
    x = rng.integers(-(2**20), 2**20, (1000, 1000))
    multiplier = rng.integers(2**30, 2**31, 1000, dtype=np.int32)
    shift = rng.integers(-16, -5, 1000).astype(np.int32)
    single, even, tflm = (
        multiply_by_quantized_multiplier(x, multiplier, shift, rule) for rule in ("single", "half_even", "tflm")
    )
    assert np.array_equal(single, even)
    assert 0 < (single != tflm).mean() < 0.02
    quarter = quantize_multiplier(0.25)
    x = np.arange(-4096, 4096)
    single, even = (multiply_by_quantized_multiplier(x, *quarter, rule) for rule in ("single", "half_even"))
    assert (single != even).mean() == 0.125


def test_a_power_of_two_needs_no_multiply():
    ends = [-(2**31), -(2**31) + 1, 2**31 - 1]
    x = np.concatenate([np.arange(-70000, 70000), ends])
    for k in range(1, 32):
        multiplier, shift = quantize_multiplier(2.0**-k)
        assert (multiplier.tolist(), shift.tolist()) == ([2**30], [1 - k])
        single = multiply_by_quantized_multiplier(x, multiplier, shift, "single")
        np.testing.assert_array_equal(single, round_half_up_shift(x, k))
        tflm = multiply_by_quantized_multiplier(x, multiplier, shift, "tflm")
        np.testing.assert_array_equal(tflm, round_half_away_shift(floor_shift(x + 1, 1), k - 1))
        np.testing.assert_array_equal(doubling_high_multiply(x, 2**30), floor_shift(x + 1, 1))


@pytest.mark.parametrize("rule", ROUNDING_RULES)
def test_a_multiplier_of_one_changes_nothing(rule):
    x = np.array([-(2**31), -1, 0, 1, 2**31 - 1])
    np.testing.assert_array_equal(multiply_by_quantized_multiplier(x, *quantize_multiplier(1.0), rule), x)


@pytest.mark.parametrize("rule", ["tflm", "double_up"])
@given(x=st.integers(-(2**20), 2**20), multiplier=multipliers_q31, shift=st.integers(0, 11))
def test_a_left_shift_comes_before_the_multiply_and_then_two_roundings_are_one(rule, x, multiplier, shift):
    shifted = np.array([x]) << shift  # fits int32, as Graph.check() asks
    arrays = np.array([x]), np.array([multiplier], dtype=np.int32), np.array([shift], dtype=np.int32)
    result = multiply_by_quantized_multiplier(*arrays, rule)
    np.testing.assert_array_equal(result, doubling_high_multiply(shifted, multiplier))
    np.testing.assert_array_equal(result, multiply_by_quantized_multiplier(*arrays, "single"))


@given(st.floats(2.0**-32, 2.0**30 - 1) | st.integers(-31, 29).map(lambda e: math.nextafter(2.0**e, 0)))
def test_the_multiplier_is_the_nearest_of_31_bits(real):
    multiplier, shift = quantize_multiplier(real)
    assert 2**30 <= multiplier[0] < 2**31
    error = abs(Fraction(int(multiplier[0])) * Fraction(2) ** (int(shift[0]) - 31) - Fraction(real))
    assert error <= Fraction(real) * Fraction(1, 2**31)
    assert multiplier.dtype == shift.dtype == np.int32


def test_a_multiplier_on_a_tie_rounds_away_and_a_full_one_is_renormalized():
    tie = (2**30 + 0.5) / 2**31
    assert quantize_multiplier(tie)[0].tolist() == [2**30 + 1]
    below_one = 1 - 2.0**-33
    assert [a.tolist() for a in quantize_multiplier([below_one, 1 - 2.0**-32, 1 - 2.0**-31])] == [
        [2**30, 2**30, 2**31 - 1],
        [1, 1, 0],
    ]
    # renormalized across either end of the allowed shifts
    assert [a.tolist() for a in quantize_multiplier(2.0**-32 * below_one)] == [[2**30], [-31]]
    with pytest.raises(QuantError):
        quantize_multiplier(2.0**30 * below_one)


def test_a_dead_channel_becomes_zero():
    multiplier, shift = quantize_multiplier([0.0, 2.0**-33, 2.0**-32, 5e-324, 1.0])
    assert multiplier.tolist() == [0, 0, 2**30, 0, 2**30]
    assert shift.tolist() == [0, 0, -31, 0, 1]
    for rule in ROUNDING_RULES:
        scaled = multiply_by_quantized_multiplier(np.full((2, 5), -(2**31)), multiplier, shift, rule)
        assert scaled[:, :2].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("bad", [2.0**30, math.inf, math.nan, -0.5])
def test_a_multiplier_out_of_range_names_its_channel(bad):
    with pytest.raises(QuantError, match=r"conv1: multiplier \S+ of channel 2 is not in \[0, 2\^30\) at 31 bits"):
        quantize_multiplier([1.0, 0.0, bad, 1.0], where="conv1")


def test_the_largest_multiplier_that_is_allowed():
    largest = math.nextafter(2.0**30, 0) - 2.0**2
    multiplier, shift = quantize_multiplier(largest)
    assert shift.tolist() == [30]
    scaled = multiply_by_quantized_multiplier(np.array([-(2**31)]), multiplier, shift, "single")
    assert scaled.tolist() == [-int(multiplier[0]) << 30]


def test_channels_have_their_own_multipliers():
    acc = np.array([[[100, 100, 100], [-7, -7, -7]]], dtype=np.int32)
    multiplier, shift = quantize_multiplier([0.5, 0.25, 2.0])
    requant = Requant(multiplier, shift, 1, -128, 127, "single")
    result = requant.apply(acc)
    assert result.tolist() == [[[51, 26, 127], [-2, -1, -13]]]
    assert result.dtype == np.int8
    assert requant.apply(acc, np.int16).dtype == np.int16


def test_zero_point_is_added_after_rounding_and_before_the_clamp():
    multiplier, shift = quantize_multiplier(0.5)
    acc = np.array([-3, -1, 1, 3, 1000], dtype=np.int32)
    odd_even = Requant(multiplier, shift, 1, -128, 127, "half_even").apply(acc)
    assert odd_even.tolist() == [-1, 1, 1, 3, 127]  # -2, 0, 0, 2, 500, and then 1 more: ties know nothing of Z
    assert Requant(multiplier, shift, 5, 5, 6, "half_even").apply(acc).tolist() == [5, 5, 5, 6, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiplier": np.array([2**29], np.int32)}, "multiplier 536870912, shift 0 of channel 0 is not normalized"),
        ({"multiplier": np.array([0], np.int32), "shift": np.array([1], np.int32)}, "is not normalized"),
        ({"shift": np.array([31], np.int32)}, "is not normalized"),
        ({"shift": np.array([-32], np.int32)}, "is not normalized"),
        ({"shift": np.array([0, 0], np.int32)}, "not int32 of one shape"),
        ({"multiplier": np.array([2**30])}, "not int32 of one shape"),
        ({"activation_min": 5, "activation_max": 4}, "activation_min 5 is above activation_max 4"),
        ({"rounding": "nearest"}, "unknown rounding rule 'nearest' (one of single, tflm"),
    ],
)
def test_a_requantization_that_is_not_one_is_refused(change, message):
    good = {
        "multiplier": np.array([2**30], np.int32),
        "shift": np.array([0], np.int32),
        "zero_point": 0,
        "activation_min": -128,
        "activation_max": 127,
        "rounding": "single",
    }
    with pytest.raises(QuantError) as error:
        Requant(**{**good, **change})
    assert message in str(error.value)


def test_an_unknown_rule_is_refused():
    with pytest.raises(QuantError, match="unknown rounding rule 'up'"):
        multiply_by_quantized_multiplier(np.array([1]), *quantize_multiplier(0.5), "up")


def test_the_integer_way_is_within_half_a_step_of_the_rational_of_the_scales():
    worst = Fraction(0)
    for source, target in random_pairs(200):
        q = np.arange(source.qmin, source.qmax + 1).astype(source.dtype)
        result = requantize(q, source, target)
        m = Fraction(source.scale) / Fraction(target.scale)
        for value, moved in zip(q.tolist(), result.tolist(), strict=True):
            real = m * (value - source.zero_point) + target.zero_point
            if target.qmin < moved < target.qmax:
                worst = max(worst, abs(moved - real) - abs(value - source.zero_point) * m * Fraction(1, 2**30))
    assert worst <= Fraction(1, 2)


def test_the_integer_way_and_the_float_way_differ_by_at_most_one():
    for source, target in itertools.chain(random_pairs(300), power_of_two_pairs()):
        q = np.arange(source.qmin, source.qmax + 1).astype(source.dtype)
        through_float = requantize_float(q, source, target)
        assert through_float.dtype == target.dtype
        for rule in ROUNDING_RULES:
            difference = requantize(q, source, target, rounding=rule).astype(int) - through_float
            assert np.abs(difference).max() <= 1


def test_m_above_one_works_and_gains_nothing():
    source, target = QuantParams(0.5, 0, bits=4), QuantParams(0.0625, 0)  # M = 8: a finer grid, no finer values
    q = np.arange(-8, 8, dtype=np.int8)
    moved = requantize(q, source, target)
    np.testing.assert_array_equal(moved, 8 * q.astype(int))
    np.testing.assert_array_equal(dequantize(moved, target), dequantize(q, source))
    np.testing.assert_array_equal(requantize(moved, target, source), q)


@given(st.sampled_from(ROUNDING_RULES), st.integers(0, 2**32 - 1))
def test_requantize_is_monotone_and_nothing_between_equal_domains(rule, seed):
    rng = np.random.default_rng(seed)
    scales = np.float32(2.0 ** rng.uniform(-8, 8, 2)).tolist()
    source, target = (QuantParams(s, int(z)) for s, z in zip(scales, rng.integers(-128, 128, 2), strict=True))
    q = np.arange(-128, 128, dtype=np.int8)
    assert (np.diff(requantize(q, source, target, rounding=rule).astype(int)) >= 0).all()
    np.testing.assert_array_equal(requantize(q, source, source, rounding=rule), q)


def test_every_width_and_shape_moves_into_every_other():
    for bits_from, bits_to in itertools.product([2, 3, 4, 5, 6, 7, 8, 16, 32], repeat=2):
        source, target = QuantParams(1.0, 0, bits_from), QuantParams(0.5, 0, bits_to)
        q = np.array([[source.qmin, -1, 0], [0, 1, source.qmax]], dtype=source.dtype)
        result = requantize(q, source, target)
        np.testing.assert_array_equal(result, np.clip(2 * q.astype(np.int64), target.qmin, target.qmax))
        assert result.dtype == target.dtype
        assert result.shape == q.shape


@pytest.mark.parametrize("rule", ROUNDING_RULES)
def test_relu6_fused_into_a_requantization(rule):
    acc = np.arange(-(2**16), 2**16, 7, dtype=np.int32)
    acc_scale = 2.0**-12  # acc stands for reals from -16 to 16
    for target in (choose_params(0, 6), QuantParams(2.0**-5, -128)):
        activation_min, activation_max = clamp_range(0, 6, target)
        multiplier, shift = quantize_multiplier(acc_scale / target.scale)
        fused = Requant(multiplier, shift, target.zero_point, activation_min, activation_max, rule).apply(acc)
        apart = QuantParams(target.scale, 0, 16)  # wide enough for -16 to 16: requantize first, then ReLU6 on the reals
        wide = Requant(multiplier, shift, 0, apart.qmin, apart.qmax, rule).apply(acc, np.int16)
        relu6 = quantize(np.clip(dequantize(wide, apart), 0, 6), target)
        np.testing.assert_array_equal(fused, relu6)
        assert dequantize(fused, target).max() == 6.0
        assert dequantize(fused, target).min() == 0.0
    without_clamp = Requant(multiplier, shift, -128, -128, 127, rule).apply(acc)
    assert dequantize(without_clamp, target).max() == 7.96875


@pytest.mark.parametrize(
    ("q", "message"),
    [
        (np.array([1.5]), "values of dtype float64 are not integers"),
        (np.array([True]), "values of dtype bool are not integers"),
        (np.array([0, 300]), r"values in \[0, 300\] are not all in \[-128, 127\]"),
        (np.array([-129, 0], np.int16), r"values in \[-129, 0\]"),
    ],
)
def test_what_lies_outside_the_source_is_refused(q, message):
    params = QuantParams(1.0, 0)
    with pytest.raises(QuantError, match=message):
        requantize(q, params, params)
    assert requantize(np.zeros((0, 3), np.int8), params, params).shape == (0, 3)
