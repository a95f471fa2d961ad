# SPDX-License-Identifier: Apache-2.0
"""Every op against loops over Python integers and exact rationals, under every rounding rule."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from math import exp, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.graph import Graph, GraphBuilder
from deploy.reference import run, run_all, run_op
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import Requant

HALF = Fraction(1, 2)


def attributes_of(graph: Graph, index: int) -> Any:
    """Those of one op; each kind of op has its own."""
    return graph.ops[index].attributes


def half_up(value: Fraction) -> int:
    return floor(value + HALF)


def half_away(value: Fraction) -> int:
    return floor(abs(value) + HALF) * (1 if value > 0 else -1)


def scaled(acc: int, requant: Requant, channel: int) -> int:
    """acc * M rounded by the rule, in rationals."""
    index = channel if len(requant.multiplier) > 1 else 0
    multiplier, shift = int(requant.multiplier[index]), int(requant.shift[index])
    exact = acc * Fraction(multiplier, 1 << 31) * Fraction(2) ** shift
    if requant.rounding in ("single", "half_even", "half_away"):
        return {"single": half_up, "half_even": round, "half_away": half_away}[requant.rounding](exact)
    first = half_up(acc * Fraction(multiplier << max(shift, 0), 1 << 31))
    second = half_away if requant.rounding == "tflm" else half_up
    return second(Fraction(first, 1 << max(-shift, 0)))


def requantized(acc: int, requant: Requant, channel: int = 0) -> int:
    value = scaled(acc, requant, channel) + requant.zero_point
    return min(max(value, requant.activation_min), requant.activation_max)


rules = st.sampled_from(ROUNDING_RULES)
scales = st.sampled_from([2.0**-k for k in range(-2, 8)]) | st.floats(2.0**-7, 4.0, width=32)
params = st.builds(QuantParams, scales, st.integers(-128, 127))
clamps = st.tuples(st.integers(-128, 0), st.integers(0, 127)) | st.just((-128, 127))
seeds = st.integers(0, 2**32)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Any small shape, kernel, stride and asymmetric padding that leaves room for one output."""
    size = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    padding = []
    for axis in (0, 1):
        before, after = draw(st.integers(0, kernel[axis] - 1)), draw(st.integers(0, kernel[axis] - 1))
        missing = max(0, kernel[axis] - size[axis] - before - after)
        grown = min(kernel[axis] - 1, before + missing)
        padding.append((grown, min(kernel[axis] - 1, after + missing - (grown - before))))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {"size": size, "kernel": kernel, "stride": stride, "padding": (padding[0], padding[1])}


def _x(seed: int, n: int, *shape: int) -> Any:
    """Random int8, sometimes nothing but the type's ends, so that outputs saturate."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (n, *shape)).astype(np.int8)
    return np.where(values < 0, -128, 127).astype(np.int8) if seed % 3 == 0 else values


def _seen(row: int, column: int, window: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """(tap row, tap column, input row, input column) of the positions of a window that are not padding."""
    seen = []
    for i, j in product(*map(range, window["kernel"])):
        h = row * window["stride"][0] - window["padding"][0][0] + i
        w = column * window["stride"][1] - window["padding"][1][0] + j
        if 0 <= h < window["size"][0] and 0 <= w < window["size"][1]:
            seen.append((i, j, h, w))
    return seen


def _compare(graph: Graph, x: Any, expected: Callable[..., int]) -> None:
    """`expected`(clip, *position) for every element of the output of a graph of one op."""
    for clip, output in enumerate(run(graph, x)):
        for position in np.ndindex(output.shape):
            assert output[position] == expected(x[clip], *position), f"clip {clip}, position {position}"


@settings(max_examples=200, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 3), params, params, clamps, rules, st.booleans(), seeds)
def test_conv2d(
    window: Any, i: int, o: int, source: Any, target: Any, clamp: Any, rule: str, affine: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (o, *window["kernel"], i)).astype(np.int8)
    weight_z = int(rng.integers(-128, 128)) if affine else 0
    scale = 0.125 if affine else [float(s) for s in rng.choice([0.125, 0.01, 2**-9], o).astype(np.float32)]
    bias = rng.integers(-9000, 9000, o).astype(np.int32)
    builder = GraphBuilder(rule)
    given = {"stride": window["stride"], "padding": window["padding"], "output": target}
    given |= {"activation_min": clamp[0], "activation_max": clamp[1]}
    graph = builder.finish(
        builder.conv2d(builder.input((*window["size"], i), source), "op", weight, scale, weight_z, bias, **given)
    )
    requant = attributes_of(graph, 0).requant

    def expected(x: Any, row: int, column: int, channel: int) -> int:
        acc = int(bias[channel])
        for a, b, h, w in _seen(row, column, window):
            for c in range(i):
                acc += (int(x[h, w, c]) - source.zero_point) * (int(weight[channel, a, b, c]) - weight_z)
        return requantized(acc, requant, channel)

    _compare(graph, _x(seed, 2, *window["size"], i), expected)


@settings(max_examples=200, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 3), params, params, clamps, rules, st.booleans(), seeds)
def test_depthwise_conv2d(
    window: Any, i: int, m: int, source: Any, target: Any, clamp: Any, rule: str, affine: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (1, *window["kernel"], i * m)).astype(np.int8)
    weight_z = int(rng.integers(-128, 128)) if affine else 0
    scale = 0.125 if affine else [float(s) for s in rng.choice([0.125, 0.01, 2**-9], i * m).astype(np.float32)]
    bias = rng.integers(-9000, 9000, i * m).astype(np.int32)
    builder = GraphBuilder(rule)
    given = {"stride": window["stride"], "padding": window["padding"], "output": target}
    given |= {"activation_min": clamp[0], "activation_max": clamp[1]}
    graph = builder.finish(
        builder.depthwise_conv2d(
            builder.input((*window["size"], i), source), "op", weight, scale, weight_z, bias, **given
        )
    )
    requant = attributes_of(graph, 0).requant

    def expected(x: Any, row: int, column: int, channel: int) -> int:
        acc = int(bias[channel])
        for a, b, h, w in _seen(row, column, window):
            acc += (int(x[h, w, channel // m]) - source.zero_point) * (int(weight[0, a, b, channel]) - weight_z)
        return requantized(acc, requant, channel)

    _compare(graph, _x(seed, 2, *window["size"], i), expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.integers(1, 4), params, params, clamps, rules, st.integers(-128, 127), seeds)
def test_fully_connected(
    k: int, o: int, source: QuantParams, target: QuantParams, clamp: Any, rule: str, weight_z: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = rng.integers(-128, 128, (o, k)).astype(np.int8), rng.integers(-9000, 9000, o).astype(np.int32)
    builder = GraphBuilder(rule)
    given = {"output": target, "activation_min": clamp[0], "activation_max": clamp[1]}
    x = builder.input((k,), source)
    graph = builder.finish(builder.fully_connected(x, "op", weight, 0.03125, weight_z, bias, **given))
    requant = attributes_of(graph, 0).requant

    def expected(x: Any, channel: int) -> int:
        terms = zip(x, weight[channel], strict=True)
        acc = sum((int(a) - source.zero_point) * (int(b) - weight_z) for a, b in terms) + int(bias[channel])
        return requantized(acc, requant)

    _compare(graph, _x(seed, 2, k), expected)


@settings(max_examples=150, deadline=None)
@given(windows(), st.integers(1, 3), params, clamps, rules, seeds)
def test_pools(window: dict[str, Any], c: int, source: QuantParams, clamp: Any, rule: str, seed: int) -> None:
    given = {"stride": window["stride"], "padding": window["padding"]}
    given |= {"activation_min": clamp[0], "activation_max": clamp[1]}

    def values(x: Any, row: int, column: int, channel: int) -> list[int]:
        return [int(x[h, w, channel]) for _, _, h, w in _seen(row, column, window)]

    def average(x: Any, *position: int) -> int:
        seen = values(x, *position)
        return min(max(half_away(Fraction(sum(seen), len(seen))), clamp[0]), clamp[1])

    def largest(x: Any, *position: int) -> int:
        return min(max(max(values(x, *position)), clamp[0]), clamp[1])

    for kind, expected in (("average_pool", average), ("max_pool", largest)):
        builder = GraphBuilder(rule)
        x = builder.input((*window["size"], c), source)
        graph = builder.finish(getattr(builder, kind)(x, "op", window["kernel"], **given))
        _compare(graph, _x(seed, 2, *window["size"], c), expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), params, params, st.booleans(), rules, seeds)
def test_mean(
    h: int, w: int, c: int, source: QuantParams, target: QuantParams, keep: bool, rule: str, seed: int
) -> None:
    builder = GraphBuilder(rule)
    x = builder.input((h, w, c), source)
    graph = builder.finish(builder.mean(x, "op", output=target, keep_dims=keep))
    requant = attributes_of(graph, 0).requant
    k = (h * w).bit_length() - 1
    divided = Requant.__new__(Requant)  # its multiplier may lie below 2^30
    for name in ("zero_point", "activation_min", "activation_max", "rounding"):
        object.__setattr__(divided, name, getattr(requant, name))
    object.__setattr__(divided, "multiplier", [(int(requant.multiplier[0]) << k) // (h * w)])
    object.__setattr__(divided, "shift", [int(requant.shift[0]) - k])

    def expected(x: Any, *position: int) -> int:
        acc = sum(int(v) - source.zero_point for v in x[:, :, position[-1]].ravel())
        value = requantized(acc, divided)
        real = Fraction(source.scale) * acc / (h * w) / Fraction(target.scale) + target.zero_point
        assert abs(value - min(max(real, -128), 127)) <= Fraction(76, 100)  # two roundings reach 3/4
        return value

    _compare(graph, _x(seed, 2, h, w, c), expected)


@settings(max_examples=100, deadline=None)
@given(params, params, params, clamps, rules, seeds)
def test_add(first: QuantParams, second: QuantParams, target: QuantParams, clamp: Any, rule: str, seed: int) -> None:
    builder = GraphBuilder(rule)
    x = builder.input((40,), first)
    b = builder.concatenation([x], "other", axis=0, output=second)
    graph = builder.finish(
        builder.add(x, b, "op", output=target, activation_min=clamp[0], activation_max=clamp[1])
    )  # fmt: skip
    add: Any = graph.ops[1].attributes
    values = run_all(graph, _x(seed, 3, 40))
    for p, q, y in zip(values["input"].ravel(), values["other"].ravel(), values["op"].ravel(), strict=True):
        left = scaled((int(p) - first.zero_point) << 20, add.requant_a, 0)
        right = scaled((int(q) - second.zero_point) << 20, add.requant_b, 0)
        assert y == requantized(left + right, add.requant)
        real = (first.scale * (int(p) - first.zero_point) + second.scale * (int(q) - second.zero_point)) / target.scale
        assert abs(int(y) - min(max(real + target.zero_point, clamp[0]), clamp[1])) <= 1.01


@settings(max_examples=100, deadline=None)
@given(params, params, params, clamps, rules, st.booleans(), seeds)
def test_mul(
    first: QuantParams, second: QuantParams, target: QuantParams, clamp: Any, rule: str, by_channel: bool, seed: int
) -> None:
    builder = GraphBuilder(rule)
    x = builder.input((2, 3, 4), first)
    if by_channel:
        other = builder.mean(x, "other", output=second, keep_dims=True)
    else:
        other = builder.concatenation([x], "other", axis=0, output=second)
    inputs = (x, other) if seed % 2 else (other, x)
    graph = builder.finish(
        builder.mul(*inputs, "op", output=target, activation_min=clamp[0], activation_max=clamp[1])
    )  # fmt: skip
    requant = attributes_of(graph, 1).requant
    values = run_all(graph, _x(seed, 3, 2, 3, 4))
    for p, q, y in np.broadcast(values["input"], values["other"], values["op"]):
        acc = (int(p) - first.zero_point) * (int(q) - second.zero_point)
        assert y == requantized(acc, requant)
        real = Fraction(first.scale) * Fraction(second.scale) * acc / Fraction(target.scale) + target.zero_point
        assert abs(int(y) - min(max(real, clamp[0]), clamp[1])) <= Fraction(76, 100)  # two roundings reach 3/4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 2), params, params, rules, seeds)
def test_concatenation(
    lengths: list[int], axis: int, source: QuantParams, target: QuantParams, rule: str, seed: int
) -> None:
    builder = GraphBuilder(rule)
    x = builder.input((3, 3, 3), source)
    parts = [
        builder.slice(x, f"part{i}", begin=(0, 0, 0), size=tuple(n if a == axis else 3 for a in range(3)))
        for i, n in enumerate(lengths)
    ]
    graph = builder.finish(builder.concatenation(parts, "op", axis=axis, output=target))
    requants = attributes_of(graph, -1).requants_in
    values = run_all(graph, _x(seed, 2, 3, 3, 3))
    begin = 0
    for part, requant, length in zip(parts, requants, lengths, strict=True):
        block = np.take(values["op"], range(begin, begin + length), axis=axis + 1)
        for q, y in zip(values[part].ravel(), block.ravel(), strict=True):
            assert y == requantized(int(q) - source.zero_point, requant)
        begin += length


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=3), params, seeds
)
def test_slice_undoes_pad_and_reshape_keeps_order(axes: list[Any], source: QuantParams, seed: int) -> None:
    builder = GraphBuilder()
    shape = tuple(size for _, size, _ in axes)
    x = builder.input(shape, source)
    padded = builder.pad(x, "pad", paddings=[(before, after) for before, _, after in axes])
    builder.slice(padded, "slice", begin=tuple(before for before, _, _ in axes), size=shape)
    flat = int(np.prod(shape))
    graph = builder.finish(builder.reshape("slice", "flat", shape=(flat,)))
    q = _x(seed, 2, *shape)
    values = run_all(graph, q)
    np.testing.assert_array_equal(values["slice"], q)
    np.testing.assert_array_equal(values["flat"], q.reshape(2, flat))
    border = values["pad"].astype(int).sum() - q.astype(int).sum()
    assert border == source.zero_point * (values["pad"].size - q.size)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0.015625, 1.0, width=32), seeds)
def test_softmax_is_near_the_real_one(n: int, scale: float, seed: int) -> None:
    builder = GraphBuilder()
    graph = builder.finish(builder.softmax(builder.input((n,), QuantParams(scale, 5)), "op"))
    q = _x(seed, 4, n)
    for row, probabilities in zip(q, run(graph, q), strict=True):
        exps = [exp(scale * (int(v) - int(row.max()))) for v in row]
        for e, p in zip(exps, probabilities, strict=True):
            assert abs(min(256 * e / sum(exps), 255) - (int(p) + 128)) <= 0.51


@settings(max_examples=60, deadline=None)
@given(st.floats(2.0**-12, 0.25, width=32), st.integers(-128, 127))
def test_logistic_is_near_the_real_one(scale: float, zero_point: int) -> None:
    """Of coarser inputs the last steps before 7.5 are at the output's ends already, as the radius is whole."""
    builder = GraphBuilder()
    graph = builder.finish(builder.logistic(builder.input((1,), QuantParams(scale, zero_point)), "op"))
    q = np.arange(-128, 128, dtype=np.int8)[:, None]
    for value, p in zip(q.ravel().tolist(), run(graph, q).ravel().tolist(), strict=True):
        assert abs(min(256 / (1 + exp(-scale * (value - zero_point))), 255) - (p + 128)) <= 0.51


def test_multipliers_come_from_float32_scales_in_float64() -> None:
    third, tenth = float(np.float32(1 / 3)), float(np.float32(0.1))
    builder = GraphBuilder()
    x = builder.input((1, 1, 1), QuantParams(third, 0))
    ones = np.ones((1, 1, 1, 1), np.int8)
    x = builder.conv2d(x, "conv", ones, tenth, 0, None, output=QuantParams(tenth, 0))
    x = builder.reshape(x, "flat", shape=(1,))
    graph = builder.finish(
        builder.fully_connected(x, "dense", ones[0, 0], third, 0, None, output=QuantParams(third, 0))
    )
    conv, dense = (attributes_of(graph, i).requant for i in (0, 2))
    assert int(conv.multiplier[0]) == half_away(Fraction(third * tenth / tenth) * 2**32)
    assert int(conv.shift[0]) == -1
    in_float32 = (
        float(np.float32(tenth) * np.float32(third)) / third
    )  # as TFLM does for a per-tensor fully connected op
    assert int(dense.multiplier[0]) == half_away(Fraction(in_float32) * 2**34)
    assert int(dense.multiplier[0]) != half_away(Fraction(tenth * third / third) * 2**34)


@pytest.mark.parametrize("n", [0, 1, 7])
def test_any_number_of_inputs_gives_what_one_at_a_time_gives(
    every_op: Callable[[str], Graph], monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    graph = every_op("single")
    x = _x(1, n, *graph.input_shape)
    whole = run(graph, x)
    assert whole.shape == (n, *graph.output_shape)
    for index in range(n):
        np.testing.assert_array_equal(run(graph, x[index : index + 1])[0], whole[index])
    monkeypatch.setattr("deploy.reference._CHUNK_ELEMENTS", 300)
    np.testing.assert_array_equal(run(graph, x), whole)


def test_each_op_alone_equals_the_walk(every_op: Callable[[str], Graph]) -> None:
    graph = every_op("tflm")
    values = run_all(graph, _x(2, 3, *graph.input_shape))
    for op in graph.ops:
        inputs = [values[name] for name in op.inputs if graph.tensors[name].data is None]
        np.testing.assert_array_equal(run_op(graph, op, inputs), values[op.output])
