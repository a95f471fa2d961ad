# SPDX-License-Identifier: Apache-2.0
"""A graph as a TensorFlow Lite file, from its own integers: int8 in and out, operators of TensorFlow Lite Micro.

A runtime derives every (multiplier, shift) and every clamp from scales. Both are recomputed here by the formulas of
TensorFlow Lite's ``kernel_util.cc`` and ``quantization_util.cc``, and a graph whose integers are others is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deploy.export.c_array import check_identifier
from deploy.export.common import metadata
from deploy.export.tflite_file import ALIGNMENT, Writer
from deploy.graph import Graph, Op
from deploy.ops.add import LEFT_SHIFT, Add
from deploy.ops.affine import bias_scale
from deploy.ops.base import Padding, Pair
from deploy.ops.concatenation import Concatenation
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.mean import Mean
from deploy.ops.mul import Mul
from deploy.ops.pad import Pad
from deploy.ops.pool import Pool
from deploy.ops.slice import Slice
from deploy.ops.softmax import Softmax, softmax_multiplier
from deploy.tensor import Shape, Tensor
from deploy.tflite_rules import FULL_CLAMP, fused_activations, same_padding
from features.config import FrontendConfig
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import Requant, quantize_multiplier
from kws.errors import ModelError, QuantError

RUNTIMES = {
    "single": "no TFLite runtime is sure to compute this model's own bits: LiteRT's default (XNNPACK) rounds once as "
    "the model does and differs in ties and in float32 products; TensorFlow Lite Micro and LiteRT without delegates "
    "round twice (--rounding tflm exports what the former computes)",
    "tflm": "TensorFlow Lite Micro computes this model's own bits; LiteRT does not: by default (XNNPACK) it rounds "
    "once, without delegates it rounds other ties",
    "double_up": "LiteRT without delegates computes this model's own bits in convolutions (depthwise: of a multiple of "
    "8 channels) and fully connected layers; LiteRT's default (XNNPACK) and TensorFlow Lite Micro do not",
    "half_even": "LiteRT's default (XNNPACK) computes this model's own bits in convolutions and fully connected "
    "layers, but for float32 products near a tie; LiteRT without delegates and TensorFlow Lite Micro do not",
    "half_away": "no TFLite runtime computes this model's own bits: none rounds once with ties away from zero "
    "throughout",
}
"""Which runtimes compute the bits of a graph, by its rounding rule: docs/formats.md has the counts."""

_AFFINE = ("conv2d", "depthwise_conv2d", "fully_connected")


def export(
    graph: Graph, labels: Sequence[str], frontend: FrontendConfig | None, detection: Mapping[str, Any] | None = None
) -> bytes:
    """The content of a .tflite file for a checked graph; tensors keep their names, shapes get a batch axis of 1.

    `detection` is what `DetectionConfig.to_dict` gives, which the metadata keep.

    Pad is written before a convolution whose padding is neither SAME nor VALID, quantize before a concatenation of
    other (S, Z). ModelError names the op that TensorFlow Lite cannot hold: a scale that is not known, weights with a
    zero point or with -128, a clamp that is no fused activation, padded pools other than SAME, (multiplier, shift)
    that are not what the runtimes derive. MissingExtraError where the schema is not installed.
    """
    writer = Writer(graph)
    for op in graph.ops:
        try:
            _check_multipliers(graph, op)
            _WRITE[op.kind](writer, op)
        except (ModelError, QuantError) as error:
            where = error.where if isinstance(error, ModelError) and error.where else f"op '{op.name}'"
            raise ModelError(f"TensorFlow Lite: {error.what}", where=where, hint=error.hint) from None
    return writer.finish(metadata(graph, labels, frontend, detection).encode())


def c_header(data: bytes, name: str) -> str:
    """A file's bytes as a C or C++ header for `tflite::GetModel(NAME)`: C11, C++11, or GNU C from C99 on.

    UsageError when `name` is no C identifier.
    """
    check_identifier(name)
    guard = f"{name.upper()}_H"
    rows = [", ".join(map(str, data[i : i + 24])) for i in range(0, len(data), 24)]
    lines = [
        f"/* {name}: made by `kws export --to tflite-array`; include it in one C or C++ file (C11, C++11, GNU C99). */",
        f"#ifndef {guard}", f"#define {guard}", "",
        "#ifdef __cplusplus", f"alignas({ALIGNMENT})",
        "#elif __STDC_VERSION__ >= 201112L", f"_Alignas({ALIGNMENT})",
        "#elif defined(__GNUC__)", f"__attribute__((aligned({ALIGNMENT})))",
        "#else", f'#error "a compiler of C11, of C++11, or GNU C: the bytes must be aligned to {ALIGNMENT}"', "#endif",
        f"static const unsigned char {name}[{len(data)}] = {{",
        *(f"    {row}," for row in rows),
        "};", "", f"#endif /* {guard} */", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _scales(tensor: Tensor) -> tuple[float, ...]:
    """The scales of a weight."""
    if tensor.scale is None:
        raise ModelError(f"scale of '{tensor.name}' is not known")
    return tensor.scale if isinstance(tensor.scale, tuple) else (tensor.scale,)


def _check_multipliers(graph: Graph, op: Op) -> None:
    """ModelError unless every (multiplier, shift) of the op is what the runtimes derive from the scales."""
    for (field, requant), real in zip(op.attributes.requants(), _real_multipliers(graph, op), strict=True):
        multiplier, shift = quantize_multiplier(real)
        if not (np.array_equal(requant.multiplier, multiplier) and np.array_equal(requant.shift, shift)):
            raise ModelError(f"{field}: the runtimes derive other multipliers or shifts from the scales")


def _real_multipliers(graph: Graph, op: Op) -> Iterator[NDArray[np.float64]]:
    """What the runtimes requantize by, one array a Requant of the op.

    In float64, but Sx Sw of a fully connected op with one weight scale is rounded to float32.
    """
    inputs, output = graph.inputs_of(op), graph.tensors[op.output]
    sources = [np.float64(tensor.params.scale) for tensor in inputs if tensor.data is None]
    target = np.float64(output.params.scale)
    if op.kind in _AFFINE:
        weights = np.array(_scales(inputs[1]))
        product = sources[0] * weights
        if op.kind == "fully_connected" and len(weights) == 1:
            product = (np.float32(sources[0]) * weights.astype(np.float32)).astype(np.float64)
        yield product / target
    elif op.kind == "add":
        common = 2 * max(sources)
        yield from (np.array(real) for real in (sources[0] / common, sources[1] / common))
        yield np.array(common / ((1 << LEFT_SHIFT) * target))
    elif op.kind == "mul":
        yield np.array(sources[0] * sources[1] / target)
    elif op.kind in ("mean", "concatenation"):
        yield from (np.array(source / target) for source in sources)


def _activation(writer: Writer, clamp: Pair, params: QuantParams) -> int:
    """The fused activation that clamps so."""
    for name, ends in fused_activations(params).items():
        if ends == clamp:
            return int(getattr(writer.schema.ActivationFunctionType, name))
    raise ModelError(f"clamp [{clamp[0]}, {clamp[1]}] is that of no fused activation: none, ReLU, ReLU6 or [-1, 1]")


def _clamp_of(requant: Requant) -> Pair:
    return requant.activation_min, requant.activation_max


def _padding_of(x: Shape, kernel: Pair, stride: Pair, padding: Padding) -> str | None:
    """VALID, SAME, or None where it is neither; padding that no window reaches does not count."""
    outs, before = [], []
    for axis in (0, 1):
        outs.append((x[axis] + sum(padding[axis]) - kernel[axis]) // stride[axis] + 1)
        before.append(padding[axis][0])
    same = [same_padding(x[axis], kernel[axis], stride[axis]) for axis in (0, 1)]
    if before == [0, 0] and outs == [(x[axis] - kernel[axis]) // stride[axis] + 1 for axis in (0, 1)]:
        return "VALID"
    if before == [pair[0] for pair, _ in same] and outs == [out for _, out in same]:
        return "SAME"
    return None


def _constants(writer: Writer, op: Op, channel_axis: int) -> list[int]:
    x, weight, bias = writer.graph.inputs_of(op)
    assert weight.data is not None
    assert bias.data is not None
    if weight.zero_point != 0:
        what = f"zero_point {weight.zero_point} of weight '{weight.name}' is not 0"
        raise ModelError(what, hint="train with --weights per-channel")
    if (weight.data == -128).any():
        raise ModelError(f"weight '{weight.name}' holds -128, which TensorFlow Lite's int8 weights do not")
    scales = _scales(weight)
    products = np.atleast_1d(bias_scale(x.params.scale, scales))
    return [
        writer.constant(weight.name, weight.data, scales, channel_axis),
        writer.constant(bias.name, bias.data, [float(s) for s in products]),
    ]


def _convolution(writer: Writer, op: Op, channel_axis: int, **options: Any) -> None:
    attributes = cast(Conv2d | DepthwiseConv2d, op.attributes)
    x, weight, _ = writer.graph.inputs_of(op)
    output = writer.graph.tensors[op.output]
    source = writer.number(x.name)
    activation = _activation(writer, _clamp_of(attributes.requant), output.params)
    constants = _constants(writer, op, channel_axis)
    kernel = weight.shape[1], weight.shape[2]
    padding = _padding_of(x.shape, kernel, attributes.stride, attributes.padding)
    if padding is None:
        pairs = (*attributes.padding, (0, 0))
        shape = tuple(size + sum(pair) for size, pair in zip(x.shape, pairs, strict=True))
        padded = writer.temporary(f"{op.name}/pad", shape, x.params)
        writer.operator("pad", [source, writer.integers(f"{op.name}/paddings", ((0, 0), *pairs))], padded)
        source, padding = padded, "VALID"
    writer.operator(
        op.kind,
        [source, *constants],
        writer.activation(output),
        strideH=attributes.stride[0],
        strideW=attributes.stride[1],
        padding=getattr(writer.schema.Padding, padding),
        fusedActivationFunction=activation,
        dilationHFactor=1,
        dilationWFactor=1,
        **options,
    )


def _conv2d(writer: Writer, op: Op) -> None:
    _convolution(writer, op, 0)


def _depthwise_conv2d(writer: Writer, op: Op) -> None:
    x, weight, _ = writer.graph.inputs_of(op)
    _convolution(writer, op, 3, depthMultiplier=weight.shape[3] // x.shape[2])


def _fully_connected(writer: Writer, op: Op) -> None:
    output = writer.graph.tensors[op.output]
    ((_, requant),) = op.attributes.requants()
    activation = _activation(writer, _clamp_of(requant), output.params)
    inputs = [writer.number(op.inputs[0]), *_constants(writer, op, 0)]
    writer.operator(op.kind, inputs, writer.activation(output), fusedActivationFunction=activation)


def _pool(writer: Writer, op: Op) -> None:
    attributes = cast(Pool, op.attributes)
    (x,) = writer.graph.inputs_of(op)
    output = writer.graph.tensors[op.output]
    activation = _activation(writer, (attributes.activation_min, attributes.activation_max), output.params)
    padding = _padding_of(x.shape, attributes.kernel, attributes.stride, attributes.padding)
    if padding is None:
        raise ModelError(f"padding {attributes.padding} of a pool is neither VALID nor SAME")
    writer.operator(
        op.kind,
        [writer.number(x.name)],
        writer.activation(output),
        filterHeight=attributes.kernel[0],
        filterWidth=attributes.kernel[1],
        strideH=attributes.stride[0],
        strideW=attributes.stride[1],
        padding=getattr(writer.schema.Padding, padding),
        fusedActivationFunction=activation,
    )


def _add(writer: Writer, op: Op) -> None:
    attributes, output = cast(Add, op.attributes), writer.graph.tensors[op.output]
    if int(attributes.requant.shift[0]) > 0:  # the runtimes take it for an error
        raise ModelError("the inputs' scales are 2^19 times the output's or more")
    activation = _activation(writer, _clamp_of(attributes.requant), output.params)
    inputs = [writer.number(name) for name in op.inputs]
    writer.operator(op.kind, inputs, writer.activation(output), fusedActivationFunction=activation)


def _mul(writer: Writer, op: Op) -> None:
    output = writer.graph.tensors[op.output]
    activation = _activation(writer, _clamp_of(cast(Mul, op.attributes).requant), output.params)
    inputs = [writer.number(name) for name in op.inputs]
    writer.operator(op.kind, inputs, writer.activation(output), fusedActivationFunction=activation)


def _refuse_clamp(requant: Requant) -> None:
    if _clamp_of(requant) != FULL_CLAMP:
        raise ModelError(f"clamp {list(_clamp_of(requant))} of an op that has no fused activation")


def _mean(writer: Writer, op: Op) -> None:
    attributes = cast(Mean, op.attributes)
    _refuse_clamp(attributes.requant)
    inputs = [writer.number(op.inputs[0]), writer.integers(f"{op.name}/axes", (1, 2))]
    output = writer.activation(writer.graph.tensors[op.output])
    writer.operator(op.kind, inputs, output, keepDims=attributes.keep_dims)


def _concatenation(writer: Writer, op: Op) -> None:
    """Inputs of other (S, Z) than the output's go through quantize: the operator itself only moves values."""
    attributes, output = cast(Concatenation, op.attributes), writer.graph.tensors[op.output]
    numbers = []
    for index, (x, requant) in enumerate(zip(writer.graph.inputs_of(op), attributes.requants_in, strict=True)):
        _refuse_clamp(requant)
        number = writer.number(x.name)
        if x.params != output.params:
            brought = writer.temporary(f"{op.name}/quantize{index}", x.shape, output.params)
            writer.operator("quantize", [number], brought)
            number = brought
        numbers.append(number)
    writer.operator(op.kind, numbers, writer.activation(output), axis=attributes.axis + 1)


def _slice(writer: Writer, op: Op) -> None:
    attributes = cast(Slice, op.attributes)
    begin = writer.integers(f"{op.name}/begin", (0, *attributes.begin))
    size = writer.integers(f"{op.name}/size", (1, *attributes.size))
    output = writer.activation(writer.graph.tensors[op.output])
    writer.operator(op.kind, [writer.number(op.inputs[0]), begin, size], output)


def _pad(writer: Writer, op: Op) -> None:
    paddings = writer.integers(f"{op.name}/paddings", ((0, 0), *cast(Pad, op.attributes).paddings))
    output = writer.activation(writer.graph.tensors[op.output])
    writer.operator(op.kind, [writer.number(op.inputs[0]), paddings], output)


def _reshape(writer: Writer, op: Op) -> None:
    output = writer.graph.tensors[op.output]
    shape = (1, *output.shape)
    inputs = [writer.number(op.inputs[0]), writer.integers(f"{op.name}/shape", shape)]
    writer.operator(op.kind, inputs, writer.activation(output), newShape=list(shape))


def _logistic(writer: Writer, op: Op) -> None:
    writer.operator(op.kind, [writer.number(op.inputs[0])], writer.activation(writer.graph.tensors[op.output]))


def _softmax(writer: Writer, op: Op) -> None:
    attributes = cast(Softmax, op.attributes)
    (x,) = writer.graph.inputs_of(op)
    held = attributes.multiplier, attributes.left_shift
    real = attributes.multiplier * 2.0 ** (attributes.left_shift - 31 - 26)
    for beta in (1.0, float(np.float32(real / x.params.scale))):
        if softmax_multiplier(x.params.scale, beta) == held:
            output = writer.activation(writer.graph.tensors[op.output])
            writer.operator(op.kind, [writer.number(x.name)], output, beta=beta)
            return
    raise ModelError("no float32 beta gives this multiplier and shift")


_WRITE: dict[str, Callable[[Writer, Op], None]] = {
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
