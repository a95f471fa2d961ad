# SPDX-License-Identifier: Apache-2.0
"""Residual networks that are 1-D over time, after TC-ResNet (Choi et al., 2019, arXiv 1904.03814), two that stream.

The features of a frame are the channels of a layer, so a frame costs one column of each. What streams has no padding in
time: each convolution shortens its input by kernel - 1 frames and the skip path is cropped by as much, which in
streaming is a delay. So a window has the same output wherever it lies in the stream.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from kws.errors import UsageError
from training.networks.layers import Add, ConvBn, CropTime, FeaturesAsChannels, same_padding
from training.networks.network import KeywordNetwork

CHANNELS = (24, 32, 40, 56)
FIRST_KERNEL = 3
KERNEL = 7


class TcResNet(KeywordNetwork):
    """Float features (B, 1, T, F) -> logits (B, n_labels).

    More than 64 frames are halved by the first layer's stride: one output for two frames. Raises UsageError where T is
    too short for the receptive field.
    """

    def __init__(self, input_shape: tuple[int, int], n_labels: int, *, dropout: float = 0.2) -> None:
        time, features = input_shape
        stride = 1 if time <= 64 else 2
        frames = (time - FIRST_KERNEL) // stride + 1 - 2 * (KERNEL - 1) * (len(CHANNELS) - 1)
        if frames < 1:
            needed = stride * (2 * (KERNEL - 1) * (len(CHANNELS) - 1)) + FIRST_KERNEL
            raise UsageError(f"tc-resnet needs at least {needed} frames, not {time}", hint="take a shorter hop")
        super().__init__(
            ConvBn(features, CHANNELS[0], (FIRST_KERNEL, 1), stride=(stride, 1)),
            (_Block(before, after) for before, after in pairwise(CHANNELS)),
            window=(frames, 1), channels=CHANNELS[-1], n_labels=n_labels, dropout=dropout, as_channels=True,
        )  # fmt: skip


class _Block(nn.Module):
    """ReLU6(conv(conv(x)) + 1x1 conv of the cropped x)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvBn(in_channels, out_channels, (KERNEL, 1))
        self.conv2 = ConvBn(out_channels, out_channels, (KERNEL, 1), relu6=False)
        self.crop = CropTime(KERNEL - 1, KERNEL - 1)
        self.skip = ConvBn(in_channels, out_channels, (1, 1), relu6=False)
        self.add = Add()
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.add(self.conv2(self.conv1(x)), self.skip(self.crop(x)))))


STEM_CHANNELS = 16
STEM_KERNEL = (3, 5)  # frames, bands
STEM_STRIDES = (1, 2)  # in time, of its two convolutions
STREAM_CHANNELS = (48, 64, 80, 112)
STREAM_KERNELS = (5, 5, 5)
STREAM_STRIDES = (1, 2, 1)  # an output for 4 frames: 40 ms at a hop of 10


class TcStream(KeywordNetwork):
    """Float features (B, 1, T, F) -> logits (B, n_labels): a stem that moves over time and bands, then 1-D blocks.

    The stem finds the same pattern in any band, which 1-D convolutions must learn for each; it halves the bands twice.
    Nothing pads in time, so it streams. A column of the last layer sees 77 frames; of the six that a window of 98
    gives, the mean is taken, so that a word may lie anywhere in it. Raises UsageError where T is below 77.
    """

    def __init__(self, input_shape: tuple[int, int], n_labels: int, *, dropout: float = 0.2) -> None:
        time, features = input_shape
        stem, bands = [], features
        for in_channels, stride in zip((1, STEM_CHANNELS), STEM_STRIDES, strict=True):
            bands, before, behind = same_padding(bands, STEM_KERNEL[1], 2)
            padding = ((0, 0), (before, behind))
            stem.append(ConvBn(in_channels, STEM_CHANNELS, STEM_KERNEL, stride=(stride, 2), padding=padding))
        mix = ConvBn(bands * STEM_CHANNELS, STREAM_CHANNELS[0], (1, 1))
        blocks, left = [], (time - 2 * STEM_KERNEL[0] + 1) // STEM_STRIDES[1] + 1
        layout = zip(pairwise(STREAM_CHANNELS), STREAM_KERNELS, STREAM_STRIDES, strict=True)
        for (before, after), kernel, stride in layout:
            block = _CroppedBlock(before, after, kernel, stride, left)
            blocks.append(block)
            left = block.time
        if left < 1:
            hint = "take preset mfb40-10ms, or network ds-cnn-s"
            raise UsageError(f"tc-stream needs at least 77 frames, not {time}", hint=hint)
        super().__init__(
            nn.Sequential(*stem, FeaturesAsChannels(), mix), blocks,
            window=(left, 1), channels=STREAM_CHANNELS[-1], n_labels=n_labels, dropout=dropout,
        )  # fmt: skip


class _CroppedBlock(nn.Module):
    """ReLU6(conv(conv(x)) + 1x1 conv of the middle of x); the first convolution and the last have the stride.

    Of `time` frames it leaves `self.time`. The crop takes the middle frame of those that an output sees.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, time: int) -> None:
        super().__init__()
        self.time = (time - kernel) // stride + 1 - (kernel - 1)
        middle = (kernel - 1) * (1 + stride) // 2
        self.conv1 = ConvBn(in_channels, out_channels, (kernel, 1), stride=(stride, 1))
        self.conv2 = ConvBn(out_channels, out_channels, (kernel, 1), relu6=False)
        self.crop = CropTime(middle, max(0, time - middle - (self.time - 1) * stride - 1))
        self.skip = ConvBn(in_channels, out_channels, (1, 1), stride=(stride, 1), relu6=False)
        self.add = Add()
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.add(self.conv2(self.conv1(x)), self.skip(self.crop(x)))))


WIDE = (24, 36, 48, 72)  # 1.5 times TC-ResNet8
WIDE_KERNEL = 9


class TcResNet8(KeywordNetwork):
    """Float features (B, 1, T, F) -> logits (B, n_labels): TC-ResNet8-1.5, paddings as TFLite's SAME."""

    def __init__(self, input_shape: tuple[int, int], n_labels: int, *, dropout: float = 0.2) -> None:
        time, features = input_shape
        times = [time]
        for _ in WIDE[1:]:
            times.append(-(-times[-1] // 2))
        super().__init__(
            ConvBn(features, WIDE[0], (FIRST_KERNEL, 1), padding=((1, 1), (0, 0))),
            (_StridedBlock(*channels, time) for channels, time in zip(pairwise(WIDE), times, strict=False)),
            window=(times[-1], 1), channels=WIDE[-1], n_labels=n_labels, dropout=dropout, as_channels=True,
        )  # fmt: skip


class _StridedBlock(nn.Module):
    """ReLU6(conv(conv(x)) + ReLU6(1x1 conv of x)), at half the rate of x, which has `time` frames."""

    def __init__(self, in_channels: int, out_channels: int, time: int) -> None:
        super().__init__()
        half, before, behind = same_padding(time, WIDE_KERNEL, 2)
        _, top, bottom = same_padding(half, WIDE_KERNEL, 1)
        self.conv1 = ConvBn(
            in_channels, out_channels, (WIDE_KERNEL, 1), stride=(2, 1), padding=((before, behind), (0, 0))
        )
        self.conv2 = ConvBn(out_channels, out_channels, (WIDE_KERNEL, 1), padding=((top, bottom), (0, 0)), relu6=False)
        self.skip = ConvBn(in_channels, out_channels, (1, 1), stride=(2, 1))
        self.add = Add()
        self.relu = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.add(self.conv2(self.conv1(x)), self.skip(x))))
