# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: written whole or not at all, read without pickle, enough to go on bit-identically on a
CPU."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from kws.errors import DataError

VERSION = 1
_ANEW = "train anew into another folder"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts of them, with torch's RNG state.

    The file appears under its name only when it is complete on disk: a kill at any moment leaves the old one or the
    new one.
    """
    write(path, {**state, "version": VERSION, "torch_rng": torch.get_rng_state()})


def write(path: Path, state: dict[str, Any]) -> None:
    """torch.save, whole or not at all; Ctrl-C stays a KeyboardInterrupt and leaves nothing."""
    content = io.BytesIO()  # torch turns a Ctrl-C in a file's write into a RuntimeError
    torch.save(state, content)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read(path: Path) -> Any:
    """What `write` wrote: executes nothing, and as nothing in such a file is compressed, takes no more memory than it
    has bytes. OSError where the file cannot be read, ValueError where it is of another kind or cut short."""
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("compressed")
        return torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not its own
        raise ValueError(type(error).__name__) from None


def load(path: Path, **fields: type) -> dict[str, Any]:
    """What `save` wrote, with these fields of these types. Raises DataError where the file is not such a checkpoint."""
    try:
        state = read(path)
    except FileNotFoundError:
        raise DataError("no checkpoint to resume from", where=path, hint="run without --resume") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None
    except ValueError:
        raise DataError("is not a checkpoint, or is cut short", where=path, hint=_ANEW) from None
    if not isinstance(state, dict) or not isinstance(state.get("version"), int) or state["version"] != VERSION:
        raise DataError("is no checkpoint of this version", where=path, hint=_ANEW)
    for name, kind in fields.items():
        if not isinstance(state.get(name), kind):
            raise DataError(f"is no checkpoint of a training: it has no {name}", where=path, hint=_ANEW)
    return state


def restore(state: dict[str, Any], where: Path, model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Let network, optimizer and torch's random numbers go on where they were when `state` was saved; to be called
    right before training. Raises DataError where the checkpoint in `where` is of another network."""
    try:
        model.load_state_dict(state["model"])
        if optimizer:
            optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        raise DataError("its checkpoint does not fit the network", where=where, hint=_ANEW) from None
