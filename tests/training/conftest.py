# SPDX-License-Identifier: Apache-2.0
"""A corpus that trains in seconds: words that are tones, in the layout of Speech Commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

TONES = {"low": 300.0, "high": 1800.0, "other": 700.0}


def write_tones(folder: Path, *, training: int = 12, validation: int = 6) -> Path:
    """Words `low` and `high`, and `other` for unknown, each with so many clips; and one noise recording."""
    rng = np.random.default_rng(0)
    listed = []
    for word, frequency in TONES.items():
        (folder / word).mkdir(parents=True)
        for i in range(training + validation):
            name = f"{word}/s{i}_nohash_0.wav"
            time = np.arange(8000) / 16000
            tone = 0.3 * np.sin(2 * np.pi * frequency * rng.uniform(0.9, 1.1) * time) + 0.01 * rng.standard_normal(8000)
            soundfile.write(folder / name, tone, 16000)
            if i >= training:
                listed.append(name)
    (folder / "validation_list.txt").write_text("\n".join(listed) + "\n")
    (folder / "_background_noise_").mkdir()
    soundfile.write(folder / "_background_noise_" / "hum.wav", 0.02 * rng.standard_normal(160_000), 16000)
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("corpus") / "tones")
