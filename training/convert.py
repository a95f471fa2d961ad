# SPDX-License-Identifier: Apache-2.0
"""From the fake-quantized network in torch to the integer graph: the same numbers, read off their grids.

Each convolution, linear layer or sum, together with the ReLU6 and the zero padding around it, becomes one op that is
named after its module. Weights and biases are the values that the forward pass uses, divided by their scales.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from deploy.graph import Graph, GraphBuilder
from deploy.tensor import Shape
from kws.arithmetic.quant import QuantParams, clamp_range
from kws.errors import ModelError
from training.fake_quantized import bias_step
from training.networks.layers import Add, AveragePool, CropTime, FeaturesAsChannels
from training.qat import DeQuantStub, QuantStub, op_quantizer, quantizer_of
from training.trace import Call, trace

INPUT = "input"


def convert(model: nn.Module, input_shape: tuple[int, int, int], rounding: str = "single") -> Graph:
    """The graph of a frozen fake-quantized network from `training.qat`, every requantization under `rounding`.

    `input_shape` is (T, F, channels), as the front-end has it. Raises ModelError for a module that has no integer op,
    and for a network whose observers are still on.
    """
    if any(getattr(module, "observer_enabled", False) for module in model.modules()):
        hint = "call training.qat.freeze or calibrate first"
        raise ModelError("the observers are still on", where=type(model).__name__, hint=hint)
    calls = trace(model)
    shapes = _output_shapes(model, calls, input_shape)
    tensors = tensor_names(calls)
    builder = GraphBuilder(rounding)
    for call in calls:
        _convert_call(builder, call, calls, tensors, shapes)
    return builder.finish(tensors[calls[-1].name])


def tensor_names(calls: list[Call]) -> dict[str, str]:
    """The name of the graph's tensor that holds what each call returns, by call name.

    A ReLU6 and what changes no value share the tensor of the op before; so does zero padding, which the convolution
    after it does itself.
    """
    names: dict[str, str] = {}
    for call in calls:
        if isinstance(call.module, QuantStub):
            names[call.name] = INPUT
        elif isinstance(call.module, nn.ReLU6 | nn.ZeroPad2d | DeQuantStub):
            names[call.name] = names[call.inputs[0]]
        else:
            names[call.name] = call.name
    return names


def quant_params(quantizer: nn.Module) -> QuantParams:
    """(S, Z) of a per-tensor fake quantizer."""
    state = cast(Any, quantizer)
    return QuantParams(float(state.scale), int(state.zero_point))


def _convert_call(
    builder: GraphBuilder, call: Call, calls: list[Call], tensors: dict[str, str], shapes: dict[str, Shape]
) -> None:
    module, name = call.module, call.name
    xs = [tensors[x] for x in call.inputs if x]
    match module:
        case QuantStub():
            builder.input(shapes[name], quant_params(op_quantizer(call, calls)), INPUT)
        case _ConvNd():
            _convert_conv(builder, call, calls, xs[0])
        case nn.Linear():
            builder.fully_connected(xs[0], name, *_constants(module), **_output(call, calls))
        case Add():
            builder.add(xs[0], xs[1], name, **_output(call, calls))
        case AveragePool():
            builder.average_pool(xs[0], name, module.window)
        case CropTime():
            builder.slice(xs[0], name, begin=(module.begin, 0, 0), size=shapes[name])
        case FeaturesAsChannels() | nn.Flatten():
            builder.reshape(xs[0], name, shape=shapes[name])
        case nn.ReLU6() | nn.ZeroPad2d() | DeQuantStub():
            pass
        case _:
            raise ModelError(f"{type(module).__name__} has no integer op", where=f"module '{name}'")


def _convert_conv(builder: GraphBuilder, call: Call, calls: list[Call], x: str) -> None:
    conv = cast(Any, call.module)
    weight, scale, zero_point, bias = _constants(conv)
    depthwise = conv.groups > 1
    if tuple(conv.dilation) != (1, 1) or conv.groups not in (1, conv.in_channels) or (
        depthwise and conv.in_channels != conv.out_channels
    ):  # fmt: skip
        what = f"a convolution with dilation {conv.dilation} and {conv.groups} groups has no integer op"
        raise ModelError(what, where=f"module '{call.name}'")
    add = builder.depthwise_conv2d if depthwise else builder.conv2d
    weight = np.ascontiguousarray(weight.transpose(1, 2, 3, 0) if depthwise else weight.transpose(0, 2, 3, 1))
    padding = _padding(call, calls)
    add(x, call.name, weight, scale, zero_point, bias, stride=conv.stride, padding=padding, **_output(call, calls))


def _padding(call: Call, calls: list[Call]) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)): the convolution's own padding and that of a ZeroPad2d before it."""
    vertical, horizontal = cast(Any, call.module).padding
    left, right, top, bottom = 0, 0, 0, 0
    for before in calls:
        if before.name in call.inputs and isinstance(before.module, nn.ZeroPad2d):
            left, right, top, bottom = before.module.padding
    return (vertical + top, vertical + bottom), (horizontal + left, horizontal + right)


def _constants(layer: Any) -> tuple[NDArray[np.int8], float | list[float], int, NDArray[np.int32]]:
    """Weight int8 in torch's layout, its scale or scales, its zero point, and the bias int32.

    The values that the forward pass uses are S (q - Z) in float32, so q is read off, not rounded a second time.
    """
    with torch.no_grad():
        weight, bias = layer.quantized()
    quantizer = layer.weight_fake_quant
    scale, zero_point = quantizer.scale.double(), int(quantizer.zero_point[0])
    steps = weight.double() / scale.reshape(-1, *[1] * (weight.ndim - 1))
    weight_q = (torch.round(steps) + zero_point).to(torch.int8).numpy()
    bias_q = torch.round(bias.double() / bias_step(layer)).to(torch.int32).numpy()
    scales: list[float] = scale.tolist()
    return weight_q, scales if quantizer.is_per_channel else scales[0], zero_point, bias_q


def _output(call: Call, calls: list[Call]) -> dict[str, Any]:
    """Output domain and clamp of an op. A ReLU6 is the clamp to [0, 6]; for affine scales those are int8's own ends."""
    params = quant_params(op_quantizer(call, calls))
    low, high = params.qmin, params.qmax
    if quantizer_of(call.module) is None:
        low, high = clamp_range(0.0, 6.0, params)
    return {"output": params, "activation_min": low, "activation_max": high}


def _output_shapes(model: nn.Module, calls: list[Call], input_shape: tuple[int, int, int]) -> dict[str, Shape]:
    """What each call returns for one clip, without the batch axis, as the graph lays it out: (H, W, C) or (C,)."""
    shapes: dict[str, Shape] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            shape = tuple(output.shape[1:])
            shapes[name] = (*shape[1:], shape[0])

        return hook

    hooks = [call.module.register_forward_hook(keep(call.name)) for call in calls]
    time, features, channels = input_shape
    with torch.no_grad():
        model.eval()(torch.zeros(1, channels, time, features))
    for hook in hooks:
        hook.remove()
    return shapes
