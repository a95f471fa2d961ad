# SPDX-License-Identifier: Apache-2.0
"""One small network through three exporters of int8 models and through ours: the table of docs/formats.md.

    python -W ignore benchmarks/exporters.py --write benchmarks/results/exporters.txt [--only NAME ...] [--python NAME=PATH ...]

Makes a virtual environment for each exporter in a temporary folder, installs it there, runs its script of
benchmarks/in_exporter/ and removes the environment. `--python` names another interpreter for one of them (onnx2tf
wants Python 3.12). The network is a 49x10 DS-CNN-S for twelve of the words in data/, trained for EPOCHS epochs and
then by QAT for one; the inputs are N_INPUTS of the same clips. Needs the test extra, a network and 3 GB of disk. What
fails has the first line of its message in the table.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from host import date_and_cpu
from in_exporter.common import eager_qat, first_line
from numpy.typing import NDArray
from torch import nn

from deploy.export.tflite import export
from deploy.export.tflite_file import tflite_schema
from deploy.verify import Verifier, engines
from features.audio import read_audio
from features.config import get_preset
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.quant import quantize
from training import qat
from training.compare import float_logits
from training.convert import convert
from training.networks import registry
from training.networks.layers import AveragePool, ConvBn

ROOT = Path(__file__).parents[1]
N_INPUTS, N_LABELS, EPOCHS = 500, 12, 3
EXPORTERS = {
    "executorch": ("executorch==1.5.1",),
    "litert-torch": ("litert-torch==0.10.0",),
    "onnx2tf": ("onnx2tf==2.6.9",),
}
ROWS = {
    "install": "install",
    "eager": "eager QAT as input",
    "qat": "QAT at all",
    "int8": "fully int8",
    "equal": "int8 logits equal to its own reference",
    "file": "file; latency",
    "simulator": "runs without a vendor's simulator",
}
Column = dict[str, str]


def clips() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (N, T, F) and labels of the clips of the first twelve words in data/."""
    words = sorted(path for path in (ROOT / "data").iterdir() if path.is_dir() and path.name[0] != "_")
    words = [path for path in words if path.name != "recordings"][:N_LABELS]
    files = [(path, label) for label, word in enumerate(words) for path in sorted(word.glob("*.opus"))]
    sound = np.stack([clip_samples(read_audio(path, dtype="int16", sample_rate=16_000), 16_000) for path, _ in files])
    return features(sound, get_preset("mfcc10")), np.array([label for _, label in files])


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 32 * 32].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def plain(model: nn.Module) -> nn.Sequential:
    """The same layers, and no class of ours: what an exporter's own user would hand to it."""
    layers: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ConvBn):
            layers += [child for child in (module.pad, module.conv, module.bn, module.relu)]
        elif isinstance(module, AveragePool):
            layers.append(nn.AvgPool2d(module.window))
        elif isinstance(module, nn.Flatten | nn.Linear):
            layers.append(module)
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity))).eval()


def prepare(folder: Path) -> tuple[nn.Module, NDArray[np.float32]]:
    """Writes plain.pt, net.onnx, qat.onnx, inputs.npy, train.npz; the fake-quantized network and the inputs (N, T, F)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    values, labels = clips()
    x, y = torch.from_numpy(values)[:, None], torch.from_numpy(labels)
    model = registry.build("ds-cnn-s", get_preset("mfcc10").input_shape[:2], N_LABELS)
    train(model, x, y, EPOCHS, 1e-3)
    model.eval()
    layers = plain(model)
    inputs = x[torch.randperm(len(x))[:N_INPUTS]]
    torch.testing.assert_close(layers(inputs), model(inputs))
    torch.save(layers, folder / "plain.pt")
    np.save(folder / "inputs.npy", inputs.numpy())
    np.savez(folder / "train.npz", x=x.numpy(), y=labels)
    fake = qat.prepare_qat(model, qat.QuantScheme())
    train(fake, x, y, 1, 1e-4)
    qat.freeze(fake)
    qat.avoid_ties(fake)
    fake.eval()
    for name, network in (("net", layers), ("qat", eager_qat(layers, folder))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(network, (inputs[:1],), folder / f"{name}.onnx", dynamo=False, opset_version=17, input_names=["input"])
        except Exception as error:
            (folder / f"{name}.failed").write_text(first_line(error))
    return fake, inputs[:, 0].numpy()


if __name__ == "__main__":
    folder = Path("/tmp/exp/in"); folder.mkdir(exist_ok=True)
    t=time.time(); prepare(folder); print(time.time()-t)
