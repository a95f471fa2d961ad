# SPDX-License-Identifier: Apache-2.0
"""`kws demo`: the whole way on the repository's small corpus, in about three minutes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kws.cli.common import PATH, columns
from kws.errors import KwsError, UsageError

if TYPE_CHECKING:
    from kws.detector import Event
    from kws.model import Model
    from kws.stream_score import Word
    from training.compare import Agreement

KEYWORDS = ("yes", "stop", "left", "right")
RUN = Path("runs/demo")
MARK = ".made-by-kws-demo"  # an empty file: what lies beside it may be removed; training ignores hidden ones
EQUAL, STEPS = 0.995, 1  # share of equal logits and largest difference that the integers must keep to


@click.command()
@click.option("--data", type=PATH, help="Words in the layout of Google Speech Commands. [default: data/ of the clone]")
@click.pass_context
def demo(context: click.Context, data: Path | None) -> None:
    """Train a small model, check its integers, find keywords.

    Trains on yes, stop, left and right into runs/demo, which it makes anew, turns the network into integers, compares
    them with PyTorch, evaluates, and finds the keywords in the recordings of data/recordings. Takes about three
    minutes.
    """
    corpus = data or _corpus()
    _step(1, f"train on {corpus}: {', '.join(KEYWORDS)}; everything else is to be ignored")
    _clear(RUN)
    from kws.cli.evaluate import evaluate
    from kws.cli.train import train

    context.invoke(train, data=(corpus,), keywords=",".join(KEYWORDS), out=RUN)
    from kws.model import Model

    model = Model.load(RUN)
    _step(2, "compare the integers with PyTorch's fake-quantized network, on clips that training has not seen")
    agrees = _compare(model, corpus)
    _step(3, "evaluate the integers on the testing split: other speakers")
    context.invoke(evaluate, model=str(RUN), data=corpus, split="testing")
    _step(4, "find the keywords in recordings")
    _listen(model, corpus / "recordings")
    click.echo(f"\nThe model is {RUN / 'model.kws'}. Try: kws infer --model {RUN} RECORDING, or kws inspect {RUN}")
    if not agrees:
        raise KwsError("the integers differ from PyTorch by more than they may", where="step 2")


def _step(number: int, text: str) -> None:
    click.secho(f"\n[{number}/4] {text}\n", bold=True)


def _corpus() -> Path:
    """data/ beside the packages, where they are those of a clone."""
    folder = Path(__file__).resolve().parents[2] / "data"
    if not all((folder / word).is_dir() for word in KEYWORDS):
        raise UsageError("kws demo needs the data/ of a clone of the repository", hint="or give --data DIR")
    return folder


def _clear(run: Path) -> None:
    """Make the folder anew, marked as the demo's own; UsageError where it holds anything else than an earlier demo."""
    if run.exists():
        if run.is_symlink() or not run.is_dir() or (any(run.iterdir()) and not (run / MARK).is_file()):
            raise UsageError("exists and is no run of the demo", where=run, hint="move it away")
        shutil.rmtree(run)
    run.mkdir(parents=True)
    (run / MARK).touch()


def _compare(model: Model, corpus: Path) -> bool:
    """Print how far graph and fake-quantized network agree, whole and op by op; whether that is close enough."""
    import numpy as np

    from features.frontend import features, input_features
    from features.quantize import clip_samples
    from training import qat
    from training.compare import FakeQuantizedOps, compare_network, compare_ops
    from training.dataset import load, scan_folder

    clips = load([clip for clip in scan_folder(corpus) if clip.split != "training"]).recordings
    frontend, _ = model.hearing()
    samples = np.stack([clip_samples(clips[i], frontend.clip_samples) for i in range(len(clips))])
    labels = np.array([_label(model, clip.word) for clip in clips.clips])
    values = features(samples, frontend)
    network = qat.load(RUN / "fake_quantized.pt")
    agreements = compare_network(network, model.graph, values, labels)
    click.echo(f"int8 logits of {len(clips)} clips, by rounding rule of the integers:\n{_agreements(agreements)}\n")
    q = input_features(samples, frontend, model.graph.input_params)[..., None]
    ops = compare_ops(FakeQuantizedOps(network, model.graph).run_op, model.graph, q)
    different, total = sum(op.n_different for op in ops), sum(op.n_values for op in ops)
    unexplained = sum(op.n_unexplained for op in ops)
    said = "each a tie that float32 cannot see" if not unexplained else f"{unexplained} of them without a reason"
    click.echo(f"op by op, from the same inputs: {different} of {total:,} values differ, {said}")
    own = next(a for a in agreements if a.rounding == model.graph.rounding)
    return own.equal >= EQUAL and own.max_step <= STEPS


def _label(model: Model, word: str) -> int:
    return model.labels.index(word if word in model.labels else "_unknown_")


def _agreements(agreements: list[Agreement]) -> str:
    rows = [["rounding", "equal", "largest step", "other label", "right to wrong", "wrong to right"]]
    for a in agreements:
        changed = (len(a.argmax_changed), a.right_to_wrong, a.wrong_to_right)
        rows.append([a.rounding, f"{100 * a.equal:.3f} %", str(a.max_step), *map(str, changed)])
    return columns(rows)


def _listen(model: Model, folder: Path) -> None:
    """Print events beside the truth of every recording."""
    from kws.detector import keywords_of
    from kws.stream_score import read_labels, score

    rows = [["recording", "said", "from", "to", "heard", "from", "to", "score"]]
    found = missed = false = 0
    for path in sorted(folder.glob("*.wav")):
        result = score(model.detect(path), read_labels(path.with_suffix(".txt")), keywords_of(model.labels))
        lines = [(word.end, _said(word), _heard(event)) for word, event in result.found]
        lines += [(word.end, _said(word), ["missed", "", "", ""]) for word in result.missed]
        lines += [(event.end, ["", "", ""], _heard(event)) for event in result.false]
        rows += [[path.name, *said, *heard] for _, said, heard in sorted(lines)]
        found, missed = found + len(result.found), missed + len(result.missed)
        false += len(result.false)
    if len(rows) == 1:
        click.echo(f"no recordings in {folder}")
    else:
        click.echo(f"{columns(rows, left=2)}\n\n{found} of {found + missed} keywords found, false events: {false}")


def _said(word: Word) -> list[str]:
    return [word.label, f"{word.start:.2f}", f"{word.end:.2f}"]


def _heard(event: Event) -> list[str]:
    return [event.label, f"{event.start:.2f}", f"{event.end:.2f}", f"{event.score:.2f}"]
