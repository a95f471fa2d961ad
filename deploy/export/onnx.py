# SPDX-License-Identifier: Apache-2.0
"""A graph as an ONNX file, from its own integers: int8 in and out, QLinearConv and its kin.

ONNX Runtime computes a requantization as rint(float32(acc) * float32(Sx Sw / Sy)) + Z: one rounding, ties to even, as
the rule `half_even`, but for products that float32 rounds across a tie. It derives that factor from the scales alone,
so there is no multiplier or shift here to compare with.

Activations stay int8: on x86 with AVX2 and without VNNI, products of uint8 and int8 are added in 16 bits and saturate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deploy.export.common import metadata, unique_name
from deploy.graph import Graph, Op
from deploy.ops.base import Padding, Pair
from deploy.ops.concatenation import Concatenation
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.ops.mean import Mean
from deploy.ops.pad import Pad
from deploy.ops.pool import Pool
from deploy.ops.slice import Slice
from deploy.ops.softmax import Softmax, softmax_multiplier
from deploy.tensor import Shape, Tensor
from deploy.tflite_rules import FULL_CLAMP, METADATA
from features.config import FrontendConfig
from kws.errors import MissingExtraError, ModelError

OPSET = 13
"""Of ONNX; add, average pool, mean, concatenation and softmax are ONNX Runtime's own, of com.microsoft 1."""
_IR_VERSION = 8
_CONTRIB = "com.microsoft"

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


def export(graph: Graph, labels: Sequence[str], frontend: FrontendConfig | None) -> bytes:
    """The content of an .onnx file for a checked graph.

    Input and output are int8 with a batch axis of any size, shaped as in the graph: (N, H, W, C). Between them every
    tensor of three axes is (N, C, H, W). Tensors keep their names. ModelError names the op that cannot be written: a
    scale that is not known, a softmax whose beta is not 1. MissingExtraError where onnx is not installed.
    """
    writer = _Writer(graph)
    for op in graph.ops:
        try:
            _WRITE[op.kind](writer, op)
        except ModelError as error:
            raise ModelError(f"ONNX: {error.what}", where=error.where or f"op '{op.name}'", hint=error.hint) from None
    return writer.finish(metadata(graph, labels, frontend))


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("ONNX export needs onnx", hint="pip install 'integer-kws[onnx]'") from None
    return onnx


class _Writer:
    """Collects nodes and constants. A tensor of the file is a name."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._onnx = _onnx()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._values: list[Any] = []
        self._taken = set(graph.tensors)
        self._external: dict[str, str] = {}  # of tensors that the caller sees: their names as (N, H, W, C)
        if len(graph.input_shape) == 3:
            self._external[graph.input] = self.name(f"{graph.input}/nhwc")
            self.node("Transpose", [self._external[graph.input]], graph.input, perm=[0, 3, 1, 2])

    def name(self, wanted: str) -> str:
        """A name that nothing has yet."""
        return unique_name(wanted, self._taken)

    def constant(self, wanted: str, values: NDArray[Any] | np.generic) -> str:
        """Add constant values."""
        name = self.name(wanted)
        self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def domain(self, tensor: Tensor) -> list[str]:
        """Scale and zero point of an activation, as a node's two inputs."""
        params = tensor.params
        scale = self.constant(f"{tensor.name}/scale", np.float32(params.scale))
        return [scale, self.constant(f"{tensor.name}/zero_point", np.int8(params.zero_point))]

    def node(
        self,
        kind: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        clamp: Pair = FULL_CLAMP,
        **attributes: Any,
    ) -> None:
        """Add a node of one output, and another that clamps it where `clamp` is narrower than int8."""
        written = output if clamp == FULL_CLAMP else self.name(f"{output}/unclamped")
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [written], domain=domain, **attributes))
        if written != output:
            ends = [self.constant(f"{output}/{end}", np.int8(q)) for end, q in zip(("min", "max"), clamp, strict=True)]
            self._nodes.append(self._onnx.helper.make_node("Clip", [written, *ends], [output]))

    def finish(self, metadata: str) -> bytes:
        """The content of the file."""
        onnx, graph = self._onnx, self.graph
        output = graph.output
        if len(graph.output_shape) == 3:
            self._external[output] = self.name(f"{output}/nhwc")
            self.node("Transpose", [output], self._external[output], perm=[0, 2, 3, 1])
        ends = [self._info(self._external.get(name, name), graph.tensors[name].shape) for name in (graph.input, output)]
        inner = [t for name, t in graph.tensors.items() if t.data is None and self._external.get(name, "") != name]
        infos = [self._info(t.name, stored(t.shape)) for t in inner if t.name not in {end.name for end in ends}]
        made = onnx.helper.make_graph(
            self._nodes, "integer_kws", ends[:1], ends[1:], list(self._constants.values()), value_info=infos
        )
        opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(_CONTRIB, 1)]
        model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="integer-kws")
        onnx.helper.set_model_props(model, {METADATA: metadata})
        return cast(bytes, model.SerializeToString(deterministic=True))

    def _info(self, name: str, shape: Shape) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._onnx.TensorProto.INT8, ["N", *shape])


def stored(shape: Shape) -> Shape:
    """The shape of a tensor inside the file, without the batch axis: (H, W, C) as (C, H, W), others as they are."""
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape


def _pads(padding: Padding) -> list[int]:
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]


def _affine(writer: _Writer, op: Op, source: str, target: str, weight: NDArray[Any], **attributes: Any) -> None:
    """QLinearConv from the tensor `source` to `target`; `weight` is OIHW."""
    x, kept, bias = writer.graph.inputs_of(op)
    assert bias.data is not None
    if kept.scale is None:
        raise ModelError(f"scale of '{kept.name}' is not known")
    scales = np.asarray(kept.scale, np.float32)
    constants = [
        writer.constant(kept.name, weight),
        writer.constant(f"{kept.name}/scale", scales),
        writer.constant(f"{kept.name}/zero_point", np.full(scales.shape, kept.zero_point, np.int8)),
    ]
    output = writer.domain(writer.graph.tensors[op.output])
    inputs = [source, *writer.domain(x), *constants, *output, writer.constant(bias.name, bias.data)]
    writer.node("QLinearConv", inputs, target, clamp=_clamp_of(op), **attributes)


def _clamp_of(op: Op) -> Pair:
    *_, (_, requant) = op.attributes.requants()
    return requant.activation_min, requant.activation_max


def _conv2d(writer: _Writer, op: Op) -> None:
    attributes = cast(Conv2d, op.attributes)
    weight = writer.graph.inputs_of(op)[1].data
    assert weight is not None
    _affine(
        writer, op, op.inputs[0], op.output, weight.transpose(0, 3, 1, 2),
        strides=attributes.stride, pads=_pads(attributes.padding),
    )  # fmt: skip


def _depthwise_conv2d(writer: _Writer, op: Op) -> None:
    attributes = cast(DepthwiseConv2d, op.attributes)
    x, weight, _ = writer.graph.inputs_of(op)
    assert weight.data is not None
    _affine(
        writer, op, op.inputs[0], op.output, weight.data.transpose(3, 0, 1, 2),
        strides=attributes.stride, pads=_pads(attributes.padding), group=x.shape[2],
    )  # fmt: skip


def _fully_connected(writer: _Writer, op: Op) -> None:
    """A convolution of one by one: QLinearMatMul has no bias."""
    assert isinstance(op.attributes, FullyConnected)
    weight = writer.graph.inputs_of(op)[1].data
    assert weight is not None
    column, made = writer.name(f"{op.name}/column"), writer.name(f"{op.name}/made")
    shapes = [
        writer.constant(f"{op.name}/shape", np.array([0, size, *ones], np.int64))
        for size, ones in ((weight.shape[1], (1, 1)), (weight.shape[0], ()))
    ]
    writer.node("Reshape", [op.inputs[0], shapes[0]], column)
    _affine(writer, op, column, made, weight[..., None, None])
    writer.node("Reshape", [made, shapes[1]], op.output)


def _add(writer: _Writer, op: Op) -> None:
    a, b = writer.graph.inputs_of(op)
    inputs = [a.name, *writer.domain(a), b.name, *writer.domain(b), *writer.domain(writer.graph.tensors[op.output])]
    writer.node("QLinearAdd", inputs, op.output, domain=_CONTRIB, clamp=_clamp_of(op))


def _average_pool(writer: _Writer, op: Op) -> None:
    _pool(writer, op, "QLinearAveragePool", count_include_pad=0)


def _max_pool(writer: _Writer, op: Op) -> None:
    _pool(writer, op, "MaxPool")


def _pool(writer: _Writer, op: Op, kind: str, **more: Any) -> None:
    attributes = cast(Pool, op.attributes)
    (x,) = writer.graph.inputs_of(op)
    clamp = attributes.activation_min, attributes.activation_max
    quantized = kind.startswith("QLinear")
    domains = [*writer.domain(x), *writer.domain(writer.graph.tensors[op.output])] if quantized else []
    writer.node(
        kind, [x.name, *domains], op.output, domain=_CONTRIB if quantized else "", clamp=clamp,
        kernel_shape=attributes.kernel, strides=attributes.stride, pads=_pads(attributes.padding), **more,
    )  # fmt: skip


def _mean(writer: _Writer, op: Op) -> None:
    (x,), output = writer.graph.inputs_of(op), writer.graph.tensors[op.output]
    keep_dims = cast(Mean, op.attributes).keep_dims
    made = op.output if keep_dims else writer.name(f"{op.name}/made")
    inputs = [x.name, *writer.domain(x), *writer.domain(output)]
    writer.node("QLinearGlobalAveragePool", inputs, made, domain=_CONTRIB, clamp=_clamp_of(op), channels_last=0)
    if not keep_dims:
        shape = writer.constant(f"{op.name}/shape", np.array([0, x.shape[2]], np.int64))
        writer.node("Reshape", [made, shape], op.output)


def _axis(rank: int, axis: int) -> int:
    """Where an axis of the graph's lies in the file, batch axis included."""
    return (2, 3, 1)[axis] if rank == 3 else axis + 1


def _concatenation(writer: _Writer, op: Op) -> None:
    output = writer.graph.tensors[op.output]
    inputs = writer.domain(output)
    for x, requant in zip(writer.graph.inputs_of(op), cast(Concatenation, op.attributes).requants_in, strict=True):
        if (requant.activation_min, requant.activation_max) != FULL_CLAMP:
            raise ModelError("clamps one of its inputs")
        inputs += [x.name, *writer.domain(x)]
    axis = _axis(len(output.shape), cast(Concatenation, op.attributes).axis)
    writer.node("QLinearConcat", inputs, op.output, domain=_CONTRIB, axis=axis)


def _slice(writer: _Writer, op: Op) -> None:
    attributes = cast(Slice, op.attributes)
    axes = [_axis(len(attributes.begin), axis) for axis in range(len(attributes.begin))]
    ends = [begin + size for begin, size in zip(attributes.begin, attributes.size, strict=True)]
    parts = {"begin": attributes.begin, "end": ends, "axes": axes}
    constants = [writer.constant(f"{op.name}/{key}", np.array(values, np.int64)) for key, values in parts.items()]
    writer.node("Slice", [op.inputs[0], *constants], op.output)


def _pad(writer: _Writer, op: Op) -> None:
    paddings = cast(Pad, op.attributes).paddings
    pads = np.zeros((2, len(paddings) + 1), np.int64)
    for axis, pair in enumerate(paddings):
        pads[:, _axis(len(paddings), axis)] = pair
    filled = writer.constant(f"{op.name}/value", np.int8(writer.graph.tensors[op.output].zero_point))
    writer.node("Pad", [op.inputs[0], writer.constant(f"{op.name}/pads", pads.reshape(-1)), filled], op.output)


def _reshape(writer: _Writer, op: Op) -> None:
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


def _softmax(writer: _Writer, op: Op) -> None:
    attributes = cast(Softmax, op.attributes)
    (x,), output = writer.graph.inputs_of(op), writer.graph.tensors[op.output]
    if softmax_multiplier(x.params.scale) != (attributes.multiplier, attributes.left_shift):
        raise ModelError("its beta is not 1")
    inputs = [x.name, *writer.domain(x), *writer.domain(output)]
    axis = _axis(len(x.shape), len(x.shape) - 1)
    writer.node("QLinearSoftmax", inputs, op.output, domain=_CONTRIB, axis=axis, opset=OPSET)


_WRITE: dict[str, Callable[[_Writer, Op], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "average_pool": _average_pool,
    "max_pool": _max_pool,
    "mean": _mean,
    "concatenation": _concatenation,
    "slice": _slice,
    "pad": _pad,
    "reshape": _reshape,
    "softmax": _softmax,
}
