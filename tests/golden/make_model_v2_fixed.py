# SPDX-License-Identifier: Apache-2.0
"""Makes model_v2_fixed.kws, a small file of version 2 with a fixed-point front-end that every later version must read,
with what it makes of a bundled recording beside it.

Run: python tests/golden/make_model_v2_fixed.py

Version 2 is the first in which the front-end may be in integers. The file is made once, as model_v1.kws was.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np

from deploy.graph import GraphBuilder
from features.audio import read_audio
from features.config import FrontendConfig
from features.frontend import input_features
from kws.arithmetic.quant import QuantParams
from kws.detector import DetectionConfig
from kws.model import Model

HERE = Path(__file__).parent
RECORDING = HERE.parents[1] / "data" / "recordings" / "recording_00.wav"
LABELS = ("a", "b", "_silence_", "_unknown_")


def build() -> Model:
    """Random weights on 49 frames of 40 bands; it fires three times, on no word in particular."""
    frontend = FrontendConfig(
        kind="mfb", frame_length=480, hop_length=320, n_fft=512, n_mels=40, fmin=80.0, fmax=7600.0,
        log_floor=1e-5, log_offset=6.0, arithmetic="fixed",
    )  # fmt: skip
    rng = np.random.default_rng(22)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def scale(value: float) -> float:
        return float(np.float32(value))

    builder = GraphBuilder()
    x = builder.input(frontend.input_shape, QuantParams(scale(0.1), 20))
    scales = [scale(s) for s in rng.uniform(0.0005, 0.002, 8)]
    relu6 = QuantParams(scale(6 / 255), -128)
    x = builder.conv2d(x, "conv", weight(8, 5, 8, 1), scales, 0, None, stride=(2, 4), output=relu6)
    x = builder.average_pool(x, "pool", (23, 9))
    x = builder.reshape(x, "flat", shape=(8,))
    x = builder.fully_connected(x, "dense", weight(4, 8), scale(0.02), 0, None, output=QuantParams(scale(0.1), 0))
    detection = DetectionConfig(2, 4, 10, (300, 300), (200, 200))
    return Model(builder.finish(x), frontend, LABELS, detection, {"made by": "tests/golden/make_model_v2_fixed.py"})


def main() -> None:
    model = replace(build(), engine="reference")
    model.save(HERE / "model_v2_fixed.kws")
    samples = read_audio(RECORDING, dtype="int16")
    clips = samples[: 24 * 16_000].reshape(24, 16_000)
    events = model.detect(samples)
    np.savez_compressed(
        HERE / "model_v2_fixed.npz",
        features=input_features(clips[:4], model.hearing()[0], model.graph.input_params),
        logits=model.logits(clips),
        labels=[event.label for event in events],
        times_and_scores=[(event.start, event.end, event.score) for event in events],
    )
    (HERE / "model_v2_fixed.txt").write_text(
        f"A model file of version 2 with a fixed-point front-end; of {RECORDING.name} cut into 24 clips of a second\n"
        "the int8 features of the first four and the logits of all, and the events of the whole.\n"
        f"Tools: integer-kws 0.1.0, numpy {np.__version__}, Python {platform.python_version()}\n"
        "Command: python tests/golden/make_model_v2_fixed.py\n"
    )
    print(len(events), "events:", *(f"{event.label} {event.end:.2f}" for event in events))


if __name__ == "__main__":
    main()
