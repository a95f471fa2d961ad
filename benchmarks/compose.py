# SPDX-License-Identifier: Apache-2.0
"""Compose recordings of 25 to 30 s out of single words, with the truth beside each.

    python benchmarks/compose.py --data SPEECH_COMMANDS --out DIR [--count 20] [--seed 10]

Each recording holds six keywords and six other words of one split's speakers, no speaker in two recordings, with
pauses of 0.5 to 2 s, on recorded background noise. ``X.wav`` gets ``X.txt``: start, end and label of every word,
tab-separated, in seconds, as Audacity reads it. The times are those of the word itself, found by its energy. Clips in
which it cannot be told where the word begins and ends (second sounds, background within 20 dB) are passed over; how
many is printed. Every word is brought to the same RMS, so that the recording's signal-to-noise ratio (10 to 20 dB) is
that of each of its words.
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
from kws.errors import DataError, KwsError, line_of
from kws.stream_score import Word, write_labels
from training.dataset import NOISE_FOLDERS, SPLITS, Clip, scan_folder, sound_files_below
from training.layout import word_bounds

SAMPLE_RATE = 16000
RECORDED_KEYWORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go")
TOO_RARE = ("on", "off")  # three validation clips each: heard only where they are asked for
COMPUTED_NOISE = ("white_noise", "pink_noise")  # the data set has them beside its recorded noises
WORDS, KEYWORDS = 12, 6  # of a recording, and how many of them are keywords
SECONDS = (25.0, 30.0)
PAUSE = (0.5, 2.0)
SNR_DB = (10.0, 20.0)
WORD_RMS = 0.08  # full scale is 1
MARGIN = SAMPLE_RATE // 5  # 0.2 s of the clip are kept on either side of the word: faint beginnings and ends
FADE = SAMPLE_RATE // 20  # the outermost 50 ms of a margin are faded in or out

Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spoken:
    """One word cut out of its clip: samples of RMS WORD_RMS within [start, end), faded margins around it."""

    label: str
    speaker: str
    samples: Samples
    start: int
    end: int


def cut(clip: Clip, samples: Samples) -> Spoken | None:
    """The word of a clip, levelled and faded; None where `word_bounds` cannot tell where it lies."""
    bounds = word_bounds(samples)
    if bounds is None:
        return None
    start, end = bounds
    low, high = max(0, start - MARGIN), min(len(samples), end + MARGIN)
    piece = samples[low:high] * (WORD_RMS / np.sqrt(np.mean(samples[start:end] ** 2)))
    before, after = min(FADE, start - low), min(FADE, high - end)
    piece[:before] *= np.linspace(0, 1, before, endpoint=False)
    piece[len(piece) - after :] *= np.linspace(1, 0, after)
    return Spoken(clip.word, clip.speaker, piece, start - low, end - low)


def deal(spoken: Iterable[Spoken], keywords: Sequence[str], count: int, rng: Generator) -> Iterator[list[Spoken]]:
    """The words of `count` recordings, no speaker in two of them; DataError when the speakers do not suffice.

    Speakers are dealt out like cards. Each recording then takes from its own speakers, at random, WORDS words, no word
    twice; KEYWORDS of them are keywords, or all, where there are fewer.
    """
    by_speaker: dict[str, list[Spoken]] = {}
    for word in spoken:
        by_speaker.setdefault(word.speaker, []).append(word)
    speakers = rng.permutation(sorted(by_speaker)).tolist()
    hands = [[word for speaker in speakers[i::count] for word in by_speaker[speaker]] for i in range(count)]
    n_keywords = min(KEYWORDS, len(keywords))
    for i, hand in enumerate(hands, 1):  # before the first is written
        labels = {word.label for word in hand}
        found = len(labels & set(keywords))
        if found < n_keywords or len(labels) - found < WORDS - n_keywords:
            raise DataError(
                f"{len(speakers)} speakers do not suffice for {count} recordings: those of recording {i} have "
                f"{found} of {n_keywords} keywords and {len(labels) - found} of {WORDS - n_keywords} other words",
                hint="compose fewer recordings with --count, or give more speakers",
            )
    for hand in hands:
        wanted = {True: n_keywords, False: WORDS - n_keywords}
        chosen: dict[str, Spoken] = {}
        for j in rng.permutation(len(hand)):
            label = hand[j].label
            if label not in chosen and wanted[label in keywords]:
                chosen[label] = hand[j]
                wanted[label in keywords] -= 1
        yield [chosen[label] for label in rng.permutation(sorted(chosen)).tolist()]


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
@click.option("--split", type=click.Choice(SPLITS), default="validation", show_default=True, help="Whose speakers.")
@click.option("--keywords", default=",".join(RECORDED_KEYWORDS), show_default=True)
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="Recordings.")
@click.option("--seed", type=click.IntRange(0), default=10, show_default=True)
def main(data: Path, out: Path, split: str, keywords: str, count: int, seed: int) -> None:
    """Compose recordings with known keywords and times."""
    try:
        write(data, out, split, keywords.split(","), count, np.random.default_rng(seed))
    except (KwsError, OSError) as error:
        raise click.ClickException(line_of(error, out)) from None


def write(data: Path, out: Path, split: str, keywords: Sequence[str], count: int, rng: Generator) -> None:
    """Write the recordings and print a line for each. Raises DataError where `data` does not hold enough."""
    left_out = {word for word in TOO_RARE if word not in keywords}
    clips = [clip for clip in scan_folder(data) if clip.split == split and clip.word not in left_out]
    folder = data / NOISE_FOLDERS[0]
    paths = [path for path in sound_files_below(folder) if path.stem not in COMPUTED_NOISE]
    if not paths:
        raise DataError("holds no recorded noise", where=folder, hint="put background noise of 10 s or more into it")
    noises = [read_audio(path).astype(np.float64) for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    spoken = [word for clip in clips if (word := cut(clip, read_audio(clip.path).astype(np.float64)))]
    print(f"{len(clips) - len(spoken)} of {len(clips)} clips are passed over: it cannot be told where their word lies")
    try:
        for i, words in enumerate(deal(spoken, keywords, count, rng)):
            samples, truth, snr_db = compose(words, noises[rng.integers(len(noises))], rng)
            path = out / f"recording_{i:02d}.wav"
            sf.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
            write_labels(path.with_suffix(".txt"), truth)
            labels = " ".join(word.label for word in truth)
            print(f"{path.name}  {len(samples) / SAMPLE_RATE:.1f} s  {snr_db:.0f} dB  {labels}")
    except DataError as error:
        raise DataError(error.what, where=f"{data}, {split}", hint=error.hint) from None


if __name__ == "__main__":
    main()
