# SPDX-License-Identifier: Apache-2.0
"""`kws verify`: whether every engine computes a model's own bits, where it must."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli.common import PATH, columns, load_model, model_option, progress, sound_files
from kws.errors import KwsError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy.graph import Graph
    from deploy.verify import Row
    from kws.model import Model


@click.command()
@model_option
@click.option(
    "--inputs", type=PATH, metavar="DIR", help="Sound files, the middle of each.  [default: 100 random inputs]"
)
def verify(model: str, inputs: Path | None) -> int:
    """Compare every engine with the NumPy executor.

    NumPy under the other rounding rules, C with every instruction set of this host, TensorFlow Lite Micro, LiteRT, ONNX
    Runtime, PyTorch, and the C export on emulated Cortex-M3, M4, M7 and M55 where qemu-system-arm and gcc-arm-none-eabi
    are installed, each under the rounding rules that it speaks. Exit code 1 where a pair that must be equal is
    not, or where a difference that must be a float32 tie is not one; what is not installed or cannot hold the model is
    listed and not checked. docs/formats.md says what is compared.
    """
    from deploy.verify import Engine, Verifier, board_engines, engines, random_inputs

    loaded = load_model(model)
    failed = 0
    if inputs is None:
        x = random_inputs(loaded.graph)
    else:
        x, failed = _windows(loaded, inputs)
    verifier = Verifier(loaded.graph, x)
    compared = [*engines(), Engine("PyTorch", _torch, ("half_even",), ops="ties"), *board_engines()]
    rows: list[Row] = []
    with progress("verifying") as update:
        rows += verifier.rules()
        for done, engine in enumerate(compared, 1):
            rows += verifier.rows(engine)
            update(done, len(compared))
    click.echo(table(rows))
    for note in dict.fromkeys(f"{row.engine}: {row.note}" for row in rows if row.note):
        click.echo(note)
    wrong = sum(row.failed for row in rows)
    click.echo(f"{wrong} comparisons failed" if wrong else "everything that must be equal is, of what was checked")
    return 1 if wrong or failed else 0


def table(rows: list[Row]) -> str:
    """A row a comparison."""
    lines = [["engine", "compared with", "of", "inputs", "values", "differ", "largest", "argmax changes", "verdict"]]
    for row in rows:
        argmax = "-" if row.argmax_changes is None else f"{row.argmax_changes:,}"
        counts = [*(f"{n:,}" for n in (row.inputs, row.values, row.different, row.largest)), argmax]
        counts = counts if row.values else ["-"] * len(counts)
        lines.append([row.engine, f"NumPy {row.rule}", row.part, *counts, row.verdict])
    return columns(lines, left=3)


def _windows(model: Model, folder: Path) -> tuple[NDArray[np.int8], int]:
    """The network's inputs for the sound files below a folder, and how many files could not be used."""
    import numpy as np

    from features.audio import read_audio
    from features.frontend import input_features
    from features.quantize import clip_samples

    frontend, _ = model.hearing()
    found: list[NDArray[Any]] = []
    paths, refused = sound_files([folder])
    for line in refused:
        click.echo(f"kws: {line}", err=True)
    failed = len(refused)
    for path in paths:
        try:
            samples = read_audio(path, dtype="int16", sample_rate=frontend.sample_rate)
        except KwsError as error:
            click.echo(f"kws: {error}", err=True)
            failed += 1
            continue
        clip = clip_samples(samples, frontend.clip_samples)
        found.append(input_features(clip, frontend, model.graph.input_params)[..., None])
    if not found:
        raise click.exceptions.Exit(1)  # each file, or the folder without any, has had its line
    return np.stack(found), failed


def _torch(graph: Graph, x: NDArray[np.int8]) -> NDArray[np.int8]:
    """PyTorch's quantized modules, rebuilt from the graph's integers."""
    try:
        from training.torch_engine import TorchEngine
    except ImportError:
        raise MissingExtraError("PyTorch is not installed", hint="pip install 'integer-kws[train]'") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says on each quantized tensor that they will go
        return TorchEngine(graph)(x)
