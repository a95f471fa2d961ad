# SPDX-License-Identifier: Apache-2.0
"""A .tflite file becomes a graph of TensorFlow Lite Micro's bits, and a hostile one becomes a refusal."""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

import kws
from deploy.codec import graph_to_dict
from deploy.export.tflite import export
from deploy.graph import Graph, GraphBuilder
from deploy.importers import tflite
from deploy.importers.tflite_operators import READERS
from deploy.reference import run, run_all
from deploy.tflite_rules import METADATA
from deploy.tflite_runtimes import run_tflite, with_outputs
from kws.arithmetic.quant import QuantParams
from kws.errors import KwsError, ModelError
from tests.deploy.tflite_graphs import every_op_of_tflite, float32, random_inputs
from tests.fuzz.common import check_refusal
from tests.fuzz.random_model import random_model

LABELS = ("yes", "no", "on", "_silence_", "_unknown_")
GOLDEN = Path(__file__).parents[1] / "golden"
_spec = importlib.util.spec_from_file_location("make_op_vectors_to_import", GOLDEN / "make_op_vectors.py")
assert _spec is not None
assert _spec.loader is not None
vectors: Any = importlib.util.module_from_spec(_spec)
__import__("sys").modules["make_op_vectors_to_import"] = vectors
_spec.loader.exec_module(vectors)


def _loaded(data: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(data, 0)


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _edited(data: bytes, edit: Callable[[Any, Any], None]) -> bytes:
    """The file after `edit(model, subgraph)`."""
    model = _loaded(data)
    edit(model, model.subgraphs[0])
    return _packed(model)


def _same(a: Graph, b: Graph) -> None:
    """The same names, integers and scales throughout."""
    (values, arrays), (other_values, other_arrays) = graph_to_dict(a), graph_to_dict(b)
    assert values == other_values
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, other_arrays[name])


# What is written is read.


def test_our_own_export_comes_back_as_it_was() -> None:
    model = kws.load(GOLDEN / "tc_resnet8.kws")  # all of its paddings are TFLite's
    found = tflite.read(export(model.graph, model.labels, model.frontend))
    _same(found.graph, model.graph)
    assert found.labels == model.labels
    assert found.frontend == model.frontend


@pytest.mark.parametrize("power_of_two", [False, True])
def test_every_op_comes_back_with_the_same_bits(power_of_two: bool) -> None:
    graph = every_op_of_tflite("tflm", power_of_two=power_of_two)
    found = tflite.read(export(graph, LABELS, None)).graph
    x = random_inputs(graph, 30)
    ours, theirs = run_all(graph, x), run_all(found, x)
    for op in graph.ops:  # pad before a convolution and quantize before a concatenation are ops of their own now
        np.testing.assert_array_equal(theirs[op.output], ours[op.output])


def test_random_graphs_come_back_with_the_same_bits() -> None:
    imported = 0
    for seed in range(400):
        graph = random_model(random.Random(seed)).graph
        try:
            data = export(graph, LABELS[: graph.output_shape[0]], None)
        except KwsError:
            continue
        found = tflite.read(data).graph
        assert found.rounding == graph.rounding
        x = random_inputs(graph, 2)
        np.testing.assert_array_equal(run(found, x), run(graph, x))
        imported += 1
    assert imported > 40


# What others write: single operators that TensorFlow Lite Micro has run, and forms that we never write.

SINGLE = [case for case in vectors.cases() if len(case.shapes) == 1]


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_single_operators_equal_tflm(case: Any) -> None:
    case.shapes[0][0] = case.output_shape[0] = 1
    data = vectors.to_tflite(case)
    graph = tflite.read(data).graph
    assert graph.rounding == "tflm"
    x = random_inputs(graph, 40)
    theirs = run_tflite("tflm", data, {"x0": x})["y"]
    np.testing.assert_array_equal(run(graph, x), theirs.reshape(len(x), -1))


def test_an_affine_fully_connected_layer_keeps_its_zero_point() -> None:
    case = next(case for case in SINGLE if case.name == "fully_connected_affine")
    case.shapes[0][0] = case.output_shape[0] = 1
    assert tflite.read(vectors.to_tflite(case)).graph.tensors["y/weight"].zero_point == 9


def _network() -> bytes:
    """(4, 6, 2) -> conv -> reshape -> fully connected -> softmax."""
    rng = np.random.default_rng(0)
    builder = GraphBuilder("tflm")
    x = builder.input((4, 6, 2), QuantParams(0.5, 3))
    weight = rng.integers(-127, 128, (3, 3, 3, 2)).astype(np.int8)
    params = QuantParams(float32(0.3), -128)
    x = builder.conv2d(x, "conv", weight, [0.01, 0.02, 0.03], 0, None, padding=((1, 1), (1, 1)), output=params)
    x = builder.reshape(x, "flat", shape=(72,))
    weight = rng.integers(-127, 128, (4, 72)).astype(np.int8)
    x = builder.fully_connected(x, "dense", weight, 0.01, 0, np.arange(4, dtype=np.int32), output=QuantParams(1.0, 0))
    return export(builder.finish(builder.softmax(x, "softmax")), ("a", "b", "c", "d"), None)


NETWORK = _network()


def _squeeze_and_excite() -> bytes:
    """(4, 6, 8) -> mean -> conv -> logistic -> mul with the input -> mean; the products meet ties."""
    rng = np.random.default_rng(1)
    builder = GraphBuilder("tflm")
    x = builder.input((4, 6, 8), QuantParams(0.125, -3))
    gate = builder.mean(x, "squeeze", output=QuantParams(2.0**-6, -3), keep_dims=True)
    weight = rng.integers(-127, 128, (8, 1, 1, 8)).astype(np.int8)
    gate = builder.conv2d(gate, "excite", weight, 2.0**-6, 0, None, output=QuantParams(2.0**-5, 11))
    x = builder.mul(x, builder.logistic(gate, "gate"), "scaled", output=QuantParams(0.125, -20))
    return export(builder.finish(builder.mean(x, "mean", output=QuantParams(0.0625, 0))), LABELS, None)


SQUEEZE_AND_EXCITE = _squeeze_and_excite()


def test_squeeze_and_excite_comes_back_and_equals_tflm_op_by_op() -> None:
    def swapped(model: Any, subgraph: Any) -> None:
        subgraph.operators[3].inputs = subgraph.operators[3].inputs[::-1]

    for data in (SQUEEZE_AND_EXCITE, _edited(SQUEEZE_AND_EXCITE, swapped)):
        graph = tflite.read(data).graph
        assert [op.kind for op in graph.ops] == ["mean", "conv2d", "logistic", "mul", "mean"]
        x = random_inputs(graph, 40)
        ours = run_all(graph, x)
        theirs = run_tflite("tflm", with_outputs(data, [op.output for op in graph.ops]), {"input": x})
        assert set(theirs) == {op.output for op in graph.ops}
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values)
        assert len(np.unique(ours["gate"])) > 100
        assert (ours["scaled"] != run_all(graph.with_rounding("single"), x)["scaled"]).any()
        _same(tflite.read(export(graph, LABELS, None)).graph, graph)


def _float_ends(model: Any, subgraph: Any) -> None:
    """Quantize in front, dequantize behind, as converters write them for float callers."""
    for builtin, end in ((schema.BuiltinOperator.QUANTIZE, "inputs"), (schema.BuiltinOperator.DEQUANTIZE, "outputs")):
        code, operator, tensor = schema.OperatorCodeT(), schema.OperatorT(), schema.TensorT()
        code.builtinCode = code.deprecatedBuiltinCode = builtin
        model.operatorCodes.append(code)
        (number,) = getattr(subgraph, end)
        tensor.name, tensor.type, tensor.shape = (
            f"float_{end}",
            schema.TensorType.FLOAT32,
            subgraph.tensors[number].shape,
        )
        subgraph.tensors.append(tensor)
        pair = [len(subgraph.tensors) - 1], [number]
        operator.inputs, operator.outputs = pair if end == "inputs" else pair[::-1]
        operator.opcodeIndex = len(model.operatorCodes) - 1
        subgraph.operators.insert(0 if end == "inputs" else len(subgraph.operators), operator)
        setattr(subgraph, end, [len(subgraph.tensors) - 1])


def _old_codes(model: Any, subgraph: Any) -> None:
    """Files from before 2020 have their operators in the deprecated field alone, and no new shape in the options."""
    for code in model.operatorCodes:
        code.builtinCode = 0
    for operator in subgraph.operators:
        if len(operator.inputs) == 2:
            operator.builtinOptionsType, operator.builtinOptions = 0, None


def _without_reshape(model: Any, subgraph: Any) -> None:
    """A fully connected layer flattens what it gets."""
    reshape = subgraph.operators.pop(1)
    subgraph.operators[1].inputs = [reshape.inputs[0], *subgraph.operators[1].inputs[1:]]


def _without_metadata(model: Any, subgraph: Any) -> None:
    model.metadata = []


@pytest.mark.parametrize("edit", [_float_ends, _old_codes, _without_reshape, _without_metadata])
def test_other_forms_of_a_network_give_the_same_bits(edit: Any) -> None:
    graph = tflite.read(NETWORK).graph
    found = tflite.read(_edited(NETWORK, edit)).graph
    x = random_inputs(graph, 20)
    np.testing.assert_array_equal(run(found, x), run(graph, x))


def _strided(begin: list[int], end: list[int], begin_mask: int, end_mask: int) -> bytes:
    """Strided slice of (1, 6, 5, 2), over a file with a slice."""
    case = vectors.Case(
        "slice", "slice", [[1, 6, 5, 2]], [[0.5, 3]], [1, 2, 3, 2], [0.5, 3],
        {"begin": [0, 1, 2, 0], "size": [1, 2, 3, 2]},
    )  # fmt: skip

    def edit(model: Any, subgraph: Any) -> None:
        code, operator = model.operatorCodes[0], subgraph.operators[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.STRIDED_SLICE
        operator.builtinOptionsType = schema.BuiltinOptions.StridedSliceOptions
        operator.builtinOptions = schema.StridedSliceOptionsT()
        operator.builtinOptions.beginMask, operator.builtinOptions.endMask = begin_mask, end_mask
        for index, values in zip(operator.inputs[1:], (begin, end), strict=True):
            model.buffers[subgraph.tensors[index].buffer].data = np.array(values, np.int32).view(np.uint8)
        strides, buffer = schema.TensorT(), schema.BufferT()
        buffer.data = np.ones(4, np.int32).view(np.uint8)
        strides.name, strides.shape, strides.type, strides.buffer = (
            "s",
            [4],
            schema.TensorType.INT32,
            len(model.buffers),
        )
        model.buffers.append(buffer)
        subgraph.tensors.append(strides)
        operator.inputs = [*operator.inputs, len(subgraph.tensors) - 1]

    return _edited(vectors.to_tflite(case), edit)


@pytest.mark.parametrize(
    ("begin", "end", "begin_mask", "end_mask"),
    [
        ([0, 1, 2, 0], [1, 3, 5, 2], 0, 0),
        ([0, -5, 2, 7], [0, 3, 0, 0], 0b1000, 0b1101),
        ([0, 1, -3, 0], [1, -3, 9, 2], 0, 0),
    ],
)
def test_strided_slices_equal_tflm(begin: list[int], end: list[int], begin_mask: int, end_mask: int) -> None:
    data = _strided(begin, end, begin_mask, end_mask)
    graph = tflite.read(data).graph
    x = random_inputs(graph, 5)
    np.testing.assert_array_equal(run(graph, x), run_tflite("tflm", data, {"x0": x})["y"].reshape(5, -1))


def test_the_input_takes_the_shape_of_a_front_end_of_its_size() -> None:
    graph = tflite.read(NETWORK, input_shape=(8, 6, 1)).graph
    assert graph.input_shape == (8, 6, 1)
    x = random_inputs(graph, 5)
    np.testing.assert_array_equal(run(graph, x), run(tflite.read(NETWORK).graph, x.reshape(5, 4, 6, 2)))
    assert tflite.read(NETWORK, input_shape=(9, 6, 1)).graph.input_shape == (4, 6, 2)


def test_names_of_others_become_names_that_a_graph_may_hold() -> None:
    names = ["a b;c", "x/weight", "x", "x", "é", "y" * 300]

    def edit(model: Any, subgraph: Any) -> None:
        for tensor, name in zip(subgraph.tensors, names * 9, strict=False):
            tensor.name = name

    graph = tflite.read(_edited(NETWORK, edit)).graph
    assert graph.input == "a_b"
    x = random_inputs(graph, 5)
    np.testing.assert_array_equal(run(graph, x), run(tflite.read(NETWORK).graph, x))


# What is refused.


def _code(index: int, builtin: int, custom: str | None = None) -> Callable[[Any, Any], None]:
    def edit(model: Any, subgraph: Any) -> None:
        code = model.operatorCodes[index]
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode = builtin, min(builtin, 127), custom

    return edit


def _tensor(of: str, /, **changes: Any) -> Callable[[Any, Any], None]:
    def edit(model: Any, subgraph: Any) -> None:
        (tensor,) = (tensor for tensor in subgraph.tensors if tensor.name == of.encode())
        for field, value in changes.items():
            setattr(tensor if hasattr(tensor, field) else tensor.quantization, field, value)

    return edit


def _option(index: int, **changes: Any) -> Callable[[Any, Any], None]:
    def edit(model: Any, subgraph: Any) -> None:
        for field, value in changes.items():
            setattr(subgraph.operators[index].builtinOptions, field, value)

    return edit


def _operator(index: int, **changes: Any) -> Callable[[Any, Any], None]:
    def edit(model: Any, subgraph: Any) -> None:
        for field, value in changes.items():
            setattr(subgraph.operators[index], field, value)

    return edit


def _metadata(value: Any) -> Callable[[Any, Any], None]:
    def edit(model: Any, subgraph: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        model.buffers[model.metadata[0].buffer].data = np.frombuffer(text.encode(), np.uint8)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_code(3, 143), "READ_VARIABLE of its operators is not supported"),
        (_code(3, 207), "builtin operator 207 of its operators is not supported"),
        (_code(3, 32, "Window\x1b[2J"), r"custom operator 'Window\\x1b\[2J' of its operators is not supported"),
        (_tensor("conv", type=schema.TensorType.UINT8), r"operator 0 \(CONV_2D\): tensor 'conv' is uint8, not int8"),
        (_tensor("input", type=schema.TensorType.FLOAT32), "tensor 'input' is float32, not int8"),
        (_tensor("conv", shape=[2, 4, 6, 3]), r"shape \[2, 4, 6, 3\] of 'conv' is no batch of 1"),
        (_tensor("conv", shape=[1, 4, 5, 3]), r"makes shape \[4, 6, 3\], the file says \[4, 5, 3\]"),
        (_tensor("conv", scale=[0.5, 0.5], zeroPoint=[0, 0]), "does not have one scale and one zero point"),
        (_tensor("conv", scale=[float("nan")]), "scale nan is not a finite number"),
        (_tensor("conv", scale=[1e-30]), "is not in"),
        (_tensor("flat", scale=[2.0]), "changes scale or zero point"),
        (_tensor("softmax", zeroPoint=[0]), "does not have scale 1/256"),
        (_tensor("conv/weight", zeroPoint=[0, 1, 0]), "zero points of weight 'conv/weight'"),
        (_tensor("conv/weight", quantizedDimension=3), "has its scales along axis 3, not 0"),
        (_tensor("conv/weight", shape=[3, 3, 3, 3]), r"has 54 bytes for shape \[3, 3, 3, 3\]"),
        (_tensor("conv/weight", shape=[3, -3, -3, 2]), "has 54 bytes for shape"),
        (_tensor("conv/weight", buffer=0), "tensor 'conv/weight' is not constant"),
        (_tensor("conv/weight", buffer=999), "buffer 999 of tensor 'conv/weight' does not exist"),
        (_tensor("conv/bias", type=schema.TensorType.INT64), "is int64, not int32"),
        (_tensor("conv/bias", shape=[4]), r"bias of shape \[4\] does not fit 3 output channels"),
        (_tensor("conv", name="\x1b]0;x\x07" * 99, scale=[]), "does not have one scale"),
        (_option(0, dilationHFactor=2), "dilation is not supported"),
        (_option(0, strideH=0), "stride"),
        (_option(0, padding=7), "padding 7"),
        (_option(0, fusedActivationFunction=4), "fused activation 4 is not supported"),
        (_option(2, keepNumDims=True), "keep_num_dims"),
        (_option(3, beta=float("nan")), "too small for a softmax"),
        (_operator(0, inputs=[0]), r"operator 0 \(CONV_2D\): 1 inputs and 1 outputs"),
        (_operator(0, inputs=[0, 99, 2]), "tensor 99 does not exist"),
        (_operator(0, inputs=[5, 1, 2]), "is made by no operator before this one"),
        (_operator(0, outputs=[0]), "made twice"),
        (_operator(0, opcodeIndex=77), "operator code 77 does not exist"),
        (_operator(0, builtinOptionsType=0, builtinOptions=None), "has no options"),
        (lambda model, subgraph: setattr(subgraph, "inputs", [0, 1]), "has 2 inputs, not 1"),
        (lambda model, subgraph: setattr(subgraph, "outputs", []), "has 0 outputs, not 1"),
        (lambda model, subgraph: setattr(subgraph, "operators", []), "0 operators are not 1 to 1024"),
        (lambda model, subgraph: setattr(model, "subgraphs", []), "has no subgraph"),
        (_metadata("{"), "metadata 'integer_kws': is not JSON"),
        (_metadata("[" * 100_000), "metadata 'integer_kws'"),
        (_metadata({"version": 2}), "is none that this version knows"),
        (_metadata({"version": 1, "labels": 3}), "is 3, not a list"),
        (_metadata({"version": 1, "labels": ["a"], "rounding": []}), "has no known rounding rule"),
        (_metadata({"version": 1, "labels": ["a"], "frontend": {"\x1b": 1}}), "frontend"),
    ],
)
def test_refuses_in_one_line_what_the_graph_cannot_hold(edit: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        tflite.read(_edited(NETWORK, edit))
    check_refusal(refusal.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_tensor("gate", zeroPoint=[0]), r"operator 2 \(LOGISTIC\): its output does not have scale 1/256"),
        (_tensor("gate", scale=[0.5]), "its output does not have scale 1/256 and zero_point -128"),
        (_tensor("excite", scale=[2.0**-29]), r"of the input of a logistic is not in \[2\^-28, 2\^35\)"),
        (_tensor("excite", scale=[2.0**35]), r"is not in \[2\^-28, 2\^35\)"),
        (_operator(3, inputs=[0, 0, 0]), r"operator 3 \(MUL\): 3 inputs and 1 outputs"),
        (_operator(3, inputs=[0, 3]), "input 'excite/weight' is a constant"),
        (_operator(3, builtinOptionsType=11), "its options are of kind 11, not 21"),
        (_option(3, fusedActivationFunction=4), "fused activation 4 is not supported"),
        (_tensor("scaled", scale=[2.0**-40]), "op 'scaled': an int32 sum can reach"),
    ],
)
def test_refuses_in_one_line_products_and_logistics_that_tflm_does_not_compute(edit: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        tflite.read(_edited(SQUEEZE_AND_EXCITE, edit))
    check_refusal(refusal.value)


@pytest.mark.parametrize("data", [b"", b"TFL3", bytes(100), b"\xff" * 4 + b"TFL3" + b"\xff" * 90, NETWORK[:8]])
def test_refuses_what_is_no_tflite_file(data: bytes) -> None:
    with pytest.raises(ModelError, match=r"is no TFL3 file|is damaged"):
        tflite.read(data)


def test_a_file_cut_anywhere_is_refused() -> None:
    for length in range(0, len(NETWORK) - 16, 7):
        try:
            tflite.read(NETWORK[:length])
        except KwsError as error:
            check_refusal(error)
        else:
            raise AssertionError(f"{length} of {len(NETWORK)} bytes are a model")


def _read_or_refuse(data: bytes) -> None:
    """A graph that passes its check and runs, or a refusal."""
    try:
        graph = tflite.read(data).graph
    except KwsError as error:
        check_refusal(error)
    else:
        if graph.check().macs < 1 << 20:
            run(graph, np.zeros((1, *graph.input_shape), np.int8))


@settings(max_examples=400, deadline=2000)
@given(st.lists(st.tuples(st.integers(0, len(NETWORK) - 1), st.integers(0, 7)), min_size=1, max_size=8))
def test_flipped_bits_give_a_graph_or_a_refusal(flips: list[tuple[int, int]]) -> None:
    data = bytearray(NETWORK)
    for position, bit in flips:
        data[position] ^= 1 << bit
    _read_or_refuse(bytes(data))


@settings(max_examples=400, deadline=2000)
@given(
    st.integers(0, len(NETWORK) // 4 - 1),
    st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, len(NETWORK), len(NETWORK) - 4]),
)
def test_wild_offsets_and_lengths_give_a_graph_or_a_refusal(word: int, value: int) -> None:
    data = bytearray(NETWORK)
    struct.pack_into("<I", data, 4 * word, value)
    _read_or_refuse(bytes(data))


def _sharing(n_operators: int, channels: int) -> bytes:
    """A chain of depthwise convolutions that all read one weight, one bias and one vector of scales."""
    builder = GraphBuilder("tflm")
    params = QuantParams(1.0, 0)
    x = builder.input((1, 1, channels), params)
    weight = np.ones((1, 1, 1, channels), np.int8)
    x = builder.depthwise_conv2d(x, "a", weight, [1.0] * channels, 0, None, output=params)
    data = export(builder.finish(x), ("a",), None)

    def edit(model: Any, subgraph: Any) -> None:
        last = next(i for i, tensor in enumerate(subgraph.tensors) if tensor.name == b"a")
        operator, tensor = subgraph.operators[0], subgraph.tensors[last]
        for _ in range(n_operators - 1):
            copy, made = schema.OperatorT(), schema.TensorT()
            copy.__dict__.update(operator.__dict__)
            made.__dict__.update(tensor.__dict__)
            subgraph.tensors.append(made)
            copy.inputs, copy.outputs = [last, *operator.inputs[1:]], [len(subgraph.tensors) - 1]
            last = len(subgraph.tensors) - 1
            subgraph.operators.append(copy)
        subgraph.outputs = [last]

    return _edited(data, edit)


def test_shared_constants_cost_bounded_time_and_memory() -> None:
    data = _sharing(1000, 1 << 14)
    assert len(data) < 1_000_000
    tracemalloc.start()
    with pytest.raises(ModelError, match="read more than"):
        tflite.read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400 << 20  # and time: 1,024 operators of 2^20 weights and scales in all
    assert len(tflite.read(_sharing(50, 16)).graph.ops) == 51


def test_a_large_file_is_refused() -> None:
    with pytest.raises(ModelError, match="has more than 67108864 bytes"):
        tflite.read(bytes((64 << 20) + 1))


def test_the_places_of_fields_are_those_of_the_schema() -> None:
    """The reader knows tables by the places of their fields; here the schema's own classes say the same."""
    for name, value in vars(schema.BuiltinOperator).items():
        if not name.startswith("_") and value in tflite.OPERATORS:
            assert tflite.OPERATORS[value] == name
    assert set(READERS) <= set(tflite.OPERATORS.values())
    assert _loaded(NETWORK).metadata[0].name.decode() == METADATA
