# SPDX-License-Identifier: Apache-2.0
"""A graph of every op in forms that a TensorFlow Lite file holds: for the tests of export and import."""

from __future__ import annotations

from typing import Any

import numpy as np

from deploy.graph import Graph, GraphBuilder
from kws.arithmetic.quant import QuantParams


def every_op_of_tflite(rounding: str, *, power_of_two: bool) -> Graph:
    """(10, 6, 2) -> 5 classes: every op, in forms that TensorFlow Lite holds, SAME, VALID and other paddings."""
    rng = np.random.default_rng(5)
    builder = GraphBuilder(rounding)

    def scale(value: float) -> float:
        return 2.0 ** round(np.log2(value)) if power_of_two else float32(value)

    def scales(n: int, low: float, high: float) -> list[float]:
        return [scale(s) for s in rng.uniform(low, high, n)]

    def weight(*shape: int) -> Any:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def bias(channels: int) -> Any:
        return rng.integers(-2000, 2000, channels).astype(np.int32)

    relu6 = QuantParams(2.0**-5, -128) if power_of_two else QuantParams(float32(6 / 255), -128)
    clamp: dict[str, int] = {"activation_max": 64} if power_of_two else {}
    x = builder.input((10, 6, 2), QuantParams(scale(0.1), 3))
    x = builder.pad(x, "pad", paddings=((1, 0), (0, 0), (0, 0)))
    x = builder.conv2d(
        x, "conv", weight(4, 3, 2, 2), scales(4, 0.0005, 0.002), 0, bias(4), padding=((1, 1), (0, 1)), output=relu6,
        **clamp,
    )  # fmt: skip
    x = builder.max_pool(x, "max_pool", (2, 1), stride=(1, 1), padding=((0, 1), (0, 0)))
    y = builder.depthwise_conv2d(
        x, "depthwise", weight(1, 3, 3, 4), scales(4, 0.002, 0.01), 0, None, padding=((2, 0), (1, 1)), output=relu6,
        **clamp,
    )  # fmt: skip
    z = builder.conv2d(
        y, "pointwise", weight(4, 1, 1, 4), scale(0.003), 0, bias(4), output=QuantParams(scale(0.04), 5),
    )  # fmt: skip
    z = builder.add(x, z, "add", output=QuantParams(scale(12 / 255), -30))
    x = builder.add(x, z, "add_relu", output=QuantParams(scale(12 / 255), -100), activation_min=-100)
    x = builder.average_pool(x, "average_pool", (2, 2))
    left = builder.slice(x, "slice", begin=(1, 0, 0), size=(4, 3, 4))
    right = builder.slice(x, "slice_end", begin=(1, 0, 0), size=(4, 3, 1))
    x = builder.concatenation((left, right), "concatenation", axis=2, output=QuantParams(scale(24 / 255), -120))
    gate = builder.mean(x, "gate_mean", output=relu6, keep_dims=True)
    gate = builder.conv2d(
        gate, "gate_conv", weight(5, 1, 1, 5), scales(5, 0.001, 0.003), 0, bias(5), output=QuantParams(scale(0.03), 9),
    )  # fmt: skip
    x = builder.mul(x, builder.logistic(gate, "logistic"), "mul", output=QuantParams(scale(24 / 255), -120))
    flat = builder.reshape(builder.mean(x, "mean", output=relu6, keep_dims=True), "reshape", shape=(5,))
    x = builder.fully_connected(
        flat, "dense", weight(5, 5), scales(5, 0.0005, 0.003), 0, bias(5), output=QuantParams(0.03125, 1)
    )
    return builder.finish(builder.softmax(x, "softmax"))


def float32(value: float) -> float:
    """The nearest float32."""
    return float(np.float32(value))


def random_inputs(graph: Graph, n: int) -> Any:
    """int8 (n, *input_shape)."""
    return np.random.default_rng(n).integers(-128, 128, (n, *graph.input_shape)).astype(np.int8)
