# SPDX-License-Identifier: Apache-2.0
"""How a real number becomes an integer and back: real = scale * (q - zero_point) (rules A1 to A6 of README.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kws.errors import QuantError

IntArray = NDArray[np.integer[Any]]

_SMALLEST_SCALE = 2.0**-126  # the smallest normal float32: below it 1 / scale overflows


@dataclass(frozen=True, slots=True)
class QuantParams:
    """The integer domain of a tensor: real = scale * (q - zero_point) (A1).

    `scale` is a float32 value of at least 2^-126 in the unit of the reals, `zero_point` lies in [qmin, qmax]. `bits` is
    2..8, signed or unsigned, or 16 or 32, signed. A 32-bit domain holds sums, so its zero point is 0. QuantError for
    anything else.
    """

    scale: float
    zero_point: int
    bits: int = 8
    signed: bool = True

    def __post_init__(self) -> None:
        for name in ("zero_point", "bits"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise QuantError(f"{name} {value!r} is not an integer")
            object.__setattr__(self, name, int(value))  # NumPy's would wrap in q - Z
        if self.bits not in (2, 3, 4, 5, 6, 7, 8, 16, 32) or (self.bits > 8 and not self.signed):
            kind = "signed" if self.signed else "unsigned"
            raise QuantError(f"{self.bits} bits, {kind}, is no domain", hint="2..8 bits, or signed 16 or 32")
        if not (_SMALLEST_SCALE <= self.scale < math.inf):
            raise QuantError(f"scale {self.scale} is not a finite number of at least 2^-126")
        with np.errstate(over="ignore"):
            rounded = float(np.float32(self.scale))
        if rounded != self.scale:
            raise QuantError(f"scale {self.scale!r} is not a float32 value", hint="use float(numpy.float32(scale))")
        if not self.qmin <= self.zero_point <= self.qmax:
            raise QuantError(f"zero_point {self.zero_point} is outside [{self.qmin}, {self.qmax}]")
        if self.bits == 32 and self.zero_point != 0:
            raise QuantError(f"zero_point {self.zero_point} of a 32-bit domain is not 0")

    @property
    def qmin(self) -> int:
        """The smallest integer of the domain."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The largest integer of the domain."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type that stores q: int8, uint8, int16 or int32."""
        if self.bits <= 8:
            return np.dtype(np.int8 if self.signed else np.uint8)
        return np.dtype(np.int16 if self.bits == 16 else np.int32)

    @property
    def real_min(self) -> float:
        """The real number that qmin stands for."""
        return self.scale * (self.qmin - self.zero_point)

    @property
    def real_max(self) -> float:
        """The real number that qmax stands for."""
        return self.scale * (self.qmax - self.zero_point)


def quantize(values: ArrayLike, params: QuantParams, *, where: object = None) -> IntArray:
    """Half even on the float32 sum, then saturated: q = saturate(rint(fma(r, float32(1) / S, Z))) (A3).

    `values` are reals of any shape, taken as float32; returns the same shape in `params.dtype`. Bit for bit what
    ``torch.quantize_per_tensor`` gives on x86. Infinities saturate; NaN is a QuantError that names `where`.
    """
    reals = _float32(values, where)
    inverse = np.float32(1) / np.float32(params.scale)
    total = np.rint(_fma(reals, inverse, params.zero_point))
    return _saturate_float(total, params)


def _float32(values: ArrayLike, where: object) -> NDArray[np.float32]:
    """Half even to float32; too large becomes infinite, NaN is a QuantError."""
    with np.errstate(over="ignore"):
        reals = np.asarray(values, dtype=np.float32)
    if np.isnan(reals).any():
        raise QuantError("NaN cannot be quantized", where=where)
    return reals


def _fma(reals: NDArray[np.float32], factor: np.float32, addend: int) -> NDArray[np.float32]:
    """Half even: reals * factor + addend, rounded once to float32.

    The product of two float32 is exact in float64 and their sum is rounded to odd there, which the second rounding, to
    float32, cannot tell from the exact sum (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    """
    product = np.asarray(reals, dtype=np.float64) * np.float64(factor)
    total = np.asarray(product + addend)
    with np.errstate(invalid="ignore"):  # an infinite product has no error term
        high = total - product
        error = (product - (total - high)) + (addend - high)
    inexact_even = np.isfinite(total) & (error != 0) & (total.view(np.int64) % 2 == 0)
    odd = np.where(inexact_even, np.nextafter(total, np.copysign(np.inf, error)), total)
    with np.errstate(over="ignore"):
        return odd.astype(np.float32)


def _saturate_float(values: NDArray[np.floating[Any]], params: QuantParams) -> IntArray:
    """No rounding: integral floats, infinities included, clamped to [qmin, qmax] and stored in `params.dtype`."""
    clamped = np.clip(values.astype(np.float64), params.qmin, params.qmax)
    return clamped.astype(params.dtype)


def dequantize(q: IntArray, params: QuantParams) -> NDArray[np.float32]:
    """The float32 reals that `q` stands for: S * (q - Z), the difference exact, the product rounded half even (A2)."""
    centred = np.asarray(q).astype(np.int64) - params.zero_point
    return centred.astype(np.float32) * np.float32(params.scale)


def fake_quantize(values: ArrayLike, params: QuantParams) -> NDArray[np.float32]:
    """Half even before Z is added: S * (saturate(rint(r * float32(1 / S)) + Z) - Z), float32 in and out (A4).

    ``torch.fake_quantize_per_tensor_affine`` bit for bit: what training simulates. On ties it may differ from
    `quantize`. QuantError for NaN.
    """
    reals = _float32(values, None)
    with np.errstate(over="ignore"):
        steps = np.rint(reals * (np.float32(1) / np.float32(params.scale)))
    return dequantize(_saturate_float(steps.astype(np.float64) + params.zero_point, params), params)


def choose_params(
    minimum: float,
    maximum: float,
    *,
    bits: int = 8,
    signed: bool = True,
    symmetric: bool = False,
    power_of_two: bool = False,
) -> QuantParams:
    """S and Z for reals in [minimum, maximum], widened to hold 0.0, which is then exact (A5).

    `symmetric` puts Z in the middle (0, or 2^(bits-1) unsigned) and leaves qmin unused; `power_of_two` takes the
    smallest S = 2^k that covers the range. Both ends are covered to within half a step. A range of nothing but 0.0
    gives S = 1. A 32-bit domain is always symmetric. QuantError when the ends are not finite or are in the wrong order.
    """
    if not (math.isfinite(minimum) and math.isfinite(maximum) and minimum <= maximum):
        raise QuantError(f"[{minimum}, {maximum}] is not a range of finite numbers")
    low, high = min(float(minimum), 0.0), max(float(maximum), 0.0)
    symmetric = symmetric or bits == 32
    ends = QuantParams(1.0, 0, bits, signed)
    middle = 0 if signed else 1 << (bits - 1)
    steps = ends.qmax - middle if symmetric else ends.qmax - ends.qmin
    width = max(-low, high) if symmetric else high - low
    scale = _choose_scale(width / steps, power_of_two)
    zero_point = middle if symmetric else round(min(max(ends.qmin - low / scale, ends.qmin), ends.qmax))
    return QuantParams(scale, zero_point, bits, signed)


def _choose_scale(step: float, power_of_two: bool) -> float:
    """Half even to float32, or up to a power of two; 1 for a step of 0."""
    if step == 0:
        return 1.0
    if not power_of_two:
        return max(float(np.float32(step)), _SMALLEST_SCALE)
    fraction, exponent = math.frexp(step)
    return max(math.ldexp(1.0, exponent - (fraction == 0.5)), _SMALLEST_SCALE)


def clamp_range(minimum: float, maximum: float, params: QuantParams) -> tuple[int, int]:
    """Half even: the activation_min and activation_max that keep a tensor in [minimum, maximum], such as ReLU6's (A6).

    The ends are quantized, so they saturate: ReLU6 with S = 6/255 gives the type's own ends, with S = 2^-5 it gives
    (Z, Z + 192).
    """
    low, high = quantize([minimum, maximum], params).tolist()
    return low, high


def q_format(integer_bits: int, fraction_bits: int) -> QuantParams:
    """Qm.n as a special case: Z = 0, S = 2^-n, in 1 + m + n signed bits; m does not count the sign (A6)."""
    return QuantParams(2.0**-fraction_bits, 0, 1 + integer_bits + fraction_bits)


def quantize_channels(
    weights: ArrayLike,
    scales: ArrayLike,
    zero_point: int = 0,
    *,
    channel_axis: int = 0,
    bits: int = 8,
    symmetric: bool = True,
) -> NDArray[np.int8]:
    """Half even before Z is added: saturate(rint(w * float32(1 / S)) + Z), torch's fake quantization of weights (A4).

    `weights` of any shape, `scales` float32 (C,) along `channel_axis`, or (1,) for the whole tensor; returns int8 of
    the shape of `weights`. `symmetric` weights have Z = 0 and lie in [-qmax, qmax] ([-127, 127] in 8 bits), others in
    the whole domain. QuantError for NaN, for a scale or zero point that QuantParams refuses, and for shapes that do not
    fit.
    """
    reals = _float32(weights, None)
    factors = np.asarray(scales, dtype=np.float32).reshape(-1)
    if symmetric and zero_point != 0:
        raise QuantError(f"zero_point {zero_point} of symmetric weights is not 0", hint="pass symmetric=False")
    if len(factors) not in (1, reals.shape[channel_axis]):
        raise QuantError(f"{len(factors)} scales for {reals.shape[channel_axis]} channels")
    domains = [QuantParams(float(scale), zero_point, bits) for scale in factors]
    shape = [1] * reals.ndim
    shape[channel_axis] = len(factors)
    steps = np.rint(reals * (np.float32(1) / factors).reshape(shape)).astype(np.float64)
    qmin = -domains[0].qmax if symmetric else domains[0].qmin
    return np.clip(steps + zero_point, qmin, domains[0].qmax).astype(np.int8)
