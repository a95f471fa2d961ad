# SPDX-License-Identifier: Apache-2.0
"""A model made by hand, which hears tones: "low" is 500 Hz, "high" is 4 kHz; and recordings of such tones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from deploy.graph import GraphBuilder
from features.config import FrontendConfig, get_preset
from features.tables import mel_weights
from kws.arithmetic.quant import QuantParams, choose_params
from kws.detector import DetectionConfig
from kws.model import Model

RATE = 16000
HZ = {"low": 500, "high": 4000, "middle": 1500}  # "middle" is no label: an unknown word
LABELS = ("low", "high", "_silence_", "_unknown_")


def bands_of(hz: float, frontend: FrontendConfig) -> np.ndarray:
    """The mel band that answers most to a tone, and its neighbours."""
    band = int(mel_weights(frontend)[round(hz * frontend.n_fft / RATE)].argmax())
    return np.arange(band - 1, band + 2)


def build_tone_model() -> Model:
    """Mean over time; low = 2 (bands at 500 Hz - bands at 4 kHz) - 6, high the reverse, silence = 0, unknown = 1.5 kHz.

    A tone of 0.4 s lifts its bands by about 6 in the mean over a window of 1 s that holds it.
    """
    frontend = get_preset("mfb40")
    weights = np.zeros((4, frontend.n_mels))
    for hz, sign in ((HZ["low"], 1), (HZ["high"], -1)):
        weights[0, bands_of(hz, frontend)] = sign * 2 / 3
        weights[1, bands_of(hz, frontend)] = -sign * 2 / 3
    weights[3, bands_of(HZ["middle"], frontend)] = 2 / 3
    weights[3, bands_of(HZ["middle"], frontend) + 9] = -2 / 3
    source = choose_params(-12.0, 10.0)
    weight_scale = float(np.float32(1 / 127))
    bias = np.round(np.array([-6, -6, 0, -6]) / (source.scale * weight_scale)).astype(np.int32)
    builder = GraphBuilder()
    x = builder.input(frontend.input_shape, source)
    x = builder.average_pool(x, "pool", (frontend.n_frames, 1))
    x = builder.reshape(x, "flat", shape=(frontend.n_mels,))
    q = np.round(weights / weight_scale).astype(np.int8)
    logits = QuantParams(float(np.float32(0.125)), 0)
    graph = builder.finish(builder.fully_connected(x, "dense", q, weight_scale, 0, bias, output=logits))
    return Model(graph, frontend, LABELS, DetectionConfig.default(frontend, 2))


def tones(seconds: float, *bursts: tuple[str, float, float], seed: int = 0) -> np.ndarray:
    """int16 samples: faint noise with bursts of (name, start, length)."""
    samples = np.random.default_rng(seed).normal(0, 3, round(seconds * RATE))
    for name, start, length in bursts:
        first, count = round(start * RATE), round(length * RATE)
        wave = 8000 * np.sin(2 * np.pi * HZ[name] * np.arange(count) / RATE)
        samples[first : first + count] += wave[: max(0, len(samples) - first)]
    return np.round(samples).astype(np.int16)


@pytest.fixture(scope="session")
def tone_model() -> Model:
    return build_tone_model()


@pytest.fixture(scope="session")
def make_tones() -> Callable[..., np.ndarray]:
    return tones


@pytest.fixture
def tone_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes tones as a WAV file in the test's folder."""

    def write(name: str, seconds: float, *bursts: tuple[str, float, float], rate: int = RATE) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, tones(seconds, *bursts), rate)
        return path

    return write


@pytest.fixture
def tone_model_file(tone_model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "tones.kws"
    tone_model.save(path)
    return path


@pytest.fixture(scope="session")
def streaming_model() -> Model:
    """An untrained tc-stream whose random weights fire now and then."""
    import torch

    from training import qat
    from training.convert import convert
    from training.networks import registry

    torch.manual_seed(3)
    frontend = get_preset("mfb40-10ms")
    network = qat.prepare_qat(registry.build("tc-stream", frontend.input_shape[:2], 4), qat.QuantScheme())
    for _ in range(4):
        network(torch.randn(16, 1, *frontend.input_shape[:2]) * 3)
    qat.freeze(network)
    graph = convert(network.eval(), frontend.input_shape)
    detection = replace(DetectionConfig.default(frontend, 2, threshold=0.3), smoothing=3, thresholds=(200, 200),
                        releases=(199, 199), refractory=5)  # fmt: skip
    return Model(graph, frontend, ("low", "high", "_silence_", "_unknown_"), detection)
