# SPDX-License-Identifier: Apache-2.0
"""Detection on a stream: samples in pieces of any size, the events of the whole recording out.

`Frames` is the specification, in NumPy, of what `deploy/c/kws_listen.c` does in one call a piece; the latter runs where
the model's engine is native and its front-end in integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy import engine as engines
from deploy.native import Listening
from features.float_frontend import checked_samples, to_float64, to_int16
from features.frontend import input_features
from kws.detector import WINDOWS_AT_ONCE, Decider, Detector, Event, as_posteriors, silence_before
from kws.errors import UsageError

if TYPE_CHECKING:
    from deploy.listen import Heard, Listen
    from kws.model import Model

_SAMPLES_AT_ONCE = 1 << 18  # bounds memory for pieces of hours


class Stream:
    """One stream of samples through one detector: what `Detector.step` keeps between two calls.

    Memory does not grow. Raises UsageError for a front-end that needs whole clips.
    """

    def __init__(self, detector: Detector) -> None:
        if detector.frontend.normalize != "none":
            raise UsageError(
                "the model's front-end divides each clip by its peak, so it needs the whole clip and has no stream",
                hint="kws infer runs it window by window",
            )
        self._detector = detector
        fixed = detector.frontend.arithmetic == "fixed"
        self._dtype = np.int16 if fixed else np.float64
        self._convert: Callable[[NDArray[Any]], NDArray[Any]] = to_int16 if fixed else to_float64
        self.reset()

    def reset(self) -> None:
        """Begin anew, at any time: as a fresh stream."""
        listener = self._detector.listener
        self._ears = Frames(self._detector) if listener is None else Listening(listener)
        self._n_samples = 0
        self._ended = False

    @property
    def seconds(self) -> float:
        """Length of what was heard so far."""
        return self._n_samples / self._detector.frontend.sample_rate

    def push(self, samples: NDArray[Any]) -> list[Event]:
        """The events that these samples, (n,) int16 or floats in [-1, 1), complete; n may be 0.

        Errors as of `features.frontend.features`, before anything has changed; UsageError after `finish`.
        """
        if self._ended:
            raise UsageError("the stream has ended", hint="begin another with step(None, samples)")
        samples = checked_samples(samples)
        if samples.ndim != 1:
            raise UsageError(f"samples of shape {samples.shape} are not one channel")
        heard: list[Heard] = []
        for start in range(0, len(samples), _SAMPLES_AT_ONCE):
            part = samples[start : start + _SAMPLES_AT_ONCE]
            heard += self._ears.push(part if part.dtype == self._dtype else self._convert(part))
        self._n_samples += len(samples)
        return self._events(heard)

    def finish(self) -> list[Event]:
        """The events that a clip of silence behind the last sample completes, as in `detect`. The stream ends."""
        self._ended = True
        return self._events(self._ears.finish())

    def _events(self, heard: list[Heard]) -> list[Event]:
        return [self._detector.event_of(each, self.seconds) for each in heard]


def listener_for_export(model: Model) -> tuple[Listen, list[Heard]] | None:
    """What `deploy.export.c.export` takes as `listener`: the model's own, and what NumPy alone hears in `golden_signal`
    with every threshold and release at 1. None for a model that has no `Detector.listen`."""
    from deploy.export.c_listener import golden_signal

    if model.frontend is None or model.detection is None:
        return None
    listen = Detector(model).listen()
    if listen is None:
        return None
    ones = (1,) * len(model.detection.thresholds)
    eager = replace(model.detection, thresholds=ones, releases=ones)
    frames = Frames(Detector(replace(model, engine="reference"), eager))
    return listen, frames.push(golden_signal()) + frames.finish()


class Frames:
    """A stream in NumPy: its last frames, the columns of the network's layers (where it streams; else a window is run
    whole every `hop` frames), and the moving sums."""

    def __init__(self, detector: Detector) -> None:
        model, frontend = detector.model, detector.frontend
        self._detector, self._model, self._frontend = detector, model, frontend
        self._hop, self._params = detector.detection.hop, model.graph.input_params
        self._decider = Decider(detector.detection)
        self._plan = detector.stream_plan()
        self._network = engines.stream(self._plan, model.engine) if self._plan else None
        self._skip = self._plan.lag if self._plan else 0  # outputs to drop: those before the next window's
        self._ahead = np.empty((0, len(model.labels)), np.int8)  # outputs for windows that are not complete yet
        self._waiting = np.empty((0, frontend.n_features), np.int8)  # frames for the network's next step
        dtype = np.int16 if frontend.arithmetic == "fixed" else np.float64
        self._samples = np.zeros(silence_before(frontend, self._hop) * frontend.hop_length, dtype)
        self._frames = np.empty((0, frontend.n_features), np.int8)
        self._first = 0  # the frame of the stream, its silence included, that is self._frames[0]
        self._window = 0  # the next to be decided
        self._n_samples = 0

    def push(self, samples: NDArray[Any]) -> list[Heard]:
        """What these samples, (n,) int16 or float64 as the front-end takes them, complete."""
        self._n_samples += len(samples)
        return self._advance(samples) if len(samples) else []

    def finish(self) -> list[Heard]:
        """What a clip of silence behind the last sample completes."""
        step = self._hop * self._frontend.hop_length
        before = silence_before(self._frontend, self._hop) * self._frontend.hop_length
        last = 1 + (before + self._n_samples) // step
        behind = self._frontend.clip_samples + (self._plan.frames * self._frontend.hop_length if self._plan else 0)
        return self._advance(np.zeros(behind, self._samples.dtype), last)

    def _advance(self, samples: NDArray[Any], last: int | None = None) -> list[Heard]:
        frontend = self._frontend
        self._samples = np.concatenate([self._samples, samples])
        count = frontend.frames_in(len(self._samples))
        if count == 0:
            return []
        used = self._samples[: (count - 1) * frontend.hop_length + frontend.frame_length]
        new = input_features(used, frontend, self._params)
        self._samples = self._samples[count * frontend.hop_length :]
        self._frames = np.concatenate([self._frames, new])
        complete = (self._first + len(self._frames) - frontend.n_frames) // self._hop + 1
        posteriors = self._posteriors(new, complete if last is None else min(complete, last))
        heard = [self._detector.heard(firing, self) for firing in self._decider.push(posteriors)]
        self._window += len(posteriors)
        oldest = (self._window - self._detector.detection.smoothing - 1) * self._hop
        if oldest > self._first:
            self._frames = self._frames[oldest - self._first :]
            self._first = oldest
        return heard

    def _posteriors(self, new: NDArray[np.int8], stop: int) -> NDArray[np.uint8]:
        """Those of the windows from self._window to `stop` - 1, or to the last that the network gives already."""
        if self._network is None or self._plan is None:
            starts = range(self._window, stop, WINDOWS_AT_ONCE)
            parts = [self._detector.posteriors(self.take(i, min(i + WINDOWS_AT_ONCE, stop))) for i in starts]
            return np.concatenate(parts) if parts else np.empty((0, len(self._model.labels)), np.uint8)
        self._waiting = np.concatenate([self._waiting, new])
        whole = len(self._waiting) // self._plan.frames * self._plan.frames
        outputs = self._network.run(self._waiting[:whole])
        self._waiting = self._waiting[whole:]
        dropped = min(self._skip, len(outputs))
        self._skip -= dropped
        self._ahead = np.concatenate([self._ahead, outputs[dropped:]])
        every = self._hop // self._plan.stride
        count = max(0, min(stop - self._window, -(-len(self._ahead) // every)))
        ready = self._ahead[: count * every : every]
        self._skip += max(0, count * every - len(self._ahead))  # those up to the next window's are still to come
        self._ahead = self._ahead[count * every :]
        return as_posteriors(ready)

    def take(self, start: int, stop: int) -> NDArray[np.int8]:
        """Windows start .. stop - 1 of those whose frames are kept: int8 (n, n_frames, n_features)."""
        frames = self._frames[start * self._hop - self._first :]
        windows = np.lib.stride_tricks.sliding_window_view(frames, self._frontend.n_frames, axis=0)[:: self._hop]
        return np.ascontiguousarray(np.moveaxis(windows[: stop - start], 1, 2))

    def first_frame(self, window: int) -> int:
        """The frame of the recording with which a window begins; negative within the silence before it."""
        return window * self._hop - silence_before(self._frontend, self._hop)
