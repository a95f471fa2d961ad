# SPDX-License-Identifier: Apache-2.0
"""DS-CNN: a convolution, then depthwise separable blocks (Zhang et al., "Hello Edge", 2017, arXiv 1711.07128)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from training.networks.layers import ConvBn, same_padding
from training.networks.network import KeywordNetwork

SIZES = {"ds-cnn-s": (64, 4), "ds-cnn-m": (172, 4), "ds-cnn-l": (276, 5)}
"""Channels and blocks. With 49 x 10 features and 12 labels: 22,604, 135,032 and 410,700 parameters after fusion."""

FIRST_KERNEL_FRAMES = 10


class DsCnn(KeywordNetwork):
    """Float features (B, 1, T, F) -> logits (B, n_labels).

    The first convolution's strides leave about 25 positions in time and, over features, 5 (10 coefficients) or 10 (40
    bands): 40 bands cost twice what 10 coefficients cost, not four times. Its kernel is 10 frames by twice its stride
    over features. All paddings are those that TFLite calls SAME.
    """

    def __init__(
        self, input_shape: tuple[int, int], n_labels: int, *, channels: int, blocks: int, dropout: float = 0.2
    ) -> None:
        time, features = input_shape
        stride = (2 if time <= 64 else 4, 2 if features <= 20 else 4)
        kernel = (FIRST_KERNEL_FRAMES, 2 * stride[1])
        rows, top, bottom = same_padding(time, kernel[0], stride[0])
        columns, left, right = same_padding(features, kernel[1], stride[1])
        super().__init__(
            ConvBn(1, channels, kernel, stride=stride, padding=((top, bottom), (left, right))),
            (_Block(channels) for _ in range(blocks)),
            window=(rows, columns), channels=channels, n_labels=n_labels, dropout=dropout,
        )  # fmt: skip


class _Block(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and ReLU6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = ConvBn(channels, channels, (3, 3), padding=((1, 1), (1, 1)), groups=channels)
        self.pointwise = ConvBn(channels, channels, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.pointwise(self.depthwise(x)))
