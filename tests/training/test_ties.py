# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from training import qat
from training.fake_quantized import FakeQuantizedLayer
from training.ties import CANDIDATES, CANDIDATES_MAX, REACH, tie_free_scale


def near_ties(scale: float, ratio: float, bias: int) -> list[int]:
    """Accumulators, bias included, whose exact result in int8's range lies within REACH of a tie."""
    m = Fraction(scale * ratio)
    found = []
    for n in range(1, int(256 / m) + 1):
        distance = abs(m * n % 1 - Fraction(1, 2))
        if distance < Fraction(REACH) * (n + abs(bias)) * m:
            found.append(n)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_chosen_scale_has_fewer_accumulators_near_a_tie(seed: int) -> None:
    random = np.random.default_rng(seed)
    scale, bias = float(np.float32(random.uniform(0.01, 0.1))), int(random.integers(-4000, 4000))
    ratio = float(np.float32(6 / 255)) / float(np.float32(random.uniform(0.02, 0.03)))
    chosen = tie_free_scale(scale, ratio, np.array([bias]))
    steps = int(np.float32(chosen).view(np.int32)) - int(np.float32(scale).view(np.int32))
    assert 0 <= steps < CANDIDATES
    left = near_ties(chosen, ratio, bias)
    assert len(left) <= min(1, len(near_ties(scale, ratio, bias)))


def test_a_frequent_tie_is_moved_away_from() -> None:
    scale = float(np.float32(0.006907245609909296))  # 3547 M = 24.50000018, seen 89 times in 400 clips
    assert 3547 in near_ties(scale, 1.0, 3395)
    assert 3547 not in near_ties(tie_free_scale(scale, 1.0, np.array([3395])), 1.0, 3395)


def test_a_multiplier_too_large_for_a_choice_is_kept() -> None:
    assert tie_free_scale(512.0, 1.0, np.array([0])) == 512.0


def test_scales_change_in_their_last_bits_only_and_powers_of_two_not_at_all(networks: Any) -> None:
    for scheme in (qat.QuantScheme(), qat.QuantScheme(weights="per-tensor"), qat.QuantScheme(scheme="pow2")):
        model = qat.prepare_qat(networks.trained("tc-resnet"), scheme)
        networks.fit(model, 1)
        qat.freeze(model)
        layers: list[Any] = [module for module in model.modules() if isinstance(module, FakeQuantizedLayer)]
        before = [layer.weight_fake_quant.scale.clone() for layer in layers]
        qat.avoid_ties(model)
        after = [layer.weight_fake_quant.scale for layer in layers]
        changed = sum(int((a != b).sum()) for a, b in zip(before, after, strict=True))
        assert (changed > 0) == (scheme.scheme == "affine")
        for a, b in zip(before, after, strict=True):
            assert torch.allclose(a, b, rtol=CANDIDATES_MAX * 2.0**-23, atol=0)
