# SPDX-License-Identifier: Apache-2.0
"""The wheel without extras, in an empty environment, finds the keywords of a bundled recording."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDING = ROOT / "data" / "recordings" / "recording_00.wav"


def start(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment | variables, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}\n{result.stderr}"
    return result


def run(*command: object, cwd: Path) -> str:
    return start(*command, cwd=cwd).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and its own requirements, nothing else."""
    folder = tmp_path_factory.mktemp("install")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    (wheel,) = folder.glob("*.whl")
    run(
        bin_folder / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "constraints.txt",
        wheel,
        cwd=folder,
    )
    return bin_folder


def test_wheel_needs_no_torch(installed: Path, tmp_path: Path) -> None:
    packages = {
        row["name"] for row in json.loads(run(installed / "python", "-m", "pip", "list", "--format=json", cwd=tmp_path))
    }
    assert packages.isdisjoint({"torch", "torchaudio", "librosa", "matplotlib", "scipy"})


def test_wheel_finds_the_keywords_of_a_recording(installed: Path, tmp_path: Path) -> None:
    lines = run(installed / "kws", "infer", RECORDING, "--format", "jsonl", cwd=tmp_path).splitlines()
    found = [json.loads(line)["label"] for line in lines]
    commands = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
    truth = [line.split("\t")[2] for line in RECORDING.with_suffix(".txt").read_text().splitlines()]
    assert found == [word for word in truth if word in commands]


def test_wheel_evaluates_inspects_and_exports(installed: Path, tmp_path: Path) -> None:
    report = json.loads(
        run(
            installed / "kws",
            "evaluate",
            "--model",
            "commands",
            "--data",
            ROOT / "data",
            "--split",
            "testing",
            "--json",
            cwd=tmp_path,
        )
    )
    assert report["n"] == 140
    assert "conv2d" in run(installed / "kws", "inspect", "commands", cwd=tmp_path)
    run(
        installed / "kws",
        "export",
        "--model",
        "commands",
        "--to",
        "c-array",
        "--out",
        tmp_path / "commands.h",
        cwd=tmp_path,
    )
    assert (tmp_path / "commands.h").read_text().count("int8_t") > 5


def test_console_script_ignores_a_stray_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("raise RuntimeError('the wrong training')\n")
    (tmp_path / "features.py").write_text("raise RuntimeError('the wrong features')\n")
    assert run(installed / "kws", "infer", RECORDING, "--format", "jsonl", cwd=tmp_path)


def test_without_a_compiler_numpy_finds_the_same(installed: Path, tmp_path: Path) -> None:
    """The sources alone, built where no compiler works, and one notice."""
    source = tmp_path / "source"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in names:
        if not name.startswith(("data/", "tests/", "benchmarks/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, source]
    start(*wheel, cwd=tmp_path, CC="no-compiler")
    (file,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", target, file]
    run(installed / "python", *install, cwd=tmp_path)
    assert not list(target.rglob("_native*.so"))
    assert list(installed.parent.rglob("_native*.so"))
    infer = [installed / "python", "-c", "from kws.cli.main import main; main()"]
    infer += ["infer", RECORDING, "--format", "jsonl"]
    slow = start(*infer, cwd=tmp_path, PYTHONPATH=str(target))
    assert slow.stdout == run(*infer, cwd=tmp_path)
    assert slow.stderr.count("kws: the native engine was not built") == 1


def test_wheel_imports_models_of_others_and_names_the_extra_that_an_export_needs(
    installed: Path, tmp_path: Path
) -> None:
    file = ROOT / "tests" / "fuzz" / "corpus" / "tflite" / "small.tflite"
    assert "wrote m.kws" in run(installed / "kws", "import", file, "--out", "m.kws", cwd=tmp_path)
    for to, needs in (("tflite", "TensorFlow Lite export needs"), ("onnx", "ONNX export needs")):
        command = [str(installed / "kws"), "export", "--model", "m.kws", "--to", to, "--out", "x"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 1
        assert result.stderr.startswith(f"kws: {needs}")
        assert result.stderr.endswith(f"(pip install 'integer-kws[{to}]')\n")
        assert result.stderr.count("\n") == 1
