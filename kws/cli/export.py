# SPDX-License-Identifier: Apache-2.0
"""`kws export`: a model for other runtimes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli.common import PATH, ROUNDING_RULES, load_model, model_option
from kws.errors import UsageError

if TYPE_CHECKING:
    from deploy.graph import Graph
    from kws.model import Model


@click.command()
@model_option
@click.option(
    "--to",
    type=click.Choice(["c", "c-array", "tflite", "tflite-array", "onnx", "onnx-qdq"]),
    required=True,
    help="c: a folder of C99 that runs the model; c-array: a C header of its numbers; tflite, onnx: a file of that "
    "format; tflite-array: its bytes as a C header; onnx-qdq: float operators of ONNX between the same integers.",
)
@click.option("--out", type=PATH, required=True, help="The file to write; of c, the folder.")
@click.option("--name", help="What C names begin with.  [default: the model's name; kws_model for arrays]")
@click.option(
    "--rounding", type=click.Choice(ROUNDING_RULES), help="Export under this rounding rule instead of the model's own."
)
def export(model: str, to: str, out: Path, name: str | None, rounding: str | None) -> None:
    """Write a model in another format.

    --rounding keeps every integer of the model and changes how results are rounded, so results change a little.
    """
    from kws.model import resolve

    loaded = load_model(model)
    if os.path.realpath(out) == os.path.realpath(resolve(model)):
        raise UsageError("would be written over the model", where=out, hint="give --out another name")
    graph = loaded.graph
    if rounding and rounding != graph.rounding:
        click.echo(
            f"rounding {rounding} instead of the model's {graph.rounding}: results will differ from the model's",
            err=True,
        )
        graph = graph.with_rounding(rounding)
        graph.check()
    writers = {
        "c": _c, "c-array": _c_array, "tflite": _tflite, "tflite-array": _tflite_array, "onnx": _onnx,
        "onnx-qdq": _onnx_qdq,
    }  # fmt: skip
    writers[to](loaded, graph, model, out, name)
    click.echo(f"wrote {out}")


def _c(loaded: Model, graph: Graph, model: str, out: Path, name: str | None) -> None:
    from deploy.export import c
    from deploy.program import ROUNDING
    from kws.model import RUN_FILE, resolve
    from kws.stream import listener_for_export

    file = resolve(model).resolve()
    name = name or c.prefix_of(file.parent.name if file.name == RUN_FILE else file.stem)
    listener = listener_for_export(replace(loaded, graph=graph)) if graph.rounding in ROUNDING else None
    sizes = c.export(
        graph, loaded.frontend, loaded.labels, out, name=name, provenance=loaded.provenance, listener=listener
    )
    click.echo(
        f"{sizes.weight_bytes:,} bytes of weights, {sizes.table_bytes:,} of tables, {sizes.arena_size:,} of activations"
    )


def _c_array(loaded: Model, graph: Graph, model: str, out: Path, name: str | None) -> None:
    from deploy.export import c_array

    _write(out, c_array.export(graph, loaded.frontend, loaded.labels, name=name or "kws_model").encode())


def _tflite(loaded: Model, graph: Graph, model: str, out: Path, name: str | None) -> None:
    from deploy.export import tflite

    _refuse_name(name)
    _write(out, tflite.export(graph, loaded.labels, loaded.frontend, _detection(loaded)))
    click.echo(f"rounding '{graph.rounding}': {tflite.RUNTIMES[graph.rounding]}")


def _tflite_array(loaded: Model, graph: Graph, model: str, out: Path, name: str | None) -> None:
    from deploy.export import tflite

    data = tflite.export(graph, loaded.labels, loaded.frontend, _detection(loaded))
    _write(out, tflite.c_header(data, name or "kws_model").encode())
    click.echo(f"{len(data):,} bytes; rounding '{graph.rounding}': {tflite.RUNTIMES[graph.rounding]}")


def _onnx(loaded: Model, graph: Graph, model: str, out: Path, name: str | None) -> None:
    from deploy.export import onnx

    _refuse_name(name)
    _write(out, onnx.export(graph, loaded.labels, loaded.frontend, _detection(loaded)))
    click.echo(f"rounding '{graph.rounding}': {onnx.RUNTIMES[graph.rounding]}")
    if said := onnx.odd_zero_points(graph):
        click.echo(said)


def _onnx_qdq(loaded: Model, graph: Graph, model: str, out: Path, name: str | None) -> None:
    from deploy.export import onnx, onnx_qdq

    _refuse_name(name)
    _write(out, onnx.export(graph, loaded.labels, loaded.frontend, _detection(loaded), qdq=True))
    click.echo(f"rounding '{graph.rounding}': {onnx.RUNTIMES[graph.rounding]}; {onnx_qdq.SUMS}")
    if said := onnx.odd_zero_points(graph, qdq=True):
        click.echo(said)


def _detection(loaded: Model) -> dict[str, Any] | None:
    return None if loaded.detection is None else loaded.detection.to_dict()


def _refuse_name(name: str | None) -> None:
    if name is not None:
        raise UsageError("--name is for C", hint="tensors keep the names that they have")


def _write(out: Path, data: bytes) -> None:
    from kws.model import write_atomically

    write_atomically(out, data)
