# SPDX-License-Identifier: Apache-2.0
"""Log-mel and MFCC on real speech: NumPy against librosa and torchaudio, torch against NumPy."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torchaudio

from features.audio import read_audio
from features.config import PRESETS
from features.float_frontend import features, mel_spectrogram
from features.quantize import clip_samples
from features.torch_frontend import TorchFrontend
from kws.errors import AudioError, UsageError

DATA = Path(__file__).parents[2] / "data"
MFB, MFCC = PRESETS["mfb40"], PRESETS["mfcc10"]
COMPARED = {
    "mfb40": MFB,
    "mfcc10": MFCC,
    "magnitude": replace(MFCC, power=1.0),
    "slaney": replace(MFB, mel_scale="slaney", hop_length=160),
}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def speech():
    """int16 (40, 16000): a clip of each word and more, some shorter than a second."""
    names = (DATA / "validation_list.txt").read_text().split()[::3][:40]
    return np.stack([clip_samples(read_audio(DATA / name, dtype="int16"), 16_000) for name in names])


@contextmanager
def torch_float64():
    """torchaudio makes its filters in the default dtype, and 1e-7 of a loud bin shows in a faint band's logarithm."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def centred(samples, config):
    """Padded so that a window centred in n_fft samples, as both oracles have it, begins where our frame does."""
    surplus = config.n_fft - config.frame_length
    return np.pad(samples / 32768.0, (surplus // 2, surplus - surplus // 2))


def librosa_mel(samples, config):
    return librosa.feature.melspectrogram(
        y=centred(samples, config), sr=config.sample_rate, n_fft=config.n_fft, win_length=config.frame_length,
        hop_length=config.hop_length, window="hann", center=False, power=config.power, n_mels=config.n_mels,
        fmin=config.fmin, fmax=config.fmax, htk=config.mel_scale == "htk", norm=None,
    ).T  # fmt: skip


@torch_float64()
def torchaudio_mel(samples, config):
    transform = torchaudio.transforms.MelSpectrogram(
        sample_rate=config.sample_rate, n_fft=config.n_fft, win_length=config.frame_length,
        hop_length=config.hop_length, center=False, power=config.power, n_mels=config.n_mels,
        f_min=config.fmin, f_max=config.fmax, mel_scale=config.mel_scale, norm=None,
    )  # fmt: skip
    return transform(torch.from_numpy(centred(samples, config))).numpy().T


@pytest.mark.parametrize("config", COMPARED.values(), ids=COMPARED)
@pytest.mark.parametrize("oracle", [librosa_mel, torchaudio_mel])
def test_mel_and_log_mel_equal_the_oracles(speech, oracle, config):
    for samples in speech:
        ours, theirs = mel_spectrogram(samples, config), oracle(samples, config)
        assert ours.shape == theirs.shape == (config.n_frames, config.n_mels)
        assert (np.abs(ours - theirs) <= TOLERANCE * ours.max(axis=1, keepdims=True)).all()
        log_mel = features(samples, replace(config, kind="mfb", n_mfcc=0))
        assert np.abs(log_mel - config.log_offset - np.log(theirs + config.log_floor)).max() < TOLERANCE


def test_mfcc_equals_librosas(speech):
    for samples in speech:
        log_mel = np.log(librosa_mel(samples, MFCC) + MFCC.log_floor)
        theirs = librosa.feature.mfcc(S=log_mel.T, n_mfcc=MFCC.n_mfcc, norm="ortho").T
        assert np.abs(features(samples, MFCC) - theirs).max() < TOLERANCE


@torch_float64()
def test_mfcc_equals_torchaudios(speech):
    assert MFCC.log_floor == 1e-6, "torchaudio's own floor, which it does not let one choose"
    transform = torchaudio.transforms.MFCC(
        sample_rate=MFCC.sample_rate, n_mfcc=MFCC.n_mfcc, norm="ortho", log_mels=True,
        melkwargs={"n_fft": MFCC.n_fft, "win_length": MFCC.frame_length, "hop_length": MFCC.hop_length,
                   "center": False, "n_mels": MFCC.n_mels, "f_min": MFCC.fmin, "f_max": MFCC.fmax},
    )  # fmt: skip
    theirs = transform(torch.from_numpy(np.stack([centred(samples, MFCC) for samples in speech])))
    assert np.abs(features(speech, MFCC) - theirs.numpy().transpose(0, 2, 1)).max() < TOLERANCE


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_the_torch_front_end_equals_numpy(speech, config):
    expected = features(speech, config)
    samples = torch.from_numpy(speech / 32768.0)
    with torch_float64():
        double = TorchFrontend(config)(samples).numpy()
    assert np.abs(double - expected).max() < 1e-5
    single = TorchFrontend(config)(samples.float()).numpy()
    assert single.dtype == np.float32
    assert single.shape == expected.shape
    error = np.abs(single - expected)
    assert np.quantile(error, 0.999) < TOLERANCE
    assert error.max() < 1e-3


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_one_clip_a_batch_int16_and_float_give_the_same(speech, config):
    batch = features(speech[:3], config)
    assert batch.dtype == np.float32
    assert np.array_equal(batch[1], features(speech[1], config))
    assert np.array_equal(batch, features((speech[:3] / 32768.0).astype(np.float32), config))


@pytest.mark.parametrize("config", [MFB, MFCC], ids=["mfb40", "mfcc10"])
def test_a_long_recording_has_the_frames_of_its_parts(speech, config):
    """So detection may compute one long array and slide over its frames."""
    recording = speech[:3].reshape(-1)
    whole = features(recording, config)
    for first in (0, 17, 90):
        start = first * config.hop_length
        part = features(recording[start : start + config.clip_samples], config)
        assert np.array_equal(part, whole[first : first + config.n_frames])


def test_more_frames_than_one_block_change_nothing(speech):
    config = replace(MFB, hop_length=5)
    assert features(speech[0], config).shape == (config.n_frames, 40)
    assert config.n_frames > 2048
    assert np.array_equal(features(speech[0], config)[::64], features(speech[0], MFB))


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_digital_silence_gives_the_floor(config):
    silence = features(np.zeros(16_000, np.int16), config)
    assert np.isfinite(silence).all()
    assert np.ptp(silence, axis=0).max() == 0.0
    torch_silence = TorchFrontend(config)(torch.zeros(1, 16_000))[0].numpy()
    np.testing.assert_allclose(torch_silence, silence, atol=TOLERANCE)


def test_peak_normalization_divides_by_the_largest_positive_sample(speech):
    config = PRESETS["mlperf-tiny"]
    samples = speech[0] / 32768.0
    plain = replace(config, normalize="none")
    assert np.array_equal(features(samples, config), features(samples / samples.max(), plain))
    np.testing.assert_allclose(features(samples * 0.25, config), features(samples, config), atol=1e-5)
    never_positive = -np.abs(samples)
    assert np.array_equal(features(never_positive, config), features(never_positive, plain))


@pytest.mark.parametrize(("n", "n_frames"), [(0, 0), (479, 0), (480, 1), (799, 1), (800, 2)])
@pytest.mark.parametrize("normalize", ["none", "peak"])
def test_short_input_gives_the_frames_that_fit(n, n_frames, normalize):
    config = replace(MFB, normalize=normalize)
    assert features(np.zeros(n, np.int16), config).shape == (n_frames, 40)
    assert features(np.zeros((0, n), np.int16), config).shape == (0, n_frames, 40)


def test_samples_that_are_none_are_refused():
    with pytest.raises(AudioError, match="NaN or infinite"):
        features(np.array([0.0, np.nan]), MFB)
    with pytest.raises(UsageError, match="dtype int32"):
        features(np.zeros(480, np.int32), MFB)
    with pytest.raises(UsageError, match=r"shape \(1, 1, 480\)"):
        features(np.zeros((1, 1, 480)), MFB)
