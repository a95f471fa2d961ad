# SPDX-License-Identifier: Apache-2.0
"""Float, QAT and PTQ figures of trained runs on the official Speech Commands v0.02 test set (4,890 clips, 12 classes).

    python benchmarks/official_test.py --data TEST_SET RUN [RUN ...]

TEST_SET holds the folders of `speech_commands_test_set_v0.02`. Each RUN is a folder that `kws train` left: its float
network (float.pt, in PyTorch) and its integers (model.kws, in the NumPy executor) see the same NumPy features. On and
off are reported apart from the ten other classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import torch
from host import date_and_cpu
from numpy.typing import NDArray

from deploy.engine import run as execute
from features.frontend import features, input_features
from features.quantize import clip_samples
from kws.cli.common import columns
from kws.detector import keywords_of, posteriors_of
from kws.evaluate import wilson
from kws.model import Model
from training import checkpoint
from training.dataset import SILENCE, UNKNOWN, load, scan_folder
from training.loop import logits
from training.networks import registry

APART = ("on", "off")


def share(part: int, whole: int) -> str:
    """`part` of `whole` in percent, with Wilson's interval."""
    low, high = wilson(part, whole) or (0.0, 1.0)
    return f"{100 * part / max(whole, 1):.2f} % [{100 * low:.2f}, {100 * high:.2f}]"


class Table:
    """The predictions of several networks on the same clips, as the tables that the README quotes."""

    def __init__(self, labels: tuple[str, ...], truth: NDArray[np.int64]) -> None:
        self.labels, self.truth = labels, truth
        self.predictions: dict[str, NDArray[np.int64]] = {}
        self.ten = ~np.isin(truth, [labels.index(word) for word in APART])

    def totals(self) -> str:
        keyword = self.truth < len(keywords_of(self.labels))
        rows = [
            ["network", "right of 4,890", "right of the ten classes", "keyword recall", "unknown taken for a keyword"]
        ]
        for name, guess in self.predictions.items():
            right = guess == self.truth
            unknown = self.truth == self.labels.index(UNKNOWN)
            taken = int((guess[unknown] < len(keywords_of(self.labels))).sum())
            ten, words = right[self.ten], right[self.ten & keyword]
            rows.append([
                name, f"{right.sum()}", f"{ten.sum()} of {len(ten)}, {share(int(ten.sum()), len(ten))}",
                share(int(words.sum()), len(words)), f"{taken} of {unknown.sum()}",
            ])  # fmt: skip
        return columns(rows)

    def classes(self) -> str:
        """Recall and precision of every label."""
        rows = [["label", "clips", *(f"{name}: recall, precision" for name in self.predictions)]]
        for i, label in enumerate(self.labels):
            row = [label, str(int((self.truth == i).sum()))]
            for guess in self.predictions.values():
                right = int(((guess == i) & (self.truth == i)).sum())
                recall = right / max(int((self.truth == i).sum()), 1)
                row.append(f"{100 * recall:.1f} %, {100 * right / max(int((guess == i).sum()), 1):.1f} %")
            rows.append(row)
        return columns(rows)


def float_network(run: Path, model: Model) -> torch.nn.Module:
    """The float network of a run, in eval mode."""
    config = json.loads((run / "run.json").read_text())["config"]
    network = registry.build(config["network"], model.frontend.input_shape[:2], len(model.labels))
    network.load_state_dict(checkpoint.load(run / "float.pt")["model"])
    return network.eval()


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def main(data: Path, runs: tuple[Path, ...]) -> None:
    recordings = load(scan_folder(data), broken="fail").recordings
    models = {run: Model.load(run) for run in runs}
    labels = next(iter(models.values())).labels
    if any(model.labels != labels for model in models.values()):
        raise click.UsageError("the runs have different labels")
    known = set(labels) - {UNKNOWN}
    words = [clip.word if clip.word in known else UNKNOWN for clip in recordings.clips]
    table = Table(labels, np.array([labels.index(word) for word in words]))
    print(date_and_cpu())
    print(f"python benchmarks/official_test.py --data {data.name} {' '.join(run.name for run in runs)}\n")
    for run, model in models.items():
        clips = np.stack([clip_samples(recordings[i], model.frontend.clip_samples) for i in range(len(recordings))])
        x = features(clips, model.frontend)
        outputs = logits(float_network(run, model), torch.from_numpy(x))
        table.predictions[f"{run.name} float"] = outputs.argmax(1)
        integers = execute(model.graph, input_features(clips, model.frontend, model.graph.input_params)[..., None])
        table.predictions[f"{run.name} int8"] = integers.argmax(1)
        accepted = model.detection.accepts(posteriors_of(model.graph, integers)).any(axis=1)
        unknown = table.truth == labels.index(UNKNOWN)
        silence = table.truth == labels.index(SILENCE)
        print(
            f"{run.name}: at the model's own threshold {accepted[unknown].sum()} of {unknown.sum()} unknown words and "
            f"{accepted[silence].sum()} of {silence.sum()} silences are taken for a keyword"
        )
    print(f"\n{table.totals()}\n\n{table.classes()}")


if __name__ == "__main__":
    main()
