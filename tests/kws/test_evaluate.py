# SPDX-License-Identifier: Apache-2.0
"""Figures on folders of words: which clip counts as what, the splits, the intervals, the fields of the JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import binomtest

from kws.errors import DataError, ModelError, UsageError
from kws.evaluate import evaluate, wilson
from kws.model import Model

ToneFile = Callable[..., Path]


@pytest.fixture
def words(tone_file: ToneFile, tmp_path: Path) -> Path:
    """A folder in the layout of Speech Commands: 3 low (one sounds high), 2 high, 2 other words, 1 silence, 1 noise."""
    for index, name in enumerate(("low", "low", "high")):
        tone_file(f"words/low/s{index}_nohash_0.wav", 1.0, (name, 0.3, 0.4))
    for index in range(2):
        tone_file(f"words/high/s{index}_nohash_0.wav", 0.7, ("high", 0.2, 0.4))  # shorter than a clip
    tone_file("words/beep/s0_nohash_0.wav", 1.0, ("middle", 0.3, 0.4))
    tone_file("words/boom/s0_nohash_0.wav", 1.4, ("low", 0.5, 0.4))  # longer than a clip; sounds like a keyword
    tone_file("words/_silence_/1.wav", 1.0)
    tone_file("words/_background_noise_/hum.wav", 3.0, ("low", 0, 3))
    return tmp_path / "words"


def test_counts_and_figures(tone_model: Model, words: Path) -> None:
    result = evaluate(tone_model, words, "all")
    assert result.to_dict() == {
        "labels": ["low", "high", "_silence_", "_unknown_"],
        "n": 8,
        "accuracy": 6 / 8,
        "accuracy_ci95": wilson(6, 8),
        "balanced_accuracy": pytest.approx((2 / 3 + 1 + 1 + 1 / 2) / 4),
        "per_class_recall": {"low": 2 / 3, "high": 1.0, "_silence_": 1.0, "_unknown_": 0.5},
        "confusion_matrix": [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]],
        "false_accept_rate": 1 / 3,
        "false_accept_rate_ci95": wilson(1, 3),
        "false_accept_by_word": {
            "_silence_": {"accepted": 0, "clips": 1},
            "beep": {"accepted": 0, "clips": 1},
            "boom": {"accepted": 1, "clips": 1},
        },
    }
    assert result.precision == {"low": 2 / 3, "high": 2 / 3, "_silence_": 1.0, "_unknown_": 1.0}


def test_false_accepts_are_those_at_the_threshold(tone_model: Model, words: Path) -> None:
    from dataclasses import replace

    deaf = replace(tone_model, detection=replace(tone_model.detection, thresholds=(255 * 10,) * 2))
    result = evaluate(deaf, words, "all")
    assert result.confusion[3, 0] == 1  # argmax takes "boom" for low
    assert result.false_accepts == (0, 3)  # but nothing would fire


def test_label_without_clips_has_no_recall(tone_model: Model, tone_file: ToneFile, tmp_path: Path) -> None:
    tone_file("words/low/a_nohash_0.wav", 1.0, ("low", 0.3, 0.4))
    figures = evaluate(tone_model, tmp_path / "words", "all").to_dict()
    assert figures["per_class_recall"] == {"low": 1.0, "high": None, "_silence_": None, "_unknown_": None}
    assert figures["balanced_accuracy"] == 1.0
    assert figures["false_accept_rate"] is None
    assert figures["false_accept_rate_ci95"] is None
    assert figures["false_accept_by_word"] == {}


def test_split_is_that_of_the_lists(tone_model: Model, words: Path) -> None:
    (words / "testing_list.txt").write_text("low/s0_nohash_0.wav\nhigh/s1_nohash_0.wav\n")
    (words / "validation_list.txt").write_text("beep/s0_nohash_0.wav\n")
    counts = {split: evaluate(tone_model, words, split).n for split in ("testing", "validation", "training", "all")}
    assert counts == {"testing": 2, "validation": 1, "training": 5, "all": 8}


def test_split_without_lists_is_that_of_the_speakers_hash(
    tone_model: Model, tone_file: ToneFile, tmp_path: Path
) -> None:
    """Names of the published data set: 022cd682 tests, 026290a7 validates, 012c8314 trains."""
    for speaker in ("022cd682", "026290a7", "012c8314"):
        tone_file(f"words/low/{speaker}_nohash_1.wav", 1.0, ("low", 0.3, 0.4))
    for split in ("testing", "validation", "training"):
        assert evaluate(tone_model, tmp_path / "words", split).n == 1


def test_official_test_set_layout(tone_model: Model, tone_file: ToneFile, tmp_path: Path) -> None:
    tone_file("set/low/022cd682_nohash_0.wav", 1.0, ("low", 0.3, 0.4))
    tone_file("set/_unknown_/backward_0c540988_nohash_0.wav.wav", 1.0, ("high", 0.3, 0.4))
    tone_file("set/_unknown_/backward_5170b77f_nohash_4.wav.wav", 1.0, ("middle", 0.3, 0.4))
    tone_file("set/_silence_/1024.wav", 1.0)
    result = evaluate(tone_model, tmp_path / "set", "all")
    assert result.confusion.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]]
    assert result.non_keywords == {"_silence_": (0, 1), "backward": (1, 2)}


def test_broken_clips_are_named_and_do_not_count(tone_model: Model, words: Path) -> None:
    (words / "low" / "bad_nohash_0.wav").write_bytes(b"not a sound")
    result = evaluate(tone_model, words, "all")
    assert result.n == 8
    assert len(result.broken) == 1
    assert "bad_nohash_0.wav" in result.broken[0]


def test_nothing_but_broken_clips_is_an_error(tone_model: Model, tmp_path: Path) -> None:
    (tmp_path / "words" / "low").mkdir(parents=True)
    (tmp_path / "words" / "low" / "bad_nohash_0.wav").write_bytes(b"not a sound")
    with pytest.raises(DataError, match=r"none of 1 clips can be read, the first: .*bad_nohash_0\.wav"):
        evaluate(tone_model, tmp_path / "words", "all")


def test_what_cannot_be_evaluated_is_said(tone_model: Model, words: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(UsageError, match="no split 'test'"):
        evaluate(tone_model, words, "test")
    with pytest.raises(DataError, match="no such folder"):
        evaluate(tone_model, tmp_path / "nowhere", "all")
    (words / "testing_list.txt").write_text("")
    with pytest.raises(DataError, match="no testing clips"):
        evaluate(tone_model, words, "testing")
    with pytest.raises(ModelError, match="has no label _unknown_"):
        evaluate(replace(tone_model, labels=("low", "high", "_silence_", "_other_")), words, "all")


def test_progress_reaches_the_total(tone_model: Model, words: Path) -> None:
    calls: list[tuple[int, int]] = []
    evaluate(tone_model, words, "all", progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (8, 8)


def test_evaluation_equals_the_models_own_logits(tone_model: Model, words: Path) -> None:
    from features.audio import read_audio

    predicted = [tone_model.predict(read_audio(path))[0] for path in sorted((words / "low").glob("*.wav"))]
    assert predicted == ["low", "low", "high"]


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 50), (1, 3), (25, 50), (49, 50), (50, 50), (4489, 4890)])
def test_wilson_equals_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_wilson_of_nothing_is_nothing() -> None:
    assert wilson(0, 0) is None


def test_wilson_reaches_the_ends_exactly() -> None:
    for n in range(1, 200):
        low, high = wilson(0, n), wilson(n, n)
        assert low is not None
        assert high is not None
        assert (low[0], high[1]) == (0.0, 1.0)
