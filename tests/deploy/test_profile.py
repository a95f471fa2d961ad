# SPDX-License-Identifier: Apache-2.0
"""`kws profile`: bytes are those of the export, instructions near what emulated boards counted, budgets are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import kws
from deploy.graph import Graph
from deploy.profile import CORES, over, parse_budget, profile
from kws.cli.main import main
from kws.detector import Detector
from kws.errors import UsageError

GOLDEN = Path(__file__).parents[1] / "golden"
MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "mcu.txt"
BOARDS = {
    "cortex-m3": "Cortex-M3   portable", "cortex-m4": "Cortex-M4   DSP", "cortex-m7": "Cortex-M7   DSP",
    "cortex-m55": "Cortex-M55  Helium", "rv32imac": "RISC-V      portable",
}  # fmt: skip


@pytest.mark.parametrize("core", CORES)
def test_the_estimate_is_near_what_the_board_counted(core: str) -> None:
    """3 % of the instructions and of the flash; the measured program holds its harness and 1 KB more."""
    (line,) = re.findall(rf"^commands  single  {BOARDS[core]} .*$", MEASURED.read_text(), re.M)
    flash, _, instructions = (int(number.replace(",", "")) for number in line.split()[-3:])
    found = profile(kws.load("commands").graph, core)
    assert abs(found.instructions / instructions - 1) < 0.03
    assert abs(found.flash / flash - 1) < 0.03


def test_every_op_has_a_cost(every_op: Callable[[str], Graph]) -> None:
    for core in CORES:
        found = profile(every_op("single"), core)
        assert all(layer.instructions > 0 for layer in found.layers if layer.kind != "reshape")
        assert found.ram > found.arena_bytes


def test_the_listener_stands_beside_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    whole = kws.load(GOLDEN / "tc_resnet8.kws")  # runs whole windows, and holds their frames
    found = profile(whole.graph, "cortex-m4", Detector(whole).listen())
    assert found.listener_bytes is not None
    assert found.listener_bytes > found.arena_bytes + found.scratch_bytes
    model = kws.load("commands")
    found = profile(model.graph, "cortex-m4", Detector(model).listen())
    assert found.listener_bytes is not None
    assert found.listener_bytes < found.arena_bytes  # columns of the layers, never a whole window
    assert profile(model.graph, "cortex-m4").listener_bytes is None
    assert main(["profile", "--core", "cortex-m4"]) == 0
    head, row = capsys.readouterr().out.splitlines()[-2:]
    assert "listener" in head
    assert f" {found.listener_bytes:,} " in row
    assert main(["profile", "--core", "cortex-m4", "--json"]) == 0
    (values,) = json.loads(capsys.readouterr().out)
    assert (values["listener_bytes"], values["ram"]) == (found.listener_bytes, found.ram)
    assert len(values["layers"]) == len(model.graph.ops)


def test_budgets() -> None:
    assert parse_budget("flash=64k,ram=24K") == {"flash": 65536, "ram": 24576}
    assert parse_budget("ram=1M") == {"ram": 1 << 20}
    found = profile(kws.load("commands").graph, "cortex-m4")
    assert over(found, {"flash": found.flash, "ram": found.ram}) == []
    (line,) = over(found, {"flash": 1024, "ram": found.ram})
    assert line.startswith(f"flash: {found.flash:,} bytes are ")
    for text in ("", "flash", "flash=", "flash=-1", "rom=3", "flash=1,flash=2", "flash=1.5k", "flash=k"):
        with pytest.raises(UsageError, match="is not understood"):
            parse_budget(text)
    with pytest.raises(UsageError, match="unknown core"):
        profile(kws.load("commands").graph, "z80")
