# SPDX-License-Identifier: Apache-2.0
"""Samples -> log-mel or MFCC features in NumPy, in float64: what the other front-ends are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from features import tables
from features.config import FrontendConfig
from kws.errors import AudioError, UsageError

_FRAMES_AT_ONCE = 2048  # bounds memory for hours of sound: 2048 frames in float64 are some 20 MB


def features(samples: ArrayLike, config: FrontendConfig) -> NDArray[np.float32]:
    """Features of `samples`: (n,) -> (n_frames, n_features), (B, n) -> (B, n_frames, n_features), float32.

    `samples` are int16, or floats in [-1, 1). Any `n`: n_frames = 1 + (n - frame_length) // hop_length, or 0.
    Raises AudioError on NaN or infinite samples, UsageError on another dtype or shape.
    """
    clips = checked_samples(samples)
    frames = _normalized_frames(np.atleast_2d(clips), config)
    out = np.empty((*frames.shape[:2], config.n_features), np.float32)
    for of_clip, result in zip(frames, out, strict=True):
        for start in range(0, len(of_clip), _FRAMES_AT_ONCE):
            part = slice(start, start + _FRAMES_AT_ONCE)
            log_mel = np.log(_mel(of_clip[part], config) + config.log_floor) + config.log_offset
            result[part] = log_mel if config.kind == "mfb" else _product(log_mel, tables.dct(config))
    return out if clips.ndim == 2 else out[0]


def mel_spectrogram(samples: ArrayLike, config: FrontendConfig) -> NDArray[np.float64]:
    """Mel bands before the logarithm: (n,) -> (n_frames, n_mels), float64, of the magnitude or the power spectrum.

    Units: (full scale * window sum) to the power `config.power`.
    """
    return _mel(_normalized_frames(checked_samples(samples)[None], config)[0], config)


def to_float64(samples: NDArray[Any]) -> NDArray[np.float64]:
    """int16 divided by 32768, floats as they are."""
    return samples / 32768.0 if samples.dtype == np.int16 else samples.astype(np.float64)


def to_int16(samples: ArrayLike) -> NDArray[np.int16]:
    """int16 as they are, floats times 32768, rounded half even and saturated. Errors as in `features`."""
    array = checked_samples(samples)
    if array.dtype == np.int16:
        return array
    return np.clip(np.rint(array * 32768.0), -32768, 32767).astype(np.int16)


def checked_samples(samples: ArrayLike) -> NDArray[Any]:
    """`samples` as an array, (n,) or (B, n), int16 or float. UsageError and AudioError as of `features`."""
    array = np.asarray(samples)
    if array.ndim not in (1, 2):
        raise UsageError(f"samples of shape {array.shape} are neither (n,) nor (B, n)")
    if array.dtype != np.int16 and array.dtype.kind != "f":
        raise UsageError(f"samples of dtype {array.dtype} are neither int16 nor float")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise AudioError("samples hold NaN or infinite values")
    return array


def frames_of(clips: NDArray[Any], config: FrontendConfig) -> NDArray[Any]:
    """(B, n) -> (B, n_frames, frame_length), a view."""
    if config.frames_in(clips.shape[1]) == 0:
        return np.empty((len(clips), 0, config.frame_length), clips.dtype)
    return np.lib.stride_tricks.sliding_window_view(clips, config.frame_length, axis=1)[:, :: config.hop_length]


def _normalized_frames(clips: NDArray[Any], config: FrontendConfig) -> NDArray[Any]:
    """`frames_of` clips, each divided by its peak where the config says so."""
    if config.normalize == "peak":
        clips = to_float64(clips)
        peak = clips.max(axis=1, keepdims=True, initial=0.0)
        clips = clips / np.where(peak > 0.0, peak, 1.0)
    return frames_of(clips, config)


def _mel(frames: NDArray[Any], config: FrontendConfig) -> NDArray[np.float64]:
    """(n_frames, frame_length) -> (n_frames, n_mels)."""
    spectrum = np.fft.rfft(to_float64(frames) * tables.window(config), n=config.n_fft)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return _product(power if config.power == 2.0 else np.sqrt(power), tables.mel_weights(config))


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a @ b, each row summed in the same order however many rows there are: BLAS would change bits with the batch."""
    product: NDArray[np.float64] = np.einsum("ij,jk->ik", a, b)
    return product
