# SPDX-License-Identifier: Apache-2.0
"""`kws export`: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from kws.cli.common import PATH, ROUNDING_RULES, load_model, model_option


@click.command()
@model_option
@click.option("--to", type=click.Choice(["c-array"]), required=True, help="c-array: a C header with all numbers.")
@click.option("--out", type=PATH, required=True, help="The file to write.")
@click.option(
    "--rounding", type=click.Choice(ROUNDING_RULES), help="Export under this rounding rule instead of the model's own."
)
def export(model: str, to: str, out: Path, rounding: str | None) -> None:
    """Write a model in another format.

    --rounding keeps every integer of the model and changes how results are rounded, so results change a little.
    """
    from deploy.export import c_array

    loaded = load_model(model)
    graph = loaded.graph
    if rounding and rounding != graph.rounding:
        click.echo(
            f"rounding {rounding} instead of the model's {graph.rounding}: results will differ from the model's",
            err=True,
        )
        graph = graph.with_rounding(rounding)
        graph.check()
    out.write_text(c_array.export(graph, loaded.frontend, loaded.labels), encoding="utf-8")
    click.echo(f"wrote {out}")
