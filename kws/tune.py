# SPDX-License-Identifier: Apache-2.0
"""Thresholds chosen on validation words and on hours of audio without a keyword."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from features.audio import read_audio
from kws.detector import POSTERIOR_MAX, DetectionConfig, Detector, keywords_of
from kws.errors import AudioError, DataError, KwsError, line_of
from kws.stream_evaluate import Truth, poisson_upper, read_truth, recordings_in
from training.dataset import Clip, load, scan_folder, which_split

if TYPE_CHECKING:
    from kws.model import Model

LEVELS = tuple(i / 100 for i in range(20, 100))  # thresholds that are tried, of the largest sum
_PAUSE = 1.0  # seconds of silence before and after a word


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and the curves that it comes from.

    `found` and `false` are (n_keywords, levels): words found and false accepts at each of LEVELS; `chosen` is the index
    of each keyword's level. `said` are the words of each keyword, `broken` a line for each file of no use.
    """

    keywords: tuple[str, ...]
    said: NDArray[np.int64]
    found: NDArray[np.int64]
    false: NDArray[np.int64]
    chosen: tuple[int, ...]
    hours: float
    without_speaker: int
    broken: tuple[str, ...] = ()

    @property
    def false_accepts(self) -> int:
        return int(sum(self.false[i, level] for i, level in enumerate(self.chosen)))

    @property
    def upper95(self) -> float:
        """False accepts per hour: the one-sided 95 % bound."""
        return poisson_upper(self.false_accepts) / self.hours

    @property
    def words_found(self) -> int:
        return int(sum(self.found[i, level] for i, level in enumerate(self.chosen)))


def tune(
    model: Model, data: Path, negatives: Path, max_fa_per_hour: float,
    *, progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Model, Tuning]:  # fmt: skip
    """The model with thresholds that find most words while `negatives` give at most `max_fa_per_hour` false accepts.

    `data` holds a folder a word: its validation clips are used and no others, each between two seconds of silence.
    Each keyword gets the threshold of its own that, with those of the others, finds most with fewest false accepts; one
    without a clip keeps its own, to a hundredth. The rate is that observed; `Tuning.upper95` is what the hours can
    show. What cannot be read is named in `Tuning.broken` and left out. Raises DataError for a validation clip, by the
    lists, whose speaker belongs to the testing split, for no validation clip of any keyword, for negatives in which a
    keyword is known to be said, and where nothing of either can be read.
    """
    keywords, detection = keywords_of(model.labels), model.hearing()[1]
    clips = [clip for clip in scan_folder(data) if clip.split == "validation" and clip.word in keywords]
    if not clips:
        raise DataError("holds no validation clip of any keyword", where=data)
    _refuse_testing(clips)
    broken: list[str] = []
    files = _negatives(negatives, keywords, broken)
    detector = Detector(model)
    found, said = _words(detector, clips, keywords, broken, progress)
    false, seconds = _false_accepts(detector, files, keywords, broken, progress)
    if not said.any() or not seconds:
        raise DataError(f"nothing can be read, the first: {broken[0]}", where=negatives if said.any() else data)
    allowed = int(max_fa_per_hour * seconds / 3600 + 1e-9)
    tried = false.copy()
    for keyword in np.flatnonzero(said == 0):  # nothing says how it is found: its threshold stays
        own = np.abs(np.array(LEVELS) * POSTERIOR_MAX * detection.smoothing - detection.thresholds[keyword]).argmin()
        tried[keyword, np.arange(len(LEVELS)) != own] = allowed + 1
    chosen = choose(found, tried, allowed)
    without = sum(not clip.speaker for clip in clips)
    tuning = Tuning(keywords, said, found, false, chosen, seconds / 3600, without, tuple(broken))
    limits = tuple(_limit(detection, LEVELS[level]) for level in chosen)
    releases = tuple(max(1, limit * 6 // 10) for limit in limits)
    detection = replace(detection, thresholds=limits, releases=releases)
    note = {
        "max_fa_per_hour": max_fa_per_hour, "false_accepts": tuning.false_accepts, "hours": tuning.hours,
        "words_found": tuning.words_found, "words": int(said.sum()),
    }  # fmt: skip
    return replace(model, detection=detection, provenance={**model.provenance, "tuned": note}), tuning


def choose(found: NDArray[np.int64], false: NDArray[np.int64], allowed: int) -> tuple[int, ...]:
    """The level of each keyword, (n, levels) counts, with most found in all while at most `allowed` are false in all.

    A knapsack over the keywords: best[f] is the most found with f false accepts so far. Among equals the highest level
    wins. Raises DataError where the highest levels already give more than `allowed`.
    """
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for of_found, of_false in zip(found.tolist(), false.tolist(), strict=True):
        following: dict[int, tuple[int, tuple[int, ...]]] = {}
        for spent, (hits, levels) in best.items():
            for level, (more, cost) in enumerate(zip(of_found, of_false, strict=True)):
                total = spent + cost
                candidate = hits + more, (*levels, level)
                if total <= allowed and candidate > following.get(total, (-1, ())):
                    following[total] = candidate
        if not following:
            raise DataError(f"even the highest thresholds give more than {allowed} false accepts on the negatives")
        best = following
    return max((hits, -spent, levels) for spent, (hits, levels) in best.items())[2]


def _refuse_testing(clips: Sequence[Clip]) -> None:
    """Tuning on what is to be reported would make the report worthless: lists may name a speaker who is tested on."""
    for clip in clips:
        if clip.speaker and which_split(clip.speaker) == "testing":
            what = "its speaker belongs to the testing split, which only reports"
            raise DataError(what, where=clip.path, hint="take it out of validation_list.txt")


def _negatives(folder: Path, keywords: tuple[str, ...], broken: list[str]) -> list[Path]:
    """The recordings below a folder. Raises DataError for one in which a keyword is known to be said."""
    files = []
    for file in recordings_in(folder, broken):
        try:
            truth = read_truth(file) or Truth()
        except (KwsError, OSError) as error:
            broken.append(line_of(error, file))
            continue
        said_in = [word.label for word in truth.words]
        said_in += [word for segment in truth.segments for word in segment.keywords or ()]
        if set(said_in) & set(keywords):
            raise DataError("has a keyword in it, so it is no negative", where=file)
        files.append(file)
    return files


def _limit(detection: DetectionConfig, level: float) -> int:
    return max(1, round(level * POSTERIOR_MAX * detection.smoothing))


def _words(
    detector: Detector, clips: Sequence[Clip], keywords: tuple[str, ...], broken: list[str],
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # fmt: skip
    """Words found at each level, (n_keywords, levels), and how many there are: by the largest sum of the word's own."""
    smoothing = detector.detection.smoothing
    loaded = load(clips)
    recordings = loaded.recordings
    broken += loaded.broken
    pause = np.zeros(round(_PAUSE * detector.frontend.sample_rate), np.int16)
    limits = np.array([_limit(detector.detection, level) for level in LEVELS])
    found, said = np.zeros((len(keywords), len(LEVELS)), np.int64), np.zeros(len(keywords), np.int64)
    for i, clip in enumerate(recordings.clips):
        progress(i, len(recordings))
        posteriors = detector.trace(np.concatenate([pause, recordings[i], pause])).posteriors
        keyword = keywords.index(clip.word)
        said[keyword] += 1
        found[keyword] += moving_sums(posteriors[:, keyword], smoothing).max() >= limits
    return found, said


def _false_accepts(
    detector: Detector, files: Sequence[Path], keywords: tuple[str, ...], broken: list[str],
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.int64], float]:  # fmt: skip
    """Firings at each level, (n_keywords, levels), each keyword by itself, and the seconds listened to."""
    detection = detector.detection
    false, seconds = np.zeros((len(keywords), len(LEVELS)), np.int64), 0.0
    for done, file in enumerate(files):
        progress(done, len(files))
        try:
            samples = read_audio(file, dtype="int16", sample_rate=detector.frontend.sample_rate)
        except AudioError as error:
            broken.append(str(error))
            continue
        trace = detector.trace(samples)
        seconds += trace.seconds
        for keyword in range(len(keywords)):
            sums = moving_sums(trace.posteriors[:, keyword], detection.smoothing)
            for level, share in enumerate(LEVELS):
                limit = _limit(detection, share)
                false[keyword, level] += count_firings(sums, limit, max(1, limit * 6 // 10), detection.refractory)
    return false, seconds


def moving_sums(posteriors: NDArray[np.uint8], smoothing: int) -> NDArray[np.int64]:
    """The moving sums of one keyword, (n,), as `Decider` has them."""
    total = np.concatenate([np.zeros(smoothing, np.int64), np.cumsum(posteriors, dtype=np.int64)])
    sums: NDArray[np.int64] = total[smoothing:] - total[:-smoothing]
    return sums


def count_firings(sums: NDArray[np.int64], threshold: int, release: int, refractory: int) -> int:
    """How often a keyword by itself fires: `Decider`, without a step for each window."""
    ready, armed = np.flatnonzero(sums >= threshold), np.flatnonzero(sums < release)
    count = position = 0
    while (i := int(np.searchsorted(ready, position))) < len(ready):
        count += 1
        window = int(ready[i])
        again = int(np.searchsorted(armed, window))
        if again == len(armed):
            break
        position = max(int(armed[again]), window + max(1, refractory))
    return count
