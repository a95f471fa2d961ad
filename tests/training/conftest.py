# SPDX-License-Identifier: Apache-2.0
"""What trains in seconds: words that are tones, in the layout of Speech Commands, and networks on patterns in noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from training import qat
from training.networks import registry

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


class Networks:
    """Networks trained for a few steps, by name and scheme: made when first asked for. Copy before changing one."""

    def __init__(self) -> None:
        self._float: dict[str, nn.Module] = {}
        self._quantized: dict[tuple[str, qat.QuantScheme], nn.Module] = {}

    def trained(self, name: str) -> nn.Module:
        if name not in self._float:
            torch.manual_seed(0)
            self._float[name] = registry.build(name, (49, 10), 12)
            self.fit(self._float[name], 12)
        return self._float[name]

    def fake_quantized(self, name: str, scheme: qat.QuantScheme) -> nn.Module:
        if (name, scheme) not in self._quantized:
            model = qat.prepare_qat(self.trained(name), scheme)
            self.fit(model, 6)
            qat.freeze(model)
            self.fit(model, 3)
            qat.avoid_ties(model)
            self._quantized[name, scheme] = model.eval()
        return self._quantized[name, scheme]

    @staticmethod
    def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Features (n, 1, 49, 10) around one pattern a label, drowned in noise, and labels (n,) of 12."""
        patterns = torch.randn(12, 1, 49, 10, generator=torch.Generator().manual_seed(0))
        random = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 12, (n,), generator=random)
        return 2 * patterns[labels] + 3 * torch.randn(n, 1, 49, 10, generator=random) - 4, labels

    def fit(self, model: nn.Module, steps: int) -> None:
        """A few steps of Adam."""
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        model.train()
        for step in range(steps):
            features, labels = self.data(16, 100 + step)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(features), labels).backward()
            optimizer.step()


@pytest.fixture(scope="session")
def networks() -> Networks:
    return Networks()
