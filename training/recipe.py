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
from features.audio import read_audio
from features.config import FrontendConfig, get_preset
from features.quantize import clip_samples, quantize_features
from features.torch_frontend import TorchFrontend
from kws.arithmetic.quant import quantize
from kws.errors import DataError, UsageError
from training import checkpoint, qat, report
from training.augment import NoisePool
from training.config import TrainConfig
from training.convert import convert
from training.dataset import Corpus, Loaded, Recordings, digest, load, scan
from training.loop import HeldOut, Loop, logits
from training.networks import registry
from training.report import Progress


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


def train(config: TrainConfig, *, resume: bool = False, progress: Progress | None = None) -> Trained:
    """Train, quantize and convert; the run folder gets checkpoints, figures and pictures.

    The same configuration, data, versions and number of threads give the same bits on a CPU, resumed or not.
    Raises UsageError and DataError for a configuration or data that cannot be used.
    """
    progress = progress or Progress()
    state = _open_run(config, resume)
    corpus = scan(config.data, train_only=config.train_only, keywords=config.keywords)
    frontend = get_preset(config.preset)
    training, validation, data = _load_data(config, corpus, frontend, progress)
    if state and state["data"] != data["sha256"]:
        raise DataError("the recordings changed since the training began", where=config.out, hint="train anew")
    if not state:
        torch.manual_seed(config.seed)
    model = registry.build(config.network, input_shape=frontend.input_shape[:2], n_labels=len(corpus.labels))
    model = cast(Any, model).to(memory_format=torch.channels_last)  # a third faster on CPUs
    loop = Loop(config, frontend, corpus, training, validation, data["sha256"], progress)
    loop.restore(state)

    n_float, n_qat = config.epochs_for(len(loop.plan)), config.qat_epochs_for(len(loop.plan))
    if loop.phase == "float":
        loop.fit("float", model, n_float, config.learning_rate, state)
        loop.figures["float"] = report.figures(
            corpus.labels, validation.labels.numpy(), logits(model, validation.features)
        )
        checkpoint.save(config.out / "float.pt", {"model": model.state_dict(), "figures": loop.figures})
        state = {}
    scheme = qat.QuantScheme(scheme=config.scheme, weights=config.weights)
    if config.ptq:
        model.load_state_dict(checkpoint.load(config.out / "float.pt")["model"])
        model = qat.prepare_ptq(model, scheme, calibration=config.calibration)
        qat.calibrate(model, loop.calibration_batches())
    else:
        model = qat.prepare_qat(model, scheme)
        loop.fit("qat", model, n_qat, config.qat_learning_rate, state)
        qat.freeze(model)
    return _finish(config, corpus, frontend, loop, model, validation, data)


def _open_run(config: TrainConfig, resume: bool) -> dict[str, Any]:
    """Make the run folder; the checkpoint to go on from, or {}."""
    path = config.out / "checkpoint.pt"
    if not resume:
        if path.exists():
            hint = "--resume goes on with it, or choose another --out"
            raise UsageError("holds a training already", where=config.out, hint=hint)
        config.out.mkdir(parents=True, exist_ok=True)
        return {}
    state = checkpoint.load(path)
    now = config.to_dict()
    changed = [name for name, value in state["config"].items() if name != "out" and now.get(name) != value]
    if changed:
        raise UsageError(
            f"--resume with another {', '.join(changed)}", where=config.out, hint="repeat the first command"
        )
    return state


def _load_data(
    config: TrainConfig, corpus: Corpus, frontend: FrontendConfig, progress: Progress
) -> tuple[tuple[Recordings, NoisePool], HeldOut, dict[str, Any]]:
    """Training clips and noise in memory, the validation split as features, and what identifies the data."""
    training = [clip for clip in corpus.clips if clip.split == "training"]
    held_out, n_silence = corpus.held_out("validation", config.seed)
    progress.start("reading clips", len(training) + len(held_out))
    loaded = load([*training, *held_out], broken=config.broken, advance=progress.advance)
    progress.finish()
    for line in loaded.broken[:5]:
        progress.note(f"skipped: {line}")
    if loaded.broken:
        progress.note(f"{len(loaded.broken)} clips could not be read and were skipped")
    every = loaded.recordings
    n_training = sum(clip.split == "training" for clip in every.clips)
    starts = every.starts[: n_training + 1]
    recordings = Recordings(every.clips[:n_training], every.samples[: starts[-1]], starts)
    noise = [read_audio(path, dtype="int16") for path in corpus.noise_files]
    pool = NoisePool(noise, frontend.clip_samples, "training", config.seed)
    quiet = NoisePool(noise, frontend.clip_samples, "validation", config.seed)
    clips = range(n_training, len(every))
    words = [clip_samples(every[i], frontend.clip_samples).astype(np.float32) / 32768 for i in clips]
    silence = quiet.silence(np.random.default_rng([config.seed, 8]), n_silence)
    samples = np.concatenate([np.stack(words), silence])
    labels = [corpus.label_of(every.clips[i].word) for i in clips] + [len(corpus.keywords)] * n_silence
    names = [f"{clip.path.parent.name}/{clip.path.name}" for clip in every.clips[n_training:]]
    names += [f"silence {i}" for i in range(n_silence)]
    with torch.inference_mode():
        features = torch.cat([TorchFrontend(frontend)(part) for part in torch.split(torch.from_numpy(samples), 256)])
    validation = HeldOut(features, torch.tensor(labels), tuple(names))
    return (recordings, pool), validation, _describe(loaded, n_training)


def _describe(loaded: Loaded, n_training: int) -> dict[str, Any]:
    sources: dict[str, int] = {}
    for clip in loaded.recordings.clips[:n_training]:
        name = clip.source or "recorded"
        sources[name] = sources.get(name, 0) + 1
    return {
        "sha256": digest(loaded.hashes),
        "training_clips": sources,
        "validation_clips": len(loaded.recordings) - n_training,
        "broken_clips": len(loaded.broken),
    }


def _finish(
    config: TrainConfig, corpus: Corpus, frontend: FrontendConfig, loop: Loop,
    model: nn.Module, validation: HeldOut, data: dict[str, Any],
) -> Trained:  # fmt: skip
    """Convert, compare with the integers on validation, write figures and pictures."""
    qat.save(
        config.out / "fake_quantized.pt", model.eval(),
        network=config.network, input_shape=frontend.input_shape[:2], n_labels=len(corpus.labels),
    )  # fmt: skip
    graph = convert(model, frontend.input_shape, rounding=config.rounding)
    fake = logits(model, validation.features)
    integers = reference.run(graph, quantize_features(validation.features.numpy(), graph.input_params)[..., None])
    truth = validation.labels.numpy()
    figures = {
        "float": loop.figures["float"],
        "ptq" if config.ptq else "qat": report.figures(corpus.labels, truth, fake),
        "int8": report.figures(corpus.labels, truth, integers),
        "fake_quantized_against_int8": report.agreement(quantize(fake, graph.output_params), integers),
    }
    report.write_json(config.out / "metrics.json", {"labels": list(corpus.labels), "split": "validation", **figures})
    report.draw_curves(config.out / "curves.png", loop.history)
    report.draw_confusion(
        config.out / "confusion.png", corpus.labels, figures["int8"]["confusion_matrix"], "validation, int8"
    )
    provenance = {
        "command": config.command(), "seed": config.seed, "versions": report.versions(),
        "git_revision": report.git_revision(), "data": data,
        "validation_accuracy": {name: figures[name]["accuracy"] for name in list(figures)[:3]},
    }  # fmt: skip
    report.write_json(config.out / "run.json", {**provenance, "config": config.to_dict(), "history": loop.history})
    return Trained(config.out, graph, frontend, corpus.labels, validation, integers, provenance)
