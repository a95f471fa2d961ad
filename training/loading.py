# SPDX-License-Identifier: Apache-2.0
"""Everything that a training keeps in memory: samples and noise to train on, the validation split as features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.config import FrontendConfig
from features.frontend import features
from features.quantize import clip_samples
from features.torch_frontend import TorchFrontend
from kws.errors import DataError
from training.augment import NoisePool
from training.config import TrainConfig
from training.dataset import Corpus, Recordings, digest, digest_in_order, load
from training.report import Progress

NAMED = 20  # broken clips named while training; run.json names all


@dataclass(frozen=True)
class HeldOut:
    """A split as tensors: features (N, n_frames, n_features), labels (N,), and a name for each clip."""

    features: Tensor
    labels: Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class TrainingData:
    """Training clips, noise, the validation split; what identifies the data; the order that it came in, as digests of
    words and noise; a line for each clip that was skipped."""

    recordings: Recordings
    noise: NoisePool
    validation: HeldOut
    identity: dict[str, Any]
    order: str
    broken: tuple[str, ...]


def frontend_of(config: FrontendConfig) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Samples (B, n) float32 in [-1, 1) -> features (B, n_frames, n_features), float32.

    "fixed" is what the device computes; "float" is torchaudio's, the fastest of those in floats.
    """
    if config.arithmetic == "fixed":
        return lambda samples: features(samples, config)
    module = TorchFrontend(config)

    def compute(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            values: NDArray[np.float32] = module(torch.from_numpy(samples)).numpy()
        return values

    return compute


def load_data(config: TrainConfig, corpus: Corpus, frontend: FrontendConfig, progress: Progress) -> TrainingData:
    """Read the training and validation clips of `corpus`. Raises DataError where a keyword has none to train on."""
    training = [clip for clip in corpus.clips if clip.split == "training"]
    held_out, n_silence = corpus.held_out("validation", config.seed)
    progress.start("reading clips", len(training) + len(held_out))
    loaded = load([*training, *held_out], broken=config.broken, advance=progress.advance)
    progress.finish()
    noise = load([clip for clip in corpus.noise if clip.split != "testing"], broken=config.broken)
    broken = (*loaded.broken, *noise.broken)
    tell_broken(broken, progress)
    every = loaded.recordings
    n_training = sum(clip.split == "training" for clip in every.clips)
    recordings, rest = every.part(0, n_training), every.part(n_training, len(every))
    _check_words(corpus, recordings, rest, progress)
    pools = [_noise_pool(noise.recordings, frontend, split, config.seed) for split in ("training", "validation")]
    identity = {
        "sha256": digest(loaded),
        "noise_sha256": digest(noise),
        "training_clips": dict(Counter(clip.source or "recorded" for clip in recordings.clips)),
        "validation_clips": len(rest),
        "broken_clips": len(broken),
    }
    validation = _validation(config, corpus, frontend, rest, pools[1], n_silence)
    order = f"{digest_in_order(loaded)} {digest_in_order(noise)}"
    return TrainingData(recordings, pools[0], validation, identity, order, broken)


def _noise_pool(noise: Recordings, frontend: FrontendConfig, split: str, seed: int) -> NoisePool:
    """What `split` may hear: its part of the shared recordings, and those that are its own."""
    shared, own = ([noise[i] for i, clip in enumerate(noise.clips) if clip.split == of] for of in ("", split))
    return NoisePool(shared, frontend.clip_samples, split, seed, own)


def tell_broken(broken: tuple[str, ...], progress: Progress) -> None:
    """Name the first clips that were skipped, and say how many they are."""
    for line in broken[:NAMED]:
        progress.note(f"skipped {line}")
    if broken:
        progress.note(f"{len(broken)} clips could not be read and were skipped")


def _check_words(corpus: Corpus, training: Recordings, validation: Recordings, progress: Progress) -> None:
    lost = set(corpus.keywords) - {clip.word for clip in training.clips}
    if lost:
        raise DataError(f"no training clip of {', '.join(sorted(lost))} can be read")
    unheard = set(corpus.keywords) - {clip.word for clip in validation.clips}
    if len(unheard) == len(corpus.keywords):
        raise DataError("no validation clip of any keyword can be read")
    if unheard:
        progress.note(f"no validation clip of {', '.join(sorted(unheard))}: nothing says how well they are found")
    if all(clip.word in corpus.keywords for clip in training.clips):
        progress.note("no other words in the data: nothing teaches the network what to ignore")


def _validation(
    config: TrainConfig, corpus: Corpus, frontend: FrontendConfig, words: Recordings, noise: NoisePool, n_silence: int
) -> HeldOut:
    """The clips of `words` as they are, and `n_silence` silence clips drawn by the seed."""
    n = frontend.clip_samples
    silence = noise.silence(np.random.default_rng([config.seed, 8]), n_silence)
    samples = np.stack([clip_samples(words[i], n) for i in range(len(words))]).astype(np.float32) / 32768
    every = np.concatenate([samples, silence])
    compute = frontend_of(frontend)
    values = np.concatenate([compute(every[i : i + 256]) for i in range(0, len(every), 256)])
    labels = [corpus.label_of(clip.word) for clip in words.clips] + [corpus.silence] * n_silence
    names = [f"{clip.path.parent.name}/{clip.path.name}" for clip in words.clips]
    names += [f"silence {i}" for i in range(n_silence)]
    return HeldOut(torch.from_numpy(values), torch.tensor(labels), tuple(names))
