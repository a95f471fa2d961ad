# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import kws
import kws.train as kws_train
from features.frontend import input_features
from kws.cli.main import main
from kws.detector import DetectionConfig
from kws.errors import DataError
from kws.model import Model
from kws.train import TrainConfig, choose_detection
from tests.kws.conftest import tones
from training.report import Progress


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "words"
    for word, frequency in {"low": 300, "high": 1800, "other": 700}.items():
        (folder / word).mkdir(parents=True)
        for i in range(9):
            tone = 0.3 * np.sin(2 * np.pi * frequency * (1 + i / 100) * np.arange(8000) / 16000)
            soundfile.write(folder / word / f"s{i}_nohash_0.wav", tone, 16000)
    listed = [f"{word}/s{i}_nohash_0.wav" for word in ("low", "high", "other") for i in range(6, 9)]
    (folder / "validation_list.txt").write_text("\n".join(listed))
    return folder


def arguments(words: Path, out: Path, *more: str) -> list[str]:
    return [
        "train",
        "--data",
        str(words),
        "--keywords",
        "low, high",
        "--out",
        str(out),
        "--network",
        "tc-resnet",
        *more,
    ]


@pytest.fixture(scope="module")
def run(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(arguments(words, out, "--epochs", "6")) == 0
    return out


def test_a_student_learns_what_its_teacher_says(words: Path, run: Path, tmp_path: Path) -> None:
    """A teacher that knows the two words by each other's name, and a student that believes it."""
    liar = tmp_path / "liar.kws"
    taught = kws.load(run)
    low, high, *others = taught.labels
    dataclasses.replace(taught, labels=(high, low, *others)).save(liar)
    config = TrainConfig((words,), ("low", "high"), tmp_path / "student", network="tc-resnet", epochs=6)
    config = dataclasses.replace(config, teacher=(str(liar),), teacher_share=1.0)
    model = kws.load(kws_train.train(config))
    assert model.provenance["command"].endswith("--out student --teacher liar.kws --network tc-resnet --epochs 6")
    for word, heard in ("low", "high"), ("high", "low"):
        sound, _ = soundfile.read(words / word / "s7_nohash_0.wav", dtype="int16")
        assert model.predict(sound) == [heard]
        assert taught.predict(sound) == [word]


def test_a_run_goes_on_with_the_teacher_that_it_began_with(
    words: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, out = tmp_path / "teacher.kws", tmp_path / "student"
    model = kws.load(run)
    model.save(teacher)
    given = arguments(words, out, "--epochs", "1", "--teacher", str(teacher))
    assert main(given) == 0
    sha256 = hashlib.sha256(teacher.read_bytes()).hexdigest()
    assert kws.load(out).provenance["teacher_files"] == [sha256]
    assert main([*given, "--resume"]) == 0
    dataclasses.replace(model, provenance={}).save(teacher)
    capsys.readouterr()
    assert main([*given, "--resume"]) == 2
    assert "--resume with another teacher_files (repeat the first command)" in capsys.readouterr().err


def test_a_teacher_without_a_front_end_is_named(
    words: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf = tmp_path / "deaf.kws"
    dataclasses.replace(kws.load(run), frontend=None, detection=None).save(deaf)
    assert main(arguments(words, tmp_path / "student", "--teacher", str(deaf))) == 2
    assert f"teacher '{deaf}': has no front-end, so it cannot teach" in capsys.readouterr().err


def test_a_teacher_of_other_words_is_refused(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(words, tmp_path / "student", "--teacher", "commands")) == 2
    assert "teacher 'commands': knows yes, no, up," in capsys.readouterr().err
    assert not (tmp_path / "student").exists()


def test_train_writes_a_model_that_loads_and_names_its_origin(run: Path) -> None:
    model = kws.load(run)
    assert model.labels == ("low", "high", "_silence_", "_unknown_")
    assert model.provenance["seed"] == 0
    assert model.provenance["command"].startswith("kws train --data words --keywords low,high --out run")
    assert str(run.parent) not in str(model.provenance)


def test_killed_training_resumes_to_the_same_file(words: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # As many threads in both: their number decides how torch splits its sums.
    threads = f"torch.set_num_threads({torch.get_num_threads()})"
    code = f"import sys, torch; {threads}; from kws.cli.main import main; main(sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments(words, out, "--epochs", "6")])
    while process.poll() is None and not (out / "checkpoint.pt").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model.kws").exists()
    assert main(arguments(words, out, "--epochs", "6", "--resume")) == 0
    assert (out / "model.kws").read_bytes() == (run / "model.kws").read_bytes()


def test_interrupt_leaves_a_checkpoint_and_exit_code_130(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.loop.Loop._epoch", interrupted)
        assert main(arguments(words, tmp_path / "run", "--epochs", "1")) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("kws: interrupted; the same command with --resume goes on from ")
    assert "" not in said
    assert sum("interrupted" in line for line in said) == 1
    assert main(arguments(words, tmp_path / "run", "--epochs", "1", "--resume")) == 0


def test_interrupt_while_clips_are_read_promises_nothing(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.loading.load", interrupted)
    assert main(arguments(words, tmp_path / "run")) == 130
    said = capsys.readouterr().err
    assert "repeat the command" in said
    assert "--resume" not in said


def test_broken_clip_with_brackets_in_its_path_is_named(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "a[" / "b]" / "words"
    shutil.copytree(words, data)
    (data / "low" / "x_nohash_0.wav").write_bytes(b"RIFF")
    assert main(arguments(data, tmp_path / "run", "--epochs", "1", "--ptq")) == 0
    assert "a[/b]" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--keywords", "low,stop"], 1, "no folder for stop"),
        (["--keywords", ","], 2, "keywords must be"),
        (["--network", "resnet-152"], 2, "resnet-152"),
        (["--preset", "mfb41"], 2, "mfb41"),
        (["--data", "nowhere"], 1, "nowhere: no such folder"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--epochs", "9" * 30], 2, "--epochs"),
        (["--pitch", "nan"], 2, "--pitch': NaN is no number"),
        (["--tempo", "nan"], 2, "--tempo': NaN is no number"),
        (["--data", "loop"], 1, "loop: no such folder"),
        (["--data", "."], 1, "no recordings in it"),
    ],
)
def test_mistakes_are_one_line(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    change: list[str], code: int, message: str,
) -> None:  # fmt: skip
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("loop").symlink_to("loop")
    assert main(arguments(words, tmp_path / "run", *change)) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("kws: ") or code == 2  # without an empty line before it
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "loop"]


def test_other_words_that_cannot_be_read_are_named(words: Path, tmp_path: Path) -> None:
    """The clips on which the threshold is chosen: more of other words than training's validation takes."""
    data = Path(shutil.copytree(words, tmp_path / "words"))
    for clip in (data / "other").glob("s[678]_*"):
        clip.write_bytes(b"no sound")
    config = kws_train.TrainConfig(data=(data,), keywords=("low", "high"), out=tmp_path / "run")
    told: list[str] = []

    class Told(Progress):
        def note(self, line: str) -> None:
            told.append(line)

    frontend, graph = config.frontend(), kws.load("commands").graph
    assert len(kws_train._other_words(config, frontend, graph, Told())) == 0
    assert told[-1] == "3 clips could not be read and were skipped"
    with pytest.raises(DataError, match="3 of 3 clips cannot be read"):
        kws_train._other_words(dataclasses.replace(config, broken="fail"), frontend, graph, Told())


def test_threshold_is_the_lowest_at_which_sliding_windows_reject_other_words(tone_model: Model) -> None:
    def threshold(*lengths: float) -> float:
        """Of 100 clips, of which the first have a tone of so many seconds."""
        bursts = [[("low", 0.4, length)] for length in lengths] + [[]] * (100 - len(lengths))
        clips = np.stack([tones(1, *burst, seed=i) for i, burst in enumerate(bursts)])
        others = input_features(clips, frontend, tone_model.graph.input_params)
        config = choose_detection(tone_model.graph, frontend, 2, others)
        assert config == DetectionConfig.default(frontend, 2, threshold=config.thresholds[0] / 255 / config.smoothing)
        return config.thresholds[0] / 255 / config.smoothing

    frontend, _ = tone_model.hearing()
    assert threshold() == threshold(0.4) == pytest.approx(0.5, abs=1e-3)  # once in a hundred clips is not too often
    assert threshold(0.27, 0, 0.27, 0, 0.27) == pytest.approx(0.72, abs=0.05)
    assert threshold(0.4, 0, 0.4, 0, 0.4) == pytest.approx(0.9, abs=1e-3)
    nothing = choose_detection(tone_model.graph, frontend, 2, np.empty((0, *frontend.input_shape[:2]), np.int8))
    assert nothing == DetectionConfig.default(frontend, 2)
