# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.audio import read_audio
from features.config import PRESETS, get_preset
from features.frontend import features, input_features
from kws.cli import common
from kws.cli.main import COMMANDS, main
from kws.cli.reference import render
from kws.detector import Event
from kws.evaluate import evaluate
from kws.model import Model
from kws.stream_score import Word, read_labels

ROOT = Path(__file__).parents[2]
KWS = Path(sys.executable).parent / "kws"
BURSTS = (("low", 1.0, 0.4), ("high", 2.5, 0.3))
ToneFile = Callable[..., Path]


@pytest.fixture
def recording(tone_file: ToneFile) -> Path:
    return tone_file("two tones.wav", 4, *BURSTS)


@pytest.fixture
def events(tone_model: Model, recording: Path) -> list[Event]:
    found = tone_model.detect(recording)
    assert [event.label for event in found] == ["low", "high"]
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# ---- infer -----------------------------------------------------------------------------------------------------------


def test_infer_prints_a_table(
    capsys: pytest.CaptureFixture[str], recording: Path, tone_model_file: Path, events: list[Event]
) -> None:
    code, out, err = run(capsys, "infer", recording, "--model", tone_model_file)
    head, *lines = out.splitlines()
    assert code == 0
    assert head.split() == ["start", "end", "keyword", "score", "file"]
    for line, event in zip(lines, events, strict=True):
        assert line.split(maxsplit=4) == [
            f"{event.start:.2f}", f"{event.end:.2f}", event.label, f"{event.score:.2f}", str(recording),
        ]  # fmt: skip
    assert err == "2 events in 1 of 1 recordings\n"


def test_infer_formats_carry_the_same_events(
    capsys: pytest.CaptureFixture[str], recording: Path, tone_model_file: Path, events: list[Event]
) -> None:
    def printed(format_: str) -> str:
        code, out, err = run(capsys, "infer", recording, "--model", tone_model_file, "--format", format_)
        assert (code, err) == (0, "")
        return out

    expected = [(e.label, round(e.start, 3), round(e.end, 3), round(e.score, 4)) for e in events]
    rows = [json.loads(line) for line in printed("jsonl").splitlines()]
    assert [(r["label"], r["start"], r["end"], r["score"]) for r in rows] == expected
    assert {r["file"] for r in rows} == {str(recording)}
    table = list(csv.DictReader(io.StringIO(printed("csv"))))
    assert [(r["label"], float(r["start"]), float(r["end"]), float(r["score"])) for r in table] == expected
    assert {r["file"] for r in table} == {str(recording)}
    track = recording.with_suffix(".labels")
    track.write_text(printed("audacity"))
    assert read_labels(track) == [Word(label, start, end) for label, start, end, _ in expected]
    for line, (label, start, end, score) in zip(printed("rttm").splitlines(), expected, strict=True):
        kind, name, channel, begin, duration, *rest = line.split(" ")
        assert (kind, name, channel) == ("SPEAKER", "two_tones", "1")
        assert float(begin) == start
        assert float(begin) + float(duration) == pytest.approx(end, abs=0.0011)
        assert rest == ["<NA>", "<NA>", label, f"{score:.4f}", "<NA>"]


def test_infer_goes_on_after_a_bad_file(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, tmp_path: Path
) -> None:
    """A folder, searched; a file that is no sound, one that is missing, a folder without sounds: each named, exit 1."""
    tone_file("folder/a.wav", 2, ("low", 0.5, 0.4))
    tone_file("folder/deep/b.flac", 2, ("high", 0.5, 0.4))
    (tmp_path / "folder" / "bad.wav").write_bytes(b"RIFF but no more")
    (tmp_path / "folder" / "notes.txt").write_text("no sound")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "folder", tmp_path / "missing.wav", tmp_path / "empty"]
    code, out, err = run(capsys, "infer", *paths, "--model", tone_model_file, "--format", "jsonl")
    assert code == 1
    found = [(Path(row["file"]).name, row["label"]) for row in map(json.loads, out.splitlines())]
    assert found == [("a.wav", "low"), ("b.flac", "high")]
    lines = err.splitlines()
    assert len(lines) == 3
    assert [name in line for name, line in zip(("bad.wav", "missing.wav", "empty"), lines, strict=True)] == [True] * 3


def test_infer_says_how_a_file_was_converted(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path
) -> None:
    path = tone_file("slow.wav", 2, ("low", 0.5, 0.4), rate=8000)
    assert "Hz" not in run(capsys, "infer", path, "--model", tone_model_file)[2]
    assert "resampled from 8000 Hz to 16000 Hz" in run(capsys, "infer", path, "--model", tone_model_file, "-v")[2]


def test_infer_draws_beside_the_recording(
    capsys: pytest.CaptureFixture[str], recording: Path, tone_model_file: Path
) -> None:
    assert run(capsys, "infer", recording, "--model", tone_model_file, "--png")[0] == 0
    assert recording.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("first", ["b.wav", "x" * 300 + ".wav"])
def test_infer_goes_on_after_what_the_system_refuses(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, tmp_path: Path, first: str
) -> None:
    """A folder where the picture should go, a name that no file can have."""
    if first == "b.wav":
        tone_file(first, 2, *BURSTS[:1])
        (tmp_path / "b.png").mkdir()
    good = tone_file("good.wav", 2, ("low", 0.5, 0.4))
    arguments = ("infer", tmp_path / first, good, "--model", tone_model_file, "--format", "jsonl", "--png")
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == [str(good)]
    (line,) = err.splitlines()
    assert line.startswith(f"kws: {tmp_path / first.removesuffix('.wav')}")


def test_infer_draws_over_no_recording_and_no_other_picture(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, tmp_path: Path
) -> None:
    paths = [tone_file(f"in/{name}", 2, ("low", 0.5, 0.4)) for name in ("a.wav", "a.flac", "b.wav", "pic.wav")]
    paths[3] = paths[3].rename(tmp_path / "in" / "pic.png")
    content = paths[3].read_bytes()
    assert run(capsys, "infer", *paths, paths[2], "--model", tone_model_file, "--png")[0] == 0
    assert paths[3].read_bytes() == content
    pictures = {path.name for path in (tmp_path / "in").iterdir()} - {path.name for path in paths}
    assert pictures == {"a.wav.png", "a.flac.png", "b.png", "pic.png.png"}


def test_infer_has_no_label_track_of_two_files(
    capsys: pytest.CaptureFixture[str], recording: Path, tone_model_file: Path
) -> None:
    arguments = ("infer", recording, recording, "--model", tone_model_file, "--format", "audacity")
    assert run(capsys, *arguments)[::2] == (
        2,
        "kws: an Audacity label track belongs to one recording (give one file, or --format rttm)\n",
    )


# ---- evaluate, inspect, features -------------------------------------------------------------------------------------


@pytest.fixture
def words(tone_file: ToneFile, tmp_path: Path) -> Path:
    tone_file("words/low/a_nohash_0.wav", 1.0, ("low", 0.3, 0.4))
    tone_file("words/high/a_nohash_0.wav", 1.0, ("high", 0.3, 0.4))
    tone_file("words/boom/a_nohash_0.wav", 1.0, ("low", 0.3, 0.4))
    return tmp_path / "words"


def test_evaluate_prints_json(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tone_model_file: Path, words: Path
) -> None:
    arguments = ("evaluate", "--model", tone_model_file, "--data", words, "--split", "all", "--json")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out) == evaluate(tone_model, words, "all").to_dict()


def test_evaluate_prints_a_table(capsys: pytest.CaptureFixture[str], tone_model_file: Path, words: Path) -> None:
    code, out, _ = run(capsys, "evaluate", "--model", tone_model_file, "--data", words, "--split", "all")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["low", "1", "100.00", "%", "50.00", "%"] in rows
    assert ["_silence_", "0", "-", "-"] in rows
    assert "accuracy           66.67 % [20.77, 93.85] of 3 clips" in out
    assert "1 of 1 clips without a keyword" in out
    assert "boom 1/1" in out


def test_evaluate_names_broken_clips(capsys: pytest.CaptureFixture[str], tone_model_file: Path, words: Path) -> None:
    (words / "low" / "bad_nohash_0.wav").write_bytes(b"no sound")
    code, out, err = run(capsys, "evaluate", "--model", tone_model_file, "--data", words, "--split", "all", "--json")
    assert code == 1
    assert json.loads(out)["n"] == 3
    assert "bad_nohash_0.wav" in err


def test_inspect_shows_every_layer(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tone_model_file: Path
) -> None:
    code, out, _ = run(capsys, "inspect", tone_model_file)
    assert code == 0
    report = tone_model.graph.check()
    assert "labels      low high _silence_ _unknown_" in out
    assert "40 mel bands" in out
    for op, cost in zip(tone_model.graph.ops, report.ops, strict=True):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{op.name} ")]
        assert op.kind in line
        assert line.split()[-3:] == [f"{cost.macs:,}", f"{cost.weight_bytes:,}", f"{cost.acc_bound:,}"]
    dense = tone_model.graph.ops[-1].attributes
    ((_, requant),) = dense.requants()
    assert str(int(requant.multiplier[0])) in out
    assert "[-128, 127]" in out


def test_features_as_array_and_picture(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    array, picture = tmp_path / "out.npy", tmp_path / "out.png"
    arguments = ("features", recording, "--preset", "mfcc10", "--npy", array, "--png", picture)
    assert run(capsys, *arguments) == (0, "", "")
    assert np.array_equal(np.load(array), features(read_audio(recording), get_preset("mfcc10")))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_features_as_a_model_sees_them(
    capsys: pytest.CaptureFixture[str], recording: Path, tone_model: Model, tone_model_file: Path, tmp_path: Path
) -> None:
    picture, arrays = tmp_path / "out.png", tmp_path / "out.npz"
    options = ("--model", tone_model_file, "--png", picture, "--npy", arrays)
    assert run(capsys, "features", recording, *options) == (0, "", "")
    assert picture.exists()
    written, params = np.load(arrays), tone_model.graph.input_params
    assert np.array_equal(written["float"], features(read_audio(recording), tone_model.frontend))
    assert np.array_equal(written["quantized"], input_features(read_audio(recording), tone_model.frontend, params))
    assert (written["scale"], written["zero_point"]) == (params.scale, params.zero_point)


def test_features_offers_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(PRESETS) == common.PRESETS
    assert ", ".join(PRESETS) in " ".join(run(capsys, "features", "--help")[1].split())


@pytest.mark.parametrize("option", ["--png", "--npy"])
def test_features_of_less_than_a_frame_are_an_error(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tmp_path: Path, option: str
) -> None:
    path = tone_file("short.wav", 0.02)
    message = f"kws: {path}: 320 samples are fewer than one frame of 480\n"
    assert run(capsys, "features", path, option, tmp_path / "out") == (2, "", message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--png", "--npy"])
def test_features_are_not_written_over_the_recording(
    capsys: pytest.CaptureFixture[str], recording: Path, option: str
) -> None:
    content = recording.read_bytes()
    assert run(capsys, "features", recording, option, recording)[0] == 2
    assert recording.read_bytes() == content


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Usage: kws"),
        (("nothing",), 2, "No such command 'nothing'"),
        (("infer",), 2, "Missing argument 'FILE|DIR ...'"),
        (("infer", "x.wav", "--format", "xml"), 2, "'xml' is not one of"),
        (("infer", "x.wav", "--model", "nobody"), 1, "kws: model 'nobody': is no file, run folder or shipped model"),
        (("evaluate", "--data", "."), 1, "kws: "),
        (("evaluate", "--stream", ".", "--tolerance-ms", "9" * 400), 2, "is not in the range 0<=x<=60000"),
        (("evaluate", "--split", "all"), 2, "kws: give either --data, or --stream and --negatives"),
        (("features", "x.wav"), 2, "kws: nothing to write (give --png OUT.png, --npy OUT.npy or both)"),
        (("features", "x.wav", "--npy", "x.npy"), 1, "kws: x.wav: no such file"),
        (("features", "x.wav", "--npy", "x.npy", "--preset", "mfb"), 2, "kws: no preset 'mfb' (choose one of mfb40"),
        (("features", "x.wav", "--npy", "x.npy", "--preset", "a", "--model", "b"), 2, "contradict"),
        (
            ("export", "--to", "pdf", "--out", "x"),
            2,
            "'pdf' is not one of 'c', 'c-array', 'tflite', 'tflite-array', 'onnx', 'onnx-qdq'",
        ),
        (("export", "--to", "tflite", "--name", "a", "--out", "x"), 2, "kws: --name is for C"),
        (("demo", "--data", "nowhere"), 1, "kws: nowhere: no such folder"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, out, err = run(capsys, *arguments)
    assert found == code
    assert message in err + (out if not arguments else "")
    assert "Traceback" not in err


def test_unwritable_output_is_one_line(
    capsys: pytest.CaptureFixture[str], tone_model_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "no" / "folder.h"
    found = run(capsys, "export", "--model", tone_model_file, "--to", "c-array", "--out", out)
    assert found == (1, "", f"kws: {out}: cannot be written: No such file or directory\n")


def test_damaged_model_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.kws"
    path.write_bytes(b"no model")
    code, _, err = run(capsys, "inspect", path)
    assert code == 1
    assert err.startswith(f"kws: {path}: ")
    assert err.count("\n") == 1


def test_interrupt_exits_130(tone_file: ToneFile, tone_model_file: Path) -> None:
    """Ctrl-C, sent as soon as the first of many events is out: more than a pipe holds, so that it cannot end before."""
    paths = [tone_file(f"{i}.wav", 4, *BURSTS) for i in range(10)] * 400
    process = subprocess.Popen(
        [KWS, "infer", *paths, "--model", tone_model_file, "--format", "jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("{")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "kws: interrupted\n"


def test_reader_that_leaves_is_no_error(tone_file: ToneFile, tone_model_file: Path) -> None:
    """kws infer ... | head -1"""
    paths = [tone_file(f"{i}.wav", 4, *BURSTS) for i in range(40)]
    process = subprocess.Popen(
        [KWS, "infer", *paths, "--model", tone_model_file, "--format", "jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


@pytest.mark.parametrize("format_", ["table", "csv"])
def test_closed_output_is_one_line(recording: Path, tone_model_file: Path, format_: str) -> None:
    command = f'"{KWS}" infer "{recording}" --model "{tone_model_file}" --format {format_}'
    result = subprocess.run(f"{command} >&-", shell=True, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (1, "kws: standard output is closed: send it to /dev/null instead\n")
    assert subprocess.run(f"{command} 2>&-", shell=True, stdout=subprocess.PIPE).returncode == 0


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with common.progress("working") as update:
        update(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_progress_is_a_bar_on_the_terminals_stderr(tone_file: ToneFile, tone_model_file: Path, format_: str) -> None:
    """Events still go to standard output when that is a file and standard error is the terminal."""
    paths = [tone_file(f"{i}.wav", 4, *BURSTS) for i in range(20)]
    terminal, slave = pty.openpty()
    process = subprocess.Popen(
        [KWS, "infer", *paths, "--model", tone_model_file, "--format", format_],
        stdout=subprocess.PIPE, stderr=slave, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    screen = os.read(terminal, 1 << 16)
    os.close(terminal)
    assert process.returncode == 0
    assert out.count(b".wav") == 2 * len(paths)
    assert b"listening" in screen
    assert b"100%" in screen


# ---- documents -------------------------------------------------------------------------------------------------------


def test_reference_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == render(), "python -m kws.cli.reference > docs/cli.md"


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for command in COMMANDS:
        assert f"## kws {command}\n" in text
    modules = {path.stem for path in (ROOT / "kws" / "cli").glob("*.py")} - {
        "__init__",
        "main",
        "common",
        "reference",
        "evaluate_stream",
    }
    assert {module.removesuffix("_") for module in modules} == set(COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].startswith("kws, version ")
