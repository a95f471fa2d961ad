# SPDX-License-Identifier: Apache-2.0
"""Which engine runs a graph. All compute the same bits, so the choice is one of speed."""

from __future__ import annotations

import warnings
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from deploy import native, reference
from deploy.graph import Graph
from deploy.listen import Listen
from deploy.program import ROUNDING
from deploy.streaming import ReferenceStream, StreamPlan
from features import native_frontend
from kws.errors import UsageError

ENGINES = ("native", "reference")


class Stream(Protocol):
    """What runs a `StreamPlan`: `native.Stream` or `streaming.ReferenceStream`, which holds the state of one stream."""

    def run(self, frames: NDArray[np.int8], /) -> NDArray[np.int8]:
        """Whole steps of frames, int8 (n * plan.frames, F) -> outputs (n * plan.windows, size)."""


def stream(plan: StreamPlan, engine: str = "native") -> Stream:
    """A fresh stream; engines, warnings and errors as of `run`."""
    return native.Stream(plan) if _is_native(plan.rounding, engine) else ReferenceStream(plan)


def listener(listen: Listen, engine: str = "native") -> native.Listener | None:
    """`listen` in C; None where `engine` or the front-end is NumPy's. Warnings and errors as of `run`."""
    return (
        native.Listener(listen) if _is_native(listen.graph.rounding, engine) and native_frontend.available() else None
    )


_native: WeakKeyDictionary[Graph, native.Engine] = WeakKeyDictionary()


def run(graph: Graph, x: NDArray[np.int8], engine: str = "native") -> NDArray[np.int8]:
    """The outputs int8 (N, *output_shape) of a checked graph for inputs int8 (N, *input_shape); N may be 0.

    `native` is the C runtime on all cores. Where it was not built, or does not compute the graph's rounding rule, NumPy
    takes its place, and a RuntimeWarning says so once. ModelError for another input, UsageError for another engine.
    """
    if not _is_native(graph.rounding, engine):
        return reference.run(graph, x)
    if graph not in _native:
        _native[graph] = native.Engine(graph)
    return _native[graph].run(x)


def _is_native(rounding: str, engine: str) -> bool:
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}", hint="one of " + ", ".join(ENGINES))
    if engine == "native" and rounding not in ROUNDING:
        warnings.warn(f"rounding '{rounding}' is computed in NumPy, slowly", RuntimeWarning, stacklevel=3)
        return False
    if engine == "native" and not native.available():
        what = "the native engine was not built, NumPy computes the same bits slowly: install a C compiler and"
        warnings.warn(f"{what} install integer-kws again", RuntimeWarning, stacklevel=3)
        return False
    return engine == "native"
