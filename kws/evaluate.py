# SPDX-License-Identifier: Apache-2.0
"""How good a model is on folders of single words: accuracy, recall by label, false accepts, each with its interval."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.quantize import clip_samples
from kws.detector import keywords_of, posteriors_of
from kws.errors import DataError, ModelError, UsageError
from training.dataset import SILENCE, SPLITS, UNKNOWN, Recordings, load, scan_folder

if TYPE_CHECKING:
    from kws.model import Model

ALL = "all"
_CLIPS_AT_ONCE = 256
_WORD_IN_NAME = re.compile(r"([A-Za-z]+)_[0-9a-f]{8}_nohash_")  # of the official test set's `_unknown_` folder


@dataclass(frozen=True)
class Evaluation:
    """Counts over the clips of a split; every figure is derived from them."""

    labels: tuple[str, ...]
    confusion: NDArray[np.int64]
    """[i, j] = clips of label i taken for j, by the largest logit."""
    non_keywords: dict[str, tuple[int, int]]
    """Word that is no keyword -> (clips taken for a keyword at the model's threshold, clips)."""
    broken: tuple[str, ...] = ()
    """One line for every clip that could not be read; none of them counts."""

    @property
    def n(self) -> int:
        """Clips counted."""
        return int(self.confusion.sum())

    @property
    def recall(self) -> dict[str, float | None]:
        """Share of a label's clips taken for it; None where it has none."""
        return {label: _share(int(row[i]), int(row.sum())) for i, (label, row) in enumerate(self._rows())}

    @property
    def precision(self) -> dict[str, float | None]:
        """Share of the clips taken for a label that are its; None where there are none."""
        return {label: _share(int(row[i]), int(row.sum())) for i, (label, row) in enumerate(self._columns())}

    @property
    def false_accepts(self) -> tuple[int, int]:
        """Clips of no keyword that were taken for one at the model's own threshold, and how many there are."""
        return sum(k for k, _ in self.non_keywords.values()), sum(n for _, n in self.non_keywords.values())

    def to_dict(self) -> dict[str, Any]:
        """The figures, fit for JSON. Intervals are Wilson's at 95 %, [low, high]."""
        right = int(np.trace(self.confusion))
        recalls = [recall for recall in self.recall.values() if recall is not None]
        return {
            "labels": list(self.labels),
            "n": self.n,
            "accuracy": right / self.n,
            "accuracy_ci95": wilson(right, self.n),
            "balanced_accuracy": sum(recalls) / len(recalls),
            "per_class_recall": self.recall,
            "confusion_matrix": self.confusion.tolist(),
            "false_accept_rate": _share(*self.false_accepts),
            "false_accept_rate_ci95": wilson(*self.false_accepts),
            "false_accept_by_word": {
                word: {"accepted": accepted, "clips": clips}
                for word, (accepted, clips) in sorted(self.non_keywords.items())
            },
        }

    def _rows(self) -> list[tuple[str, NDArray[np.int64]]]:
        return list(zip(self.labels, self.confusion, strict=True))

    def _columns(self) -> list[tuple[str, NDArray[np.int64]]]:
        return list(zip(self.labels, self.confusion.T, strict=True))


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> list[float] | None:
    """Wilson's score interval [low, high] of a share; None for n = 0."""
    if n == 0:
        return None
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the interval reaches 0 and 1 exactly, which the sums miss by an ulp or so.
    return [0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)]


def evaluate(
    model: Model,
    data: str | Path,
    split: str = "testing",
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Run `model` over the clips of `split` ("testing", "validation", "training" or "all") below the folder `data`.

    Folders are words; one that is no label counts as `_unknown_`, `_silence_` as silence, `_background_noise_` not at
    all. Short clips are padded, long ones cut to their middle. `progress(done, total)` is called now and then.
    Raises UsageError for another split, DataError where it has no clip that can be read, and ModelError for a model
    without a front-end, `_silence_` or `_unknown_`.
    """
    if split not in (*SPLITS, ALL):
        raise UsageError(f"no split {split!r}", hint=f"one of {', '.join((*SPLITS, ALL))}")
    model.hearing()
    missing = {SILENCE, UNKNOWN} - set(model.labels)
    if missing:
        raise ModelError(f"has no label {', '.join(sorted(missing))}: it cannot be evaluated", where="labels")
    clips = [clip for clip in scan_folder(Path(data)) if split in (clip.split, ALL)]
    if not clips:
        raise DataError(f"no {split} clips", where=data, hint="--split all takes every clip")
    confusion = np.zeros((len(model.labels), len(model.labels)), np.int64)
    non_keywords: dict[str, tuple[int, int]] = {}
    broken: list[str] = []
    for first in range(0, len(clips), _CLIPS_AT_ONCE):
        part = clips[first : first + _CLIPS_AT_ONCE]
        loaded = load(part)
        broken += loaded.broken
        if len(loaded.recordings):
            _count(model, loaded.recordings, confusion, non_keywords)
        progress(first + len(part), len(clips))
    if not confusion.any():
        raise DataError(f"none of {len(clips)} clips can be read, the first: {broken[0]}", where=data)
    return Evaluation(model.labels, confusion, non_keywords, tuple(broken))


def _count(
    model: Model,
    recordings: Recordings,
    confusion: NDArray[np.int64],
    non_keywords: dict[str, tuple[int, int]],
) -> None:
    frontend, detection = model.hearing()
    clip_length = frontend.clip_samples
    logits = model.logits(np.stack([clip_samples(recordings[i], clip_length) for i in range(len(recordings))]))
    accepted = detection.accepts(posteriors_of(model.graph, logits))
    keywords = keywords_of(model.labels)
    for clip, values, fires in zip(recordings.clips, logits, accepted, strict=True):
        known = clip.word in keywords or clip.word == SILENCE
        confusion[model.labels.index(clip.word if known else UNKNOWN), int(values.argmax())] += 1
        if clip.word not in keywords:
            named = _WORD_IN_NAME.match(clip.path.name) if clip.word == UNKNOWN else None
            word = named[1] if named else clip.word
            before, total = non_keywords.get(word, (0, 0))
            non_keywords[word] = (before + int(fires.any()), total + 1)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
