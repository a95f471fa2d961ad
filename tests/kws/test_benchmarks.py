# SPDX-License-Identifier: Apache-2.0
"""That benchmarks measure what they say: what shift.py counts, and that always_on.py lets both runtimes hear alike."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kws
from features.audio import read_audio
from features.frontend import input_features
from kws.detector import Detector
from training.dataset import Clip, Recordings

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # they are imported as when a benchmark is run


def test_moved_clips_begin_with_zeros_and_lose_their_end() -> None:
    from benchmarks import shift

    clip = np.arange(1, 16_001).astype(np.int16)
    seen: list[Any] = []
    model = SimpleNamespace(
        hearing=lambda: (SimpleNamespace(clip_samples=16_000, sample_rate=16_000), None),
        logits=lambda clips: seen.append(clips[0]) or np.array([[0, len(seen) > 18]]),
    )
    recordings = Recordings((Clip(Path("a"), "a", "", "validation"),), clip, np.array([0, 16_000]))
    labels = shift.labels_by_move(model, recordings)
    assert labels[:, 0].tolist() == [0] * 18 + [1] * 2
    for milliseconds, heard in enumerate(seen):
        assert not heard[: 16 * milliseconds].any()
        np.testing.assert_array_equal(heard[16 * milliseconds :], clip[: 16_000 - 16 * milliseconds])


def test_changes_are_counted_of_clips_that_are_right_where_they_are() -> None:
    from benchmarks import shift

    labels = np.zeros((20, 4), np.int64)  # the last clip is a "b": its first decision is wrong
    labels[7, 1] = 1
    labels[1:, 2] = 1
    labels[5:, 3] = 1
    truth = np.array([0, 0, 0, 1])
    rows = [line.split() for line in shift.by_class(("a", "b"), labels, truth).splitlines()]
    assert [row[:4] for row in rows[1:]] == [["a", "3", "3", "2"], ["b", "1", "0", "0"], ["all", "4", "3", "2"]]
    text = shift.by_move(labels, truth)
    assert "7 ms            2  66.67 %" in text
    assert "8 ms            1  33.33 %" in text
    assert [line.split()[-1] for line in text.splitlines()[-5:]] == ["1", "0", "0", "0", "1"]


def test_litert_fires_where_the_detector_does() -> None:
    from benchmarks import always_on

    model = kws.load("commands")
    frontend, params = model.hearing()[0], model.graph.input_params
    samples = read_audio(sorted((ROOT / "data/recordings").glob("*.wav"))[0], dtype="int16")
    pieces = samples[: 160 * always_on.PIECE].reshape(-1, always_on.PIECE)
    detector, *_ = always_on.ours(Detector(model), "")
    in_litert, *_ = always_on.litert(model, partial(input_features, config=frontend, params=params))
    expected = [event.label for piece in pieces for event in detector(piece)]
    assert len(expected) == 3
    assert [model.labels[firing.keyword] for piece in pieces for firing in in_litert(piece)] == expected
    speech = samples[16_000:32_000]
    q = always_on.torchaudio_features(model)(speech).astype(int)
    assert np.abs(q - input_features(speech, frontend, params)).max() <= 1


def test_exporters_counts_logits_in_steps_and_floors_the_share() -> None:
    from benchmarks import exporters

    expected = np.arange(20_000) * 0.5
    actual = expected.copy()
    assert exporters.equal(expected, actual, 0.5) == "100.00 % (max 0)"
    actual[7] -= 1.5
    assert exporters.equal(expected, actual, 0.5) == "99.99 % (max 3)"


def test_exporters_hands_over_layers_that_compute_the_same() -> None:
    import torch

    from benchmarks import exporters
    from training.networks import registry

    torch.manual_seed(0)
    model = registry.build("ds-cnn-s", (49, 10), 12).eval()
    layers, x = exporters.plain(model), torch.randn(2, 1, 49, 10)
    torch.testing.assert_close(layers(x), model(x))
    assert {type(layer).__module__.split(".")[0] for layer in layers} == {"torch"}


def test_exporters_says_what_did_not_install_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import exporters

    def fails(folder: Path, python: str, *requirements: str) -> str:
        raise RuntimeError("did not install: no network")

    monkeypatch.setattr(exporters, "installed", fails)
    column = exporters.theirs("onnx2tf", tmp_path, np.zeros((1, 49, 10), np.float32), "python3", {})
    assert column["install"] == "did not install: no network"
    assert set(column) == set(exporters.ROWS)
    assert "| install | did not install: no network |" in exporters.table({"onnx2tf": column})


def test_vela_says_in_a_line_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import vela

    monkeypatch.setitem(sys.modules, "ethosu", None)
    with pytest.raises(
        SystemExit, match=r"^ethos-u-vela is not installed \(pip install -c constraints.txt ethos-u-vela"
    ):
        vela.main([])
