# SPDX-License-Identifier: Apache-2.0
"""Graph.check(): what it proves, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.graph import Graph, GraphBuilder, Op
from deploy.ops.base import INT32_MAX
from deploy.ops.softmax import integer_softmax, softmax_multiplier
from deploy.reference import run
from deploy.tensor import Tensor
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.errors import KwsError, ModelError

Build = Callable[[str], Graph]
UNIT = QuantParams(1.0, 0)


def _dense(weight: Any, bias: Any, *, x: QuantParams = UNIT, zero_point: int = 0, output: QuantParams = UNIT) -> Graph:
    """One fully connected op with M = 1 / output.scale."""
    weight, bias = np.array(weight, np.int8), np.array(bias, np.int32)
    builder = GraphBuilder()
    source = builder.input((weight.shape[1],), x)
    return builder.finish(
        builder.fully_connected(source, "op", weight, 1.0, zero_point, bias, output=output)
    )  # fmt: skip


def test_reports_costs(every_op: Build) -> None:
    report = every_op("single").check()
    by_name = {op.name: op for op in report.ops}
    assert by_name["conv"].macs == 11 * 6 * 4 * 3 * 2 * 2
    assert by_name["depthwise"].macs == 11 * 6 * 4 * 3 * 3
    assert by_name["dense"].macs == 25
    assert by_name["conv"].weight_bytes == 4 * 3 * 2 * 2 + 4 * 4
    assert report.weight_bytes == sum(op.weight_bytes for op in report.ops)
    assert report.macs == sum(op.macs for op in report.ops)
    assert all(op.acc_bound <= INT32_MAX for op in report.ops)


# Overflow: 2 inputs of weight 127 and Z = -128 reach 2 * 127 * 255 centred, 2 * 127 * 256 raw with Z folded in.
CENTRED, RAW = 2 * 127 * 255, 2 * 127 * 256
LARGE = QuantParams(2.0**24, 0)  # keeps M, and with it the left shift, small


def test_a_sum_that_just_fits_is_accepted_with_its_bound() -> None:
    graph = _dense([[127, 127]], [INT32_MAX - RAW], x=QuantParams(1.0, -128), output=LARGE)
    assert graph.check().ops[0].acc_bound == INT32_MAX


def test_a_raw_sum_that_overflows_where_the_centred_one_does_not_is_refused() -> None:
    assert INT32_MAX - CENTRED > INT32_MAX - RAW  # the centred form would fit
    with pytest.raises(ModelError, match="op 'op': an int32 sum can reach 2147483648"):
        _dense([[127, 127]], [INT32_MAX - RAW + 1], x=QuantParams(1.0, -128), output=LARGE)


def test_a_weight_zero_point_counts_in_the_raw_sums() -> None:
    _dense([[127, 127]], [INT32_MAX - 2 * 127 * 128], output=LARGE)
    with pytest.raises(ModelError, match="int32 sum"):
        _dense([[127, 127]], [INT32_MAX - 2 * 127 * 128], zero_point=100, output=LARGE)


def test_partial_sums_count_in_any_order() -> None:
    # The whole sum of +127 x and -127 x is small, but adding the positive terms first reaches the bound.
    weight = [[127, -127] * 40]
    graph = _dense(weight, [0], output=LARGE)
    assert graph.check().ops[0].acc_bound == 80 * 127 * 128
    with pytest.raises(ModelError, match="int32 sum"):
        _dense(weight, [INT32_MAX - 80 * 127 * 128 + 1], output=LARGE)


@pytest.mark.parametrize("rounding", ROUNDING_RULES)
def test_the_left_shift_before_the_multiply_counts(rounding: str) -> None:
    # M = 2^10 is multiplier 2^30, shift 11: the bound is (127 * 128) << 11.
    fits = _dense([[127]], [0], output=QuantParams(2.0**-10, 0)).with_rounding(rounding)
    assert fits.check().ops[0].acc_bound == (127 * 128) << 11
    with pytest.raises(ModelError, match="int32 sum"):
        _dense([[127]], [1 << 20], output=QuantParams(2.0**-10, 0))


def test_add_and_mean_are_bounded() -> None:
    builder = GraphBuilder()
    x = builder.input((4, 4, 2), QuantParams(0.5, -128))
    builder.add(x, x, "add", output=UNIT)
    graph = builder.finish(builder.mean("add", "mean", output=QuantParams(2.0**-8, 0)))
    bounds = [op.acc_bound for op in graph.check().ops]
    assert bounds[0] >= 255 << 20
    assert bounds[1] >= (16 * 128) << 5
    with pytest.raises(ModelError, match="op 'mean2': an int32 sum"):
        builder.finish(builder.mean("add", "mean2", output=QuantParams(2.0**-26, 0)))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.integers(-128, 127), min_size=2, max_size=2), min_size=1, max_size=2),
    st.integers(-1000, 1000), st.integers(-128, 127), st.integers(-128, 127),
)  # fmt: skip
def test_no_partial_sum_of_any_form_passes_the_bound(weight: Any, bias: int, x_z: int, w_z: int) -> None:
    graph = _dense(weight, [bias] * len(weight), x=QuantParams(1.0, x_z), zero_point=w_z, output=LARGE)
    bound = graph.check().ops[0].acc_bound
    for row, x in product(weight, product((-128, x_z, 127), repeat=2)):
        pairs = list(zip(x, row, strict=True))
        folded_both = bias - sum(x_z * (w - w_z) for w in row)
        forms = [
            [bias, *((a - x_z) * (w - w_z) for a, w in pairs)],
            [folded_both, *(a * (w - w_z) for a, w in pairs)],
            [folded_both, *(a * w for a, w in pairs), *(-w_z * a for a in x)],
        ]
        for terms in forms:  # the largest and smallest sum over any subset, so in any order
            assert sum(t for t in terms if t > 0) <= bound
            assert sum(t for t in terms if t < 0) >= -bound


# Refusals: each change of a good graph is named.


Change = Callable[[Graph], Graph]


def _tensor(name: str, **changes: Any) -> Change:
    return lambda graph: replace(graph, tensors=graph.tensors | {name: replace(graph.tensors[name], **changes)})


def _op(name: str, /, **changes: Any) -> Change:
    def change(graph: Graph) -> Graph:
        return replace(graph, ops=tuple(replace(op, **changes) if op.name == name else op for op in graph.ops))

    return change


def _attributes(name: str, **changes: Any) -> Change:
    def change(graph: Graph) -> Graph:
        op = next(op for op in graph.ops if op.name == name)
        return _op(name, attributes=replace(op.attributes, **changes))(graph)

    return change


def _requant(name: str, **changes: Any) -> Change:
    def change(graph: Graph) -> Graph:
        op: Any = next(op for op in graph.ops if op.name == name)
        return _attributes(name, requant=replace(op.attributes.requant, **changes))(graph)

    return change


UNUSED = Tensor("z", (1,), "int8", None, 0)
REFUSED: dict[str, tuple[Change, str]] = {
    "rounding": (lambda g: replace(g, rounding="up"), "rounding: unknown rounding rule 'up'"),
    "one op of another rule": (_requant("conv", rounding="tflm"), "op 'conv': requant.rounding is tflm"),
    "no ops": (lambda g: replace(g, ops=()), "ops: 0 ops"),
    "input": (lambda g: replace(g, input="nothing"), "input: 'nothing' is not an activation"),
    "input is a constant": (lambda g: replace(g, input="conv/weight"), "input: 'conv/weight' is not an activation"),
    "output": (lambda g: replace(g, output="nothing"), "output: 'nothing' is made by no op"),
    "reference": (_op("conv", inputs=("x", "conv/weight", "conv/bias")), "op 'conv': input 'x'"),
    "reference forward": (_op("pad", inputs=("add",)), "op 'pad': input 'add' is not made by"),
    "reference to itself": (_op("pad", inputs=("pad",)), "op 'pad': input 'pad' is not made by"),
    "too few inputs": (_op("add", inputs=("depthwise",)), "op 'add': 1 inputs, not 2"),
    "weight is no constant": (_op("conv", inputs=("pad", "pad", "conv/bias")), "op 'conv': input 'pad' is not a"),
    "input is a weight": (_op("pad", inputs=("conv/weight",)), "op 'pad': input 'conv/weight' is a const"),
    "made twice": (_op("add", output="depthwise"), "op 'add': output 'depthwise' is made twice"),
    "unknown output": (_op("add", output="none"), "op 'add': output 'none' is no tensor"),
    "two names": (_op("add", name="conv"), "op 'conv': name is not"),
    "op name": (_op("add", name="a\nb"), "op 'a\\nb': name is not"),
    "unused": (lambda g: replace(g, tensors=g.tensors | {"z": UNUSED}), "tensor 'z': is used by no"),
    "other name": (lambda g: replace(g, tensors=g.tensors | {"z": g.tensors["conv"]}), "tensor 'conv': is stored"),
    "dtype": (_tensor("conv", dtype="float32"), "tensor 'conv': dtype 'float32'"),
    "wide activation": (_tensor("conv", dtype="int32", zero_point=0), "tensor 'conv': dtype int32 of an act"),
    "shape": (_tensor("conv", shape=(1, 2, 4)), "op 'conv': output 'conv' has shape"),
    "no shape": (_tensor("conv", shape=()), "tensor 'conv': shape"),
    "zero size": (_tensor("conv", shape=(0, 6, 4)), "tensor 'conv': shape"),
    "huge": (_tensor("conv", shape=(65536, 65536)), "tensor 'conv': shape (65536, 65536) has more"),
    "data": (_tensor("conv/bias", dtype="int8"), "tensor 'conv/bias': data is int32(4,), not int8(4,)"),
    "zero_point": (_tensor("conv", zero_point=300), "tensor 'conv': zero_point 300 is outside [-128, 127]"),
    "bias zero_point": (_tensor("conv/bias", zero_point=1), "tensor 'conv/bias': zero_point 1"),
    "per-channel zero_point": (_tensor("conv/weight", zero_point=1), "op 'conv': zero_point 1 of per-channel"),
    "scale 0": (_tensor("conv", scale=0.0), "tensor 'conv': scale 0.0"),
    "scale NaN": (_tensor("conv", scale=float("nan")), "tensor 'conv': scale nan"),
    "scale of double precision": (_tensor("conv", scale=0.1), "tensor 'conv': scale 0.1 is not a float32"),
    "other scale": (_tensor("conv", scale=0.5), "op 'conv': requant: multiplier and shift are not those"),
    "other zero_point": (_tensor("conv", zero_point=3), "op 'conv': requant.zero_point is -128, not 3"),
    "scales": (_tensor("conv/weight", scale=(1.0, 1.0)), "op 'conv': weight 'conv/weight' has 2 scales"),
    "scales of an activation": (_tensor("conv", scale=(1.0,) * 4), "tensor 'conv': 4 scales do not fit"),
    "bias scale": (_tensor("conv/bias", scale=1.0), "op 'conv': scale of bias 'conv/bias'"),
    "multiplier": (_requant("dense", multiplier=np.array([1 << 30], np.int32)), "op 'dense': requant: mul"),
    "channels": (
        _requant("conv", multiplier=np.full(3, 1 << 30, np.int32), shift=np.zeros(3, np.int32)),
        "op 'conv': requant has 3 multipliers, not 1 or 4",
    ),
    "clamp": (_requant("conv", activation_max=128), "op 'conv': requant: clamp [-128, 128]"),
    "pool clamp": (_attributes("max_pool", activation_min=-200), "op 'max_pool': clamp [-200, 127]"),
    "stride": (_attributes("conv", stride=(0, 1)), "op 'conv': stride (0, 1)"),
    "padding": (_attributes("conv", padding=((-1, 0), (0, 0))), "op 'conv': padding ((-1"),
    "padding wider than the kernel": (_attributes("conv", padding=((3, 0), (0, 0))), "op 'conv': padding"),
    "kernel": (_attributes("max_pool", kernel=(99, 1)), "op 'max_pool': kernel (99, 1) is larger"),
    "axis": (_attributes("concatenation", axis=3), "op 'concatenation': axis 3 is not an axis"),
    "entries": (_attributes("concatenation", requants_in=()), "op 'concatenation': requants_in has 0"),
    "begin": (_attributes("slice", begin=(9, 0, 0)), "op 'slice': begin (9, 0, 0) and size"),
    "size": (_attributes("slice", size=(5, 3)), "op 'slice': begin"),
    "paddings": (_attributes("pad", paddings=((1, 0),)), "op 'pad': paddings"),
    "negative paddings": (_attributes("pad", paddings=((-1, 0),) * 3), "op 'pad': paddings ((-1, 0), "),
    "reshape": (_attributes("reshape", shape=(6,)), "op 'reshape': shape (6,) does not hold"),
    "mul requant": (_requant("mul", multiplier=np.array([1 << 30], np.int32)), "op 'mul': requant: multiplier and"),
    "mul shapes": (_op("mul", inputs=("logistic", "conv")), "op 'mul': shapes (1, 1, 5) and (11, 6, 4) are neither"),
    "logistic multiplier": (_attributes("logistic", multiplier=1), "op 'logistic': multiplier 1 or left_shift"),
    "logistic shift": (_attributes("logistic", left_shift=63), "op 'logistic': multiplier 1073741824 or left_shift 63"),
    "logistic scale": (_attributes("logistic", left_shift=2), "op 'logistic': multiplier and left_shift are not those"),
    "logistic output": (_tensor("logistic", zero_point=0), "op 'logistic': output 'logistic' does not have"),
    "softmax multiplier": (_attributes("softmax", multiplier=1), "op 'softmax': multiplier 1"),
    "softmax shift": (_attributes("softmax", left_shift=32), "op 'softmax': multiplier 1073741824 or left_shift 32"),
    "softmax output": (_tensor("softmax", scale=0.5), "op 'softmax': output 'softmax' does not have"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(every_op: Build, case: str) -> None:
    change, message = REFUSED[case]
    with pytest.raises(ModelError) as refusal:
        change(every_op("single")).check()
    assert str(refusal.value).startswith(message)


def test_refuses_a_convolution_that_is_too_costly() -> None:
    builder = GraphBuilder()
    x = builder.input((1024, 1024, 1), UNIT)
    weight = np.ones((1, 300, 300, 1), np.int8)
    with pytest.raises(ModelError, match="op 'conv': more than 67108864 multiply-accumulates an output channel"):
        builder.finish(builder.conv2d(x, "conv", weight, 1.0, 0, None, output=LARGE))


@pytest.mark.parametrize("size", [(1, 6, 8), (4, 1, 8), (4, 6, 1), (1, 1, 1)])
def test_refuses_factors_that_are_neither_one_a_value_nor_one_a_channel(size: tuple[int, ...]) -> None:
    builder = GraphBuilder()
    x = builder.input((4, 6, 8), UNIT)
    other = builder.slice(x, "part", begin=(0, 0, 0), size=size)
    for inputs in ((x, other), (other, x)):
        with pytest.raises(ModelError, match=r"op 'mul': shapes .* are neither equal nor \(H, W, C\) and \(1, 1, C\)"):
            builder.mul(*inputs, "mul", output=UNIT)


def test_refuses_activations_that_are_too_large_together() -> None:
    builder = GraphBuilder()
    x = builder.input((4096, 4096, 1), UNIT)
    for index in range(4):
        x = builder.reshape(x, f"r{index}", shape=(4096, 4096))
    with pytest.raises(ModelError, match=r"tensors: .* bytes of activations exceed"):
        builder.finish(x)


def test_the_builder_names_the_op_and_the_channel_of_a_multiplier_that_is_too_large() -> None:
    builder = GraphBuilder()
    x = builder.input((1, 1, 1), QuantParams(2.0**20, 0))
    with pytest.raises(KwsError, match=r"op 'conv': multiplier .* of channel 1"):
        builder.conv2d(
            x, "conv", np.ones((2, 1, 1, 1), np.int8), [2.0**-20, 1.0], 0, None, output=QuantParams(2.0**-20, 0)
        )


def test_a_dead_channel_gets_multiplier_and_shift_0() -> None:
    builder = GraphBuilder()
    x = builder.input((1,), UNIT)
    weight = np.array([[1], [127]], np.int8)
    graph = builder.finish(
        builder.fully_connected(x, "op", weight, [2.0**-60, 1.0], 0, None, output=QuantParams(1.0, 9))
    )
    requant: Any = graph.ops[0].attributes
    assert (int(requant.requant.multiplier[0]), int(requant.requant.shift[0])) == (0, 0)
    np.testing.assert_array_equal(run(graph, np.array([[100]], np.int8)), [[9, 127]])


@pytest.mark.parametrize(
    "x", [np.zeros((1, 10, 6, 2), np.float32), np.zeros((10, 6, 2), np.int8), np.zeros((1, 10, 6, 3), np.int8)]
)
def test_the_executor_refuses_another_input(every_op: Build, x: Any) -> None:
    with pytest.raises(ModelError, match="not int8"):
        run(every_op("single"), x)


def test_rounding_is_a_field_of_every_requantization(every_op: Build) -> None:
    graph = every_op("single").with_rounding("tflm")
    found = [(op.name, field, requant) for op in graph.ops for field, requant in op.attributes.requants()]
    assert {name for name, _, _ in found} == {
        "conv",
        "depthwise",
        "pointwise",
        "add",
        "concatenation",
        "gate_mean",
        "gate_conv",
        "mul",
        "mean",
        "dense",
    }
    assert all(requant.rounding == "tflm" for _, _, requant in found)
    assert len([name for name, _, _ in found if name == "add"]) == 3
    graph.check()
    with pytest.raises(ModelError, match="unknown rounding rule 'up'"):
        graph.with_rounding("up")


def test_relu6_is_a_clamp_and_no_op() -> None:
    # S = 2^-5: 6.0 lies at Z + 192 and needs the clamp; S = 6/255: the type's own ends do it.
    builder = GraphBuilder()
    x = builder.input((3,), QuantParams(0.03125, 0))
    given: Any = {"activation_min": -128, "activation_max": 64}
    eye = np.eye(3, dtype=np.int8)
    graph = builder.finish(
        builder.fully_connected(x, "op", eye, 4.0, 0, None, output=QuantParams(0.03125, -128), **given)
    )
    np.testing.assert_array_equal(run(graph, np.array([[-5, 40, 127]], np.int8)), [[-128, 32, 64]])


def test_ops_have_no_mutable_or_float_attributes(every_op: Build) -> None:
    def flat(value: Any) -> list[Any]:
        return [leaf for item in value for leaf in flat(item)] if isinstance(value, tuple) else [value]

    def leaves(op: Op) -> list[Any]:
        return [leaf for field in fields(op.attributes) for leaf in flat(getattr(op.attributes, field.name))]

    for op in every_op("single").ops:
        assert {type(leaf).__name__ for leaf in leaves(op)} <= {"int", "bool", "Requant"}


def test_softmax_behind_the_logits() -> None:
    """The same integers, and the op's own softmax of them; a graph that ends in one stays as it is."""
    builder = GraphBuilder()
    x = builder.input((4,), QuantParams(0.0625, 3), "softmax")
    weight = np.random.default_rng(0).integers(-127, 128, (3, 4)).astype(np.int8)
    graph = builder.finish(builder.fully_connected(x, "logits", weight, 2.0**-5, 0, None, output=QuantParams(0.125, 1)))
    ended = graph.with_softmax()
    ended.check()
    assert ended.ops[-1].kind == "softmax"
    assert ended.with_softmax() is ended
    q = np.random.default_rng(1).integers(-128, 128, (20, 4)).astype(np.int8)
    logits = run(graph, q)
    expected = integer_softmax(logits, *softmax_multiplier(graph.output_params.scale))
    np.testing.assert_array_equal(run(ended, q), expected)
