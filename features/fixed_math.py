# SPDX-License-Identifier: Apache-2.0
"""The integer functions of the fixed-point front-end: real FFT, square root, base-2 logarithm.

No float touches a value. Arrays are int64 in NumPy; the comments give the bits that are used, those of the C twin
(`deploy/c/kws_frontend.c`). Every right shift here rounds half up, (x + 2^(n - 1)) >> n.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]

LOG2_TABLE_BITS = 7
LOG2_ERROR_Q16 = 1.6
"""|log2_q16(v) / 65536 - log2(v)| * 65536 is at most this: the chord of 128 intervals lies at most 0.73 below the
curve, the table and the interpolation each round by half a unit (measured by a test: 1.5)."""


def round_shift(x: Int64Array, n: int | Int64Array) -> Int64Array:
    """x / 2^n, half up; n in [0, 62], |x| < 2^62."""
    half = (np.int64(1) << n) >> 1
    result: Int64Array = (x + half) >> n
    return result


def multiply_high(x: Int64Array, w: Int64Array) -> Int64Array:
    """x * w / 2^32, half up, for int32 values: with `w` in Q30 a quarter of the product, in Q31 half of it.

    One instruction on a Cortex-M4 (SMMULR); each product is rounded before it is added, as SMMLAR does.
    """
    result: Int64Array = (x * w + (1 << 31)) >> 32
    return result


@lru_cache(maxsize=16)
def twiddles_q30(n: int) -> NDArray[np.int32]:
    """exp(-2 pi i k / n) for k < 3n / 4, Q30: (3n / 4, 2) int32, cosine and negative sine. 1.0 is exact."""
    return _table(np.arange(max(1, 3 * n // 4)) / n, 1 << 30)


@lru_cache(maxsize=16)
def twiddles_q31(n_fft: int) -> NDArray[np.int32]:
    """exp(-2 pi i k / n_fft) for k < n_fft / 4, Q31, saturated (k = 0, which nothing reads): (n_fft / 4, 2) int32."""
    return _table(np.arange(n_fft // 4) / n_fft, 1 << 31)


def _table(turns: NDArray[np.float64], one: int) -> NDArray[np.int32]:
    angle = 2.0 * np.pi * turns
    values = np.rint(np.stack([np.cos(angle), -np.sin(angle)], axis=1) * one)
    table: NDArray[np.int32] = np.clip(values, -(2.0**31), 2.0**31 - 1).astype(np.int32)
    table.flags.writeable = False
    return table


def real_fft(x: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The spectrum of real frames divided by n_fft: (F, n_fft) -> real and imaginary part, each (F, n_fft / 2 + 1).

    n_fft is a power of two from 8. |x| <= 2^30: pairs of samples as one complex value have a modulus of at most
    2^30.5, and every stage divides by its radix, so no value of any stage passes 2^30.5 by more than the few units of
    rounding: int32 holds all, without saturation. The rounding noise of the result has a standard deviation of about
    1 (a test measures it), whatever the level.

    Radix 4 in place on bit-reversed input (one radix-2 stage first where log2(n_fft) is even), then the split of the
    half-length spectrum into that of a real signal (Sorensen et al., Real-valued fast Fourier transform algorithms,
    IEEE Trans. ASSP 35, 1987).
    """
    n = x.shape[1] // 2  # complex values
    order = _bit_reversed(n)
    re, im = x[:, 0::2][:, order], x[:, 1::2][:, order]
    length = 1
    if (n.bit_length() - 1) % 2:
        re, im = (_radix_2(part) for part in (re, im))
        length = 2
    while length < n:
        re, im = _radix_4(re, im, length)
        length *= 4
    return _split_real(re, im)


@lru_cache(maxsize=16)
def _bit_reversed(n: int) -> NDArray[np.intp]:
    bits = n.bit_length() - 1
    return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(n)])


def _radix_2(x: Int64Array) -> Int64Array:
    a, b = round_shift(x[:, 0::2], 1), round_shift(x[:, 1::2], 1)
    return np.stack([a + b, a - b], axis=2).reshape(x.shape)


def _radix_4(re: Int64Array, im: Int64Array, length: int) -> tuple[Int64Array, Int64Array]:
    """One stage: blocks of `length` become blocks of 4 * length. In bit-reversed order block 1 holds the indices that
    are 2 modulo 4, block 2 those that are 1."""
    frames, n = re.shape
    real, imag = (part.reshape(frames, n // (4 * length), 4, length) for part in (re, im))
    w = twiddles_q30(4 * length).astype(np.int64)
    j = np.arange(length)
    ar, ai = round_shift(real[:, :, 0], 2), round_shift(imag[:, :, 0], 2)
    (cr, ci), (br, bi), (dr, di) = (
        _complex_multiply(real[:, :, block], imag[:, :, block], w[factor * j])
        for block, factor in ((1, 2), (2, 1), (3, 3))
    )
    even_r, even_i, odd_r, odd_i = ar + cr, ai + ci, ar - cr, ai - ci
    sum_r, sum_i, diff_r, diff_i = br + dr, bi + di, br - dr, bi - di
    out_r = [even_r + sum_r, odd_r + diff_i, even_r - sum_r, odd_r - diff_i]
    out_i = [even_i + sum_i, odd_i - diff_r, even_i - sum_i, odd_i + diff_r]
    return np.stack(out_r, axis=2).reshape(frames, n), np.stack(out_i, axis=2).reshape(frames, n)


def _complex_multiply(re: Int64Array, im: Int64Array, w: Int64Array) -> tuple[Int64Array, Int64Array]:
    wr, wi = w[:, 0], w[:, 1]
    return (
        multiply_high(re, wr) + multiply_high(-im, wi),
        multiply_high(re, wi) + multiply_high(im, wr),
    )


def _split_real(re: Int64Array, im: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Half-length complex spectrum Z (F, n) -> that of the real signal (F, n + 1), halved."""
    n = re.shape[1]
    k = np.arange(1, n // 2)
    w = twiddles_q31(2 * n).astype(np.int64)[k]
    zr, zi, yr, yi = re[:, k], im[:, k], re[:, n - k], im[:, n - k]
    even_r, even_i = round_shift(zr, 2) + round_shift(yr, 2), round_shift(zi, 2) - round_shift(yi, 2)
    odd_r, odd_i = round_shift(zi, 1) + round_shift(yi, 1), round_shift(yr, 1) - round_shift(zr, 1)
    odd_r, odd_i = _complex_multiply(odd_r, odd_i, w)
    out_r, out_i = np.empty((len(re), n + 1), np.int64), np.empty((len(re), n + 1), np.int64)
    out_r[:, k], out_i[:, k] = even_r + odd_r, even_i + odd_i
    out_r[:, n - k], out_i[:, n - k] = even_r - odd_r, odd_i - even_i
    first_r, first_i = round_shift(re[:, 0], 1), round_shift(im[:, 0], 1)
    out_r[:, 0], out_i[:, 0], out_r[:, n], out_i[:, n] = first_r + first_i, 0, first_r - first_i, 0
    out_r[:, n // 2], out_i[:, n // 2] = round_shift(re[:, n // 2], 1), -round_shift(im[:, n // 2], 1)
    return out_r, out_i


def bit_length(x: Int64Array) -> Int64Array:
    """Bits of x >= 0: 0 for 0, 63 at most."""
    bits = np.zeros(x.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        large = x >> step > 0
        x = np.where(large, x >> step, x)
        bits += step * large
    bits += x > 0
    return bits


def square_root(x: Int64Array) -> Int64Array:
    """The square root of x in [0, 2^62), as 16 leading bits: |result / sqrt(x) - 1| <= 2^-16 for x >= 2^30.

    x is shifted by an even number of bits into [2^30, 2^32), whose root is found bit by bit and rounded; smaller x
    come out rounded to an integer.
    """
    n_half = np.maximum(0, bit_length(x) - 31) >> 1  # x >> 2 n_half is below 2^32
    n_half += x >> (2 * n_half) >= 1 << 32
    rest = x >> (2 * n_half)
    root = np.zeros_like(x)
    for bit in range(15, -1, -1):
        trial = (root << 1 | 1 << bit) << bit  # (root + 2^bit)^2 - root^2
        fits = rest >= trial
        rest -= np.where(fits, trial, 0)
        root |= fits.astype(np.int64) << bit
    result: Int64Array = (root + (rest > root)) << n_half
    return result


@lru_cache(maxsize=1)
def log2_table_q16() -> NDArray[np.uint16]:
    """log2(1 + i / 128) in Q16 for i = 0..128: (129,) uint16; the last, 65536, wraps to 0, as its difference does."""
    values = np.rint(np.log2(1.0 + np.arange(129) / 128.0) * 65536.0).astype(np.int64)
    table = (values & 0xFFFF).astype(np.uint16)
    table.flags.writeable = False
    return table


def log2_q16(v: Int64Array) -> Int64Array:
    """log2 of integers 1 <= v < 2^63, in Q16: table of 128 intervals, linear between (error: LOG2_ERROR_Q16)."""
    exponent = bit_length(v) - 1
    normal = v << (62 - exponent)  # the leading one is bit 62
    index = (normal >> 55) & 127
    fraction_q16 = (normal >> 39) & 0xFFFF
    table = log2_table_q16().astype(np.int64)
    low = table[index]
    step = (table[index + 1] - low) & 0xFFFF
    result: Int64Array = (exponent << 16) + low + round_shift(step * fraction_q16, 16)
    return result


def any_bits(re: Int64Array, im: Int64Array) -> Int64Array:
    """The OR of the magnitudes of all values of a frame: (F, n) -> (F,); its bit length is that of the largest."""
    bits: Int64Array = np.bitwise_or.reduce(np.abs(re) | np.abs(im), axis=1)
    return bits
