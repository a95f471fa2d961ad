# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment import AugmentConfig, Augmenter, NoisePool, computed_noise, play_at, rms

OFF = AugmentConfig(
    shift_ms=0, speed=0, synthetic_speed=0, gain_db=0, synthetic_gain_db=0, tilt_db=0, noise_probability=0,
    time_masks=0, band_masks=0, anywhere_share=0, part_share=0, edge_share=0,
)  # fmt: skip
N = 1600


def augmenter(**changes: Any) -> Augmenter:
    return Augmenter(dataclasses.replace(OFF, **changes), NoisePool([], N, "training", 0), N)


def clips(count: int, length: int = N) -> list[np.ndarray | None]:
    return list(np.random.default_rng(1).integers(-9000, 9000, (count, length)).astype(np.int16))


def waveforms(maker: Augmenter, seed: int, batch: list[np.ndarray | None], synthetic: np.ndarray) -> np.ndarray:
    return maker.waveforms(np.random.default_rng(seed), batch, synthetic)[0]


def recorded(count: int) -> np.ndarray:
    return np.zeros(count, bool)


def test_everything_off_returns_the_clips() -> None:
    batch = clips(3)
    out = waveforms(augmenter(), 0, batch, recorded(3))
    assert out.dtype == np.float32
    assert np.array_equal(out * 32768, np.stack(batch))


def test_same_generator_same_batch() -> None:
    maker = Augmenter(AugmentConfig(), NoisePool([], N, "training", 0), N)
    batch, mixed = [*clips(5), None], np.arange(6) % 2 == 0
    a, b, c = (waveforms(maker, seed, batch, mixed) for seed in (4, 4, 5))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert np.abs(a).max() <= 1


def test_shift_moves_a_clip_by_up_to_its_limit_and_fills_with_zeros() -> None:
    batch = [np.arange(1, N + 1).astype(np.int16)] * 200
    out = waveforms(augmenter(shift_ms=10), 0, batch, recorded(200)) * 32768
    # Where sample 1000 of the clip came to lie: up to 160 samples (10 ms) from its place, both ways.
    moved = np.array([int(np.flatnonzero(row == 1001)[0]) - 1000 for row in out])
    assert -160 <= moved.min() < -120
    assert 120 < moved.max() <= 160
    late = out[moved.argmax()]
    assert not late[: moved.max()].any()


def test_gain_is_uniform_in_decibels() -> None:
    out = waveforms(augmenter(gain_db=6), 0, clips(1) * 300, recorded(300))
    decibels = 20 * np.log10(rms(out) / rms(np.stack(clips(1)) / np.float32(32768)))
    assert -6 <= decibels.min() < -5.5
    assert 5.5 < decibels.max() <= 6
    assert abs(decibels.mean()) < 0.5


def test_noise_has_the_asked_ratio_to_the_speech() -> None:
    speech = waveforms(augmenter(), 0, clips(50), recorded(50))
    noisy = waveforms(augmenter(noise_probability=1, snr_db=(10, 10)), 0, clips(50), recorded(50))
    ratio = 20 * np.log10(rms(speech) / rms(noisy - speech))
    assert ratio == pytest.approx(10, abs=0.05)


def test_noise_comes_with_its_probability() -> None:
    speech = np.stack(clips(400)) / np.float32(32768)
    out = waveforms(augmenter(noise_probability=0.8), 0, clips(400), recorded(400))
    assert np.mean(np.any(out != speech, axis=1)) == pytest.approx(0.8, abs=0.06)


def test_synthetic_clips_get_the_stronger_settings() -> None:
    maker = augmenter(synthetic_gain_db=12)
    half = np.arange(40) < 20
    out = waveforms(maker, 0, clips(1) * 40, half)
    assert len(np.unique(rms(out[half]))) == 20
    assert len(np.unique(rms(out[~half]))) == 1


def test_tilt_changes_the_balance_and_keeps_one_kilohertz() -> None:
    def tone(frequency: float) -> np.ndarray:
        return (8000 * np.sin(2 * np.pi * frequency * np.arange(N) / 16000)).astype(np.int16)

    maker, synthetic = augmenter(tilt_db=6), np.ones(100, bool)
    levels = {}
    for frequency in (100, 1000, 7000):
        out = waveforms(maker, 0, [tone(frequency)] * 100, synthetic)
        levels[frequency] = 20 * np.log10(rms(out) / rms(out).mean())
    assert np.ptp(levels[1000]) < 0.2
    assert np.ptp(levels[7000]) > 5
    assert np.corrcoef(levels[100], levels[7000])[0, 1] < -0.8


def test_silence_clips_are_quiet_to_loud_and_some_are_digital_zero() -> None:
    pool = NoisePool([np.random.default_rng(0).integers(-300, 300, 40 * N).astype(np.int16)], N, "training", 0)
    out = pool.silence(np.random.default_rng(0), 600)
    level = rms(out)
    assert np.abs(out).max() <= 1
    assert (level == 0).any()
    assert level[level > 0].min() < 1e-4
    assert level.max() > 0.1


def test_augmented_batch_holds_silence_where_asked() -> None:
    out = waveforms(augmenter(), 0, [*clips(1), None], recorded(2))
    assert np.array_equal(out[0] * 32768, clips(1)[0])
    assert not np.array_equal(out[1] * 32768, clips(1)[0])


@pytest.mark.parametrize(("kind", "slope"), [("white", 0.0), ("pink", -1.0), ("brown", -2.0)])
def test_computed_noise_has_its_spectrum_and_unit_level(kind: str, slope: float) -> None:
    noise = computed_noise(np.random.default_rng(0), kind, 1 << 18)
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / 16000)
    band = [(power[(frequency > f) & (frequency < 2 * f)].mean(), f) for f in (100, 3200)]
    assert np.log2(band[1][0] / band[0][0]) / 5 == pytest.approx(slope, abs=0.1)


def test_splits_hear_different_noise() -> None:
    recording = np.arange(32000).astype(np.int16)
    ranges = {}
    for split in ("training", "validation", "testing"):
        pool = NoisePool([recording], N, split, 0)
        crops, computed = pool.crops(np.random.default_rng(0), 200, 0.0)
        assert not computed.any()
        ranges[split] = (crops.min() * 32768, crops.max() * 32768)
    assert ranges["training"][1] < 25600 <= ranges["validation"][0]
    assert ranges["validation"][1] < 28800 <= ranges["testing"][0]


@given(st.floats(0.7, 1.4), st.integers(2, 3000))
def test_playing_faster_shortens(speed: float, length: int) -> None:
    out = play_at(np.ones(length, np.float32), speed)
    assert len(out) == pytest.approx(length * 100 / round(100 * speed), abs=2)
    assert out == pytest.approx(1, abs=1e-6)


def test_playing_faster_raises_the_pitch() -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(8000) / 16000).astype(np.float32)
    faster = play_at(tone, 1.1)
    expected = np.sin(2 * np.pi * 220 * np.arange(len(faster)) / 16000)
    assert np.abs(faster - expected).max() < 2e-3
    assert play_at(tone, 1.0) is tone


def test_masks_cover_stretches_with_the_clip_s_mean() -> None:
    maker = augmenter(time_masks=1, time_mask_ms=20, band_masks=1, band_mask_share=0.2)
    features = np.random.default_rng(0).standard_normal((50, 30, 20)).astype(np.float32)
    mean = features.mean(axis=(1, 2))
    masked = maker.mask(np.random.default_rng(1), features.copy(), 16)
    same_row = (masked == mean[:, None, None]).all(axis=2).sum(axis=1)
    same_column = (masked == mean[:, None, None]).all(axis=1).sum(axis=1)
    assert 10 < same_row.max() <= 20  # 20 ms are 20 hops of 16 samples
    assert same_column.max() == 4  # 20 % of 20 bands
    kept = masked != mean[:, None, None]
    assert np.array_equal(masked[kept], features[kept])


def test_pitch_and_tempo_go_through_librosa() -> None:
    config = dataclasses.replace(OFF, pitch=2.0, tempo=0.2)
    maker = Augmenter(config, NoisePool([], 16000, "training", 0), 16000)
    tone = (8000 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)).astype(np.int16)
    out = waveforms(maker, 3, [tone], recorded(1))
    assert out.shape == (1, 16000)
    assert np.argmax(np.abs(np.fft.rfft(out[0]))) != 500


def spoken(n: int = 16000) -> np.ndarray:
    """A clip whose word is 6000 samples of one value."""
    return np.pad(np.full(6000, 5000, np.int16), (5000, n - 11000))


def test_parts_of_words_are_told_and_come_with_their_share() -> None:
    maker = Augmenter(dataclasses.replace(OFF, part_share=0.25), NoisePool([], 16000, "training", 0), 16000)
    out, part = maker.waveforms(np.random.default_rng(0), [spoken()] * 400, recorded(400))
    visible = np.count_nonzero(out, axis=1)
    assert part.mean() == pytest.approx(0.25, abs=0.07)
    assert (visible[~part] == 6000).all()
    assert (visible[part] <= 2 * 0.45 * 6400).all()  # the word and its neighbour, found to two frames


def test_clips_whose_word_cannot_be_told_are_never_parts() -> None:
    maker = augmenter(part_share=0.5, anywhere_share=0.5)
    out, part = maker.waveforms(np.random.default_rng(0), clips(3), recorded(3))
    assert not part.any()
    assert np.array_equal(out * 32768, np.stack(clips(3)))


def test_a_recording_begins_or_ends_outside_of_the_word() -> None:
    config = dataclasses.replace(OFF, anywhere_share=1, edge_share=1, noise_probability=1, snr_db=(0, 0))
    maker = Augmenter(config, NoisePool([], 16000, "training", 0), 16000)
    out, _ = maker.waveforms(np.random.default_rng(0), [spoken(), None] * 50, recorded(100))
    zeros = np.array([max(np.flatnonzero(row)[0], 16000 - np.flatnonzero(row)[-1] - 1) for row in out if row.any()])
    assert np.mean(zeros > 160) > 0.8  # on one side or the other
    assert (np.count_nonzero(out[::2], axis=1) >= 5900).all()  # the word stays
