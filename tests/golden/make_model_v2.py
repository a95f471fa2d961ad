# SPDX-License-Identifier: Apache-2.0
"""Makes model_v2.kws, a small file of version 2 that every later version must read, with inputs and outputs beside it.

Run: python tests/golden/make_model_v2.py

Version 2 holds models without a front-end. The file is made once, as model_v1.kws was.
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np

from deploy.graph import GraphBuilder
from deploy.reference import run
from kws.arithmetic.quant import QuantParams
from kws.model import Model

HERE = Path(__file__).parent


def build() -> Model:
    """A convolution, a mean and a classifier of three classes, without a front-end."""
    rng = np.random.default_rng(1)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def scale(value: float) -> float:
        return float(np.float32(value))

    builder = GraphBuilder("tflm")
    x = builder.input((12, 8, 2), QuantParams(scale(0.1), 7))
    scales = [scale(s) for s in rng.uniform(0.001, 0.003, 6)]
    params = QuantParams(scale(0.03), -128)
    x = builder.conv2d(x, "conv", weight(6, 3, 3, 2), scales, 0, None, stride=(2, 2), output=params)
    x = builder.mean(x, "mean", output=QuantParams(scale(0.02), -128))
    x = builder.fully_connected(x, "dense", weight(3, 6), scale(0.01), 0, None, output=QuantParams(scale(0.1), 3))
    graph = builder.finish(builder.softmax(x, "softmax"))
    return Model(graph, None, ("a", "b", "c"), None, {"made by": "tests/golden/make_model_v2.py"})


def main() -> None:
    model = build()
    model.save(HERE / "model_v2.kws")
    x = np.random.default_rng(2).integers(-128, 128, (8, *model.graph.input_shape)).astype(np.int8)
    np.savez_compressed(HERE / "model_v2.npz", x=x, y=run(model.graph, x))
    (HERE / "model_v2.txt").write_text(
        "A model file of version 2, without a front-end, and int8 inputs and outputs of its graph.\n"
        f"Tools: integer-kws 0.1.0, numpy {np.__version__}, Python {platform.python_version()}\n"
        "Command: python tests/golden/make_model_v2.py\n"
    )


if __name__ == "__main__":
    main()
