# SPDX-License-Identifier: Apache-2.0
"""Writes ONNX files: tensors, constants and nodes, in either of two forms that say how integers are computed with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from deploy.export.common import unique_name
from deploy.graph import Graph, Op
from deploy.ops.base import Pair
from deploy.tensor import IntArray, Shape, Tensor
from deploy.tflite_rules import FULL_CLAMP, METADATA
from kws.errors import MissingExtraError, ModelError

OPSET = 13
"""Of ONNX."""
_IR_VERSION = 8


def _onnx() -> Any:
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("ONNX export needs onnx", hint="pip install 'integer-kws[onnx]'") from None
    return onnx


class Writer(ABC):
    """Collects nodes and constants. A tensor of the file is a name; activations are int8."""

    opsets: ClassVar[dict[str, int]] = {"": OPSET}

    @abstractmethod
    def convolve(self, op: Op, weight: IntArray, **attributes: Any) -> None:
        """Write a convolution; `weight` is OIHW, `attributes` are those of ONNX's Conv."""

    @abstractmethod
    def dense(self, op: Op) -> None:
        """Write a fully connected op."""

    def compute(self, kind: str, op: Op, output: str, *, clamp: Pair = FULL_CLAMP, **attributes: Any) -> None:
        """Write what ONNX's operator `kind` computes of the op's inputs, into the tensor `output`: on reals here."""
        sources = [self._real(x.name, x.name, self.domain(x)) for x in self.graph.inputs_of(op)]
        self._quantized(kind, sources, op, output, clamp, **attributes)

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._onnx = _onnx()
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
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

    def _real(self, wanted: str, source: str, domain: list[str], **attributes: Any) -> str:
        """The reals that the tensor `source` stands for, as a tensor of their own for each reader."""
        made = self.name(f"{wanted}/real")
        self.node("DequantizeLinear", [source, *domain], made, **attributes)
        return made

    def _quantized(self, kind: str, sources: list[str], op: Op, output: str, clamp: Pair, **attributes: Any) -> None:
        real = self.name(f"{op.output}/real")
        self.node(kind, sources, real, **attributes)
        self.node("QuantizeLinear", [real, *self.domain(self.graph.tensors[op.output])], output, clamp=clamp)

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
        opsets = [onnx.helper.make_opsetid(*opset) for opset in self.opsets.items()]
        model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="integer-kws")
        onnx.helper.set_model_props(model, {METADATA: metadata})
        return cast(bytes, model.SerializeToString(deterministic=True))

    def _info(self, name: str, shape: Shape) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._onnx.TensorProto.INT8, ["N", *shape])


def clamp_of(op: Op) -> Pair:
    """Where the op's last requantization clamps."""
    *_, (_, requant) = op.attributes.requants()
    return requant.activation_min, requant.activation_max


def weight_scales(weight: Tensor) -> NDArray[np.float32]:
    """The scale of a weight, a scalar, or one an output channel. ModelError where it is not known."""
    if weight.scale is None:
        raise ModelError(f"scale of '{weight.name}' is not known")
    return np.asarray(weight.scale, np.float32)


def stored(shape: Shape) -> Shape:
    """The shape of a tensor inside the file, without the batch axis: (H, W, C) as (C, H, W), others as they are."""
    return (shape[2], *shape[:2]) if len(shape) == 3 else shape
