# SPDX-License-Identifier: Apache-2.0
"""Every engine against NumPy: what must be equal is, a wrong bit is found, and ties are told from other differences."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy import boards, native, reference, verify
from deploy.graph import Graph, GraphBuilder
from deploy.verify import Engine, Row, Verifier, beside_tie, board_engines, engines, random_inputs, without_softmax
from kws.arithmetic.quant import QuantParams
from kws.cli.main import main
from kws.errors import MissingExtraError, ModelError
from kws.model import Model
from tests.deploy.tflite_graphs import every_op_of_tflite
from training.torch_engine import TorchEngine

RECORDING = Path(__file__).parents[2] / "data" / "bed" / "07c5129e_nohash_0.opus"


@pytest.fixture(autouse=True)
def no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a host without them: `make test-mcu` runs the boards."""
    monkeypatch.setattr(boards, "ARM_TOOLS", {f"no-{tool}": package for tool, package in boards.ARM_TOOLS.items()})


def _torch(graph: Graph, x: Any) -> Any:
    return TorchEngine(graph)(x)


def _rows(graph: Graph, engine: Engine, n: int = 8) -> list[Row]:
    return Verifier(graph, random_inputs(graph, n)).rows(engine)


def _ties_only() -> Graph:
    """One convolution with M = 1/4 and no clamp: a quarter of its values lie on ties."""
    builder = GraphBuilder("half_even")
    x = builder.input((5, 4, 8), QuantParams(0.5, 3))
    weight = np.random.default_rng(2).integers(-2, 3, (8, 1, 1, 8)).astype(np.int8)
    flat = builder.conv2d(x, "conv", weight, [0.5] * 8, 0, None, output=QuantParams(1.0, -7))
    return builder.finish(builder.reshape(flat, "flat", shape=(160,)))


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("rounding", ["single", "tflm"])
def test_every_engine_computes_what_it_must(rounding: str, power_of_two: bool) -> None:
    graph = every_op_of_tflite(rounding, power_of_two=power_of_two)
    verifier = Verifier(graph, random_inputs(graph, 14))
    compared = [*engines(), Engine("PyTorch", _torch, ("half_even",), ops="ties")]
    rows = verifier.rules() + [row for engine in compared for row in verifier.rows(engine)]
    assert not [row for row in rows if row.failed]
    equal = {(row.engine, row.rule, row.part) for row in rows if row.verdict == "equal"}
    names = {*(f"C {level}" for level in native.levels()), "TFLM"}
    assert {(name, "tflm", part) for name in names for part in ("logits", "softmax")} <= equal
    assert ("LiteRT without delegates", "double_up", "ops") in equal
    assert {row.engine for row in rows if row.part == "ops" and row.verdict in ("equal", "ties")} == {
        "LiteRT without delegates", "LiteRT default", "ONNX Runtime", "ONNX Runtime, QDQ", "PyTorch",
    }  # fmt: skip
    assert [row.engine for row in rows if row.verdict == "reference"] == [f"NumPy {rounding}"]
    assert [(row.engine, row.part) for row in rows if row.verdict == "refused"] == [("PyTorch", "logits")]


def test_one_wrong_bit_is_found() -> None:
    def wrong(graph: Graph, x: Any) -> Any:
        y = reference.run(graph, x)
        y[3].flat[2] ^= 1
        return y

    graph = _ties_only()
    (row,) = _rows(graph, Engine("wrong", wrong, ("single",), equal=True))
    assert (row.verdict, row.different, row.largest, row.inputs, row.values) == ("DIFFERS", 1, 1, 10, 1600)
    assert row.failed
    logits, ops = _rows(graph, Engine("wrong", wrong, ("half_even",), ops="equal"))
    assert (logits.verdict, logits.failed) == ("counted", False)
    assert (ops.verdict, ops.note, ops.different) == ("DIFFERS", "values differ: conv: 1", 1)


def test_without_an_op_to_compare_nothing_is_equal() -> None:
    builder = GraphBuilder("half_even")
    x = builder.input((5, 4, 8), QuantParams(0.5, 3))
    graph = builder.finish(builder.mean(x, "mean", output=QuantParams(0.5, 3)))
    for ops in ("equal", "ties"):
        row = _rows(graph, Engine("any", reference.run, ("half_even",), ops=ops))[1]
        assert (row.part, row.verdict, row.values, row.failed) == ("ops", "nothing", 0, False)


def test_a_wrong_softmax_is_found() -> None:
    def wrong(graph: Graph, x: Any) -> Any:
        y = reference.run(graph, x)
        return y ^ 1 if graph.ops[-1].kind == "softmax" else y

    graph = every_op_of_tflite("single", power_of_two=False)
    logits, softmax = _rows(graph, Engine("wrong", wrong, ("single",), equal=True))
    assert (logits.verdict, softmax.verdict, softmax.part) == ("equal", "DIFFERS", "softmax")
    assert without_softmax(graph).ops[-1].kind == "fully_connected"


@pytest.mark.parametrize(("rule", "verdict"), [("half_even", "equal"), ("single", "ties"), ("tflm", "DIFFERS")])
def test_ties_are_told_from_other_differences(rule: str, verdict: str) -> None:
    """`single` differs from `half_even` in ties alone, `tflm` elsewhere too."""
    engine = Engine("other", lambda graph, x: reference.run(graph.with_rounding(rule), x), ("half_even",), ops="ties")
    _, ops = _rows(_ties_only(), engine)
    assert ops.verdict == verdict
    assert (ops.different > 0) == (rule != "half_even")
    assert ops.failed == (rule == "tflm")


def test_a_tie_moved_by_two_steps_is_none() -> None:
    graph = _ties_only()
    tie = beside_tie(graph, graph.ops[0], random_inputs(graph, 8))
    assert 0.1 < tie.mean() < 0.4

    def far(graph: Graph, x: Any) -> Any:
        y = reference.run(graph, x)
        if graph.ops[-1].kind == "conv2d":
            y[tie & (abs(y.astype(int)) < 100)] += 2
        return y

    assert _rows(graph, Engine("far", far, ("half_even",), ops="ties"))[1].verdict == "DIFFERS"


def test_what_is_not_there_is_listed_and_not_checked() -> None:
    def raising(error: Exception) -> Engine:
        def run(graph: Graph, x: Any) -> Any:
            raise error

        return Engine("absent", run, ("tflm",), equal=True)

    found = {
        "not installed": MissingExtraError("it is not installed", hint="pip install it"),
        "refused": ModelError("scale is not known", where="op 'add'"),
        "FAILED": RuntimeError("tensor 3\nmore"),
    }
    for verdict, error in found.items():
        (row,) = _rows(_ties_only(), raising(error))
        assert (row.verdict, row.values, row.failed) == (verdict, 0, verdict == "FAILED")
        assert row.note == str(error).splitlines()[0]


def test_boards_are_not_checked_where_the_emulator_is_missing() -> None:
    rows = [row for engine in board_engines() for row in _rows(_ties_only(), engine)]
    assert [row.engine for row in rows[::2]] == [f"Cortex-M{n}, emulated" for n in (3, 4, 7, 55)]
    assert {(row.verdict, row.failed) for row in rows} == {("not installed", False)}
    assert rows[0].note.startswith("gcc-arm-none-eabi is not installed")
    assert "apt-get install gcc-arm-none-eabi qemu-system-arm" in rows[0].note


@pytest.mark.parametrize(
    ("wrong", "size", "verdict"), [(0, 900, "equal"), (1, 900, "DIFFERS"), (0, 1 << 20, "refused")]
)
def test_what_a_board_prints_is_compared(wrong: int, size: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _ties_only()

    def emulate(board: boards.Board, folder: Path) -> str:
        assert (folder / "src" / "m.c").is_file()
        x = np.frombuffer((folder / "inputs.bin").read_bytes(), np.int8).reshape(-1, *graph.input_shape)
        y = reference.run(graph.with_rounding("tflm"), x)
        y[-1, -1] ^= wrong
        lines = ["layer 12", "run 34", *("output " + " ".join(map(str, row)) for row in y.tolist()), "stack 56"]
        return "\n".join(lines)

    monkeypatch.setattr(boards, "_require", lambda board: None)
    monkeypatch.setattr(boards, "build", lambda *given: None)
    monkeypatch.setattr(boards, "sizes", lambda *given: [size, 0, 0])
    monkeypatch.setattr(boards, "emulate", emulate)
    (row,) = _rows(graph, replace(board_engines()[-1], rules=("tflm",)), 18)
    assert (row.verdict, row.different, row.failed) == (verdict, wrong, wrong == 1)
    assert row.inputs == (0 if verdict == "refused" else verify.BOARD_INPUTS)


def test_random_inputs_hold_the_ends_and_repeat() -> None:
    graph = _ties_only()
    x = random_inputs(graph)
    assert x.shape == (100, 5, 4, 8)
    assert x.dtype == np.int8
    assert (x[0] == -128).all()
    assert (x[1] == 127).all()
    np.testing.assert_array_equal(x, random_inputs(graph))


@pytest.fixture
def deaf(tmp_path: Path) -> Path:
    """A model file without a front-end."""
    graph = every_op_of_tflite("tflm", power_of_two=False)
    path = tmp_path / "deaf.kws"
    Model(graph, None, ("a", "b", "c", "d", "e"), None).save(path)
    return path


def test_the_command_prints_the_table(deaf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--model", str(deaf)]) == 0
    out = capfd.readouterr().out
    assert "TFLM                      NumPy tflm       logits      100     500       0" in out
    assert "PyTorch: op 'concatenation': torch has no concatenation to compare with" in out
    assert "Cortex-M55, emulated" in out
    assert out.endswith("everything that must be equal is, of what was checked\n")


def test_the_command_fails_on_a_difference(
    deaf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Engine("wrong", lambda graph, x: reference.run(graph, x) ^ 1, ("tflm",), equal=True)
    monkeypatch.setattr(verify, "engines", lambda: [wrong])
    assert main(["verify", "--model", str(deaf)]) == 1
    out = capfd.readouterr().out
    assert "DIFFERS" in out
    assert out.endswith("2 comparisons failed\n")


def test_the_command_hears_recordings(
    tmp_path: Path, deaf: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "engines", lambda: [replace(e, ops="") for e in engines() if e.name.startswith("C")])
    shutil.copy(RECORDING, tmp_path / "bed.opus")
    assert main(["verify", "--inputs", str(tmp_path)]) == 0
    assert f"C {native.levels()[0]}" in capfd.readouterr().out
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    assert main(["verify", "--inputs", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert "everything that must be equal is" in out
    assert "broken.wav" in err
    assert main(["verify", "--model", str(deaf), "--inputs", str(tmp_path)]) == 1
    assert "this model takes features, not sound" in capfd.readouterr().err
    (tmp_path / "empty").mkdir()
    for folder, why in (("empty", "holds no sound files"), ("missing", "no such file")):
        assert main(["verify", "--inputs", str(tmp_path / folder)]) == 1
        assert capfd.readouterr() == ("", f"kws: {tmp_path / folder}: {why}\n")
