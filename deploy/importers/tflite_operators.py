# SPDX-License-Identifier: Apache-2.0
"""How each operator of a TensorFlow Lite file becomes an op. Options are named by their places in schema.fbs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from deploy.importers.flatbuffer import Table
from deploy.ops.base import Padding, Pair
from deploy.ops.softmax import PROBABILITY
from deploy.tensor import Shape
from deploy.tflite_rules import same_padding
from kws.errors import ModelError

if TYPE_CHECKING:
    from deploy.importers.tflite import Importer


def _options(operator: Table, kind: int) -> Table | None:
    """The operator's options, of the union's member `kind`; without them every field has its default."""
    found = operator.integer(3, "B")
    if found not in (0, kind):
        raise ModelError(f"its options are of kind {found}, not {kind}")
    return operator.table(4)


def _required(operator: Table, kind: int) -> Table:
    options = _options(operator, kind)
    if options is None:
        raise ModelError("has no options")
    return options


def _padding(shape: Shape, kernel: Pair, stride: Pair, code: int) -> Padding:
    if len(shape) != 3:
        raise ModelError(f"input of shape {list(shape)} is not (H, W, C)")
    if code not in (0, 1) or min(*kernel, *stride) < 1:
        raise ModelError(f"padding {code}, kernel {kernel} or stride {stride} is impossible")
    if code == 1:
        return (0, 0), (0, 0)
    rows, columns = (same_padding(shape[axis], kernel[axis], stride[axis])[0] for axis in (0, 1))
    return rows, columns


def _no_activation(code: int) -> None:
    if code != 0:
        raise ModelError(f"fused activation {code} is not supported here")


def _conv_2d(importer: Importer, operator: Table) -> None:
    options = _required(operator, 1)
    if (options.integer(4, default=1), options.integer(5, default=1)) != (1, 1):
        raise ModelError("dilation is not supported")
    _convolution(importer, operator, options, 0, activation=3, add=importer.builder.conv2d)


def _depthwise_conv_2d(importer: Importer, operator: Table) -> None:
    options = _required(operator, 2)
    if (options.integer(5, default=1), options.integer(6, default=1)) != (1, 1):
        raise ModelError("dilation is not supported")
    _convolution(importer, operator, options, 3, activation=4, add=importer.builder.depthwise_conv2d)


def _convolution(
    importer: Importer, operator: Table, options: Table, channel_axis: int, *, activation: int, add: Callable[..., str]
) -> None:
    (x, weight, bias), output, name = importer.operands(operator, 2, 1)
    source = importer.value(x)
    constants = importer.constants(weight, bias, channel_axis)
    if constants[0].ndim != 4:
        raise ModelError(f"weight of shape {list(constants[0].shape)} has not four axes")
    kernel = constants[0].shape[1], constants[0].shape[2]
    stride = options.integer(2), options.integer(1)
    padding = _padding(importer.shape(source), kernel, stride, options.integer(0, "b"))
    target = importer.tensor(output).params()
    low, high = importer.clamp(options.integer(activation, "b"), output)
    clamp = {"activation_min": low, "activation_max": high}
    add(source, name, *constants, stride=stride, padding=padding, output=target, **clamp)
    importer.finish(output, name)


def _fully_connected(importer: Importer, operator: Table) -> None:
    (x, weight, bias), output, name = importer.operands(operator, 2, 1)
    options = _options(operator, 8)
    activation = 0
    if options is not None:
        activation = options.integer(0, "b")
        if options.integer(1, "b") != 0 or options.integer(2, "B") != 0:
            raise ModelError("shuffled weights and keep_num_dims are not supported")
    source = importer.value(x)
    shape = importer.shape(source)
    if len(shape) > 1:
        flat = importer.unique(f"{name}/flat", "flat")
        source = importer.builder.reshape(source, flat, shape=(math.prod(shape),))
    constants = importer.constants(weight, bias, 0, affine=True)
    low, high = importer.clamp(activation, output)
    target = importer.tensor(output).params()
    importer.builder.fully_connected(source, name, *constants, output=target, activation_min=low, activation_max=high)
    importer.finish(output, name)


def _average_pool_2d(importer: Importer, operator: Table) -> None:
    _pool(importer, operator, importer.builder.average_pool)


def _max_pool_2d(importer: Importer, operator: Table) -> None:
    _pool(importer, operator, importer.builder.max_pool)


def _pool(importer: Importer, operator: Table, add: Callable[..., str]) -> None:
    (x,), output, name = importer.operands(operator, 1)
    options, source = _required(operator, 5), importer.value(x)
    kernel = options.integer(4), options.integer(3)
    stride = options.integer(2), options.integer(1)
    padding = _padding(importer.shape(source), kernel, stride, options.integer(0, "b"))
    low, high = importer.clamp(options.integer(5, "b"), output)
    add(source, name, kernel, stride=stride, padding=padding, activation_min=low, activation_max=high)
    importer.finish(output, name)


def _add(importer: Importer, operator: Table) -> None:
    _elementwise(importer, operator, 11, importer.builder.add)


def _mul(importer: Importer, operator: Table) -> None:
    _elementwise(importer, operator, 21, importer.builder.mul)


def _elementwise(importer: Importer, operator: Table, kind: int, add: Callable[..., str]) -> None:
    (a, b), output, name = importer.operands(operator, 2)
    options = _options(operator, kind)
    low, high = importer.clamp(0 if options is None else options.integer(0, "b"), output)
    target, sources = importer.tensor(output).params(), (importer.value(a), importer.value(b))
    add(*sources, name, output=target, activation_min=low, activation_max=high)
    importer.finish(output, name)


def _mean(importer: Importer, operator: Table) -> None:
    (x, axes), output, name = importer.operands(operator, 2)
    options, source = _options(operator, 27), importer.value(x)
    rank = len(importer.shape(source)) + 1
    found = {int(axis) % rank for axis in importer.tensor(axes).integers().reshape(-1)}
    if rank != 4 or found != {1, 2}:
        raise ModelError(f"mean over axes {sorted(found)} of {rank}, not over height and width")
    keep_dims = options is not None and options.integer(0, "B") != 0
    importer.builder.mean(source, name, output=importer.tensor(output).params(), keep_dims=keep_dims)
    importer.finish(output, name)


def _concatenation(importer: Importer, operator: Table) -> None:
    n_inputs = len(operator.vector(1, np.int32))
    inputs, output, name = importer.operands(operator, max(1, n_inputs))
    options, sources = _options(operator, 10), [importer.value(x) for x in inputs]
    axis, activation = (0, 0) if options is None else (options.integer(0), options.integer(1, "b"))
    _no_activation(activation)
    target = importer.tensor(output).params()
    for source in sources:  # TensorFlow Lite Micro moves the bytes, whatever they stand for
        if importer.builder.params(source) != target:
            raise ModelError("an input has another scale or zero point than the output")
    rank = len(importer.shape(sources[0])) + 1
    if not -rank <= axis < rank or axis % rank == 0:
        raise ModelError(f"axis {axis} is none of {rank} axes, or the batch axis")
    importer.builder.concatenation(sources, name, axis=axis % rank - 1, output=target)
    importer.finish(output, name)


def _quantize(importer: Importer, operator: Table) -> None:
    """From int8 to int8: a concatenation of one input, which is one requantization."""
    (x,), output, name = importer.operands(operator, 1)
    source, target = importer.value(x), importer.tensor(output).params()
    importer.builder.concatenation([source], name, axis=0, output=target)
    importer.finish(output, name)


def _reshape(importer: Importer, operator: Table) -> None:
    """The new shape is that of the output: the file says it three times, and this one is checked."""
    (x, _), output, name = importer.operands(operator, 1, 1)
    importer.builder.reshape(importer.value(x), name, shape=importer.tensor(output).activation_shape())
    importer.finish(output, name)


def _pad(importer: Importer, operator: Table) -> None:
    (x, paddings), output, name = importer.operands(operator, 2)
    source, values = importer.value(x), importer.tensor(paddings).integers()
    if values.shape != (len(importer.shape(source)) + 1, 2) or values[0].any():
        raise ModelError(f"paddings {values.tolist()} do not fit, or pad the batch axis")
    importer.builder.pad(source, name, paddings=[(int(before), int(after)) for before, after in values[1:]])
    importer.finish(output, name)


def _slice(importer: Importer, operator: Table) -> None:
    (x, begin, size), output, name = importer.operands(operator, 3)
    source = importer.value(x)
    shape = (1, *importer.shape(source))
    first, count = (importer.tensor(index).integers().reshape(-1).tolist() for index in (begin, size))
    if len(first) != len(shape) or len(count) != len(shape):
        raise ModelError(f"begin {first} and size {count} do not fit shape {list(shape)}")
    _block(importer, source, output, name, first, [
        length - start if n == -1 else n for start, n, length in zip(first, count, shape, strict=True)
    ])  # fmt: skip


def _strided_slice(importer: Importer, operator: Table) -> None:
    (x, begin, end, strides), output, name = importer.operands(operator, 4)
    options, source = _options(operator, 32), importer.value(x)
    shape = (1, *importer.shape(source))
    starts, ends, steps = (importer.tensor(index).integers().reshape(-1).tolist() for index in (begin, end, strides))
    masks = [0] * 5 if options is None else [options.integer(field) for field in range(5)]
    if any(masks[2:]) or {len(starts), len(ends), len(steps)} != {len(shape)} or set(steps) != {1}:
        raise ModelError("only a block of the input is supported: strides of 1, no new and no dropped axes")
    for axis, length in enumerate(shape):
        first, last = (min(max(v + length if v < 0 else v, 0), length) for v in (starts[axis], ends[axis]))
        starts[axis] = 0 if masks[0] >> axis & 1 else first
        ends[axis] = length if masks[1] >> axis & 1 else last
    _block(importer, source, output, name, starts, [b - a for a, b in zip(starts, ends, strict=True)])


def _block(importer: Importer, source: str, output: int, name: str, begin: Sequence[int], size: Sequence[int]) -> None:
    if begin[0] != 0 or size[0] != 1:
        raise ModelError("cuts the batch axis")
    importer.builder.slice(source, name, begin=tuple(begin[1:]), size=tuple(size[1:]))
    importer.finish(output, name)


def _logistic(importer: Importer, operator: Table) -> None:
    (x,), output, name = importer.operands(operator, 1)
    _check_probability(importer, output)
    importer.builder.logistic(importer.value(x), name)
    importer.finish(output, name)


def _check_probability(importer: Importer, output: int) -> None:
    if importer.tensor(output).params() != PROBABILITY:
        raise ModelError("its output does not have scale 1/256 and zero_point -128")


def _softmax(importer: Importer, operator: Table) -> None:
    (x,), output, name = importer.operands(operator, 1)
    _check_probability(importer, output)
    importer.builder.softmax(importer.value(x), name, beta=_required(operator, 9).real(0))
    importer.finish(output, name)


def _dequantize(importer: Importer, operator: Table) -> None:
    raise ModelError("dequantize stands elsewhere than at the end")


READERS: dict[str, Callable[[Importer, Table], None]] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "AVERAGE_POOL_2D": _average_pool_2d,
    "MAX_POOL_2D": _max_pool_2d,
    "ADD": _add,
    "MUL": _mul,
    "MEAN": _mean,
    "CONCATENATION": _concatenation,
    "QUANTIZE": _quantize,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "PAD": _pad,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "LOGISTIC": _logistic,
    "SOFTMAX": _softmax,
    "DEQUANTIZE": _dequantize,
}
