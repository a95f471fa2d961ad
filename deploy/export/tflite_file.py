# SPDX-License-Identifier: Apache-2.0
"""Writes TensorFlow Lite files with the schema of ai-edge-litert: tensors, buffers, operators, whatever they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.export.common import unique_name
from deploy.graph import Graph
from deploy.tensor import Shape, Tensor
from deploy.tflite_rules import METADATA
from kws.arithmetic.quant import QuantParams
from kws.errors import MissingExtraError

ALIGNMENT = 16  # of every buffer, as the schema demands: boards read constants in place

# Our op: TFLite's operator, its options ("": none), and its version for int8.
OPERATORS = {
    "conv2d": ("CONV_2D", "Conv2DOptions", 3),
    "depthwise_conv2d": ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", 3),
    "fully_connected": ("FULLY_CONNECTED", "FullyConnectedOptions", 4),
    "add": ("ADD", "AddOptions", 2),
    "average_pool": ("AVERAGE_POOL_2D", "Pool2DOptions", 2),
    "max_pool": ("MAX_POOL_2D", "Pool2DOptions", 2),
    "mul": ("MUL", "MulOptions", 2),
    "mean": ("MEAN", "ReducerOptions", 2),
    "concatenation": ("CONCATENATION", "ConcatenationOptions", 2),
    "quantize": ("QUANTIZE", "QuantizeOptions", 2),
    "slice": ("SLICE", "SliceOptions", 2),
    "pad": ("PAD", "PadOptions", 2),
    "reshape": ("RESHAPE", "ReshapeOptions", 1),
    "logistic": ("LOGISTIC", "", 2),
    "softmax": ("SOFTMAX", "SoftmaxOptions", 2),
}


def tflite_schema() -> Any:
    """The classes of TensorFlow Lite's schema. MissingExtraError where they are not installed."""
    try:
        import flatbuffers  # noqa: F401  # what the schema is written with
        from ai_edge_litert import schema_py_generated
    except ImportError:
        what = "TensorFlow Lite export needs ai-edge-litert and flatbuffers"
        raise MissingExtraError(what, hint="pip install 'integer-kws[tflite]'") from None
    return schema_py_generated


@dataclass
class _Buffer:
    """A buffer of the file, aligned; takes the place of the schema's BufferT, whose bytes lie anywhere."""

    data: bytes

    def Pack(self, builder: Any) -> Any:
        """Write the bytes, then the table that points to them."""
        schema = tflite_schema()
        vector = None
        if self.data:
            builder.StartVector(1, len(self.data), ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if vector is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


class Writer:
    """Collects tensors and operators. Tensors are numbers, in the order in which they are added."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.schema = tflite_schema()
        self._buffers = [_Buffer(b"")]  # the first one means "no data"
        self._tensors: list[Any] = []
        self._codes: list[str] = []
        self._operators: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._taken = set(graph.tensors)
        self.activation(graph.tensors[graph.input])

    def number(self, name: str) -> int:
        """The tensor of that name in the graph."""
        return self._numbers[name]

    def activation(self, tensor: Tensor) -> int:
        """Add a tensor that an operator makes, or the input."""
        self._numbers[tensor.name] = self._int8(tensor.name, tensor.shape, tensor.params)
        return self._numbers[tensor.name]

    def temporary(self, name: str, shape: Shape, params: QuantParams) -> int:
        """Add an activation that the graph does not have."""
        return self._int8(unique_name(name, self._taken), shape, params)

    def constant(self, name: str, values: NDArray[Any], scales: Sequence[float] = (), axis: int = 0) -> int:
        """Add constant values, with scales where they stand for reals."""
        self._buffers.append(_Buffer(np.ascontiguousarray(values).tobytes()))
        return self._tensor(name, values.shape, values.dtype, scales, 0, axis, len(self._buffers) - 1)

    def integers(self, name: str, values: Sequence[Any]) -> int:
        """Add an int32 constant that is an operator's parameter."""
        return self.constant(unique_name(name, self._taken), np.array(values, np.int32))

    def operator(self, kind: str, inputs: Sequence[int], output: int, **options: Any) -> None:
        """Add an operator; `options` are fields of its table in the schema."""
        options_name = OPERATORS[kind][1]
        operator = self.schema.OperatorT()
        if kind not in self._codes:
            self._codes.append(kind)
        operator.opcodeIndex = self._codes.index(kind)
        operator.inputs, operator.outputs = list(inputs), [output]
        if options_name:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options_name)
            operator.builtinOptions = getattr(self.schema, f"{options_name}T")()
        for field, value in options.items():
            setattr(operator.builtinOptions, field, value)
        self._operators.append(operator)

    def finish(self, metadata: bytes) -> bytes:
        """The content of the file."""
        import flatbuffers

        subgraph, model, entry = self.schema.SubGraphT(), self.schema.ModelT(), self.schema.MetadataT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs, subgraph.outputs = [self.number(self.graph.input)], [self.number(self.graph.output)]
        self._buffers.append(_Buffer(metadata))
        entry.name, entry.buffer = METADATA, len(self._buffers) - 1
        model.version, model.description = 3, "made by kws export --to tflite"
        model.subgraphs, model.buffers, model.metadata = [subgraph], self._buffers, [entry]
        model.operatorCodes = [self._code(kind) for kind in self._codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _code(self, kind: str) -> Any:
        name, _, version = OPERATORS[kind]
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        code.version = version
        return code

    def _int8(self, name: str, shape: Shape, params: QuantParams) -> int:
        """A tensor with a batch axis of 1."""
        return self._tensor(name, (1, *shape), np.dtype(np.int8), [params.scale], params.zero_point)

    def _tensor(
        self,
        name: str,
        shape: Shape,
        dtype: np.dtype[Any],
        scales: Sequence[float],
        zero_point: int,
        axis: int = 0,
        buffer: int = 0,
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
        tensor.type = getattr(self.schema.TensorType, dtype.name.upper())
        if scales:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = list(scales)
            tensor.quantization.zeroPoint = [zero_point] * len(scales)
            tensor.quantization.quantizedDimension = axis
        self._tensors.append(tensor)
        return len(self._tensors) - 1
