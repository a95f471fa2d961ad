# SPDX-License-Identifier: Apache-2.0
"""What other runtimes compute of exported graphs, against our executor: the tables of docs/formats.md.

    python -m benchmarks.formats --data TEST_SET [--tflite FILE ...]

TEST_SET is the official test set of Speech Commands v0.02. The networks are the shipped model, each FILE imported with
the front-end `mlperf-tiny`, and an untrained DS-CNN-S with power-of-two scales, whose every layer meets ties.

1. Whole networks over all clips. 2. Their ops, each from our executor's inputs, over OP_CLIPS clips. 3. Single ops with
power-of-two scales and no clamp, on random inputs, under each rounding rule: which one a runtime computes. Exit code 1
where a pair that docs/formats.md calls equal is not, and where a convolution or fully connected op differs from
`half_even` in XNNPACK or ONNX Runtime by more than a step, or further from a tie than the engine's float32 reaches.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.utils import Extractor

import kws
from benchmarks.host import date_and_cpu
from deploy import engine, reference
from deploy.export import onnx as onnx_export
from deploy.export import tflite as tflite_export
from deploy.graph import Graph, GraphBuilder
from deploy.importers.tflite import read
from deploy.program import ROUNDING
from deploy.tflite_runtimes import part_of, run_tflite
from deploy.verify import beside_tie, without_softmax
from features.audio import read_audio
from features.config import get_preset
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.cli.common import columns
from training.convert import convert
from training.networks import registry
from training.qat import QuantScheme, calibrate, prepare_ptq

OP_CLIPS = 60
N_RANDOM = 400
AFFINE = ("conv2d", "depthwise_conv2d", "fully_connected")
ONNX, QDQ, QDQ_INT8 = "onnxruntime", "onnxruntime-qdq", "onnxruntime-qdq-int8"
PAIRS = (
    ("tflm", "tflm"),
    ("litert-reference", "tflm"),
    ("litert-no-delegate", "double_up"),
    ("litert", "half_even"),
    ("litert", "single"),
    (ONNX, "half_even"),
    (ONNX, "single"),
    (QDQ, "half_even"),
    (QDQ, "single"),
    (QDQ_INT8, "half_even"),
    (QDQ_INT8, "single"),
)
AFFINE_RULE = {"litert-no-delegate": "double_up", **dict.fromkeys(("litert", ONNX, QDQ, QDQ_INT8), "half_even")}
NAMES = {
    "tflm": "TFLM",
    "litert-reference": "LiteRT reference",
    "litert-no-delegate": "LiteRT no delegate",
    "litert": "LiteRT XNNPACK",
    ONNX: "ONNX Runtime",
    QDQ: "ONNX Runtime QDQ",
    QDQ_INT8: "ONNX Runtime QDQ int8",
}
Arrays = dict[str, NDArray[np.int8]]


@dataclass(frozen=True)
class Network:
    """A graph and its int8 inputs (N, *input_shape)."""

    name: str
    graph: Graph
    inputs: NDArray[np.int8]


def networks(clips: NDArray[np.int16], files: tuple[Path, ...]) -> list[Network]:
    """The graphs that are compared, with the clips as they take them."""
    shipped = kws.load("commands")
    frontend, _ = shipped.hearing()
    found = [_network("commands", shipped.graph, features(clips, frontend))]
    if files:
        values = features(clips, get_preset("mlperf-tiny"))
        found += [_network(file.stem, read(file.read_bytes()).graph, values) for file in files]
    values = features(clips, get_preset("mfcc10"))
    return [*found, _network("ds-cnn-s, powers of two", _powers_of_two(values), values)]


def _network(name: str, graph: Graph, values: NDArray[np.float32]) -> Network:
    return Network(name, graph, quantize_features(values, graph.input_params)[..., None].astype(np.int8))


def _powers_of_two(values: NDArray[np.float32]) -> Graph:
    """An untrained DS-CNN-S: its batch norms have seen clips, so that activations fill their ranges."""
    torch.manual_seed(0)
    batch = torch.from_numpy(values[:: len(values) // 40][:40])[:, None]
    model = registry.build("ds-cnn-s", get_preset("mfcc10").input_shape[:2], 12, dropout=0.0)
    with torch.no_grad():
        for _ in range(30):
            model(batch)
    quantized = prepare_ptq(model, QuantScheme(scheme="pow2"))
    calibrate(quantized, [batch])
    return convert(quantized, get_preset("mfcc10").input_shape)


def single_ops() -> Iterator[tuple[str, Graph]]:
    """Graphs of one op each, unclamped, with scales that are powers of two: every other value or so lies on a tie."""
    rng = np.random.default_rng(1)
    half, one = QuantParams(0.5, 3), QuantParams(1.0, -7)

    def weight(*shape: int) -> NDArray[np.int8]:
        return rng.integers(-9, 10, shape).astype(np.int8)

    def start(*shape: int) -> tuple[GraphBuilder, str]:
        builder = GraphBuilder()
        return builder, builder.input(shape, half)

    builder, x = start(9, 7, 8)
    yield "conv2d", builder.finish(builder.conv2d(x, "y", weight(8, 3, 3, 8), [0.125] * 8, 0, None, output=one))
    for channels in (16, 6):
        builder, x = start(9, 7, channels)
        y = builder.depthwise_conv2d(x, "y", weight(1, 3, 3, channels), [0.25] * channels, 0, None, output=one)
        yield f"depthwise_conv2d, {channels} channels", builder.finish(y)
    builder, x = start(64)
    yield "fully_connected", builder.finish(builder.fully_connected(x, "y", weight(12, 64), 0.125, 0, None, output=one))
    for zero_point in (-8, -7):
        builder, x = start(9, 7, 8)
        other = builder.slice(x, "other", begin=(0, 0, 0), size=(9, 7, 8))
        y = builder.add(x, other, "y", output=QuantParams(4.0, zero_point))
        yield f"add, Z = {zero_point}", builder.finish(y)
    for keep_dims in (False, True):
        builder, x = start(4, 4, 64)
        y = builder.mean(x, "y", output=QuantParams(0.25, -7), keep_dims=keep_dims)
        yield f"mean{', dimensions kept' if keep_dims else ''}", builder.finish(y)
    builder, x = start(9, 7, 8)
    yield "concatenation, M = 1/4", builder.finish(builder.concatenation([x], "y", axis=2, output=QuantParams(2.0, -7)))
    builder, x = start(8, 6, 16)
    yield "average_pool", builder.finish(builder.average_pool(x, "y", (2, 2)))
    builder = GraphBuilder()
    x = builder.input((12,), QuantParams(0.0625, 3))
    yield "softmax", builder.finish(builder.softmax(x, "y"))


def run_part(runtime: str, graph: Graph, name: str, inputs: Arrays) -> NDArray[np.int8]:
    """The tensor `name` as the runtime computes it from the tensors `inputs`."""
    labels = [f"class_{i}" for i in range(graph.output_shape[-1])]
    if runtime not in (ONNX, QDQ, QDQ_INT8):
        return run_tflite(runtime, part_of(tflite_export.export(graph, labels, None), name, inputs), inputs)[name]
    data = onnx_export.export(graph, labels, None, qdq=runtime != ONNX)
    model = Extractor(onnx.load_from_string(data)).extract_model([*inputs], [name])
    options = onnxruntime.SessionOptions()
    if runtime == QDQ_INT8:
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (values,) = session.run(None, {key: _channels_first(value) for key, value in inputs.items()})
    return np.asarray(values.transpose(0, 2, 3, 1) if values.ndim == 4 else values)


def _channels_first(values: NDArray[np.int8]) -> NDArray[np.int8]:
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if values.ndim == 4 else values


def whole(network: Network) -> tuple[list[list[str]], bool]:
    """A row a pair: the logits, before a softmax, of every clip; and whether TFLM has our bits."""
    rows, equal = [], True
    made: Arrays = {}
    for runtime, rule in PAIRS:
        graph = without_softmax(network.graph).with_rounding(rule)
        if rule not in made:
            made[rule] = engine.run(graph, network.inputs, "native" if rule in ROUNDING else "reference")
        ours, theirs = made[rule], run_part(runtime, graph, graph.output, {graph.input: network.inputs})
        difference = np.abs(theirs.astype(int) - ours)
        changes = (theirs.argmax(axis=1) != ours.argmax(axis=1)).sum()
        counts = (len(ours), ours.size, (difference > 0).sum(), difference.max(), difference.any(axis=1).sum(), changes)
        rows.append([network.name, NAMES[runtime], rule, *(f"{count:,}" for count in counts)])
        equal &= runtime != "tflm" or not difference.any()
    return rows, equal


def op_by_op(network: Network) -> dict[tuple[str, str, str], Counter[Any]]:
    """By kind of op, runtime and rule: how many values, how many differ, and the largest difference."""
    found: dict[tuple[str, str, str], Counter[Any]] = {}
    for runtime, rule in PAIRS:
        graph = network.graph.with_rounding(rule)
        ours = reference.run_all(graph, network.inputs)
        for op in graph.ops:
            inputs = {name: ours[name] for name in op.inputs if graph.tensors[name].data is None}
            theirs = run_part(runtime, graph, op.output, inputs)
            difference = np.abs(theirs.astype(int) - ours[op.output])
            counts = found.setdefault((op.kind, runtime, rule), Counter())
            counts["values"] += difference.size
            counts["differ"] += int((difference > 0).sum())
            counts["largest"] = max(counts["largest"], int(difference.max()))
            if rule == "half_even" and op.kind in AFFINE:
                tie = beside_tie(graph, op, inputs[op.inputs[0]], float_sums=runtime == QDQ)
                counts["no tie"] += int(((difference > 1) | (difference == 1) & ~tie).sum())
    return found


def op_rows(name: str, found: dict[tuple[str, str, str], Counter[Any]]) -> list[list[str]]:
    """A row a kind of op, a column a pair: values that differ, and the largest difference where it is not 1."""
    rows = []
    for kind in dict.fromkeys(kind for kind, _, _ in found):
        cells = []
        for pair in PAIRS:
            counts = found[kind, *pair]
            far = f" (up to {counts['largest']})" if counts["largest"] > 1 else ""
            far += f" ({counts['no tie']:,} no tie)" if counts["no tie"] else ""
            cells.append(f"{counts['differ']:,}{far}")
        rows.append([name, kind, f"{found[kind, *PAIRS[0]]['values']:,}", *cells])
    return rows


def rule_rows() -> tuple[list[list[str]], bool]:
    """A row a single op and runtime, a column a rule; and whether those called equal are."""
    rows, equal = [], True
    for name, graph in single_ops():
        x = np.random.default_rng(0).integers(-128, 128, (N_RANDOM, *graph.input_shape)).astype(np.int8)
        ours = {rule: reference.run(graph.with_rounding(rule), x) for rule in ROUNDING_RULES}
        for runtime, runtime_name in NAMES.items():
            theirs = run_part(runtime, graph, graph.output, {graph.input: x})
            differ = {rule: int((values != theirs).sum()) for rule, values in ours.items()}
            rows.append([name, runtime_name, f"{theirs.size:,}", *(f"{count:,}" for count in differ.values())])
            equal &= runtime != "tflm" or differ["tflm"] == 0
            if name in ("conv2d", "fully_connected"):
                equal &= runtime not in AFFINE_RULE or differ[AFFINE_RULE[runtime]] == 0
    return rows, equal


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of twelve folders.")
@click.option("--tflite", "files", type=click.Path(path_type=Path, exists=True), multiple=True, help="To be imported.")
def main(data: Path, files: tuple[Path, ...]) -> None:
    paths = sorted(data.glob("*/*.wav"))
    clips = np.stack([clip_samples(read_audio(path, dtype="int16"), 16000) for path in paths])
    print(date_and_cpu())
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "tflite-micro", "ai-edge-litert", "onnxruntime")))
    given = "".join(f" --tflite {file.name}" for file in files)
    print(f"python -m benchmarks.formats --data SPEECH_COMMANDS_TEST_SET_V0.02{given}\n")
    print("1. Whole networks: int8 logits that differ from our executor's\n")
    compared = networks(clips, files)
    head = ["network", "runtime", "rule", "clips", "logits", "differ", "largest", "clips differ", "argmax differs"]
    rows, equal = [head], True
    for network in compared:
        added, good = whole(network)
        rows += added
        equal &= good
    print(columns(rows, left=3))
    print(f"\n2. Their ops, each from our executor's inputs, over {OP_CLIPS} clips: values that differ\n")
    rows = [["network", "op", "values", *(f"{NAMES[runtime]}, {rule}" for runtime, rule in PAIRS)]]
    for network in compared:
        step = max(1, len(network.inputs) // OP_CLIPS)
        found = op_by_op(Network(network.name, network.graph, network.inputs[::step][:OP_CLIPS]))
        rows += op_rows(network.name, found)
        equal &= not any(counts["no tie"] for counts in found.values())
        equal &= not any(counts["differ"] for (_, runtime, _), counts in found.items() if runtime == "tflm")
    print(columns(rows, left=2))
    print("\n3. Single ops that meet ties: values that differ from our executor under each rule\n")
    added, good = rule_rows()
    print(columns([["op", "runtime", "values", *ROUNDING_RULES], *added], left=2))
    sys.exit(0 if equal and good else 1)


if __name__ == "__main__":
    main()
