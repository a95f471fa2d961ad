# SPDX-License-Identifier: Apache-2.0
"""Window, mel filters and DCT against scipy and librosa."""

from dataclasses import replace

import librosa
import numpy as np
import pytest
import scipy.fft
import scipy.signal

from features import tables
from features.config import PRESETS
from kws.errors import ModelError

MFB = PRESETS["mfb40"]
MFCC = PRESETS["mfcc10"]


def test_the_window_is_scipys_periodic_hann():
    expected = scipy.signal.get_window("hann", MFB.frame_length, fftbins=True)
    np.testing.assert_allclose(tables.window(MFB), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
@pytest.mark.parametrize("config", [MFB, MFCC], ids=["mfb40", "mfcc10"])
def test_the_mel_filters_are_librosas(config, mel_scale):
    config = replace(config, mel_scale=mel_scale)
    expected = librosa.filters.mel(
        sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.n_mels, fmin=config.fmin, fmax=config.fmax,
        htk=mel_scale == "htk", norm=None, dtype=np.float64,
    )  # fmt: skip
    np.testing.assert_allclose(tables.mel_weights(config), expected.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mel_scale", ["htk", "slaney"])
def test_mel_to_hz_undoes_hz_to_mel(mel_scale):
    hz = np.linspace(0.0, 8000.0, 1001)
    np.testing.assert_allclose(tables.mel_to_hz(tables.hz_to_mel(hz, mel_scale), mel_scale), hz, atol=1e-9)
    expected = librosa.hz_to_mel(hz, htk=mel_scale == "htk")
    np.testing.assert_allclose(tables.hz_to_mel(hz, mel_scale), expected, atol=1e-9)


def test_triangles_in_mel_and_in_hz_differ_and_leave_the_dc_bin_zero():
    in_mel = tables.mel_weights(replace(MFCC, mel_triangles="mel", fmin=0.0))
    in_hz = tables.mel_weights(replace(MFCC, fmin=0.0))
    assert not in_mel[0].any()
    assert 1e-3 < np.abs(in_mel - in_hz).max() < 0.1


def test_the_dct_is_scipys_and_htks_differs_in_coefficient_0_alone():
    log_mel = np.random.default_rng(0).normal(size=(7, MFCC.n_mels))
    ortho = scipy.fft.dct(log_mel, type=2, norm="ortho")[:, : MFCC.n_mfcc]
    np.testing.assert_allclose(log_mel @ tables.dct(MFCC), ortho, atol=1e-12)
    ortho[:, 0] *= np.sqrt(2.0)
    np.testing.assert_allclose(log_mel @ tables.dct(replace(MFCC, dct_norm="htk")), ortho, atol=1e-12)


def test_tables_are_made_once_and_cannot_be_changed():
    assert tables.mel_weights(MFB) is tables.mel_weights(replace(MFB))
    with pytest.raises(ValueError, match="read-only"):
        tables.mel_weights(MFB)[0, 0] = 1.0


def test_a_band_without_a_bin_is_refused():
    with pytest.raises(ModelError, match=r"frontend\.n_mels: is 128, so that mel band \d+ holds no FFT bin"):
        tables.mel_weights(replace(MFB, n_mels=128))
