# SPDX-License-Identifier: Apache-2.0
"""An .onnx file computes the graph's bits in ONNX Runtime where that rounds as the graph does; the rest is counted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.utils import Extractor

import kws
from deploy.export.onnx import RUNTIMES, export, odd_zero_points
from deploy.export.onnx_file import OPSET, stored
from deploy.graph import Graph, GraphBuilder, Op
from deploy.ops.registry import OPS
from deploy.reference import run, run_all, run_op
from deploy.tflite_rules import METADATA
from deploy.verify import beside_tie
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.errors import MissingExtraError, ModelError
from tests.deploy.tflite_graphs import every_op_of_tflite, float32, random_inputs

AFFINE = ("conv2d", "depthwise_conv2d", "fully_connected")
MOVES = ("max_pool", "pad", "reshape", "slice")


def _run(data: bytes, inputs: list[Any], *, int8_allowed: bool = False) -> Any:
    options = onnxruntime.SessionOptions()
    if int8_allowed:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((entry.name for entry in session.get_inputs()), inputs, strict=True)))[0]


def _one_op(kind: str, zero_point: int) -> Graph:
    """A graph of one op, powers of two as scales, whose output has this zero point and meets many ties."""
    builder = GraphBuilder("half_even")
    output = QuantParams(2.0 if kind == "mul" else 4.0, zero_point)
    x = builder.input((4, 4, 8), output if kind == "average_pool" else QuantParams(0.5, 3))
    if kind == "average_pool":
        return builder.finish(builder.average_pool(x, "y", (2, 2)))
    if kind == "mean":
        return builder.finish(builder.mean(x, "y", output=QuantParams(0.25, zero_point), keep_dims=True))
    other = builder.slice(x, "other", begin=(0, 0, 0), size=(4, 4, 8))
    return builder.finish(getattr(builder, kind)(x, other, "y", output=output))


def _exact(kind: str, x: Any, zero_point: int) -> Any:
    """16 times the exact output of `_one_op`, before it is rounded."""
    if kind == "add":
        return 16 * zero_point + 4 * (x.astype(int) - 3)  # 2 (q - 3) / 8
    if kind == "mul":
        return 16 * zero_point + 2 * (x.astype(int) - 3) ** 2
    if kind == "average_pool":
        return 4 * sum(x[:, i::2, j::2].astype(int) for i in (0, 1) for j in (0, 1))
    return 16 * zero_point + 2 * (x.sum(axis=(1, 2), dtype=int, keepdims=True) - 16 * 3)


def _stored(values: Any) -> Any:
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if values.ndim == 4 else values


def _sources(graph: Graph, op: Op) -> list[str]:
    return [name for name in dict.fromkeys(op.inputs) if graph.tensors[name].data is None]


def _op_by_op(graph: Graph, x: Any, *, qdq: bool = False) -> dict[str, tuple[Any, Any]]:
    """Our output of each op and ONNX Runtime's, each from our inputs."""
    ours, model = run_all(graph, x), onnx.load_from_string(export(graph, ["a"], None, qdq=qdq))
    found = {}
    for op in graph.ops:
        sources = _sources(graph, op)
        part = Extractor(model).extract_model(sources, [op.output]).SerializeToString()
        found[op.name] = _stored(ours[op.output]), _run(part, [_stored(ours[name]) for name in sources])
    return found


def _unexplained(graph: Graph, op: Op, x: Any, theirs: Any) -> int:
    """Differing values that a multiplier 2^-22 smaller or larger does not give: they lie beside no tie."""
    ours = run_all(graph, x)
    near = [ours[op.output]]
    ((field, requant),) = op.attributes.requants()
    for sign in (-1, 1):
        moved = np.clip(requant.multiplier * (1 + sign * 2.0**-22), 1 << 30, (1 << 31) - 1).astype(np.int32)
        attributes = replace(op.attributes, **{field: replace(requant, multiplier=moved)})
        near.append(run_op(graph, replace(op, attributes=attributes), [ours[name] for name in _sources(graph, op)]))
    return int(np.logical_and.reduce([theirs != _stored(values) for values in near]).sum())


def test_with_powers_of_two_every_convolution_is_half_even_to_the_bit() -> None:
    graph = every_op_of_tflite("half_even", power_of_two=True)
    assert {op.kind for op in graph.ops} == set(OPS)
    found = _op_by_op(graph, random_inputs(graph, 100))
    differing = {op.kind for op in graph.ops if (found[op.name][0] != found[op.name][1]).any()}
    assert differing == {"average_pool"}  # half to even there, half away here
    single = _op_by_op(graph.with_rounding("single"), random_inputs(graph, 100))
    assert (single["pointwise"][0] != single["pointwise"][1]).any()  # ties were met


@pytest.mark.parametrize("zero_point", [-8, -7])
@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("kind", ["add", "average_pool", "mean", "mul"])
def test_what_differs_with_powers_of_two_is_a_tie(kind: str, qdq: bool, zero_point: int) -> None:
    """By exact arithmetic. Only a mul and the add of a QDQ file with an odd Z, and the average pool, differ."""
    graph = _one_op(kind, zero_point)
    x = random_inputs(graph, 400)
    ours, theirs = run(graph, x), _run(export(graph, ["a"], None, qdq=qdq), [x])
    exact = _exact(kind, x, zero_point)
    ties = exact % 16 == 8
    differs = ours != theirs
    assert ties.sum() > 100
    assert (np.abs(16 * ours.astype(int) - exact) <= 8)[np.abs(exact) < 16 * 127].all()  # `exact` is what is rounded
    odd = zero_point % 2
    expected = {"add": 12_638 * odd * qdq, "average_pool": 1_541, "mean": 0, "mul": 3_166 * odd}
    assert differs.sum() == expected[kind]
    assert ties[differs].all()
    np.testing.assert_array_equal(ours[differs] + theirs[differs].astype(int), exact[differs] // 8)


def test_an_add_with_an_odd_zero_point_is_named() -> None:
    graph = _one_op("add", -7)
    assert odd_zero_points(_one_op("add", -8)) == odd_zero_points(_one_op("add", -8), qdq=True) == ""
    assert odd_zero_points(_one_op("mean", -7)) == odd_zero_points(_one_op("mul", -8)) == ""
    assert odd_zero_points(_one_op("mul", -7)) == "mul 'y': odd output zero point: the ties of a QLinearMul go to odd"
    assert odd_zero_points(graph).startswith("add 'y': odd output zero point: written as DequantizeLinear, Sum, ")
    assert odd_zero_points(graph, qdq=True).endswith("whose ties then go to odd (--to onnx avoids it)")


def test_with_other_scales_convolutions_differ_in_float32_ties_alone() -> None:
    graph = every_op_of_tflite("half_even", power_of_two=False)
    x = random_inputs(graph, 100)
    found = _op_by_op(graph, x)
    for op in graph.ops:
        ours, theirs = found[op.name]
        differing = int((ours != theirs).sum())
        if op.kind in AFFINE:
            assert differing <= 1e-3 * ours.size
            assert _unexplained(graph, op, x, theirs) == 0
        elif op.kind in MOVES:
            assert differing == 0
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_the_largest_sums_are_exact() -> None:
    """Products of uint8 and int8 are added in 16 bits on CPUs without VNNI, and half of this sum would be lost."""
    builder = GraphBuilder("half_even")
    x = builder.input((8, 8, 64), QuantParams(1.0, -128))
    weight = np.full((16, 3, 3, 64), 127, np.int8)
    y = builder.conv2d(x, "conv", weight, 1.0, 0, None, output=QuantParams(2.0**20, -128))
    graph = builder.finish(y)
    values = np.full((1, 8, 8, 64), 127, np.int8)
    expected = run(graph, values)
    assert expected.max() == -128 + round(255 * 127 * 576 / 2**20)
    np.testing.assert_array_equal(_run(export(graph, ["a"], None), [values]), expected)


def test_weights_with_a_zero_point_keep_it(every_op: Callable[[str], Graph]) -> None:
    graph = every_op("half_even")
    assert {graph.inputs_of(op)[1].zero_point for op in graph.ops if op.kind in AFFINE} - {0}
    x = random_inputs(graph, 100)
    found = _op_by_op(graph, x)
    for op in graph.ops:
        ours, theirs = found[op.name]
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        if op.kind in AFFINE:
            assert _unexplained(graph, op, x, theirs) == 0


# Float operators between integers.


def test_qdq_with_powers_of_two_is_half_even_to_the_bit() -> None:
    graph = every_op_of_tflite("half_even", power_of_two=True)
    found = _op_by_op(graph, random_inputs(graph, 100), qdq=True)
    differing = {op.kind for op in graph.ops if (found[op.name][0] != found[op.name][1]).any()}
    assert differing == {"average_pool"}  # half to even there, half away here
    single = _op_by_op(graph.with_rounding("single"), random_inputs(graph, 100), qdq=True)
    assert (single["pointwise"][0] != single["pointwise"][1]).any()  # ties were met


@pytest.mark.parametrize("affine_weights", [False, True])
def test_qdq_with_other_scales_differs_where_float32_sums_meet_ties(
    affine_weights: bool, every_op: Callable[[str], Graph]
) -> None:
    graph = every_op("half_even") if affine_weights else every_op_of_tflite("half_even", power_of_two=False)
    x = random_inputs(graph, 200)
    activations, found = run_all(graph, x), _op_by_op(graph, x, qdq=True)
    met = 0
    for op in graph.ops:
        ours, theirs = found[op.name]
        differs = ours != theirs
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        if op.kind in AFFINE:
            tie = beside_tie(graph, op, activations[op.inputs[0]], float_sums=True)
            assert not (differs & ~_stored(tie)).any()
            assert tie.mean() < 0.02  # few values lie so near a tie
            met += int(differs.sum())
        elif op.kind in MOVES:
            assert not differs.any()
    assert 0 < met < 400  # such ties were met


@pytest.mark.parametrize("power_of_two", [False, True])
def test_qdq_summed_in_integers_is_what_qlinear_is(power_of_two: bool) -> None:
    graph = every_op_of_tflite("half_even", power_of_two=power_of_two)
    x = random_inputs(graph, 100)
    theirs = _run(export(graph, ["a"], None, qdq=True), [x], int8_allowed=True)
    np.testing.assert_array_equal(theirs, _run(export(graph, ["a"], None), [x]))


def test_qdq_has_operators_of_onnx_alone_around_integer_weights() -> None:
    model = kws.load("commands")
    parsed = onnx.load_from_string(export(model.graph, model.labels, model.frontend, qdq=True))
    onnx.checker.check_model(parsed, full_check=True)
    assert [(entry.domain, entry.version) for entry in parsed.opset_import] == [("", OPSET)]
    kept = {entry.name: onnx.numpy_helper.to_array(entry) for entry in parsed.graph.initializer}
    read_as_reals = {node.input[0] for node in parsed.graph.node if node.op_type == "DequantizeLinear"}
    for op in model.graph.ops:
        if op.kind in AFFINE:
            weight, bias = (model.graph.tensors[name] for name in op.inputs[1:])
            assert weight.data is not None
            assert bias.data is not None
            stored_names = [name for name in kept if name.startswith(op.inputs[1]) and name in read_as_reals]
            assert [sorted(kept[name].ravel()) for name in stored_names] == [sorted(weight.data.ravel())]
            assert kept[stored_names[0]].dtype == np.int8
            (bias_name,) = (name for name in kept if name.startswith(op.inputs[2]) and name in read_as_reals)
            np.testing.assert_array_equal(kept[bias_name], bias.data)


def test_qdq_refuses_a_bias_whose_scale_float32_does_not_hold() -> None:
    builder = GraphBuilder()
    x = builder.input((2,), QuantParams(2.0**-80, 0))
    weight = np.ones((2, 2), np.int8)
    y = builder.fully_connected(x, "dense", weight, 2.0**-60, 0, None, output=QuantParams(2.0**-126, 0))
    graph = builder.finish(y)
    export(graph, ["a"], None)
    with pytest.raises(ModelError, match="op 'dense': ONNX: scale of 'dense/bias' is below float32's normal numbers"):
        export(graph, ["a"], None, qdq=True)


@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("rule", ["half_even", "single"])
def test_the_shipped_model(rule: str, qdq: bool) -> None:
    model = kws.load("commands")
    graph = model.graph.with_rounding(rule)
    x = random_inputs(graph, 40)
    logits = _run(export(graph, model.labels, model.frontend, qdq=qdq), [x], int8_allowed=qdq)
    assert (logits != run(graph, x)).sum() <= 2


def test_the_file_passes_the_checker_and_says_what_it_is() -> None:
    model = kws.load("commands")
    assert model.frontend is not None
    parsed = onnx.load_from_string(export(model.graph, model.labels, model.frontend))
    onnx.checker.check_model(parsed)
    assert {(entry.domain, entry.version) for entry in parsed.opset_import} == {("", OPSET), ("com.microsoft", 1)}
    values = json.loads({entry.key: entry.value for entry in parsed.metadata_props}[METADATA])
    assert values["labels"] == list(model.labels)
    assert values["frontend"] == model.frontend.to_dict()
    (source,), (output,) = parsed.graph.input, parsed.graph.output
    for entry, shape in ((source, (98, 40, 1)), (output, (12,))):
        sizes = [axis.dim_param or axis.dim_value for axis in entry.type.tensor_type.shape.dim]
        assert sizes == ["N", *shape]
        assert entry.type.tensor_type.elem_type == onnx.TensorProto.INT8
    assert output.name == model.graph.output


def test_an_output_of_three_axes_keeps_their_order() -> None:
    builder = GraphBuilder("half_even")
    x = builder.input((3, 4, 2), QuantParams(0.5, 1))
    graph = builder.finish(builder.pad(x, "pad", paddings=((1, 0), (0, 2), (1, 1))))
    values = random_inputs(graph, 3)
    np.testing.assert_array_equal(_run(export(graph, ["a"], None), [values]), run(graph, values))
    assert stored((3, 4, 2)) == (2, 3, 4)


def test_the_same_graph_gives_the_same_file() -> None:
    graph = every_op_of_tflite("single", power_of_two=False)
    assert export(graph, ["a"], None) == export(graph, ["a"], None)


def test_every_rounding_rule_has_its_line() -> None:
    assert set(RUNTIMES) == set(ROUNDING_RULES)


def _softmax(beta: float) -> Graph:
    builder = GraphBuilder()
    x = builder.input((4,), QuantParams(float32(0.1), 0))
    return builder.finish(builder.softmax(x, "softmax", beta=beta))


def test_refuses_in_one_line_what_the_format_cannot_say() -> None:
    export(_softmax(1.0), ["a"], None)
    with pytest.raises(ModelError, match="op 'softmax': ONNX: its beta is not 1"):
        export(_softmax(0.5), ["a"], None)
    graph = every_op_of_tflite("single", power_of_two=False)
    with pytest.raises(ModelError, match=r"ONNX: .*(has no per-tensor scale|is not known)"):
        export(graph.without_scales(), ["a"], None)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"needs onnx \(pip install .*\[onnx\]"):
        export(_softmax(1.0), ["a"], None)
