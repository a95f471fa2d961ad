# SPDX-License-Identifier: Apache-2.0
"""`kws export` on the command line: what it writes, and what it says of it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.export import onnx, tflite
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.cli import common
from kws.model import Model
from tests.kws.test_cli import run


def _parts(model: Model) -> tuple[Any, ...]:
    assert model.detection is not None
    return model.graph, model.labels, model.frontend, model.detection.to_dict()


def test_export_writes_the_header(capsys: pytest.CaptureFixture[str], tone_model_file: Path, tmp_path: Path) -> None:
    own, same, other = (tmp_path / name for name in ("own.h", "same.h", "other.h"))
    arguments = ("export", "--model", tone_model_file, "--to", "c-array", "--out")
    assert run(capsys, *arguments, own) == (0, f"wrote {own}\n", "")
    assert run(capsys, *arguments, same, "--rounding", "single")[2] == ""
    assert same.read_text() == own.read_text()
    code, _, err = run(capsys, *arguments, other, "--rounding", "tflm")
    assert code == 0
    assert err == "rounding tflm instead of the model's single: results will differ from the model's\n"
    assert "'tflm'" in other.read_text()
    assert Model.load(tone_model_file).graph.rounding == "single"


def test_export_writes_a_folder_named_after_the_model(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tmp_path: Path
) -> None:
    for file, options, name in (
        ("Tones-2.kws", (), "tones_2"), ("a run/model.kws", (), "a_run"), ("string.kws", (), "kws_string"),
        ("2.kws", (), "kws_2"), ("x.kws", ("--name", "other"), "other"),
    ):  # fmt: skip
        model, out = tmp_path / file, tmp_path / f"out-{name}"
        model.parent.mkdir(exist_ok=True)
        tone_model.save(model)
        code, printed, err = run(capsys, "export", "--model", model, "--to", "c", "--out", out, *options)
        assert (code, err) == (0, "")
        assert printed.endswith(f"wrote {out}\n")
        assert (out / "src" / f"{name}.h").is_file()
    code, _, err = run(capsys, "export", "--to", "c", "--out", tmp_path / "no", "--rounding", "half_even")
    assert code == 2
    assert err.endswith("(export with --rounding single or tflm)\n")
    assert not (tmp_path / "no").exists()


def test_export_to_tflite_says_who_computes_the_bits(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tone_model_file: Path, tmp_path: Path
) -> None:
    out, arguments = tmp_path / "tones.tflite", ("export", "--model", tone_model_file, "--to", "tflite", "--out")
    code, printed, err = run(capsys, *arguments, out)
    assert (code, err) == (0, "")
    first, second = printed.splitlines()
    assert first.startswith("rounding 'single': no TFLite runtime is sure to compute this model's own bits")
    assert second == f"wrote {out}"
    assert out.read_bytes() == tflite.export(*_parts(tone_model))
    code, printed, _ = run(capsys, *arguments, out, "--rounding", "tflm")
    assert code == 0
    assert printed.startswith("rounding 'tflm': TensorFlow Lite Micro computes this model's own bits")


def test_export_to_tflite_array_is_that_file_as_a_header(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tone_model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tones.h"
    arguments = ("export", "--model", tone_model_file, "--to", "tflite-array", "--out", out)
    code, printed, err = run(capsys, *arguments, "--name", "tones")
    assert (code, err) == (0, "")
    data = tflite.export(*_parts(tone_model))
    assert printed.startswith(f"{len(data):,} bytes; rounding 'single': no TFLite runtime")
    assert out.read_text() == tflite.c_header(data, "tones")
    program = f'#include "{out}"\nint main(void) {{ return tones[0] == 0 || (unsigned long)tones % 16; }}\n'
    for language in ("c99", "c11", "c++11"):
        compiler = ["g++", "-x", "c++"] if "+" in language else ["gcc", "-x", "c"]
        flags = [f"-std={language}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / language), "-"]
        subprocess.run([*compiler, *flags], input=program, text=True, check=True)
        assert subprocess.run([tmp_path / language]).returncode == 0
    assert run(capsys, *arguments, "--name", "a b")[0] == 2


def test_export_to_onnx_says_who_computes_the_bits(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tone_model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tones.onnx"
    code, printed, err = run(capsys, "export", "--model", tone_model_file, "--to", "onnx", "--out", out)
    assert (code, err) == (0, "")
    assert printed.startswith("rounding 'single': ONNX Runtime rounds once as the model does")
    assert out.read_bytes() == onnx.export(*_parts(tone_model))


def test_export_to_onnx_qdq_says_what_it_leaves_open(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tone_model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tones.onnx"
    code, printed, err = run(capsys, "export", "--model", tone_model_file, "--to", "onnx-qdq", "--out", out)
    assert (code, err) == (0, "")
    said, _ = printed.splitlines()
    assert said.startswith("rounding 'single': ONNX Runtime rounds once as the model does")
    assert said.endswith("integers throughout with the session option session.qdqisint8allowed=1")
    assert out.read_bytes() == onnx.export(*_parts(tone_model), qdq=True)


def test_export_to_onnx_names_the_adds_whose_zero_point_is_odd(
    capsys: pytest.CaptureFixture[str], tone_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "odd_zero_points", lambda graph, qdq=False: f"add 'x', qdq {qdq}")
    for to, line in (("onnx", "add 'x', qdq False"), ("onnx-qdq", "add 'x', qdq True")):
        code, printed, err = run(capsys, "export", "--model", tone_model_file, "--to", to, "--out", tmp_path / to)
        assert (code, printed.splitlines()[1:], err) == (0, [line, f"wrote {tmp_path / to}"], "")


def test_export_of_a_header_is_whole_or_not_at_all(
    capsys: pytest.CaptureFixture[str], tone_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, arguments = tmp_path / "out.h", ("export", "--model", tone_model_file, "--to", "c-array", "--out")
    assert run(capsys, *arguments, "/dev/null")[0] == 0
    out.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert run(capsys, *arguments, out) == (1, "", f"kws: {out}: cannot be written: No space left on device\n")
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"out.h", "tones.kws"}


def test_export_offers_every_rounding_rule() -> None:
    assert common.ROUNDING_RULES == ROUNDING_RULES


@pytest.mark.parametrize("to", ["c-array", "tflite", "tflite-array", "onnx", "onnx-qdq"])
def test_the_model_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str) -> None:
    model = tmp_path / "m.kws"
    Model.load("commands").save(model)
    before = model.read_bytes()
    (tmp_path / "link.kws").symlink_to(model)
    for out in (model, tmp_path / "link.kws"):
        code, _, err = run(capsys, "export", "--model", model, "--to", to, "--out", out)
        assert (code, "would be written over the model" in err) == (2, True)
    assert model.read_bytes() == before
