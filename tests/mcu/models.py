# SPDX-License-Identifier: Apache-2.0
"""What runs on the boards: the model that ships and DS-CNN-S with 49 x 10 features, ops of odd shapes, and two
listeners."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kws
from deploy.graph import Graph, GraphBuilder
from features.audio import read_audio
from features.config import FrontendConfig, get_preset
from features.frontend import features, input_features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.quant import QuantParams
from kws.detector import DetectionConfig
from kws.model import Model
from training.convert import convert
from training.dataset import scan_folder
from training.networks import registry
from training.qat import QuantScheme, calibrate, prepare_ptq

N_CLIPS = 60
N_ODD_OPS, N_ODD_INPUTS = 32, 6
ODD = "odd ops"
DATA = Path(__file__).parents[2] / "data"


@dataclass(frozen=True)
class Network:
    """A network, of which any rounding rule is tried, int8 inputs (N, *input_shape), the int16 clips behind them."""

    name: str
    graph: Graph
    frontend: FrontendConfig
    labels: tuple[str, ...]
    inputs: Any
    samples: Any = None


def networks() -> list[Network]:
    """`commands`, the untrained DS-CNN-S, and the odd ops."""
    clips = [clip.path for clip in scan_folder(DATA)]
    clips = clips[:: len(clips) // N_CLIPS][:N_CLIPS]
    return [_commands(clips), _ds_cnn_s(clips), _odd_ops()]


def listeners() -> list[tuple[str, Model, Any]]:
    """`commands`, column by column, and an untrained tc-resnet8 on whole windows, one in 120 ms, which an emulator has
    time for, that fires now and then. Each with two seconds of a recording, int16."""
    recording = read_audio(DATA / "recordings" / "recording_00.wav", dtype="int16", sample_rate=16_000)
    samples = recording[8_000:40_000]
    commands = kws.load("commands")
    torch.manual_seed(3)
    frontend = get_preset("mfb40-10ms")
    network = registry.build("tc-resnet8", frontend.input_shape[:2], 4)
    quantized = prepare_ptq(network, QuantScheme())
    calibrate(quantized, [torch.randn(16, 1, *frontend.input_shape[:2]) * 3])
    graph = convert(quantized, frontend.input_shape)
    eager = DetectionConfig(12, 3, 2, (188, 190), (187, 189))
    labels = ("low", "high", "_silence_", "_unknown_")
    return [
        ("commands", commands, samples),
        ("tc-resnet8", Model(graph, frontend, labels, eager), samples),
    ]


def _commands(clips: list[Path]) -> Network:
    model = kws.load("commands")
    x = input_features(_clips(clips, model.frontend), model.frontend, model.graph.input_params)[..., None]
    return Network("commands", model.graph, model.frontend, model.labels, x, _clips(clips, model.frontend))


def _ds_cnn_s(clips: list[Path]) -> Network:
    """Random weights; its batch norms have seen the clips, so that activations fill their ranges as trained ones do."""
    torch.manual_seed(0)
    frontend = get_preset("mfcc10")
    float_features = features(_clips(clips, frontend), frontend)
    batch = torch.from_numpy(float_features)[:, None]
    model = registry.build("ds-cnn-s", frontend.input_shape[:2], 12, dropout=0.0)
    with torch.no_grad():
        for _ in range(30):
            model(batch)
    quantized = prepare_ptq(model, QuantScheme())
    calibrate(quantized, [batch])
    graph = convert(quantized, frontend.input_shape)
    labels = tuple(f"label{i}" for i in range(12))
    x = quantize_features(float_features, graph.input_params)[..., None]
    return Network("ds-cnn-s", graph, frontend, labels, x, _clips(clips, frontend))


def _odd_ops() -> Network:
    """Convolutions of many shapes, paddings and scales, a logistic and products on one input, side by side in the
    output: each byte is seen.

    Up to 20 channels, more than fast paths take at once; M below 1/4, which they want in all channels, and beyond.
    """
    rng = np.random.default_rng(2)
    target = QuantParams(0.0625, 3)
    builder = GraphBuilder()
    x = builder.input((7, 6, 20), QuantParams(0.03125, -5))
    flat = []
    for index in range(N_ODD_OPS):
        depthwise, affine = index % 2 == 1, index % 3 == 0
        kernel, stride = rng.integers(1, 5, 2).tolist(), rng.integers(1, 3, 2).tolist()
        padding = [rng.integers(0, k, 2).tolist() for k in kernel]
        width, least = int(rng.integers(1, 21)), int(rng.choice((-1, 3)))
        source = builder.slice(x, f"in{index}", begin=(0, 0, 0), size=(7, 6, width))
        channels = width if depthwise else int(rng.integers(1, 11))
        shape = (1, *kernel, channels) if depthwise else (channels, *kernel, width)
        scale = 2**-6 if affine else [float(2.0 ** -rng.integers(least, 16)) for _ in range(channels)]
        y = (builder.depthwise_conv2d if depthwise else builder.conv2d)(
            source, f"op{index}", rng.integers(-127, 128, shape).astype(np.int8), scale,
            int(rng.integers(-128, 128)) if affine else 0, rng.integers(-9000, 9000, channels).astype(np.int32),
            stride=tuple(stride), padding=tuple(map(tuple, padding)),
            output=target, activation_min=int(rng.choice([-128, -60])), activation_max=int(rng.choice([127, 90])),
        )  # fmt: skip
        rows, columns = ((n + sum(p) - k) // s + 1 for n, p, k, s in zip((7, 6), padding, kernel, stride, strict=True))
        flat.append(builder.reshape(y, f"flat{index}", shape=(rows * columns * channels,)))
    products = {
        "logistic": builder.logistic(x, "logistic"),
        "mul": builder.mul(x, "logistic", "mul", output=target),
        "scaled": builder.mul(builder.mean(x, "factors", keep_dims=True), x, "scaled", output=target),
    }
    flat += [builder.reshape(y, f"{name}/flat", shape=(7 * 6 * 20,)) for name, y in products.items()]
    graph = builder.finish(builder.concatenation(flat, "all", axis=0))
    inputs = rng.integers(-128, 128, (N_ODD_INPUTS, *graph.input_shape)).astype(np.int8)
    inputs[0] = np.where(inputs[0] < 0, -128, 127)
    labels = tuple(str(i) for i in range(graph.output_shape[0]))
    return Network(ODD, graph, get_preset("mfcc10"), labels, inputs)


def _clips(paths: list[Path], frontend: FrontendConfig) -> Any:
    samples = [read_audio(path, dtype="int16", sample_rate=frontend.sample_rate) for path in paths]
    return np.stack([clip_samples(clip, frontend.clip_samples) for clip in samples])
