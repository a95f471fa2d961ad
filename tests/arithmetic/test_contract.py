# SPDX-License-Identifier: Apache-2.0
"""The contract's text: its examples run, its pictures exist, and code and text cite each other's rules."""

from __future__ import annotations

import ast
import doctest
import re
from pathlib import Path

import pytest

import kws.arithmetic

FOLDER = Path(kws.arithmetic.__file__).parent
README = (FOLDER / "README.md").read_text(encoding="utf-8")
SOURCES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def test_the_examples_of_the_readme_run():
    result = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert result.attempted >= 9
    assert result.failed == 0


def test_every_picture_is_there_and_small():
    pictures = re.findall(r"\(pictures/(\w+\.png)\)", README)
    assert sorted(pictures) == sorted(path.name for path in (FOLDER / "pictures").iterdir())
    assert all((FOLDER / "pictures" / name).stat().st_size < 60_000 for name in pictures)


def test_the_rules_are_numbered_without_a_gap():
    numbers = [int(n) for n in re.findall(r"^\*\*A(\d+)\. ", README, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_public_name_is_documented_and_cites_a_rule(path):
    rules = set(re.findall(r"^\*\*(A\d+)\. ", README, re.MULTILINE))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [n for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")]
    assert public
    for node in public:
        cited = set(re.findall(r"\bA\d+\b", ast.get_docstring(node) or ""))
        assert cited <= rules
        assert cited or node.name == "saturate", node.name
