# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow Lite file as a graph: fully int8 networks, whoever made them. Reading trusts nothing.

The builder derives every multiplier and shift from the file's scales as TensorFlow Lite Micro does, so under the rule
`tflm` the graph computes that runtime's bits.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.codec import items_of, string
from deploy.graph import Graph, GraphBuilder
from deploy.importers.flatbuffer import Table, root
from deploy.importers.tflite_operators import READERS
from deploy.importers.tflite_tensor import FileTensor
from deploy.ops.base import Pair
from deploy.tensor import Shape, is_name
from deploy.tflite_rules import METADATA, METADATA_VERSION, fused_activations
from features.config import FrontendConfig
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.errors import KwsError, ModelError, printable

MAX_FILE_BYTES = 64 << 20
_MAX_METADATA = 1 << 20
_MAX_OPS = 1024
_MAX_LABELS = 256
_MAX_COST = 1 << 26
_COST_OF_CHANNEL = 64  # bytes that a bias and two scales take in Python

_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")

# Those that are read, and those that keyword models are known to hold besides, so that a refusal can name them.
OPERATORS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 14: "LOGISTIC", 16: "LSTM", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6",
    22: "RESHAPE", 25: "SOFTMAX", 27: "SVDF", 28: "TANH", 32: "CUSTOM", 34: "PAD", 36: "GATHER", 39: "TRANSPOSE",
    40: "MEAN", 41: "SUB", 43: "SQUEEZE", 44: "UNIDIRECTIONAL_SEQUENCE_LSTM", 45: "STRIDED_SLICE", 49: "SPLIT",
    55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 60: "PADV2", 65: "SLICE", 67: "TRANSPOSE_CONV", 70: "EXPAND_DIMS",
    74: "SUM", 76: "RSQRT", 83: "PACK", 88: "UNPACK", 98: "LEAKY_RELU", 102: "SPLIT_V", 114: "QUANTIZE",
    117: "HARD_SWISH", 126: "BATCH_MATMUL", 129: "CALL_ONCE", 142: "VAR_HANDLE", 143: "READ_VARIABLE",
    144: "ASSIGN_VARIABLE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Imported:
    """A graph, and what a file of our own says besides: labels, front-end, detection, each None in others' files."""

    graph: Graph
    labels: tuple[str, ...] | None
    frontend: FrontendConfig | None
    detection: object
    """As JSON holds it, unchecked."""
    names: dict[int, str]
    """The graph's names of the file's activations, by their numbers there."""


def read(data: bytes, *, input_shape: Shape | None = None) -> Imported:
    """The checked graph in the content of a .tflite file; ModelError names the operator of what it cannot hold.

    Rounds by `tflm`, or as the metadata of our own exports says. `input_shape`, without the batch axis, replaces the
    input's own where both have as many elements.
    """
    try:
        return _read(data, input_shape)
    except KwsError as error:
        where = None if error.where is None else printable(error.where)
        raise ModelError(printable(error.what), where=where, hint=error.hint) from None


def _read(data: bytes, input_shape: Shape | None) -> Imported:
    if len(data) > MAX_FILE_BYTES:
        raise ModelError(f"has more than {MAX_FILE_BYTES} bytes")
    model = root(data, b"TFL3")
    metadata = _metadata(model)
    labels, frontend, detection, rounding = None, None, None, "tflm"
    if metadata is not None:
        labels, frontend, detection, rounding = _own(metadata)
    if input_shape is None and frontend is not None:
        input_shape = frontend.input_shape
    importer = Importer(model, rounding)
    return Imported(importer.graph(input_shape), labels, frontend, detection, importer.names)


def _metadata(model: Table) -> bytes | None:
    """The entry that our exports carry."""
    buffers = model.tables(4)
    for entry in model.tables(6):
        index = entry.integer(1, "I")
        if entry.string(0) == METADATA and index < len(buffers):
            values = buffers[index].vector(0, np.uint8)
            if len(values) > _MAX_METADATA:
                raise ModelError(f"has more than {_MAX_METADATA} bytes", where=f"metadata '{METADATA}'")
            return bytes(values)
    return None


def _own(metadata: bytes) -> tuple[tuple[str, ...], FrontendConfig | None, object, str]:
    """Labels, front-end, detection and rounding rule of an export of ours."""
    where = f"metadata '{METADATA}'"
    try:
        values = json.loads(metadata)
        if not isinstance(values, dict) or values.get("version") != METADATA_VERSION:
            raise ModelError("is none that this version knows", where=where)
        labels = tuple(string(label, place) for label, place in items_of(values.get("labels"), where, _MAX_LABELS))
        frontend = values.get("frontend")
        config = None if frontend is None else FrontendConfig.from_dict(frontend)
    except (ValueError, RecursionError, OverflowError):  # OverflowError: an integer that no float holds
        raise ModelError("is not JSON, or holds a number that is too large", where=where) from None
    rounding = values.get("rounding")
    if not isinstance(rounding, str) or rounding not in ROUNDING_RULES:
        raise ModelError("has no known rounding rule", where=where)
    return labels, config, values.get("detection"), rounding


class Importer:
    """Builds the graph operator by operator."""

    def __init__(self, model: Table, rounding: str) -> None:
        codes = model.tables(1)
        self._codes = [(max(code.integer(0, "b"), code.integer(3)), code.string(1)) for code in codes]
        subgraphs, buffers = model.tables(2), model.tables(4)
        if not subgraphs:
            raise ModelError("has no subgraph")
        self._subgraph = subgraphs[0]
        self._tensors = [FileTensor(table, buffers) for table in self._subgraph.tables(0)]
        self._operators = self._subgraph.tables(3)
        self._builder = GraphBuilder(rounding)
        self.names: dict[int, str] = {}  # what the file's activations are called in the graph, once they are made
        self._taken: set[str] = set()
        self._cost = 0  # of the constants, in bytes: many operators may share one buffer

    def graph(self, input_shape: Shape | None) -> Graph:
        """Everything, checked."""
        if not 1 <= len(self._operators) <= _MAX_OPS:
            raise ModelError(f"{len(self._operators)} operators are not 1 to {_MAX_OPS}")
        self._kinds = [self._name_of(operator) for operator in self._operators]
        unknown = list(dict.fromkeys(name for name in self._kinds if name not in READERS))
        if unknown:
            what = f"{', '.join(unknown[:4])} of its operators {'are' if unknown[1:] else 'is'} not supported"
            raise ModelError(what, hint=f"{', '.join(READERS)} are")
        (source,), (output,) = self._ends(1, "inputs"), self._ends(2, "outputs")
        source = self._skip_quantize(source)
        output, last = self._skip_dequantize(output)
        self._input(source, input_shape)
        for index, operator in enumerate(self._operators[:last]):
            if index == 0 and self._first_is_quantize:
                continue
            where = f"operator {index} ({self._kinds[index]})"
            try:
                READERS[self._kinds[index]](self, operator)
            except KwsError as error:
                raise ModelError(error.what, where=where, hint=error.hint) from None
        return self._builder.finish(self._flattened(self.value(output)))

    def _ends(self, field: int, what: str) -> NDArray[Any]:
        ends = self._subgraph.vector(field, np.int32)
        if len(ends) != 1:
            raise ModelError(f"has {len(ends)} {what}, not 1")
        return ends

    def _name_of(self, operator: Table) -> str:
        index = operator.integer(0, "I")
        if index >= len(self._codes):
            raise ModelError(f"operator code {index} does not exist")
        code, custom = self._codes[index]
        name = OPERATORS.get(code, f"builtin operator {code}")
        return f"custom operator {custom[:60]!r}" if name == "CUSTOM" else name

    def _skip_quantize(self, source: int) -> int:
        """The int8 tensor that a quantize operator makes of a float input: quantizing is the front-end's business."""
        self._first_is_quantize = False
        if self.tensor(source).type != "int8" and self._kinds[0] == "QUANTIZE":
            inputs, outputs = self._operands(self._operators[0], 1)
            if inputs[0] == source and self.tensor(source).type == "float32":
                self._first_is_quantize = True
                return outputs
        return source

    def _skip_dequantize(self, output: int) -> tuple[int, int]:
        """The int8 tensor of which a last dequantize operator makes the float output, and how many operators stay."""
        if self._kinds[-1] == "DEQUANTIZE":
            inputs, made = self._operands(self._operators[-1], 1)
            if made == output:
                return inputs[0], len(self._operators) - 1
        return output, len(self._operators)

    def _input(self, source: int, shape: Shape | None) -> None:
        tensor = self.tensor(source)
        if tensor.is_constant or tensor.is_variable:
            raise ModelError("the input is a constant or a variable")
        own = tensor.activation_shape()
        name = self.unique(tensor.name, "input")
        if shape is None or shape == own or math.prod(shape) != math.prod(own):
            self.names[source] = self._builder.input(own, tensor.params(), name)
            return
        whole = self._builder.input(shape, tensor.params(), name)
        self.names[source] = self._builder.reshape(whole, self.unique(f"{name}/reshape", "reshape"), shape=own)

    def _flattened(self, name: str) -> str:
        """The output as a vector: networks end in (n,), also where a file says (1, 1, n)."""
        graph_shape = self.shape(name)
        if len(graph_shape) == 1:
            return name
        return self._builder.reshape(name, self.unique(f"{name}/flat", "flat"), shape=(math.prod(graph_shape),))

    # What the readers of operators use.

    @property
    def builder(self) -> GraphBuilder:
        """What operators are added to."""
        return self._builder

    def tensor(self, index: int) -> FileTensor:
        """A tensor of the file."""
        if not 0 <= index < len(self._tensors):
            raise ModelError(f"tensor {index} does not exist")
        return self._tensors[index]

    def value(self, index: int) -> str:
        """The graph's name of an activation."""
        if index not in self.names:
            kind = "a constant" if self.tensor(index).is_constant else "made by no operator before this one"
            raise ModelError(f"input '{self.tensor(index).name[:60]}' is {kind}")
        return self.names[index]

    def shape(self, name: str) -> Shape:
        """The shape of an activation of the graph."""
        return self._builder.shape(name)

    def _operands(self, operator: Table, n_inputs: int, n_optional: int = 0) -> tuple[list[int], int]:
        """Numbers of the inputs, with -1 for an optional one that is missing, and of the one output."""
        inputs = [int(index) for index in operator.vector(1, np.int32)[:_MAX_OPS]]
        outputs = operator.vector(2, np.int32)
        if not n_inputs <= len(inputs) <= n_inputs + n_optional or len(outputs) != 1:
            raise ModelError(f"{len(inputs)} inputs and {len(outputs)} outputs are not what it has")
        return inputs + [-1] * (n_inputs + n_optional - len(inputs)), int(outputs[0])

    def operands(self, operator: Table, n_inputs: int, n_optional: int = 0) -> tuple[list[int], int, str]:
        """The same, and the name that the output gets."""
        inputs, output = self._operands(operator, n_inputs, n_optional)
        if output in self.names or self.tensor(output).is_constant or self.tensor(output).is_variable:
            raise ModelError(f"output '{self.tensor(output).name[:60]}' is made twice, or is a constant or a variable")
        return inputs, output, self.unique(self.tensor(output).name, "op")

    def finish(self, output: int, name: str) -> None:
        """Note that the output has been made, and hold it to what the file says of it."""
        tensor, shape = self.tensor(output), self.shape(name)
        if tensor.activation_shape() != shape:
            raise ModelError(f"makes shape {list(shape)}, the file says {list(tensor.activation_shape())}")
        if tensor.params() != self._builder.params(name):
            raise ModelError("changes scale or zero point, which this operator does not")
        self.names[output] = name

    def unique(self, name: str, fallback: str) -> str:
        """A name that the graph may hold and does not yet, as near to the file's as can be."""
        base = re.sub(r"[^A-Za-z0-9_./-]+", "_", name.split(";")[0]).strip("_./-")[-100:].strip("_./-")
        base = base if is_name(base) else fallback
        candidate, count = base, 1
        while not self._taken.isdisjoint(names := {candidate, f"{candidate}/weight", f"{candidate}/bias"}):
            count += 1
            candidate = f"{base}_{count}"
        self._taken |= names
        return candidate

    def constants(
        self, weight: int, bias: int, channel_axis: int, *, affine: bool = False
    ) -> tuple[NDArray[np.int8], float | list[float], int, NDArray[np.int32] | None]:
        """Weight, its scale and zero point, and bias or None."""
        tensor = self.tensor(weight)
        values = tensor.values("int8")
        if values.ndim <= channel_axis:
            raise ModelError(f"weight of shape {list(values.shape)} has too few axes")
        channels = values.shape[channel_axis]
        self._cost += values.size + _COST_OF_CHANNEL * channels
        if self._cost > _MAX_COST:
            raise ModelError(f"the operators read more than {_MAX_COST} bytes of weights and scales")
        domain = tensor.weight_domain(channels, channel_axis, affine=affine)
        if bias < 0:
            return values, *domain, None
        if self.tensor(bias).shape != (channels,):
            raise ModelError(f"bias of shape {list(self.tensor(bias).shape)} does not fit {channels} output channels")
        return values, *domain, self.tensor(bias).values("int32")

    def clamp(self, code: int, output: int) -> Pair:
        """The ends of a fused activation."""
        if not 0 <= code < len(_ACTIVATIONS):
            raise ModelError(f"fused activation {code} is not supported", hint="supported: none, ReLU, ReLU6, [-1, 1]")
        ends = fused_activations(self.tensor(output).params()).get(_ACTIVATIONS[code])
        if ends is None:
            raise ModelError("the scale of the output is too small for its fused activation")
        return ends
