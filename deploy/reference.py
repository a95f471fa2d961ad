# SPDX-License-Identifier: Apache-2.0
"""The NumPy executor: walks the ops of a graph. Slow, exact, and the specification of every other engine.

Between the int8 input and the int8 output no float exists. The graph is trusted: `Graph.check()` has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from deploy.graph import Graph, Op
from deploy.tensor import IntArray
from kws.errors import ModelError

_CHUNK_ELEMENTS = 1 << 17  # bounds memory, and keeps a chunk near the caches


def run(graph: Graph, x: NDArray[np.int8]) -> NDArray[np.int8]:
    """The outputs int8 (N, *output_shape) for inputs int8 (N, *input_shape); N may be 0. ModelError otherwise."""
    check_input(graph, x)
    step = max(1, _CHUNK_ELEMENTS // max(_elements(graph, op) for op in graph.ops))
    chunks = [_walk(graph, x[i : i + step])[graph.output] for i in range(0, max(len(x), 1), step)]
    return np.concatenate(chunks)


def run_all(graph: Graph, x: NDArray[np.int8]) -> dict[str, NDArray[np.int8]]:
    """Every activation by name, int8 (N, *shape), the input included: for comparing engines layer by layer."""
    check_input(graph, x)
    return _walk(graph, x, keep=True)


def run_op(graph: Graph, op: Op, inputs: Sequence[IntArray]) -> NDArray[np.int8]:
    """The output of one op for its activations, int8 (N, *shape) each; its constants come from the graph."""
    tensors = graph.inputs_of(op)
    constants = [tensor.data for tensor in tensors if tensor.data is not None]
    return cast(NDArray[np.int8], op.attributes.run([*inputs, *constants], tensors, graph.tensors[op.output]))


def _walk(graph: Graph, x: NDArray[np.int8], *, keep: bool = False) -> dict[str, NDArray[np.int8]]:
    """Run every op; without `keep` an activation is dropped after its last reader."""
    last_reader = {name: index for index, op in enumerate(graph.ops) for name in op.inputs}
    values = {graph.input: x}
    for index, op in enumerate(graph.ops):
        activations = [name for name in op.inputs if graph.tensors[name].data is None]
        values[op.output] = run_op(graph, op, [values[name] for name in activations])
        if not keep:
            for name in set(activations):
                if last_reader[name] == index and name != graph.output:
                    del values[name]
    return values


def _elements(graph: Graph, op: Op) -> int:
    """The size of the largest array that `op` makes for one input: its output, or the windows of a convolution."""
    tensors, output = graph.inputs_of(op), graph.tensors[op.output]
    return max(output.size, tensors[0].size, op.attributes.macs(tensors, output) // output.shape[-1])


def check_input(graph: Graph, x: NDArray[np.int8]) -> None:
    """ModelError unless `x` is int8 (N, *input_shape)."""
    if x.dtype != np.int8 or x.shape[1:] != graph.input_shape or x.ndim != len(graph.input_shape) + 1:
        raise ModelError(f"input is {x.dtype}{x.shape}, not int8 (N, {', '.join(map(str, graph.input_shape))})")
