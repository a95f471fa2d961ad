# SPDX-License-Identifier: Apache-2.0
"""`kws evaluate`: how good a model is on folders of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kws.cli.common import PATH, columns, engine_option, load_model, model_option, progress

if TYPE_CHECKING:
    from kws.evaluate import Evaluation

SPLITS = ("testing", "validation", "training", "all")


@click.command()
@model_option
@click.option("--data", type=PATH, help="A folder that holds one folder a word: single words are measured.")
@click.option("--split", type=click.Choice(SPLITS), help="Whose clips.  [default: testing]")
@click.option("--stream", type=PATH, help="A folder of recordings, X.txt or X.json beside each: detection is measured.")
@click.option("--negatives", type=PATH, help="A folder of recordings without a keyword, for false accepts.")
@click.option(
    "--tolerance-ms", type=click.IntRange(0, 60_000), help="Between the ends of word and event.  [default: 300]"
)
@click.option(
    "--det",
    type=PATH,
    help="Draw miss rate against false accepts, without --noise and --gain, into this PNG; the numbers go beside it.",
)
@click.option("--noise", type=PATH, help="A sound file or folder to mix in, at each --snr.")
@click.option("--snr", help="Signal to noise in dB, with commas between: 20,10,5,0.")
@click.option("--gain", help="Gains in dB, with commas between: -30,0.  [default: 0]")
@engine_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(model: str, data: Path | None, split: str | None, engine: str, as_json: bool, **of_streams: Any) -> int:
    """Measure a model on single words, or on recordings.

    With --data it prints accuracy, recall and false accepts of single words with 95 % intervals. The split of a clip is
    that of DATA's lists, or of its speaker's hash. Words that are no labels count as _unknown_, a folder _silence_ as
    silence. With --stream or --negatives it runs the detector: words missed, false accepts an hour with a one-sided
    95 % bound, and seconds from the end of a word to its firing. What cannot be read, and a recording of --stream
    without X.txt or X.json, is named and left out, and the exit code is then 1.
    """
    from kws.errors import UsageError

    streams = of_streams["stream"] or of_streams["negatives"]
    if (data is None) == (streams is None):
        raise UsageError("give either --data, or --stream and --negatives or one of them")
    given = [name for name in ("det", "noise", "snr", "gain", "tolerance_ms") if of_streams[name] is not None]
    if data is not None and given:
        raise UsageError(f"--{given[0].replace('_', '-')} belongs to --stream and --negatives")
    if data is None:
        if split is not None:
            raise UsageError("--split belongs to --data")
        from kws.cli.evaluate_stream import run_streams

        return run_streams(load_model(model, engine), as_json=as_json, **of_streams)
    from kws.evaluate import evaluate as run

    with progress("evaluating") as update:
        evaluation = run(load_model(model, engine), data, split or "testing", progress=update)
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
