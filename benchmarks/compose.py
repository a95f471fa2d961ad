# SPDX-License-Identifier: Apache-2.0
"""Compose recordings of 25 to 30 s out of single words, with the truth beside each.

    python benchmarks/compose.py --data SPEECH_COMMANDS --out DIR [--count 20] [--seed 10]

Each recording holds six keywords and six other words of one split's speakers, no speaker in two recordings, with
pauses of 0.5 to 2 s, on recorded background noise. ``X.wav`` gets ``X.txt``: start, end and label of every word,
tab-separated, in seconds, as Audacity reads it. The times are those of the word itself: every clip is trimmed by its
energy first. Every word is brought to the same RMS, so that the recording's signal-to-noise ratio (10 to 20 dB) is that
of each of its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import soundfile as sf
from numpy.random import Generator
from numpy.typing import NDArray

from features.audio import read_audio
from kws.errors import DataError
from kws.stream_score import Word, write_labels
from training.dataset import NOISE_FOLDERS, Clip, scan_folder

SAMPLE_RATE = 16000
RECORDED_KEYWORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go")
TOO_RARE = ("on", "off")  # three validation clips each; keywords of the shipped model, so no other words either
COMPUTED_NOISE = ("white_noise", "pink_noise")  # the data set has them beside its recorded noises
WORDS, KEYWORDS = 12, 6  # of a recording, and how many of them are keywords
SECONDS = (25.0, 30.0)
PAUSE = (0.5, 2.0)
SNR_DB = (10.0, 20.0)
WORD_RMS = 0.08  # full scale is 1
MARGIN = SAMPLE_RATE // 20  # 50 ms of the clip are kept on either side of the word, faded in and out
FRAME = SAMPLE_RATE // 100

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spoken:
    """One word cut out of its clip: samples of RMS WORD_RMS within [start, end), faded margins around it."""

    label: str
    samples: Samples
    start: int
    end: int


def trim(samples: Samples) -> tuple[int, int]:
    """The word's own (start, end) in a clip, in samples, found by energy; DataError where no word stands out.

    The RMS of 10 ms frames, averaged over three, counts as speech above a twentieth of its maximum (-26 dB) and above
    three times its tenth percentile, the clip's background. Stretches more than 200 ms apart are separate sounds; one
    with less than a fiftieth of the loudest one's energy is a click. A word of less than 0.15 s or more than 0.85 s is
    the background.
    """
    n_frames = len(samples) // FRAME
    power = np.mean(samples[: n_frames * FRAME].reshape(n_frames, FRAME) ** 2, axis=1)
    rms = np.convolve(np.sqrt(power), np.ones(3) / 3, "same")
    peak = rms.max(initial=0.0)
    active = np.flatnonzero(rms > max(peak / 20, min(3 * np.percentile(rms, 10), peak / 4), 1e-4))
    if not len(active):
        raise DataError("the clip is silent")
    sounds = np.split(active, np.flatnonzero(np.diff(active) > 20) + 1)
    energies = [float(power[sound].sum()) for sound in sounds]
    word = np.concatenate([sound for sound in sounds if power[sound].sum() > max(energies) / 50])
    start, end = int(word[0]) * FRAME, int(word[-1] + 1) * FRAME
    if not 0.15 <= (end - start) / SAMPLE_RATE <= 0.85:
        raise DataError("no word stands out of the clip")
    return start, end


def cut(label: str, clip: Samples) -> Spoken:
    """The word of a clip, trimmed, levelled and faded; DataError where `trim` finds none."""
    start, end = trim(clip)
    low, high = max(0, start - MARGIN), min(len(clip), end + MARGIN)
    samples = clip[low:high] * (WORD_RMS / np.sqrt(np.mean(clip[start:end] ** 2)))
    samples[: start - low] *= np.linspace(0, 1, start - low, endpoint=False)
    samples[end - low :] *= np.linspace(1, 0, high - end)
    return Spoken(label, samples, start - low, end - low)


def deal(clips: Iterable[Clip], keywords: Sequence[str], count: int, rng: Generator) -> Iterator[list[Spoken]]:
    """The words of `count` recordings, no speaker in two of them; DataError when the speakers do not suffice.

    Speakers are dealt out like cards. Each recording then takes from its own speakers, at random, WORDS words, no word
    twice; KEYWORDS of them are keywords, or all, where there are fewer. Clips that `trim` refuses are passed over.
    """
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        by_speaker.setdefault(clip.speaker, []).append(clip)
    speakers = rng.permutation(sorted(by_speaker)).tolist()
    for i in range(count):
        hand = [clip for speaker in speakers[i::count] for clip in by_speaker[speaker]]
        n_keywords = min(KEYWORDS, len(keywords))
        wanted = {True: n_keywords, False: WORDS - n_keywords}
        chosen: dict[str, Spoken] = {}
        for j in rng.permutation(len(hand)):
            word = hand[j].word
            if word not in chosen and wanted[word in keywords]:
                try:
                    chosen[word] = cut(word, read_audio(hand[j].path).astype(np.float64))
                except DataError:
                    continue
                wanted[word in keywords] -= 1
        if any(wanted.values()):
            raise DataError(f"too few words for recording {i + 1} of {count}", hint="compose fewer recordings")
        yield [chosen[word] for word in rng.permutation(sorted(chosen)).tolist()]


def compose(words: Sequence[Spoken], noise: Samples, rng: Generator) -> tuple[Samples, list[Word], float]:
    """Words with pauses between them, on `noise` (repeated where it is too short): samples, truth, SNR in dB."""
    pauses = _pauses(sum(word.end - word.start for word in words), len(words) + 1, rng)
    total = int(pauses.sum()) + sum(word.end - word.start for word in words)
    speech = np.zeros(total)
    truth = []
    position = 0
    for word, pause in zip(words, pauses, strict=False):
        start = position + int(pause)
        position = start + word.end - word.start
        speech[start - word.start : start - word.start + len(word.samples)] += word.samples
        truth.append(Word(word.label, start / SAMPLE_RATE, position / SAMPLE_RATE))
    snr_db = float(rng.uniform(*SNR_DB))
    background = np.resize(np.roll(noise, -int(rng.integers(len(noise)))), total)
    mixed = speech + background * (WORD_RMS * 10 ** (-snr_db / 20) / np.sqrt(np.mean(background**2)))
    return mixed / max(1.0, np.abs(mixed).max() / 0.99), truth, snr_db


def _pauses(spoken: int, count: int, rng: Generator) -> NDArray[np.int64]:
    """`count` pauses in samples, drawn until they and `spoken` samples of words last SECONDS together."""
    for _ in range(100_000):
        pauses = (rng.uniform(*PAUSE, count) * SAMPLE_RATE).astype(np.int64)
        if SECONDS[0] <= (spoken + pauses.sum()) / SAMPLE_RATE <= SECONDS[1]:
            return pauses
    raise DataError(f"{count - 1} words of {spoken / SAMPLE_RATE:.1f} s do not fill {SECONDS[0]} to {SECONDS[1]} s")


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Words in the Speech Commands layout.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write X.wav and X.txt into.")
@click.option("--split", default="validation", show_default=True, help="Whose speakers.")
@click.option("--keywords", default=",".join(RECORDED_KEYWORDS), show_default=True)
@click.option("--count", default=20, show_default=True, help="Recordings.")
@click.option("--seed", default=10, show_default=True)
def main(data: Path, out: Path, split: str, keywords: str, count: int, seed: int) -> None:
    """Compose recordings with known keywords and times."""
    rng = np.random.default_rng(seed)
    clips = [clip for clip in scan_folder(data) if clip.split == split and clip.word not in TOO_RARE]
    paths = [p for p in sorted((data / NOISE_FOLDERS[0]).iterdir()) if p.stem not in COMPUTED_NOISE]
    noises = [read_audio(path).astype(np.float64) for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    for i, words in enumerate(deal(clips, keywords.split(","), count, rng)):
        samples, truth, snr_db = compose(words, noises[rng.integers(len(noises))], rng)
        path = out / f"recording_{i:02d}.wav"
        sf.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
        write_labels(path.with_suffix(".txt"), truth)
        print(f"{path.name}  {len(samples) / SAMPLE_RATE:.1f} s  {snr_db:.0f} dB  {' '.join(w.label for w in truth)}")


if __name__ == "__main__":
    main()
