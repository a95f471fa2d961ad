# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.ao.nn import quantized

from deploy import reference
from deploy.graph import Graph, GraphBuilder
from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError, UsageError
from training.compare import compare_ops
from training.convert import convert
from training.fake_quantized import QatConv2d, QatLinear
from training.qat import QuantScheme, calibrate, prepare_ptq
from training.torch_engine import TorchEngine, default_backend

BACKENDS = ("qnnpack", default_backend())
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")


def params(scale: float, zero_point: int) -> QuantParams:
    return QuantParams(float(np.float32(scale)), zero_point)


def every_op(seed: int, *, power_of_two: bool, per_tensor: bool) -> Graph:
    """Odd paddings and strides, every kind of op that torch has, weights over the whole range, random (S, Z)."""
    random = np.random.default_rng(seed)

    def scale(low: float, high: float) -> float:
        value = random.uniform(low, high)
        return float(2.0 ** np.round(np.log2(value))) if power_of_two else float(np.float32(value))

    def weight(*shape: int, channel_axis: int = 0) -> tuple[NDArray[np.int8], Any, int, NDArray[np.int32]]:
        values = random.integers(-127, 128, shape).astype(np.int8)
        channels = shape[channel_axis]
        bias = random.integers(-20_000, 20_000, channels).astype(np.int32)
        if per_tensor:
            return values, scale(0.001, 0.004), int(random.integers(-30, 30)), bias
        return values, [scale(0.001, 0.004) for _ in range(channels)], 0, bias

    b = GraphBuilder("half_even")
    x = b.input((11, 7, 3), QuantParams(scale(0.02, 0.05), 5))
    x = b.conv2d(x, "conv", *weight(8, 3, 2, 3), stride=(2, 1), padding=((0, 2), (1, 0)),
                 output=QuantParams(scale(0.02, 0.05), -128), activation_max=64)  # fmt: skip
    x = b.depthwise_conv2d(x, "depthwise", *weight(1, 3, 3, 8, channel_axis=3), padding=((1, 1), (1, 1)),
                           output=QuantParams(scale(0.02, 0.05), -7))  # fmt: skip
    left = b.conv2d(x, "left", *weight(8, 1, 1, 8), output=QuantParams(scale(0.02, 0.05), 3))
    x = b.add(x, left, "sum", output=QuantParams(scale(0.05, 0.1), -20), activation_min=-100, activation_max=100)
    x = b.slice(x, "cut", begin=(1, 0, 0), size=(4, 7, 8))
    x = b.max_pool(x, "largest", (1, 2), stride=(1, 1))
    x = b.average_pool(x, "pool", (4, 3))
    x = b.reshape(x, "flat", shape=(16,))
    x = b.fully_connected(x, "last", *weight(5, 16), output=QuantParams(scale(0.05, 0.1), 11))
    return b.finish(x)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("power_of_two", [False, True])
def test_torch_computes_half_even_but_for_ties_that_float32_cannot_see(
    backend: str, per_tensor: bool, power_of_two: bool
) -> None:
    for seed in range(3):
        graph = every_op(seed, power_of_two=power_of_two, per_tensor=per_tensor)
        x = np.random.default_rng(seed).integers(-128, 128, (200, *graph.input_shape)).astype(np.int8)
        for op in compare_ops(TorchEngine(graph, backend).run_op, graph, x):
            assert op.max_step <= 1
            assert op.n_unexplained == 0
            if op.kind in ("slice", "reshape", "max_pool"):
                assert op.n_different == 0
            elif op.kind != "average_pool" and (op.kind, backend) != ("add", "qnnpack"):
                assert op.n_different <= 1 + 20e-6 * op.n_values  # random multipliers, chosen by nobody
                assert not (power_of_two and op.n_different)


def test_the_same_ops_under_another_rule_are_told_apart() -> None:
    graph = every_op(0, power_of_two=True, per_tensor=False)
    x = np.random.default_rng(0).integers(-128, 128, (200, *graph.input_shape)).astype(np.int8)
    reports = compare_ops(TorchEngine(graph).run_op, graph.with_rounding("single"), x)
    assert sum(op.n_different for op in reports if op.kind in ("conv2d", "depthwise_conv2d")) > 100
    assert all(op.n_unexplained == 0 for op in reports)  # they are ties, after all


def test_whole_graph_runs_as_a_callable_engine() -> None:
    graph = every_op(1, power_of_two=False, per_tensor=False)
    x = np.random.default_rng(1).integers(-128, 128, (300, *graph.input_shape)).astype(np.int8)
    got, expected = TorchEngine(graph)(x), reference.run(graph, x)
    assert got.dtype == np.int8
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected).max() <= 3  # its pools round half to even


def test_the_backend_of_others_is_left_as_it_was() -> None:
    before = torch.backends.quantized.engine
    graph = every_op(1, power_of_two=False, per_tensor=False)
    TorchEngine(graph, "qnnpack")(np.zeros((1, *graph.input_shape), np.int8))
    assert torch.backends.quantized.engine == before


def test_torch_converts_the_modules_themselves_to_the_same_integers(networks: Any) -> None:
    model: Any = prepare_ptq(networks.trained("ds-cnn-s"), QuantScheme())
    calibrate(model, [networks.data(32, 1)[0]])
    graph = convert(model, (49, 10, 1))
    model.first.conv.activation_post_process = model.first.relu.activation_post_process
    torch_type: Any
    for module, torch_type, name in (
        (model.first.conv, quantized.Conv2d, "first.conv"),
        (model.classifier, quantized.Linear, "classifier"),
    ):
        assert isinstance(module, QatConv2d | QatLinear)
        ours = graph.tensors[f"{name}/weight"].data
        assert ours is not None
        theirs = torch_type.from_float(module).weight().int_repr().numpy()
        different = (ours.transpose(0, 3, 1, 2) if ours.ndim == 4 else ours) != theirs
        assert different.sum() <= 0.001 * different.size  # torch.quantize_per_channel and fake_quantize on ties


def test_what_torch_has_not_is_named() -> None:
    b = GraphBuilder()
    x = b.input((4,), params(0.1, 0))
    graph = b.finish(b.softmax(x, "softmax"))
    with pytest.raises(ModelError, match="op 'softmax': torch has no softmax to compare with"):
        TorchEngine(graph)(np.zeros((1, 4), np.int8))
    with pytest.raises(UsageError, match="no quantized backend 'abacus'"):
        TorchEngine(graph, "abacus")
