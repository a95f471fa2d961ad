# SPDX-License-Identifier: Apache-2.0
"""How many words a model finds in recordings with known truth, and how often it fires on none.

    python benchmarks/recordings.py --model commands --data DIR [--curve]

DIR holds X.wav with X.txt, as benchmarks/compose.py writes them. Words that are no keywords of the model, and what lies
between words, are what it must not fire on. An event counts for a word when labels are equal, the two overlap and their
ends lie within 300 ms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from kws.cli.common import columns, progress
from kws.detector import POSTERIOR_MAX, Detector, Trace, keywords_of
from kws.errors import DataError
from kws.evaluate import wilson
from kws.model import Model
from kws.stream_score import Score, Word, read_labels, score

THRESHOLDS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)


@dataclass(frozen=True)
class Heard:
    """One recording: what the network made of it and what was said."""

    trace: Trace
    truth: list[Word]


def listen(detector: Detector, folder: Path) -> list[Heard]:
    """Every recording of the folder that has a truth beside it."""
    paths = [path for path in sorted(folder.glob("*.wav")) if path.with_suffix(".txt").is_file()]
    if not paths:
        raise DataError("holds no X.wav with X.txt beside it", where=folder)
    heard = []
    with progress("listening") as update:
        for done, path in enumerate(paths, 1):
            heard.append(Heard(detector.trace(path), read_labels(path.with_suffix(".txt"))))
            update(done, len(paths))
    return heard


def judge(detector: Detector, heard: list[Heard]) -> list[Score]:
    """Events against truth, recording by recording."""
    keywords = keywords_of(detector.model.labels)
    return [score(detector.decide(item.trace), item.truth, keywords) for item in heard]


def table(detector: Detector, scores: list[Score], minutes: float) -> str:
    """Per keyword: words said, found, false events, and false events a minute."""
    found = Counter(word.label for s in scores for word, _ in s.found)
    missed = Counter(word.label for s in scores for word in s.missed)
    false = Counter(event.label for s in scores for event in s.false)
    rows = [["keyword", "words", "found", "false events", "a minute"]]
    for label in keywords_of(detector.model.labels):
        said = found[label] + missed[label]
        rows.append([label, str(said), str(found[label]), str(false[label]), f"{false[label] / minutes:.2f}"])
    n, total = found.total(), found.total() + missed.total()
    rows.append(["all", str(total), str(n), str(false.total()), f"{false.total() / minutes:.2f}"])
    errors = [abs(event.end - word.end) for s in scores for word, event in s.found]
    low, high = wilson(n, total) or (0.0, 1.0)
    lines = [columns(rows), "", f"recall {n / max(total, 1):.4f} [{low:.4f}, {high:.4f}]"]
    if errors:
        middle, most = np.percentile(errors, (50, 95))
        lines[-1] += (
            f"; ends of the words found: {1000 * middle:.0f} ms off in the median, {1000 * most:.0f} ms in 95 %"
        )
    return "\n".join(lines)


def curve(detector: Detector, heard: list[Heard], minutes: float) -> str:
    """Recall and false events over one threshold for all keywords."""
    rows = [["threshold", "found", "of", "recall", "false events", "a minute"]]
    n_keywords = len(detector.detection.thresholds)
    for threshold in THRESHOLDS:
        limit = round(threshold * POSTERIOR_MAX * detector.detection.smoothing)
        limits, releases = (limit,) * n_keywords, (limit * 6 // 10,) * n_keywords
        other = Detector(detector.model, replace(detector.detection, thresholds=limits, releases=releases))
        scores = judge(other, heard)
        found, false = sum(len(s.found) for s in scores), sum(len(s.false) for s in scores)
        total = found + sum(len(s.missed) for s in scores)
        rows.append(
            [
                f"{threshold:.2f}",
                str(found),
                str(total),
                f"{found / max(total, 1):.4f}",
                str(false),
                f"{false / minutes:.2f}",
            ]
        )
    return columns(rows)


@click.command()
@click.option("--model", default="commands", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of X.wav with X.txt.")
@click.option("--curve", "with_curve", is_flag=True, help="Also print other thresholds, the same for all keywords.")
def main(model: str, data: Path, with_curve: bool) -> None:
    """Recall and false events on recordings with known truth."""
    detector = Detector(Model.load(model))
    heard = listen(detector, data)
    minutes = sum(item.trace.seconds for item in heard) / 60
    print(f"{len(heard)} recordings, {minutes:.1f} minutes\n")
    print(table(detector, judge(detector, heard), minutes))
    if with_curve:
        print(f"\n{curve(detector, heard, minutes)}")


if __name__ == "__main__":
    main()
