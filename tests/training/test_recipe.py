# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kws.errors import DataError, UsageError
from kws.model import MAX_LABELS, RUN_FILE
from training import checkpoint, qat, recipe
from training.config import TrainConfig
from training.loop import learning_rate
from training.report import Progress


def config_for(data: Path, out: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(data=(data,), keywords=("low", "high"), out=out, network="tc-resnet", epochs=2, qat_share=1.0)
    return dataclasses.replace(config, **changes)


class Interrupt(Progress):
    """Ctrl-C in the middle of an epoch of a phase."""

    def __init__(self, phase: str, epoch: int) -> None:
        self.wanted, self.task = (phase, epoch), ""

    def start(self, task: str, total: int) -> None:
        self.task = task

    def advance(self, done: int, **figures: float) -> None:
        if (self.task, figures.get("epoch")) == self.wanted:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def trained(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> recipe.Trained:
    return recipe.train(config_for(tones, tmp_path_factory.mktemp("runs") / "whole"))


def test_run_folder_holds_figures_pictures_and_how_to_repeat(trained: recipe.Trained) -> None:
    names = {path.name for path in trained.run.iterdir()}
    assert names == {
        "checkpoint.pt", "float.pt", "fake_quantized.pt", "metrics.json", "run.json", "curves.png", "confusion.png"
    }  # fmt: skip
    metrics = json.loads((trained.run / "metrics.json").read_text())
    assert metrics["labels"] == ["low", "high", "_silence_", "_unknown_"]
    assert {"float", "qat", "int8"} <= metrics.keys()
    run = json.loads((trained.run / "run.json").read_text())
    assert run["command"] == "kws train --data tones --keywords low,high --out whole --network tc-resnet --epochs 2"
    assert torch.__version__.startswith(run["versions"]["torch"])  # a CUDA build calls itself 2.13.0+cu130
    assert len(run["data"]["sha256"]) == 64
    assert [row["phase"] for row in run["history"]] == ["float", "float", "qat", "qat"]


def test_integers_compute_what_qat_evaluated(trained: recipe.Trained) -> None:
    agreement = json.loads((trained.run / "metrics.json").read_text())["fake_quantized_against_int8"]
    assert agreement["largest_difference"] <= 1
    assert agreement["equal"] >= 0.95  # of 64 logits: the proof over thousands is in test_compare


def test_saved_fake_quantized_network_gives_the_same_graph(trained: recipe.Trained) -> None:
    model = qat.load(trained.run / "fake_quantized.pt")
    graph = recipe.convert(model, trained.frontend.input_shape)
    for name, tensor in trained.graph.tensors.items():
        if tensor.data is not None:
            assert np.array_equal(tensor.data, graph.tensors[name].data)


def test_validation_holds_no_training_clip(trained: recipe.Trained, tones: Path) -> None:
    listed = set((tones / "validation_list.txt").read_text().split())
    named = {name for name in trained.validation.names if "/" in name}
    assert named <= listed
    assert len(named) == 14  # 6 + 6 of the keywords, 10 % rounded up of unknown
    assert len(trained.validation.names) == 16


@pytest.mark.parametrize(("phase", "epoch"), [("float", 1), ("float", 2), ("qat", 1), ("qat", 2)])
def test_interrupted_and_resumed_gives_the_same_bits(
    trained: recipe.Trained, tones: Path, tmp_path: Path, phase: str, epoch: int
) -> None:
    config = config_for(tones, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        recipe.train(config, progress=Interrupt(phase, epoch))
    torch.rand(7)  # what else the process did with its random state does not matter
    resumed = recipe.train(config, resume=True)
    whole, again = (checkpoint.load(run / "checkpoint.pt") for run in (trained.run, resumed.run))
    assert all(torch.equal(whole["model"][name], again["model"][name]) for name in whole["model"])
    assert np.array_equal(trained.logits, resumed.logits)
    assert json.loads((resumed.run / "metrics.json").read_text()) == json.loads(
        (trained.run / "metrics.json").read_text()
    )


def test_resume_with_moved_recordings_gives_the_same_bits(trained: recipe.Trained, tones: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tones, tmp_path / "first"))
    config = config_for(data, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        recipe.train(config, progress=Interrupt("float", 2))
    moved = config_for(data.rename(tmp_path / "second"), (tmp_path / "run").rename(tmp_path / "moved run"))
    resumed = recipe.train(moved, resume=True)
    whole, again = (checkpoint.load(run / "checkpoint.pt") for run in (trained.run, resumed.run))
    assert all(torch.equal(whole["model"][name], again["model"][name]) for name in whole["model"])
    assert np.array_equal(trained.logits, resumed.logits)


def test_resume_with_folders_in_another_order_is_refused(tones: Path, tmp_path: Path) -> None:
    """The draws of an epoch are by place: they would be of other clips."""
    second = tmp_path / "more"
    (second / "low").mkdir(parents=True)
    for i, clip in enumerate(sorted((tones / "low").iterdir())[:3]):
        shutil.copy(clip, second / "low" / f"t{i}_nohash_0.wav")
    (second / "validation_list.txt").touch()
    config = dataclasses.replace(config_for(tones, tmp_path / "run"), data=(tones, second))
    with pytest.raises(KeyboardInterrupt):
        recipe.train(config, progress=Interrupt("float", 1))
    for other in ({"data": (second, tones)}, {"data": (tones,), "train_only": (second,)}):
        with pytest.raises(DataError, match=r"the recordings changed .*\(give the folders of the first command"):
            recipe.train(dataclasses.replace(config, **other), resume=True)


def test_resume_of_a_finished_training_changes_nothing(trained: recipe.Trained, tones: Path) -> None:
    again = recipe.train(config_for(tones, trained.run), resume=True)
    assert np.array_equal(again.logits, trained.logits)


def test_run_folder_is_not_overwritten(trained: recipe.Trained, tones: Path) -> None:
    with pytest.raises(UsageError, match="holds a training already"):
        recipe.train(config_for(tones, trained.run))


def test_resume_with_other_settings_names_them(trained: recipe.Trained, tones: Path) -> None:
    with pytest.raises(UsageError, match="--resume with another seed, epochs"):
        recipe.train(config_for(tones, trained.run, epochs=3, seed=1), resume=True)


def test_resume_after_the_data_changed_is_refused(trained: recipe.Trained, tones: Path, tmp_path: Path) -> None:
    state = torch.load(trained.run / "checkpoint.pt", weights_only=True)
    (tmp_path / "run").mkdir()
    torch.save({**state, "data": "another"}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(DataError, match="the recordings changed"):
        recipe.train(config_for(tones, tmp_path / "run"), resume=True)


def test_resume_of_a_checkpoint_without_settings_is_refused(tones: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    torch.save({"version": 1}, tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(DataError, match=r"checkpoint.pt: is no checkpoint of a training: it has no config"):
        recipe.train(config_for(tones, tmp_path / "run"), resume=True)


def test_resume_without_a_checkpoint_says_so(tones: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no checkpoint to resume from"):
        recipe.train(config_for(tones, tmp_path / "run"), resume=True)


def test_post_training_quantization_needs_no_qat(tones: Path, tmp_path: Path) -> None:
    config = config_for(tones, tmp_path / "ptq", ptq=True, calibration="percentile", epochs=1)
    trained = recipe.train(config)
    metrics = json.loads((trained.run / "metrics.json").read_text())
    assert {"float", "ptq", "int8"} <= metrics.keys()
    assert "--ptq --calibration percentile" in trained.provenance["command"]
    assert metrics["fake_quantized_against_int8"]["largest_difference"] <= 1


def test_resume_quantizes_a_float_network_in_another_way(trained: recipe.Trained, tones: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.run, tmp_path / "run")
    again = recipe.train(config_for(tones, tmp_path / "run", weights="per-tensor"), resume=True)
    whole = recipe.train(config_for(tones, tmp_path / "whole", weights="per-tensor"))
    assert np.array_equal(again.logits, whole.logits)
    assert not np.array_equal(again.logits, trained.logits)


def test_resume_after_noise_was_added_is_refused(trained: recipe.Trained, tones: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tones, tmp_path / "tones"))
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    config = config_for(data, run)
    for name in ("checkpoint.pt", "float.pt"):
        state = torch.load(run / name, weights_only=True)
        torch.save({**state, "config": config.to_dict()}, run / name)
    shutil.copy(data / "_background_noise_" / "hum.wav", data / "_background_noise_" / "more.wav")
    with pytest.raises(DataError, match="the recordings changed"):
        recipe.train(config, resume=True)


def test_float_network_of_another_training_is_not_quantized(
    trained: recipe.Trained, tones: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    state = torch.load(run / "float.pt", weights_only=True)
    torch.save({**state, "config": {**state["config"], "seed": 9}}, run / "float.pt")
    with pytest.raises(UsageError, match="--resume with another ptq"):
        recipe.train(config_for(tones, run, ptq=True), resume=True)


def test_a_folder_that_holds_something_else_is_left_alone(tones: Path, tmp_path: Path) -> None:
    """A stranger's file, or a model without its checkpoint: nothing is removed, nothing mixed."""
    for name in ("run.json", "model.kws"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        with pytest.raises(UsageError, match=f"is not empty: it holds '{name}' and no training"):
            recipe.train(config_for(tones, tmp_path / name))
        assert [path.read_text() for path in (tmp_path / name).iterdir()] == ["mine"]


def test_what_a_killed_start_left_is_in_nobodys_way(tones: Path, tmp_path: Path) -> None:
    for name in ("checkpoint.tmp", ".gitkeep"):
        (tmp_path / name).touch()
    with pytest.raises(KeyboardInterrupt):
        recipe.train(config_for(tones, tmp_path), progress=Interrupt("float", 1))
    assert (tmp_path / "checkpoint.pt").exists()


def test_data_of_no_use_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        recipe.train(config_for(tmp_path / "nowhere", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_interrupted_requantization_leaves_no_model_of_the_former(
    trained: recipe.Trained, tones: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    (run / RUN_FILE).write_text("the former")
    with pytest.raises(KeyboardInterrupt):
        recipe.train(config_for(tones, run, weights="per-tensor"), resume=True, progress=Interrupt("qat", 1))
    assert {path.name for path in run.iterdir()} == {"checkpoint.pt", "float.pt"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keywords": ("low", "x" * 65)}, "keyword 'x+' is not 1 to 64 printable"),
        ({"keywords": ("low", "a\tb")}, "is not 1 to 64 printable"),
        ({"keywords": tuple(map(str, range(255)))}, "255 keywords are more than 254"),
        ({"network": "resnet-152"}, "network 'resnet-152' is unknown"),
        ({"preset": "mfb41"}, "no preset 'mfb41'"),
        ({"seed": 2**64}, "--seed 18446744073709551616 is outside"),
    ],
)
def test_settings_are_checked_before_anything_is_read(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe.train(config_for(tmp_path / "nowhere", tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_most_keywords_are_what_a_model_file_holds() -> None:
    assert recipe.MAX_KEYWORDS == MAX_LABELS - 2


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    rates = np.array([learning_rate(step, 1000, 0.1, 0.1) for step in range(1000)])
    assert rates[0] < 0.002
    assert rates.max() == pytest.approx(0.1)
    assert rates.argmax() == 100
    assert (np.diff(rates[:100]) > 0).all()
    assert (np.diff(rates[100:]) < 0).all()
    assert rates[-1] < 1e-6


def test_epochs_follow_the_size_of_the_corpus() -> None:
    config = TrainConfig(data=(), keywords=("a",), out=Path("run"))
    assert config.epochs_for(20_000) < config.epochs_for(500)
    assert config.qat_epochs_for(20_000) >= 1
    assert dataclasses.replace(config, epochs=3).epochs_for(20_000) == 3
    assert dataclasses.replace(config, ptq=True).qat_epochs_for(20_000) == 0
