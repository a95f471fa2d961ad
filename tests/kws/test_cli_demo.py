# SPDX-License-Identifier: Apache-2.0
"""`kws demo`, shortened to one epoch, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile as sf

from kws.cli import demo
from kws.cli.main import main
from kws.errors import UsageError
from kws.model import Model
from kws.stream_score import Word, write_labels

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_corpus(tmp_path: Path) -> Path:
    """A fourth of the repository's corpus, linked."""
    names = [path.relative_to(ROOT / "data") for path in sorted((ROOT / "data").glob("*/*.opus"))]
    for split in ("validation", "testing"):
        listed = (ROOT / "data" / f"{split}_list.txt").read_text().split()
        names = [name for name in names if name.as_posix() not in listed] + [Path(name) for name in listed[::4]]
    for name in sorted(names)[::2]:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to(ROOT / "data" / name)
    for split in ("validation", "testing"):
        (tmp_path / "data" / f"{split}_list.txt").symlink_to(ROOT / "data" / f"{split}_list.txt")
    return tmp_path / "data"


def test_demo_goes_all_the_way(
    tmp_path: Path, small_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trains, compares, evaluates and listens; that the comparison holds does not depend on how good the network is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.config.TrainConfig.epochs_for", lambda self, plan_length: 1)
    assert main(["demo", "--data", str(small_corpus)]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"\[(\d)/4\]", out) == ["1", "2", "3", "4"]
    single = next(line.split() for line in out.splitlines() if line.startswith("single "))
    assert float(single[1]) >= 99.5
    assert int(single[3]) <= 1
    assert re.search(r"accuracy +\d+\.\d\d %", out)
    assert Model.load("runs/demo").labels == (*demo.KEYWORDS, "_silence_", "_unknown_")


def test_demo_needs_a_clone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "site-packages" / "kws" / "cli" / "demo.py"))
    assert main(["demo"]) == 2
    assert (
        capsys.readouterr().err == "kws: kws demo needs the data/ of a clone of the repository (or give --data DIR)\n"
    )


def test_demo_removes_only_its_own_runs(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)  # empty: holds nothing to lose
    demo._clear(run)
    (run / "checkpoint.pt").touch()
    demo._clear(run)
    assert [path.name for path in run.iterdir()] == [demo.MARK]
    (run / demo.MARK).unlink()
    (run / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="is no run of the demo"):
        demo._clear(run)
    (run / "checkpoint.pt").write_text("")  # a training, of somebody else
    with pytest.raises(UsageError, match="is no run of the demo"):
        demo._clear(run)
    assert (run / "thesis.txt").exists()


def test_demo_prints_events_beside_the_truth(
    tone_model: Model, make_tones: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sf.write(tmp_path / "a.wav", make_tones(5, ("low", 0.5, 0.4), ("high", 2.0, 0.4)), 16000)
    write_labels(tmp_path / "a.txt", [Word("low", 0.5, 0.9), Word("low", 3.5, 3.9)])
    demo._listen(tone_model, tmp_path)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][:5] == ["a.wav", "low", "0.50", "0.90", "low"]
    assert rows[2][:2] == ["a.wav", "high"]
    assert rows[3] == ["a.wav", "low", "3.50", "3.90", "missed"]
    assert " ".join(rows[-1]) == "1 of 2 keywords found, false events: 1"
