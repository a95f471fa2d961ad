# SPDX-License-Identifier: Apache-2.0
"""Names and places that the command line is given: odd names, links, devices, folders and files that are closed."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from kws.cli.common import check_output
from kws.cli.main import main
from kws.errors import UsageError
from kws.model import Model, write_atomically

KWS = Path(sys.executable).parent / "kws"
ToneFile = Callable[..., Path]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def close_folder(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """As a folder without permission, which root could still list."""
    listed = Path.iterdir

    def iterdir(path: Path) -> Any:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else found(name, *a))


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_no_text_goes_out_as_it_is(tone_file: ToneFile, tone_model_file: Path) -> None:
    good = os.fsencode(tone_file("good.wav", 2, ("low", 0.5, 0.4)))
    odd = good.replace(b"good", b"odd\xff")
    os.rename(good, odd)
    command = [KWS, "infer", odd, "--model", tone_model_file, "--format"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    for format_ in ("table", "csv", "rttm"):
        result = subprocess.run([*command, format_], capture_output=True, env=environment)
        assert result.returncode == 0, result.stderr
        assert b"odd\xff" in result.stdout
    Path(os.fsdecode(odd)).write_bytes(b"no sound")
    result = subprocess.run([*command, "jsonl"], capture_output=True, env=environment)
    assert result.returncode == 1
    assert b"odd\\udcff.wav: cannot be decoded" in result.stderr


def test_a_line_break_in_a_name_does_not_break_the_line(
    capsys: pytest.CaptureFixture[str], tone_model_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "two\nlines.wav").write_bytes(b"no sound")
    code, _, err = run(capsys, "infer", tmp_path / "two\nlines.wav", "--model", tone_model_file, "--format", "csv")
    assert code == 1
    assert err.startswith(f"kws: {tmp_path}/two\\nlines.wav: cannot be decoded")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [
    ("infer", ""), ("features", "x.wav", "--npy", ""), ("export", "--to", "c", "--out", ""), ("inspect", ""),
    ("import", "x.tflite", "--out", ""), ("train", "--data", "", "--keywords", "a", "--out", "run"),
])  # fmt: skip
def test_an_empty_path_is_refused(
    capsys: pytest.CaptureFixture[str], tone_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:  # fmt: skip
    """It would mean the working folder."""
    tone_model.save(tmp_path / "model.kws")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "empty" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.kws"]


def test_rttm_refuses_two_recordings_of_one_name(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path
) -> None:
    paths = [tone_file(f"{folder}/x.wav", 2, ("low", 0.5, 0.4)) for folder in "ab"]
    code, out, err = run(capsys, "infer", *paths, "--model", tone_model_file, "--format", "rttm")
    assert (code, out) == (2, "")
    assert err == (
        f"kws: {paths[0]} and {paths[1]} would both be the recording x (give one of them, or --format csv)\n"
    )


# ---- what is closed, linked or empty ---------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, good = (tone_file(name, 2, ("low", 0.5, 0.4)) for name in ("closed.wav", "good.wav"))
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **named: Any) -> Any:
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)
    code, out, err = run(capsys, "infer", closed, good, "--model", tone_model_file, "--format", "jsonl")
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == [str(good)]
    assert err == f"kws: {closed}: cannot be read: Permission denied\n"


def test_folders_are_searched_through_links_and_those_of_no_use_are_named(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    inside = tone_file("elsewhere/low.wav", 2, ("low", 0.5, 0.4))
    folder, empty = tmp_path / "folder", tmp_path / "empty"
    for path in (folder / "closed", empty):
        path.mkdir(parents=True)
    (folder / "linked").symlink_to(inside.parent)
    (folder / "loop").symlink_to(folder)
    (folder / "nothing.wav").symlink_to(tmp_path / "gone.wav")
    close_folder(monkeypatch, folder / "closed")
    code, out, err = run(capsys, "infer", folder, empty, "--model", tone_model_file, "--format", "jsonl")
    assert code == 1
    assert [json.loads(line)["file"] for line in out.splitlines()] == [str(folder / "linked" / "low.wav")]
    assert err.splitlines() == [
        f"kws: {folder}/nothing.wav: no such file",
        f"kws: {folder}/closed: cannot be listed: Permission denied",
        f"kws: {empty}: holds no sound files",
    ]
    (folder / "nothing.wav").unlink()
    code, out, err = run(capsys, "evaluate", "--negatives", folder, "--model", tone_model_file, "--json")
    assert (code, json.loads(out)["recordings"]) == (1, 1)
    assert err == f"kws: {folder}/closed: cannot be listed: Permission denied\n"


def test_verify_names_folders_that_it_cannot_list(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from kws.cli.verify import _windows

    tone_file("folder/low.wav", 2, ("low", 0.5, 0.4))
    (tmp_path / "folder" / "closed").mkdir()
    close_folder(monkeypatch, tmp_path / "folder" / "closed")
    x, failed = _windows(tone_model, tmp_path / "folder")
    assert (len(x), failed) == (1, 1)
    assert capsys.readouterr().err == f"kws: {tmp_path}/folder/closed: cannot be listed: Permission denied\n"


# ---- outputs ---------------------------------------------------------------------------------------------------------


def test_writing_keeps_links_and_devices(tmp_path: Path) -> None:
    target, link, device, reader = (tmp_path / name for name in ("target", "link", "device", "reader"))
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    os.mkfifo(device)
    process = subprocess.Popen(["cat", device], stdout=subprocess.PIPE)
    write_atomically(device, b"through")
    assert process.communicate(timeout=10)[0] == b"through"
    assert stat.S_ISFIFO(device.stat().st_mode)
    reader.symlink_to(tmp_path / "not yet")
    write_atomically(reader, b"new")
    assert (tmp_path / "not yet").read_bytes() == b"new"
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", "device", "reader", "not yet"}


def test_outputs_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(None)
    check_output(tmp_path / "new.kws")
    check_output(Path("/dev/null"))
    with pytest.raises(UsageError, match="is a folder, not a file"):
        check_output(tmp_path)
    with pytest.raises(UsageError, match="in no folder that exists"):
        check_output(tmp_path / "no" / "x.kws")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UsageError, match="its folder is read-only"):
        check_output(tmp_path / "new.kws")


@pytest.mark.parametrize("arguments", [
    ("tune", "--data", "x", "--negatives", "y", "--out", "z.kws", "--png", "z.png"),
    ("evaluate", "--stream", "x", "--det", "z.png"), ("infer", "x.wav", "y.wav", "--png"),
])  # fmt: skip
def test_pictures_without_matplotlib_are_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    no_matplotlib(monkeypatch)
    expected = "kws: pictures need matplotlib (pip install 'integer-kws[plot]')\n"
    assert run(capsys, *arguments) == (1, "", expected)


@pytest.mark.parametrize("arguments", [
    ("tune", "--data", "x", "--negatives", "y", "--out"), ("evaluate", "--stream", "x", "--det"),
])  # fmt: skip
def test_a_folder_is_no_file_to_write(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "x.png").mkdir()
    assert run(capsys, *arguments, tmp_path / "x.png") == (
        2, "", f"kws: {tmp_path}/x.png: is a folder, not a file to write\n"
    )  # fmt: skip


@pytest.mark.parametrize("option", ["--png", "--npy"])
def test_a_full_disk_is_named(capsys: pytest.CaptureFixture[str], tone_file: ToneFile, option: str) -> None:
    path = tone_file("a.wav", 2, ("low", 0.5, 0.4))
    assert run(capsys, "features", path, option, "/dev/full") == (1, "", "kws: /dev/full: No space left on device\n")


# ---- one of many -----------------------------------------------------------------------------------------------------


def test_tuning_goes_on_after_what_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, tmp_path: Path
) -> None:
    words, negatives, out = tmp_path / "words", tmp_path / "negatives", tmp_path / "tuned.kws"
    for word in ("low", "high"):
        tone_file(f"words/{word}/a_nohash_0.wav", 1.0, (word, 0.3, 0.4))
        (words / word / "c_nohash_0.wav").write_bytes(b"no sound")
    listed = [f"{path.parent.name}/{path.name}" for path in words.glob("*/*.wav")]
    (words / "validation_list.txt").write_text("\n".join(listed))
    tone_file("negatives/good.wav", 3)
    (negatives / "bad.wav").write_bytes(b"no sound")
    tone_file("negatives/wrong.wav", 3).with_suffix(".txt").write_text("from the start\n")
    command = ["tune", "--data", words, "--negatives", negatives, "--model", tone_model_file, "--out", out]
    code, printed, err = run(capsys, *command)
    assert code == 1
    assert "2 of 2 words found" in printed
    assert [line.split(": ")[1] for line in err.splitlines()] == [
        f"{negatives}/wrong.txt", f"{words}/high/c_nohash_0.wav", f"{words}/low/c_nohash_0.wav", f"{negatives}/bad.wav"
    ]  # fmt: skip
    assert Model.load(out).provenance["tuned"]["words"] == 2
    out.unlink()
    (negatives / "good.wav").unlink()
    code, _, err = run(capsys, *command)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"kws: {negatives}: nothing can be read, the first: ")
    assert not out.exists()


def test_noise_goes_on_after_what_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tone_file: ToneFile, tone_model_file: Path, tmp_path: Path
) -> None:
    negatives = tone_file("negatives/good.wav", 3).parent
    noise = tone_file("noise/good.wav", 1).parent
    (noise / "bad.wav").write_bytes(b"no sound")
    command = ["evaluate", "--negatives", negatives, "--model", tone_model_file, "--json", "--snr", "10", "--noise"]
    code, out, err = run(capsys, *command, noise)
    assert (code, json.loads(out)["recordings"]) == (1, 1)
    assert err.startswith(f"kws: {noise}/bad.wav: ")
    (noise / "good.wav").unlink()
    code, _, err = run(capsys, *command, noise)
    assert code == 1
    assert err.startswith(f"kws: no noise can be read, the first: {noise}/bad.wav: ")


def test_the_same_noise_whatever_is_broken_beside_it(tmp_path: Path) -> None:
    from kws.cli.evaluate_stream import _sound

    sf.write(tmp_path / "b.wav", np.full(100, 7, np.int16), 16000)
    (tmp_path / "a.wav").write_bytes(b"")
    broken: list[str] = []
    assert _sound(tmp_path, 16000, broken).tolist() == [7] * 100
    assert broken == [f"{tmp_path}/a.wav: is empty"]
