# SPDX-License-Identifier: Apache-2.0
"""A .tflite file computes the graph's bits in TensorFlow Lite Micro, op by op, and says what others compute."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

import kws
from deploy.export.tflite import RUNTIMES, c_header, export
from deploy.graph import Graph, GraphBuilder
from deploy.ops.registry import OPS
from deploy.reference import run_all
from deploy.tflite_rules import METADATA, fused_activations
from deploy.tflite_runtimes import part_of, run_tflite, with_outputs
from features.audio import read_audio
from features.config import get_preset
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.errors import KwsError, MissingExtraError, ModelError, UsageError
from tests.deploy.tflite_graphs import every_op_of_tflite, float32, random_inputs
from tests.fuzz.random_model import random_model
from training.convert import convert
from training.dataset import scan_folder
from training.networks import registry
from training.qat import QuantScheme, calibrate, prepare_ptq

DATA = Path(__file__).parents[2] / "data"
AFFINE, POW2 = QuantScheme(), QuantScheme(scheme="pow2")
LABELS = ("yes", "no", "_silence_", "_unknown_", "five")


def _sources(graph: Graph, op: Any) -> list[str]:
    return [name for name in dict.fromkeys(op.inputs) if graph.tensors[name].data is None]


def _differences_from_the_input(runtime: str, graph: Graph, x: Any) -> dict[str, int]:
    """Differing values of every op's output, when the runtime computes the whole network."""
    ours = run_all(graph, x)
    data = with_outputs(export(graph, LABELS, None), [op.output for op in graph.ops])
    theirs = run_tflite(runtime, data, {graph.input: x})
    assert set(theirs) == {op.output for op in graph.ops}
    return {name: int((values != ours[name]).sum()) for name, values in theirs.items()}


def _differences_op_by_op(runtime: str, graph: Graph, x: Any) -> dict[str, Counter[str]]:
    """Values, differing values and those that differ by more than one step, by kind, each op from our inputs."""
    ours, data = run_all(graph, x), export(graph, LABELS, None)
    found: dict[str, Counter[str]] = {}
    for op in graph.ops:
        sources = _sources(graph, op)
        theirs = run_tflite(runtime, part_of(data, op.output, sources), {name: ours[name] for name in sources})
        difference = np.abs(theirs[op.output].astype(int) - ours[op.output])
        counts = {"values": difference.size, "differ": (difference > 0).sum(), "far": (difference > 1).sum()}
        found.setdefault(op.kind, Counter()).update({name: int(count) for name, count in counts.items()})
    return found


@pytest.fixture(scope="module")
def clips() -> Any:
    """int16 samples of every clip of data/, (n, 16000)."""
    paths = [clip.path for clip in scan_folder(DATA)]
    return np.stack([clip_samples(read_audio(path, dtype="int16"), 16000) for path in paths])


def _network(name: str, scheme: QuantScheme, clips: Any) -> tuple[Graph, Any]:
    """An untrained network under `tflm` whose ranges come from a few clips, and those clips in int8."""
    torch.manual_seed(0)
    n_clips = {"ds-cnn-l": 4, "ds-cnn-m": 8}.get(name, 24)
    frontend = get_preset("mfb40-10ms" if name.startswith("tc-") else "mfcc10")
    values = features(clips[:: len(clips) // n_clips][:n_clips], frontend)
    batch = torch.from_numpy(values)[:, None]
    model = registry.build(name, frontend.input_shape[:2], 5, dropout=0.0)
    with torch.no_grad():
        for _ in range(10):
            model(batch)
    quantized = prepare_ptq(model, scheme)
    calibrate(quantized, [batch])
    graph = convert(quantized, frontend.input_shape, rounding="tflm")
    return graph, quantize_features(values, graph.input_params)[..., None]


# TensorFlow Lite Micro computes the bits of `tflm`.


def test_the_shipped_model_on_every_clip(clips: Any) -> None:
    model = kws.load("commands")
    assert model.frontend is not None
    graph = model.graph.with_rounding("tflm")
    x = quantize_features(features(clips, model.frontend), graph.input_params)[..., None]
    assert len(x) > 100
    differences = _differences_from_the_input("tflm", graph, x)
    assert len(differences) == len(graph.ops)
    assert sum(differences.values()) == 0


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(name, POW2) for name in registry.NETWORKS] + [(name, AFFINE) for name in ("ds-cnn-s", "tc-resnet")],
    ids=lambda value: value if isinstance(value, str) else value.scheme,
)
def test_every_architecture(name: str, scheme: QuantScheme, clips: Any) -> None:
    graph, x = _network(name, scheme, clips)
    assert sum(_differences_from_the_input("tflm", graph, x).values()) == 0


@pytest.mark.parametrize("power_of_two", [False, True])
def test_every_op(power_of_two: bool) -> None:
    graph = every_op_of_tflite("tflm", power_of_two=power_of_two)
    assert {op.kind for op in graph.ops} == set(OPS)
    x = random_inputs(graph, 40)
    assert sum(_differences_from_the_input("tflm", graph, x).values()) == 0
    ours, other = run_all(graph, x), run_all(graph.with_rounding("single"), x)
    for name in ("conv", "depthwise", "pointwise", "add", "mul", "logistic", "mean", "dense", "softmax"):
        assert len(np.unique(ours[name])) > 20  # neither dead nor saturated
    for name in ("pointwise", "add", "mul", "dense"):
        assert (ours[name] != other[name]).any()  # the rule shows


def test_random_graphs() -> None:
    exported = 0
    for seed in range(400):
        graph = random_model(random.Random(seed)).graph.with_rounding("tflm")
        try:
            graph.check()
            data = export(graph, LABELS, None)
        except KwsError:
            continue
        x = random_inputs(graph, 3)
        np.testing.assert_array_equal(
            run_tflite("tflm", data, {graph.input: x})[graph.output], run_all(graph, x)[graph.output]
        )
        exported += 1
    assert exported > 50


# What LiteRT computes.


def test_litert_without_delegates_rounds_twice_with_ties_up() -> None:
    graph = every_op_of_tflite("double_up", power_of_two=True)
    x = random_inputs(graph, 40)
    found = _differences_op_by_op("litert-no-delegate", graph, x)
    assert [found[kind]["differ"] for kind in ("conv2d", "fully_connected")] == [0, 0]
    under_tflm = _differences_op_by_op("litert-no-delegate", graph.with_rounding("tflm"), x)
    assert under_tflm["conv2d"]["differ"] > 0  # ties were met


def test_litert_without_delegates_computes_the_shipped_convolutions_and_the_classifier(clips: Any) -> None:
    model = kws.load("commands")
    assert model.frontend is not None
    graph = model.graph.with_rounding("double_up")
    x = quantize_features(features(clips[:40], model.frontend), graph.input_params)[..., None]
    found = _differences_op_by_op("litert-no-delegate", graph, x)
    assert [found[kind]["differ"] for kind in ("conv2d", "fully_connected")] == [0, 0]


def test_xnnpack_rounds_once_half_to_even() -> None:
    graph = every_op_of_tflite("half_even", power_of_two=True)
    x = random_inputs(graph, 40)
    found = _differences_op_by_op("litert", graph, x)
    assert [found[kind]["differ"] for kind in ("conv2d", "depthwise_conv2d", "fully_connected")] == [0, 0, 0]
    assert sum(counts["far"] for counts in found.values()) == 0
    single = _differences_op_by_op("litert", graph.with_rounding("single"), x)
    assert single["conv2d"]["differ"] > 0  # ties were met


def test_xnnpack_differs_in_few_values_of_a_network(clips: Any) -> None:
    graph, x = _network("ds-cnn-s", AFFINE, clips)
    found = _differences_op_by_op("litert", graph.with_rounding("half_even"), x)
    for kind in ("conv2d", "depthwise_conv2d", "fully_connected"):
        assert found[kind]["differ"] <= 1e-5 * found[kind]["values"]
        assert found[kind]["far"] == 0


def test_xnnpack_rounds_products_half_to_even_and_litert_without_delegates_as_tflm_does() -> None:
    builder = GraphBuilder("tflm")
    x = builder.input((9, 8, 16), QuantParams(0.25, -1))
    factors = builder.slice(x, "factors", begin=(0, 0, 0), size=(1, 1, 16))
    graph = builder.finish(builder.mul(x, factors, "mul", output=QuantParams(0.5, -7)))
    x = random_inputs(graph, 30)
    rules = {"litert": "half_even", "litert-no-delegate": "tflm", "litert-reference": "tflm"}
    for runtime, rule in rules.items():
        assert _differences_op_by_op(runtime, graph.with_rounding(rule), x)["mul"]["differ"] == 0
        assert _differences_op_by_op(runtime, graph.with_rounding("double_up"), x)["mul"]["differ"] > 0


@pytest.mark.parametrize(("scale", "differ"), [(0.25, 0), (1.0, 0), (2.0, 1), (4.0, 2), (8.0, 1), (64.0, 1)])
def test_litert_makes_logistics_from_floats_which_shows_where_scales_are_large(scale: float, differ: int) -> None:
    builder = GraphBuilder("tflm")
    graph = builder.finish(builder.logistic(builder.input((256,), QuantParams(scale, 0)), "logistic"))
    x = np.arange(-128, 128, dtype=np.int8)[None]
    for runtime in ("litert", "litert-no-delegate", "litert-reference"):
        assert _differences_op_by_op(runtime, graph, x)["logistic"]["differ"] == differ


# What is in the file.


def _parts(data: bytes) -> tuple[Any, Any]:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    return model, model.subgraphs[0]


def _kinds(data: bytes) -> list[str]:
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model, subgraph = _parts(data)
    return [names[model.operatorCodes[operator.opcodeIndex].builtinCode] for operator in subgraph.operators]


def test_the_file_holds_labels_frontend_and_input_domain() -> None:
    model = kws.load("commands")
    assert model.frontend is not None
    parsed, _ = _parts(export(model.graph, model.labels, model.frontend, {"hop": 4}))
    (entry,) = parsed.metadata
    assert entry.name.decode() == METADATA
    values = json.loads(bytes(parsed.buffers[entry.buffer].data))
    assert values == {
        "version": 1,
        "rounding": "single",
        "labels": list(model.labels),
        "frontend": model.frontend.to_dict(),
        "detection": {"hop": 4},
        "input": {"scale": model.graph.input_params.scale, "zero_point": model.graph.input_params.zero_point},
    }


def test_same_and_valid_are_named_and_other_paddings_get_a_pad() -> None:
    data = export(every_op_of_tflite("tflm", power_of_two=False), LABELS, None)
    assert _kinds(data) == [
        "PAD", "CONV_2D", "MAX_POOL_2D", "PAD", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD", "ADD", "AVERAGE_POOL_2D",
        "SLICE", "SLICE", "QUANTIZE", "QUANTIZE", "CONCATENATION", "MEAN", "CONV_2D", "LOGISTIC", "MUL", "MEAN",
        "RESHAPE", "FULLY_CONNECTED", "SOFTMAX",
    ]  # fmt: skip
    _, subgraph = _parts(data)
    assert subgraph.operators[1].builtinOptions.padding == schema.Padding.SAME
    assert subgraph.operators[4].builtinOptions.padding == schema.Padding.VALID


def test_constants_lie_aligned() -> None:
    graph = every_op_of_tflite("tflm", power_of_two=False)
    data = export(graph, LABELS, None)
    for tensor in graph.tensors.values():
        if tensor.data is not None and tensor.size > 8:
            assert data.index(struct.pack("<I", tensor.data.nbytes) + tensor.data.tobytes()) % 16 == 12


@pytest.mark.parametrize("compiler", [["gcc", "-std=c11"], ["g++", "-std=c++11"]], ids=lambda command: command[0])
def test_the_header_holds_the_bytes_aligned(compiler: list[str], tmp_path: Path) -> None:
    data = export(_dense(), LABELS, None)
    (tmp_path / "model.h").write_text(c_header(data, "model"))
    suffix = "c" if compiler[0] == "gcc" else "cc"
    (tmp_path / f"main.{suffix}").write_text(
        '#include <stdio.h>\n#include "model.h"\n'
        "int main(void) { fwrite(model, 1, sizeof model, stdout); return (int)((unsigned long)model % 16); }\n"
    )
    command = [*compiler, "-Wall", "-Wextra", "-Werror", "-pedantic", f"main.{suffix}", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=True, capture_output=True).stdout == data
    with pytest.raises(UsageError, match="is no C identifier"):
        c_header(data, "1a")


def test_the_same_graph_gives_the_same_file() -> None:
    graphs = [every_op_of_tflite("tflm", power_of_two=False) for _ in range(2)]
    assert export(graphs[0], LABELS, None) == export(graphs[1], LABELS, None)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (QuantParams(2.0**-5, -128), {"RELU6": (-128, 64), "RELU": (-128, 127), "RELU_N1_TO_1": (-128, -96)}),
        (QuantParams(float32(6 / 255), -128), {"RELU6": (-128, 127)}),
        (QuantParams(float32(0.4), 3), {"RELU6": (3, 18), "RELU_N1_TO_1": (0, 6)}),  # 2.5 away from zero
        (QuantParams(2.0**-40, 0), {"RELU": (0, 127)}),
    ],
)
def test_clamps_of_fused_activations(params: QuantParams, expected: dict[str, Any]) -> None:
    found = fused_activations(params)
    assert found["NONE"] == (-128, 127)
    assert {name: found[name] for name in expected} == expected
    assert ("RELU6" in found) == ("RELU6" in expected)  # 6 / S is no int32


def test_every_rounding_rule_has_its_line() -> None:
    assert set(RUNTIMES) == set(ROUNDING_RULES)
    assert all("\n" not in line for line in RUNTIMES.values())


# What is refused.


def _dense(**changes: Any) -> Graph:
    given: dict[str, Any] = {
        "weight": np.ones((2, 3), np.int8),
        "weight_scale": 0.1,
        "weight_zero_point": 0,
        "output": QuantParams(0.5, 0),
    }
    given |= changes
    builder = GraphBuilder()
    x = builder.input((3,), QuantParams(float32(given.pop("input_scale", 0.1)), 0))
    constants = [given.pop(name) for name in ("weight", "weight_scale", "weight_zero_point")]
    return builder.finish(builder.fully_connected(x, "dense", *constants, None, **given))


def _pool(padding: Any) -> Graph:
    builder = GraphBuilder()
    return builder.finish(
        builder.max_pool(builder.input((5, 4, 1), QuantParams(1.0, 0)), "pool", (2, 2), padding=padding)
    )


def _one_channel() -> Graph:
    """A fully connected layer of one channel with a tuple of one scale: its product is not rounded to float32."""
    for scale in np.random.default_rng(0).uniform(0.01, 0.1, 100):
        graph = _dense(weight=np.ones((1, 3), np.int8), weight_scale=[float32(scale)])
        float_graph = _dense(weight=np.ones((1, 3), np.int8), weight_scale=float32(scale))
        requants = [next(g.ops[0].attributes.requants())[1] for g in (graph, float_graph)]
        if requants[0].multiplier[0] != requants[1].multiplier[0]:
            return graph
    raise AssertionError("float32 rounds no product")


def _no_scale() -> Graph:
    return _dense().without_scales()


def _add_far_apart() -> Graph:
    builder = GraphBuilder()
    x = builder.input((3,), QuantParams(1.0, 0))
    return builder.finish(builder.add(x, x, "add", output=QuantParams(2.0**-20, 0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _dense(weight_zero_point=3), "zero_point 3 of weight 'dense/weight' is not 0"),
        (lambda: _dense(weight=np.full((2, 3), -128, np.int8)), "holds -128"),
        (lambda: _dense(activation_max=17), r"clamp \[-128, 17\] is that of no fused activation"),
        (lambda: _pool(((1, 0), (0, 0))), r"padding \(\(1, 0\), \(0, 0\)\) of a pool is neither VALID nor SAME"),
        (_one_channel, "the runtimes derive other multipliers or shifts"),
        (_no_scale, "has no per-tensor scale"),
        (_add_far_apart, r"scales are 2\^19 times the output's"),
    ],
    ids=["zero-point", "minus-128", "clamp", "padding", "multipliers", "scales", "add"],
)
def test_refuses_in_one_line_what_the_format_cannot_say(make: Callable[[], Graph], message: str) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        export(make(), LABELS, None)
    assert "\n" not in str(refusal.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingExtraError, match=r"needs ai-edge-litert and flatbuffers \(pip install .*\[tflite\]"):
        export(_dense(), LABELS, None)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown runtime 'tf'"):
        run_tflite("tf", b"", {})


def test_a_word_of_c_is_no_name() -> None:
    for name in ("int", "class", "_x", "2x"):
        with pytest.raises(UsageError):
            c_header(b"1234", name)
