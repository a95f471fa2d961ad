# SPDX-License-Identifier: Apache-2.0
"""The network in integers: tensors with (S, Z), ops with integer attributes, and the builder that puts them together.

Training and importers produce a Graph; every engine and every exporter reads it and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deploy.check import GraphReport, OpReport, check_graph
from deploy.ops.add import Add, add_multipliers
from deploy.ops.affine import affine_multipliers, bias_scale
from deploy.ops.average_pool import AveragePool
from deploy.ops.base import INT32_MAX, OpAttributes, Padding, Pair
from deploy.ops.concatenation import Concatenation, concatenation_multipliers
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.ops.logistic import Logistic, logistic_multiplier
from deploy.ops.max_pool import MaxPool
from deploy.ops.mean import Mean, mean_multiplier
from deploy.ops.mul import Mul, mul_multiplier
from deploy.ops.pad import Pad
from deploy.ops.reshape import Reshape
from deploy.ops.slice import Slice
from deploy.ops.softmax import PROBABILITY, Softmax, softmax_multiplier
from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import Requant
from kws.errors import ModelError, QuantError

__all__ = ["Graph", "GraphBuilder", "GraphReport", "Op", "OpReport", "Tensor"]

Multiplier = tuple[NDArray[np.int32], NDArray[np.int32]]
NO_PADDING: Padding = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """One step: `inputs` are tensor names (activations first, then weight and bias), `output` the tensor it makes."""

    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: OpAttributes

    @property
    def kind(self) -> str:
        """The registry name, ``conv2d`` for example."""
        return self.attributes.kind


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Graph:
    """An integer network of one input and one output, its ops in the order in which they run.

    `rounding` is the rule of every requantization in it.
    """

    tensors: dict[str, Tensor]
    ops: tuple[Op, ...]
    input: str
    output: str
    rounding: str

    @property
    def input_params(self) -> QuantParams:
        """The domain into which features are quantized."""
        return self.tensors[self.input].params

    @property
    def output_params(self) -> QuantParams:
        """The domain of the output."""
        return self.tensors[self.output].params

    @property
    def input_shape(self) -> Shape:
        """Shape of one input, without the batch axis."""
        return self.tensors[self.input].shape

    @property
    def output_shape(self) -> Shape:
        """Shape of one output, without the batch axis."""
        return self.tensors[self.output].shape

    def inputs_of(self, op: Op) -> list[Tensor]:
        """The tensors that `op` reads."""
        return [self.tensors[name] for name in op.inputs]

    def with_rounding(self, rounding: str) -> Graph:
        """The same integers under another rounding rule: results change. ModelError for an unknown rule."""
        if rounding not in ROUNDING_RULES:
            raise ModelError(f"unknown rounding rule {rounding!r}", hint="one of " + ", ".join(ROUNDING_RULES))
        ops = tuple(replace(op, attributes=op.attributes.with_rounding(rounding)) for op in self.ops)
        return replace(self, ops=ops, rounding=rounding)

    def with_softmax(self) -> Graph:
        """The same graph with a softmax (S = 1/256, Z = -128) behind its logits; itself where it ends in one."""
        if self.ops[-1].kind == "softmax":
            return self
        logits = self.tensors[self.output]
        name = next(n for n in (f"softmax{'_' * i}" for i in range(len(self.tensors) + 1)) if n not in self.tensors)
        output = Tensor(name, logits.shape, "int8", PROBABILITY.scale, PROBABILITY.zero_point)
        op = Op(name, (logits.name,), name, Softmax(*softmax_multiplier(logits.params.scale)))
        return replace(self, tensors={**self.tensors, name: output}, ops=(*self.ops, op), output=name)

    def without_scales(self) -> Graph:
        """The same graph with every scale deleted. It still runs: nothing between input and output needs them."""
        return replace(self, tensors={name: tensor.without_scale() for name, tensor in self.tensors.items()})

    def check(self) -> GraphReport:
        """Prove that the graph can run: structure, shapes, (S, Z), multipliers, and that no int32 sum overflows.

        ModelError names the op or tensor and the field that is refused.
        """
        return check_graph(self)


class GraphBuilder:
    """Adds ops one after another and computes their multipliers from the scales; every method returns a tensor name.

    Shapes are without the batch axis. Weights and biases are integers already. Errors are those of `Graph.check()`; a
    multiplier out of range is a QuantError that names the op and the channel.
    """

    def __init__(self, rounding: str = "single") -> None:
        self._rounding = rounding
        self._tensors: dict[str, Tensor] = {}
        self._ops: list[Op] = []
        self._input: str | None = None

    def input(self, shape: Shape, params: QuantParams, name: str = "input") -> str:
        """The graph's input, int8."""
        self._add_tensor(Tensor(name, tuple(shape), "int8", params.scale, params.zero_point))
        self._input = name
        return name

    def conv2d(
        self,
        x: str,
        name: str,
        weight: IntArray,
        weight_scale: float | Sequence[float],
        weight_zero_point: int,
        bias: IntArray | None,
        *,
        stride: Pair = (1, 1),
        padding: Padding = NO_PADDING,
        output: QuantParams,
        activation_min: int = -128,
        activation_max: int = 127,
    ) -> str:
        """Convolution; `weight` int8 OHWI, one scale or one an output channel, `bias` int32 (O,) or None."""
        constants = self._constants(x, name, weight, weight_scale, weight_zero_point, bias, 0)
        requant = self._affine_requant(x, name, output, (activation_min, activation_max))
        return self._add_op(name, (x, *constants), Conv2d(stride, padding, requant), output)

    def depthwise_conv2d(
        self,
        x: str,
        name: str,
        weight: IntArray,
        weight_scale: float | Sequence[float],
        weight_zero_point: int,
        bias: IntArray | None,
        *,
        stride: Pair = (1, 1),
        padding: Padding = NO_PADDING,
        output: QuantParams,
        activation_min: int = -128,
        activation_max: int = 127,
    ) -> str:
        """Depthwise convolution; `weight` int8 1HWC, one scale or one an output channel, `bias` int32 (C,) or None."""
        constants = self._constants(x, name, weight, weight_scale, weight_zero_point, bias, 3)
        requant = self._affine_requant(x, name, output, (activation_min, activation_max))
        return self._add_op(name, (x, *constants), DepthwiseConv2d(stride, padding, requant), output)

    def fully_connected(
        self,
        x: str,
        name: str,
        weight: IntArray,
        weight_scale: float | Sequence[float],
        weight_zero_point: int,
        bias: IntArray | None,
        *,
        output: QuantParams,
        activation_min: int = -128,
        activation_max: int = 127,
    ) -> str:
        """Fully connected on an input of shape (I,); `weight` int8 OI, `bias` int32 (O,) or None."""
        constants = self._constants(x, name, weight, weight_scale, weight_zero_point, bias, 0)
        requant = self._affine_requant(x, name, output, (activation_min, activation_max), product_in_float32=True)
        return self._add_op(name, (x, *constants), FullyConnected(requant), output)

    def average_pool(
        self,
        x: str,
        name: str,
        kernel: Pair,
        *,
        stride: Pair | None = None,
        padding: Padding = NO_PADDING,
        activation_min: int = -128,
        activation_max: int = 127,
    ) -> str:
        """Average pool in the (S, Z) of its input; `stride` None means the kernel."""
        pool = AveragePool(kernel, stride or kernel, padding, activation_min, activation_max)
        return self._add_op(name, (x,), pool, self.params(x))

    def max_pool(
        self,
        x: str,
        name: str,
        kernel: Pair,
        *,
        stride: Pair | None = None,
        padding: Padding = NO_PADDING,
        activation_min: int = -128,
        activation_max: int = 127,
    ) -> str:
        """Max pool in the (S, Z) of its input; `stride` None means the kernel."""
        pool = MaxPool(kernel, stride or kernel, padding, activation_min, activation_max)
        return self._add_op(name, (x,), pool, self.params(x))

    def mean(self, x: str, name: str, *, output: QuantParams | None = None, keep_dims: bool = False) -> str:
        """Mean over H and W: (H, W, C) -> (C,), or (1, 1, C); `output` None keeps the (S, Z) of the input."""
        target = output or self.params(x)
        multiplier = mean_multiplier(self.params(x).scale, target.scale)
        return self._add_op(name, (x,), Mean(keep_dims, self._requant(multiplier, target)), target)

    def add(
        self, a: str, b: str, name: str, *, output: QuantParams, activation_min: int = -128, activation_max: int = 127
    ) -> str:
        """Sum of two tensors of one shape."""
        pairs = add_multipliers(self.params(a).scale, self.params(b).scale, output.scale)
        wide = (-INT32_MAX, INT32_MAX)
        requant_a, requant_b = (Requant(*pair, 0, *wide, self._rounding) for pair in pairs[:2])
        requant = self._requant(pairs[2], output, (activation_min, activation_max))
        return self._add_op(name, (a, b), Add(requant_a, requant_b, requant), output)

    def mul(
        self, a: str, b: str, name: str, *, output: QuantParams, activation_min: int = -128, activation_max: int = 127
    ) -> str:
        """Product of two tensors of one shape, or of (H, W, C) and (1, 1, C) in either order."""
        multiplier = mul_multiplier(self.params(a).scale, self.params(b).scale, output.scale)
        return self._add_op(
            name, (a, b), Mul(self._requant(multiplier, output, (activation_min, activation_max))), output
        )

    def concatenation(self, xs: Sequence[str], name: str, *, axis: int, output: QuantParams | None = None) -> str:
        """Inputs side by side along `axis` (without the batch axis); `output` None keeps the (S, Z) of the first."""
        target = output or self.params(xs[0])
        requants = tuple(
            self._requant(concatenation_multipliers(self.params(x).scale, target.scale), target) for x in xs
        )
        return self._add_op(name, tuple(xs), Concatenation(axis, requants), target)

    def slice(self, x: str, name: str, *, begin: Shape, size: Shape) -> str:
        """A block of the input."""
        return self._add_op(name, (x,), Slice(begin, size), self.params(x))

    def pad(self, x: str, name: str, *, paddings: Sequence[Pair]) -> str:
        """A border of Z, the real number 0."""
        return self._add_op(name, (x,), Pad(tuple(paddings)), self.params(x))

    def reshape(self, x: str, name: str, *, shape: Shape) -> str:
        """The same values under another shape."""
        return self._add_op(name, (x,), Reshape(tuple(shape)), self.params(x))

    def logistic(self, x: str, name: str) -> str:
        """Integer 1 / (1 + exp(-x)); its output has S = 1/256, Z = -128."""
        return self._add_op(name, (x,), Logistic(*logistic_multiplier(self.params(x).scale)), PROBABILITY)

    def softmax(self, x: str, name: str, *, beta: float = 1.0) -> str:
        """Integer softmax over the last axis; its output has S = 1/256, Z = -128."""
        multiplier, left_shift = softmax_multiplier(self.params(x).scale, beta)
        return self._add_op(name, (x,), Softmax(multiplier, left_shift), PROBABILITY)

    def finish(self, output: str) -> Graph:
        """The checked graph."""
        if self._input is None:
            raise ModelError("the graph has no input", hint="call input first")
        graph = Graph(dict(self._tensors), tuple(self._ops), self._input, output, self._rounding)
        graph.check()
        return graph

    def shape(self, name: str) -> Shape:
        """The shape of a tensor that has been added."""
        return self._tensor(name).shape

    def params(self, name: str) -> QuantParams:
        """The (S, Z) of a tensor that has been added."""
        return self._tensor(name).params

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise ModelError(f"there is no tensor '{name}'")
        return self._tensors[name]

    def _add_tensor(self, tensor: Tensor) -> str:
        if tensor.name in self._tensors:
            raise ModelError(f"there are two tensors '{tensor.name}'")
        self._tensors[tensor.name] = tensor
        return tensor.name

    def _add_op(self, name: str, inputs: tuple[str, ...], attributes: OpAttributes, output: QuantParams) -> str:
        """Append the op and its output tensor, which takes the op's name."""
        try:
            shape = attributes.output_shape([self._tensors[i] for i in inputs])
        except ModelError as error:
            raise ModelError(error.what, where=f"op '{name}'", hint=error.hint) from None
        self._add_tensor(Tensor(name, shape, "int8", output.scale, output.zero_point))
        self._ops.append(Op(name, inputs, name, attributes))
        return name

    def _constants(
        self,
        x: str,
        name: str,
        weight: IntArray,
        weight_scale: float | Sequence[float],
        weight_zero_point: int,
        bias: IntArray | None,
        channel_axis: int,
    ) -> tuple[str, str]:
        """Add weight and bias as the tensors NAME/weight and NAME/bias."""
        scale = _float32_scales(weight_scale)
        values = np.zeros(weight.shape[channel_axis], np.int32) if bias is None else bias
        if weight.dtype != np.int8 or values.dtype != np.int32:
            what = f"weight is {weight.dtype} and bias {values.dtype}, not int8 and int32"
            raise ModelError(what, where=f"op '{name}'")
        weight_tensor = Tensor(f"{name}/weight", weight.shape, "int8", scale, weight_zero_point, weight)
        bias_tensor = Tensor(f"{name}/bias", values.shape, "int32", bias_scale(self.params(x).scale, scale), 0, values)
        return self._add_tensor(weight_tensor), self._add_tensor(bias_tensor)

    def _affine_requant(
        self, x: str, name: str, output: QuantParams, clamp: Pair, *, product_in_float32: bool = False
    ) -> Requant:
        weight_scale = self._tensors[f"{name}/weight"].scale
        assert weight_scale is not None
        per_tensor = isinstance(weight_scale, float)
        try:
            multiplier = affine_multipliers(
                self.params(x).scale, weight_scale, output.scale, product_in_float32=product_in_float32 and per_tensor
            )
        except QuantError as error:
            raise QuantError(error.what, where=f"op '{name}'", hint=error.hint) from None
        return self._requant(multiplier, output, clamp)

    def _requant(self, multiplier: Multiplier, output: QuantParams, clamp: Pair = (-128, 127)) -> Requant:
        return Requant(*multiplier, output.zero_point, *clamp, self._rounding)


def _float32_scales(scales: float | Sequence[float]) -> float | tuple[float, ...]:
    """The nearest float32, one or a tuple, as Python floats."""
    rounded = np.asarray(scales, dtype=np.float32)
    return float(rounded) if rounded.ndim == 0 else tuple(float(scale) for scale in rounded)
