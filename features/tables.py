# SPDX-License-Identifier: Apache-2.0
"""The constants of a front-end in float64: window, mel filterbank, DCT. Computed once, shared by every front-end."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from features.config import FrontendConfig
from kws.errors import ModelError

Table = NDArray[np.float64]

# Slaney's scale: linear below 1 kHz (200/3 Hz a mel), logarithmic above (27 steps for a factor of 6.4).
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_LOG_START_HZ = 1000.0
_SLANEY_LOG_START_MEL = _SLANEY_LOG_START_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def hz_to_mel(hz: Table | float, mel_scale: str) -> Table:
    """Hz -> mel on the "htk" (2595 log10(1 + f / 700)) or the "slaney" scale."""
    hz = np.asarray(hz, np.float64)
    if mel_scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    above = np.log(np.maximum(hz, _SLANEY_LOG_START_HZ) / _SLANEY_LOG_START_HZ) / _SLANEY_LOG_STEP
    return np.where(hz < _SLANEY_LOG_START_HZ, hz / _SLANEY_HZ_PER_MEL, _SLANEY_LOG_START_MEL + above)


def mel_to_hz(mel: Table | float, mel_scale: str) -> Table:
    """Inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if mel_scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mel / 2595.0) - 1.0))
    above = np.exp(_SLANEY_LOG_STEP * (np.maximum(mel, _SLANEY_LOG_START_MEL) - _SLANEY_LOG_START_MEL))
    return np.where(mel < _SLANEY_LOG_START_MEL, mel * _SLANEY_HZ_PER_MEL, _SLANEY_LOG_START_HZ * above)


@lru_cache(maxsize=32)
def window(config: FrontendConfig) -> Table:
    """Periodic Hann window, shape (frame_length,)."""
    phase = 2.0 * np.pi * np.arange(config.frame_length) / config.frame_length
    return _frozen(0.5 - 0.5 * np.cos(phase))


@lru_cache(maxsize=32)
def mel_weights(config: FrontendConfig) -> Table:
    """Triangular mel filters of height 1, shape (n_bins, n_mels); mel = spectrum @ mel_weights.

    The n_mels + 2 edges are equally spaced in mel. Raises ModelError for a band that lies between two bins.
    """
    edges_mel = np.linspace(
        hz_to_mel(config.fmin, config.mel_scale), hz_to_mel(config.fmax, config.mel_scale), config.n_mels + 2
    )
    bins = np.linspace(0.0, config.sample_rate / 2, config.n_bins)
    if config.mel_triangles == "mel":
        bins, edges = hz_to_mel(bins, config.mel_scale), edges_mel
    else:
        edges = mel_to_hz(edges_mel, config.mel_scale)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if config.mel_triangles == "mel":
        weights[0] = 0.0
    empty = np.flatnonzero(weights.sum(axis=0) == 0.0)
    if empty.size:
        raise ModelError(
            f"is {config.n_mels}, so that mel band {empty[0]} holds no FFT bin",
            where="frontend.n_mels",
            hint="fewer bands or a larger n_fft",
        )
    return _frozen(weights)


@lru_cache(maxsize=32)
def dct(config: FrontendConfig) -> Table:
    """The first n_mfcc rows of the DCT-II, transposed: shape (n_mels, n_mfcc); mfcc = log_mel @ dct."""
    n = config.n_mels
    matrix = np.cos(np.pi / n * np.outer(np.arange(n) + 0.5, np.arange(config.n_mfcc))) * np.sqrt(2.0 / n)
    if config.dct_norm == "ortho":
        matrix[:, :1] *= np.sqrt(0.5)
    return _frozen(matrix)


def _frozen(table: Table) -> Table:
    table.flags.writeable = False  # one array serves every caller
    return table
