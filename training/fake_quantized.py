# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""Fake-quantized convolution, with batch norm or without, and linear layer: torch's QAT modules with integer biases."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.ao.nn.intrinsic.qat import ConvBn2d
from torch.ao.nn.qat import Conv2d, Linear
from torch.nn import functional as F

from training.networks.layers import straight_through


class FakeQuantizedLayer:
    """What the fake-quantized layers share. `quantized()` gives (weight, bias), float32 values on their integer grids.

    In train mode the forward pass is torch's: float32 sums of those values. In eval mode it sums the integers q - Z,
    which float32 adds exactly in any order while they stay below 2^24 (symmetric weights: up to 518 terms), and applies
    S_in * S_w afterwards, in float64, which the output quantizer then rounds: what the integer graph computes.
    """

    input_quantizer: tuple[Any, ...] = ()  # a tuple, so that it is not a submodule of this one as well
    quantized: Any
    multiply: Any  # (input, weight, bias or None) -> sums

    def forward(self, input: Tensor) -> Tensor:
        layer = cast(Any, self)
        weight, bias = self.quantized()
        if layer.training or not self._on_grid:
            return cast(Tensor, self.multiply(input, weight, bias))
        step = bias_step(self)
        weight_q = torch.round(weight / layer.weight_fake_quant.scale.reshape(-1, *[1] * (weight.ndim - 1)))
        input_q = torch.round(input / layer.input_quantizer[0].scale)
        per_channel = (-1, *[1] * (weight.ndim - 2))
        bias_q = torch.round(bias.double() / step).reshape(per_channel)
        return cast(Tensor, (self.multiply(input_q, weight_q, None) + bias_q) * step.reshape(per_channel))

    @property
    def _on_grid(self) -> bool:
        return bool(self.input_quantizer) and bool(self.input_quantizer[0].fake_quant_enabled)

    def _snap(self, bias: Tensor) -> Tensor:
        """Half even to the int32 grid of (S_in * S_w, Z = 0), with a straight-through gradient."""
        if not self._on_grid:
            return bias
        with torch.no_grad():
            step = bias_step(self)
            exact = (torch.round(bias.double() / step) * step).to(bias.dtype)
        return straight_through(exact, bias)


class QatConv2d(FakeQuantizedLayer, Conv2d):
    """Convolution with fake-quantized weight and snapped bias."""

    def quantized(self) -> tuple[Tensor, Tensor]:
        weight: Tensor = self.weight_fake_quant(self.weight)
        bias = self.bias if self.bias is not None else weight.new_zeros(self.out_channels)
        return weight, self._snap(bias)

    def multiply(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return cast(Tensor, self._conv_forward(input, weight, bias))


class QatConvBn2d(FakeQuantizedLayer, ConvBn2d):
    """Convolution and batch norm as one layer. While the statistics are learned the forward pass is torch's own, which
    fake-quantizes the weight folded with the running statistics and normalizes with the batch's."""

    def quantized(self) -> tuple[Tensor, Tensor]:
        bn = cast(Any, self.bn)
        factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        weight = self.weight_fake_quant(self.weight * factor.reshape(-1, 1, 1, 1))
        return weight, self._snap(bn.bias - factor * bn.running_mean)

    def multiply(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return cast(Tensor, self._conv_forward(input, weight, bias))

    def train(self, mode: bool = True) -> QatConvBn2d:
        """Train or eval mode; a frozen batch norm stays as it is. torch's own method then leaves the quantizers too."""
        super().train(mode)
        for child in self.children():
            if child is not self.bn:
                child.train(mode)
        return self

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, ConvBn2d.forward(self, input)) if self.bn.training else super().forward(input)


class QatLinear(FakeQuantizedLayer, Linear):
    """Fully connected layer with fake-quantized weight and snapped bias."""

    def quantized(self) -> tuple[Tensor, Tensor]:
        return self.weight_fake_quant(self.weight), self._snap(self.bias)

    def multiply(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(input, weight, bias)


def bias_step(layer: Any) -> Tensor:
    """S_in * S_w of a fake-quantized layer, float64 (1,) or (out_channels,), in which that product is exact."""
    return cast(Tensor, layer.input_quantizer[0].scale.double() * layer.weight_fake_quant.scale.double())


def round_to_grid(quantizer: Any, x: Tensor) -> Tensor:
    """Half even: the float64 output of a FakeQuantizedLayer as float32 on the grid of a per-tensor fake quantizer.

    The quotient is taken in float64, where training takes float32(1 / S): no rounding but this one.
    """
    return on_grid(quantizer, torch.round(x.double() / quantizer.scale.double()) + quantizer.zero_point)


def on_grid(quantizer: Any, q: Tensor) -> Tensor:
    """The float32 reals that integral `q` stand for in a per-tensor fake quantizer, saturated: S * (q - Z)."""
    saturated = torch.clamp(q, quantizer.quant_min, quantizer.quant_max)
    return cast(Tensor, (saturated - quantizer.zero_point).float() * quantizer.scale)
