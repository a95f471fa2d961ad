# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy.ops.average_pool import divide_half_away
from kws.errors import ModelError, UsageError
from training.networks.layers import Add, AveragePool, ConvBn, CropTime, FeaturesAsChannels
from training.networks.registry import NETWORKS, build
from training.trace import consumers, trace

SHAPES = ((49, 10), (49, 40), (98, 40))


@pytest.mark.parametrize(
    ("name", "shape"), [(n, s) for n in NETWORKS for s in SHAPES if n != "tc-stream" or s[0] >= 77]
)
def test_networks_take_features_and_return_logits(name: str, shape: tuple[int, int]) -> None:
    model = build(name, shape, 12).eval()
    assert model(torch.zeros(2, 1, *shape)).shape == (2, 12)


def parameters_and_macs(name: str, shape: tuple[int, int]) -> tuple[int, int]:
    model: Any = build(name, shape, 12).eval()
    model.fuse_model()
    macs = 0

    def count(module: Any, inputs: Any, output: Tensor) -> None:
        nonlocal macs
        macs += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(1, 1, *shape))
    return sum(parameter.numel() for parameter in model.parameters()), macs


@pytest.mark.parametrize(
    ("name", "shape", "parameters", "macs"),
    [
        ("ds-cnn-s", (49, 10), 22_604, 2_656_768),
        ("ds-cnn-s", (49, 40), 25_164, 5_952_768),
        ("ds-cnn-s", (98, 40), 25_164, 5_952_768),
        ("ds-cnn-m", (49, 10), 135_032, 16_428_064),
        ("ds-cnn-l", (49, 10), 410_700, 50_545_812),
        ("tc-resnet", (49, 40), 78_596, 1_713_760),
        ("tc-resnet", (98, 40), 78_596, 1_791_264),
        ("tc-stream", (98, 40), 232_076, 6_065_472),
    ],
)
def test_size_and_cost_of_the_fused_networks(name: str, shape: tuple[int, int], parameters: int, macs: int) -> None:
    assert parameters_and_macs(name, shape) == (parameters, macs)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_written_with_modules_only(name: str) -> None:
    calls = trace(build(name, (98, 40), 12))
    assert type(calls[0].module).__name__ == "QuantStub"
    assert type(calls[-1].module).__name__ == "DeQuantStub"


def test_ds_cnn_pads_as_tflite_same_does() -> None:
    model: Any = build("ds-cnn-s", (49, 10), 12)
    # 25 windows of 10 with stride 2 span 58: 9 more than 49; 5 of 4 with stride 2 span 12: 2 more than 10
    assert model.first.pad.padding == (1, 1, 4, 5)


def test_tc_resnet_gives_a_frame_the_same_columns_wherever_it_lies() -> None:
    long: Any = build("tc-resnet", (60, 40), 12).eval()
    short: Any = build("tc-resnet", (49, 40), 12).eval()
    short.load_state_dict(long.state_dict())

    def columns(model: Any, x: Tensor) -> Tensor:
        x = model.first(model.as_channels(x))
        for block in model.blocks:
            x = block(x)
        return x

    x = torch.randn(2, 1, 60, 40)
    whole = columns(long, x)
    for start in (0, 3, 11):
        part = columns(short, x[:, :, start : start + 49])
        assert torch.allclose(part, whole[:, :, start : start + part.shape[2]], atol=1e-5)


def test_unknown_network_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="ds-cnn-s, ds-cnn-m, ds-cnn-l, tc-resnet"):
        build("resnet-50", (49, 10), 12)


def test_tc_resnet_says_how_many_frames_it_needs() -> None:
    build("tc-stream", (77, 40), 12)
    with pytest.raises(UsageError, match="tc-stream needs at least 77 frames, not 76"):
        build("tc-stream", (76, 40), 12)
    build("tc-resnet", (39, 10), 12)
    with pytest.raises(UsageError, match="at least 39 frames, not 38"):
        build("tc-resnet", (38, 10), 12)


def half_away(value: Fraction) -> int:
    magnitude = int(abs(value) + Fraction(1, 2))
    return magnitude if value > 0 else -magnitude


@pytest.mark.parametrize("window", [(2, 2), (5, 2), (25, 5), (25, 10), (4, 8)])
@pytest.mark.parametrize(("scale", "zero_point"), [(6 / 255, -128), (2.0**-5, -128), (0.037, 3)])
def test_average_pool_rounds_half_away_on_the_raw_sum(window: tuple[int, int], scale: float, zero_point: int) -> None:
    random = np.random.default_rng(0)
    q = random.integers(-128, 128, (400, 3, *window))
    count = window[0] * window[1]
    for i in range(100):  # sums of (odd number) * count / 2, where that is an integer: ties
        q[i] = i // 2 % 7 * (-1) ** i
        q[i].reshape(3, -1)[:, : count // 2] += (-1) ** i
    s = torch.tensor([scale])
    pool = AveragePool(window)
    pool.input_quantizer = (SimpleNamespace(scale=s, zero_point=torch.tensor([zero_point]), fake_quant_enabled=True),)
    pooled = pool((torch.from_numpy(q) - zero_point).float() * s)
    got = torch.round(pooled / s).numpy().astype(int).reshape(400, 3) + zero_point
    sums = q.reshape(400, 3, -1).sum(2)
    exact = np.vectorize(lambda total: half_away(Fraction(int(total), count)))(sums)
    assert np.array_equal(got, exact)
    assert np.array_equal(got, divide_half_away(sums.astype(np.int32), count))
    assert torch.equal(pooled.reshape(400, 3), (torch.from_numpy(exact) - zero_point).float() * s)  # on the grid
    if count % 2 == 0:
        ties = 2 * np.abs(sums) % (2 * count) == count
        assert (ties & (sums > 0)).sum() >= 150
        assert (ties & (sums < 0)).sum() >= 150


def test_average_pool_has_the_gradient_of_the_plain_mean() -> None:
    pool = AveragePool((4, 2))
    pool.input_quantizer = (
        SimpleNamespace(scale=torch.tensor([0.1]), zero_point=torch.tensor([0]), fake_quant_enabled=True),
    )
    x = torch.randn(2, 3, 8, 4, requires_grad=True)
    weight = torch.randn(2, 3, 2, 2)
    (pool(x) * weight).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weight.repeat_interleave(4, 2).repeat_interleave(2, 3) / 8)


def test_average_pool_is_the_plain_mean_before_quantization() -> None:
    x = torch.randn(2, 3, 8, 4)
    assert torch.equal(AveragePool((8, 4))(x), nn.functional.avg_pool2d(x, (8, 4)))


def test_crop_and_features_as_channels_only_move_values() -> None:
    x = torch.arange(2 * 4 * 7 * 3).reshape(2, 4, 7, 3)
    nhwc = x.permute(0, 2, 3, 1)
    moved = FeaturesAsChannels()(x)
    assert torch.equal(moved.permute(0, 2, 3, 1), nhwc.reshape(2, 7, 1, 12))
    assert torch.equal(CropTime(2, 1)(x), x[:, :, 2:6])


def test_conv_bn_pads_with_zeros_on_each_side_as_told() -> None:
    block = ConvBn(1, 1, (3, 2), padding=((2, 0), (0, 1)), relu6=False).eval()
    nn.init.ones_(block.conv.weight)
    x = torch.ones(1, 1, 4, 5)
    expected = nn.functional.conv2d(nn.functional.pad(x, (0, 1, 2, 0)), torch.ones(1, 1, 3, 2))
    assert torch.allclose(block(x), expected / np.sqrt(1 + 1e-5), atol=1e-5)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU6()
        self.drop = nn.Dropout()
        self.add = Add()


class Twice(Two):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.relu(x)))


class Functional(Two):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(x) + x)


class Unread(Two):
    def forward(self, x: Tensor) -> Tensor:
        self.relu(x)
        return x


class Fine(Two):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.add(self.drop(self.relu(x)), x))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Twice(), "module 'relu': is called twice"),
        (Functional(), "Functional: operation 'add' is not a module"),
        (Unread(), "Unread: the output is not what the last module returns"),
    ],
)
def test_what_cannot_become_a_graph_is_named(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        trace(model)


def test_trace_names_inputs_and_leaves_out_what_changes_nothing() -> None:
    calls = trace(Fine())
    assert [(call.name, call.inputs) for call in calls] == [("relu", ("",)), ("add", ("relu", ""))]
    assert [call.name for call in consumers(calls, "relu")] == ["add"]
