# SPDX-License-Identifier: Apache-2.0
"""`kws tune`: thresholds from validation words and hours without a keyword."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kws.cli.common import PATH, check_output, check_picture, columns, load_model, model_option, progress, writing

if TYPE_CHECKING:
    from kws.tune import Tuning

MOST_FALSE = 1e6  # false accepts an hour: more than there are windows


@click.command()
@model_option
@click.option("--data", type=PATH, required=True, help="One folder a word; its validation clips are used, no others.")
@click.option("--negatives", type=PATH, required=True, help="A folder of recordings without any keyword.")
@click.option("--max-fa-per-hour", type=click.FloatRange(0), default=0.5, show_default=True, help="False accepts.")
@click.option("--out", type=PATH, help="Where the tuned model goes. [default: the model's own file]")
@click.option("--png", type=PATH, help="Draw the curves that the thresholds come from.")
def tune(model: str, data: Path, negatives: Path, max_fa_per_hour: float, out: Path | None, png: Path | None) -> int:
    """Choose a threshold for each keyword and write them into the model.

    Finds the thresholds that miss fewest words while the negatives give at most so many false accepts an hour. Words
    are the clips of the validation split, by DATA's lists or the speaker's hash; clips of the other splits may lie
    there and are not used. A validation clip is refused where its speaker's hash is of the testing split. The rate is
    that observed on the negatives; the bound beside it is what so many hours can show. What cannot be read is named
    and left out, and the exit code is then 1.
    """
    from kws.errors import UsageError
    from kws.model import SHIPPED, resolve
    from kws.tune import tune as run

    target = out or resolve(model)
    if not max_fa_per_hour <= MOST_FALSE:
        raise UsageError(f"--max-fa-per-hour {max_fa_per_hour} is not a number of false accepts")
    check_output(target)
    check_picture(png)
    if png is not None and os.path.realpath(png) == os.path.realpath(target):
        raise UsageError("would be written over the model", where=png, hint="give the picture another name")
    if os.path.dirname(os.path.realpath(target)) == os.path.realpath(SHIPPED):
        raise UsageError("a model that ships is not changed", hint="give --out FILE.kws")
    with progress("tuning") as update:
        tuned, tuning = run(load_model(model), data, negatives, max_fa_per_hour, progress=update)
    click.echo(table(tuning, max_fa_per_hour))
    tuned.save(target)
    click.echo(f"wrote {target}")
    if png:
        from kws.plot import plot_tuning

        with writing(png):
            plot_tuning(tuning, png)
    for line in tuning.broken:
        click.echo(f"kws: {line}", err=True)
    return 1 if tuning.broken else 0


def table(tuning: Tuning, limit: float) -> str:
    """What was chosen, for people to read."""
    from kws.tune import LEVELS

    rows = [["keyword", "threshold", "found", "false accepts"]]
    for i, (keyword, level) in enumerate(zip(tuning.keywords, tuning.chosen, strict=True)):
        found = f"{tuning.found[i, level]} of {tuning.said[i]}"
        rows.append([keyword, f"{LEVELS[level]:.2f}", found, str(tuning.false[i, level])])
    rate = tuning.false_accepts / tuning.hours
    lines = [
        columns(rows),
        "",
        f"{tuning.words_found} of {tuning.said.sum()} words found, {tuning.false_accepts} false accepts in "
        f"{tuning.hours:.2f} hours: {rate:.2f} an hour, at most {tuning.upper95:.2f} with 95 % confidence",
    ]
    untold = [keyword for keyword, said in zip(tuning.keywords, tuning.said, strict=True) if said == 0]
    if untold:
        lines.append(f"no validation clip of {', '.join(untold)}: their thresholds stay")
    if tuning.upper95 > limit:
        lines.append(f"so few hours cannot show that the rate is at most {limit:g} an hour")
    if tuning.without_speaker:
        lines.append(
            f"{tuning.without_speaker} clips do not name their speaker: nothing says that they are not tested on"
        )
    return "\n".join(lines)
