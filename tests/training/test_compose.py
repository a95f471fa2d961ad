# SPDX-License-Identifier: Apache-2.0
"""The recordings that benchmarks/compose.py makes hold what their truth says, where it says it."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.compose import FADE, MARGIN, PAUSE, SNR_DB, WORD_RMS, Spoken, compose, cut, deal, main
from kws.errors import DataError
from training.dataset import Clip

N = 16000


def spoken(label: str, speaker: str, seconds: float = 0.8) -> Spoken:
    """A tone of `seconds` between margins of silence."""
    length = int(seconds * N)
    tone = WORD_RMS * np.sqrt(2) * np.sin(2 * np.pi * 300 * np.arange(length) / N)
    return Spoken(label, speaker, np.pad(tone, MARGIN), MARGIN, MARGIN + length)


def test_a_word_is_cut_with_faded_margins_at_one_level() -> None:
    rng = np.random.default_rng(0)
    t = np.arange(N) / N
    clip = 0.3 * np.sin(2 * np.pi * 300 * t) * ((t > 0.4) & (t < 0.7)) + 0.001 * rng.standard_normal(N)
    word = cut(Clip(Path("up/1_nohash_0.wav"), "up", "1", "validation", ""), clip)
    assert word is not None
    assert np.sqrt(np.mean(word.samples[word.start : word.end] ** 2)) == pytest.approx(WORD_RMS)
    assert word.start == MARGIN
    assert len(word.samples) == word.end + MARGIN
    assert word.samples[0] == 0
    assert word.samples[-1] == 0
    assert np.abs(word.samples[FADE : word.start - FADE]).min() < 1e-3  # the clip's own background stays


def test_speakers_are_in_one_recording_and_words_come_once() -> None:
    words = [spoken(f"word{i}", f"speaker{j}") for i in range(16) for j in range(8)]
    recordings = list(deal(words, [f"word{i}" for i in range(7)], 4, np.random.default_rng(0)))
    speakers = [{word.speaker for word in recording} for recording in recordings]
    assert all(not a & b for i, a in enumerate(speakers) for b in speakers[i + 1 :])
    for recording in recordings:
        labels = [word.label for word in recording]
        assert len(set(labels)) == 12
        assert sum(label in {f"word{i}" for i in range(7)} for label in labels) == 6


def test_too_few_words_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"2 speakers do not suffice for 2 recordings: those of recording 1 have . of 1 "
    ):
        list(deal([spoken("up", "a"), spoken("no", "b")], ["up"], 2, np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 1, r"Error: \S+, validation: 0 speakers do not suffice for 20 recordings: .*\(compose fewer recordings"),
        (["--data", "nowhere"], 1, "Error: nowhere: no such folder"),
        (["--split", "mine"], 2, "Error: .* 'mine' is not one of 'training', 'validation', 'testing'"),
        (["--count", "0"], 2, "Error: .* 0 is not in the range x>=1"),
    ],
)
def test_what_cannot_be_composed_is_one_line(
    tones: Path, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    result = CliRunner().invoke(main, ["--data", str(tones), "--out", str(tmp_path), *options])
    assert result.exit_code == code
    assert re.match(said, result.stderr.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


def test_data_without_noise_is_refused(tones: Path, tmp_path: Path) -> None:
    shutil.copytree(tones, tmp_path / "data")
    (tmp_path / "data" / "_background_noise_" / "hum.wav").unlink()
    result = CliRunner().invoke(main, ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "_background_noise_: holds no recorded noise" in result.stderr


def test_truth_pauses_and_noise_are_as_asked() -> None:
    words = [spoken(f"word{i}", "a") for i in range(12)]
    rng = np.random.default_rng(1)
    samples, truth, snr_db = compose(words, rng.standard_normal(3 * N), rng)
    assert 25 <= len(samples) / N <= 30
    assert SNR_DB[0] <= snr_db <= SNR_DB[1]
    assert [word.label for word in truth] == [word.label for word in words]
    pauses = [b.start - a.end for a, b in pairwise(truth)]
    assert min(pauses) >= PAUSE[0] - 1e-3
    assert max(pauses) <= PAUSE[1] + 1e-3
    inside = np.zeros(len(samples), bool)
    for word in truth:
        inside[round(word.start * N) : round(word.end * N)] = True
    noise = np.mean(samples[~inside] ** 2)
    assert 10 * np.log10((np.mean(samples[inside] ** 2) - noise) / noise) == pytest.approx(snr_db, abs=0.3)
