# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/agreement.py says of its bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.compare import Agreement

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # its neighbours are imported as when it is run
    import benchmarks.agreement

    return benchmarks.agreement


@pytest.mark.parametrize(("n", "clips", "said", "failures"), [
    (230, 1, ["tflm: one clip of 230 is 0.43 points: too few clips to show 0.3 points"], 0),
    (230, 2, [], 1), (334, 1, [], 0), (230, 0, [], 0), (1000, 3, [], 0), (1000, 4, [], 1),
])  # fmt: skip
def test_one_clip_of_few_is_said(benchmark: Any, n: int, clips: int, said: list[str], failures: int) -> None:
    agreement = Agreement("tflm", n, 4 * n, 4 * n, 0, clips, tuple(range(clips)), clips, 0)
    assert benchmark.too_few([agreement]) == said
    assert len(benchmark.exceeded([agreement], "single", [], [])) == failures
