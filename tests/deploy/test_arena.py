# SPDX-License-Identifier: Apache-2.0
"""The arena: planned so that nothing alive is overwritten, and proved by a walk that knows nothing of the planner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kws
from deploy.arena import ALIGNMENT, Arena, check_arena, plan_arena
from deploy.graph import Graph, GraphBuilder
from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError

S = QuantParams(0.125, 3)


@st.composite
def branching_graphs(draw: st.DrawFn) -> Graph:
    """Adds, products, slices, pads, reshapes and concatenations over tensors of many sizes that live long and short."""
    builder = GraphBuilder("single")
    shapes = {"input": (draw(st.integers(1, 40)), 4, 4)}
    builder.input(shapes["input"], S)
    for index in range(draw(st.integers(1, 12))):
        name = f"op{index}"
        kind = draw(st.sampled_from(["add", "mul", "slice", "pad", "reshape", "concatenation"]))
        x = draw(st.sampled_from(sorted(shapes)))
        shape = shapes[x]
        if kind == "add":
            other = draw(st.sampled_from(sorted(n for n in shapes if shapes[n] == shape)))
            builder.add(x, other, name, output=S)
        elif kind == "mul":
            factors = builder.mean(x, f"factors{index}", keep_dims=True)
            builder.mul(*draw(st.permutations([x, factors])), name, output=S)
        elif kind == "slice":
            size = draw(st.integers(1, shape[0]))
            builder.slice(x, name, begin=(shape[0] - size, 0, 0), size=(size, 4, 4))
            shape = (size, 4, 4)
        elif kind == "pad":
            builder.pad(x, name, paddings=((1, 2), (0, 0), (0, 0)))
            shape = (shape[0] + 3, 4, 4)
        elif kind == "concatenation":
            other = draw(st.sampled_from(sorted(shapes)))
            builder.concatenation((x, other), name, axis=0)
            shape = (shape[0] + shapes[other][0], 4, 4)
        else:
            builder.reshape(x, name, shape=shape)
        shapes[name] = shape
    return builder.finish(name)


@settings(max_examples=200, deadline=None)
@given(branching_graphs())
def test_every_plan_is_proved(graph: Graph) -> None:
    arena = plan_arena(graph)
    report = check_arena(graph, arena)
    assert report.size == arena.size
    assert all(offset % ALIGNMENT == 0 for offset in arena.offsets.values())


def test_shipped_and_trained_networks_peak_at_the_largest_sum(every_op: Callable[[str], Graph]) -> None:
    """The bound of 1.05 times it: prints both figures."""
    for name, graph in (("commands", kws.load("commands").graph), ("every op", every_op("single"))):
        report = check_arena(graph, plan_arena(graph))
        print(f"{name}: arena {report.size} bytes, largest sum {report.largest_sum}")
        assert report.size <= 1.05 * report.largest_sum


def _chain() -> Graph:
    builder = GraphBuilder("single")
    x = builder.input((2, 4, 4), S)
    y = builder.pad(x, "pad", paddings=((1, 0), (0, 0), (0, 0)))
    z = builder.add(y, y, "add", output=S)
    return builder.finish(builder.slice(z, "slice", begin=(0, 0, 0), size=(1, 4, 4)))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ({"pad": 16}, "op 'pad' writes over its input 'input'"),
        ({"add": 64 + 16}, "op 'add' writes into the middle of its input 'pad'"),
        ({"slice": 8}, "'slice' of 16 bytes at 8 does not lie in"),
        ({"pad": 4096}, "'pad' of 48 bytes at 4096 does not lie in"),
        ({"slice": -16}, "'slice' of 16 bytes at -16 does not lie in"),
    ],
)
def test_a_wrong_plan_is_refused(offsets: dict[str, int], message: str) -> None:
    arena = Arena({"input": 0, "pad": 64, "add": 128, "slice": 192} | offsets, 256)
    with pytest.raises(ModelError, match=message):
        check_arena(_chain(), arena)


def test_what_is_read_later_is_not_overwritten() -> None:
    builder = GraphBuilder("single")
    x = builder.input((2, 4, 4), S)
    y = builder.slice(x, "first", begin=(0, 0, 0), size=(1, 4, 4))
    builder.slice(x, "second", begin=(1, 0, 0), size=(1, 4, 4))
    graph = builder.finish(builder.add(y, "second", "add", output=S))
    good = plan_arena(graph)
    check_arena(graph, good)
    bad = replace(good, offsets={**good.offsets, "first": good.offsets["input"]})
    with pytest.raises(ModelError, match="'input' is overwritten before op 'second' reads it"):
        check_arena(graph, bad)


def test_a_product_lies_on_the_larger_of_its_inputs() -> None:
    builder = GraphBuilder("single")
    x = builder.input((2, 4, 4), S)
    y = builder.mean(x, "factors", keep_dims=True)
    graph = builder.finish(builder.mul(y, x, "mul", output=S))
    good = plan_arena(graph)
    check_arena(graph, good)
    assert good.offsets["mul"] == good.offsets["input"]
    bad = replace(good, offsets={"input": 32, "factors": 0, "mul": 0}, size=64)
    with pytest.raises(ModelError, match="op 'mul' writes over its input 'factors'"):
        check_arena(graph, bad)


def test_a_chain_of_ops_in_place_needs_one_block() -> None:
    builder = GraphBuilder("single")
    x = builder.input((8, 1, 4), S)
    for index in range(3):
        x = builder.reshape(x, f"reshape{index}", shape=(32,) if index % 2 else (4, 2, 4))
    graph = builder.finish(builder.softmax(x, "softmax"))
    assert plan_arena(graph).size == 32
    assert np.unique(list(plan_arena(graph).offsets.values())).tolist() == [0]
