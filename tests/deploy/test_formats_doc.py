# SPDX-License-Identifier: Apache-2.0
"""docs/formats.md names what is written and read, and shows the measured tables as they were printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.export.tflite_file import OPERATORS
from deploy.importers.tflite_operators import READERS
from deploy.ops.registry import OPS
from kws.arithmetic.fixedpoint import ROUNDING_RULES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "formats.md").read_text()


def _section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_op_and_rule_is_in_the_tables() -> None:
    for title in ("TensorFlow Lite, out", "ONNX, out"):
        section = _section(title)
        assert [kind for kind in OPS if kind not in section] == []
    written = {operator for operator, _, _ in OPERATORS.values()}
    assert [name for name in written if name not in _section("TensorFlow Lite, out")] == []
    assert [name for name in READERS if name not in _section("TensorFlow Lite, in")] == []
    assert [rule for rule in ROUNDING_RULES if f"| `{rule}` |" not in _section("TensorFlow Lite, out")] == []


@pytest.mark.parametrize(
    ("title", "file"),
    [
        ("What the runtimes compute", "formats.txt"),
        ("What random graphs show", "differential.txt"),
        ("TensorFlow Lite, out", "vela.txt"),
        ("Every network in TensorFlow Lite Micro", "tflm.txt"),
    ],
)
def test_the_measured_tables_are_those_of_the_command(title: str, file: str) -> None:
    shown = _section(title).split("```text\n")[1].split("\n```")[0]
    assert shown == (ROOT / "benchmarks" / "results" / file).read_text().rstrip("\n")


def test_the_table_of_exporters_is_that_of_the_command() -> None:
    """A table in Markdown, not a listing."""
    measured = (ROOT / "benchmarks" / "results" / "exporters.txt").read_text().split("\n\n")[1]
    assert _section("Other exporters").endswith("\n\n" + measured)
