# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from kws.errors import DataError
from training import checkpoint


def test_round_trip_restores_values_and_the_random_state(tmp_path: Path) -> None:
    torch.manual_seed(5)
    layer = nn.Linear(3, 2)
    checkpoint.save(tmp_path / "c.pt", {"model": layer.state_dict(), "history": [{"loss": 0.5, "phase": "float"}]})
    following = torch.rand(4)
    torch.manual_seed(6)
    state = checkpoint.load(tmp_path / "c.pt", model=dict)
    again = nn.Linear(3, 2)
    checkpoint.restore(state, tmp_path, again)
    assert torch.equal(torch.rand(4), following)
    assert torch.equal(again.weight, layer.weight)
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


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"version": checkpoint.VERSION, "path": Path("x")}, tmp_path / "c.pt")
    with pytest.raises(DataError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


def test_what_is_no_checkpoint_is_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"config": {}})
    content = path.read_bytes()
    for other in (b"", b"text", b"PK\x03\x04", bytes(4000), content[:300], content[:-5], pickle.dumps({"version": 1})):
        path.write_bytes(other)
        with pytest.raises(DataError, match=r"c.pt: is not a checkpoint, or is cut short \(train anew into another"):
            checkpoint.load(path)
    for other in ([1], torch.zeros(3), {"a": 1}, {"version": torch.zeros(3)}, {"version": 2}):
        torch.save(other, path)
        with pytest.raises(DataError, match=r"c.pt: is no checkpoint of this version \(train anew"):
            checkpoint.load(path)
    for other in ({"version": 1}, {"version": 1, "config": [1]}):
        torch.save(other, path)
        with pytest.raises(DataError, match=r"c.pt: is no checkpoint of a training: it has no config \(train anew"):
            checkpoint.load(path, config=dict)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        checkpoint.load(tmp_path)


def test_what_is_compressed_is_not_unpacked(tmp_path: Path) -> None:
    """torch.save compresses nothing; a megabyte of somebody else's could be a gigabyte."""
    torch.save({"version": 1}, tmp_path / "stored.pt")
    stored = zipfile.ZipFile(tmp_path / "stored.pt")
    with stored, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert torch.load(tmp_path / "c.pt", weights_only=True) == {"version": 1}
    with pytest.raises(DataError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "c.pt")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    state = {"model": nn.Linear(3, 2).state_dict(), "torch_rng": torch.get_rng_state()}
    with pytest.raises(DataError, match=r"its checkpoint does not fit the network \(train anew into another folder\)$"):
        checkpoint.restore(state, tmp_path, nn.Linear(3, 3))
