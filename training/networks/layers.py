# SPDX-License-Identifier: Apache-2.0
"""The modules that networks are written with: everything that the forward pass of a network does is a call of one.

Tensors are (B, C, T, F): batch, channels, time, features. Linear layers take (B, C).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn import functional as F


class _StraightThrough(torch.autograd.Function):
    """Forward: `exact`. Backward: the gradient goes to `smooth` as if it had been the output."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, smooth: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0]


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """`exact` (rounded, without a gradient) in the forward pass, with the gradient of `smooth`."""
    return cast(Tensor, _StraightThrough.apply(exact, smooth))  # type: ignore[no-untyped-call]


class ConvBn(nn.Module):
    """Zero padding, convolution, batch norm and, if `relu6`, ReLU6: one op of the integer graph.

    `padding` is ((top, bottom), (left, right)), in zeros; top and bottom are in time.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
        groups: int = 1,
        relu6: bool = True,
    ) -> None:
        super().__init__()
        (top, bottom), (left, right) = padding
        padded = any((top, bottom, left, right))
        self.pad: nn.Module = nn.ZeroPad2d((left, right, top, bottom)) if padded else nn.Identity()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu: nn.Module = nn.ReLU6() if relu6 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.bn(self.conv(self.pad(x)))))


class AveragePool(nn.Module):
    """Mean over windows of (time, features), rounded half away from zero once its input is fake-quantized.

    That is the graph's average pool: int32 sum of the int8 values, ties away from zero on the raw sum, the same (S, Z)
    in and out. `training.qat` sets `input_quantizer`, the fake quantizer whose grid the input lies on; before that, and
    while that quantizer is off, this is the plain mean. The gradient is the plain mean's.
    """

    def __init__(self, window: tuple[int, int]) -> None:
        super().__init__()
        self.window = window
        self.input_quantizer: tuple[Any, ...] = ()  # a tuple, so that it is not a submodule of this one as well

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, self.window)
        if not self.input_quantizer or not self.input_quantizer[0].fake_quant_enabled:
            return mean
        scale, zero_point = self.input_quantizer[0].scale, self.input_quantizer[0].zero_point
        count = self.window[0] * self.window[1]
        with torch.no_grad():
            q = torch.round(x / scale) + zero_point
            total = F.avg_pool2d(q, self.window, divisor_override=1)  # exact: integers, at most 2^7 * count < 2^24
            # (2 |sum| + n) / 2n lies at least 1 / 2n from the next integer, far more than float32 rounds at |q| <= 128
            rounded = torch.sign(total) * torch.floor((2 * total.abs() + count) / (2 * count))
            exact = (rounded - zero_point) * scale
        return straight_through(exact, mean)

    def extra_repr(self) -> str:
        return f"window={self.window}"


class Add(nn.Module):
    """Sum of two tensors of one shape, through torch's FloatFunctional, which carries the fake quantizer of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.functional = FloatFunctional()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.functional.add(a, b)


class CropTime(nn.Module):
    """Drops `begin` frames in front and `end` at the back: the graph's slice, a delay where the network streams."""

    def __init__(self, begin: int, end: int) -> None:
        super().__init__()
        self.begin, self.end = begin, end

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.begin : x.shape[2] - self.end]

    def extra_repr(self) -> str:
        return f"begin={self.begin}, end={self.end}"


class FeaturesAsChannels(nn.Module):
    """(B, C, T, F) -> (B, F C, T, 1): a reshape in the graph, where channels come last."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2).flatten(1, 2).unsqueeze(3)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """(outputs, padding before, padding after) of TFLite's SAME along one axis: the odd zero goes behind."""
    outputs = -(-size // stride)
    total = max(0, (outputs - 1) * stride + kernel - size)
    return outputs, total // 2, total - total // 2
