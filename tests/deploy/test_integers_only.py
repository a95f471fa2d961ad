# SPDX-License-Identifier: Apache-2.0
"""Between the int8 input and the int8 output no float exists: proven on arrays that refuse floats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from deploy.graph import Graph, Op
from deploy.ops.registry import OPS
from deploy.reference import run, run_all
from deploy.tensor import Tensor
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.requantize import Requant
from tests.integer_only import FloatUsedError, IntegerOnly


def _guard_requant(value: Any) -> Any:
    if isinstance(value, Requant):
        return replace(value, multiplier=value.multiplier.view(IntegerOnly), shift=value.shift.view(IntegerOnly))
    if isinstance(value, tuple):
        return tuple(_guard_requant(item) for item in value)
    return value


def guarded(graph: Graph) -> Graph:
    """The graph without scales, every constant and every multiplier an array that refuses floats."""

    def guard_tensor(tensor: Tensor) -> Tensor:
        return tensor if tensor.data is None else replace(tensor, data=tensor.data.view(IntegerOnly))

    def guard_op(op: Op) -> Op:
        changed = {field.name: _guard_requant(getattr(op.attributes, field.name)) for field in fields(op.attributes)}
        return replace(op, attributes=replace(op.attributes, **changed))

    graph = graph.without_scales()
    tensors = {name: guard_tensor(tensor) for name, tensor in graph.tensors.items()}
    return replace(graph, tensors=tensors, ops=tuple(guard_op(op) for op in graph.ops))


def _inputs(graph: Graph) -> Any:
    return np.random.default_rng(1).integers(-128, 128, (3, *graph.input_shape)).astype(np.int8)


@pytest.mark.parametrize("rounding", ROUNDING_RULES)
def test_no_float_between_input_and_output(every_op: Callable[[str], Graph], rounding: str) -> None:
    graph = every_op(rounding)
    assert {op.kind for op in graph.ops} == set(OPS)
    x = _inputs(graph)
    outputs = run_all(guarded(graph), x.view(IntegerOnly))
    for name, expected in run_all(graph, x).items():
        assert type(outputs[name]) is IntegerOnly, f"'{name}' was computed outside the guarded arrays"
        np.testing.assert_array_equal(outputs[name], expected)


def test_scales_are_not_needed_to_run(every_op: Callable[[str], Graph]) -> None:
    graph = every_op("single")
    bare = graph.without_scales()
    assert all(tensor.scale is None for tensor in bare.tensors.values())
    bare.check()
    np.testing.assert_array_equal(run(bare, _inputs(graph)), run(graph, _inputs(graph)))


def _float_multiply(x: Any, multiplier: Any, shift: Any, rounding: str) -> Any:
    return np.floor(x * (multiplier * 2.0 ** (shift - 31.0)) + 0.5).astype(np.int64)


def _float_divide(acc: Any, count: Any) -> Any:
    return np.rint(acc / count).astype(np.int32)


def _float_high_multiply(x: Any, multiplier: Any) -> Any:
    return np.floor(x.astype(np.float64) * multiplier / 2**31 + 0.5).astype(np.int64)


def _float_pad(x: Any, padding: Any, value: int) -> Any:
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=value) * 1.0


def _float_tap(x: Any, row: int, column: int, out: Any, stride: Any) -> Any:
    return x.mean(axis=(1, 2), keepdims=True).astype(np.int32)


@pytest.mark.parametrize(
    ("place", "planted"),
    [
        ("kws.arithmetic.requantize.multiply_by_quantized_multiplier", _float_multiply),
        ("deploy.ops.mean.multiply_by_quantized_multiplier", _float_multiply),
        ("deploy.ops.average_pool.divide_half_away", _float_divide),
        ("deploy.ops.logistic.doubling_high_multiply", _float_high_multiply),
        ("deploy.ops.softmax.doubling_high_multiply", _float_high_multiply),
        ("deploy.ops.conv2d.pad_hw", _float_pad),
        ("deploy.ops.depthwise_conv2d.tap", _float_tap),
        ("deploy.ops.max_pool.tap", _float_tap),
    ],
)
def test_a_planted_float_op_is_found(
    every_op: Callable[[str], Graph], monkeypatch: pytest.MonkeyPatch, place: str, planted: Any
) -> None:
    graph = every_op("single")
    monkeypatch.setattr(place, planted)
    with pytest.raises(FloatUsedError):
        run_all(guarded(graph), _inputs(graph).view(IntegerOnly))
