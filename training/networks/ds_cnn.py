# SPDX-License-Identifier: Apache-2.0
"""DS-CNN: a convolution, then depthwise separable blocks (Zhang et al., "Hello Edge", 2017, arXiv 1711.07128)."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from training.networks.layers import AveragePool, ConvBn, same_padding
from training.qat import DeQuantStub, QuantStub, fuse_conv_bn

SIZES = {"ds-cnn-s": (64, 4), "ds-cnn-m": (172, 4), "ds-cnn-l": (276, 5)}
"""Channels and blocks. With 49 x 10 features and 12 labels: 22,604, 135,032 and 410,700 parameters after fusion."""

FIRST_KERNEL_FRAMES = 10


class DsCnn(nn.Module):
    """Float features (B, 1, T, F) -> logits (B, n_labels).

    The first convolution's strides leave about 25 positions in time and, over features, 5 (10 coefficients) or 10 (40
    bands): 40 bands cost twice what 10 coefficients cost, not four times. Its kernel is 10 frames by twice its stride
    over features. All paddings are those that TFLite calls SAME.
    """

    def __init__(
        self, input_shape: tuple[int, int], n_labels: int, *, channels: int, blocks: int, dropout: float = 0.2
    ) -> None:
        super().__init__()
        time, features = input_shape
        stride = (2 if time <= 64 else 4, 2 if features <= 20 else 4)
        kernel = (FIRST_KERNEL_FRAMES, 2 * stride[1])
        rows, top, bottom = same_padding(time, kernel[0], stride[0])
        columns, left, right = same_padding(features, kernel[1], stride[1])
        self.quant = QuantStub()
        self.first = ConvBn(1, channels, kernel, stride=stride, padding=((top, bottom), (left, right)))
        self.blocks = nn.ModuleList(_Block(channels) for _ in range(blocks))
        self.pool = AveragePool((rows, columns))
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, n_labels)
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.quant(x))
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.dequant(self.classifier(self.dropout(self.flatten(self.pool(x))))))

    def fuse_model(self) -> None:
        """Folds each batch norm into its convolution, for QAT in train mode and for PTQ in eval mode."""
        fuse_conv_bn(self)


class _Block(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, each with batch norm and ReLU6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = ConvBn(channels, channels, (3, 3), padding=((1, 1), (1, 1)), groups=channels)
        self.pointwise = ConvBn(channels, channels, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.pointwise(self.depthwise(x)))
