# SPDX-License-Identifier: Apache-2.0
"""The affine matrix product, zero points expanded, and the bound of its sums (rules A14 and A15 of README.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kws.arithmetic.quant import IntArray
from kws.errors import QuantError

INT32_MAX = (1 << 31) - 1


def affine_matmul(
    a: IntArray, b: IntArray, *, a_zero_point: int, b_zero_point: int, bias: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Exact: sum_k (a[n,k] - Za) (b[c,k] - Zb) + bias[c], computed as sum ab - Za sum b - Zb sum a + K Za Zb (A14).

    `a` (N, K) and `b` (C, K) hold 8-bit integers, signed or not; `bias` int32 (C,); returns int32 (N, C). `acc_bound`
    proves that no sum overflows. QuantError when the shapes do not fit.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise QuantError(f"shapes {a.shape} and {b.shape} are not (N, K) and (C, K)")
    wide_a, wide_b = a.astype(np.int32), b.astype(np.int32)
    acc: NDArray[np.int32] = np.einsum("nk,ck->nc", wide_a, wide_b)  # NumPy's integer `@` is five times slower
    folded_bias = a.shape[1] * a_zero_point * b_zero_point - a_zero_point * wide_b.sum(axis=1, dtype=np.int32)
    if bias is not None:
        folded_bias = folded_bias + bias
    acc += folded_bias
    if b_zero_point != 0:
        acc -= b_zero_point * wide_a.sum(axis=1, dtype=np.int32, keepdims=True)
    return acc


def acc_bound(
    b: IntArray,
    *,
    a_min: int,
    a_max: int,
    a_zero_point: int,
    b_zero_point: int = 0,
    bias: NDArray[np.int32] | None = None,
    shift: NDArray[np.int32] | None = None,
) -> int:
    """The largest |partial sum|, in any order of adding, of `affine_matmul` with these weights (A15).

    `b` (C, K) and `bias` (C,) are the actual constants, a lies in [a_min, a_max]. Three forms are bounded: centred (a -
    Za)(b - Zb), raw a (b - Zb) with Za folded into the bias, and raw ab with both expanded. With `shift` (C,) or (1,),
    of a rule that shifts left before it multiplies (`tflm`, `double_up`), the bound includes acc * 2^shift. No overflow
    means a result of at most INT32_MAX.
    """
    wide = b.astype(np.int64)
    centred = wide - b_zero_point
    constant = np.zeros(len(b), np.int64) if bias is None else bias.astype(np.int64)
    folded = constant - a_zero_point * centred.sum(axis=1)
    largest = max(abs(a_min), abs(a_max))
    largest_centred = max(abs(a_min - a_zero_point), abs(a_max - a_zero_point))
    bounds = np.maximum.reduce(
        [
            np.abs(constant) + np.abs(centred).sum(axis=1) * largest_centred,
            np.abs(folded) + np.abs(centred).sum(axis=1) * largest,
            np.abs(folded) + (np.abs(wide).sum(axis=1) + b.shape[1] * abs(b_zero_point)) * largest,
        ]
    )
    if shift is not None:
        bounds = bounds << np.maximum(shift.astype(np.int64), 0)
    return int(bounds.max())
