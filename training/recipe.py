# SPDX-License-Identifier: Apache-2.0
"""The recipe: words -> float network -> fused and fake-quantized network -> integer graph, in one readable loop.

`kws.train.train` is the public call: it runs this recipe, chooses the detection threshold and writes the model file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deploy import reference
from deploy.graph import Graph
from features.config import FrontendConfig
from features.quantize import quantize_features
from kws.arithmetic.quant import QuantParams, quantize
from kws.errors import DataError, UsageError
from training import checkpoint, qat, report
from training.config import TrainConfig
from training.convert import convert
from training.dataset import Corpus, scan
from training.loading import HeldOut, TrainingData, load_data
from training.loop import CHECKPOINT, FIELDS, FLOAT, Loop, Phase, Teach, logits
from training.networks import registry
from training.report import Progress

QUANTIZATION = {"ptq", "calibration", "scheme", "weights", "rounding"}  # options that the float phase does not see
# What the quantization of a float network leaves behind.
QUANTIZED = ("model.kws", "fake_quantized.pt", "metrics.json", "run.json", "curves.png", "confusion.png")
FOLDERS = {"out", "data", "train_only"}  # may be moved; of the recordings in them the content is compared
MAX_KEYWORDS = 254  # a model file holds 256 labels, two of which are silence and unknown
QAT_EPOCHS = 1_000_000  # number of the first QAT epoch: however many float epochs there are, its draws are its own


@dataclass(frozen=True)
class Trained:
    """What a training leaves: the graph and everything that the model file and the choice of a threshold need."""

    run: Path
    graph: Graph
    frontend: FrontendConfig
    labels: tuple[str, ...]
    validation: HeldOut
    logits: NDArray[np.int8]
    provenance: dict[str, Any]


def train(
    config: TrainConfig, *, resume: bool = False, progress: Progress | None = None, teach: Teach | None = None
) -> Trained:
    """Train, quantize and convert; the run folder gets checkpoints, figures and pictures.

    The same configuration, data, versions and number of threads give the same bits on a CPU, resumed or not. Resumed
    with another quantization (QUANTIZATION), the float network of the run is quantized anew.
    Raises UsageError and DataError for a configuration or data that cannot be used.
    """
    progress = progress or Progress()
    _check(config)
    state = _open_run(config, resume)
    corpus = scan(config.data, train_only=config.train_only, keywords=config.keywords)
    config.out.mkdir(parents=True, exist_ok=True)
    frontend = config.frontend()
    data = load_data(config, corpus, frontend, progress)
    if state and _recordings_changed(data, state):
        hint = "give the folders of the first command in their order, or train anew"
        raise DataError("the recordings changed since the training began", where=config.out, hint=hint)
    if not state:
        torch.manual_seed(config.seed)
    elif state["phase"] == "quantization":
        for name in QUANTIZED:
            (config.out / name).unlink(missing_ok=True)
    model = registry.build(config.network, input_shape=frontend.input_shape[:2], n_labels=len(corpus.labels))
    model = cast(Any, model).to(memory_format=torch.channels_last)  # a third faster on CPUs
    loop = Loop(config, frontend, corpus, data, progress, teach)
    loop.restore(state)

    float_phase, qat_phase = _phases(config, len(loop.plan))
    if loop.phase == "float":
        loop.fit(float_phase, model, state)
        output = logits(model, data.validation.features)
        loop.figures["float"] = report.figures(corpus.labels, data.validation.labels.numpy(), output)
        loop.phase = "quantization"
        loop.save(FLOAT, model)
        state = {}
    elif loop.phase == "quantization":
        checkpoint.restore(state, config.out, model)
        state = {}
    scheme = qat.QuantScheme(scheme=config.scheme, weights=config.weights)
    if config.ptq:
        model = qat.prepare_ptq(model, scheme, calibration=config.calibration)
        qat.calibrate(model, loop.calibration_batches())
    else:
        model = qat.prepare_qat(model, scheme)
        loop.fit(qat_phase, model, state)
        qat.freeze(model)
        qat.avoid_ties(model)
    return _finish(config, corpus, frontend, loop, model, data)


def _check(config: TrainConfig) -> None:
    """Refuse what would fail only after the clips are read, or when the model is saved. Raises UsageError."""
    if not 0 <= config.seed < 2**64:
        raise UsageError(f"--seed {config.seed} is outside 0 to 2^64 - 1")
    for word in config.keywords:
        if not (1 <= len(word) <= 64 and word.isprintable() and word == word.strip()):
            raise UsageError(f"keyword {word!r} is not 1 to 64 printable characters")
    if len(config.keywords) > MAX_KEYWORDS:
        raise UsageError(f"{len(config.keywords)} keywords are more than {MAX_KEYWORDS}")
    shape = config.frontend().input_shape[:2]
    with torch.device("meta"):  # neither memory nor random numbers
        registry.build(config.network, input_shape=shape, n_labels=len(config.keywords) + 2)


def _phases(config: TrainConfig, plan_length: int) -> tuple[Phase, Phase]:
    n_float, n_qat = config.epochs_for(plan_length), config.qat_epochs_for(plan_length)
    freeze_at = round(n_qat * (1 - config.frozen_share))
    return (
        Phase("float", n_float, config.learning_rate),
        Phase("qat", n_qat, config.qat_learning_rate, first_epoch=QAT_EPOCHS, freeze_at=freeze_at),
    )


def _open_run(config: TrainConfig, resume: bool) -> dict[str, Any]:
    """The checkpoint to go on from, or {}. Where only the quantization is another than that of the run, this is the end
    of its float phase. Raises UsageError for a folder that holds something else."""
    path = config.out / CHECKPOINT
    if not resume:
        if path.exists():
            hint = "--resume goes on with it, or choose another --out"
            raise UsageError("holds a training already", where=config.out, hint=hint)
        names = sorted(file.name for file in config.out.iterdir()) if config.out.exists() else []
        others = [name for name in names if not name.startswith(".") and name != Path(CHECKPOINT).stem + ".tmp"]
        if others:
            what = f"is not empty: it holds {others[0]!r} and no training to go on with"
            raise UsageError(what, where=config.out, hint="choose another --out")
        return {}
    state = checkpoint.load(path, **FIELDS)
    changed = _changed(config, state)
    if changed and set(changed) <= QUANTIZATION and (config.out / FLOAT).exists():
        end_of_float = checkpoint.load(config.out / FLOAT, **FIELDS)
        if set(_changed(config, end_of_float)) <= QUANTIZATION:
            return end_of_float
    if changed:
        raise UsageError(
            f"--resume with another {', '.join(changed)}", where=config.out, hint="repeat the first command"
        )
    return state


def _changed(config: TrainConfig, state: dict[str, Any]) -> list[str]:
    """The options, but folders, that have another value in `config` than in a checkpoint."""
    now = config.to_dict()
    return [name for name, value in state["config"].items() if name not in FOLDERS and now.get(name) != value]


def _recordings_changed(data: TrainingData, state: dict[str, Any]) -> bool:
    """Whether the recordings are others than a checkpoint's, wherever they lie; older checkpoints hold no order."""
    now = (data.identity["sha256"], data.identity["noise_sha256"], data.order)
    return now != (state["data"], state.get("noise"), state.get("order", data.order))


def _clipped(loop: Loop, params: QuantParams) -> float:
    """The share of augmented training features that the (S, Z) of the network's input cannot hold."""
    values = np.concatenate([batch.numpy().ravel() for batch in loop.calibration_batches()])
    q = np.rint(values.astype(np.float64) / params.scale) + params.zero_point
    return float(np.mean((q < params.qmin) | (q > params.qmax)))


def _finish(
    config: TrainConfig, corpus: Corpus, frontend: FrontendConfig, loop: Loop,
    model: nn.Module, data: TrainingData,
) -> Trained:  # fmt: skip
    """Convert, compare with the integers on validation, write figures and pictures."""
    qat.save(
        config.out / "fake_quantized.pt", model.eval(),
        network=config.network, input_shape=frontend.input_shape[:2], n_labels=len(corpus.labels),
    )  # fmt: skip
    validation = data.validation
    graph = convert(model, frontend.input_shape, rounding=config.rounding)
    fake = logits(model, validation.features)
    integers = reference.run(graph, quantize_features(validation.features.numpy(), graph.input_params)[..., None])
    truth = validation.labels.numpy()
    figures = {
        "float": loop.figures["float"],
        "ptq" if config.ptq else "qat": report.figures(corpus.labels, truth, fake),
        "int8": report.figures(corpus.labels, truth, integers),
        "fake_quantized_against_int8": report.agreement(
            quantize(fake, graph.output_params), integers, validation.names
        ),
    }
    report.write_json(config.out / "metrics.json", {"labels": list(corpus.labels), "split": "validation", **figures})
    report.draw_curves(config.out / "curves.png", loop.history)
    report.draw_confusion(
        config.out / "confusion.png", corpus.labels, figures["int8"]["confusion_matrix"], "validation, int8"
    )
    provenance = {
        "command": config.command(), "seed": config.seed, "versions": report.versions(),
        "git_revision": report.git_revision(), "data": data.identity,
        **({"teacher_files": list(config.teacher_files)} if config.teacher else {}),
        "clipped_features": _clipped(loop, graph.input_params),
        "validation_accuracy": {name: figures[name]["accuracy"] for name in list(figures)[:3]},
    }  # fmt: skip
    extra = {
        "config": config.to_dict(),
        "threads": torch.get_num_threads(),
        "broken": data.broken,
        "history": loop.history,
    }
    report.write_json(config.out / "run.json", {**provenance, **extra})
    return Trained(config.out, graph, frontend, corpus.labels, validation, integers, provenance)
