# SPDX-License-Identifier: Apache-2.0
"""A graph as an ONNX file, from its own integers: int8 in and out, as QLinear operators or as QDQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from deploy.export.common import metadata
from deploy.export.onnx_file import Writer, clamp_of
from deploy.export.onnx_qdq import QdqWriter
from deploy.export.onnx_qlinear import QLinearWriter, has_odd_output
from deploy.graph import Graph, Op
from deploy.ops.base import Padding
from deploy.ops.concatenation import Concatenation
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.mean import Mean
from deploy.ops.pad import Pad
from deploy.ops.pool import Pool
from deploy.ops.slice import Slice
from deploy.ops.softmax import Softmax, softmax_multiplier
from deploy.tflite_rules import FULL_CLAMP
from features.config import FrontendConfig
from kws.errors import ModelError

RUNTIMES = {
    "half_even": "ONNX Runtime computes this model's own bits in convolutions and fully connected layers, but for "
    "float32 products near a tie",
    "single": "ONNX Runtime rounds once as the model does, and ties to even where the model's go up; scales other than "
    "powers of two meet hardly any",
    "tflm": "ONNX Runtime does not compute this model's own bits: it rounds once, the model twice",
    "double_up": "ONNX Runtime does not compute this model's own bits: it rounds once, the model twice",
    "half_away": "ONNX Runtime rounds once as the model does, and ties to even where the model's go away from zero",
}
"""What ONNX Runtime computes of a graph, by its rounding rule: docs/formats.md has the counts."""


def export(
    graph: Graph, labels: Sequence[str], frontend: FrontendConfig | None, detection: Mapping[str, Any] | None = None,
    *, qdq: bool = False,
) -> bytes:  # fmt: skip
    """The content of an .onnx file for a checked graph: QLinear operators, or float ones between integers (`qdq`).

    Input and output are int8 with a batch axis of any size, shaped as in the graph: (N, H, W, C). Between them every
    tensor of three axes is (N, C, H, W). Tensors keep their names. ModelError names the op that cannot be written: a
    scale that is not known, a softmax whose beta is not 1. MissingExtraError where onnx is not installed.
    """
    writer = QdqWriter(graph) if qdq else QLinearWriter(graph)
    for op in graph.ops:
        try:
            _WRITE[op.kind](writer, op)
        except ModelError as error:
            raise ModelError(f"ONNX: {error.what}", where=error.where or f"op '{op.name}'", hint=error.hint) from None
    return writer.finish(metadata(graph, labels, frontend, detection))


def odd_zero_points(graph: Graph, *, qdq: bool = False) -> str:
    """A line that names each add and mul with an odd output zero point and says what becomes of its ties; or ""."""
    made = {
        "add": "written as DequantizeLinear, Sum, QuantizeLinear, since the ties of a QLinearAdd would go to odd",
        "mul": "the ties of a QLinearMul go to odd",
    }
    if qdq:
        made = {
            "add": "ONNX Runtime makes a QLinearAdd of it, whose ties then go to odd (--to onnx avoids it)",
            "mul": "ONNX Runtime makes a QLinearMul of it, whose ties then go to odd",
        }
    said = []
    for kind, what in made.items():
        names = ", ".join(f"'{op.name}'" for op in graph.ops if op.kind == kind and has_odd_output(graph, op))
        if names:
            said.append(f"{kind} {names}: odd output zero point: {what}")
    return "; ".join(said)


def _pads(padding: Padding) -> list[int]:
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


def _conv2d(writer: Writer, op: Op) -> None:
    attributes = cast(Conv2d, op.attributes)
    weight = writer.graph.inputs_of(op)[1].data
    assert weight is not None
    pads = _pads(attributes.padding)
    writer.convolve(op, weight.transpose(0, 3, 1, 2), strides=attributes.stride, pads=pads)


def _depthwise_conv2d(writer: Writer, op: Op) -> None:
    attributes = cast(DepthwiseConv2d, op.attributes)
    x, weight, _ = writer.graph.inputs_of(op)
    assert weight.data is not None
    pads = _pads(attributes.padding)
    writer.convolve(op, weight.data.transpose(3, 0, 1, 2), strides=attributes.stride, pads=pads, group=x.shape[2])


def _fully_connected(writer: Writer, op: Op) -> None:
    writer.dense(op)


def _add(writer: Writer, op: Op) -> None:
    writer.compute("Add", op, op.output, clamp=clamp_of(op))


def _mul(writer: Writer, op: Op) -> None:
    writer.compute("Mul", op, op.output, clamp=clamp_of(op))


def _window(pool: Pool) -> dict[str, Any]:
    return {"kernel_shape": pool.kernel, "strides": pool.stride, "pads": _pads(pool.padding)}


def _average_pool(writer: Writer, op: Op) -> None:
    pool = cast(Pool, op.attributes)
    clamp = pool.activation_min, pool.activation_max
    writer.compute("AveragePool", op, op.output, clamp=clamp, **_window(pool), count_include_pad=0)


def _max_pool(writer: Writer, op: Op) -> None:
    pool = cast(Pool, op.attributes)
    writer.node("MaxPool", [op.inputs[0]], op.output, clamp=(pool.activation_min, pool.activation_max), **_window(pool))


def _mean(writer: Writer, op: Op) -> None:
    (x,) = writer.graph.inputs_of(op)
    keep_dims = cast(Mean, op.attributes).keep_dims
    made = op.output if keep_dims else writer.name(f"{op.name}/made")
    writer.compute("GlobalAveragePool", op, made, clamp=clamp_of(op))
    if not keep_dims:
        shape = writer.constant(f"{op.name}/shape", np.array([0, x.shape[2]], np.int64))
        writer.node("Reshape", [made, shape], op.output)


def _axis(rank: int, axis: int) -> int:
    """Where an axis of the graph's lies in the file, batch axis included."""
    return (2, 3, 1)[axis] if rank == 3 else axis + 1


def _concatenation(writer: Writer, op: Op) -> None:
    attributes = cast(Concatenation, op.attributes)
    if any((requant.activation_min, requant.activation_max) != FULL_CLAMP for requant in attributes.requants_in):
        raise ModelError("clamps one of its inputs")
    writer.compute("Concat", op, op.output, axis=_axis(len(writer.graph.tensors[op.output].shape), attributes.axis))


def _slice(writer: Writer, op: Op) -> None:
    attributes = cast(Slice, op.attributes)
    axes = [_axis(len(attributes.begin), axis) for axis in range(len(attributes.begin))]
    ends = [begin + size for begin, size in zip(attributes.begin, attributes.size, strict=True)]
    parts = {"begin": attributes.begin, "end": ends, "axes": axes}
    constants = [writer.constant(f"{op.name}/{key}", np.array(values, np.int64)) for key, values in parts.items()]
    writer.node("Slice", [op.inputs[0], *constants], op.output)


def _pad(writer: Writer, op: Op) -> None:
    paddings = cast(Pad, op.attributes).paddings
    pads = np.zeros((2, len(paddings) + 1), np.int64)
    for axis, pair in enumerate(paddings):
        pads[:, _axis(len(paddings), axis)] = pair
    filled = writer.constant(f"{op.name}/value", np.int8(writer.graph.tensors[op.output].zero_point))
    writer.node("Pad", [op.inputs[0], writer.constant(f"{op.name}/pads", pads.reshape(-1)), filled], op.output)


def _reshape(writer: Writer, op: Op) -> None:
    """In the graph's order of axes, (H, W, C)."""
    (x,), output = writer.graph.inputs_of(op), writer.graph.tensors[op.output]
    source, target = x.name, op.output
    if len(x.shape) == 3:
        source = writer.name(f"{op.name}/nhwc")
        writer.node("Transpose", [x.name], source, perm=[0, 2, 3, 1])
    if len(output.shape) == 3:
        target = writer.name(f"{op.name}/made")
    shape = writer.constant(f"{op.name}/shape", np.array([0, *output.shape], np.int64))
    writer.node("Reshape", [source, shape], target)
    if target != op.output:
        writer.node("Transpose", [target], op.output, perm=[0, 3, 1, 2])


def _logistic(writer: Writer, op: Op) -> None:
    writer.compute("Sigmoid", op, op.output)


def _softmax(writer: Writer, op: Op) -> None:
    attributes = cast(Softmax, op.attributes)
    (x,) = writer.graph.inputs_of(op)
    if softmax_multiplier(x.params.scale) != (attributes.multiplier, attributes.left_shift):
        raise ModelError("its beta is not 1")
    writer.compute("Softmax", op, op.output, axis=_axis(len(x.shape), len(x.shape) - 1))


_WRITE: dict[str, Callable[[Writer, Op], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "mul": _mul,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "mean": _mean,
    "concatenation": _concatenation,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "logistic": _logistic,
    "softmax": _softmax,
}
