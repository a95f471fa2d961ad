# SPDX-License-Identifier: Apache-2.0
"""What the scripts of benchmarks/in_exporter/ share; they run in the exporters' environments, with nothing of ours.

Each reads plain.pt, train.npz and inputs.npy of the folder that its command line names, leaves there int8.tflite (or
int8.pte) and reference.npz (the quantized torch model's logits, their scale and zero point), and writes result.json.
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

try:
    import torch
    from torch import nn
except ImportError:  # onnx2tf needs none
    pass

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
N_CALIBRATION = 200
N_CALLS = 2000


def first_line(error: object) -> str:
    """Of a message; the kind of error where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:140]


def attempt(result: dict[str, Any], name: str, action: Callable[[], Any]) -> None:
    """result[name]: what the action returns, or the first line of its error."""
    try:
        result[name] = action()
    except Exception as error:  # whatever the exporter raises
        traceback.print_exc()
        result[name] = f"fails: {first_line(error)}"
    (FOLDER / "result.json").write_text(json.dumps(result))


def plain() -> nn.Sequential:
    """The trained float network, in eval mode."""
    network: nn.Sequential = torch.load(FOLDER / "plain.pt", weights_only=False)
    return network.eval()


def batches(folder: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of the training clips."""
    data = np.load(folder / "train.npz")
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return [(x[rows], y[rows]) for rows in order[: len(x) // 32 * 32].split(32)]


def inputs() -> torch.Tensor:
    return torch.from_numpy(np.load(FOLDER / "inputs.npy"))


def calibration() -> torch.Tensor:
    return torch.from_numpy(np.load(FOLDER / "train.npz")["x"][::5][:N_CALIBRATION])


def train(network: Any, folder: Path = FOLDER) -> None:
    """An epoch."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    for x, y in batches(folder):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()


def eager_qat(layers: nn.Sequential, folder: Path = FOLDER) -> nn.Module:
    """torch's own QAT in eager mode (its qnnpack defaults), trained for an epoch, frozen, in eval mode."""
    from torch.ao.quantization import (
        DeQuantStub,
        QuantStub,
        disable_observer,
        fuse_modules_qat,
        get_default_qat_qconfig,
        prepare_qat,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = nn.Sequential(QuantStub(), *copy.deepcopy(layers), DeQuantStub()).train()
        kinds = [type(layer) for layer in network.children()]
        pairs = [[str(i), str(i + 1)] for i, kind in enumerate(kinds) if kind is nn.Conv2d]
        network = fuse_modules_qat(network, pairs)
        network.qconfig = get_default_qat_qconfig("qnnpack", version=0)  # type: ignore[assignment]  # torch types it as a module
        network = prepare_qat(network)
        train(network, folder)
        return network.apply(disable_observer).eval()


def save_reference(module: Any, output: tuple[float, int]) -> None:
    """The quantized torch model's logits for all inputs, one at a time, and the scale and zero point they lie on."""
    with torch.no_grad():
        logits = torch.cat([module(x[None]) for x in inputs()]).numpy()
    np.savez(FOLDER / "reference.npz", logits=logits, scale=output[0], zero_point=output[1])


def output_params(module: Any) -> tuple[float, int]:
    """Scale and zero point of the last dequantization in a torch graph."""
    nodes = [node for node in module.graph.nodes if "dequantize_per_tensor" in str(node.target)]
    return float(nodes[-1].args[1]), int(nodes[-1].args[2])
