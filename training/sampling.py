# SPDX-License-Identifier: Apache-2.0
"""Which clips an epoch hears: keywords balanced, unknown words tempered, recorded speech before synthetic."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.dataset import Clip, Corpus


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an epoch draws its clips. Counts are relative to the keyword clips, so every value works for any corpus size.

    recorded_weight: a recorded clip is drawn so many times as often as a synthetic one of the same word. With 30, a
        word of 14 recordings and 700 synthetic clips hears a recording in three draws of eight, one of 800 and 300
        nearly always. On validation clips of two words cut to 14 recordings each, 30 and 100 beat 8, and 8 beat 2.
    word_power: an unknown word is drawn in proportion to (weight of its clips) ** word_power: 1 is by clips, 0 is by
    words.
    """

    recorded_weight: float = 30.0
    unknown_share: float = 0.4
    silence_share: float = 0.1
    word_power: float = 0.5


class EpochPlan:
    """Draws the clip of every place of an epoch, as a function of (seed, epoch) alone; -1 stands for a silence clip.

    Keywords come equally often whatever their number of clips. Unknown words are tempered, so that rare ones count.
    Synthetic unknown clips are weighted so that every engine has the share that it has among the synthetic keyword
    clips: otherwise the engine would tell keyword from unknown.
    """

    def __init__(self, corpus: Corpus, clips: Sequence[Clip], sampling: Sampling) -> None:
        keywords = set(corpus.keywords)
        engine_weights = _engine_weights(clips, keywords)
        groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, clip in enumerate(clips):
            groups[corpus.label_of(clip.word)][clip.word].append(index)
        weights = np.array([
            sampling.recorded_weight if not clip.source
            else 1.0 if clip.word in keywords
            else engine_weights.get(clip.source, 1.0)
            for clip in clips
        ])  # fmt: skip
        n_keyword_clips = sum(clip.word in keywords for clip in clips)
        each = -(-n_keyword_clips // len(keywords))
        self.silence_count = round(each * len(keywords) * sampling.silence_share)
        self._draws: list[tuple[int, NDArray[np.int64], NDArray[np.float64]]] = []
        for label, words in sorted(groups.items()):
            indices = np.concatenate([np.array(members) for members in words.values()])
            power = 1.0 if label < len(keywords) else sampling.word_power
            probabilities = np.concatenate([
                weights[members] / weights[members].sum() ** (1 - power) for members in words.values()
            ])  # fmt: skip
            count = each if label < len(keywords) else round(each * len(keywords) * sampling.unknown_share)
            self._draws.append((count, indices, probabilities / probabilities.sum()))

    def __len__(self) -> int:
        return self.silence_count + sum(count for count, _, _ in self._draws)

    def draw(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Clip index of every place, shuffled; shape (len(self),)."""
        rng = np.random.default_rng([seed, epoch])
        chosen = [_spread(rng, count, indices, p) for count, indices, p in self._draws]
        chosen.append(np.full(self.silence_count, -1, np.int64))
        return rng.permutation(np.concatenate(chosen))


def _spread(
    rng: np.random.Generator, count: int, indices: NDArray[np.int64], p: NDArray[np.float64]
) -> NDArray[np.int64]:
    """`count` draws with probabilities p, spread: a clip comes floor or ceil of its expected number of times."""
    order = rng.permutation(len(indices))
    edges = np.cumsum(p[order])
    points = (np.arange(count) + rng.random()) / count
    return indices[order[np.minimum(np.searchsorted(edges, points, side="right"), len(order) - 1)]]


def _engine_weights(clips: Sequence[Clip], keywords: set[str]) -> dict[str, float]:
    """Weight of a synthetic unknown clip: its engine's share among keyword clips over that among unknown ones."""
    spoken = Counter(clip.source for clip in clips if clip.source and clip.word in keywords)
    other = Counter(clip.source for clip in clips if clip.source and clip.word not in keywords)
    if not spoken or not other:
        return {}
    return {name: (spoken[name] / spoken.total()) / (count / other.total()) for name, count in other.items()}
