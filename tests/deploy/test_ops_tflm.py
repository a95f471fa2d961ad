# SPDX-License-Identifier: Apache-2.0
"""Every op against TensorFlow Lite Micro, bit for bit: golden vectors that hit ties, and random ops run live."""

from __future__ import annotations

import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.graph import Graph, GraphBuilder
from deploy.ops.registry import OPS
from deploy.reference import run_op
from kws.arithmetic.quant import QuantParams

GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("make_op_vectors", GOLDEN / "make_op_vectors.py")
assert _spec is not None
assert _spec.loader is not None
vectors: Any = importlib.util.module_from_spec(_spec)
__import__("sys").modules["make_op_vectors"] = vectors
_spec.loader.exec_module(vectors)

_FILE = np.load(GOLDEN / "ops.npz")
_CASES = {values["name"]: values for values in json.loads(str(_FILE["cases"]))}


def _params(pair: list[float]) -> QuantParams:
    return QuantParams(float(np.float32(pair[0])), int(pair[1]))


def _padding(case: Any, kernel: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """TFLite's SAME as explicit paddings: the smaller half before."""
    if case.options["padding"] == "VALID":
        return (0, 0), (0, 0)
    pairs = []
    for axis in (0, 1):
        size, out, stride = case.shapes[0][axis + 1], case.output_shape[axis + 1], case.options["stride"][axis]
        total = max((out - 1) * stride + kernel[axis] - size, 0)
        pairs.append((total // 2, total - total // 2))
    return pairs[0], pairs[1]


def _clamp(case: Any) -> dict[str, int]:
    """The clamp that TFLite derives from a fused ReLU6: round(r / S) + Z in float32, half away."""
    if case.options.get("activation") != "relu6":
        return {}
    scale, zero_point = np.float32(case.output[0]), int(case.output[1])
    six = int(np.floor(np.float32(6) / scale + np.float32(0.5))) + zero_point
    return {"activation_min": max(-128, zero_point), "activation_max": min(127, six)}


def _affine(builder: GraphBuilder, x: str, case: Any) -> None:
    scale = case.weight_scale if len(case.weight_scale) > 1 else case.weight_scale[0]
    given: dict[str, Any] = {"output": _params(case.output), **_clamp(case)}
    if case.kind != "fully_connected":
        given |= {"stride": tuple(case.options["stride"]), "padding": _padding(case, case.weight.shape[1:3])}
    getattr(builder, case.kind)(x, "op", case.weight, scale, case.weight_zero_point, case.bias, **given)


def _to_graph(case: Any) -> Graph:
    """The same op by our builder; a second input is brought in as a reshape, since a graph has one input."""
    builder = GraphBuilder("tflm")
    names = []
    for index, (shape, pair) in enumerate(zip(case.shapes, case.params, strict=True)):
        name = f"x{index}"
        names.append(builder.input(tuple(shape[1:]), _params(pair), name))
    x, options = names[0], case.options
    if case.kind in ("conv2d", "depthwise_conv2d", "fully_connected"):
        _affine(builder, x, case)
    elif case.kind in ("average_pool", "max_pool"):
        kernel, stride = tuple(options["kernel"]), tuple(options["stride"])
        getattr(builder, case.kind)(x, "op", kernel, stride=stride, padding=_padding(case, kernel), **_clamp(case))
    elif case.kind == "mean":
        builder.mean(x, "op", output=_params(case.output), keep_dims=options["keep_dims"])
    elif case.kind in ("add", "mul"):
        getattr(builder, case.kind)(*names, "op", output=_params(case.output), **_clamp(case))
    elif case.kind == "concatenation":
        builder.concatenation(names, "op", axis=options["axis"] - 1, output=_params(case.output))
    elif case.kind == "slice":
        builder.slice(x, "op", begin=tuple(options["begin"][1:]), size=tuple(options["size"][1:]))
    elif case.kind == "pad":
        builder.pad(x, "op", paddings=[tuple(pair) for pair in options["paddings"][1:]])
    elif case.kind == "reshape":
        builder.reshape(x, "op", shape=tuple(case.output_shape[1:]))
    elif case.kind == "logistic":
        builder.logistic(x, "op")
    else:
        builder.softmax(x, "op", beta=options["beta"])
    return Graph(builder._tensors, tuple(builder._ops), names[0], "op", "tflm")


def _run(case: Any, inputs: list[Any]) -> Any:
    graph = _to_graph(case)
    graph.tensors["op"].check()
    return run_op(graph, graph.ops[0], inputs)


def _golden(name: str) -> tuple[Any, list[Any], Any]:
    constants = {key: _FILE[f"{name}/{key}"] for key in ("weight", "bias") if f"{name}/{key}" in _FILE}
    case = vectors.Case(**_CASES[name], **constants)
    inputs = [_FILE[f"{name}/x{index}"] for index in range(len(case.shapes))]
    return case, inputs, _FILE[f"{name}/y"]


@pytest.mark.parametrize("name", _CASES)
def test_equals_the_golden_vectors(name: str) -> None:
    case, inputs, expected = _golden(name)
    np.testing.assert_array_equal(_run(case, inputs), expected)


def test_every_op_has_golden_vectors() -> None:
    assert {case["kind"] for case in _CASES.values()} == set(OPS)


def _ties(name: str) -> tuple[int, int]:
    """How many exact ties, positive and negative, the real results of a golden case are (before the zero point)."""
    case, inputs, _ = _golden(name)
    centred = [x.astype(int) - int(z) for x, (_, z) in zip(inputs, case.params, strict=True)]
    factors = [Fraction(*s.as_integer_ratio()) / Fraction(*case.output[0].as_integer_ratio()) for s, _ in case.params]
    if case.kind == "add":
        reals = [factors[0] * int(a) + factors[1] * int(b) for a, b in zip(*(c.ravel() for c in centred), strict=True)]
    elif case.kind == "mul":
        factor = factors[0] * Fraction(*case.params[1][0].as_integer_ratio())
        reals = [factor * int(product) for product in (centred[0] * centred[1]).ravel()]
    elif case.kind == "mean":
        count = centred[0].shape[1] * centred[0].shape[2]
        reals = [factors[0] * int(v) / count for v in centred[0].sum((0, 1, 2))]
    else:  # a pool in windows that tile the input: the raw sum
        height, width = case.options["kernel"]
        shape = (case.output_shape[1], height, case.output_shape[2], width, -1)
        reals = [Fraction(int(v), height * width) for v in inputs[0].astype(int).reshape(shape).sum((1, 3)).ravel()]
    ties = [real for real in reals if real.denominator == 2]
    return sum(real > 0 for real in ties), sum(real < 0 for real in ties)


@pytest.mark.parametrize(
    "name", ["add_pow2", "add_equal_scales", "mul_pow2", "mul_channels", "average_pool_ties", "mean_ties", "mean_pow2"]
)
def test_the_golden_vectors_hit_ties(name: str) -> None:
    positive, negative = _ties(name)
    assert positive >= 10
    assert negative >= 10


@pytest.mark.parametrize(
    "name", ["conv_pow2", "depthwise_pow2", "fully_connected_pow2", "add_pow2", "mul_pow2", "mean_pow2"]
)
def test_another_rounding_rule_misses_the_golden_vectors(name: str) -> None:
    case, inputs, expected = _golden(name)
    graph = _to_graph(case).with_rounding("single")
    assert not np.array_equal(run_op(graph, graph.ops[0], inputs), expected)


scales = st.sampled_from([2.0**-k for k in range(6)]) | st.floats(0.0625, 2.0, width=32).map(
    lambda s: float(np.float32(s))
)
zero_points = st.integers(-128, 127)


@st.composite
def window_cases(draw: st.DrawFn) -> Any:
    """A convolution, depthwise convolution or pool with any small shape, stride and SAME or VALID padding."""
    kind = draw(st.sampled_from(["conv2d", "depthwise_conv2d", "average_pool", "max_pool"]))
    height, width, channels = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    kernel = draw(st.integers(1, height)), draw(st.integers(1, width))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.sampled_from(["SAME", "VALID"]))
    sizes = [
        -(-size // s) if padding == "SAME" else (size - k) // s + 1
        for size, k, s in zip((height, width), kernel, stride, strict=True)
    ]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    params = [draw(scales), draw(zero_points)]
    options = {"stride": list(stride), "padding": padding, "kernel": list(kernel)}
    shape = [1, height, width, channels]
    if kind in ("average_pool", "max_pool"):
        return vectors.Case("live", kind, [shape], [params], [1, *sizes, channels], params, options)
    outputs = channels * draw(st.integers(1, 3)) if kind == "depthwise_conv2d" else draw(st.integers(1, 4))
    weight_shape = (1, *kernel, outputs) if kind == "depthwise_conv2d" else (outputs, *kernel, channels)
    weight = rng.integers(-127, 128, weight_shape).astype(np.int8)
    weight_scale = [float(s) for s in rng.choice([0.25, 0.125, 0.1], outputs).astype(np.float32)]
    bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
    output = [draw(scales) * 16, draw(zero_points)]
    del options["kernel"]
    return vectors.Case(
        "live", kind, [shape], [params], [1, *sizes, outputs], output, options, weight, weight_scale, 0, bias
    )


@settings(max_examples=150, deadline=None)
@given(window_cases(), st.integers(0, 2**32))
def test_windows_equal_tflm_live(case: Any, seed: int) -> None:
    inputs = [np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8) for shape in case.shapes]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 5), scales, zero_points, zero_points, st.integers(0, 2**32)
)
def test_fully_connected_equals_tflm_live(
    n: int, k: int, o: int, scale: float, z: int, weight_z: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = rng.integers(-128, 128, (o, k)).astype(np.int8), rng.integers(-3000, 3000, o).astype(np.int32)
    output = [float(np.float32(scale * 5)), -z - 1]
    case = vectors.Case(
        "live", "fully_connected", [[n, k]], [[scale, z]], [n, o], output, {}, weight, [0.125], weight_z, bias
    )
    inputs = [rng.integers(-128, 128, (n, k)).astype(np.int8)]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), scales, zero_points, scales, zero_points, st.integers(0, 2**32))
def test_mean_equals_tflm_live(h: int, w: int, s: float, z: int, out_s: float, out_z: int, seed: int) -> None:
    options = {"axes": [1, 2], "keep_dims": False}
    case = vectors.Case("live", "mean", [[1, h, w, 20]], [[s, z]], [1, 20], [out_s, out_z], options)
    inputs = [np.random.default_rng(seed).integers(-128, 128, case.shapes[0]).astype(np.int8)]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 20), st.floats(2.0**-20, 40.0, width=32), st.sampled_from([1.0, 0.5]), st.integers(0, 2**32))
def test_softmax_equals_tflm_live(n: int, scale: float, beta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = vectors.Case("live", "softmax", [[16, n]], [[scale, 3]], [16, n], [1 / 256, -128], {"beta": beta})
    low = rng.integers(-128, 127)
    inputs = [rng.integers(low, 128, (16, n)).astype(np.int8)]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))


@settings(max_examples=60, deadline=None)
@given(scales, zero_points, scales, zero_points, scales, zero_points, st.integers(0, 2**32))
def test_add_equals_tflm_live(s1: float, z1: int, s2: float, z2: int, s: float, z: int, seed: int) -> None:
    case = vectors.Case("live", "add", [[1, 5, 5, 4]] * 2, [[s1, z1], [s2, z2]], [1, 5, 5, 4], [s, z])
    inputs = [np.random.default_rng(seed + i).integers(-128, 128, (1, 5, 5, 4)).astype(np.int8) for i in (0, 1)]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.sampled_from(["equal", "a channel", "a channel, first"]), scales, zero_points, scales,
    zero_points, scales, zero_points, st.integers(0, 2**32),
)  # fmt: skip
def test_mul_equals_tflm_live(
    h: int, form: str, s1: float, z1: int, s2: float, z2: int, s: float, z: int, seed: int
) -> None:
    whole, factors = [1, h, 5, 4], [1, 1, 1, 4]
    shapes = {"equal": [whole, whole], "a channel": [whole, factors], "a channel, first": [factors, whole]}[form]
    case = vectors.Case("live", "mul", shapes, [[s1, z1], [s2, z2]], whole, [s, z])
    inputs = [
        np.random.default_rng(seed + i).integers(-128, 128, shape).astype(np.int8) for i, shape in enumerate(shapes)
    ]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-28, 34).map(lambda k: 2.0**k) | st.floats(2.0**-28, 2.0**34, width=32)
    | st.floats(2.0**-10, 32.0, width=32), zero_points,
)  # fmt: skip
def test_logistic_equals_tflm_live(scale: float, z: int) -> None:
    case = vectors.Case("live", "logistic", [[1, 256]], [[scale, z]], [1, 256], [1 / 256, -128])
    inputs = [np.arange(-128, 128, dtype=np.int8)[None]]
    np.testing.assert_array_equal(_run(case, inputs), vectors.run_tflm(case, inputs))
