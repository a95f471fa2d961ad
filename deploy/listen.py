# SPDX-License-Identifier: Apache-2.0
"""What it takes to hear keywords in a stream, in integers: the constants of `c/kws_listen.h`, by their names there.

`kws.detector` makes them of a model, `deploy.native` runs them, `deploy.export.c` writes them out, `deploy.profile`
says what memory they take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deploy.arena import aligned
from deploy.graph import Graph
from deploy.program import Fields, Program, compile_graph
from deploy.streaming import Move, StreamPlan, compile_stream
from features.config import FrontendConfig

_STATE = 48  # bytes of the structure stream_state


@dataclass(frozen=True, slots=True)
class Heard:
    """A keyword that was heard: its index, its largest posterior 0..255, its first frame and that behind its last.

    Frame 0 begins with the first sample of the recording; what lies before is negative.
    """

    keyword: int
    score: int
    first: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Listen:
    """One model with its detection settings. Frames unless said otherwise."""

    graph: Graph
    """It ends with a softmax."""
    plan: StreamPlan | None
    """One window a step, `hop` being a multiple of its stride; None: whole windows."""
    frontend: FrontendConfig
    """Of fixed-point arithmetic, without division by a clip's peak."""
    hop: int
    smoothing: int
    """Windows, as `refractory` and `after`."""
    refractory: int
    thresholds: tuple[int, ...]
    """One a keyword, as `releases`."""
    releases: tuple[int, ...]
    silence: int
    after: int
    pause: int
    late: int
    shortest: int
    longest: int

    def program(self) -> tuple[Program, tuple[Move, ...]]:
        """The network, and what moves after each run. UsageError for a rounding rule that C does not compute."""
        return (compile_graph(self.graph), ()) if self.plan is None else compile_stream(self.plan)

    def constants(self) -> Fields:
        """The fields of `kws_listen` but for front-end, network and moves."""
        plan, n_frames = self.plan, self.frontend.n_frames
        stride = self.hop if plan is None else plan.stride
        lag = 0 if plan is None else plan.lag
        # a network that streams may not look at the last frames of its windows, in which words are located all the same
        delay = n_frames if plan is None else stride + max(0, n_frames - (lag + 1) * stride)
        return {
            "stride": stride, "delay": delay, "lag": lag, "every": self.hop // stride, "n_frames": n_frames,
            "silence": self.silence, "smoothing": self.smoothing, "refractory": self.refractory,
            "n_keywords": len(self.thresholds),
            "thresholds": np.array(self.thresholds, np.int32), "releases": np.array(self.releases, np.int32),
            "after": self.after, "pause": self.pause, "late": self.late,
            "shortest": self.shortest, "longest": self.longest,
        }  # fmt: skip

    def lasting_size(self, frames_at_once: int = 1) -> int:
        """Bytes of the memory of `kws_listen` beyond what front-end and network compute in."""
        c, frontend, keywords = self.constants(), self.frontend, len(self.thresholds)
        back = max(0, self.smoothing - 1 - self.after)
        parts = (
            _STATE,
            4 * keywords,
            2 * ((c["lag"] + back * c["every"]) * c["stride"] + c["delay"]),
            2 * (frontend.frame_length + (frames_at_once - 1) * frontend.hop_length),
            c["delay"] * frontend.n_features,
            frames_at_once * frontend.n_features,
            self.smoothing * keywords,
            keywords,
        )
        return sum(map(aligned, parts))

    def size(self, network_size: int) -> int:
        """What `kws_listen_size` gives on a board, where a network takes `network_size` bytes, one frame at a time.

        A network that keeps nothing between two runs shares its place with the front-end.
        """
        work, (_, moves) = self.work_size, self.program()
        return (work + network_size if moves else max(work, network_size)) + self.lasting_size()

    @property
    def work_size(self) -> int:
        """Bytes that the portable front-end computes a frame in."""
        frontend = self.frontend
        return aligned(4 * (frontend.n_fft + 2 + frontend.n_mels + frontend.n_features))
