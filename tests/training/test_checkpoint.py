# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from kws.errors import DataError
from training import checkpoint


def test_round_trip_restores_values_and_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    checkpoint.save(
        tmp_path / "c.pt", {"weights": {"a": torch.arange(3.0)}, "history": [{"loss": 0.5, "phase": "float"}]}
    )
    following = torch.rand(4)
    torch.manual_seed(6)
    state = checkpoint.load(tmp_path / "c.pt")
    checkpoint.restore_random(state)
    assert torch.equal(torch.rand(4), following)
    assert torch.equal(state["weights"]["a"], torch.arange(3.0))
    assert state["history"] == [{"loss": 0.5, "phase": "float"}]


def test_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"epoch": 1})

    class Unwritable:
        def __reduce__(self) -> str:
            raise RuntimeError("killed half way")

    with pytest.raises(RuntimeError):
        checkpoint.save(path, {"epoch": 2, "bad": Unwritable()})
    assert checkpoint.load(path)["epoch"] == 1


def test_interrupt_while_writing_stays_one_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(io.BytesIO):
        def write(self, content: object) -> int:
            raise KeyboardInterrupt

    def opened(path: Path, mode: str) -> Interrupted:
        path.touch()
        return Interrupted()

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "c.pt", {"weights": torch.zeros(1000)})
    assert list(tmp_path.iterdir()) == []


def test_missing_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no checkpoint to resume from \(run without --resume\)"):
        checkpoint.load(tmp_path / "c.pt")


def test_folder_for_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04"])
def test_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(DataError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"version": checkpoint.VERSION, "path": Path("x")}, tmp_path / "c.pt")
    with pytest.raises(DataError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


def test_other_version_is_refused(tmp_path: Path) -> None:
    torch.save({"version": checkpoint.VERSION + 1}, tmp_path / "c.pt")
    with pytest.raises(DataError, match="another version"):
        checkpoint.load(tmp_path / "c.pt")
