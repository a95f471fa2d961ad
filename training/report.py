# SPDX-License-Identifier: Apache-2.0
"""What a training says while it runs and leaves behind: progress, figures, pictures, and how to repeat it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Progress:
    """Hears how a training goes and says nothing. The command line has one that draws bars."""

    def start(self, task: str, total: int) -> None:
        """`task` begins; it has `total` steps."""

    def advance(self, done: int, **figures: float) -> None:
        """`done` of the steps are made; figures such as loss and accuracy as they stand."""

    def finish(self) -> None:
        """The task that was started is over."""

    def note(self, line: str) -> None:
        """One line for the reader, such as the figures of an epoch."""


def figures(labels: Sequence[str], truth: NDArray[np.int64], logits: NDArray[Any]) -> dict[str, Any]:
    """Argmax figures of logits (N, n_labels) against label indices (N,): accuracy, recall by label, the confusion
    matrix.

    `confusion_matrix[i][j]` counts clips of label i taken for j; the recall of a label without clips is None. Of
    equal logits the first label wins, as in the integer executor.
    """
    taken = np.argmax(logits, axis=1)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, taken), 1)
    totals = confusion.sum(axis=1)
    recall = {
        label: None if total == 0 else float(confusion[i, i] / total)
        for i, (label, total) in enumerate(zip(labels, totals, strict=True))
    }
    return {
        "n": len(truth),
        "accuracy": float(np.trace(confusion) / max(len(truth), 1)),
        "per_class_recall": recall,
        "confusion_matrix": confusion.tolist(),
    }


def agreement(fake_quantized: NDArray[Any], integers: NDArray[np.int8], names: Sequence[str]) -> dict[str, Any]:
    """How the fake-quantized network's logits, as int8, compare with the integer executor's; both (N, n_labels)."""
    difference = np.abs(fake_quantized.astype(np.int64) - integers.astype(np.int64))
    changed = np.argmax(fake_quantized, axis=1) != np.argmax(integers, axis=1)
    return {
        "logits": int(difference.size),
        "equal": float(np.mean(difference == 0)),
        "largest_difference": int(difference.max(initial=0)),
        "clips_whose_argmax_differs": [names[i] for i in np.flatnonzero(changed).tolist()],
    }


def write_json(path: Path, content: object) -> None:
    """Write JSON, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    names = ("integer-kws", "numpy", "torch", "torchaudio", "soundfile", "soxr", "librosa")
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The commit of the source that runs, with "+" when files differ from it; None outside a checkout of this project.

    A package installed somewhere below a stranger's checkout has nothing to do with that checkout's commit.
    """
    folder = Path(__file__).resolve().parent.parent
    if not (folder / "pyproject.toml").is_file():
        return None
    git = ["git", "-C", str(folder)]
    try:
        top, head = (
            subprocess.run([*git, "rev-parse", what], capture_output=True, text=True, timeout=10, check=True).stdout
            for what in ("--show-toplevel", "HEAD")
        )
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    if Path(top.rstrip("\n")).resolve() != folder:
        return None
    return head.strip() + ("+" if changed.stdout.strip() else "")


def draw_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Loss and accuracy by epoch, float and QAT one after the other, as PNG."""
    figure, (left, right) = _subplots(1, 2, (10, 4))
    epochs = np.arange(1, len(history) + 1)
    left.plot(epochs, [row["loss"] for row in history], label="training")
    left.plot(epochs, [row["validation_loss"] for row in history], label="validation")
    left.set(xlabel="epoch", ylabel="cross entropy", title="loss")
    right.plot(epochs, [100 * row["accuracy"] for row in history], label="training, augmented")
    right.plot(epochs, [100 * row["validation_accuracy"] for row in history], label="validation")
    right.set(xlabel="epoch", ylabel="%", title="accuracy")
    n_float = sum(row["phase"] == "float" for row in history)
    for axes in (left, right):
        if 0 < n_float < len(history):
            axes.axvline(n_float + 0.5, color="grey", linestyle=":", label="fake quantization begins")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=100)


def draw_confusion(path: Path, labels: Sequence[str], matrix: Sequence[Sequence[int]], title: str) -> None:
    """The confusion matrix as PNG: rows are true labels, columns what was heard; colour is the share of the row."""
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.5 * len(labels)
    figure, axes = _subplots(1, 1, (size, size))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="true label", title=title)
    axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            color = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, str(count), ha="center", va="center", color=color, fontsize=8)
    figure.savefig(path, dpi=100)


def _subplots(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    # A Figure of its own, without pyplot: no display, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns)
