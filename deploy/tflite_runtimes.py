# SPDX-License-Identifier: Apache-2.0
"""Other people's runtimes of .tflite files, to compare with: one call runs a file on many inputs.

They are the oracles of tests and of docs/formats.md; nothing else needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.export.tflite_file import tflite_schema
from kws.errors import MissingExtraError, UsageError

Arrays = dict[str, NDArray[np.int8]]
RUNTIMES = ("tflm", "litert", "litert-no-delegate", "litert-reference")
"""TensorFlow Lite Micro; LiteRT by default (XNNPACK), without delegates, and with its reference kernels."""

_ARENA = 1 << 23


def run_tflite(runtime: str, data: bytes, inputs: Mapping[str, NDArray[np.int8]]) -> Arrays:
    """The outputs of the file by tensor name, int8 (N, *shape), for its inputs by name, int8 (N, *shape), N >= 1.

    Shapes have no batch axis of their own. UsageError for an unknown runtime, MissingExtraError for one that is not
    installed.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"unknown runtime {runtime!r}", hint="one of " + ", ".join(RUNTIMES))
    subgraph = _load(data).subgraphs[0]
    sources, outputs = (
        [subgraph.tensors[index].name.decode() for index in indices] for indices in (subgraph.inputs, subgraph.outputs)
    )
    invoke = _tflm(data) if runtime == "tflm" else _litert(data, runtime)
    rows = [
        invoke([row[None] for row in rows], len(outputs))
        for rows in zip(*(inputs[name] for name in sources), strict=True)
    ]
    return {name: np.concatenate(column) for name, column in zip(outputs, zip(*rows, strict=True), strict=True)}


def with_outputs(data: bytes, names: Collection[str]) -> bytes:
    """The same file with the tensors `names` for outputs."""
    model = _load(data)
    subgraph = model.subgraphs[0]
    subgraph.outputs = [index for index, tensor in enumerate(subgraph.tensors) if tensor.name.decode() in names]
    return _pack(model)


def part_of(data: bytes, name: str, inputs: Collection[str]) -> bytes:
    """Of the file, only the operators that make the tensor `name` out of the tensors `inputs`, which become inputs."""
    model = _load(data)
    subgraph = model.subgraphs[0]
    numbers = {tensor.name.decode(): index for index, tensor in enumerate(subgraph.tensors)}
    makers = {int(operator.outputs[0]): operator for operator in subgraph.operators}
    given, kept, waiting = {numbers[source] for source in inputs}, [], [numbers[name]]
    found: list[int] = []
    while waiting:
        operator = makers[waiting.pop()]
        kept.append(operator)
        for index in map(int, operator.inputs):
            if index in given:
                found.append(index)
            elif index in makers:
                waiting.append(index)
    subgraph.operators = [operator for operator in subgraph.operators if operator in kept]
    subgraph.inputs, subgraph.outputs = list(dict.fromkeys(found)), [numbers[name]]
    return _pack(model)


def _load(data: bytes) -> Any:
    schema = tflite_schema()
    return schema.ModelT.InitFromPackedBuf(data, 0)


def _pack(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(len(model.buffers) * 64)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


Invoke = Callable[[list[NDArray[np.int8]], int], list[NDArray[np.int8]]]


def _tflm(data: bytes) -> Invoke:
    try:
        from tflite_micro import runtime
    except ImportError:
        raise MissingExtraError("tflite-micro is not installed", hint="pip install tflite-micro") from None
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=_ARENA)

    def invoke(inputs: list[NDArray[np.int8]], n_outputs: int) -> list[NDArray[np.int8]]:
        for index, values in enumerate(inputs):
            interpreter.set_input(values, index)
        interpreter.invoke()
        return [np.array(interpreter.get_output(index)) for index in range(n_outputs)]

    return invoke


def _litert(data: bytes, runtime: str) -> Invoke:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = {
        "litert": OpResolverType.AUTO,
        "litert-no-delegate": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "litert-reference": OpResolverType.BUILTIN_REF,
    }[runtime]
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    sources = [details["index"] for details in interpreter.get_input_details()]
    outputs = [details["index"] for details in interpreter.get_output_details()]

    def invoke(inputs: list[NDArray[np.int8]], n_outputs: int) -> list[NDArray[np.int8]]:
        for index, values in zip(sources, inputs, strict=True):
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        return [np.array(interpreter.get_tensor(index)) for index in outputs]

    return invoke
