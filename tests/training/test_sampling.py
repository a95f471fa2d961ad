# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.dataset import Clip, Corpus
from training.sampling import EpochPlan, Sampling


def plan_of(counts: dict[tuple[str, str], int], **sampling: float) -> tuple[list[Clip], EpochPlan]:
    """A plan over clips of (word, source) -> how many; keywords yes and no."""
    clips = [Clip(Path("x"), word, "", "training", source) for (word, source), n in counts.items() for _ in range(n)]
    return clips, EpochPlan(Corpus(("yes", "no"), tuple(clips), ()), clips, Sampling(**sampling))


def test_epoch_is_a_function_of_seed_and_epoch() -> None:
    _, plan = plan_of({("yes", ""): 30, ("no", ""): 50, ("bird", ""): 40})
    assert np.array_equal(plan.draw(1, 2), plan.draw(1, 2))
    assert not np.array_equal(plan.draw(1, 2), plan.draw(1, 3))
    assert not np.array_equal(plan.draw(1, 2), plan.draw(2, 2))


def test_epoch_balances_keywords_and_adds_unknown_and_silence() -> None:
    clips, plan = plan_of({("yes", ""): 10, ("no", ""): 90, ("bird", ""): 40}, unknown_share=0.2, silence_share=0.1)
    drawn = Counter("silence" if i < 0 else clips[i].word for i in plan.draw(0, 0))
    assert drawn == {"yes": 50, "no": 50, "bird": 20, "silence": 10}
    assert len(plan) == 130


def test_each_clip_comes_floor_or_ceil_of_its_share() -> None:
    _, plan = plan_of({("yes", ""): 7, ("no", ""): 13})
    drawn = Counter(plan.draw(0, 5).tolist())
    assert {drawn[i] for i in range(7)} == {1, 2}
    assert {drawn[i] for i in range(7, 20)} == {0, 1}


def test_recorded_clips_outweigh_synthetic_ones() -> None:
    clips, plan = plan_of({("yes", ""): 14, ("yes", "k"): 112, ("no", ""): 126}, recorded_weight=8)
    drawn = Counter(clips[i].source for i in plan.draw(0, 0) if i >= 0 and clips[i].word == "yes")
    assert abs(drawn[""] - drawn["k"]) <= 2


def test_rare_unknown_words_count_more_than_their_clips() -> None:
    counts = {("yes", ""): 500, ("no", ""): 500, ("bird", ""): 900, ("cat", ""): 9}
    clips, plan = plan_of(counts, word_power=0.5)
    drawn = Counter(clips[i].word for i in plan.draw(0, 0) if i >= 0)
    assert drawn["cat"] == pytest.approx(drawn["bird"] / 10, abs=3)


def test_engines_have_equal_shares_among_unknown_and_keyword_clips() -> None:
    counts = {("yes", "k"): 90, ("no", "k"): 90, ("yes", "e"): 10, ("no", "e"): 10, ("top", "k"): 50, ("top", "e"): 150}
    clips, plan = plan_of(counts, unknown_share=5.0)
    drawn = Counter(clips[i].source for i in plan.draw(0, 0) if i >= 0 and clips[i].word == "top")
    assert drawn["e"] / drawn.total() == pytest.approx(0.1, abs=0.01)
