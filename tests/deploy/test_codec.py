# SPDX-License-Identifier: Apache-2.0
"""A graph as JSON values and arrays: every op and every rounding rule comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from deploy.codec import graph_from_dict, graph_to_dict
from deploy.graph import Graph
from deploy.reference import run_all
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.requantize import Requant


def _comparable(value: Any) -> Any:
    if isinstance(value, Requant):
        return [np.asarray(getattr(value, field.name)).tolist() for field in fields(value)]
    return [_comparable(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("rounding", ROUNDING_RULES)
def test_a_round_trip_changes_nothing(every_op: Callable[[str], Graph], rounding: str) -> None:
    graph = every_op(rounding)
    values, arrays = graph_to_dict(graph)
    again = graph_from_dict(json.loads(json.dumps(values)), arrays)
    assert graph_to_dict(again)[0] == values
    assert (again.input, again.output, again.rounding) == (graph.input, graph.output, rounding)
    for op, other in zip(graph.ops, again.ops, strict=True):
        assert (op.kind, op.name, op.inputs, op.output) == (other.kind, other.name, other.inputs, other.output)
        for field in fields(op.attributes):
            ours, theirs = getattr(op.attributes, field.name), getattr(other.attributes, field.name)
            assert _comparable(ours) == _comparable(theirs)
    x = np.random.default_rng(0).integers(-128, 128, (3, *graph.input_shape)).astype(np.int8)
    outputs = run_all(again, x)
    for name, expected in run_all(graph, x).items():
        np.testing.assert_array_equal(outputs[name], expected)


def test_a_graph_without_scales_can_be_stored(every_op: Callable[[str], Graph]) -> None:
    graph = every_op("single").without_scales()
    again = graph_from_dict(*graph_to_dict(graph))
    assert all(tensor.scale is None for tensor in again.tensors.values())
