# SPDX-License-Identifier: Apache-2.0
"""Everything that decides a training, in one frozen place."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.config import FrontendConfig, get_preset
from training.augment import AugmentConfig
from training.sampling import Sampling


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training. Name data, keywords and run folder; the rest has good defaults."""

    data: tuple[Path, ...]
    keywords: tuple[str, ...]
    out: Path
    train_only: tuple[Path, ...] = ()
    network: str = "tc-stream"
    preset: str = "mfb40-10ms"
    arithmetic: str | None = None  # of the front-end, "fixed" or "float"; None: the preset's own
    ptq: bool = False  # quantize after training, without fine-tuning
    calibration: str = "minmax"  # of --ptq
    scheme: str = "affine"
    weights: str = "per-channel"
    rounding: str = "single"
    teacher: tuple[str, ...] = ()  # models to learn from besides the labels, as `kws.load` names them
    teacher_files: tuple[str, ...] = ()  # the SHA-256 of each of their files: `kws.train` fills it in
    seed: int = 0
    broken: str = "skip"  # or "fail": what a clip that cannot be read does
    epochs: int | None = None  # of the float phase; None: from the size of the corpus
    batch_size: int = 100
    learning_rate: float = 4e-3  # peak; linear warm-up, then cosine to zero
    qat_learning_rate: float = 1e-4
    warmup_share: float = 0.05  # of the steps
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    teacher_share: float = 0.7  # of a target that `teacher` gives; the rest is the label
    qat_share: float = 0.15  # QAT epochs, of the float epochs
    frozen_share: float = 0.4  # of the QAT epochs, the last, with ranges and BN statistics fixed
    calibration_clips: int = 512
    sampling: Sampling = field(default_factory=Sampling)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def frontend(self) -> FrontendConfig:
        """The front-end that `preset` and `arithmetic` name. UsageError for an unknown preset."""
        preset = get_preset(self.preset)
        return dataclasses.replace(preset, arithmetic=self.arithmetic or preset.arithmetic)

    def epochs_for(self, plan_length: int) -> int:
        """Float epochs: as asked, or as many as show the network 80,000 clips and at least 45 times the corpus."""
        return self.epochs or max(45, math.ceil(80_000 / plan_length))

    def qat_epochs_for(self, plan_length: int) -> int:
        """QAT epochs: a share of the float ones, 0 with `ptq`."""
        return 0 if self.ptq else max(1, round(self.qat_share * self.epochs_for(plan_length)))

    def command(self) -> str:
        """The `kws train` call that repeats this training, with folders by name only (a model file should not tell
        paths)."""
        words = ["kws", "train"]
        for folder in self.data:
            words += ["--data", os.path.basename(os.path.realpath(folder))]
        for folder in self.train_only:
            words += ["--train-only", os.path.basename(os.path.realpath(folder))]
        words += ["--keywords", ",".join(self.keywords), "--out", os.path.basename(os.path.realpath(self.out))]
        for teacher in self.teacher:
            words += ["--teacher", os.path.basename(os.path.normpath(teacher))]
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.name in _OPTIONS and value != option.default:
                words += [f"--{option.name}"] if value is True else [f"--{option.name}", str(value)]
        if self.augment.pitch:
            words += ["--pitch", str(self.augment.pitch)]
        if self.augment.tempo:
            words += ["--tempo", str(self.augment.tempo)]
        return shlex.join(words)

    def to_dict(self) -> dict[str, Any]:
        """All fields, fit for JSON."""
        values = dataclasses.asdict(self)
        values["data"] = [os.path.realpath(path) for path in self.data]
        values["train_only"] = [os.path.realpath(path) for path in self.train_only]
        values["out"] = os.path.realpath(self.out)  # Path.resolve raises where a link leads to itself
        for name in ("keywords", "teacher", "teacher_files"):
            values[name] = list(values[name])
        values["augment"]["snr_db"] = list(self.augment.snr_db)
        return values


_OPTIONS = (
    "network", "preset", "arithmetic", "ptq", "calibration", "scheme", "weights", "rounding", "broken", "epochs",
    "seed",
)  # fmt: skip
