# SPDX-License-Identifier: Apache-2.0
"""Training from Python: recordings -> a run folder with `model.kws`, what `kws train` does."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy import engine
from deploy.graph import Graph
from features.config import FrontendConfig
from features.frontend import input_features
from features.quantize import clip_samples
from kws.arithmetic.quant import dequantize
from kws.detector import WINDOWS_AT_ONCE, DetectionConfig, keywords_of, posteriors_of
from kws.errors import UsageError
from kws.model import RUN_FILE, Model, resolve
from kws.tune import count_firings, moving_sums
from training import recipe
from training.config import TrainConfig
from training.dataset import SILENCE, UNKNOWN, load, scan_folder
from training.loading import tell_broken
from training.loop import Teach
from training.report import Progress

__all__ = ["TrainConfig", "choose_detection", "train"]

FALSE_ACCEPT_SHARE = 0.02  # of the validation clips without a keyword
LOWEST, HIGHEST = 50, 90  # thresholds, in hundredths of the largest sum
MOST_CLIPS = 2000


def train(config: TrainConfig, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train by `config`, choose the detection threshold on the validation split, write the model; returns its path.

    Raises UsageError and DataError as `training.recipe.train` does. After KeyboardInterrupt or a kill `resume` goes on.
    """
    files = [resolve(name).read_bytes() for name in config.teacher]
    config = replace(config, teacher_files=tuple(hashlib.sha256(data).hexdigest() for data in files))
    teach = _teach(config) if config.teacher else None
    trained = recipe.train(config, resume=resume, progress=progress, teach=teach)
    others = _other_words(config, trained.frontend, trained.graph, progress or Progress())
    detection = choose_detection(trained.graph, trained.frontend, len(keywords_of(trained.labels)), others)
    path = trained.run / RUN_FILE
    Model(trained.graph, trained.frontend, trained.labels, detection, trained.provenance).save(path)
    return path


def _teach(config: TrainConfig) -> Teach:
    """Windows (B, n) in [-1, 1] -> mean posteriors (B, n_labels) of the teachers of `config`, float32.

    Each has a front-end of its own. UsageError for one with other labels, in whatever order.
    """
    models = [Model.load(name) for name in config.teacher]
    labels = (*config.keywords, SILENCE, UNKNOWN)
    for name, model in zip(config.teacher, models, strict=True):
        if model.frontend is None:
            raise UsageError("has no front-end, so it cannot teach", where=f"teacher '{name}'")
        if set(model.labels) != set(labels):
            what = f"knows {', '.join(model.labels)}, not just these keywords, {SILENCE} and {UNKNOWN}"
            raise UsageError(what, where=f"teacher '{name}'")

    def teach(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        posteriors = np.zeros((len(windows), len(labels)), np.float32)
        for model in models:
            logits = dequantize(model.logits(windows), model.graph.output_params)
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            powers /= powers.sum(axis=1, keepdims=True) * len(models)
            posteriors += powers[:, [model.labels.index(label) for label in labels]]
        return posteriors

    return teach


def choose_detection(
    graph: Graph, frontend: FrontendConfig, n_keywords: int, others: NDArray[np.int8]
) -> DetectionConfig:
    """One threshold for all keywords: the lowest, from half of the largest sum up to 0.9 of it, at which windows that
    slide over `others` fire at most once in 50 of these clips.

    `others`, (N, n_frames, n_features) in the network's input domain, are clips without a keyword. They follow each
    other without a pause: a window sees the end of one and the beginning of the next, as it does in speech.
    """
    detection = DetectionConfig.default(frontend, n_keywords, threshold=LOWEST / 100)
    if len(others) == 0:
        return detection
    frames = others.reshape(-1, frontend.n_features)
    windows = np.lib.stride_tricks.sliding_window_view(frames, frontend.n_frames, axis=0)[:: detection.hop]
    logits = [
        engine.run(graph, np.ascontiguousarray(np.moveaxis(windows[i : i + WINDOWS_AT_ONCE], 1, 2))[..., None])
        for i in range(0, len(windows), WINDOWS_AT_ONCE)
    ]
    posteriors = posteriors_of(graph, np.concatenate(logits))[:, :n_keywords]
    sums = np.stack([moving_sums(column, detection.smoothing) for column in posteriors.T]).max(axis=0)
    for hundredths in range(LOWEST, HIGHEST + 1):
        detection = DetectionConfig.default(frontend, n_keywords, threshold=hundredths / 100)
        firings = count_firings(sums, detection.thresholds[0], detection.releases[0], detection.refractory)
        if firings <= FALSE_ACCEPT_SHARE * len(others):
            break
    return detection


def _other_words(config: TrainConfig, frontend: FrontendConfig, graph: Graph, progress: Progress) -> NDArray[np.int8]:
    """Validation clips of words that are no keywords, at most MOST_CLIPS: (N, n_frames, n_features)."""
    clips = [
        clip for folder in config.data for clip in scan_folder(folder)
        if clip.split == "validation" and clip.word not in config.keywords
    ]  # fmt: skip
    loaded = load(clips[:: -(-len(clips) // MOST_CLIPS) or 1], broken=config.broken)
    tell_broken(loaded.broken, progress)
    recordings = loaded.recordings
    if len(recordings) == 0:
        return np.empty((0, *frontend.input_shape[:2]), np.int8)
    samples = np.stack([clip_samples(recordings[i], frontend.clip_samples) for i in range(len(recordings))])
    return input_features(samples, frontend, graph.input_params)
