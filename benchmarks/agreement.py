# SPDX-License-Identifier: Apache-2.0
"""How far the network that QAT evaluated, its integers and PyTorch's quantized kernels agree, for a trained run.

    python benchmarks/agreement.py --data DIR [--data DIR ...] RUN [RUN ...]

RUN is a folder that `kws train` left. Every validation clip of the folders counts, words that are not keywords as
`_unknown_`, and a tenth as many silence clips. The fake-quantized network (fake_quantized.pt) is compared with the
graph of model.kws over all of them, under each rounding rule; op by op, from the same inputs, over OP_CLIPS of them.
Exit code 1 where a bound is exceeded. Of the rule that QAT simulates (`half_even` for powers of two, else `single`):
99.5 % of the logits equal, none off by more than one step. Of all: a sign test with p > 0.05 and a net change of at
most 0.3 points; where a single clip is more than that, it is no failure, but said. Of an op: ten values in a million,
and in PyTorch's convolutions and fully connected ops together one in a million, each a tie that float32 cannot see.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from host import date_and_cpu
from numpy.typing import NDArray

from features.audio import read_audio
from features.frontend import features
from features.quantize import clip_samples, quantize_features
from kws.cli.common import columns
from kws.model import Model
from training import qat
from training.augment import NoisePool
from training.compare import Agreement, FakeQuantizedOps, OpAgreement, compare_network, compare_ops
from training.dataset import load, scan
from training.torch_engine import TorchEngine

OP_CLIPS = 1000
SEED = 10
AFFINE = ("conv2d", "depthwise_conv2d", "fully_connected")


def validation(folders: tuple[Path, ...], model: Model) -> tuple[NDArray[np.float32], NDArray[np.int64], list[str]]:
    """Features (N, T, F), true labels (N,) and names of all validation clips, with silence."""
    corpus = scan(folders, keywords=model.labels[:-2])
    clips = load([clip for clip in corpus.clips if clip.split == "validation"]).recordings
    n = model.frontend.clip_samples
    noise = NoisePool([read_audio(path, dtype="int16") for path in corpus.noise_files], n, "validation", SEED)
    silence = noise.silence(np.random.default_rng(SEED), len(clips) // 10)
    rows = [features(clip_samples(clips[i], n), model.frontend) for i in range(len(clips))]
    rows += [features(samples, model.frontend) for samples in silence]
    labels = [corpus.label_of(clip.word) for clip in clips.clips] + [corpus.silence] * len(silence)
    names = [f"{clip.path.parent.name}/{clip.path.name}" for clip in clips.clips]
    return np.stack(rows), np.array(labels), names + [f"silence {i}" for i in range(len(silence))]


def whole(agreements: list[Agreement], names: list[str]) -> str:
    """The int8 logits of the graph against the fake-quantized network, a row a rounding rule."""
    rows = [["rounding", "logits equal", "steps", "clips", "other label", "right to wrong", "to right", "p", "net"]]
    lines = []
    for a in agreements:
        net = 100 * (a.wrong_to_right - a.right_to_wrong) / a.n_clips
        rows.append([
            a.rounding, f"{100 * a.equal:.3f} %", str(a.max_step), str(a.n_clips_different), str(len(a.argmax_changed)),
            str(a.right_to_wrong), str(a.wrong_to_right), f"{a.p_value:.2f}", f"{net:+.2f} points",
        ])  # fmt: skip
        lines += [f"  {a.rounding}: {names[i]}" for i in a.argmax_changed]
    return "\n".join([columns(rows), "clips with another label:", *(lines or ["  none"])])


def by_op(title: str, ops: list[OpAgreement]) -> str:
    """A row an op that rounds, then the totals of convolutions and fully connected ops."""
    rows = [[title, "kind", "values", "differ", "steps", "furthest from a tie", "beyond float32"]]
    for op in ops:
        if op.kind in ("slice", "reshape"):
            assert op.n_different == 0
            continue
        far = f"{op.max_tie_distance:.1e}" if op.max_tie_distance else "-"
        rows.append([op.name, op.kind, f"{op.n_values:,}", str(op.n_different), str(op.max_step), far,
                     str(op.n_unexplained)])  # fmt: skip
    different, values = affine_total(ops)
    total = f"convolutions and fully connected: {different} of {values:,}, {1e6 * different / values:.3f} in a million"
    return f"{columns(rows)}\n{total}"


def affine_total(ops: list[OpAgreement]) -> tuple[int, int]:
    """(values that differ, values) of convolutions and fully connected ops."""
    affine = [op for op in ops if op.kind in AFFINE]
    return sum(op.n_different for op in affine), sum(op.n_values for op in affine)


def exceeded(
    agreements: list[Agreement], simulated: str, ops: list[OpAgreement], torch_ops: list[OpAgreement]
) -> list[str]:
    """A line for each bound that the comparisons of a run exceed."""
    lines = []
    for a in agreements:
        if a.rounding == simulated and (a.equal < 0.995 or a.max_step > 1):
            lines.append(f"{a.rounding}: {100 * a.equal:.3f} % of the logits equal, largest step {a.max_step}")
        net = abs(a.wrong_to_right - a.right_to_wrong)
        if a.p_value <= 0.05 or net > max(1, 0.003 * a.n_clips):
            lines.append(f"{a.rounding}: net change of {net} clips, p = {a.p_value:.3f}")
    lines += [f"{op.name}: {op.n_different} values differ" for op in ops if op.n_different > 10e-6 * op.n_values]
    lines += [f"{op.name}: {op.n_unexplained} values beyond float32" for op in ops + torch_ops if op.n_unexplained]
    different, values = affine_total(torch_ops)
    if different > 1e-6 * values:
        lines.append(f"PyTorch: {different} of {values:,} values differ")
    return lines


def too_few(agreements: list[Agreement]) -> list[str]:
    """A line for each rule whose net change of one clip is beyond 0.3 points, because the clips are so few."""
    return [
        f"{a.rounding}: one clip of {a.n_clips} is {100 / a.n_clips:.2f} points: too few clips to show 0.3 points"
        for a in agreements
        if abs(a.wrong_to_right - a.right_to_wrong) == 1 and 0.003 * a.n_clips < 1
    ]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.argument("runs", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
def main(data: tuple[Path, ...], runs: tuple[Path, ...]) -> None:
    """Print the comparisons of every run; exit code 1 where one exceeds a bound."""
    failures, remarks = [], []
    click.echo(f"{date_and_cpu()}\ntorch {torch.__version__}, numpy {np.__version__}")
    click.echo(f"python benchmarks/agreement.py --data {' --data '.join(d.name for d in data)} "
               f"{' '.join(run.name for run in runs)}")  # fmt: skip
    for run in runs:
        model, network = Model.load(run), qat.load(run / "fake_quantized.pt")
        scheme = network.quant_scheme
        values, labels, names = validation(data, model)
        click.echo(f"\n{run.name}: scheme {scheme.scheme}, weights {scheme.weights}, {len(labels)} validation clips")
        agreements = compare_network(network, model.graph, values, labels)
        click.echo(whole(agreements, names))
        shown = np.linspace(0, len(values) - 1, min(OP_CLIPS, len(values))).astype(int)
        x = quantize_features(values[shown], model.graph.input_params)[..., None]
        simulated = model.graph.with_rounding("half_even" if scheme.power_of_two else "single")
        ops = compare_ops(FakeQuantizedOps(network, simulated).run_op, simulated, x)
        click.echo(f"\n{by_op(f'fake-quantized - {simulated.rounding}', ops)}")
        half_even = model.graph.with_rounding("half_even")
        engine = TorchEngine(half_even)
        torch_ops = compare_ops(engine.run_op, half_even, x)
        click.echo(f"\n{by_op(f'torch {engine.backend} - half_even', torch_ops)}")
        failures += [f"{run.name}: {line}" for line in exceeded(agreements, simulated.rounding, ops, torch_ops)]
        remarks += [f"{run.name}: {line}" for line in too_few(agreements)]
    kept = [] if failures else ["every other bound is kept" if remarks else "every bound is kept"]
    click.echo("\n" + "\n".join(failures + remarks + kept))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
