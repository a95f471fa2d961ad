# SPDX-License-Identifier: Apache-2.0
"""The fixed-point front-end against the float one: features, int8 inputs of a model, and what the model decides.

    python benchmarks/fixed_frontend.py --data FOLDER [--model M]

FOLDER holds a folder a word. For each preset: log-mel in dB or MFCC as they are, before the last rounding, and int8 at
an S that clips about 0.5 % of the values. For the model: its int8 inputs and its labels by either front-end.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from host import date_and_cpu
from numpy.typing import NDArray

from features.config import PRESETS
from features.frontend import features, input_features
from features.quantize import clip_samples
from kws.arithmetic.quant import choose_params
from kws.cli.common import columns
from kws.model import Model
from training.dataset import UNKNOWN, load, scan_folder

NEPER_DB = 10.0 / np.log(10.0)  # of a power spectrum


def steps(a: NDArray[np.int8], b: NDArray[np.int8]) -> list[str]:
    """Mean step, shares of equal values and of those at most one apart, the largest step, how many are above 2."""
    difference = np.abs(a.astype(np.int16) - b)
    within = (difference <= 1).mean()
    return [
        f"{difference.mean():.5f}", f"{100 * (difference == 0).mean():.3f} %", f"{100 * within:.4f} %",
        str(difference.max()), str(int((difference > 2).sum())),
    ]  # fmt: skip


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--model", default="commands", show_default=True)
def main(data: Path, model: str) -> None:
    recordings = load(scan_folder(data), broken="fail").recordings
    clips = np.stack([clip_samples(recordings[i], 16_000) for i in range(len(recordings))])
    print(date_and_cpu())
    print(f"python benchmarks/fixed_frontend.py --data {data.name} --model {model}: {len(clips):,} clips\n")
    rows = [["preset", "mean error", "largest", "mean step of int8", "equal", "at most 1 apart", "largest", "above 2"]]
    for name, preset in PRESETS.items():
        fixed, exact = replace(preset, arithmetic="fixed"), replace(preset, arithmetic="float")
        real = features(clips, exact)
        error = np.abs(features(clips, fixed) - real)
        unit, scale = (" dB", NEPER_DB) if preset.kind == "mfb" and preset.power == 2.0 else ("", 1.0)
        params = choose_params(*map(float, np.quantile(real, (0.0025, 0.9975))))
        rows.append([
            name, f"{scale * error.mean():.5f}{unit}", f"{scale * error.max():.3f}{unit}",
            *steps(input_features(clips, fixed, params), input_features(clips, exact, params)),
        ])  # fmt: skip
    print(columns(rows))
    _decisions(Model.load(model), model, clips, [clip.word for clip in recordings.clips])


def _decisions(model: Model, name: str, clips: NDArray[np.int16], words: list[str]) -> None:
    truth = np.array([model.labels.index(word if word in model.labels else UNKNOWN) for word in words])
    inputs, guesses = [], []
    for arithmetic in ("fixed", "float"):
        front = replace(model.frontend, arithmetic=arithmetic)
        inputs.append(input_features(clips, front, model.graph.input_params))
        guesses.append(model.run(inputs[-1][..., None]).argmax(1))
    fixed, exact = (guess == truth for guess in guesses)
    rows = [["int8 inputs of the model: mean step", "equal", "at most 1 apart", "largest", "above 2"], steps(*inputs)]
    ends = np.isin(inputs[0], (-128, 127)).mean()
    print(f"\n{columns(rows)}\n\n{100 * ends:.3f} % of the int8 inputs lie at an end of the type")
    print(
        f"{name}: fixed {fixed.sum()} of {len(truth)} right, float "
        f"{exact.sum()}; fixed alone {(fixed & ~exact).sum()}, float alone {(exact & ~fixed).sum()}, other label "
        f"{(guesses[0] != guesses[1]).sum()}"
    )
    for i in np.flatnonzero(fixed != exact):
        labels = [model.labels[guess[i]] for guess in guesses]
        print(f"  clip {i} is {model.labels[truth[i]]}: fixed {labels[0]}, float {labels[1]}")


if __name__ == "__main__":
    main()
