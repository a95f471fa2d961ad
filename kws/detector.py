# SPDX-License-Identifier: Apache-2.0
"""From samples to events: a sliding window, posteriors, and the decision to fire, which is made in integers.

1. A window of one clip moves over the recording by `hop` frames. Before the first sample and after the last there is
   silence, as a stream that starts and stops would have it, so files of any length work.
2. The network's int8 logits become posteriors 0..255 by the integer softmax (S = 1/256, Z = -128).
3. Each keyword's posteriors are summed over the last `smoothing` windows. Where a sum reaches the keyword's threshold,
   it fires; of several, the largest. It fires again only after its sum has fallen below its release, and no keyword
   fires within `refractory` windows of another.
4. The posteriors that made it fire have a centre, the window in the middle of which the word lies. Where it begins and
   ends is read off the levels of the frames, in a window 0.2 s later or the one that fired (`locate`).

Nothing looks ahead of the window that fires: a stream gives the same events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy import engine as engines
from deploy.listen import Heard, Listen
from deploy.ops.softmax import integer_softmax, softmax_multiplier
from deploy.streaming import StreamPlan, can_stream, plan_stream
from features.audio import read_audio
from features.config import FrontendConfig
from features.frontend import input_features, recording_features
from kws.errors import AudioError, ModelError, UsageError

if TYPE_CHECKING:
    from deploy.graph import Graph
    from deploy.native import Listener
    from kws.model import Model
    from kws.stream import Frames, Stream

POSTERIOR_MAX = 255
MAX_HOP, MAX_SMOOTHING, MAX_REFRACTORY = 256, 256, 4096
_AFTER = 0.2  # seconds from the centre of the posteriors to the window in which the word is located
_PAUSE = 0.2  # seconds of quiet inside a word that do not end it: the closure before a final t or p
_LATE = 0.45  # seconds before the end of the centre's window, at most, for a word's end
_SHORTEST, _LONGEST = 0.16, 0.9  # seconds of a word
WINDOWS_AT_ONCE = 256
_WINDOWS_A_STEP = 16  # of a network that streams through a recording


@dataclass(frozen=True, slots=True)
class Event:
    """A keyword that was heard: start and end in seconds of the recording, score 0..1 (the largest posterior)."""

    label: str
    start: float
    end: float
    score: float


@dataclass(frozen=True, slots=True)
class DetectionConfig:
    """How posteriors become events. Raises ModelError, with the field, for values that make no detector."""

    hop: int
    """Frames from one window to the next."""
    smoothing: int
    """Windows in the moving sum."""
    refractory: int
    """Windows after a firing in which nothing fires."""
    thresholds: tuple[int, ...]
    """One a keyword, in label order, for its sum: 1..255 * smoothing."""
    releases: tuple[int, ...]
    """One a keyword: its sum must fall below this before it can fire again; at most the threshold."""

    def __post_init__(self) -> None:
        _check_int(self.hop, 1, MAX_HOP, "hop")
        _check_int(self.smoothing, 1, MAX_SMOOTHING, "smoothing")
        _check_int(self.refractory, 0, MAX_REFRACTORY, "refractory")
        for name in ("thresholds", "releases"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not values or len(values) != len(self.thresholds):
                raise ModelError("is not one integer a keyword", where=f"detection.{name}")
            for index, value in enumerate(values):
                limit = POSTERIOR_MAX * self.smoothing if name == "thresholds" else self.thresholds[index]
                _check_int(value, 1, limit, f"{name}[{index}]")

    @classmethod
    def default(cls, frontend: FrontendConfig, n_keywords: int, *, threshold: float = 0.5) -> DetectionConfig:
        """A window every 40 ms, sums over 0.4 s, as long without firing; one `threshold` (of the largest sum) for all.

        On validation, sums over 0.16 to 0.72 s were tried: for three networks these found the most words at one false
        event a minute, or at most one in a hundred less.
        """
        hop = max(1, round(0.04 * frontend.sample_rate / frontend.hop_length))
        seconds = hop * frontend.hop_length / frontend.sample_rate
        smoothing = max(1, round(0.4 / seconds))
        limit = max(1, round(threshold * POSTERIOR_MAX * smoothing))
        return cls(hop, smoothing, smoothing, (limit,) * n_keywords, (max(1, limit * 6 // 10),) * n_keywords)

    def check(self, labels: Sequence[str], frontend: FrontendConfig) -> None:
        """ModelError unless there is a threshold for each keyword among `labels` and windows overlap."""
        keywords = keywords_of(labels)
        if tuple(labels[: len(keywords)]) != keywords:
            raise ModelError("do not begin with the keywords", where="labels")
        if len(keywords) != len(self.thresholds):
            what = f"has {len(self.thresholds)} values for {len(keywords)} keywords"
            raise ModelError(what, where="detection.thresholds")
        if self.hop > frontend.n_frames:
            raise ModelError(f"is {self.hop} frames of a window of {frontend.n_frames}", where="detection.hop")

    def accepts(self, posteriors: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which keywords (N, n_keywords) fire on clips of which every window has these `posteriors` (N, n_labels)."""
        sums = posteriors[:, : len(self.thresholds)].astype(np.int64) * self.smoothing
        return sums >= np.array(self.thresholds)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, fit for JSON."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: object) -> DetectionConfig:
        """The configuration that `to_dict` wrote. ModelError for an unknown, missing or impossible field."""
        if not isinstance(values, dict):
            raise ModelError(f"is a {type(values).__name__}, not an object", where="detection")
        names = {field.name for field in fields(cls)}
        for name in sorted(map(str, values.keys() ^ names)):
            raise ModelError("is missing" if name in names else "is unknown", where=f"detection.{name[:40]}")
        as_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**as_tuples)


def _check_int(value: object, low: int, high: int, name: str) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ModelError(f"is {value!r:.40}, not an integer in [{low}, {high}]", where=f"detection.{name}")


def keywords_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that can fire: all but `_silence_` and `_unknown_`, which come last."""
    return tuple(label for label in labels if not label.startswith("_"))


def posteriors_of(graph: Graph, logits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Posteriors 0..255, P = value / 256, for int8 outputs (N, n_labels) of `graph`; integers only."""
    if graph.ops[-1].kind == "softmax":
        probabilities = logits
    else:
        probabilities = integer_softmax(logits, *softmax_multiplier(graph.output_params.scale)).astype(np.int8)
    return as_posteriors(probabilities)


def as_posteriors(probabilities: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Softmax outputs, S = 1/256 and Z = -128, as posteriors 0..255."""
    return (probabilities.astype(np.int16) + 128).astype(np.uint8)


@lru_cache(maxsize=8)
def _with_softmax(graph: Graph) -> Graph:
    """One graph for all detectors of a model, so that it is compiled once: C computes the softmax, too."""
    return graph.with_softmax()


@dataclass(frozen=True, slots=True)
class Firing:
    """One decision: the index of the keyword, the window that fired, the centre of its posteriors, their peak."""

    keyword: int
    window: int
    centre: int
    peak: int


class Decider:
    """Posteriors, window by window -> firings: step 3. Any split of the windows into calls gives the same."""

    def __init__(self, config: DetectionConfig) -> None:
        self._config = config
        self._thresholds = np.array(config.thresholds)
        self._releases = np.array(config.releases)
        self._recent = np.zeros((config.smoothing, len(config.thresholds)), np.int64)  # a ring
        self._sums = np.zeros(len(config.thresholds), np.int64)
        self._armed = np.ones(len(config.thresholds), bool)
        self._window = -1
        self._quiet_until = 0

    def push(self, posteriors: NDArray[np.uint8]) -> list[Firing]:
        """The firings of the next windows; `posteriors` is (n, n_labels), n may be 0."""
        firings = []
        for row in posteriors[:, : len(self._sums)].astype(np.int64):
            self._window += 1
            oldest = self._recent[self._window % len(self._recent)]
            self._sums += row - oldest
            oldest[:] = row
            self._armed |= self._sums < self._releases
            ready = self._armed & (self._sums >= self._thresholds)
            if self._window >= self._quiet_until and ready.any():
                firings.append(self._fire(int(np.where(ready, self._sums, -1).argmax())))
        return firings

    def _fire(self, keyword: int) -> Firing:
        self._armed[keyword] = False
        self._quiet_until = self._window + max(1, self._config.refractory)
        recent = self._recent[:, keyword]
        age = (self._window - np.arange(len(recent))) % len(recent)  # of each place of the ring, in windows
        centre = self._window - int((age * recent).sum() // recent.sum())
        return Firing(keyword, self._window, centre, int(recent.max()))


def locate(window: NDArray[np.int8], age: int, frontend: FrontendConfig) -> tuple[int, int]:
    """First and last frame of the word in `window` (n_frames, n_features), `age` frames later than the centre's.

    The level of a frame is the sum of its log-mel bands, or its first MFCC, over three frames. Frames above a fifth of
    the way from the quiet of the window (the level that an eighth of its frames do not pass) to its loudest are speech.
    The word ends with the last speech in the centre's window, or later where speech goes on without a pause of 0.2 s.
    Where it goes on to the end of `window`, the word ends there, since nothing later has been heard. It begins where,
    going back, such a pause comes first. Its end is at most 0.45 s before the end of the centre's window, its length
    0.16 to 0.9 s. Integers only.
    """
    levels = window[:, 0].astype(np.int64) if frontend.kind == "mfcc" else window.sum(axis=1, dtype=np.int64)
    padded = np.pad(levels, 1, mode="edge")
    levels = padded[:-2] + padded[1:-1] + padded[2:]
    quiet = int(np.sort(levels)[len(levels) // 8])
    speech = np.flatnonzero(5 * (levels - quiet) > int(levels.max()) - quiet)
    pause, late, shortest, longest = _limits(frontend)
    middle = len(levels) - 1 - age  # the last frame of the centre's window
    before = speech[speech <= middle]
    last = int(before[-1]) if len(before) else middle
    for frame in speech[speech > last]:
        if frame - last > pause:
            break
        last = int(frame)
    if last >= len(levels) - 2:  # the last level is the mean of two frames only
        last = len(levels) - 1
    last = max(last, middle - late, 0)
    first = last
    for frame in speech[speech < last][::-1]:
        if first - frame > pause or last - frame >= longest:
            break
        first = int(frame)
    return max(0, min(first, last - shortest + 1)), last


def _limits(frontend: FrontendConfig) -> tuple[int, ...]:
    """What `locate` goes by, in frames."""
    return tuple(_frames(seconds, frontend) for seconds in (_PAUSE, _LATE, _SHORTEST, _LONGEST))


def _frames(seconds: float, frontend: FrontendConfig) -> int:
    return max(1, round(seconds * frontend.sample_rate / frontend.hop_length))


def silence_before(frontend: FrontendConfig, hop: int) -> int:
    """Frames of silence before a recording: those of one clip, made a multiple of `hop`."""
    return -(-frontend.clip_samples // (hop * frontend.hop_length)) * hop


class Windows:
    """The windows of a recording as int8 features, with a window of silence before and after it.

    Where the front-end does not need the whole clip, it runs once and windows are cut out of its frames.
    """

    def __init__(self, samples: NDArray[Any], frontend: FrontendConfig, graph: Graph, hop: int) -> None:
        self._frontend, self._params, self._hop = frontend, graph.input_params, hop
        step = hop * frontend.hop_length
        self._frames_before = silence_before(frontend, hop)
        before = self._frames_before * frontend.hop_length
        self._count = 1 + (before + len(samples)) // step
        self.frames: NDArray[np.int8] | None = None
        """(n, n_features) of the recording and the silence around it, where the front-end does not need the clip."""
        if frontend.normalize == "none":
            frames = recording_features(samples, frontend, self._params, before=before, after=frontend.clip_samples)
            windows = np.lib.stride_tricks.sliding_window_view(frames, frontend.n_frames, axis=0)[::hop]
            self.frames, self._windows = frames, windows[: self._count]  # the last clip may end behind its last frame
        else:
            padded = np.pad(samples, (before, frontend.clip_samples))
            self._clips = np.lib.stride_tricks.sliding_window_view(padded, frontend.clip_samples)[::step]

    def __len__(self) -> int:
        return self._count

    def take(self, start: int, stop: int) -> NDArray[np.int8]:
        """Windows start..stop - 1 (or up to the last): int8 (n, n_frames, n_features)."""
        if self.frames is not None:
            return np.ascontiguousarray(np.moveaxis(self._windows[start:stop], 1, 2))
        clips: NDArray[np.int8] = input_features(self._clips[start:stop], self._frontend, self._params)
        return clips

    def first_frame(self, window: int) -> int:
        """The frame of the recording with which a window begins; negative within the silence before it."""
        return window * self._hop - self._frames_before

    def ends(self) -> NDArray[np.float64]:
        """The second of the recording at which each window ends."""
        first = np.arange(len(self)) * self._hop - self._frames_before
        return (first * self._frontend.hop_length + self._frontend.clip_samples) / self._frontend.sample_rate


@dataclass(frozen=True, slots=True)
class Trace:
    """What a network made of a recording, before any decision."""

    windows: Windows
    posteriors: NDArray[np.uint8]
    """(n_windows, n_labels)"""
    seconds: float
    """Length of the recording."""


class Detector:
    """Finds the keywords of a model in recordings. `detection` replaces the model's own settings.

    ModelError for a model without a front-end.
    """

    def __init__(self, model: Model, detection: DetectionConfig | None = None) -> None:
        self.model = model
        self.frontend, own = model.hearing()
        self.detection = own if detection is None else detection
        self.detection.check(model.labels, self.frontend)
        self._graph = _with_softmax(model.graph)

    def detect(self, source: str | Path | NDArray[Any]) -> list[Event]:
        """The events of a sound file, or of mono samples (n,) at the model's rate: int16, or floats in [-1, 1).

        AudioError for a file that cannot be used, and for no samples; UsageError for what is neither path nor array.
        """
        if self.listener is None or self.listener.listen.plan is None:  # whole windows run on all cores
            return self.decide(self.trace(source))
        state, events = self.step(None, self._samples(source))
        return events + state.finish()

    def trace(self, source: str | Path | NDArray[Any]) -> Trace:
        """The posteriors of every window of such a source. Errors as in `detect`."""
        samples = self._samples(source)
        windows = Windows(samples, self.frontend, self._graph, self.detection.hop)
        return Trace(windows, self._posteriors(windows), len(samples) / self.frontend.sample_rate)

    def _samples(self, source: str | Path | NDArray[Any]) -> NDArray[Any]:
        if isinstance(source, str | Path):
            source = read_audio(source, dtype="int16", sample_rate=self.frontend.sample_rate)
        elif not isinstance(source, np.ndarray):
            what = f"a {type(source).__name__} is neither a path nor a NumPy array of samples"
            raise UsageError(what, hint="numpy.array(samples, numpy.float32)")
        if source.ndim != 1 or len(source) == 0:
            raise AudioError(f"samples of shape {source.shape} are not one channel of at least one sample")
        return source

    def stream_plan(self, windows: int = 1) -> StreamPlan | None:
        """How the network streams, `windows` outputs a step; None where it cannot, or where `hop` is no multiple of its
        stride in time."""
        if can_stream(self._graph):
            return None
        plan = plan_stream(self._graph, windows)
        return plan if self.detection.hop % plan.stride == 0 else None

    def posteriors(self, windows: NDArray[np.int8]) -> NDArray[np.uint8]:
        """The posteriors (n, n_labels) of windows (n, n_frames, n_features) in the network's input domain."""
        return as_posteriors(engines.run(self._graph, windows[..., None], self.model.engine))

    def _posteriors(self, windows: Windows) -> NDArray[np.uint8]:
        """Column by column where the network streams, window by window where not: the same integers."""
        plan = self.stream_plan(windows=_WINDOWS_A_STEP)
        if plan is not None and windows.frames is not None:
            needed = (len(windows) - 1) * self.detection.hop + (plan.lag + 1) * plan.stride
            needed = -(-needed // plan.frames) * plan.frames
            frames = windows.frames[:needed]  # beyond the last window's frames any will do
            frames = np.pad(frames, ((0, needed - len(frames)), (0, 0)))
            outputs = engines.stream(plan, self.model.engine).run(frames)
            every = self.detection.hop // plan.stride
            return as_posteriors(outputs[plan.lag :: every][: len(windows)])
        parts = range(0, len(windows), WINDOWS_AT_ONCE)
        return np.concatenate([
            self.posteriors(windows.take(start, start + WINDOWS_AT_ONCE))
            for start in parts
        ])  # fmt: skip

    def step(self, state: Stream | None, samples: NDArray[Any]) -> tuple[Stream, list[Event]]:
        """The events that the next samples of a stream complete, (n,) int16 or floats, n from 0 on; None begins one.

        The state is changed and returned. `state.finish()` gives the events that silence behind the last sample
        completes; with them, the events of any pieces are those of `detect` for the whole. Errors as of `Stream`.
        """
        if state is None:
            from kws.stream import Stream

            state = Stream(self)
        return state, state.push(samples)

    def decide(self, trace: Trace) -> list[Event]:
        """The events of a trace that this detector made, or another of the same model and `hop`."""
        firings = Decider(self.detection).push(trace.posteriors)
        return [self.event(firing, trace.windows, trace.seconds) for firing in firings]

    def event(self, firing: Firing, windows: Windows | Frames, seconds: float) -> Event:
        """The event of a firing: its word is located in `windows`, at most `seconds` into the recording."""
        return self.event_of(self.heard(firing, windows), seconds)

    def heard(self, firing: Firing, windows: Windows | Frames) -> Heard:
        """A firing with its word located in `windows`, in integers."""
        window = min(firing.window, firing.centre + self._after())
        age = (window - firing.centre) * self.detection.hop
        first, last = locate(windows.take(window, window + 1)[0], age, self.frontend)
        offset = windows.first_frame(window)
        return Heard(firing.keyword, firing.peak, offset + first, offset + last + 1)

    def event_of(self, heard: Heard, seconds: float) -> Event:
        """The event in seconds, at most `seconds` into the recording."""
        start, end = (max(0.0, self._edge(frame)) for frame in (heard.first, heard.end))
        if end > seconds:  # the word goes on to the end, or was located behind it
            start, end = max(0.0, min(start, seconds - _SHORTEST)), seconds
        return Event(self.model.labels[heard.keyword], start, end, heard.score / POSTERIOR_MAX)

    def listen(self) -> Listen | None:
        """What the C runtime needs to hear what this detector hears in a stream; None for a front-end in floats, or one
        that needs whole clips."""
        frontend, detection = self.frontend, self.detection
        if frontend.arithmetic != "fixed" or frontend.normalize != "none":
            return None
        pause, late, shortest, longest = _limits(frontend)
        return Listen(
            self._graph, self.stream_plan(), frontend, detection.hop, detection.smoothing, detection.refractory,
            detection.thresholds, detection.releases, silence_before(frontend, detection.hop), self._after(),
            pause, late, shortest, longest,
        )  # fmt: skip

    @cached_property
    def listener(self) -> Listener | None:
        """`listen()` in C, where the model's engine is native."""
        listen = self.listen()
        return None if listen is None else engines.listener(listen, self.model.engine)

    def _after(self) -> int:
        """Windows from the centre of the posteriors to that in which the word is located, at most."""
        return max(1, round(_frames(_AFTER, self.frontend) / self.detection.hop))

    def _edge(self, frame: int) -> float:
        """The second between frames `frame` - 1 and `frame`, half way between their centres."""
        hop_length = self.frontend.hop_length
        samples = frame * hop_length + (self.frontend.frame_length - hop_length) / 2
        return float(samples / self.frontend.sample_rate)
