# SPDX-License-Identifier: Apache-2.0
"""Training from Python: recordings -> a run folder with `model.kws`, what `kws train` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.config import FrontendConfig
from kws.detector import POSTERIOR_MAX, DetectionConfig, keywords_of, posteriors_of
from kws.model import RUN_FILE, Model
from training import recipe
from training.config import TrainConfig
from training.report import Progress

__all__ = ["TrainConfig", "choose_detection", "train"]

FALSE_ACCEPT_SHARE = 0.01  # of the validation clips without a keyword
LOWEST, HIGHEST = 0.5, 0.8  # thresholds, of the largest posterior


def train(config: TrainConfig, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train by `config`, choose the detection threshold on the validation split, write the model; returns its path.

    Raises UsageError and DataError as `training.recipe.train` does. After KeyboardInterrupt or a kill `resume` goes on.
    """
    trained = recipe.train(config, resume=resume, progress=progress)
    posteriors = posteriors_of(trained.graph, trained.logits)
    detection = choose_detection(trained.labels, trained.frontend, posteriors, trained.validation.labels.numpy())
    path = trained.run / RUN_FILE
    Model(trained.graph, trained.frontend, trained.labels, detection, trained.provenance).save(path)
    return path


def choose_detection(
    labels: tuple[str, ...], frontend: FrontendConfig, posteriors: NDArray[np.uint8], truth: NDArray[Any]
) -> DetectionConfig:
    """One threshold for all keywords: the lowest that at most 1 % of the clips without a keyword reach, in [0.5, 0.8].

    `posteriors` (N, n_labels) and `truth` (N,), label indices, are those of the validation split.
    """
    n_keywords = len(keywords_of(labels))
    others = posteriors[truth >= n_keywords, :n_keywords].max(axis=1, initial=0)
    for threshold in range(round(LOWEST * POSTERIOR_MAX), round(HIGHEST * POSTERIOR_MAX)):
        if np.mean(others >= threshold) <= FALSE_ACCEPT_SHARE:
            break
    return DetectionConfig.default(frontend, n_keywords, threshold=threshold / POSTERIOR_MAX)
