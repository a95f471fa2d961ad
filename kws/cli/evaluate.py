# SPDX-License-Identifier: Apache-2.0
"""`kws evaluate`: how good a model is on folders of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kws.cli.common import PATH, columns, engine_option, load_model, model_option, progress

if TYPE_CHECKING:
    from kws.evaluate import Evaluation

SPLITS = ("testing", "validation", "training", "all")


@click.command()
@model_option
@click.option("--data", type=PATH, required=True, help="A folder that holds one folder a word.")
@click.option("--split", type=click.Choice(SPLITS), default="testing", show_default=True, help="Whose clips.")
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(model: str, data: Path, split: str, engine: str, as_json: bool) -> int:
    """Measure a model on single words.

    Prints accuracy, recall and false accepts with 95 % intervals. The split of a clip is that of DATA's lists, or of
    its speaker's hash. Words that are no labels count as _unknown_, a folder _silence_ as silence. Clips that cannot
    be read are named and left out, and the exit code is then 1.
    """
    from kws.evaluate import evaluate as run

    with progress("evaluating") as update:
        evaluation = run(load_model(model, engine), data, split, progress=update)
    click.echo(json.dumps(evaluation.to_dict(), indent=2) if as_json else table(evaluation))
    for line in evaluation.broken:
        click.echo(f"kws: {line}", err=True)
    return 1 if evaluation.broken else 0


def table(evaluation: Evaluation) -> str:
    """The figures for people to read."""
    figures = evaluation.to_dict()
    recall, precision = evaluation.recall, evaluation.precision
    rows = [["label", "clips", "recall", "precision"]]
    for label, counts in zip(evaluation.labels, evaluation.confusion, strict=True):
        rows.append([label, str(counts.sum()), _percent(recall[label]), _percent(precision[label])])
    accuracy, interval = _percent(figures["accuracy"]), _interval(figures["accuracy_ci95"])
    lines = [
        columns(rows),
        "",
        f"accuracy           {accuracy} {interval} of {evaluation.n} clips",
        f"balanced accuracy  {_percent(figures['balanced_accuracy'])}",
    ]
    accepted, others = evaluation.false_accepts
    if others:
        share, interval = _percent(figures["false_accept_rate"]), _interval(figures["false_accept_rate_ci95"])
        lines.append(f"false accepts      {share} {interval}: {accepted} of {others} clips without a keyword")
        worst = sorted(evaluation.non_keywords.items(), key=lambda item: (-item[1][0], item[0]))
        named = [f"{word} {k}/{n}" for word, (k, n) in worst[:8] if k]
        if named:
            lines.append(f"  most often       {', '.join(named)}")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _interval(bounds: list[float]) -> str:
    return f"[{100 * bounds[0]:.2f}, {100 * bounds[1]:.2f}]"
