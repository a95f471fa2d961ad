# SPDX-License-Identifier: Apache-2.0
"""`kws profile`: what a model costs on a microcontroller."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from kws.cli.common import DEFAULT_MODEL, columns, load_model

if TYPE_CHECKING:
    from deploy.profile import Profile


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.option("--budget", metavar="flash=N,ram=N", help="Exit with 1 where the model needs more; N may end in k or M.")
@click.option("--core", "cores", multiple=True, help="Only this core, for example cortex-m4; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object a core.")
def profile(model: str, budget: str | None, cores: tuple[str, ...], as_json: bool) -> int:
    """Estimate what a model costs on microcontrollers.

    Multiply-accumulates, bytes and instructions by layer, then flash, RAM, cycles and milliseconds of one inference by
    core. Bytes of numbers and memory are those of `kws export --to c`; instructions are estimated from what emulated
    boards counted, and cycles from instructions: docs/runtime.md has the error. Listener is the memory of a stream from
    samples to events, in place of activations and scratch, which it holds.
    """
    from deploy.profile import CORES, over, parse_budget
    from deploy.profile import profile as measure
    from kws.detector import Detector

    limits = {} if budget is None else parse_budget(budget)
    loaded = load_model(model)
    listen = None if loaded.frontend is None else Detector(loaded).listen()
    profiles = [measure(loaded.graph, core, listen) for core in cores or CORES]
    if as_json:
        click.echo(json.dumps([found.to_dict() for found in profiles], indent=2))
    else:
        click.echo(layers(profiles))
        click.echo()
        click.echo(totals(profiles))
    failed = False
    for found in profiles:
        for line in over(found, limits):
            click.echo(f"kws: {found.core}: {line}", err=True)
            failed = True
    return 1 if failed else 0


def layers(profiles: list[Profile]) -> str:
    """A row an op; thousands of instructions in a column a core."""
    rows = [["layer", "op", "MACs", "weight bytes", *(f"{p.core}, k instr." for p in profiles)]]
    for index, layer in enumerate(profiles[0].layers):
        costs = [f"{p.layers[index].instructions / 1000:,.0f}" for p in profiles]
        rows.append([layer.name, layer.kind, f"{layer.macs:,}", f"{layer.weight_bytes:,}", *costs])
    total = [f"{p.instructions / 1000:,.0f}" for p in profiles]
    macs, weights = (sum(getattr(layer, name) for layer in profiles[0].layers) for name in ("macs", "weight_bytes"))
    rows.append(["total", "", f"{macs:,}", f"{weights:,}", *total])
    return columns(rows, left=2)


def totals(profiles: list[Profile]) -> str:
    """A row a core."""
    head = ["flash", "weights", "tables", "code", "RAM", "activations", "scratch", "stack", "listener", "cycles", "ms"]
    rows = [["core", *head]]
    for p in profiles:
        sizes = (p.flash, p.weight_bytes, p.table_bytes, p.code_bytes, p.ram, p.arena_bytes, p.scratch_bytes)
        rows.append([
            p.core, *(f"{size:,}" for size in (*sizes, p.stack_bytes)),
            "-" if p.listener_bytes is None else f"{p.listener_bytes:,}",
            f"{p.cycles:,}", f"{p.milliseconds:.1f} at {p.mhz} MHz",
        ])  # fmt: skip
    return columns(rows)
