# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from features.config import get_preset
from features.frontend import features
from kws.errors import DataError
from training.config import TrainConfig
from training.dataset import scan
from training.loading import TrainingData, load_data
from training.report import Progress

FRONTEND = get_preset("mfb40")


class Notes(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def load_from(
    folder: Path,
    keywords: tuple[str, ...] = ("low", "high"),
    train_only: tuple[Path, ...] = (),
    broken: str = "skip",
) -> tuple[TrainingData, list[str]]:
    config = TrainConfig(data=(folder,), keywords=keywords, out=folder / "run", train_only=train_only, broken=broken)
    notes = Notes()
    corpus = scan([folder], train_only=train_only, keywords=keywords)
    return load_data(config, corpus, FRONTEND, notes), notes.lines


@pytest.fixture
def copy(tones: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tones, tmp_path / "copy"))


def test_validation_is_what_the_float_front_end_computes(tones: Path) -> None:
    data, notes = load_from(tones)
    words = {"low": 0, "high": 1, "other": 3}
    assert data.validation.labels.tolist() == [words.get(name.split("/")[0], 2) for name in data.validation.names]
    index = data.validation.names.index("high/s12_nohash_0.wav")
    samples, _ = soundfile.read(tones / "high" / "s12_nohash_0.wav", dtype="int16")
    expected = features(np.pad(samples, (0, 16000 - len(samples))), FRONTEND)
    assert np.abs(data.validation.features[index].numpy() - expected).max() < 1e-3
    assert notes == []


def test_training_holds_the_rest(tones: Path) -> None:
    data, _ = load_from(tones)
    assert len(data.recordings) == 36
    assert data.identity["training_clips"] == {"recorded": 36}
    assert data.identity["validation_clips"] == 14


def test_same_data_elsewhere_has_the_same_identity(tones: Path, copy: Path) -> None:
    assert load_from(tones)[0].identity == load_from(copy)[0].identity
    (copy / "low" / "s0_nohash_0.wav").write_bytes((copy / "low" / "s1_nohash_0.wav").read_bytes())
    (copy / "_background_noise_" / "hum.wav").write_bytes((copy / "low" / "s1_nohash_0.wav").read_bytes())
    for name in ("sha256", "noise_sha256"):
        assert load_from(tones)[0].identity[name] != load_from(copy)[0].identity[name]


def test_broken_clips_are_named_and_counted(copy: Path) -> None:
    for i in range(25):
        (copy / "other" / f"broken{i:02}_nohash_0.wav").write_bytes(b"RIFF")
    data, notes = load_from(copy)
    assert data.identity["broken_clips"] == len(data.broken) == 25
    assert "broken00" in notes[0]
    assert len(notes) == 21
    assert notes[-1] == "25 clips could not be read and were skipped"


def test_keyword_whose_clips_are_all_broken_is_refused(copy: Path) -> None:
    for path in (copy / "low").glob("*.wav"):
        path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="no training clip of low can be read"):
        load_from(copy)


def test_what_nothing_can_be_said_about_is_noted(copy: Path) -> None:
    for path in (copy / "low").glob("s1[2-9]_*.wav"):
        path.unlink()
    shutil.rmtree(copy / "other")
    _, notes = load_from(copy)
    assert notes == [
        "no validation clip of low: nothing says how well they are found",
        "no other words in the data: nothing teaches the network what to ignore",
    ]


def test_clip_moved_between_splits_is_another_identity(copy: Path) -> None:
    shutil.rmtree(copy / "other")  # of which validation reads a draw only
    before, _ = load_from(copy)
    listed = (copy / "validation_list.txt").read_text()
    (copy / "validation_list.txt").write_text(listed.replace("/s12_", "/s0_"))
    after, _ = load_from(copy)
    assert before.identity["sha256"] != after.identity["sha256"]


def test_train_only_noise_does_not_reach_validation(tones: Path, tmp_path: Path) -> None:
    synthetic = tmp_path / "synthetic"
    shutil.copytree(tones / "low", synthetic / "low", ignore=shutil.ignore_patterns("s1[2-9]_*"))
    without, _ = load_from(tones, train_only=(synthetic,))
    (synthetic / "_background_noise_").mkdir()
    soundfile.write(synthetic / "_background_noise_" / "loud.wav", np.full(800_000, 0.9), 16000)
    with_noise, _ = load_from(tones, train_only=(synthetic,))
    assert torch.equal(without.validation.features, with_noise.validation.features)
    rngs = (np.random.default_rng(0) for _ in range(2))
    crops = [data.noise.crops(rng, 20, 0.0)[0] for data, rng in zip((without, with_noise), rngs, strict=True)]
    assert np.abs(crops[0]).max() < 0.2
    assert np.abs(crops[1]).max() > 0.8


def test_testing_silence_is_heard_nowhere(tones: Path, copy: Path) -> None:
    (copy / "_silence_").mkdir()
    soundfile.write(copy / "_silence_" / "t_nohash_0.wav", np.full(800_000, 0.9), 16000)
    (copy / "testing_list.txt").write_text("_silence_/t_nohash_0.wav\n")
    plain, data = load_from(tones)[0], load_from(copy)[0]
    assert torch.equal(plain.validation.features, data.validation.features)
    crops, _ = data.noise.crops(np.random.default_rng(0), 20, 0.0)
    assert np.abs(crops).max() < 0.2


def test_broken_noise_is_skipped_or_fatal_like_a_clip(copy: Path) -> None:
    (copy / "_background_noise_" / "bad.wav").write_bytes(b"RIFF")
    data, notes = load_from(copy)
    assert "bad.wav" in data.broken[0]
    assert "bad.wav" in notes[0]
    with pytest.raises(DataError, match=r"bad\.wav"):
        load_from(copy, broken="fail")
