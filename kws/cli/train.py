# SPDX-License-Identifier: Apache-2.0
"""`kws train`: recordings of words -> RUN/model.kws."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import click

from kws.cli.common import NumberRange, PathType

if TYPE_CHECKING:
    from training.report import Progress

_FOLDER = PathType(file_okay=False)


@click.command()
@click.option(
    "--data", type=_FOLDER, multiple=True, required=True, help="A folder of recordings, one folder a word. Repeatable."
)
@click.option(
    "--train-only", type=_FOLDER, multiple=True, help="A folder that joins training only, such as synthetic speech."
)
@click.option("--keywords", required=True, help="The words to detect, with commas between.")
@click.option("--out", type=_FOLDER, required=True, help="The run folder; the model is OUT/model.kws.")
@click.option(
    "--network", default="tc-stream", show_default=True, help="tc-stream, tc-resnet, tc-resnet8, ds-cnn-s, -m or -l."
)
@click.option(
    "--preset", default="mfb40-10ms", show_default=True, help="Front-end: mfb40-10ms, mfb40, mfcc10 or mlperf-tiny."
)
@click.option(
    "--arithmetic",
    type=click.Choice(["fixed", "float"]),
    help="Of the front-end: the integers of a device, or floats. [default: fixed; of mlperf-tiny float]",
)
@click.option("--ptq", is_flag=True, help="Quantize after training instead of training on with fake quantization.")
@click.option(
    "--calibration",
    type=click.Choice(["minmax", "percentile", "mse"]),
    default="minmax",
    show_default=True,
    help="How --ptq finds ranges.",
)
@click.option(
    "--scheme",
    type=click.Choice(["affine", "pow2"]),
    default="affine",
    show_default=True,
    help="Scales: any, or powers of two.",
)
@click.option(
    "--weights",
    type=click.Choice(["per-channel", "per-tensor"]),
    default="per-channel",
    show_default=True,
    help="Granularity of the weight scales.",
)
@click.option(
    "--rounding",
    type=click.Choice(["single", "tflm"]),
    default="single",
    show_default=True,
    help="Rounding rule of the integer graph.",
)
@click.option(
    "--teacher", multiple=True, help="A model of the same words to learn from besides the labels. Repeatable."
)
@click.option("--epochs", type=click.IntRange(1, 1_000_000), help="Float epochs. [default: by the size of the corpus]")
@click.option("--pitch", type=NumberRange(0, 12), default=0.0, help="Vary the pitch by up to so many semitones (slow).")
@click.option("--tempo", type=NumberRange(0, 0.5), default=0.0, help="Vary the tempo by up to this share (slow).")
@click.option(
    "--broken",
    type=click.Choice(["skip", "fail"]),
    default="skip",
    show_default=True,
    help="What a clip that cannot be read does.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Same seed, same model on the same machine."
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with an interrupted training, to the same bits; or quantize its float network in another way.",
)
def train(keywords: str, resume: bool, pitch: float, tempo: float, **options: Any) -> None:
    """Train a keyword detector, turn it into integers and write OUT/model.kws.

    DATA holds a folder a word, as Google Speech Commands does; words that are not keywords teach what to ignore.
    Ctrl-C leaves a checkpoint that --resume goes on from.
    """
    from kws.errors import MissingExtraError

    for package in ("torch", "torchaudio", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"training needs {package}", hint="pip install 'integer-kws[train]'")
    from kws.train import train as run
    from training.augment import AugmentConfig
    from training.config import TrainConfig
    from training.loop import CHECKPOINT

    words = tuple(word.strip() for word in keywords.split(",") if word.strip())
    config = TrainConfig(keywords=words, augment=AugmentConfig(pitch=pitch, tempo=tempo), **options)
    with _Bars() as bars:
        try:
            model = run(config, resume=resume, progress=bars.progress)
        except KeyboardInterrupt:
            again = (
                f"the same command with --resume goes on from {config.out}"
                if (config.out / CHECKPOINT).is_file()
                else "nothing is trained yet: repeat the command"
            )
            raise click.Abort(again) from None
    click.echo(f"wrote {model}")


class _Bars:
    """Progress bars on a terminal, plain lines elsewhere; all on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        self.display = Display(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True, speed_estimate_period=300,
        )  # fmt: skip
        self.progress = _progress(self.display)

    def __enter__(self) -> _Bars:
        if self.display.console.is_terminal:
            self.display.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.display.console.is_terminal:  # elsewhere it would print an empty line
            self.display.stop()


def _progress(display: Any) -> Progress:
    from training.report import Progress

    class Bars(Progress):
        def start(self, task: str, total: int) -> None:
            self.task = display.add_task(task, total=total, figures="")

        def advance(self, done: int, **figures: float) -> None:
            text = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
            display.update(self.task, completed=done, figures=text)

        def finish(self) -> None:
            display.remove_task(self.task)

        def note(self, line: str) -> None:
            display.console.print(line, highlight=False, markup=False)

    return Bars()
