# SPDX-License-Identifier: Apache-2.0
"""What all networks share: the stubs around them, the mean over time and features, the linear layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from training.networks.layers import AveragePool, FeaturesAsChannels
from training.qat import DeQuantStub, QuantStub, fuse_conv_bn


class KeywordNetwork(nn.Module):
    """Float features (B, 1, T, F) -> logits (B, n_labels): `first`, `blocks`, the mean over `window`, a linear layer.

    `window` is what they leave of (time, features), in `channels` channels. With `as_channels` the features of a frame
    are the channels of `first`.
    """

    def __init__(
        self,
        first: nn.Module,
        blocks: Iterable[nn.Module],
        *,
        window: tuple[int, int],
        channels: int,
        n_labels: int,
        dropout: float,
        as_channels: bool = False,
    ) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.as_channels: nn.Module = FeaturesAsChannels() if as_channels else nn.Identity()
        self.first = first
        self.blocks = nn.Sequential(*blocks)
        self.pool = AveragePool(window)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, n_labels)
        self.dequant = DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.first(self.as_channels(self.quant(x))))
        return cast(Tensor, self.dequant(self.classifier(self.dropout(self.flatten(self.pool(x))))))

    def fuse_model(self) -> None:
        """Folds each batch norm into its convolution, for QAT in train mode and for PTQ in eval mode."""
        fuse_conv_bn(self)
