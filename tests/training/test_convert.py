# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import deploy.ops.add
from deploy.graph import Graph
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from kws.errors import ModelError
from training import qat
from training.convert import convert
from training.fake_quantized import FakeQuantizedLayer, bias_step
from training.networks.layers import Add, ConvBn
from training.qat import QuantScheme

AFFINE = QuantScheme()
SCHEMES = (AFFINE, QuantScheme(scheme="pow2"), QuantScheme(weights="per-tensor"))
SHAPE = (49, 10, 1)


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops]


def test_ds_cnn_becomes_one_op_a_block(networks: Any) -> None:
    graph = convert(networks.fake_quantized("ds-cnn-s", AFFINE), SHAPE)
    blocks = ["depthwise_conv2d", "conv2d"] * 4
    assert kinds(graph) == ["conv2d", *blocks, "average_pool", "reshape", "fully_connected"]
    assert [op.name for op in graph.ops][:3] == ["first.conv", "blocks.0.depthwise.conv", "blocks.0.pointwise.conv"]
    attributes = graph.ops[0].attributes
    assert isinstance(attributes, Conv2d)
    assert attributes.padding == ((4, 5), (1, 1))
    assert graph.input_shape == SHAPE
    assert graph.output_shape == (12,)
    assert graph.rounding == "single"


def test_tc_resnet_becomes_reshape_slices_and_sums(networks: Any) -> None:
    graph = convert(networks.fake_quantized("tc-resnet", AFFINE), SHAPE)
    block = ["conv2d", "conv2d", "slice", "conv2d", "add"]
    assert kinds(graph) == ["reshape", "conv2d", *3 * block, "average_pool", "reshape", "fully_connected"]
    assert all(getattr(op.attributes, "padding", ((0, 0), (0, 0))) == ((0, 0), (0, 0)) for op in graph.ops)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["ds-cnn-s", "tc-resnet"])
def test_no_relu6_is_left_but_its_clamp(networks: Any, name: str, scheme: QuantScheme) -> None:
    graph = convert(networks.fake_quantized(name, scheme), SHAPE)
    clamped = 0
    for op in graph.ops:
        assert "relu" not in op.kind
        if isinstance(op.attributes, Conv2d | DepthwiseConv2d | FullyConnected | deploy.ops.add.Add):
            requant = op.attributes.requant
            output = graph.tensors[op.output].params
            after_relu6 = output.scale == float(np.float32(2.0**-5 if scheme.power_of_two else 6 / 255))
            if after_relu6 and output.zero_point == -128:
                clamped += 1
                top = -128 + 192 if scheme.power_of_two else 127
                assert (requant.activation_min, requant.activation_max) == (-128, top)
            else:
                assert (requant.activation_min, requant.activation_max) == (-128, 127)
    assert clamped >= (9 if name == "ds-cnn-s" else 7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integers_stand_for_the_values_that_the_forward_pass_uses(networks: Any, scheme: QuantScheme) -> None:
    model = networks.fake_quantized("ds-cnn-s", scheme)
    graph = convert(model, SHAPE)
    modules = dict(model.named_modules())
    compared = 0
    for op in graph.ops:
        module: Any = modules[op.name]
        if not isinstance(module, FakeQuantizedLayer):
            continue
        weight, bias = (value.detach() for value in module.quantized())
        _, weight_tensor, bias_tensor = graph.inputs_of(op)
        assert weight_tensor.data is not None
        assert bias_tensor.data is not None
        axes = {"conv2d": (0, 3, 1, 2), "depthwise_conv2d": (3, 0, 1, 2), "fully_connected": (0, 1)}[op.kind]
        q = weight_tensor.data.transpose(axes).astype(np.float32) - weight_tensor.zero_point
        scales = np.asarray(weight_tensor.scale, np.float32).reshape(-1, *[1] * (q.ndim - 1))
        assert np.array_equal(q * scales, weight.numpy())
        assert np.array_equal((bias_tensor.data * bias_step(module).numpy()).astype(np.float32), bias.numpy())
        compared += 1
    assert compared == 10


def test_per_tensor_weights_keep_their_zero_points(networks: Any) -> None:
    graph = convert(networks.fake_quantized("ds-cnn-s", QuantScheme(weights="per-tensor")), SHAPE)
    weights = [tensor for name, tensor in graph.tensors.items() if name.endswith("/weight")]
    assert all(isinstance(tensor.scale, float) for tensor in weights)
    assert sum(tensor.zero_point != 0 for tensor in weights) >= 5


def test_rounding_is_that_of_every_op(networks: Any) -> None:
    model = networks.fake_quantized("tc-resnet", AFFINE)
    graph = convert(model, SHAPE, rounding="tflm")
    assert graph.rounding == "tflm"
    same = convert(model, SHAPE).with_rounding("tflm")
    for a, b in zip(graph.ops, same.ops, strict=True):
        assert repr(a.attributes) == repr(b.attributes)


def test_ptq_networks_convert_as_well(networks: Any) -> None:
    model = qat.prepare_ptq(networks.trained("tc-resnet"), AFFINE)
    qat.calibrate(model, [networks.data(32, 1)[0]])
    assert kinds(convert(model, SHAPE)) == kinds(convert(networks.fake_quantized("tc-resnet", AFFINE), SHAPE))


def test_a_network_whose_ranges_still_move_is_refused(networks: Any) -> None:
    model = qat.prepare_qat(networks.trained("tc-resnet"), AFFINE)
    with pytest.raises(ModelError, match=r"observers are still on \(call training.qat.freeze"):
        convert(model, SHAPE)


class Net(nn.Module):
    """One body between stubs, on inputs (B, 4, 8, 8)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.quant, self.body, self.dequant = qat.QuantStub(), body, qat.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.dequant(self.body(self.quant(x))))

    def fuse_model(self) -> None:
        qat.fuse_conv_bn(self)


def quantized(body: nn.Module) -> nn.Module:
    model = qat.prepare_ptq(Net(body), AFFINE)
    qat.calibrate(model, [torch.randn(4, 4, 8, 8)])
    return model


class Shared(nn.Module):
    """A ReLU6 and a sum read the same convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.add = nn.Conv2d(4, 4, 1), nn.ReLU6(), Add()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return cast(Tensor, self.add(self.relu(x), x))


def test_a_relu6_that_shares_its_input_is_refused() -> None:
    with pytest.raises(ModelError, match=r"module 'body.conv': feeds a ReLU6 and another module"):
        convert(quantized(Shared()), (8, 8, 4))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (nn.Conv2d(4, 4, 3, dilation=2), r"module 'body': a convolution with dilation \(2, 2\) and 1 groups"),
        (nn.Conv2d(4, 4, 3, groups=2), r"module 'body': a convolution with dilation \(1, 1\) and 2 groups"),
        (nn.Conv2d(4, 8, 3, groups=4), r"module 'body': a convolution with dilation \(1, 1\) and 4 groups"),
        (nn.MaxPool2d(2), r"module 'body': MaxPool2d has no integer op"),
    ],
)
def test_modules_without_an_integer_op_are_named(body: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        convert(quantized(body), (8, 8, 4))


def test_a_convolution_without_batch_norm_and_with_padding_of_its_own_converts() -> None:
    model = quantized(nn.Sequential(nn.ZeroPad2d((1, 0, 0, 1)), nn.Conv2d(4, 6, 3, padding=1, bias=False)))
    graph = convert(model, (8, 8, 4))
    attributes = graph.ops[0].attributes
    assert isinstance(attributes, Conv2d)
    assert attributes.padding == ((1, 2), (2, 1))
    assert graph.output_shape == (9, 9, 6)
    bias = graph.tensors[f"{graph.ops[0].name}/bias"].data
    assert bias is not None
    assert not bias.any()


def test_converting_changes_nothing_in_the_network(networks: Any) -> None:
    model = networks.fake_quantized("tc-resnet", AFFINE)
    twin = copy.deepcopy(model)
    convert(model, SHAPE)
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_conv_bn_without_relu6_has_its_own_range() -> None:
    torch.manual_seed(0)
    graph = convert(quantized(ConvBn(4, 5, (3, 3), relu6=False)), (8, 8, 4))
    assert graph.output_params.zero_point != -128
