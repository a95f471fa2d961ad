# SPDX-License-Identifier: Apache-2.0
"""A graph over a stream of frames: each new frame costs only the new columns of every layer.

The graph's input is a window of T frames. With s the product of its strides in time, the stream gives the output of
the window that begins at frame 0, at frame s, at 2 s, ...: the very integers that the graph gives for each of them.

How. Along time, let S be the stride of a tensor so far. Column g of it depends on frames from S g on and is the same in
every window that holds it, as nothing pads in time. So each tensor keeps a buffer of its last columns, and a step of
m s new frames appends m s / S columns to each: an op runs, with the kernels that everything else has, on the columns of
its inputs that are new to it. Its inputs may be ahead of one another, as a skip path is ahead of two convolutions; the
buffer of the one that is ahead is longer by the difference. Slicing in time (the crop of a skip path) and reshaping
only rename columns. The op that makes one column of all that a window has left (a pool, a mean) steps by s / S columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.arena import aligned
from deploy.graph import Graph, Op
from deploy.ops.base import OpAttributes
from deploy.ops.concatenation import Concatenation
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.mul import Mul
from deploy.ops.pad import Pad
from deploy.ops.pool import Pool
from deploy.ops.slice import Slice
from deploy.program import Program, Step, column_of, lower
from deploy.reference import run_op
from kws.errors import ModelError

_ELEMENTWISE = ("add", "concatenation", "logistic", "mul", "pad")
_OF_A_WINDOW = ("fully_connected", "softmax")  # one call a column


@dataclass(frozen=True, slots=True)
class View:
    """Columns `first` .. `first` + `count` - 1 of the buffer of tensor `buffer`."""

    buffer: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """`history` columns of earlier steps, then `new` ones; `size` values a column."""

    history: int
    new: int
    size: int

    @property
    def columns(self) -> int:
        return self.history + self.new


@dataclass(frozen=True, slots=True)
class Call:
    """One op of a step. `graph` holds it alone, with the shapes of its views."""

    graph: Graph
    op: Op
    inputs: tuple[View, ...]
    output: View


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The calls of a step of `frames` new frames, which gives `windows` outputs.

    `stride` frames lie between two windows. The outputs of the first steps are not those of windows: the first `lag`
    outputs are to be dropped.
    """

    buffers: dict[str, Buffer]
    calls: tuple[Call, ...]
    input: str
    output: str
    rounding: str
    stride: int
    windows: int
    lag: int

    @property
    def frames(self) -> int:
        return self.stride * self.windows

    @property
    def state_size(self) -> int:
        """Bytes that last from one step to the next."""
        return sum(buffer.history * buffer.size for buffer in self.buffers.values())


@dataclass(frozen=True, slots=True)
class _Timed:
    """A tensor along time: its columns are those of `buffer`, from `shift` on; `stride` frames, `size` values each."""

    buffer: str
    shift: int
    stride: int
    shape: tuple[int, ...]
    """Of a column."""


def can_stream(graph: Graph) -> str:
    """Why `graph` cannot stream, "" where it can."""
    try:
        plan_stream(graph)
    except ModelError as error:
        return f"{error.where}: {error.what}" if error.where else error.what
    return ""


def plan_stream(graph: Graph, windows: int = 1) -> StreamPlan:
    """The plan of a step that gives `windows` outputs. ModelError, with the op, for a graph that needs its window.

    Such are: padding in time, what mixes frames otherwise than by a window that moves along them, and a graph whose
    last tensor still has a time axis.
    """
    return _Planner(graph, windows).plan()


class _Planner:
    def __init__(self, graph: Graph, windows: int) -> None:
        self.graph, self.windows = graph, windows
        self.stride = _total_stride(graph)
        self.frames = self.stride * windows
        self.timed: dict[str, _Timed] = {}
        self.lags: dict[str, int] = {}  # of buffers: columns that the last step's frames do not complete
        self.length: dict[str, int] = {}  # of buffers, in columns
        self.calls: list[Call] = []

    def plan(self) -> StreamPlan:
        graph = self.graph
        first = graph.tensors[graph.input]
        self._make(graph.input, 1, first.shape[1:], lag=0)
        for op in graph.ops:
            try:
                self._place(op)
            except ModelError as error:
                raise ModelError(error.what, where=f"op '{op.name}'", hint=error.hint) from None
        last = self.timed[graph.output]
        if last.stride != self.stride or len(last.shape) != len(graph.output_shape):
            raise ModelError("the output still has a time axis", hint="end with a pool over all that is left of time")
        buffers = {
            name: Buffer(length - self._new(name), self._new(name), int(np.prod(self.timed[name].shape)))
            for name, length in self.length.items()
        }
        calls = tuple(self._with_output(call, buffers) for call in self.calls)
        lag = self.lags[last.buffer] + last.shift
        return StreamPlan(buffers, calls, graph.input, last.buffer, graph.rounding, self.stride, self.windows, lag)

    def _with_output(self, call: Call, buffers: dict[str, Buffer]) -> Call:
        """Views count from the end of a buffer until its length is known."""
        inputs = tuple(replace(view, first=buffers[view.buffer].columns + view.first) for view in call.inputs)
        output = replace(call.output, first=buffers[call.output.buffer].columns + call.output.first)
        return replace(call, inputs=inputs, output=output)

    def _new(self, name: str) -> int:
        return self.frames // self.timed[name].stride

    def _make(self, name: str, stride: int, shape: tuple[int, ...], lag: int) -> None:
        self.timed[name] = _Timed(name, 0, stride, shape)
        self.lags[name], self.length[name] = lag, self._new(name)

    def _place(self, op: Op) -> None:
        x = self.timed[op.inputs[0]]
        attributes, out = op.attributes, self.graph.tensors[op.output].shape
        height = self.graph.tensors[op.inputs[0]].shape[0]
        ends = [self._ended(name) for name in op.inputs if self.graph.tensors[name].data is None]
        ended = all(ends)
        if op.kind == "reshape":
            if not ended and out[0] == height and height > 1:
                self.timed[op.output] = replace(x, shape=out[1:])
            elif ended or (height == 1 and x.stride == self.stride):
                self.timed[op.output] = replace(x, shape=out)
            else:
                raise ModelError("mixes frames")
        elif isinstance(attributes, Slice) and not ended:
            if attributes.begin[1:] != (0,) * (len(attributes.begin) - 1) or attributes.size[1:] != x.shape:
                raise ModelError("cuts a frame")
            self.timed[op.output] = replace(x, shift=x.shift + attributes.begin[0])
        elif any(ends) or op.kind in _OF_A_WINDOW:
            if not ended:
                raise ModelError("needs the whole window")
            self._columns_apart(op)
        elif op.kind == "mean":
            self._mean(op, x, height)
        elif isinstance(attributes, Conv2d | DepthwiseConv2d | Pool):
            self._window(op, x, out[0], attributes)
        elif op.kind in _ELEMENTWISE:
            self._elementwise(op)
        else:
            raise ModelError(f"{op.kind} does not work along time")

    def _ended(self, name: str) -> bool:
        """Whether a tensor has no time axis any more."""
        x = self.timed[name]
        return x.stride == self.stride and len(x.shape) == len(self.graph.tensors[name].shape)

    def _window(self, op: Op, x: _Timed, out_height: int, attributes: Conv2d | DepthwiseConv2d | Pool) -> None:
        if attributes.padding[0] != (0, 0):
            raise ModelError("pads in time", hint="networks tc-resnet and tc-stream do not")
        kernel = attributes.kernel[0] if isinstance(attributes, Pool) else self.graph.inputs_of(op)[1].shape[1]
        step = attributes.stride[0] if out_height > 1 else self.stride // x.stride
        moved = replace(attributes, stride=(step, attributes.stride[1]))
        self._call(op, moved, kernel, step)

    def _mean(self, op: Op, x: _Timed, height: int) -> None:
        """One call for each window, as the kernel takes the mean of all that it is given."""
        step = self.stride // x.stride
        lag = -(-(self._lag(x) + height - step) // step)
        self._make(op.output, self.stride, self.graph.tensors[op.output].shape, lag)
        for window in range(self.windows):
            view = self._view(x, lag, step, height, window * step)
            self._add_call(op, op.attributes, (view,), (height,), View(op.output, window - self.windows, 1), None)

    def _elementwise(self, op: Op) -> None:
        attributes = op.attributes
        if isinstance(attributes, Concatenation) and attributes.axis == 0:
            raise ModelError("joins along time")
        if isinstance(attributes, Mul) and len({self.graph.tensors[name].shape for name in op.inputs}) > 1:
            raise ModelError("needs the whole window")
        if isinstance(attributes, Pad) and attributes.paddings[0] != (0, 0):
            raise ModelError("pads in time")
        self._call(op, attributes, 1, 1)

    def _call(self, op: Op, attributes: OpAttributes, kernel: int, step: int) -> None:
        """One call for all new columns: each output column sees `kernel` columns of every input, `step` apart."""
        inputs = [self.timed[name] for name in op.inputs if self.graph.tensors[name].data is None]
        lag = max(-(-(self._lag(x) + kernel - step) // step) for x in inputs)
        stride = inputs[0].stride * step
        if any(x.stride != inputs[0].stride for x in inputs):
            raise ModelError("joins tensors of different strides in time")
        self._make(op.output, stride, self.graph.tensors[op.output].shape[1:], lag)
        new = self._new(op.output)
        count = (new - 1) * step + kernel
        views = tuple(self._view(x, lag, step, count, 0) for x in inputs)
        self._add_call(op, attributes, views, (count,) * len(views), View(op.output, -new, new), new)

    def _columns_apart(self, op: Op) -> None:
        """One call a column: what has no time axis any more."""
        inputs = [self.timed[name] for name in op.inputs if self.graph.tensors[name].data is None]
        lag = max(self._lag(x) for x in inputs)
        self._make(op.output, self.stride, self.graph.tensors[op.output].shape, lag)
        for window in range(self.windows):
            views = tuple(self._view(x, lag, 1, 1, window) for x in inputs)
            output = View(op.output, window - self.windows, 1)
            self._add_call(op, op.attributes, views, (None,) * len(views), output, None)

    def _lag(self, x: _Timed) -> int:
        return self.lags[x.buffer] + x.shift

    def _view(self, x: _Timed, lag_out: int, step: int, count: int, skip: int) -> View:
        """The columns that the outputs of this step see, from the `skip`-th on.

        The first lies new + lag_out * step - lag columns before the end of the buffer.
        """
        back = self.frames // x.stride + lag_out * step - self._lag(x)
        self.length[x.buffer] = max(self.length[x.buffer], back)
        return View(x.buffer, skip - back, count)

    def _add_call(
        self, op: Op, attributes: OpAttributes, views: tuple[View, ...], heights: tuple[int | None, ...],
        output: View, out_height: int | None,
    ) -> None:  # fmt: skip
        """A graph of this op alone; a height of None: the tensor has no time axis."""
        graph = self.graph
        activations = [name for name in op.inputs if graph.tensors[name].data is None]
        tensors = {name: tensor for name, tensor in graph.tensors.items() if name in op.inputs}
        names: dict[str, str] = {}
        for i, (name, height) in enumerate(zip(activations, heights, strict=True)):
            tensor = graph.tensors[name]
            shape = tensor.shape if height is None else (height, *self.timed[name].shape)
            tensors.pop(name, None)
            names.setdefault(name, f"input {i}")
            tensors[names[name]] = replace(tensor, name=names[name], shape=shape)
        tensor = graph.tensors[op.output]
        shape = tensor.shape if out_height is None else (out_height, *tensor.shape[1:])
        tensors["output"] = replace(tensor, name="output", shape=shape)
        alone = replace(op, inputs=tuple(names.get(n, n) for n in op.inputs), output="output", attributes=attributes)
        one = replace(graph, tensors=tensors, ops=(alone,), input=names[activations[0]], output="output")
        self.calls.append(Call(one, alone, views, output))


def _total_stride(graph: Graph) -> int:
    """The product of the strides in time of the ops that leave more than one column."""
    strides = {graph.input: 1}
    for op in graph.ops:
        stride = max(strides[name] for name in op.inputs if name in strides)
        attributes: Any = op.attributes
        if isinstance(attributes, Conv2d | DepthwiseConv2d | Pool) and graph.tensors[op.output].shape[0] > 1:
            stride *= attributes.stride[0]
        strides[op.output] = stride
    return strides[graph.output]


@dataclass(frozen=True, slots=True)
class Move:
    """Bytes moved after each step: `size` from offset `source` to offset `target` of the memory."""

    target: int
    source: int
    size: int


def compile_stream(plan: StreamPlan) -> tuple[Program, tuple[Move, ...]]:
    """The plan as the C runtime takes it. UsageError for a rounding rule that C does not compute."""
    offsets, end = {}, 0
    for name, buffer in plan.buffers.items():
        offsets[name], end = end, end + aligned(buffer.columns * buffer.size)

    def at(view: View) -> int:
        return offsets[view.buffer] + view.first * plan.buffers[view.buffer].size

    def newest(name: str) -> tuple[int, int]:
        buffer = plan.buffers[name]
        return offsets[name] + buffer.history * buffer.size, buffer.new * buffer.size

    steps = [
        Step(call.op.name, *lowered, at(call.output))
        for call in plan.calls
        for lowered in lower(call.graph, call.op, tuple(map(at, call.inputs)), at(call.output))
    ]
    moves = tuple(
        Move(offsets[name], offsets[name] + buffer.new * buffer.size, buffer.history * buffer.size)
        for name, buffer in plan.buffers.items()
        if buffer.history
    )
    return Program(tuple(steps), *newest(plan.input), *newest(plan.output), end, column_of(steps)), moves


class ReferenceStream:
    """A plan in NumPy: the specification of the native one."""

    def __init__(self, plan: StreamPlan) -> None:
        self.plan = plan
        self._buffers = {name: np.zeros((b.columns, b.size), np.int8) for name, b in plan.buffers.items()}

    def run(self, frames: NDArray[np.int8]) -> NDArray[np.int8]:
        """Whole steps: int8 (n * plan.frames, F) -> the outputs (n * plan.windows, size), the first ones included."""
        plan = self.plan
        outputs = []
        for start in range(0, len(frames), plan.frames):
            self._newest(plan.input)[:] = frames[start : start + plan.frames]
            for call in plan.calls:
                inputs = [
                    self._buffers[view.buffer][view.first : view.first + view.count].reshape(
                        1, *call.graph.tensors[name].shape
                    )
                    for view, name in zip(call.inputs, call.op.inputs, strict=False)
                ]
                out = run_op(call.graph, call.op, inputs)
                view = call.output
                self._buffers[view.buffer][view.first : view.first + view.count] = out.reshape(view.count, -1)
            outputs.append(self._newest(plan.output).copy())
            for name, buffer in plan.buffers.items():
                values = self._buffers[name]
                values[: buffer.history] = values[buffer.new :].copy()
        size = plan.buffers[plan.output].size
        return np.concatenate(outputs) if outputs else np.empty((0, size), np.int8)

    def _newest(self, name: str) -> NDArray[np.int8]:
        return self._buffers[name][self.plan.buffers[name].history :]
