# SPDX-License-Identifier: Apache-2.0
"""`kws import`: a model that others made, as a .kws file."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kws.cli.common import PATH, PRESETS, check_output
from kws.errors import UsageError


@click.command("import")
@click.argument("file", type=PATH, metavar="MODEL.tflite")
@click.option("--out", type=PATH, required=True, help="The .kws file to write.")
@click.option("--labels", help="The outputs in order: names with commas between, or a file with a name a line.")
@click.option(
    "--preset", type=click.Choice(PRESETS), help="The front-end that the model was trained on, if one of ours."
)
def import_(file: Path, out: Path, labels: str | None, preset: str | None) -> None:
    """Turn a TensorFlow Lite file into a model.

    The network must be int8 throughout; it then computes what TensorFlow Lite Micro computes, to the bit, here and in
    every export. Without --preset it hears no sound, and is inspected, profiled and exported. Keywords come first;
    labels that begin with an underscore, such as _silence_ and _unknown_, are none.
    """
    from kws.detector import DetectionConfig, keywords_of
    from kws.importing import import_tflite

    check_output(out)
    if os.path.realpath(out) == os.path.realpath(file):
        raise UsageError("would be written over the file that is imported", where=out, hint="give --out another name")
    model = import_tflite(file, labels=None if labels is None else _names(labels), preset=preset)
    model.save(out)
    heard = "" if model.frontend else "; without a front-end it hears no sound"
    click.echo(f"{len(model.graph.ops)} ops, {len(model.labels)} labels, rounding '{model.graph.rounding}'{heard}")
    if model.frontend and model.labels == tuple(f"class_{i}" for i in range(len(model.labels))):
        click.echo("no labels are known: every output counts as a keyword (--labels names them)", err=True)
    if model.frontend and model.detection == DetectionConfig.default(model.frontend, len(keywords_of(model.labels))):
        click.echo("thresholds are the default, half of the largest sum: kws tune chooses them", err=True)
    click.echo(f"wrote {out}")


def _names(labels: str) -> list[str]:
    """The labels of a file, or those between commas."""
    path = Path(labels)
    if "," in labels:
        return [name.strip() for name in labels.split(",")]
    if not path.is_file():
        if path.exists():
            raise UsageError("is no file of labels", where=labels)
        if path.suffix or "/" in labels or os.sep in labels:
            raise UsageError("no such file of labels", where=labels, hint="names have commas between")
        return [labels.strip()]
    try:
        return [name.strip() for name in path.read_text(encoding="utf-8-sig").splitlines() if name.strip()]
    except UnicodeDecodeError:
        raise UsageError("is not text in UTF-8", where=labels) from None
