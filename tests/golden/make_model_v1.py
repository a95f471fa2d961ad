# SPDX-License-Identifier: Apache-2.0
"""Makes model_v1.kws, a small file of version 1 that every later version must read, with inputs and outputs beside it.

Run: python tests/golden/make_model_v1.py

The file is made once. When the format changes, this script and its file stay as they are, and a new pair joins them.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

from deploy.graph import GraphBuilder
from deploy.reference import run
from features.config import FrontendConfig
from kws.arithmetic.quant import QuantParams
from kws.detector import DetectionConfig
from kws.model import Model

HERE = Path(__file__).parent
LABELS = ("yes", "no", "_silence_", "_unknown_")


def build() -> Model:
    """A depthwise separable network on 25 frames of 10 MFCC, per-channel and affine weights both, residual added."""
    frontend = FrontendConfig(
        kind="mfcc", frame_length=640, hop_length=640, n_fft=1024, n_mels=40, fmin=20.0, fmax=4000.0, n_mfcc=10
    )
    rng = np.random.default_rng(1)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def bias(channels: int) -> np.ndarray:
        return rng.integers(-2000, 2000, channels).astype(np.int32)

    def scale(value: float) -> float:
        return float(np.float32(value))

    relu6 = QuantParams(scale(6 / 255), -128)
    builder = GraphBuilder()
    x = builder.input(frontend.input_shape, QuantParams(scale(0.5), 60))
    scales = [scale(s) for s in rng.uniform(0.0005, 0.002, 8)]
    x = builder.conv2d(
        x, "conv", weight(8, 4, 4, 1), scales, 0, bias(8), stride=(2, 2), padding=((1, 2), (1, 1)), output=relu6
    )
    y = builder.depthwise_conv2d(
        x, "depthwise", weight(1, 3, 3, 8), scale(0.003), 5, bias(8), padding=((1, 1), (1, 1)), output=relu6
    )
    y = builder.conv2d(y, "pointwise", weight(8, 1, 1, 8), scale(0.004), -7, bias(8), output=relu6)
    x = builder.add(x, y, "add", output=QuantParams(scale(12 / 255), -128))
    x = builder.average_pool(x, "pool", (13, 5))
    x = builder.reshape(x, "flat", shape=(8,))
    x = builder.fully_connected(x, "dense", weight(4, 8), scale(0.01), 0, bias(4), output=QuantParams(scale(0.2), 3))
    detection = DetectionConfig.default(frontend, 2)
    return Model(builder.finish(x), frontend, LABELS, detection, {"made by": "tests/golden/make_model_v1.py"})


def main() -> None:
    model = build()
    model.save(HERE / "model_v1.kws")
    x = np.random.default_rng(2).integers(-128, 128, (8, *model.graph.input_shape)).astype(np.int8)
    np.savez_compressed(HERE / "model_v1.npz", x=x, y=run(model.graph, x))
    (HERE / "model_v1.txt").write_text(
        "A model file of version 1, and int8 inputs and outputs of its graph.\n"
        f"Tools: integer-kws 0.1.0, numpy {np.__version__}, Python {platform.python_version()}\n"
        "Command: python tests/golden/make_model_v1.py\n"
    )


if __name__ == "__main__":
    main()
