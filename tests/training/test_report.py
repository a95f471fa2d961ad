# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from training import report

LABELS = ("yes", "no", "_silence_", "_unknown_")
PNG = b"\x89PNG\r\n\x1a\n"


def test_figures_count_by_hand() -> None:
    truth = np.array([0, 0, 0, 1, 3])
    taken = np.array([0, 0, 1, 1, 0])
    result = report.figures(LABELS, truth, np.eye(4)[taken])
    assert result["n"] == 5
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["per_class_recall"] == {"yes": pytest.approx(2 / 3), "no": 1.0, "_silence_": None, "_unknown_": 0.0}
    assert result["confusion_matrix"] == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_first_of_equal_logits_wins() -> None:
    assert report.figures(LABELS, np.array([1]), np.array([[0, 7, 7, 7]], np.int8))["accuracy"] == 1.0


def test_agreement_counts_steps_and_changed_clips() -> None:
    fake = np.array([[10, 5], [3, 4], [0, 9]])
    integers = np.array([[10, 5], [4, 3], [0, 7]], np.int8)
    result = report.agreement(fake, integers, ("a", "b", "c"))
    assert result["equal"] == pytest.approx(3 / 6)
    assert result["largest_difference"] == 2
    assert result["clips_whose_argmax_differs"] == ["b"]


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    report.write_json(tmp_path / "m.json", {"a": 1})
    report.write_json(tmp_path / "m.json", {"a": [2, None]})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": [2, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_pictures_are_drawn(tmp_path: Path) -> None:
    row = {"loss": 1.0, "validation_loss": 1.1, "accuracy": 0.5, "validation_accuracy": 0.4}
    report.draw_curves(tmp_path / "curves.png", [{"phase": "float", **row}, {"phase": "qat", **row}])
    report.draw_confusion(
        tmp_path / "confusion.png", LABELS, [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], "t"
    )
    for name in ("curves.png", "confusion.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)


def test_versions_name_what_the_numbers_depend_on() -> None:
    assert {"python", "numpy", "torch"} <= report.versions().keys()


def test_revision_is_that_of_the_project_s_own_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        run = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "a")
    for root in (tmp_path, tmp_path / "lib" / "site-packages"):
        (root / "training").mkdir(parents=True)
    monkeypatch.setattr(report, "__file__", str(tmp_path / "training" / "report.py"))
    assert report.git_revision() is None  # no pyproject.toml: not this project
    (tmp_path / "pyproject.toml").touch()
    assert report.git_revision() == git("rev-parse", "HEAD")
    installed = tmp_path / "lib" / "site-packages"
    (installed / "pyproject.toml").touch()
    monkeypatch.setattr(report, "__file__", str(installed / "training" / "report.py"))
    assert report.git_revision() is None
