# SPDX-License-Identifier: Apache-2.0
"""Every op of every architecture in TensorFlow Lite Micro, against the NumPy executor: a table of docs/formats.md.

    python -m benchmarks.tflm --data TEST_SET [--every N]

TEST_SET is the official test set of Speech Commands v0.02. The networks are the shipped model and an untrained one of
each name that `kws train` takes, on its default front-end, calibrated on clips; all under the rule `tflm`. TFLM runs
the exported file from the network's input on and gives the output of each op. Exit code 1 where a byte differs.
All clips take half an hour; --every compares one in N.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

import kws
from benchmarks.host import date_and_cpu
from deploy import reference
from deploy.export import tflite
from deploy.graph import Graph
from deploy.tflite_runtimes import run_tflite, with_outputs
from features.audio import read_audio
from features.config import get_preset
from features.frontend import features, input_features
from features.quantize import clip_samples
from kws.cli.common import columns
from training.convert import convert
from training.networks import registry
from training.qat import QuantScheme, calibrate, prepare_ptq

PRESET = "mfb40-10ms"
N_LABELS = 12
N_CALIBRATION = 40
AT_ONCE = 50


def networks(clips: NDArray[np.int16], every: int) -> Iterator[tuple[str, Graph, NDArray[Any]]]:
    """(name, graph, int8 inputs of one clip in `every`) of each network, which are the same whatever `every` is."""
    heard = clips[::every]
    model = kws.load("commands")
    yield "commands", model.graph, input_features(heard, model.hearing()[0], model.graph.input_params)[..., None]
    frontend = get_preset(PRESET)
    batch = torch.from_numpy(features(clips[:: len(clips) // N_CALIBRATION], frontend).astype(np.float32))[:, None]
    for name in registry.NETWORKS:
        graph = untrained(name, batch)
        yield f"{name}, untrained", graph, input_features(heard, frontend, graph.input_params)[..., None]


def untrained(name: str, batch: torch.Tensor) -> Graph:
    """Random weights; the batch norms have seen the features (N, 1, T, F), so that activations fill their ranges."""
    torch.manual_seed(0)
    model = registry.build(name, (batch.shape[2], batch.shape[3]), N_LABELS, dropout=0.0)
    with torch.no_grad():
        for _ in range(30):
            model(batch)
    quantized = prepare_ptq(model, QuantScheme())
    calibrate(quantized, [batch])
    return convert(quantized, (batch.shape[2], batch.shape[3], 1))


def compare(graph: Graph, x: NDArray[np.int8]) -> list[int]:
    """Ops, clips, values of all ops, how many differ in TFLM, outputs, how many differ."""
    graph = graph.with_rounding("tflm")
    names = [op.output for op in graph.ops]
    labels = [f"class_{i}" for i in range(graph.output_shape[-1])]
    data = with_outputs(tflite.export(graph, labels, None), names)
    values, differ = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for first in range(0, len(x), AT_ONCE):
        part = x[first : first + AT_ONCE]
        ours, theirs = reference.run_all(graph, part), run_tflite("tflm", data, {graph.input: part})
        for name in names:
            values[name] += theirs[name].size
            differ[name] += int((ours[name] != theirs[name]).sum())
    total, wrong = sum(values.values()), sum(differ.values())
    return [len(names), len(x), total, wrong, values[graph.output], differ[graph.output]]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of twelve folders.")
@click.option("--every", type=click.IntRange(min=1), default=1, help="One clip in so many.")
def main(data: Path, every: int) -> None:
    paths = sorted(data.glob("*/*.wav"))
    if len(paths) < N_CALIBRATION:
        raise click.UsageError(f"{data} holds {len(paths)} clips in its folders, fewer than {N_CALIBRATION}")
    clips = np.stack([clip_samples(read_audio(path, dtype="int16"), 16000) for path in paths])
    print(date_and_cpu())
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "tflite-micro")))
    print(
        f"python -m benchmarks.tflm --data SPEECH_COMMANDS_TEST_SET_V0.02{f' --every {every}' if every > 1 else ''}\n"
    )
    rows, wrong = [["network", "ops", "clips", "values of all ops", "differ", "outputs", "differ"]], 0
    for name, graph, x in networks(clips, every):
        counts = compare(graph, x)
        rows.append([name, *(f"{count:,}" for count in counts)])
        wrong += counts[3]
        print(f"{name} done", file=sys.stderr, flush=True)
    print(columns(rows))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
