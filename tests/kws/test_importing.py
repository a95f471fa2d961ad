# SPDX-License-Identifier: Apache-2.0
"""A .tflite file of others goes through every command, with a front-end and without."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kws
from deploy.export import tflite
from deploy.reference import run as run_graph
from features.config import get_preset
from kws.cli.main import main
from kws.detector import DetectionConfig
from kws.errors import ModelError
from kws.importing import import_tflite
from kws.model import Model

DEFAULT = "thresholds are the default, half of the largest sum: kws tune chooses them\n"
DEAF = "kws: front-end: is none: this model takes features, not sound (kws import --preset P, where one of ours made"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def file(tone_model: Model, tmp_path: Path) -> Path:
    """The tone model as others would write it: no metadata of ours."""
    data = tflite.export(tone_model.graph.with_rounding("tflm"), tone_model.labels, None)
    path = tmp_path / "others.tflite"
    path.write_bytes(data.replace(b"integer_kws", b"integer_xyz"))
    return path


def test_our_own_export_needs_neither_labels_nor_preset(tone_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "tones.tflite"
    path.write_bytes(tflite.export(tone_model.graph, tone_model.labels, tone_model.frontend))
    model = import_tflite(path)
    assert (model.labels, model.frontend, model.graph.rounding) == (tone_model.labels, tone_model.frontend, "single")
    assert model.detection == DetectionConfig.default(get_preset("mfb40"), 2)
    assert model.provenance["imported from"] == "tones.tflite"
    assert len(model.provenance["sha256"]) == 64


def test_our_own_export_keeps_its_thresholds(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tmp_path: Path
) -> None:
    assert tone_model.detection is not None
    model, path, out = tmp_path / "tuned.kws", tmp_path / "tuned.tflite", tmp_path / "back.kws"
    tuned = replace(tone_model.detection, thresholds=(900, 1000), releases=(500, 600))
    replace(tone_model, detection=tuned).save(model)
    assert run(capsys, "export", "--model", model, "--to", "tflite", "--out", path)[0] == 0
    code, _, err = run(capsys, "import", path, "--out", out)
    assert (code, err, kws.load(out).detection) == (0, "", tuned)
    code, _, err = run(capsys, "import", path, "--out", out, "--preset", "mfb40", "--labels", "a,b,_silence_,_unknown_")
    assert (code, err, kws.load(out).detection) == (0, DEFAULT, DetectionConfig.default(get_preset("mfb40"), 2))


@pytest.mark.parametrize("wrong", [{"hop": 0}, {"hop": "x"}, {"thresholds": [1]}, {"thresholds": None}, {"more": 1}])
def test_a_detection_of_strangers_is_refused(tone_model: Model, tmp_path: Path, wrong: dict[str, Any]) -> None:
    assert tone_model.detection is not None
    detection, path = tone_model.detection.to_dict() | wrong, tmp_path / "m.tflite"
    path.write_bytes(tflite.export(tone_model.graph, tone_model.labels, tone_model.frontend, detection))
    with pytest.raises(ModelError, match="detection"):
        import_tflite(path)


def test_with_a_preset_it_hears(
    capsys: pytest.CaptureFixture[str], file: Path, tone_model: Model, tone_file: Any, tmp_path: Path
) -> None:
    out, names = tmp_path / "m.kws", tmp_path / "names.txt"
    names.write_text("\n".join(tone_model.labels) + "\n")
    for labels in (",".join(tone_model.labels), names):
        code, printed, err = run(capsys, "import", file, "--out", out, "--labels", labels, "--preset", "mfb40")
        assert (code, err) == (0, DEFAULT)
        assert printed == f"3 ops, 4 labels, rounding 'tflm'\nwrote {out}\n"
    recording = tone_file("tones.wav", 4, ("low", 1.0, 0.4), ("high", 2.5, 0.3))
    code, printed, _ = run(capsys, "infer", "--model", out, "--format", "csv", recording)
    assert code == 0
    assert [line.split(",")[1] for line in printed.splitlines()[1:]] == ["low", "high"]


def test_without_a_preset_it_is_deaf_and_all_else_works(
    capsys: pytest.CaptureFixture[str], file: Path, tone_file: Any, tmp_path: Path
) -> None:
    out = tmp_path / "m.kws"
    code, printed, _ = run(capsys, "import", file, "--out", out)
    assert code == 0
    assert printed.splitlines()[0].endswith("; without a front-end it hears no sound")
    recording = tone_file("tones.wav", 2)
    for arguments in (("infer", recording), ("features", recording, "--npy", tmp_path / "x.npy")):
        code, _, err = run(capsys, *arguments, "--model", out)
        assert code == 1
        assert err.startswith(DEAF)
        assert err.count("\n") == 1
    code, printed, _ = run(capsys, "inspect", out)
    assert code == 0
    assert printed.splitlines()[:3] == [
        "labels      class_0 class_1 class_2 class_3",
        "front-end   none",
        "input       49x40x1 int8, S = 0.0862745, Z = 11",
    ]
    assert run(capsys, "profile", out)[0] == 0
    for to in ("c", "c-array", "tflite"):
        assert run(capsys, "export", "--model", out, "--to", to, "--out", tmp_path / to)[0] == 0
    again = import_tflite(tmp_path / "tflite")
    x = np.random.default_rng(0).integers(-128, 128, (5, 49, 40, 1)).astype(np.int8)
    np.testing.assert_array_equal(again.run(x), run_graph(kws.load(out).graph, x))
    with pytest.raises(ModelError, match="front-end: is none"):
        kws.load(out).detect(np.zeros(16000, np.int16))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--labels", "a,b"), 1, "graph.output: output shape (4,) does not fit 2 labels"),
        (("--preset", "mfcc10"), 1, "graph.input: input shape (49, 40, 1) is not the front-end's (49, 10, 1)"),
        (("--labels", "_a,b,c,d", "--preset", "mfb40"), 1, "labels: do not begin with the keywords"),
        (("--labels", "_a,_b,_c,_d", "--preset", "mfb40"), 1, "labels: do not begin with the keywords"),
        (("--preset", "mfb"), 2, "'mfb' is not one of"),
    ],
)
def test_what_does_not_fit_is_one_line(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = run(capsys, "import", file, "--out", tmp_path / "m.kws", *arguments)
    assert found == code
    assert message in err
    assert not (tmp_path / "m.kws").exists()


def test_thresholds_are_said_to_be_the_default_and_labels_may_begin_with_a_mark(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "m.kws"
    labels.write_bytes("\ufeffa\nb\nc\nd\n".encode())
    code, _, err = run(capsys, "import", file, "--out", out, "--preset", "mfb40", "--labels", labels)
    assert (code, err) == (0, DEFAULT)
    assert kws.load(out).labels == ("a", "b", "c", "d")


def test_files_that_cannot_be_read_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing, text = tmp_path / "no.tflite", tmp_path / "text.tflite"
    text.write_text("a text file")
    out = tmp_path / "m.kws"
    assert (
        run(capsys, "import", missing, "--out", out)[2]
        == f"kws: {missing}: cannot be read: No such file or directory\n"
    )
    assert run(capsys, "import", text, "--out", out)[2] == f"kws: {text}: is no TFL3 file, or is cut short\n"
    text.write_bytes(b"\xff\xfe")
    code, _, err = run(capsys, "import", missing, "--out", out, "--labels", text)
    assert (code, err) == (2, f"kws: {text}: is not text in UTF-8\n")
    code, _, err = run(capsys, "import", missing, "--out", out, "--labels", tmp_path)
    assert (code, err) == (2, f"kws: {tmp_path}: is no file of labels\n")
    for labels in ("names.txt", "names.csv", "names.json", "./names", "names/", f"{tmp_path}/names"):
        code, _, err = run(capsys, "import", missing, "--out", out, "--labels", labels)
        assert (code, err) == (2, f"kws: {labels}: no such file of labels (names have commas between)\n")


def test_what_is_imported_is_not_written_over(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    before = file.read_bytes()
    code, _, err = run(capsys, "import", file, "--out", file.name)
    assert (code, err) == (
        2, f"kws: {file.name}: would be written over the file that is imported (give --out another name)\n"
    )  # fmt: skip
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_what_has_no_end_is_not_read(tmp_path: Path, kind: str) -> None:
    source = Path("/dev/zero")
    if kind == "pipe":
        source = tmp_path / "pipe.tflite"
        os.mkfifo(source)
    with pytest.raises(ModelError, match="is no regular file"):
        import_tflite(source)
