# SPDX-License-Identifier: Apache-2.0
"""What several commands share: options, progress on folders, files that fail without stopping the rest."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from kws.model import Model


class PathType(click.Path):
    """A path that is not empty, which would mean the working folder. What cannot be read is said where it is read."""

    def __init__(self, *, file_okay: bool = True) -> None:
        super().__init__(file_okay=file_okay, readable=False, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if value == "":
            raise UsageError("an empty path", where=param.get_error_hint(ctx) if param else None, hint="name it")
        return super().convert(value, param, ctx)


class NumberRange(click.FloatRange):
    """click's range, which NaN passes, being neither above nor below."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail("NaN is no number.", param, ctx)
        return number


PATH = PathType()
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


def sound_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Files as they are, folders as the sound files below them, sorted; and a line for each folder of no use."""
    from training.dataset import sound_files_below

    found: list[Path] = []
    refused: list[str] = []
    for path in paths:
        if os.path.isdir(path):  # Path.is_dir raises on a name too long for the file system
            found += sound_files_below(path, refused)
        else:
            found.append(path)
    return found, refused


def check_output(path: Path | None) -> None:
    """UsageError for a file that could not be written when the work is done; for None there is nothing to check."""
    if path is None:
        return
    if path.is_dir():
        raise UsageError("is a folder, not a file to write", where=path)
    if not path.parent.is_dir():
        raise UsageError("is in no folder that exists", where=path)
    device = path.exists() and not path.is_file()  # such as /dev/stdout
    if not os.access(path if device else Path(os.path.realpath(path)).parent, os.W_OK):
        raise UsageError("cannot be written: its folder is read-only", where=path)


def check_picture(path: Path | None) -> None:
    """As `check_output`; MissingExtraError without matplotlib."""
    check_output(path)
    if path is not None:
        require_matplotlib()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Has the system's errors name the file, which those of a full disk do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def require_matplotlib() -> None:
    """MissingExtraError without matplotlib, before the work whose result it would draw."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("pictures need matplotlib", hint="pip install 'integer-kws[plot]'")


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
