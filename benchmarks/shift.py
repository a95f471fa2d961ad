# SPDX-License-Identifier: Apache-2.0
"""How many decisions change when a clip is moved by less than 20 ms.

    python benchmarks/shift.py --model M [--model M2 ...] --data DIR [--split validation|all] [--out FILE]

DIR holds a folder a word. Every clip is moved later by 0 to 19 ms in steps of 1 ms; zeros enter at its front, its last
samples leave. Of the clips that are decided rightly where they are (the largest logit), those count as changed for
which any of the moves gives another label. A network of others takes part once it is imported, as MLPerf Tiny's:

    kws import kws_ref_model.tflite --out mlperf-tiny.kws --preset mlperf-tiny \\
        --labels down,go,left,no,off,on,right,stop,up,yes,_silence_,_unknown_
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from host import date_and_cpu
from numpy.typing import NDArray

from features.quantize import clip_samples
from kws.cli.common import columns, progress
from kws.detector import keywords_of
from kws.evaluate import ALL, wilson
from kws.model import Model
from training.dataset import SILENCE, UNKNOWN, Recordings, load, scan_folder

MOVES = range(20)  # ms
CLIPS_AT_ONCE = 256


def labels_by_move(model: Model, recordings: Recordings) -> NDArray[np.int64]:
    """(moves, clips): the label, as an index, that each move gives each clip."""
    frontend, _ = model.hearing()
    length = frontend.clip_samples
    clips = np.stack([clip_samples(recordings[i], length) for i in range(len(recordings))])
    labels = np.empty((len(MOVES), len(clips)), np.int64)
    with progress("moving") as update:
        for row, milliseconds in enumerate(MOVES):
            moved = np.pad(clips, ((0, 0), (milliseconds * frontend.sample_rate // 1000, 0)))[:, :length]
            for first in range(0, len(clips), CLIPS_AT_ONCE):
                part = slice(first, first + CLIPS_AT_ONCE)
                labels[row, part] = model.logits(moved[part]).argmax(axis=1)
            update(row + 1, len(MOVES))
    return labels


def by_class(names: tuple[str, ...], labels: NDArray[np.int64], truth: NDArray[np.int64]) -> str:
    """Clips, those right where they are, and those changed, of each label."""
    right = labels[0] == truth
    changed = right & (labels != labels[0]).any(axis=0)
    rows = [["label", "clips", "right", "changed", "share", "95 %"]]
    groups = [(name, truth == index) for index, name in enumerate(names)] + [("all", truth >= 0)]
    for name, of in groups:
        n, k = int((right & of).sum()), int((changed & of).sum())
        share = ["-", "-"]
        if n:
            low, high = wilson(k, n) or (0.0, 1.0)
            share = [f"{100 * k / n:.2f} %", f"[{100 * low:.2f}, {100 * high:.2f}]"]
        rows.append([name, str(of.sum()), str(n), str(k), *share])
    return columns(rows)


def by_move(labels: NDArray[np.int64], truth: NDArray[np.int64]) -> str:
    """What each move changes, and how many moves change a clip, of those that are right where they are."""
    right = labels[0] == truth
    differs = labels[1:, right] != labels[0, right]
    moves = [["moved by", "changed", "share"]]
    moves += [
        [f"{milliseconds} ms", str(row.sum()), f"{100 * row.mean():.2f} %"]
        for milliseconds, row in zip(MOVES[1:], differs, strict=True)
    ]
    times = differs.sum(axis=0)
    rows = [["changed by", "clips"]]
    for low, high in ((1, 1), (2, 5), (6, 10), (11, 18), (19, 19)):
        name = f"{low} to {high} of 19 moves" if low < high else f"{low} of 19 moves"
        rows.append([name, str(((times >= low) & (times <= high)).sum())])
    return f"{columns(moves)}\n\n{columns(rows)}"


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--model", "models", multiple=True, default=["commands"], show_default=True)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--split", default="validation", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="A file for what is printed.")
def main(models: tuple[str, ...], data: Path, split: str, out: Path | None) -> None:
    clips = [clip for clip in scan_folder(data) if split in (clip.split, ALL)]
    recordings = load(clips, broken="fail").recordings
    given = " ".join(f"--model {Path(name).name}" for name in models)
    parts = [f"{date_and_cpu()}\npython benchmarks/shift.py {given} --data {data.name} --split {split}"]
    for name in models:
        model = Model.load(name)
        known = {*keywords_of(model.labels), SILENCE}
        words = [clip.word if clip.word in known else UNKNOWN for clip in recordings.clips]
        truth = np.array([model.labels.index(word) for word in words])
        labels = labels_by_move(model, recordings)
        parts += [Path(name).stem, by_class(model.labels, labels, truth), by_move(labels, truth)]
    text = "\n\n".join(parts)
    print(text)
    if out:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
