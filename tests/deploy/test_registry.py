# SPDX-License-Identifier: Apache-2.0
"""An op is one file; this lists what is missing where."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import deploy.ops
from deploy.graph import Graph, GraphBuilder
from deploy.ops.base import OpAttributes
from deploy.ops.registry import OPS

FOLDER = Path(deploy.ops.__path__[0])
TESTS = Path(__file__).parent
SHARED = {"__init__", "affine", "base", "pool", "registry", "window"}
RULES = ("output_shape", "check_params", "run")


def _missing(kind: str, every_op: Callable[[str], Graph]) -> list[str]:
    attributes = OPS[kind]
    golden = json.loads(str(np.load(TESTS.parent / "golden" / "ops.npz")["cases"]))
    return [
        what
        for what, found in {
            f"deploy/ops/{kind}.py": inspect.getfile(attributes) == str(FOLDER / f"{kind}.py"),
            "docstring": bool(attributes.__doc__),
            **{f"{rule}()": getattr(attributes, rule) is not getattr(OpAttributes, rule) for rule in RULES},
            f"GraphBuilder.{kind}": hasattr(GraphBuilder, kind),
            "golden vectors in tests/golden/ops.npz": any(case["kind"] == kind for case in golden),
            "an exact test in test_ops_exact.py": re.search(rf"builder\.{kind}\(|\"{kind}\"", _exact_tests())
            is not None,
            "a place in the graph of conftest.py": any(op.kind == kind for op in every_op("single").ops),
        }.items()
        if not found
    ]


def _exact_tests() -> str:
    return (TESTS / "test_ops_exact.py").read_text()


@pytest.mark.parametrize("kind", OPS)
def test_every_op_has_all_its_parts(kind: str, every_op: Callable[[str], Graph]) -> None:
    assert _missing(kind, every_op) == []


def test_every_file_of_the_folder_is_a_registered_op_or_shared() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(OPS) | SHARED


def test_every_op_bounds_its_sums_or_only_moves_values() -> None:
    moves = {kind for kind, op in OPS.items() if op.acc_bound is OpAttributes.acc_bound}
    assert moves == {"max_pool", "pad", "reshape", "slice"}
