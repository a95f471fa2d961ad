# SPDX-License-Identifier: Apache-2.0
"""Augmentation on the fly: where a word lies in its window, speed, gain, noise, masks; and the noises themselves.

NumPy on whole batches. All is drawn from the generator that the caller passes: the same one gives the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.layout import PAD, add_at, place, place_anywhere, place_part, word_bounds

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Strength of each augmentation; zero switches one off. `synthetic_*` holds for clips of train-only folders."""

    shift_ms: float = 100.0  # of a clip as it was recorded
    # The next three teach a network what a sliding window meets. They are off: validation has not shown yet
    # that they help.
    anywhere_share: float = 0.0  # of the clips: the word anywhere in the window, often with a neighbour at its edge
    part_share: float = 0.0  # of the clips: less than half of the word, which is learnt as an unknown one
    edge_share: float = 0.0  # of those and of silence: the recording begins or ends within the window
    speed: float = 0.08  # largest relative change of the playing rate (pitch and duration together)
    synthetic_speed: float = 0.22
    gain_db: float = 6.0  # +- uniform
    synthetic_gain_db: float = 12.0
    tilt_db: float = 10.0  # synthetic clips only: more or less treble, as microphones and rooms differ
    noise_probability: float = 0.8
    computed_noise_share: float = 0.4  # of the clips that get noise: white, pink or brown instead of recorded
    snr_db: tuple[float, float] = (0.0, 30.0)  # uniform, against the RMS of the clip
    time_masks: int = 1
    time_mask_ms: float = 100.0  # longest mask
    band_masks: int = 1
    band_mask_share: float = 0.15  # widest mask, of the features
    pitch: float = 0.0  # +- semitones, by librosa: slow
    tempo: float = 0.0  # largest relative change of duration at equal pitch, by librosa: slow


def computed_noise(rng: np.random.Generator, kind: str, n: int) -> Floats:
    """n samples of white, pink (power 1/f) or brown (1/f^2) noise at RMS 1, shaped from 20 Hz up."""
    exponent = {"white": 0.0, "pink": 0.5, "brown": 1.0}[kind]
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / 16000), 20.0)
    noise = np.fft.irfft(spectrum / frequency**exponent, n)
    noise /= np.sqrt(np.mean(noise**2))
    return noise.astype(np.float32, copy=False)


class NoisePool:
    """Recorded noise and computed noise, laid out once; crops cost one copy.

    Each recording is cut in three in time, 80/10/10 %: validation and testing hear noise that training did not.
    `whole` are recordings of this split alone, which are not cut.
    """

    COMPUTED_SECONDS = 60

    def __init__(
        self,
        recordings: Sequence[NDArray[np.int16]],
        n: int,
        split: str,
        seed: int,
        whole: Sequence[NDArray[np.int16]] = (),
    ) -> None:
        begin, end = {"training": (0.0, 0.8), "validation": (0.8, 0.9), "testing": (0.9, 1.0)}[split]
        parts = [*(x[int(begin * len(x)) : int(end * len(x))] for x in recordings), *whole]
        recorded = np.concatenate(parts).astype(np.float32) / 32768 if parts else np.zeros(0, np.float32)
        rng = np.random.default_rng([seed, 7, ("training", "validation", "testing").index(split)])
        kinds = [computed_noise(rng, kind, self.COMPUTED_SECONDS * 16000) for kind in ("white", "pink", "brown")]
        self._computed = np.lib.stride_tricks.sliding_window_view(np.concatenate(kinds), n)
        self._recorded = np.lib.stride_tricks.sliding_window_view(recorded, n) if len(recorded) >= n else None

    def crops(self, rng: np.random.Generator, count: int, computed_share: float) -> tuple[Floats, NDArray[np.bool_]]:
        """Stretches of noise at their own level, (count, n), and which of them are computed (RMS about 1), (count,).

        All are computed where there is no recording.
        """
        out = self._computed[rng.integers(len(self._computed), size=count)]
        computed = rng.random(count) < computed_share
        if self._recorded is None:
            return out, np.ones(count, bool)
        out[~computed] = self._recorded[rng.integers(len(self._recorded), size=int((~computed).sum()))]
        return out, computed

    def silence(self, rng: np.random.Generator, count: int) -> Floats:
        """What counts as `_silence_`, (count, n) in [-1, 1].

        Half is recorded noise scaled by 0 to 1, as the data set's convention has it, half computed noise at -70 to
        -12 dBFS; one clip in twenty is digital zero, with a last bit that flickers or not.
        """
        out, computed = self.crops(rng, count, 0.5)
        gain = np.where(computed, 10 ** (rng.uniform(-70, -12, count) / 20), rng.random(count))
        out *= gain[:, None].astype(np.float32)
        dead = np.flatnonzero(rng.random(count) < 0.05)
        flicker = rng.integers(0, 2, (len(dead), out.shape[1])) * rng.integers(0, 2, (len(dead), 1))
        out[dead] = flicker / np.float32(32768)
        np.clip(out, -1, 1, out=out)
        return out


def rms(x: Floats) -> Floats:
    """Root mean square of each row; (B, n) -> (B,)."""
    level: Floats = np.sqrt(np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1]))
    return level


class Augmenter:
    """Clips of any length -> a batch of windows of n samples, as training hears them."""

    def __init__(self, config: AugmentConfig, pool: NoisePool, n: int, sample_rate: int = 16000) -> None:
        self.config, self.pool, self.n, self.sample_rate = config, pool, n, sample_rate

    def waveforms(
        self,
        rng: np.random.Generator,
        clips: Sequence[NDArray[np.int16] | None],
        synthetic: NDArray[np.bool_],
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Windows (B, n) float32 in [-1, 1], and which of them, (B,), show less than half of their word.

        A clip of None asks for silence. `synthetic`, shape (B,), marks the clips of train-only folders.
        """
        config, count = self.config, len(clips)
        span = np.where(synthetic, config.synthetic_speed, config.speed)
        speed = 1 + span * rng.uniform(-1, 1, count)
        sounds = [
            None if clip is None else self._change_pitch_and_tempo(rng, clip.astype(np.float32) / np.float32(32768))
            for clip in clips
        ]
        sounds = [sound if sound is None else play_at(sound, s) for sound, s in zip(sounds, speed, strict=True)]
        silent = np.array([sound is None for sound in sounds])
        out = np.zeros((count, self.n), np.float32)
        part, taken = self._lay_out(rng, out, sounds, synthetic)
        self._tilt(rng, out, synthetic)
        self._add_noise(rng, out, ~silent)
        gain_db = np.where(synthetic, config.synthetic_gain_db, config.gain_db) * rng.uniform(-1, 1, count)
        out *= (10 ** (gain_db / 20)).astype(np.float32)[:, None]
        if silent.any():
            out[silent] = self.pool.silence(rng, int(silent.sum()))
        self._begin_or_end(rng, out, taken)
        np.clip(out, -1, 1, out=out)
        return out, part

    def mask(self, rng: np.random.Generator, features: Floats, hop_length: int) -> Floats:
        """SpecAugment, in place on (B, n_frames, n_features): stretches of time and of bands get their clip's mean."""
        config = self.config
        longest = config.time_mask_ms / 1000 * self.sample_rate / hop_length
        mean = features.mean(axis=(1, 2), keepdims=True)
        for _ in range(config.time_masks):
            np.copyto(features, mean, where=_stretch(rng, len(features), features.shape[1], longest)[:, :, None])
        for _ in range(config.band_masks):
            widest = config.band_mask_share * features.shape[2]
            np.copyto(features, mean, where=_stretch(rng, len(features), features.shape[2], widest)[:, None, :])
        return features

    def _lay_out(
        self,
        rng: np.random.Generator,
        out: Floats,
        sounds: Sequence[Floats | None],
        synthetic: NDArray[np.bool_],
    ) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Put every sound into its row; which rows show part of a word, (B,), and which samples are taken, (B, 2)."""
        config, count = self.config, len(out)
        shift = np.where(synthetic, 0, rng.uniform(-1, 1, count)) * config.shift_ms / 1000 * self.sample_rate
        where, kind, alone = rng.random(count), rng.random(count), rng.random(count) < 0.5
        part = np.zeros(count, bool)
        taken = np.tile([0, self.n], (count, 1))
        for row, sound in enumerate(sounds):
            moved = kind[row] < config.part_share + config.anywhere_share
            word = word_bounds(sound) if moved and sound is not None else None
            if sound is None:
                taken[row] = rng.integers(self.n)
            elif word is None:
                place(out[row], sound, where[row], int(shift[row]))
            else:
                part[row] = kind[row] < config.part_share
                neighbour = None if alone[row] else _with_pad(sounds[(row + 1) % count])
                lay = place_part if part[row] else place_anywhere
                taken[row] = lay(rng, out[row], sound, word, neighbour)
        return part, taken

    def _begin_or_end(self, rng: np.random.Generator, out: Floats, taken: NDArray[np.int64]) -> None:
        """In `edge_share` of the rows: zeros up to some sample before what is taken, or from one behind it on."""
        for row in np.flatnonzero(rng.random(len(out)) < self.config.edge_share):
            begin, end = taken[row]
            if rng.random() < 0.5:
                out[row, : rng.integers(begin + 1)] = 0
            else:
                out[row, rng.integers(end, self.n + 1) :] = 0

    def _add_noise(self, rng: np.random.Generator, out: Floats, speech: NDArray[np.bool_]) -> None:
        config, count = self.config, len(out)
        noisy = speech & (rng.random(count) < config.noise_probability)
        noise, _ = self.pool.crops(rng, count, config.computed_noise_share)
        ratio = 10 ** (rng.uniform(*config.snr_db, count) / 20)
        gain = np.where(noisy, rms(out) / (ratio * np.maximum(rms(noise), 1e-6)), 0)
        noise *= gain.astype(np.float32)[:, None]
        out += noise

    def _tilt(self, rng: np.random.Generator, out: Floats, rows: NDArray[np.bool_]) -> None:
        """y[t] = x[t] - a x[t-1] over its gain at 1 kHz; a in [-0.5, 0.5] for 6 dB: more treble (a > 0) or less."""
        if self.config.tilt_db and rows.any():
            strongest = self.config.tilt_db / 12
            a = (rng.uniform(-strongest, strongest, int(rows.sum()))).astype(np.float32)[:, None]
            x = out[rows]
            omega = 2 * np.pi * 1000 / self.sample_rate
            y = x.copy()
            y[:, 1:] -= a * x[:, :-1]
            out[rows] = y / np.sqrt(1 - 2 * a * np.float32(np.cos(omega)) + a * a)

    def _change_pitch_and_tempo(self, rng: np.random.Generator, sound: Floats) -> Floats:
        config = self.config
        if config.pitch or config.tempo:
            import librosa

            if config.pitch:
                steps = rng.uniform(-config.pitch, config.pitch)
                sound = librosa.effects.pitch_shift(sound, sr=self.sample_rate, n_steps=steps)
            if config.tempo:
                sound = librosa.effects.time_stretch(sound, rate=1 + rng.uniform(-config.tempo, config.tempo))
        return sound


def _with_pad(sound: Floats | None) -> Floats | None:
    """The word of a sound with exactly PAD samples on either side, zeros where the sound has none; None without one."""
    word = None if sound is None else word_bounds(sound)
    if sound is None or word is None:
        return None
    start, end = word
    padded = np.zeros(end - start + 2 * PAD, np.float32)
    add_at(padded, sound, PAD - start)
    return padded


def play_at(sound: Floats, speed: float) -> Floats:
    """The sound played at `speed` times its rate, by linear interpolation: pitch and duration change together.

    `speed` is rounded to hundredths, so that the positions are computed once for each.
    """
    percent = round(100 * speed)
    if percent == 100 or len(sound) < 2:
        return sound
    count = -(-100 * (len(sound) - 1) // percent)
    before, part = _positions(percent, 1 << (count - 1).bit_length())
    out = np.diff(sound).take(before[:count])
    out *= part[:count]
    out += sound.take(before[:count])
    return out


@lru_cache(maxsize=256)
def _positions(percent: int, count: int) -> tuple[NDArray[np.int64], Floats]:
    """Of output sample i < count: the input sample before it, and how far it lies beyond that one, in [0, 1)."""
    before, hundredths = np.divmod(np.arange(count) * percent, 100)
    return before, (hundredths / 100).astype(np.float32)


def _stretch(rng: np.random.Generator, count: int, length: int, longest: float) -> NDArray[np.bool_]:
    """(count, length) masks of one stretch of 0 to `longest` places each."""
    width = rng.integers(0, min(int(longest), length) + 1, (count, 1))
    start = (rng.random((count, 1)) * (length - width + 1)).astype(np.int64)
    place = np.arange(length)
    return (place >= start) & (place < start + width)
