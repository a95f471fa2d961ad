# SPDX-License-Identifier: Apache-2.0
"""The proof behind `Graph.check()`: sizes, references, (S, Z), multipliers and sums are in range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.ops.base import INT32_MAX
from deploy.ops.registry import OPS
from deploy.tensor import NAME_RULE, Tensor, is_name
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.errors import ModelError, QuantError

if TYPE_CHECKING:
    from deploy.graph import Graph, Op

MAX_OPS = 1024
MAX_MACS = 1 << 33
MAX_MACS_PER_CHANNEL = 1 << 26  # also the elements of the matrix that a convolution makes of its windows
MAX_ACTIVATION_BYTES = 1 << 24
MAX_CONSTANT_BYTES = 1 << 26  # read by all ops together: a constant that many share is looked through for each


@dataclass(frozen=True, slots=True)
class OpReport:
    """What one op costs and proves: multiply-accumulates, bytes of its constants, bound of its int32 intermediates."""

    name: str
    macs: int
    weight_bytes: int
    acc_bound: int


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One OpReport an op, in order, and the totals."""

    ops: tuple[OpReport, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(op.macs for op in self.ops)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants."""
        return sum(op.weight_bytes for op in self.ops)


def check_graph(graph: Graph) -> GraphReport:
    """Check everything that can be checked without an input; ModelError names the op or tensor and the field."""
    if graph.rounding not in ROUNDING_RULES:
        raise ModelError(f"unknown rounding rule {graph.rounding!r}", where="rounding")
    if not 1 <= len(graph.ops) <= MAX_OPS:
        raise ModelError(f"{len(graph.ops)} ops are not 1 to {MAX_OPS}", where="ops")
    _check_tensors(graph)
    known = {graph.input} | {name for name, tensor in graph.tensors.items() if tensor.data is not None}
    reports = []
    macs, constant_bytes = 0, 0
    for op in graph.ops:
        try:
            reports.append(_check_op(graph, op, known))
        except (ModelError, QuantError) as error:
            raise ModelError(error.what, where=f"op {op.name[:140]!r}", hint=error.hint) from None
        known.add(op.output)
        macs += reports[-1].macs
        if macs > MAX_MACS:
            raise ModelError(f"the graph has more than {MAX_MACS} multiply-accumulates", where=f"op '{op.name}'")
        constant_bytes += reports[-1].weight_bytes
        if constant_bytes > MAX_CONSTANT_BYTES:
            raise ModelError(f"the ops read more than {MAX_CONSTANT_BYTES} bytes of constants", where=f"op '{op.name}'")
    if graph.output not in {op.output for op in graph.ops}:
        raise ModelError(f"'{graph.output}' is made by no op", where="output")
    used = {name for op in graph.ops for name in (*op.inputs, op.output)}
    for name in graph.tensors:
        if name not in used:
            raise ModelError("is used by no op", where=f"tensor '{name}'")
    return GraphReport(tuple(reports))


def _check_tensors(graph: Graph) -> None:
    activation_bytes = 0
    for name, tensor in graph.tensors.items():
        if name != tensor.name:
            raise ModelError(f"is stored under the name '{name}'", where=f"tensor {tensor.name[:140]!r}")
        tensor.check()
        if tensor.data is None:
            activation_bytes += tensor.size
            if tensor.dtype != "int8":
                raise ModelError(f"dtype {tensor.dtype} of an activation is not int8", where=f"tensor '{name}'")
    if activation_bytes > MAX_ACTIVATION_BYTES:
        raise ModelError(f"{activation_bytes} bytes of activations exceed {MAX_ACTIVATION_BYTES}", where="tensors")
    source = graph.tensors.get(graph.input)
    if source is None or source.data is not None:
        raise ModelError(f"'{graph.input}' is not an activation of the graph", where="input")


def _check_op(graph: Graph, op: Op, known: set[str]) -> OpReport:
    attributes = op.attributes
    if not is_name(op.name) or sum(other.name == op.name for other in graph.ops) > 1:
        raise ModelError(f"{NAME_RULE}, or not unique")
    if OPS.get(attributes.kind) is not type(attributes):
        raise ModelError(f"kind '{attributes.kind}' is not registered")
    inputs, output = _check_references(graph, op, known)
    shape = attributes.output_shape(inputs)
    if shape != output.shape:
        raise ModelError(f"output '{output.name}' has shape {output.shape}, not {shape}")
    attributes.check_params(inputs, output)
    for field, requant in attributes.requants():
        if requant.rounding != graph.rounding:
            raise ModelError(f"{field}.rounding is {requant.rounding}, not the graph's {graph.rounding}")
    bound = attributes.acc_bound(inputs, output)
    if bound > INT32_MAX:
        raise ModelError(f"an int32 sum can reach {bound}, more than 2^31 - 1")
    macs = attributes.macs(inputs, output)
    if macs // output.shape[-1] > MAX_MACS_PER_CHANNEL:
        raise ModelError(f"more than {MAX_MACS_PER_CHANNEL} multiply-accumulates an output channel")
    weight_bytes = sum(tensor.data.nbytes for tensor in inputs if tensor.data is not None)
    return OpReport(op.name, macs, weight_bytes, bound)


def _check_references(graph: Graph, op: Op, known: set[str]) -> tuple[list[Tensor], Tensor]:
    """Inputs exist before they are read, constants are where they belong, and the output is new."""
    constants = op.attributes.constants
    n_activations = op.attributes.n_activations
    n_found = len(op.inputs) - len(constants)
    if n_found < 1 or (n_activations is not None and n_found != n_activations):
        expected = "at least 1" if n_activations is None else str(n_activations + len(constants))
        raise ModelError(f"{len(op.inputs)} inputs, not {expected}")
    for index, name in enumerate(op.inputs):
        if name not in known:
            raise ModelError(f"input '{name}' is not made by an op before this one")
        is_constant = graph.tensors[name].data is not None
        if is_constant != (index >= n_found):
            raise ModelError(f"input '{name}' {'is' if is_constant else 'is not'} a constant")
    output = graph.tensors.get(op.output)
    if output is None:
        raise ModelError(f"output '{op.output}' is no tensor of the graph")
    if op.output in known:
        raise ModelError(f"output '{op.output}' is made twice, or is an input")
    return graph.inputs_of(op), output
