# SPDX-License-Identifier: Apache-2.0
"""What several commands share: options, progress on folders, files that fail without stopping the rest."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kws.model import Model

PATH = click.Path(path_type=Path)
DEFAULT_MODEL = "commands"
ROUNDING_RULES = ("single", "tflm", "double_up", "half_even", "half_away")  # kws.arithmetic's, without importing NumPy
PRESETS = ("mfb40", "mfb40-10ms", "mfcc10", "mlperf-tiny")  # features.config's, which the command line loads later

model_option = click.option(
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A .kws file, a run folder, or the name of a model that ships.",
)
verbose_option = click.option("--verbose", "-v", is_flag=True, help="Say how files were converted.")


engine_option = click.option(
    "--engine",
    type=click.Choice(["native", "reference"]),
    default="native",
    show_default=True,
    help="What runs the network: C, or NumPy, which is slow. Both compute the same bits.",
)


def load_model(model: str, engine: str = "native") -> Model:
    """The model that `--model` names, to be run by `engine`."""
    from kws.model import load

    return load(model, engine)


def sound_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, folders as the sound files below them, sorted; a folder without any stays, to be reported."""
    from training.dataset import AUDIO_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if os.path.isdir(path):  # Path.is_dir raises on a name too long for the file system
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            found += inside or [path]
        else:
            found.append(path)
    return found


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Yields `update(done, total)`: on a terminal it moves a bar with the time left, on stderr; elsewhere nothing."""
    if sys.stderr is None or not sys.stderr.isatty():  # None: the caller has closed it
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # What is printed meanwhile goes above the bar, unless it goes elsewhere: rich would send it to the bar's stderr.
    on_screen = sys.stdout.isatty()
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=on_screen) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Rows as an aligned table, two spaces between: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
