# SPDX-License-Identifier: Apache-2.0
"""What convolution, depthwise convolution and fully connected share: sum (x - Zx)(w - Zw) + bias, one requantization.

Weights are int8, symmetric (Zw = 0) with one scale an output channel, or affine with one scale and any Zw. The bias is
int32 with S = Sx Sw and Z = 0, the accumulator int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from deploy.ops.base import INT32_MAX, check_multipliers, check_requant
from deploy.tensor import IntArray, Tensor
from kws.arithmetic.matmul import acc_bound
from kws.arithmetic.requantize import Requant, quantize_multiplier
from kws.errors import ModelError

FloatArray = NDArray[np.float64]


def affine_multipliers(
    input_scale: float,
    weight_scale: float | tuple[float, ...],
    output_scale: float,
    *,
    product_in_float32: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Multiplier and shift, (1,) or (C,), of M = Sx Sw / Sy, from float32 scales in float64.

    `product_in_float32` rounds Sx Sw to float32 first, as TensorFlow Lite Micro does for a per-tensor
    fully connected op.
    """
    weight_scales = np.atleast_1d(np.asarray(weight_scale, dtype=np.float64))
    product = input_scale * weight_scales
    if product_in_float32:
        with np.errstate(over="ignore"):  # infinite: refused below
            product = product.astype(np.float32).astype(np.float64)
    return quantize_multiplier(product / output_scale)


def bias_scale(input_scale: float, weight_scale: float | tuple[float, ...]) -> float | tuple[float, ...]:
    """S of the bias: the float32 product Sx Sw, one or one a channel, and 2^-126 where that is too small.

    Infinite where it is too large: no tensor has such a scale.
    """
    with np.errstate(over="ignore"):
        products = np.float32(input_scale) * np.atleast_1d(np.asarray(weight_scale, dtype=np.float32))
    scales = tuple(float(s) for s in np.maximum(products, np.finfo(np.float32).tiny))
    return scales if isinstance(weight_scale, tuple) else scales[0]


def weight_matrix(weight: IntArray, channel_axis: int) -> IntArray:
    """Weights as (C, K): a row an output channel."""
    return np.moveaxis(weight, channel_axis, 0).reshape(weight.shape[channel_axis], -1)


def affine_bound(inputs: Sequence[Tensor], requant: Requant, channel_axis: int) -> int:
    """The largest |partial sum| in any order and form, acc * 2^shift included, from the actual weights."""
    x, weight, bias = inputs
    assert weight.data is not None
    assert bias.data is not None
    rows, bias_q = weight_matrix(weight.data, channel_axis), bias.data.astype(np.int32)
    bound = partial(
        acc_bound, rows, a_min=-128, a_max=127, a_zero_point=x.zero_point, b_zero_point=weight.zero_point, bias=bias_q
    )
    plain = bound()
    return plain if plain > INT32_MAX else bound(shift=requant.shift)  # shifted, a hostile bias would overflow int64


def check_affine(
    inputs: Sequence[Tensor], output: Tensor, requant: Requant, channel_axis: int, *, product_in_float32: bool = False
) -> None:
    """ModelError where weight, bias, requantization or multipliers do not fit one another."""
    x, weight, bias = inputs
    if weight.dtype != "int8" or bias.dtype != "int32":
        raise ModelError(f"weight '{weight.name}' and bias '{bias.name}' must be int8 and int32")
    channels = weight.shape[channel_axis]
    if bias.shape != (channels,):
        raise ModelError(f"bias '{bias.name}' of shape {bias.shape} does not fit {channels} output channels")
    if isinstance(weight.scale, tuple):
        if weight.zero_point != 0:
            raise ModelError(f"zero_point {weight.zero_point} of per-channel weight '{weight.name}' is not 0")
        if len(weight.scale) != channels:
            raise ModelError(f"weight '{weight.name}' has {len(weight.scale)} scales for {channels} channels")
    check_requant("requant", requant, output.zero_point, (-128, 127), channels)
    if x.scale is None or weight.scale is None or output.scale is None:
        return
    expected = affine_multipliers(
        x.params.scale, weight.scale, output.params.scale,
        product_in_float32=product_in_float32 and isinstance(weight.scale, float),
    )  # fmt: skip
    check_multipliers("requant", requant, expected)
    if bias.scale is not None and bias.scale != bias_scale(x.params.scale, weight.scale):
        raise ModelError(f"scale of bias '{bias.name}' is not the product of the input's and the weight's")
