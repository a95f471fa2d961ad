# SPDX-License-Identifier: Apache-2.0
"""How good a model is on recordings with known words, and how often it fires where there are none."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from features.audio import read_audio
from features.float_frontend import to_float64
from kws.detector import POSTERIOR_MAX, Decider, DetectionConfig, Detector, Event, Trace, keywords_of
from kws.errors import DataError, KwsError, line_of
from kws.evaluate import wilson
from kws.stream_score import Word, read_labels, score
from training.dataset import sound_files_below

if TYPE_CHECKING:
    from kws.model import Model

DET_SHARES = tuple(i / 50 for i in range(5, 50))  # thresholds of a DET curve, of the largest sum


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording that holds these keywords somewhere; None: it is not known which."""

    start: float
    end: float
    keywords: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Truth:
    """What was said in a recording: words with their times, or segments; nothing at all for a negative one."""

    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def unknown(self) -> bool:
        """Whether something was said that nobody wrote down: false accepts are then an upper bound."""
        return any(segment.keywords is None for segment in self.segments)


@dataclass
class Counts:
    """What one keyword did. `latencies` are seconds from the end of a word to its firing."""

    said: int = 0
    found: int = 0
    false: int = 0
    latencies: list[float] = field(default_factory=list)


@dataclass
class StreamEvaluation:
    """Counts over recordings, by keyword; every figure is derived from them."""

    keywords: tuple[str, ...]
    counts: dict[str, Counts]
    seconds: float = 0.0
    recordings: int = 0
    unknown: bool = False
    broken: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, fit for JSON."""
        total = self.total()
        hours = self.seconds / 3600
        return {
            "recordings": self.recordings,
            "hours": hours,
            "false_accepts_are_an_upper_bound": self.unknown,
            **_figures(total, hours),
            "by_keyword": {keyword: _figures(self.counts[keyword], hours) for keyword in self.keywords},
        }

    def total(self) -> Counts:
        """Of all keywords."""
        every = self.counts.values()
        return Counts(
            sum(c.said for c in every), sum(c.found for c in every), sum(c.false for c in every),
            [latency for c in every for latency in c.latencies],
        )  # fmt: skip


def poisson_upper(count: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a Poisson mean of which `count` was seen: chi2.ppf(confidence, 2 (count + 1)) / 2.

    3.0 for none, 4.74 for one. Bisection on the distribution, so that SciPy is not needed.
    """
    low, high = float(count), count + 10.0 + 10.0 * math.sqrt(count + 1.0)
    for _ in range(100):
        mean = (low + high) / 2
        at_most = sum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(count + 1))
        low, high = (mean, high) if at_most > 1 - confidence else (low, mean)
    return high


def _figures(counts: Counts, hours: float) -> dict[str, Any]:
    latencies = np.array(counts.latencies)
    return {
        "said": counts.said,
        "missed": counts.said - counts.found,
        "miss_rate": (counts.said - counts.found) / counts.said if counts.said else None,
        "miss_rate_ci95": list(wilson(counts.said - counts.found, counts.said) or (0.0, 1.0)),
        "false_accepts": counts.false,
        "false_accepts_per_hour": counts.false / hours if hours else None,
        "false_accepts_per_hour_upper95": poisson_upper(counts.false) / hours if hours else None,
        "latency_median": float(np.median(latencies)) if len(latencies) else None,
        "latency_p95": float(np.quantile(latencies, 0.95)) if len(latencies) else None,
    }


def read_truth(path: Path) -> Truth | None:
    """What stands beside a recording: X.txt (start, end, label) or X.json (segments); None where there is neither.

    Raises DataError for a file that is neither.
    """
    labels, segments = path.with_suffix(".txt"), path.with_suffix(".json")
    if labels.is_file():
        return Truth(tuple(read_labels(labels)))
    if not segments.is_file():
        return None
    try:
        values = json.loads(segments.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError("is no description of segments: it is not JSON", where=segments) from None
    try:
        known, parts = bool(values["keywords_known"]), list(values["segments"])
    except (TypeError, LookupError):
        what = "is no description of segments: it needs keywords_known and a list of segments"
        raise DataError(what, where=segments) from None
    found: list[Segment] = []
    for part in parts:
        try:
            found.append(_segment(part, known))
        except (ValueError, TypeError, LookupError, OverflowError):
            what = f"is no description of segments: segment {len(found) + 1} is not start <= end and a list of keywords"
            raise DataError(what, where=segments) from None
    return Truth(segments=tuple(found))


def _segment(values: Any, known: bool) -> Segment:
    start, end, keywords = float(values["start"]), float(values["end"]), values["keywords"]
    if not 0 <= start <= end < math.inf or not isinstance(keywords, list):
        raise ValueError
    return Segment(start, end, tuple(map(str, keywords)) if known else None)


def recordings_in(folder: Path, broken: list[str]) -> list[Path]:
    """The sound files below a folder, sorted; `broken` gets a line for each folder there that cannot be listed.

    Raises DataError where there are none.
    """
    refused: list[str] = []
    found = sound_files_below(folder, refused)
    if not found:
        raise DataError(refused[0])
    broken += refused
    return found


def evaluate_streams(
    model: Model,
    streams: Path | None,
    negatives: Path | None = None,
    *,
    tolerance: float = 0.3,
    change: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StreamEvaluation:
    """Run the model's detector over every recording below `streams`, whose words are known, and `negatives`.

    An event is that of a word by `stream_score.matches` (`tolerance` in seconds), or that of a segment that holds its
    label and overlaps it, once for each time that the label is listed. Every other event is a false accept, a second
    one of the same word too. `change` is applied to the samples first. Recordings and folders that cannot be read, and
    recordings below `streams` without a truth beside them, are named in `broken` and do not count. Raises DataError for
    a folder without recordings.
    """
    keywords = keywords_of(model.labels)
    result = StreamEvaluation(keywords, {keyword: Counts() for keyword in keywords})
    broken: list[str] = []
    detector = Detector(model)
    for trace, truth in _heard(detector, streams, negatives, change, broken, progress):
        count_events(result, timed_events(detector, trace), truth, tolerance)
        result.seconds += trace.seconds
        result.recordings += 1
    result.broken = tuple(broken)
    return result


def det_curves(
    model: Model,
    streams: Path | None,
    negatives: Path | None,
    *,
    tolerance: float = 0.3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[tuple[float, float | None]]]:
    """(False accepts an hour, miss rate) of each keyword at every threshold of DET_SHARES, one for all keywords.

    The network runs once. What `evaluate_streams` names as broken is left out; errors as there.
    """
    keywords = keywords_of(model.labels)
    detector = Detector(model)
    detectors = [Detector(model, at_threshold(detector.detection, share)) for share in DET_SHARES]
    results = [StreamEvaluation(keywords, {keyword: Counts() for keyword in keywords}) for _ in DET_SHARES]
    for trace, truth in _heard(detector, streams, negatives, None, [], progress):
        for tried, result in zip(detectors, results, strict=True):
            count_events(result, timed_events(tried, trace), truth, tolerance)
            result.seconds += trace.seconds
    return {
        keyword: [
            (c.false / (r.seconds / 3600) if r.seconds else 0.0, (c.said - c.found) / c.said if c.said else None)
            for r in results
            for c in [r.counts[keyword]]
        ]
        for keyword in keywords
    }


def _heard(
    detector: Detector, streams: Path | None, negatives: Path | None,
    change: Callable[[NDArray[Any]], NDArray[Any]] | None, broken: list[str], progress: Callable[[int, int], None],
) -> Iterator[tuple[Trace, Truth]]:  # fmt: skip
    """Every recording below either folder that can be used; `broken` gets a line for each of the others."""
    paths = [(path, True) for path in (recordings_in(streams, broken) if streams else [])]
    paths += [(path, False) for path in (recordings_in(negatives, broken) if negatives else [])]
    for done, (path, positive) in enumerate(paths):
        progress(done, len(paths))
        try:
            truth = read_truth(path)
            if truth is None and positive:
                raise DataError("has no X.txt or X.json beside it that says what is said in it", where=path)
            samples = read_audio(path, dtype="int16", sample_rate=detector.frontend.sample_rate)
            _check_inside(truth or Truth(), len(samples) / detector.frontend.sample_rate, path)
        except (KwsError, OSError) as error:
            broken.append(line_of(error, path))
        else:
            yield detector.trace(change(samples) if change else samples), truth or Truth()
    progress(len(paths), len(paths))


def _check_inside(truth: Truth, seconds: float, path: Path) -> None:
    """DataError for a word that begins behind the end of the recording: it would count as missed."""
    last = max([*(word.start for word in truth.words), *(segment.start for segment in truth.segments)], default=0.0)
    if last > seconds:
        what = f"what is written down begins at {last:.6g} s, behind the end of {seconds:.6g} s"
        raise DataError(what, where=path, hint="is it another recording's?")


def timed_events(detector: Detector, trace: Trace) -> list[tuple[Event, float]]:
    """The events of a trace, and the second at which each fires: the end of the window that decided."""
    ends = trace.windows.ends()
    return [
        (detector.event(firing, trace.windows, trace.seconds), float(ends[firing.window]))
        for firing in Decider(detector.detection).push(trace.posteriors)
    ]


def count_events(
    result: StreamEvaluation, events: Sequence[tuple[Event, float]], truth: Truth, tolerance: float
) -> None:
    """Add the outcome of one recording to `result`."""
    result.unknown |= truth.unknown
    fired = {id(event): at for event, at in events}
    outcome = score([event for event, _ in events], truth.words, result.keywords, tolerance=tolerance)
    for word, event in outcome.found:
        result.counts[word.label].found += 1
        result.counts[word.label].latencies.append(fired[id(event)] - word.end)
    for word in [word for word, _ in outcome.found] + list(outcome.missed):
        result.counts[word.label].said += 1
    left = list(outcome.false)
    for segment in truth.segments:
        for label, times in Counter(segment.keywords or ()).items():
            if label not in result.counts:
                continue
            inside = [e for e in left if e.label == label and e.start < segment.end and segment.start < e.end][:times]
            left = [e for e in left if not any(e is taken for taken in inside)]
            result.counts[label].said += times
            result.counts[label].found += len(inside)
    for event in left:
        result.counts[event.label].false += 1


def at_threshold(detection: DetectionConfig, share: float) -> DetectionConfig:
    """The same settings with one threshold for all keywords, a share of the largest sum."""
    limit = max(1, round(share * POSTERIOR_MAX * detection.smoothing))
    n = len(detection.thresholds)
    return replace(detection, thresholds=(limit,) * n, releases=(max(1, limit * 6 // 10),) * n)


def mixed(
    samples: NDArray[Any], noise: NDArray[Any] | None, snr_db: float | None, gain_db: float
) -> NDArray[np.float32]:
    """int16 samples with `gain_db`, and `noise` (repeated) `snr_db` below the RMS of what is louder than its median."""
    x = to_float64(samples)
    if noise is not None and snr_db is not None:
        sound = to_float64(noise)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (0, 400)), 400)[::400]
        levels = np.sqrt(np.mean(np.square(frames), axis=1))
        louder = levels[levels > np.median(levels)]
        speech = float(np.sqrt(np.mean(np.square(louder)))) if len(louder) else 0.0
        level = float(np.sqrt(np.mean(np.square(sound)))) or 1.0
        x = x + np.resize(sound, len(x)) * (speech / level / 10 ** (snr_db / 20))
    return np.clip(x * 10 ** (gain_db / 20), -1.0, 32767 / 32768).astype(np.float32)
