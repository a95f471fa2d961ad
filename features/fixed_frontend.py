# SPDX-License-Identifier: Apache-2.0
"""int16 samples -> log-mel or MFCC features with integers only: what a device computes, and the specification of its C.

    samples (Q15) -> window (Q15): Q30 -> real FFT / n_fft -> power or magnitude, normalized frame by frame
    -> mel bands (weights Q16) + floor -> log2 (Q16) -> natural log (Q16) -> DCT (Q14 weights, MFCC only) -> Q16

`features_q16` ends there: int32, S = 2^-16, Z = 0. The last step, into a network's (S, Z), is `requantize`.

Headroom, stage by stage (a test drives each to its end):

* The samples of a frame are shifted left until the largest fills 16 bits. sample * window: |.| <= 2^15 * (2^15 - 1).
* FFT: at most 2^30.5, see `fixed_math.real_fft`; the spectrum of a windowed frame stays below 2^30 * mean(window).
* The spectrum of a frame is shifted left, so that its largest part has 30 bits. `t` is the sum of both shifts; where
  more bits would only resolve what lies below the floor, it stops at `t_max`.
* power: re^2 + im^2 <= 2^61, >> (log2(n_fft) + 14); magnitude: 31 bits, 16 of them significant.
* mel: weights of 16 bits, at most n_fft / 2 + 1 bins: at most 2^62 (1 + 2 / n_fft). The floor stays below 2^61.
* log2 in Q16: below 2^22; DCT: 2^23 * 2^15 * 256 = 2^46.

Noise: rounding in the FFT adds about one unit (standard deviation) to each part of a spectrum in which a sine at the
frame's own peak has 2^28, so a bin's noise lies 168 dB below that peak. It never shows: the rounding of the samples to
int16, -101 dBFS in all and some -125 dBFS a bin, lies above it whatever the level.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features import tables
from features.config import FrontendConfig
from features.fixed_math import any_bits, bit_length, log2_q16, real_fft, round_shift, square_root
from features.float_frontend import frames_of, to_int16
from kws.arithmetic.quant import QuantParams

OUTPUT = QuantParams(scale=2.0**-16, zero_point=0, bits=32)
"""What `features_q16` returns: S = 2^-16, Z = 0."""
LN2_Q31 = round(0.6931471805599453 * 2**31)
_FRAMES_AT_ONCE = 512  # some 40 MB of int64


@dataclass(frozen=True)
class FixedTables:
    """The constants of a front-end in integers. They are what an exported model carries."""

    window_q15: NDArray[np.int16]
    """(frame_length,); 1.0 is saturated."""
    mel_first: NDArray[np.uint16]
    """(n_mels,): the first bin of each band."""
    mel_count: NDArray[np.uint16]
    """(n_mels,): its number of bins."""
    mel_weights_q16: NDArray[np.uint16]
    """The weights of band 0, of band 1, ...; 1.0 is saturated."""
    dct_q14: NDArray[np.int16]
    """(n_mfcc, n_mels); (0, n_mels) for "mfb"."""
    floor_multiplier: int
    """floor = floor_multiplier * 2^-floor_exponent, the multiplier in [2^30, 2^31)."""
    floor_exponent: int
    t_max: int
    """The largest left shift of samples and spectrum together: there the floor has 61 bits."""
    log_offset_q16: int


@lru_cache(maxsize=32)
def fixed_tables(config: FrontendConfig) -> FixedTables:
    """`features.tables` in integers. Raises ModelError for a band that lies between two bins."""
    weights = np.minimum(np.rint(tables.mel_weights(config) * 65536.0), 65535.0).astype(np.uint16)
    first, count, values = [], [], []
    for band, exact in zip(weights.T, tables.mel_weights(config).T, strict=True):
        band[exact.argmax()] |= exact.max() < 2.0**-17  # a band keeps a weight
        bins = np.flatnonzero(band)
        first.append(bins[0])
        count.append(bins[-1] - bins[0] + 1)
        values.append(band[bins[0] : bins[-1] + 1])
    fraction, exponent = np.frexp(config.log_floor)
    multiplier, floor_exponent = round(float(fraction) * 2**31), 31 - int(exponent)
    if multiplier == 1 << 31:
        multiplier, floor_exponent = 1 << 30, floor_exponent - 1
    power = int(config.power)
    return FixedTables(
        np.minimum(np.rint(tables.window(config) * 32768.0), 32767.0).astype(np.int16),
        np.array(first, np.uint16),
        np.array(count, np.uint16),
        np.concatenate(values),
        np.rint(tables.dct(config).T * 16384.0).astype(np.int16),
        multiplier,
        floor_exponent,
        min(30, (floor_exponent + 15 * power - _exponent(config, 0)) // power),
        round(config.log_offset * 65536.0),
    )


def _exponent(config: FrontendConfig, t: Any) -> Any:
    """mel = accumulator * 2^-exponent where the spectrum was shifted left by `t`.

    The spectrum has 30 - log2(n_fft) + t fractional bits, its power twice as many less those shifted out, and the
    weights have 16.
    """
    log2_n_fft = config.n_fft.bit_length() - 1
    return 62 - 3 * log2_n_fft + 2 * t if config.power == 2.0 else 46 - log2_n_fft + t


def features_q16(samples: ArrayLike, config: FrontendConfig, *, peak: int | None = None) -> NDArray[np.int32]:
    """Features in Q16: (n,) -> (n_frames, n_features), (B, n) -> (B, n_frames, n_features), int32, S = 2^-16, Z = 0.

    `samples` are int16; floats in [-1, 1) are rounded to int16, half even, and saturated. `peak` replaces the peak in
    Q15 of each clip, by which a front-end that normalizes divides it. Errors as in
    `float_frontend.features`, whose values these are within some 1e-4 (a test states it) as long as they lie above
    the rounding of the samples.
    """
    clips = to_int16(samples)
    batch = np.atleast_2d(clips)
    frames = frames_of(batch, config)
    out = np.empty((*frames.shape[:2], config.n_features), np.int32)
    peaks = peaks_of(batch, config) if peak is None else np.full(len(batch), peak)
    for of_clip, divisor, result in zip(frames, peaks, out, strict=True):
        for start in range(0, len(of_clip), _FRAMES_AT_ONCE):
            part = slice(start, start + _FRAMES_AT_ONCE)
            result[part] = frames_q16(of_clip[part].astype(np.int64), int(divisor), config)
    return out if clips.ndim == 2 else out[0]


def peaks_of(clips: NDArray[np.int16], config: FrontendConfig) -> NDArray[np.int32]:
    """What each clip (B, n) is divided by, in Q15: its largest sample where the config says so and it is positive."""
    if config.normalize == "none":
        return np.full(len(clips), 32768, np.int32)
    peaks = clips.max(axis=1, initial=0).astype(np.int32)
    return np.where(peaks > 0, peaks, 32768).astype(np.int32)


def frames_q16(frames: NDArray[np.int64], peak: int, config: FrontendConfig) -> NDArray[np.int64]:
    """(F, frame_length) samples as int64, and what they are divided by in Q15 -> (F, n_features) in Q16."""
    table = fixed_tables(config)
    power = int(config.power)
    t = np.minimum(15 - bit_length(np.bitwise_or.reduce(frames ^ (frames >> 63), axis=1)), table.t_max)
    windowed_q30 = (frames << t[:, None]) * table.window_q15
    re, im = real_fft(np.pad(windowed_q30, ((0, 0), (0, config.n_fft - config.frame_length))))
    left = np.clip(30 - bit_length(any_bits(re, im)), 0, table.t_max - t)
    re, im = re << left[:, None], im << left[:, None]
    t += left
    energy = re * re + im * im
    spectrum = round_shift(energy, config.n_fft.bit_length() + 13) if power == 2 else square_root(energy)
    mel = np.empty((len(frames), config.n_mels), np.int64)
    start = 0
    for band, (first, count) in enumerate(zip(table.mel_first.tolist(), table.mel_count.tolist(), strict=True)):
        weights = table.mel_weights_q16[start : start + count].astype(np.int64)
        mel[:, band] = np.einsum("fk,k->f", spectrum[:, first : first + count], weights)
        start += count
    # Dividing the samples by the peak is multiplying the floor by it, and subtracting its logarithm in the end.
    right = np.minimum(table.floor_exponent + 15 * power - _exponent(config, t), 62)
    mel += round_shift(np.full_like(t, table.floor_multiplier * peak**power), right)[:, None]
    log2 = log2_q16(np.maximum(mel, 1)) - (_exponent(config, t) << 16)[:, None]
    log2 -= power * (log2_q16(np.array([peak]))[0] - (15 << 16))
    log_q16 = round_shift(log2 * LN2_Q31, 31) + table.log_offset_q16
    if config.kind == "mfb":
        return log_q16
    return round_shift(np.einsum("fm,cm->fc", log_q16, table.dct_q14.astype(np.int64)), 14)
