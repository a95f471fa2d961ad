# SPDX-License-Identifier: Apache-2.0
"""Graphs that several tests of deploy/ build."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from deploy.graph import Graph, GraphBuilder
from kws.arithmetic.quant import QuantParams


def float32(value: float) -> float:
    return float(np.float32(value))


def build_every_op(rounding: str = "single") -> Graph:
    """A small network (10, 6, 2) -> 5 classes in which every op occurs, per-channel and affine weights both."""
    rng = np.random.default_rng(3)
    builder = GraphBuilder(rounding)
    relu6 = QuantParams(float32(6 / 255), -128)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def bias(channels: int) -> np.ndarray:
        return rng.integers(-2000, 2000, channels).astype(np.int32)

    x = builder.input((10, 6, 2), QuantParams(float32(0.1), 3))
    x = builder.pad(x, "pad", paddings=((1, 0), (0, 0), (0, 0)))
    scales = [float32(s) for s in rng.uniform(0.002, 0.01, 4)]
    x = builder.conv2d(x, "conv", weight(4, 3, 2, 2), scales, 0, bias(4), padding=((1, 1), (0, 1)), output=relu6)
    x = builder.max_pool(x, "max_pool", (2, 1), stride=(1, 1), padding=((0, 1), (0, 0)))
    y = builder.depthwise_conv2d(
        x, "depthwise", weight(1, 3, 3, 4), float32(0.004), 7, None, padding=((1, 1), (1, 1)), output=relu6
    )
    z = builder.conv2d(y, "pointwise", weight(4, 1, 1, 4), float32(0.005), -11, bias(4), output=relu6)
    x = builder.add(x, z, "add", output=QuantParams(float32(12 / 255), -128))
    x = builder.average_pool(x, "average_pool", (2, 2), padding=((1, 0), (0, 0)))
    left = builder.slice(x, "slice", begin=(1, 0, 0), size=(5, 3, 4))
    right = builder.slice(x, "slice_end", begin=(1, 0, 0), size=(5, 3, 1))
    x = builder.concatenation((left, right), "concatenation", axis=2, output=QuantParams(float32(11 / 255), -128))
    gate = builder.mean(x, "gate_mean", output=QuantParams(0.0625, -5), keep_dims=True)
    gate = builder.conv2d(gate, "gate_conv", weight(5, 1, 1, 5), 2.0**-8, 0, bias(5), output=QuantParams(0.03125, 9))
    x = builder.mul(builder.logistic(gate, "logistic"), x, "mul", output=QuantParams(float32(7 / 255), -128))
    flat = builder.reshape(builder.mean(x, "mean", output=relu6, keep_dims=True), "reshape", shape=(5,))
    x = builder.fully_connected(flat, "dense", weight(5, 5), float32(0.01), 2, bias(5), output=QuantParams(0.0625, 1))
    return builder.finish(builder.softmax(x, "softmax"))


@pytest.fixture(scope="session")
def every_op() -> Callable[[str], Graph]:
    return build_every_op
