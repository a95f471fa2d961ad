# SPDX-License-Identifier: Apache-2.0
"""The epochs of a training: batches made in a thread, the learning rate, a checkpoint after each epoch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from features.config import FrontendConfig
from training import checkpoint, qat
from training.augment import Augmenter
from training.config import TrainConfig
from training.dataset import Corpus
from training.loading import TrainingData, frontend_of
from training.report import Progress
from training.sampling import EpochPlan

CHECKPOINT, FLOAT = "checkpoint.pt", "float.pt"  # the last epoch; the end of the float phase
FIELDS = {
    "config": dict, "data": str, "phase": str, "epoch": int, "model": dict, "optimizer": dict, "history": list,
    "figures": dict, "torch_rng": Tensor,
}  # fmt: skip
"""Of a checkpoint; younger ones have `noise` and `order` too."""
Teach = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # windows (B, n) in [-1, 1] -> posteriors (B, n_labels)
LINES = 15  # about so many lines are said of a phase


@dataclass(frozen=True)
class Phase:
    """A stretch of training with a learning rate of its own. `first_epoch` numbers its epochs among all: each number
    has draws of its own. From epoch `freeze_at` on ranges and batch norm statistics stay fixed (QAT)."""

    name: str
    epochs: int
    learning_rate: float
    first_epoch: int = 0
    freeze_at: int = sys.maxsize


class Loop:
    """The epochs of one phase after another, with a checkpoint after each."""

    def __init__(
        self,
        config: TrainConfig,
        frontend: FrontendConfig,
        corpus: Corpus,
        data: TrainingData,
        progress: Progress,
        teach: Teach | None = None,
    ) -> None:
        self.config, self.data, self.progress = config, data, progress
        self.recordings, self.validation = data.recordings, data.validation
        self.plan = EpochPlan(corpus, self.recordings.clips, config.sampling)
        self.n_batches = math.ceil(len(self.plan) / config.batch_size)
        self.features, self.hop_length = frontend_of(frontend), frontend.hop_length
        self.augmenter = Augmenter(config.augment, data.noise, frontend.clip_samples, frontend.sample_rate)
        self.label_of = np.array([corpus.label_of(clip.word) for clip in self.recordings.clips] + [corpus.silence])
        self.synthetic = np.array([bool(clip.source) for clip in self.recordings.clips] + [False])
        self.unknown = corpus.unknown
        self.teach = teach
        self.loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self.phase = "float"
        self.history: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, {} for a fresh start."""
        if state:
            self.phase, self.history, self.figures = state["phase"], state["history"], state["figures"]

    def fit(self, phase: Phase, model: nn.Module, state: dict[str, Any]) -> None:
        """Train `model` for the epochs of `phase`, or for those that the checkpoint `state` says are left."""
        self.phase = phase.name
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=self.config.weight_decay)
        first = 0
        if state:
            checkpoint.restore(state, self.config.out, model, optimizer)
            first = state["epoch"]
        else:
            self.save(CHECKPOINT, model, optimizer)
        self.progress.start(phase.name, phase.epochs * self.n_batches)
        for epoch in range(first, phase.epochs):
            if epoch >= phase.freeze_at:
                qat.freeze(model)
            began = time.monotonic()
            row = self._epoch(phase, model, optimizer, epoch) | self._validate(model)
            row |= {"phase": phase.name, "epoch": epoch + 1, "seconds": round(time.monotonic() - began, 1)}
            self.history.append(row)
            if (epoch + 1) % math.ceil(phase.epochs / LINES) == 0 or epoch + 1 == phase.epochs:
                self.progress.note(
                    f"{phase.name} {epoch + 1}/{phase.epochs}  loss {row['loss']:.3f}  accuracy {row['accuracy']:.1%}  "
                    f"validation {row['validation_accuracy']:.1%}  {row['seconds']:.0f} s"
                )
            self.save(CHECKPOINT, model, optimizer, epoch + 1)
        self.progress.finish()

    def _epoch(self, phase: Phase, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> dict[str, Any]:
        model.train()
        first, steps = epoch * self.n_batches, phase.epochs * self.n_batches
        loss_sum = correct = count = 0.0
        for step, (features, labels, targets) in enumerate(self.batches(phase.first_epoch + epoch), first):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, phase.learning_rate, self.config.warmup_share)
            optimizer.zero_grad()
            output = model(features[:, None])
            loss = self.loss(output, targets)
            loss.backward()
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            correct += int((output.argmax(1) == labels).sum())
            count += len(labels)
            self.progress.advance(step + 1, epoch=epoch + 1, loss=loss_sum / count, accuracy=correct / count)
        return {"loss": loss_sum / count, "accuracy": correct / count}

    def _validate(self, model: nn.Module) -> dict[str, Any]:
        output, truth = logits(model, self.validation.features), self.validation.labels
        return {
            "validation_loss": float(nn.functional.cross_entropy(torch.from_numpy(output), truth)),
            "validation_accuracy": float(np.mean(output.argmax(1) == truth.numpy())),
        }

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features (B, n_frames, n_features), labels (B,) and what to learn of one epoch: a function of (seed, epoch).

        What to learn is the labels, or with a teacher probabilities (B, n_labels). The next batch is made in a thread
        while the network learns from this one.
        """
        order = self.plan.draw(self.config.seed, epoch)
        parts = [order[i : i + self.config.batch_size] for i in range(0, len(order), self.config.batch_size)]
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._batch, parts[0], epoch, 0)
            for i in range(len(parts)):
                ready = ahead.result()
                if i + 1 < len(parts):
                    ahead = pool.submit(self._batch, parts[i + 1], epoch, i + 1)
                yield ready

    def _batch(self, indices: NDArray[np.int64], epoch: int, number: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.config.seed, epoch, number])
        clips = [None if i < 0 else self.recordings[i] for i in indices]
        waveforms, part = self.augmenter.waveforms(rng, clips, self.synthetic[indices])
        features = self.features(waveforms)
        self.augmenter.mask(rng, features, self.hop_length)
        labels = torch.from_numpy(np.where(part, self.unknown, self.label_of[indices]))
        return torch.from_numpy(features), labels, self._targets(waveforms, labels)

    def _targets(self, waveforms: NDArray[np.float32], labels: Tensor) -> Tensor:
        """The labels, or `teacher_share` of the teacher's posteriors and the rest of the labels (Hinton et al., 2015,
        arXiv 1503.02531, section 2, at temperature 1). The teacher hears the windows without masks."""
        if self.teach is None:
            return labels
        heard = torch.from_numpy(self.teach(waveforms))
        said = nn.functional.one_hot(labels, heard.shape[1])
        return torch.lerp(said.to(heard.dtype), heard, self.config.teacher_share)

    def calibration_batches(self) -> Iterator[Tensor]:
        """Batches (B, 1, n_frames, n_features) of augmented training clips for post-training quantization."""
        shown = 0
        for features, _, _ in self.batches(2_000_000):
            yield features[:, None]
            shown += len(features)
            if shown >= self.config.calibration_clips:
                return

    def save(self, name: str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, epoch: int = 0) -> None:
        """Write where this training is into the file `name` of the run folder."""
        state = {
            "config": self.config.to_dict(), "data": self.data.identity["sha256"],
            "noise": self.data.identity["noise_sha256"], "order": self.data.order, "phase": self.phase, "epoch": epoch,
            "model": model.state_dict(), "optimizer": optimizer.state_dict() if optimizer else {},
            "history": self.history, "figures": self.figures,
        }  # fmt: skip
        checkpoint.save(self.config.out / name, state)


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Linear from 0 to `peak` over the warm-up, then half a cosine down to 0 at `steps`."""
    warmup = warmup_share * steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def logits(model: nn.Module, features: Tensor, batch_size: int = 256) -> NDArray[np.float32]:
    """Float logits (N, n_labels) of features (N, n_frames, n_features), in eval mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part[:, None]) for part in torch.split(features, batch_size)]).numpy()
