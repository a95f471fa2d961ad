# SPDX-License-Identifier: Apache-2.0
"""What fuzzing found, each as one case, and the seeds of the fuzz targets through those targets, without a fuzzer."""

from __future__ import annotations

import base64
import copy
import json
import lzma
import random
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from deploy.graph import GraphBuilder
from deploy.ops.conv2d import Conv2d
from deploy.ops.registry import OPS
from deploy.reference import run
from deploy.verify import Engine, engines
from features.audio import read_audio
from kws.arithmetic.quant import QuantParams
from kws.errors import AudioError, KwsError, ModelError
from kws.model import MAX_NESTING, Model
from tests.fuzz import differential, fuzz_audio, fuzz_model, fuzz_tflite
from tests.fuzz.common import MAX_LINE
from tests.fuzz.random_graph import random_graph
from tests.fuzz.random_model import random_model

CORPUS = Path(__file__).parent / "fuzz" / "corpus"
TARGETS = {"model": fuzz_model, "audio": fuzz_audio, "tflite": fuzz_tflite}
SEEDS = sorted(CORPUS.glob("*/*"))
FILE = (CORPUS / "model" / "every_op.kws").read_bytes()
VALUES = json.loads(json.loads(FILE[8 : 8 + int.from_bytes(FILE[:8], "little")])["__metadata__"]["kws"])
ARRAYS = load_arrays(FILE)


def target_of(path: Path) -> ModuleType:
    return TARGETS[path.parent.name]


# The seeds.


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_seeds_load_unless_their_name_says_bad(path: Path) -> None:
    assert target_of(path).check(path.read_bytes()) == (not path.name.startswith("bad_"))


def test_the_seeds_are_those_that_the_script_names() -> None:
    names = {path.relative_to(CORPUS).as_posix() for path in SEEDS}
    assert {"model/every_op.kws", "model/no_scales.kws", "model/bad_cut_short.kws", "tflite/every_op.tflite"} <= names
    for part in ("flac", "ogg_vorbis", "ogg_opus", "mp3", "aiff", "wav_float", "caf_alac", "bad_nan", "stereo_44100"):
        assert any(name.startswith(f"audio/{part}") for name in names), part
    assert sum(path.stat().st_size for path in SEEDS) < 64_000


def test_the_seeds_hold_every_op() -> None:
    assert {op.kind for op in Model.from_bytes(FILE).graph.ops} == set(OPS)


def test_random_models_load_run_and_hold_every_op() -> None:
    kinds = set()
    for seed in range(40):
        model = random_model(random.Random(seed))
        assert fuzz_model.check(model.to_bytes())
        assert random_model(random.Random(seed)).to_bytes() == model.to_bytes()
        kinds |= {op.kind for op in model.graph.ops}
    assert kinds == set(OPS)


def mutated(target: ModuleType, data: bytes, seed: int) -> bytes:
    """One mutation, with three flipped bits for the fuzzer's own."""
    rng = random.Random(seed)

    def flip_bits(data: bytes, max_size: int) -> bytes:
        flipped = bytearray(data)
        for _ in range(3 if flipped else 0):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped[:max_size])

    case: bytes = target.mutate(data, 1 << 16, rng, flip_bits)
    assert len(case) <= 1 << 16
    return case


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_mutated_seeds_load_or_are_refused_in_one_line(path: Path) -> None:
    """Twenty cases a seed, always the same ones: that mutations work where no fuzzer is installed."""
    cases = {mutated(target_of(path), path.read_bytes(), seed) for seed in range(20)}
    assert len(cases) > 10
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for case in cases:
            target_of(path).check(case)


def test_mutated_models_get_past_the_header() -> None:
    """Of random changes of a model some load and most are refused for what they say, few for not being a file."""
    data = (CORPUS / "model" / "no_scales.kws").read_bytes()
    lines = []
    for seed in range(200):
        try:
            Model.from_bytes(mutated(fuzz_model, data, seed))
            lines.append("loads")
        except ModelError as error:
            lines.append(str(error))
    assert lines.count("loads") > 10
    assert sum(line.startswith(("graph.", "op '", "tensor '", "frontend.", "detection.")) for line in lines) > 80
    assert len(set(lines)) > 80


def test_a_changed_ogg_file_keeps_right_checksums() -> None:
    original = (CORPUS / "audio" / "ogg_vorbis.ogg").read_bytes()
    mended = bytearray(original)
    mended[22:26] = bytes(4)
    fuzz_audio.mend_ogg(mended)
    assert bytes(mended) == original


# Model files that fuzzing found.


def changed(*path: Any, value: Any) -> bytes:
    """The file with one JSON value replaced."""
    values = copy.deepcopy(VALUES)
    place = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return save_arrays(ARRAYS, {"kws": json.dumps(values)})


def nested(depth: int) -> Any:
    """`depth` lists, each in the next."""
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def refusal(data: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        Model.from_bytes(data)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) <= MAX_LINE
    return line


@pytest.mark.parametrize("name", ["fmin", "log_offset", "power"])
def test_an_integer_that_no_float_holds_is_refused(name: str) -> None:
    assert "too large" in refusal(changed("frontend", name, value=10**400))


@pytest.mark.parametrize("path", [("frontend", "n_mels"), ("detection", "hop"), ("provenance",), ("provenance", "x")])
def test_deep_nesting_is_refused(path: tuple[str, ...]) -> None:
    assert refusal(changed(*path, value=nested(500))) == f"metadata: is nested more than {MAX_NESTING} deep"


def test_nesting_up_to_the_limit_is_read_and_written_and_no_deeper() -> None:
    depth = MAX_NESTING - 2  # inside the model, inside provenance
    model = Model.from_bytes(changed("provenance", "x", value=nested(depth)))
    assert Model.from_bytes(model.to_bytes()).provenance == model.provenance
    model.provenance["x"] = nested(depth + 1)
    with pytest.raises(ModelError, match="provenance: is nested"):
        model.to_bytes()


def test_a_number_beyond_float64_is_refused_as_infinity_is() -> None:
    text = json.dumps(VALUES | {"provenance": {"x": 12345}}).replace("12345", "1e999")
    assert refusal(save_arrays(ARRAYS, {"kws": text})) == "metadata: is not JSON"


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\ud800", "a" * 5000])
@pytest.mark.parametrize(
    "path",
    [
        ("frontend", "kind"), ("frontend", "fmin"), ("detection", "hop"), ("graph", "output"), ("graph", "input"),
        ("graph", "ops", 0, "inputs", 0), ("graph", "ops", 1, "name"), ("graph", "ops", 0, "output"),
        ("graph", "tensors", 1, "name"), ("graph", "more"), ("frontend", "more"),
    ],
)  # fmt: skip
def test_what_a_stranger_writes_makes_no_long_or_unprintable_line(path: tuple[Any, ...], text: str) -> None:
    refusal(changed(*path, value=text))
    refusal(changed(*path[:-1], text, value=0) if isinstance(path[-1], str) else changed(*path, value=[text]))


def test_a_long_list_is_not_repeated_in_the_message() -> None:
    reshape = next(index for index, op in enumerate(VALUES["graph"]["ops"]) if op["kind"] == "reshape")
    refusal(changed("graph", "ops", reshape, "attributes", "shape", value=[1 << 30] * 4096))


# Graphs that fuzzing, or reading with a stranger's eyes, found.

DOMAIN = QuantParams(0.25, 0)


def test_a_pool_that_pads_a_small_input_to_gigabytes_is_refused() -> None:
    builder = GraphBuilder()
    x = builder.input((4, 1, 1), DOMAIN)
    size = 1 << 28
    with pytest.raises(
        ModelError, match=r"op 'pool': input \(4, 1, 1\) with padding .* has more than 16777216 elements"
    ):
        builder.max_pool(x, "pool", (size, 1), stride=(1 << 30, 1), padding=((size - 1, size - 4), (0, 0)))


def test_a_max_pool_that_would_run_for_hours_is_refused() -> None:
    builder = GraphBuilder()
    x = builder.input((3000, 1000, 1), DOMAIN)
    x = builder.max_pool(x, "pool", (1500, 500), stride=(1, 1))
    with pytest.raises(ModelError, match="op 'pool': more than 67108864 multiply-accumulates an output channel"):
        builder.finish(x)


def test_a_depthwise_multiplier_takes_the_memory_of_its_output() -> None:
    builder = GraphBuilder()
    x = builder.input((1024, 1, 1), DOMAIN)
    weight = np.ones((1, 1, 1, 16384), np.int8)
    x = builder.depthwise_conv2d(x, "wide", weight, 1.0, 0, None, stride=(1024, 1), output=DOMAIN)
    graph = builder.finish(x)
    tracemalloc.start()
    run(graph, np.ones((1, 1024, 1, 1), np.int8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # the input, once for every channel, would be 67 MB


def test_a_constant_that_hundreds_of_ops_share_is_not_looked_through_for_each() -> None:
    builder = GraphBuilder()
    x = builder.input((1024,), DOMAIN)
    graph = builder.finish(
        builder.fully_connected(x, "op0", np.zeros((1024, 1024), np.int8), 1.0, 0, None, output=DOMAIN)
    )
    ops, tensors = list(graph.ops), dict(graph.tensors)
    for index in range(1, 70):
        name = f"op{index}"
        tensors[name] = replace(tensors["op0"], name=name)
        ops.append(replace(ops[0], name=name, inputs=(ops[-1].output, *ops[0].inputs[1:]), output=name))
    with pytest.raises(ModelError, match="op 'op63': the ops read more than 67108864 bytes of constants"):
        replace(graph, ops=tuple(ops), tensors=tensors, output=name).check()


@pytest.mark.parametrize("op", ["dense", "conv"])
def test_scales_beyond_float32_are_one_error_and_no_warning(op: str) -> None:
    largest = QuantParams(2.0**127, 0)
    builder = GraphBuilder()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if op == "dense":
            x = builder.input((1,), largest)
            with pytest.raises(KwsError, match="multiplier inf"):
                builder.fully_connected(x, "op", np.zeros((1, 1), np.int8), 1024.0, 0, None, output=largest)
        else:
            x = builder.input((1, 1, 1), largest)
            with pytest.raises(KwsError, match="scale inf"):
                builder.finish(builder.conv2d(x, "op", np.zeros((1, 1, 1, 1), np.int8), 4.0, 0, None, output=largest))


# Sound files that fuzzing found.


def test_a_small_file_of_four_hours_takes_the_memory_of_its_samples(tmp_path: Path) -> None:
    """4 hours at 1 kHz are 47 KB of FLAC and 230 million samples at 16 kHz; here a tenth of them."""
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(1_440_000, np.int16), 1000)
    tracemalloc.start()
    samples = read_audio(path, dtype="int16")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) > 23_000_000
    assert peak < 1.2 * samples.nbytes + 60e6  # one block of decoded sound is 16 MB, a few of those


# An Ogg file (xz, base64) that the fuzzer made: its pages lie about their positions, under right checksums.
_LYING_POSITIONS = (
    "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4AXCAMddACeZ7KYAAP+73HiS3peLHP4Aejhy2AlYMs1f5HWLV/35rv3s1t1/3HV/BGIk"
    "UDeognSg4mZifERZz0hlt++TZAxp1UmmhjXgUjUXw5aGUxXeQ9BAUl6jpfPmWkUhRINMrkabqJ7MzwFNZq7RE8CVFiVkVDOfY+cz"
    "nxvucUcXgSordBBuV9VTWqQLxXpatMRlbKQSi86BzUoVP8IPn965sDsjxhkXozlQH8wm6WX9+N0SuLSFJsViCfit8FYjaGgNiv/2"
    "f0gDPAAAAA++aL69gXhWAAHjAcMLAABIOkgGscRn+wIAAAAABFla"
)


def test_an_ogg_file_whose_positions_do_not_fit_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "x.ogg").write_bytes(lzma.decompress(base64.b64decode(_LYING_POSITIONS)))
    with pytest.raises(AudioError, match="is damaged: its positions do not fit its length"):
        read_audio(tmp_path / "x.ogg", dtype="int16")


# Engines against one another.


def test_random_graphs_repeat_and_hold_every_op_and_odd_same_paddings() -> None:
    graphs = [random_graph(random.Random(case)) for case in range(150)]
    assert {op.kind for graph in graphs for op in graph.ops} == set(OPS)
    assert {1, 2, 3} <= {graph.input_shape[2] for graph in graphs}
    paddings = [op.attributes.padding for graph in graphs for op in graph.ops if isinstance(op.attributes, Conv2d)]
    assert any((before + after) % 2 for padding in paddings for before, after in padding)
    again = random_graph(random.Random(149))
    x = np.random.default_rng(0).integers(-128, 128, (3, *again.input_shape)).astype(np.int8)
    np.testing.assert_array_equal(run(again, x), run(graphs[149], x))


def test_a_wrong_bit_of_one_engine_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(graph: Any, x: Any) -> Any:
        y = run(graph, x)
        y.flat[0] ^= 1
        return y

    monkeypatch.setattr(differential, "engines", lambda: [Engine("wrong", wrong, ("tflm",), equal=True)])
    tally = differential.Tally()
    tally.run(5)
    assert "wrong, tflm, logits: 1 of" in tally.wrong[0]
    assert tally.wrong[0].startswith("case 5 (")
    assert capsys.readouterr().out.startswith(tally.wrong[0])


@pytest.mark.parametrize(
    ("case", "name", "limit"),
    [
        (280, "LiteRT default", "XNNPACK refuses a file with an M of 256 or more"),
        (128, "ONNX Runtime", "QLinearGlobalAveragePool refuses"),
        (1000153, "LiteRT default", "XNNPACK frees memory twice"),
        (1661, "LiteRT default", "XNNPACK adds Z before it rounds the end of a fused activation"),
    ],
)
def test_known_limits_of_others_are_still_there(
    case: int, name: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differential, "engines", lambda: [engine for engine in engines() if engine.name == name])
    tally = differential.Tally()
    tally.run(case)
    assert tally.wrong == []
    assert [what.startswith(limit) for what in tally.known] == [True]


def test_xnnpack_still_takes_the_process_down_where_we_leave_it_out() -> None:
    code = (
        "import random; from deploy.verify import engines, random_inputs\n"
        "from tests.fuzz.random_graph import random_graph\n"
        "graph = random_graph(random.Random(1000153))\n"
        "(engine,) = [engine for engine in engines() if engine.name == 'LiteRT default']\n"
        "engine.run(graph, random_inputs(graph, 1))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=CORPUS.parents[2], capture_output=True).returncode < 0
