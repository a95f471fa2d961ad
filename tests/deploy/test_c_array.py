# SPDX-License-Identifier: Apache-2.0
"""The C header compiles without a warning, and the compiled numbers are those of the model."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.export.c_array import export
from deploy.graph import Graph
from features import tables
from features.config import PRESETS, FrontendConfig
from kws.errors import UsageError

LABELS = ("yes", "what??!", 'quo"te\\', "grün", "_silence_")
GCC = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def _compiled(header: str, folder: Path) -> dict[str, Any]:
    """Every array and string table of the header, as a C program prints them, by name; floats as hexadecimal."""
    (folder / "model.h").write_text(header)
    lines = ["#include <stdio.h>", '#include "model.h"', "int main(void)", "{", "    int i;"]
    formats = {"float": "%a", "char *const": "%s"}
    found = re.findall(r"static const ([\w *]+?) (\w+)\[(\d+)\]", header)
    for kind, name, size in found:
        shown = formats.get(kind, "%d")
        cast = {"float": "(double)", "char *const": ""}.get(kind, "(int)")
        lines.append(f'    for (i = 0; i < {size}; i++) printf("{name} {shown}\\n", {cast}{name}[i]);')
    (folder / "main.c").write_text("\n".join([*lines, "    return 0;", "}", ""]))
    subprocess.run([*GCC, "main.c", "-o", "main"], cwd=folder, check=True)
    printed = subprocess.run([folder / "main"], check=True, capture_output=True).stdout.decode()
    values: dict[str, Any] = {name: [] for _, name, _ in found}
    kinds = {name: kind for kind, name, _ in found}
    for line in printed.splitlines():
        name, text = line.split(" ", 1)
        parse: Any = {"float": float.fromhex, "char *const": str}.get(kinds[name], int)
        values[name].append(parse(text))
    return values


@pytest.mark.parametrize("preset", PRESETS)
def test_the_compiled_numbers_are_those_of_the_model(
    every_op: Callable[[str], Graph], tmp_path: Path, preset: str
) -> None:
    graph, frontend = every_op("tflm"), PRESETS[preset]
    values = _compiled(export(graph, frontend, LABELS, name="m"), tmp_path)
    assert values["m_labels"] == list(LABELS)
    for op in graph.ops:
        name = f"m_{op.name}"
        for role, tensor in zip(op.attributes.constants, graph.inputs_of(op)[1:], strict=False):
            assert tensor.data is not None
            assert values[f"{name}_{role}"] == tensor.data.ravel().tolist()
        for field, requant in op.attributes.requants():
            key = f"{name}_{field}".replace("[", "").replace("]", "")
            assert values[f"{key}_multiplier"] == requant.multiplier.tolist()
            assert values[f"{key}_shift"] == requant.shift.tolist()
    assert values["m_window"] == tables.window(frontend).astype(np.float32).tolist()
    np.testing.assert_array_equal(_dense_mel(values, frontend), tables.mel_weights(frontend).astype(np.float32))
    if frontend.kind == "mfcc":
        assert values["m_dct"] == tables.dct(frontend).astype(np.float32).ravel().tolist()


def _dense_mel(values: dict[str, Any], frontend: FrontendConfig) -> Any:
    weights = np.zeros((frontend.n_bins, frontend.n_mels), np.float32)
    begin = 0
    for band, (first, count) in enumerate(zip(values["m_mel_first"], values["m_mel_count"], strict=True)):
        weights[first : first + count, band] = values["m_mel_weights"][begin : begin + count]
        begin += count
    assert begin == len(values["m_mel_weights"])
    return weights


def test_macros_hold_what_is_no_array(every_op: Callable[[str], Graph]) -> None:
    header = export(every_op("single"), PRESETS["mfb40"], LABELS, name="m")
    macros = dict(re.findall(r"#define (\w+) (.+)", header))
    assert macros["M_CONV_PADDING"] == "{{1, 1}, {0, 1}}"
    assert macros["M_CONV_STRIDE"] == "{1, 1}"
    assert macros["M_CONV_WEIGHT_SHAPE"] == "{4, 3, 2, 2}"
    assert macros["M_DEPTHWISE_WEIGHT_ZERO_POINT"] == "7"
    assert macros["M_CONV_REQUANT_ACTIVATION_MAX"] == "127"
    assert macros["M_MEAN_KEEP_DIMS"] == "1"
    assert macros["M_SAMPLE_RATE"] == "16000"
    assert macros["M_KIND"] == '"mfb"'
    assert float(macros["M_INPUT_SCALE"].rstrip("f")) == pytest.approx(0.1, rel=1e-7)
    assert "rounds by the rule 'single'" in header


def test_names_that_become_one_identifier_stay_apart(every_op: Callable[[str], Graph], tmp_path: Path) -> None:
    graph = every_op("single")
    names = {"conv": "a/b", "depthwise": "a.b", "pointwise": "a-b", "reshape": "output"}
    graph = replace(graph, ops=tuple(replace(op, name=names.get(op.name, op.name)) for op in graph.ops))
    values = _compiled(export(graph, PRESETS["mfb40"], LABELS, name="m"), tmp_path)
    assert {"m_a_b_weight", "m_a_b_2_weight", "m_a_b_3_weight"} <= set(values)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "x" * 65, "é"])
def test_refuses_a_name_that_is_no_identifier(every_op: Callable[[str], Graph], name: str) -> None:
    with pytest.raises(UsageError, match="is no C identifier"):
        export(every_op("single"), PRESETS["mfb40"], LABELS, name=name)
