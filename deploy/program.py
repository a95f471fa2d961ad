# SPDX-License-Identifier: Apache-2.0
"""A graph as the C runtime takes it: kernels in order with their constants, and where everything lies in memory.

`deploy/native.py` fills C structures with it, `deploy/export/c.py` writes them out. Field names are those of
`c/kws_nn.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from deploy.arena import Arena, check_arena, plan_arena
from deploy.graph import Graph, Op
from deploy.ops.add import Add
from deploy.ops.base import Padding
from deploy.ops.concatenation import Concatenation
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.ops.logistic import Logistic, integer_logistic
from deploy.ops.mean import Mean, divided_multiplier
from deploy.ops.mul import Mul
from deploy.ops.pad import Pad
from deploy.ops.pool import Pool
from deploy.ops.slice import Slice
from deploy.ops.softmax import Softmax
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant
from kws.errors import UsageError

ROUNDING = {"single": 0, "tflm": 1}  # KWS_SINGLE, KWS_TFLM

Fields = Mapping[str, Any]  # of int, tuple[int, ...], int8 and int32 arrays, and Fields


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a kernel. `struct` names the C structure that `fields` fill; offsets are bytes into the memory."""

    name: str
    kernel: str
    struct: str
    fields: Fields
    inputs: tuple[int, ...]
    output: int


@dataclass(frozen=True, slots=True)
class Program:
    """What `kws_network` holds. `column` is the largest number of inputs that one output of a conv2d sees."""

    steps: tuple[Step, ...]
    input: int
    input_size: int
    output: int
    output_size: int
    arena_size: int
    column: int


def compile_graph(graph: Graph, arena: Arena | None = None) -> Program:
    """The program of a checked graph; the arena is planned unless given, and proved in either case.

    UsageError for a rounding rule that C does not compute.
    """
    arena = arena or plan_arena(graph)
    check_arena(graph, arena)
    steps: list[Step] = []
    for op in graph.ops:
        offsets = tuple(arena.offsets[name] for name in op.inputs if graph.tensors[name].data is None)
        output = arena.offsets[op.output]
        steps += [Step(op.name, *lowered, output) for lowered in lower(graph, op, offsets, output)]
    return Program(
        steps=tuple(steps),
        input=arena.offsets[graph.input],
        input_size=graph.tensors[graph.input].size,
        output=arena.offsets[graph.output],
        output_size=graph.tensors[graph.output].size,
        arena_size=arena.size,
        column=column_of(steps),
    )


Lowered = Iterator[tuple[str, str, Fields, tuple[int, ...]]]


def lower(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    """Kernel, structure, fields and inputs of each step that computes `op` from `inputs` to `output`, offsets both.

    UsageError for a rounding rule that C does not compute.
    """
    if graph.rounding not in ROUNDING:
        raise UsageError(
            f"rounding '{graph.rounding}' is not one of {', '.join(ROUNDING)}, those of the C runtime",
            hint="run it with --engine reference",
        )
    return _LOWER[op.kind](graph, op, inputs, output)


def column_of(steps: Iterable[Step]) -> int:
    """The largest number of inputs that one output of a conv2d among `steps` sees, or 0."""
    windows = [step.fields["window"] for step in steps if step.kernel == "kws_conv2d"]
    return max((int(w["kernel_h"] * w["kernel_w"] * w["in_c"]) for w in windows), default=0)


def _requant(requant: Requant) -> Fields:
    return {
        "multiplier": requant.multiplier,
        "shift": requant.shift.astype(np.int8),
        "per_channel": int(len(requant.multiplier) > 1),
        "zero_point": requant.zero_point,
        "activation_min": requant.activation_min,
        "activation_max": requant.activation_max,
        "rounding": ROUNDING[requant.rounding],
    }


def _window(x: Shape, out: Shape, kernel: Shape, stride: Shape, padding: Padding) -> Fields:
    return {
        "in_h": x[0], "in_w": x[1], "in_c": x[2],
        "out_h": out[0], "out_w": out[1], "out_c": out[2],
        "kernel_h": kernel[0], "kernel_w": kernel[1],
        "stride_h": stride[0], "stride_w": stride[1],
        "pad_top": padding[0][0], "pad_left": padding[1][0],
    }  # fmt: skip


def _affine(window: Fields, weight: Tensor, bias: IntArray, zero_point: int, requant: Requant) -> Fields:
    assert weight.data is not None
    return {
        "window": window,
        "weight": weight.data.astype(np.int8),
        "bias": bias.astype(np.int32),
        "input_zero_point": zero_point,
        "weight_zero_point": weight.zero_point,
        "requant": _requant(requant),
    }


def _folded_bias(x: Tensor, weight: Tensor, bias: Tensor) -> IntArray:
    """bias - Zx sum (w - Zw): `Graph.check()` has bounded it."""
    assert weight.data is not None
    assert bias.data is not None
    centred = weight.data.reshape(len(weight.data), -1).astype(np.int64) - weight.zero_point
    folded: IntArray = bias.data - x.zero_point * centred.sum(axis=1)
    return folded


def _conv2d(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Conv2d, op.attributes)
    x, weight, bias = graph.inputs_of(op)
    window = _window(x.shape, graph.tensors[op.output].shape, weight.shape[1:3], attributes.stride, attributes.padding)
    fields = _affine(window, weight, _folded_bias(x, weight, bias), x.zero_point, attributes.requant)
    yield "kws_conv2d", "kws_affine", fields, inputs


def _fully_connected(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(FullyConnected, op.attributes)
    x, weight, bias = graph.inputs_of(op)
    window = _window((1, 1, x.size), (1, 1, bias.size), (1, 1), (1, 1), ((0, 0), (0, 0)))
    fields = _affine(window, weight, _folded_bias(x, weight, bias), x.zero_point, attributes.requant)
    yield "kws_conv2d", "kws_affine", fields, inputs


def _depthwise_conv2d(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(DepthwiseConv2d, op.attributes)
    x, weight, bias = graph.inputs_of(op)
    assert bias.data is not None
    window = _window(x.shape, graph.tensors[op.output].shape, weight.shape[1:3], attributes.stride, attributes.padding)
    fields = _affine(window, weight, bias.data, x.zero_point, attributes.requant)
    yield "kws_depthwise_conv2d", "kws_affine", fields, inputs


def _pool(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Pool, op.attributes)
    (x,) = graph.inputs_of(op)
    fields: Fields = {
        "window": _window(
            x.shape, graph.tensors[op.output].shape, attributes.kernel, attributes.stride, attributes.padding
        ),
        "activation_min": attributes.activation_min,
        "activation_max": attributes.activation_max,
    }
    yield f"kws_{op.kind}", "kws_pool", fields, inputs


def _add(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Add, op.attributes)
    a, b = graph.inputs_of(op)
    fields: Fields = {
        "size": a.size,
        "input_zero_point": a.zero_point,
        "input2_zero_point": b.zero_point,
        "multiplier": int(attributes.requant_a.multiplier[0]),
        "shift": int(attributes.requant_a.shift[0]),
        "multiplier2": int(attributes.requant_b.multiplier[0]),
        "shift2": int(attributes.requant_b.shift[0]),
        "requant": _requant(attributes.requant),
    }
    yield "kws_add", "kws_add_op", fields, inputs


def _mul(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    """The larger input first: the other meets each of its rows."""
    a, b = graph.inputs_of(op)
    if a.size < b.size:
        a, b, inputs = b, a, inputs[::-1]
    fields: Fields = {
        "rows": a.size // b.size, "row_size": b.size,
        "input_zero_point": a.zero_point, "input2_zero_point": b.zero_point,
        "requant": _requant(cast(Mul, op.attributes).requant),
    }  # fmt: skip
    yield "kws_mul", "kws_mul_op", fields, inputs


def _mean(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Mean, op.attributes)
    (x,) = graph.inputs_of(op)
    count = x.shape[0] * x.shape[1]
    multiplier, shift = divided_multiplier(attributes.requant, count)
    requant = {**_requant(attributes.requant), "multiplier": multiplier, "shift": shift.astype(np.int8)}
    fields: Fields = {
        "count": count, "channels": x.shape[2], "input_zero_point": x.zero_point, "requant": requant,
    }  # fmt: skip
    yield "kws_mean", "kws_mean_op", fields, inputs


def _concatenation(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Concatenation, op.attributes)
    shape, axis = graph.tensors[op.output].shape, attributes.axis
    inner = int(np.prod(shape[axis + 1 :], dtype=np.int64))
    position = 0
    for x, offset, requant in zip(graph.inputs_of(op), inputs, attributes.requants_in, strict=True):
        size = x.shape[axis] * inner
        fields: Fields = {
            "rows": x.size // size, "row_size": size,
            "output_row_size": shape[axis] * inner, "output_offset": position,
            "input_zero_point": x.zero_point, "requant": _requant(requant),
        }  # fmt: skip
        yield "kws_concatenation", "kws_concatenation_op", fields, (offset,)
        position += size


def _four(values: Shape, fill: int) -> Shape:
    return (fill,) * (4 - len(values)) + values


def _slice(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Slice, op.attributes)
    (x,) = graph.inputs_of(op)
    fields: Fields = {
        "shape": _four(x.shape, 1), "begin": _four(attributes.begin, 0), "size": _four(attributes.size, 1),
        "zero_point": x.zero_point,
    }  # fmt: skip
    yield "kws_slice", "kws_block", fields, inputs


def _reshape(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    """Nothing where it lies in place, else a copy."""
    (x,) = graph.inputs_of(op)
    if inputs[0] != output:
        shape = _four((x.size,), 1)
        fields: Fields = {"shape": shape, "begin": (0,) * 4, "size": shape, "zero_point": x.zero_point}
        yield "kws_slice", "kws_block", fields, inputs


def _pad(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Pad, op.attributes)
    (x,) = graph.inputs_of(op)
    fields: Fields = {
        "shape": _four(graph.tensors[op.output].shape, 1),
        "begin": _four(tuple(before for before, _ in attributes.paddings), 0),
        "size": _four(x.shape, 1),
        "zero_point": x.zero_point,
    }
    yield "kws_pad", "kws_block", fields, inputs


def _logistic(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Logistic, op.attributes)
    (x,) = graph.inputs_of(op)
    every_q = np.arange(256, dtype=np.uint8).view(np.int8)
    table = integer_logistic(every_q, x.zero_point, attributes.multiplier, attributes.left_shift)
    yield "kws_lookup", "kws_lookup_op", {"size": x.size, "table": table}, inputs


def _softmax(graph: Graph, op: Op, inputs: tuple[int, ...], output: int) -> Lowered:
    attributes = cast(Softmax, op.attributes)
    (x,) = graph.inputs_of(op)
    fields: Fields = {
        "rows": x.size // x.shape[-1], "classes": x.shape[-1],
        "multiplier": attributes.multiplier, "left_shift": attributes.left_shift,
    }  # fmt: skip
    yield "kws_softmax", "kws_softmax_op", fields, inputs


_LOWER: dict[str, Callable[[Graph, Op, tuple[int, ...], int], Lowered]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "mul": _mul,
    "average_pool": _pool,
    "max_pool": _pool,
    "mean": _mean,
    "concatenation": _concatenation,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "logistic": _logistic,
    "softmax": _softmax,
}
