# SPDX-License-Identifier: Apache-2.0
"""The networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from kws.errors import UsageError
from training.networks.ds_cnn import SIZES, DsCnn
from training.networks.tc_resnet import TcResNet, TcResNet8, TcStream

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{name: partial(DsCnn, channels=channels, blocks=blocks) for name, (channels, blocks) in SIZES.items()},
    "tc-resnet": TcResNet,
    "tc-resnet8": TcResNet8,
    "tc-stream": TcStream,
}


def build(name: str, input_shape: tuple[int, int], n_labels: int, *, dropout: float = 0.2) -> nn.Module:
    """A float network, initialized from torch's random state: features (B, 1, T, F) -> logits (B, n_labels).

    `input_shape` is (T, F). Networks have `fuse_model()`. Raises UsageError for an unknown name or a shape too small.
    """
    if name not in NETWORKS:
        raise UsageError(f"network '{name}' is unknown", hint=f"choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](input_shape, n_labels, dropout=dropout)
