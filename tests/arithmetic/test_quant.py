# SPDX-License-Identifier: Apache-2.0
"""QuantParams, quantize and dequantize: against PyTorch bit for bit, and against exact rationals."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kws.arithmetic.quant import (
    QuantParams,
    _fma,
    choose_params,
    clamp_range,
    dequantize,
    fake_quantize,
    q_format,
    quantize,
    quantize_channels,
)
from kws.errors import QuantError

DOMAINS = [(bits, signed) for bits in range(2, 9) for signed in (True, False)] + [(16, True), (32, True)]


def float32(value: float) -> float:
    return float(np.float32(value))


def torch_quantize(values, params: QuantParams):
    kind = torch.qint8 if params.signed else torch.quint8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = torch.quantize_per_tensor(torch.from_numpy(values), params.scale, params.zero_point, kind)
    return tensor.int_repr().numpy()


@st.composite
def domains(draw, largest_bits: int = 16):
    bits, signed = draw(st.sampled_from([d for d in DOMAINS if d[0] <= largest_bits]))
    scale = draw(st.floats(2.0**-100, 2.0**100, width=32))
    ends = QuantParams(1.0, 0, bits, signed)
    return QuantParams(scale, draw(st.integers(ends.qmin, ends.qmax)), bits, signed)


def test_the_documented_example_of_torch():
    params = QuantParams(float32(0.1), 10, signed=False)
    q = quantize([-1.0, 0.0, 1.0, 2.0], params)
    assert q.tolist() == [0, 10, 20, 30]
    assert q.dtype == np.uint8
    assert dequantize(q, params).tolist() == [-1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("signed", [True, False])
def test_half_steps_and_random_reals_equal_torch(signed):
    rng = np.random.default_rng(1)
    lowest = -128 if signed else 0
    parities = {0: 0, 1: 0}
    for zero_point in range(lowest, lowest + 256):
        params = QuantParams(float32(math.exp(rng.uniform(-12, 6))), zero_point, signed=signed)
        half_steps = (np.arange(-700, 701) / 2 * params.scale).astype(np.float32)
        random = (rng.standard_normal(3001) * 150 * params.scale).astype(np.float32)
        values = np.concatenate([half_steps, random, np.float32([np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0])])
        np.testing.assert_array_equal(quantize(values, params), torch_quantize(values, params))
        parities[zero_point % 2] += len(half_steps)
    assert min(parities.values()) > 100_000  # half steps met with even and with odd Z


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**-100, 2.0**-3, 1.0, 2.0**100])
@pytest.mark.parametrize("zero_point", [-128, -65, 0, 1, 127])
def test_half_steps_of_a_power_of_two_are_ties_to_the_even_q(scale, zero_point):
    params = QuantParams(scale, zero_point)
    twice = np.arange(-511, 512, 2)
    values = (twice * (scale / 2)).astype(np.float32)
    exact = [round(Fraction(int(t), 2) + zero_point) for t in twice]  # round() of a Fraction is half even
    np.testing.assert_array_equal(quantize(values, params), np.clip(exact, -128, 127))
    np.testing.assert_array_equal(quantize(values, params), torch_quantize(values, params))


@pytest.mark.parametrize("signed", [True, False])
def test_fake_quantize_equals_torch(signed):
    rng = np.random.default_rng(2)
    lowest = -128 if signed else 0
    for zero_point in range(lowest, lowest + 256, 5):
        params = QuantParams(float32(math.exp(rng.uniform(-12, 6))), zero_point, signed=signed)
        steps = np.concatenate([np.arange(-700, 701) / 2, rng.standard_normal(3001) * 150])
        values = (steps * params.scale).astype(np.float32)
        expected = torch.fake_quantize_per_tensor_affine(
            torch.from_numpy(values), params.scale, zero_point, params.qmin, params.qmax
        )
        np.testing.assert_array_equal(fake_quantize(values, params), expected.numpy())


def test_quantize_and_fake_quantize_differ_on_ties_when_z_is_odd():
    values = np.float32([0.5, 1.5, 2.5])
    odd = QuantParams(1.0, 1)
    assert quantize(values, odd).tolist() == [2, 2, 4]  # 1.5, 2.5 and 3.5 to even
    assert (fake_quantize(values, odd) + 1).tolist() == [1, 3, 3]  # 0.5, 1.5 and 2.5 to even, then Z


@given(
    st.floats(-(2.0**40), 2.0**40, width=32),
    st.floats(2.0**-60, 2.0**60, width=32),
    st.integers(-(2**15), 2**15),
)
def test_fma_rounds_once(real, factor, addend):
    result = Fraction(float(_fma(np.float32([real]), np.float32(factor), addend)[0]))
    exact = Fraction(real) * Fraction(factor) + addend
    below = Fraction(float(np.nextafter(np.float32(result), np.float32(-np.inf))))
    above = Fraction(float(np.nextafter(np.float32(result), np.float32(np.inf))))
    assert 2 * exact >= below + result
    assert 2 * exact <= result + above


@pytest.mark.parametrize(("real", "scale"), [(11646897, 1.3883971), (12083874, 1.4404881), (13548586, 1.6150926)])
def test_the_sum_is_rounded_once_where_float64_then_float32_goes_wrong(real, scale):
    # r / S + 200 lies 2^-47 above the tie between 200.5 and the next float32: float64 drops that, and rint gives 200
    params = QuantParams(float32(scale), 200, signed=False)
    values = np.full(65, real * 2.0**-24, dtype=np.float32)
    product = values.astype(np.float64) * np.float64(np.float32(1) / np.float32(scale))
    assert set(np.rint((product + 200).astype(np.float32)).tolist()) == {200.0}
    assert set(quantize(values, params).tolist()) == {201}
    np.testing.assert_array_equal(quantize(values, params), torch_quantize(values, params))


@given(domains(), st.data())
def test_every_integer_survives_the_way_through_its_real(params, data):
    q = np.array(data.draw(st.lists(st.integers(params.qmin, params.qmax), max_size=20)), dtype=params.dtype)
    back = quantize(dequantize(q, params), params)
    np.testing.assert_array_equal(back, q)
    assert back.dtype == params.dtype


@given(domains(), st.floats(-1, 1, width=32))
def test_a_real_in_range_moves_by_at_most_half_a_step(params, share):
    real = float32(share * max(-params.real_min, params.real_max))
    q = int(quantize([real], params)[0])
    exact = Fraction(real) / Fraction(params.scale) + params.zero_point
    clamped = min(max(exact, Fraction(params.qmin)), Fraction(params.qmax))
    assert abs(q - clamped) <= Fraction(1, 2) + Fraction(max(abs(clamped), abs(params.zero_point)), 2**22)


@pytest.mark.parametrize(("bits", "signed"), DOMAINS)
def test_ends_and_storage_of_every_domain(bits, signed):
    params = QuantParams(0.5, 0, bits, signed)
    assert (params.qmin, params.qmax) == ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1))
    assert params.real_min == params.qmin / 2
    assert params.real_max == params.qmax / 2
    q = quantize([-np.inf, np.inf], params)
    assert q.tolist() == [params.qmin, params.qmax]
    assert q.dtype == (np.uint8 if not signed else {16: np.int16, 32: np.int32}.get(bits, np.int8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.1}, "0.1 is not a float32 value"),
        ({"scale": 0.0}, "scale 0.0 is not"),
        ({"scale": -1.0}, "scale -1.0 is not"),
        ({"scale": math.inf}, "scale inf is not"),
        ({"scale": math.nan}, "scale nan is not"),
        ({"scale": 1e300}, "1e+300 is not a float32 value"),
        ({"scale": 2.0**-127}, "at least 2^-126"),
        ({"zero_point": 300}, r"zero_point 300 is outside [-128, 127]"),
        ({"zero_point": -1, "signed": False}, r"zero_point -1 is outside [0, 255]"),
        ({"bits": 9}, "9 bits, signed, is no domain"),
        ({"bits": 1}, "1 bits, signed, is no domain"),
        ({"bits": 16, "signed": False}, "16 bits, unsigned, is no domain"),
        ({"bits": 32, "zero_point": 1}, "zero_point 1 of a 32-bit domain is not 0"),
    ],
)
def test_what_is_no_domain_is_refused(arguments, message):
    with pytest.raises(QuantError) as error:
        QuantParams(**{"scale": 1.0, "zero_point": 0, **arguments})
    assert message in str(error.value)


def test_nan_is_an_error_that_names_the_place():
    with pytest.raises(QuantError, match=r"conv1: NaN cannot be quantized"):
        quantize([0.0, math.nan], QuantParams(1.0, 0), where="conv1")
    with pytest.raises(QuantError, match="NaN"):
        fake_quantize([math.nan], QuantParams(1.0, 0))
    with pytest.raises(QuantError, match="NaN"):
        quantize_channels([[math.nan]], [1.0])


ranges = st.tuples(st.floats(-(2.0**60), 2.0**60), st.floats(-(2.0**60), 2.0**60)).map(sorted)


@given(ranges, st.sampled_from(DOMAINS), st.booleans(), st.booleans())
def test_chosen_params_cover_the_range_and_hold_zero(ends, domain, symmetric, power_of_two):
    minimum, maximum = ends
    bits, signed = domain
    params = choose_params(minimum, maximum, bits=bits, signed=signed, symmetric=symmetric, power_of_two=power_of_two)
    assert dequantize(quantize([0.0], params), params).tolist() == [0.0]
    slack = params.scale / 2 + (params.real_max - params.real_min) * 2.0**-23  # half a step; S is rounded to float32
    assert params.real_min <= min(minimum, 0.0) + slack
    assert params.real_max >= max(maximum, 0.0) - slack
    if power_of_two:
        assert math.frexp(params.scale)[0] == 0.5
    if symmetric:
        assert params.zero_point == (0 if signed else 2 ** (bits - 1))


def test_chosen_params_of_known_ranges():
    assert choose_params(0, 6) == QuantParams(float32(6 / 255), -128)
    assert choose_params(0, 6, signed=False) == QuantParams(float32(6 / 255), 0, signed=False)
    assert choose_params(0, 6, power_of_two=True) == QuantParams(2.0**-5, -128)
    assert choose_params(0, 6, symmetric=True, power_of_two=True) == QuantParams(2.0**-4, 0)  # 2^-5 ends at 3.97
    assert choose_params(-1, 1, symmetric=True) == QuantParams(float32(1 / 127), 0)
    assert choose_params(2, 5.1, signed=False) == QuantParams(float32(0.02), 0, signed=False)  # widened to 0
    assert choose_params(-25.5, -1) == QuantParams(float32(0.1), 127)
    assert choose_params(0, 0) == QuantParams(1.0, -128)
    assert choose_params(-127, 127, symmetric=True, power_of_two=True) == QuantParams(1.0, 0)  # covered exactly
    assert choose_params(0, 1e-44).scale == 2.0**-126


@pytest.mark.parametrize("ends", [(math.nan, 1), (0, math.inf), (2, 1)])
def test_no_params_for_what_is_no_range(ends):
    with pytest.raises(QuantError, match="is not a range"):
        choose_params(*ends)


def test_relu6_saturates_at_six_255ths_and_needs_a_clamp_at_two_to_the_minus_five():
    assert clamp_range(0, 6, choose_params(0, 6)) == (-128, 127)  # the type's own ends
    assert clamp_range(0, 6, choose_params(0, 6, signed=False)) == (0, 255)
    params = QuantParams(2.0**-5, -128)
    assert clamp_range(0, 6, params) == (-128, -128 + 192)
    assert params.real_max == 7.96875  # what would pass without the clamp
    assert clamp_range(0, 6, QuantParams(2.0**-5, -65)) == (-65, 127)  # the largest Z that holds 6.0 in int8
    assert QuantParams(2.0**-5, -65).real_max == 6.0
    assert QuantParams(2.0**-5, -64).real_max < 6.0
    assert QuantParams(2.0**-4, 0).real_max >= 6.0 > QuantParams(2.0**-5, 0).real_max


def test_q4_3_in_both_readings():
    q4_3 = q_format(4, 3)  # ours: m does not count the sign, so the int8 has all of its eight bits
    assert q4_3 == QuantParams(0.125, 0)
    assert (q4_3.real_min, q4_3.real_max) == (-16.0, 15.875)
    sign_counted = q_format(3, 3)  # the reading in which the 4 of Q4.3 counts the sign: seven of the eight bits
    assert sign_counted == QuantParams(0.125, 0, bits=7)
    assert (sign_counted.real_min, sign_counted.real_max) == (-8.0, 7.875)
    reals = np.arange(-128, 128) / 8
    np.testing.assert_array_equal(quantize(reals, q4_3), np.arange(-128, 128))
    np.testing.assert_array_equal(dequantize(quantize(reals, q4_3), q4_3), reals)
    np.testing.assert_array_equal(quantize(reals, sign_counted), np.clip(np.arange(-128, 128), -64, 63))


@pytest.mark.parametrize("channel_axis", [0, 1, 3])
def test_weights_per_channel_equal_torch(channel_axis):
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((6, 5, 4, 3)).astype(np.float32)
    others = tuple(axis for axis in range(4) if axis != channel_axis)
    scales = (np.abs(weights).max(axis=others) / 127).astype(np.float32)
    weights.flat[::7] = np.round(weights.flat[::7] * 4) / 8  # half steps of channels with S near 1/4 or 1/8
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weights), torch.from_numpy(scales), zeros, channel_axis, -127, 127
    )
    q = quantize_channels(weights, scales, channel_axis=channel_axis)
    shape = [-1 if axis == channel_axis else 1 for axis in range(4)]
    np.testing.assert_array_equal(q.astype(np.float32) * scales.reshape(shape), expected.numpy())
    assert q.dtype == np.int8


def test_weights_per_tensor_are_symmetric_or_affine():
    weights = np.float32([[-2.0, -1.0, 0.0], [0.25, 0.75, 2.0]])
    assert quantize_channels(weights, [2.0**-6]).tolist() == [[-127, -64, 0], [16, 48, 127]]
    affine = quantize_channels(weights, [2.0**-6], 3, symmetric=False)
    assert affine.tolist() == [[-125, -61, 3], [19, 51, 127]]
    assert quantize_channels([-2.0, 0.0, 2.0], [0.5], bits=3).tolist() == [-3, 0, 3]
    expected = torch.fake_quantize_per_tensor_affine(torch.from_numpy(weights), 2.0**-6, 3, -128, 127)
    np.testing.assert_array_equal((affine.astype(np.float32) - 3) / 64, expected.numpy())


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(QuantError, match="zero_point 1 of symmetric weights is not 0"):
        quantize_channels([[1.0]], [1.0], 1)
    with pytest.raises(QuantError, match="3 scales for 2 channels"):
        quantize_channels([[1.0], [2.0]], [1.0, 1.0, 1.0])
    with pytest.raises(QuantError, match=r"scale 0.0"):
        quantize_channels([[1.0]], [0.0])


@pytest.mark.parametrize(
    ("zero_point", "bits"), [(1.5, 8), (1.0, 8), (True, 8), (np.True_, 8), ("1", 8), (None, 8), (0, 8.0)]
)
def test_what_is_no_integer_is_refused(zero_point, bits):
    with pytest.raises(QuantError, match="is not an integer"):
        QuantParams(1.0, zero_point, bits)


def test_an_integer_of_numpy_becomes_a_python_one():
    params = QuantParams(1.0, np.int8(100))
    assert type(params.zero_point) is int
    assert params.real_min == -228.0
