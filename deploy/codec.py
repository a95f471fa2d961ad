# SPDX-License-Identifier: Apache-2.0
"""A graph as JSON values and arrays, and back: what a model file holds. Reading trusts nothing.

Arrays are named after what they belong to: ``conv1/weight`` (values), ``conv1/weight:scale`` (one float32 an output
channel), ``conv1:requant.multiplier`` and ``conv1:requant.shift`` (int32). Everything else is JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from types import EllipsisType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from deploy.graph import Graph, Op
from deploy.ops.base import OpAttributes
from deploy.ops.registry import OPS
from deploy.tensor import DTYPE_BITS, MAX_RANK, Tensor
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.requantize import Requant
from kws.errors import ModelError, QuantError

Arrays = dict[str, NDArray[Any]]
MAX_LIST = 4096
_REQUANT_FIELDS = ("zero_point", "activation_min", "activation_max")


def graph_to_dict(graph: Graph) -> tuple[dict[str, Any], Arrays]:
    """The JSON values and the named arrays of a graph."""
    arrays: Arrays = {}
    tensors = []
    for tensor in graph.tensors.values():
        per_channel = isinstance(tensor.scale, tuple)
        if tensor.data is not None:
            arrays[tensor.name] = tensor.data
        if per_channel:
            arrays[f"{tensor.name}:scale"] = np.array(tensor.scale, np.float32)
        tensors.append(
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "scale": "per_channel" if per_channel else tensor.scale,
                "zero_point": tensor.zero_point,
                "constant": tensor.data is not None,
            }
        )
    ops = [
        {
            "kind": op.kind,
            "name": op.name,
            "inputs": list(op.inputs),
            "output": op.output,
            "attributes": {
                field.name: _encode(getattr(op.attributes, field.name), f"{op.name}:{field.name}", arrays)
                for field in fields(op.attributes)
            },
        }
        for op in graph.ops
    ]
    values = {"rounding": graph.rounding, "input": graph.input, "output": graph.output, "tensors": tensors, "ops": ops}
    return values, arrays


def _encode(value: Any, path: str, arrays: Arrays) -> Any:
    if isinstance(value, Requant):
        arrays[f"{path}.multiplier"] = value.multiplier
        arrays[f"{path}.shift"] = value.shift
        return {name: getattr(value, name) for name in _REQUANT_FIELDS}
    if isinstance(value, tuple):
        return [_encode(item, f"{path}[{index}]", arrays) for index, item in enumerate(value)]
    return value


def graph_from_dict(values: object, arrays: Mapping[str, NDArray[Any]]) -> Graph:
    """The checked graph that `graph_to_dict` wrote; ModelError names the field of anything else."""
    graph = _Reader(arrays).graph(values)
    graph.check()
    return graph


class _Reader:
    """Reads JSON values whose every type, size and name is in doubt."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self._taken: set[str] = set()
        self._rounding = ""

    def graph(self, values: object) -> Graph:
        names = ("rounding", "input", "output", "tensors", "ops")
        rounding, source, output, tensors, ops = fields_of(values, names, "graph")
        self._rounding = string(rounding, "graph.rounding")
        if self._rounding not in ROUNDING_RULES:
            raise ModelError(
                f"{self._rounding[:40]!r} is not one of {', '.join(ROUNDING_RULES)}", where="graph.rounding"
            )
        read_tensors = [self._tensor(item, where) for item, where in items_of(tensors, "graph.tensors")]
        by_name = {tensor.name: tensor for tensor in read_tensors}
        if len(by_name) != len(read_tensors):
            raise ModelError("two tensors have one name", where="graph.tensors")
        read_ops = tuple(self._op(item, where) for item, where in items_of(ops, "graph.ops"))
        for name in self._arrays:
            if name not in self._taken:
                raise ModelError(f"array {name[:140]!r} belongs to nothing", where="graph")
        source, output = string(source, "graph.input"), string(output, "graph.output")
        return Graph(by_name, read_ops, source, output, self._rounding)

    def _tensor(self, values: object, where: str) -> Tensor:
        names = ("name", "shape", "dtype", "scale", "zero_point", "constant")
        name, shape, dtype, scale, zero_point, constant = fields_of(values, names, where)
        name, dtype = string(name, f"{where}.name"), string(dtype, f"{where}.dtype")
        if dtype not in DTYPE_BITS:
            raise ModelError(f"{dtype[:40]!r} is not one of {', '.join(DTYPE_BITS)}", where=f"{where}.dtype")
        sizes = tuple(integer(item, place) for item, place in items_of(shape, f"{where}.shape", MAX_RANK))
        data = None
        if _boolean(constant, f"{where}.constant"):
            data = self._array(name, np.dtype(dtype), sizes, where)
        read_scale: float | tuple[float, ...] | None = None
        if scale == "per_channel":
            channel_scales = self._array(f"{name}:scale", np.dtype(np.float32), None, where)
            read_scale = tuple(float(item) for item in channel_scales)
        elif scale is not None:
            read_scale = _number(scale, f"{where}.scale")
        return Tensor(name, sizes, dtype, read_scale, integer(zero_point, f"{where}.zero_point"), data)

    def _op(self, values: object, where: str) -> Op:
        names = ("kind", "name", "inputs", "output", "attributes")
        kind, name, inputs, output, attributes = fields_of(values, names, where)
        kind, name = string(kind, f"{where}.kind"), string(name, f"{where}.name")
        if kind not in OPS:
            raise ModelError(f"{kind[:40]!r} is no op this version knows", where=f"{where}.kind")
        read_inputs = tuple(string(item, place) for item, place in items_of(inputs, f"{where}.inputs"))
        read_attributes = self._attributes(OPS[kind], attributes, name, f"{where}.attributes")
        return Op(name, read_inputs, string(output, f"{where}.output"), read_attributes)

    def _attributes(self, kind: type[OpAttributes], values: object, name: str, where: str) -> OpAttributes:
        hints = get_type_hints(kind)
        names = tuple(field.name for field in fields(kind))
        found = fields_of(values, names, where)
        return kind(*(
            self._decode(hints[field], value, f"{name}:{field}", f"{where}.{field}")
            for field, value in zip(names, found, strict=True)
        ))  # fmt: skip

    def _decode(self, hint: Any, value: object, path: str, where: str) -> Any:
        """`value` as the type that the attribute's annotation says."""
        if hint is bool:
            return _boolean(value, where)
        if hint is int:
            return integer(value, where)
        if hint is Requant:
            return self._requant(value, path, where)
        assert get_origin(hint) is tuple
        args = get_args(hint)
        items = list(items_of(value, where))
        if isinstance(args[-1], EllipsisType):
            args = (args[0],) * len(items)
        if len(items) != len(args):
            raise ModelError(f"has {len(items)} entries, not {len(args)}", where=where)
        return tuple(
            self._decode(arg, item, f"{path}[{index}]", place)
            for index, (arg, (item, place)) in enumerate(zip(args, items, strict=True))
        )

    def _requant(self, values: object, path: str, where: str) -> Requant:
        zero_point, low, high = (
            integer(value, f"{where}.{name}")
            for name, value in zip(_REQUANT_FIELDS, fields_of(values, _REQUANT_FIELDS, where), strict=True)
        )
        multiplier = self._array(f"{path}.multiplier", np.dtype(np.int32), None, where)
        shift = self._array(f"{path}.shift", np.dtype(np.int32), multiplier.shape, where)
        try:
            return Requant(multiplier, shift, zero_point, low, high, self._rounding)
        except QuantError as error:
            raise ModelError(error.what, where=where, hint=error.hint) from None

    def _array(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None, where: str) -> NDArray[Any]:
        """The array of that name; `shape` None means a vector of any length."""
        array = self._arrays.get(name)
        if array is None:
            raise ModelError(f"array {name[:140]!r} is missing", where=where)
        fits = array.ndim == 1 if shape is None else array.shape == shape
        if array.dtype != dtype or not fits:
            expected = f"{dtype}{'vector' if shape is None else shape}"
            raise ModelError(f"array {name[:140]!r} is {array.dtype}{array.shape}, not {expected}", where=where)
        self._taken.add(name)
        return array


def fields_of(values: object, names: tuple[str, ...], where: str) -> list[Any]:
    """The values of a JSON object that has exactly the fields `names`, in that order; ModelError otherwise."""
    if not isinstance(values, dict):
        raise ModelError(f"is {_kind_of(values)}, not an object", where=where)
    for name in names:
        if name not in values:
            raise ModelError("is missing", where=f"{where}.{name}")
    for name in values:
        if name not in names:
            raise ModelError("is unknown", where=f"{where}.{str(name)[:40]}")
    return [values[name] for name in names]


def items_of(values: object, where: str, maximum: int = MAX_LIST) -> Iterator[tuple[Any, str]]:
    """The entries of a JSON list with the place of each; ModelError when it is none, or longer than `maximum`."""
    if not isinstance(values, list):
        raise ModelError(f"is {_kind_of(values)}, not a list", where=where)
    if len(values) > maximum:
        raise ModelError(f"has {len(values)} entries, more than {maximum}", where=where)
    return ((value, f"{where}[{index}]") for index, value in enumerate(values))


def string(value: object, where: str) -> str:
    """A JSON string; ModelError otherwise."""
    if not isinstance(value, str):
        raise ModelError(f"is {_kind_of(value)}, not a string", where=where)
    return value


def integer(value: object, where: str) -> int:
    """A JSON integer in [-2^31, 2^31); ModelError otherwise."""
    if type(value) is not int or not -(1 << 31) <= value < 1 << 31:
        raise ModelError(f"is {_kind_of(value)}, not an integer of 32 bits", where=where)
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise ModelError(f"is {_kind_of(value)}, not a finite number", where=where)
    try:
        return float(value)
    except OverflowError:
        raise ModelError("is too large", where=where) from None


def _boolean(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise ModelError(f"is {_kind_of(value)}, not true or false", where=where)
    return value


def _kind_of(value: object) -> str:
    """What a JSON value is, in a few words."""
    if value is None or isinstance(value, bool | int | float):
        return str(value)[:40]
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
