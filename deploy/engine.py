# SPDX-License-Identifier: Apache-2.0
"""Which engine runs a graph. All compute the same bits, so the choice is one of speed."""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from deploy import native, reference
from deploy.graph import Graph
from deploy.program import ROUNDING
from kws.errors import UsageError

ENGINES = ("native", "reference")

_native: WeakKeyDictionary[Graph, native.Engine] = WeakKeyDictionary()


def run(graph: Graph, x: NDArray[np.int8], engine: str = "native") -> NDArray[np.int8]:
    """The outputs int8 (N, *output_shape) of a checked graph for inputs int8 (N, *input_shape); N may be 0.

    `native` is the C runtime on all cores. Where it was not built, or does not compute the graph's rounding rule, NumPy
    takes its place, and a RuntimeWarning says so once. ModelError for another input, UsageError for another engine.
    """
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}", hint="one of " + ", ".join(ENGINES))
    if engine == "native" and graph.rounding not in ROUNDING:
        warnings.warn(f"rounding '{graph.rounding}' is computed in NumPy, slowly", RuntimeWarning, stacklevel=2)
    elif engine == "native" and not native.available():
        what = "the native engine was not built, NumPy computes the same bits slowly: install a C compiler and"
        warnings.warn(f"{what} install integer-kws again", RuntimeWarning, stacklevel=2)
    elif engine == "native":
        if graph not in _native:
            _native[graph] = native.Engine(graph)
        return _native[graph].run(x)
    return reference.run(graph, x)
