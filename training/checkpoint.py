# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: written whole or not at all, read without pickle, enough to go on bit-identically on a
CPU."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from kws.errors import DataError

VERSION = 1


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


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote. Raises DataError where the file is not such a checkpoint."""
    try:
        state = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise DataError("no checkpoint to resume from", where=path, hint="run without --resume") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=path) from None
    except Exception:  # torch raises many kinds for a file that is not its own
        raise DataError(
            "is not a checkpoint, or is cut short", where=path, hint="train anew into another folder"
        ) from None
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise DataError("a checkpoint of another version", where=path, hint="train anew")
    return state


def restore_random(state: dict[str, Any]) -> None:
    """Let torch's random numbers go on where they were when `state` was saved; to be called right before training."""
    torch.set_rng_state(state["torch_rng"])
