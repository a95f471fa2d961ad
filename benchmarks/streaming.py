# SPDX-License-Identifier: Apache-2.0
"""What always-on detection costs for a second of audio, front-end included, one thread.

    python benchmarks/streaming.py [--out FILE]

One recording of data/recordings, in turn, many times: the sliding windows of `commands` and its stream, in pieces of 80
ms as a microphone gives them, and all at once; pieces in one call of C each, and with Python's loop between front-end,
network and decision. Medians, and the fastest tenth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from host import date_and_cpu

import kws
from deploy import native
from features.audio import read_audio
from features.frontend import input_features
from kws.cli.common import columns
from kws.detector import Detector
from kws.stream import Frames

ROOT = Path(__file__).parents[1]
PIECE = 1280  # samples
ROUNDS = 30


class Windows(Detector):
    """The detector that runs whole windows."""

    def stream_plan(self, windows: int = 1) -> None:
        return None


def in_pieces(detector: Detector, samples: Any) -> None:
    state, _ = detector.step(None, samples[:0])
    for start in range(0, len(samples), PIECE):
        detector.step(state, samples[start : start + PIECE])
    state.finish()


def in_python(detector: Detector, samples: Any) -> None:
    frames = Frames(detector)
    for start in range(0, len(samples), PIECE):
        frames.push(samples[start : start + PIECE])
    frames.finish()


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--out", type=click.Path(path_type=Path), help="A file for the table.")
def main(out: Path | None) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for C, NumPy and their threads
    samples = read_audio(sorted((ROOT / "data/recordings").glob("*.wav"))[0], dtype="int16", sample_rate=16_000)
    seconds = len(samples) / 16_000
    model = kws.load("commands")
    by_windows, by_columns = Windows(model), Detector(model)
    for detector in (by_windows, by_columns):
        assert detector.listener is not None  # which is made once
    calls: dict[str, Callable[[], object]] = {
        "front-end alone, all at once": lambda: input_features(samples, model.hearing()[0], model.graph.input_params),
        "windows, all at once": lambda: by_windows.trace(samples),
        "windows, pieces of 80 ms, Python": lambda: in_python(by_windows, samples),
        "windows, pieces of 80 ms, C": lambda: in_pieces(by_windows, samples),
        "columns, all at once": lambda: by_columns.trace(samples),
        "columns, all at once, C": lambda: by_columns.detect(samples),
        "columns, pieces of 80 ms, Python": lambda: in_python(by_columns, samples),
        "columns, pieces of 80 ms, C": lambda: in_pieces(by_columns, samples),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - begin) / seconds * 1e6)
    rows = [["detection", "us a second of audio", "fastest tenth", "times real time"]]
    for name, values in times.items():
        middle = float(np.median(values))
        fast = float(np.mean(sorted(values)[: ROUNDS // 10]))
        rows.append([name, f"{middle:.0f}", f"{fast:.0f}", f"{1e6 / middle:,.0f}"])
    level = native.levels()[-1]
    text = "\n".join([f"{date_and_cpu()}, {level}", "python benchmarks/streaming.py", "", columns(rows)])
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
