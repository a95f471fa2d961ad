# SPDX-License-Identifier: Apache-2.0
"""Batch norm folded into a convolution against PyTorch in eval mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from kws.arithmetic.batch_norm import fold_batch_norm
from kws.errors import QuantError

LAYERS = {
    "conv2d": (lambda bias: nn.Conv2d(5, 8, 3, bias=bias), nn.BatchNorm2d, (4, 5, 9, 7), 0),
    "depthwise": (lambda bias: nn.Conv2d(8, 8, 3, groups=8, bias=bias), nn.BatchNorm2d, (4, 8, 9, 7), 0),
    "conv1d": (lambda bias: nn.Conv1d(6, 8, 5, bias=bias), nn.BatchNorm1d, (4, 6, 20), 0),
    "linear": (lambda bias: nn.Linear(12, 8, bias=bias), nn.BatchNorm1d, (40, 12), 0),
    "transposed": (lambda bias: nn.ConvTranspose2d(5, 8, 3, bias=bias), nn.BatchNorm2d, (4, 5, 9, 7), 1),
}


def random_batch_norm(kind, eps):
    norm = kind(8, eps=eps)
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.01, 4)
    return norm


def numpy_of(*tensors):
    return [None if tensor is None else tensor.detach().numpy() for tensor in tensors]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_folded_layer_equals_layer_and_batch_norm(layer, bias, dtype, tolerance):
    make, kind, shape, channel_axis = LAYERS[layer]
    for seed, eps in enumerate([1e-5, 1e-3, 1e-5, 0.1]):
        torch.manual_seed(seed)
        conv, norm = make(bias).to(dtype), random_batch_norm(kind, eps).to(dtype)
        inputs = torch.randn(shape, dtype=dtype)
        expected = norm.eval()(conv(inputs))
        weight, folded_bias = fold_batch_norm(
            *numpy_of(conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var),
            eps,
            channel_axis=channel_axis,
        )
        folded = make(True).to(dtype)
        folded.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(folded_bias)})
        difference = (folded(inputs) - expected).abs().max() / expected.abs().max()
        assert difference <= tolerance
        assert weight.dtype == folded_bias.dtype == conv.weight.detach().numpy().dtype


def test_folding_by_hand():
    weight = np.array([[1.0, 2.0], [3.0, 4.0]])
    folded, bias = fold_batch_norm(
        weight,
        np.array([1.0, 0.0]),
        gamma=np.array([2.0, 3.0]),
        beta=np.array([0.5, -1.0]),
        mean=np.array([0.0, 2.0]),
        var=np.array([3.0, 8.0]),
        eps=1.0,
    )
    assert folded.tolist() == [[1.0, 2.0], [3.0, 4.0]]  # gamma / sqrt(var + eps) = 2 / 2 and 3 / 3
    assert bias.tolist() == [1.5, -3.0]
    assert weight.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_what_does_not_fit_is_refused():
    one, two = np.ones(1), np.ones(2)
    with pytest.raises(QuantError, match=r"mean of shape \(1,\) does not fit 2 output channels"):
        fold_batch_norm(np.ones((2, 3)), None, two, two, one, two, 1e-5)
    with pytest.raises(QuantError, match=r"var \+ eps of channel 1 is not positive"):
        fold_batch_norm(np.ones((2, 3)), None, two, two, two, np.array([1.0, -1.0]), 1e-5)
