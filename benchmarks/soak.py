# SPDX-License-Identifier: Apache-2.0
"""Hours of audio through one stream: its events against those of files, and whether its memory grows.

    nice python benchmarks/soak.py --hours 24 [--out FILE]

Every sound file of data/, in seeded order again and again, is joined into files of ten minutes, and these into one
stream, which takes them in pieces of random size (0 to 2 s). Each file begins and ends with silence, so long that no
sum, threshold or refractory time reaches over it; so the events of the stream must be those of each file by itself, in
label, place (to the sample) and score. It ends at the first file for which they are not, with exit code 1.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np
from host import date_and_cpu
from numpy.random import Generator
from numpy.typing import NDArray

import kws
from features.audio import read_audio
from kws.cli.common import columns, progress
from kws.detector import Detector, Event, silence_before
from training.dataset import AUDIO_SUFFIXES

DATA = Path(__file__).parents[1] / "data"
FILE_SECONDS = 600
LONGEST_PIECE = 32_000  # samples

Samples = NDArray[np.int16]


def read_sounds(folder: Path) -> list[Samples]:
    """Every sound file below the folder, at 16 kHz."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return [read_audio(path, dtype="int16") for path in paths]


def join(sounds: Sequence[Samples], n_samples: int, quiet: int, rng: Generator) -> Iterator[Samples]:
    """Endless files of `n_samples`: sounds in random order, all before any comes again; `quiet` zeros at both ends."""
    waiting: list[int] = []
    while True:
        file = np.zeros(n_samples, np.int16)
        at, end = quiet, n_samples - quiet
        while at < end:
            waiting = waiting or rng.permutation(len(sounds)).tolist()
            sound = sounds[waiting.pop()][: end - at]
            file[at : at + len(sound)] = sound
            at += len(sound)
        yield file


def soak(
    detector: Detector, sounds: Sequence[Samples], rng: Generator, *,
    files: int, seconds: int, heard: Callable[[int, int, float], None] = lambda file, events, took: None,
) -> int:  # fmt: skip
    """The number of events in `files` files of about `seconds` (whole hops of the detector), which are as they must be.

    `heard` is called after each file with its number from 1, its events, and the seconds that the stream took for it.
    AssertionError with the first event of the stream that is none of the file, or the other way round.
    """
    frontend, detection = detector.frontend, detector.detection
    step = detection.hop * frontend.hop_length
    windows = silence_before(frontend, detection.hop) // detection.hop + detection.smoothing + detection.refractory
    n_samples = seconds * frontend.sample_rate // step * step

    def placed(events: Sequence[Event], offset: int) -> list[tuple[str, int, int, float]]:
        """Places in samples: seconds late in a stream are rounded otherwise than those of a file."""
        edges = [[round(second * frontend.sample_rate) + offset for second in (e.start, e.end)] for e in events]
        return [(event.label, start, end, event.score) for event, (start, end) in zip(events, edges, strict=True)]

    state, _ = detector.step(None, np.zeros(0, np.int16))
    total = 0
    for number, file in zip(range(files), join(sounds, n_samples, windows * step, rng), strict=False):
        begin, at, events = time.perf_counter(), 0, []
        while at < n_samples:
            size = int(LONGEST_PIECE ** rng.random()) - 1
            state, found = detector.step(state, file[at : at + size])
            events += found
            at += size
        took = time.perf_counter() - begin
        of_stream, of_file = placed(events, 0), placed(detector.detect(file), number * n_samples)
        for pair in zip_longest(of_stream, of_file):
            assert pair[0] == pair[1], f"file {number + 1}: the stream has {pair[0]}, the file {pair[1]}"
        total += len(events)
        heard(number + 1, len(events), took)
    assert state.finish() == []
    return total


def resident() -> float:
    """MiB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--hours", type=click.IntRange(1), default=24, show_default=True)
@click.option("--model", default="commands", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="A file for the table.")
def main(hours: int, model: str, seed: int, out: Path | None) -> None:
    sounds = read_sounds(DATA)
    detector = Detector(kws.load(model))
    rows = [["hour", "events", "us a second of audio", "resident MiB"], ["0", "", "", f"{resident():.1f}"]]
    an_hour = 3600 // FILE_SECONDS
    counts, times = [], []
    with progress("listening") as update:

        def heard(file: int, events: int, took: float) -> None:
            counts.append(events)
            times.append(took)
            update(file, hours * an_hour)
            if file % an_hour == 0:
                cost = sum(times[-an_hour:]) / 3600 * 1e6
                rows.append([str(file // an_hour), str(sum(counts[-an_hour:])), f"{cost:.0f}", f"{resident():.1f}"])

        files = hours * an_hour
        total = soak(detector, sounds, np.random.default_rng(seed), files=files, seconds=FILE_SECONDS, heard=heard)
    command = f"python benchmarks/soak.py --hours {hours} --model {model} --seed {seed}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    text = "\n".join([
        date_and_cpu(), command, "", columns(rows), "",
        f"all {total:,} events of the stream are those of the {files} files; peak {peak:.1f} MiB, of which "
        f"{sum(sound.nbytes for sound in sounds) / 2**20:.1f} are the {len(sounds):,} sounds",
    ])  # fmt: skip
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
