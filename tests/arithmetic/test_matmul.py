# SPDX-License-Identifier: Apache-2.0
"""The affine product against exact rationals, and the accumulator bound against every order of adding."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws.arithmetic.matmul import INT32_MAX, acc_bound, affine_matmul
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import Requant, quantize_multiplier
from kws.errors import QuantError


def random_case(rng, rows, depth, columns, signed=True):
    dtype, low, high = (np.int8, -128, 128) if signed else (np.uint8, 0, 256)
    a = rng.integers(low, high, (rows, depth)).astype(dtype)
    b = rng.integers(low, high, (columns, depth)).astype(dtype)
    bias = rng.integers(-(2**20), 2**20, columns, dtype=np.int32)
    return a, b, bias, int(rng.integers(low, high)), int(rng.integers(low, high))


def centred(a, b, bias, a_zero_point, b_zero_point):
    """The definition, with Python integers."""
    return (a.astype(object) - a_zero_point) @ (b.astype(object) - b_zero_point).T + bias.astype(object)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(0, 9), st.integers(1, 5), st.booleans())
def test_expanded_zero_points_equal_the_definition(seed, rows, depth, columns, signed):
    a, b, bias, za, zb = random_case(np.random.default_rng(seed), rows, depth, columns, signed)
    acc = affine_matmul(a, b, a_zero_point=za, b_zero_point=zb, bias=bias)
    np.testing.assert_array_equal(acc, centred(a, b, bias, za, zb).reshape(rows, columns))
    assert acc.dtype == np.int32
    without = affine_matmul(a, b, a_zero_point=za, b_zero_point=zb)
    np.testing.assert_array_equal(without, acc - bias)


def test_signed_times_unsigned():
    a, b = np.array([[255, 0]], dtype=np.uint8), np.array([[-128, 127]], dtype=np.int8)
    assert affine_matmul(a, b, a_zero_point=3, b_zero_point=-1).tolist() == [[252 * -127 + -3 * 128]]


@pytest.mark.parametrize("b_zero_point", [0, -7, 33])
def test_the_product_of_reals_after_one_rounding(b_zero_point):
    """Real rows times real columns plus a real bias, in fractions, rounded once into the output domain."""
    rng = np.random.default_rng(7)
    a_params, b_params = QuantParams(2.0**-4, -65), QuantParams(2.0**-3, b_zero_point)
    output = QuantParams(2.0**-3, 11, bits=16)
    a, b, bias, _, _ = random_case(rng, 40, 25, 6)
    bias //= 2**8
    multiplier, shift = quantize_multiplier(a_params.scale * b_params.scale / output.scale)
    requant = Requant(multiplier, shift, output.zero_point, output.qmin, output.qmax, "single")
    acc = affine_matmul(a, b, a_zero_point=a_params.zero_point, b_zero_point=b_zero_point, bias=bias)
    result = requant.apply(acc, np.int16)
    ties = 0
    for row, column in itertools.product(range(40), range(6)):
        reals_a = [Fraction(a_params.scale) * (int(q) - a_params.zero_point) for q in a[row]]
        reals_b = [Fraction(b_params.scale) * (int(q) - b_params.zero_point) for q in b[column]]
        real = sum(x * y for x, y in zip(reals_a, reals_b, strict=True))
        real += Fraction(a_params.scale * b_params.scale) * int(bias[column])
        steps = real / Fraction(output.scale)
        ties += steps.denominator == 2
        expected = min(max(math.floor(steps + Fraction(1, 2)) + output.zero_point, output.qmin), output.qmax)
        assert result[row, column] == expected
    assert ties > 0  # some of the 240 results lie halfway


def test_scales_that_are_no_powers_of_two_round_once_as_well():
    rng = np.random.default_rng(8)
    a, b, bias, za, zb = random_case(rng, 30, 50, 8)
    b_scales = np.float32(rng.uniform(0.001, 0.01, 8))
    real_multipliers = np.float64(np.float32(0.05)) * b_scales / np.float64(np.float32(0.7))
    multiplier, shift = quantize_multiplier(real_multipliers)
    acc = affine_matmul(a, b, a_zero_point=za, b_zero_point=zb, bias=bias)
    result = Requant(multiplier, shift, -3, -128, 127, "single").apply(acc)
    exact = centred(a, b, bias, za, zb)
    for row, column in itertools.product(range(30), range(8)):
        m = Fraction(int(multiplier[column])) * Fraction(2) ** (int(shift[column]) - 31)
        assert abs(m - Fraction(real_multipliers[column])) <= m / 2**31
        expected = math.floor(m * exact[row, column] + Fraction(1, 2)) - 3
        assert result[row, column] == min(max(expected, -128), 127)


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((3,), (4, 3)), ((2, 3), (3,))])
def test_shapes_that_do_not_fit_are_refused(shapes):
    a, b = (np.zeros(shape, dtype=np.int8) for shape in shapes)
    with pytest.raises(QuantError, match=r"are not \(N, K\) and \(C, K\)"):
        affine_matmul(a, b, a_zero_point=0, b_zero_point=0)


def largest_partial_sum(terms):
    """Of all subsets of the terms, the largest |sum|: what some order of adding reaches."""
    return max(sum(t for t in terms if t > 0), -sum(t for t in terms if t < 0))


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_no_order_of_adding_passes_the_bound(seed, depth):
    rng = np.random.default_rng(seed)
    _, b, bias, za, zb = random_case(rng, 1, depth, 1)
    bound = acc_bound(b, a_min=-128, a_max=127, a_zero_point=za, b_zero_point=zb, bias=bias)
    weights, constant = b[0].tolist(), int(bias[0])
    for a in itertools.product((-128, 127), repeat=depth):
        pairs = list(zip(a, weights, strict=True))
        forms = [
            [(x - za) * (w - zb) for x, w in pairs] + [constant],
            [x * (w - zb) for x, w in pairs] + [constant - za * sum(w - zb for w in weights)],
            [x * w for x, w in pairs] + [-zb * x for x in a] + [constant - za * sum(w - zb for w in weights)],
        ]
        assert max(map(largest_partial_sum, forms)) <= bound


def test_the_bound_is_reached_by_the_raw_form_where_the_centred_one_is_small():
    b = np.full((1, 1000), 127, dtype=np.int8)
    raw = acc_bound(b, a_min=-128, a_max=127, a_zero_point=-128)
    assert raw == 2 * 1000 * 127 * 128  # raw sum ab and a folded bias of the same size
    narrow = acc_bound(b, a_min=-128, a_max=-120, a_zero_point=-128)
    assert narrow == raw  # the centred sum alone would stay below 1000 * 127 * 8
    assert affine_matmul(np.full((1, 1000), 127, np.int8), b, a_zero_point=-128, b_zero_point=0).item() <= raw


def test_the_bound_finds_what_int32_cannot_hold():
    depth = INT32_MAX // (127 * 255)
    b = np.full((2, depth), 127, dtype=np.int8)
    b[0] = 1
    assert acc_bound(b, a_min=0, a_max=255, a_zero_point=0) <= INT32_MAX
    longer = np.full((2, depth + 1), 127, dtype=np.int8)
    assert acc_bound(longer, a_min=0, a_max=255, a_zero_point=0) > INT32_MAX


def test_the_bound_includes_a_left_shift_and_no_right_shift():
    b = np.array([[1], [100]], dtype=np.int8)
    plain = acc_bound(b, a_min=-128, a_max=127, a_zero_point=0)
    assert plain == 12800
    assert acc_bound(b, a_min=-128, a_max=127, a_zero_point=0, shift=np.array([-5, -31], np.int32)) == plain
    assert acc_bound(b, a_min=-128, a_max=127, a_zero_point=0, shift=np.array([10, 1], np.int32)) == 128 << 10
    assert acc_bound(b, a_min=-128, a_max=127, a_zero_point=0, shift=np.array([2], np.int32)) == plain << 2
