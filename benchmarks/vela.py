# SPDX-License-Identifier: Apache-2.0
"""Exported models in Arm's compiler for Ethos-U: every operator on the NPU, and what Vela estimates of memory and time.

    pip install -c constraints.txt '.[npu]'
    python -W ignore benchmarks/vela.py --write benchmarks/results/vela.txt

The networks are the shipped model and an untrained 49x10 DS-CNN-S. Exit code 1 where an operator is left to the CPU.
Memory and cycles are Vela's estimates for one configuration of chip and memory, not measurements.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import click
import torch
from host import date_and_cpu

import kws
from deploy.export.tflite import export
from deploy.graph import Graph
from kws.cli.common import columns
from training.convert import convert
from training.networks import registry
from training.qat import QuantScheme, calibrate, prepare_ptq

SHAPE = (49, 10, 1)
N_CLASSES = 12

CONFIGURATION = (
    "--accelerator-config", "ethos-u55-128", "--system-config", "Ethos_U55_High_End_Embedded", "--memory-mode",
    "Shared_Sram",
)  # fmt: skip
COUNTS = re.compile(r"^(CPU|NPU) operators = (\d+)", re.MULTILINE)


def ds_cnn_s() -> Graph:
    """Its ranges come from noise; scales that are powers of two are the quickest to choose, and Vela takes any."""
    torch.manual_seed(0)
    model = prepare_ptq(registry.build("ds-cnn-s", SHAPE[:2], N_CLASSES), QuantScheme(scheme="pow2"))
    calibrate(model, [torch.randn(32, 1, *SHAPE[:2])])
    return convert(model, SHAPE)


def compiled(name: str, data: bytes) -> list[str]:
    """A row of the table: operators on the NPU and on the CPU, KiB of SRAM and flash, cycles, milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.tflite"
        file.write_bytes(data)
        command = [sys.executable, "-m", "ethosu.vela", str(file), *CONFIGURATION, "--output-dir", folder]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (summary,) = Path(folder).glob("*_summary_*.csv")
        with summary.open(newline="") as rows:
            found = next(csv.DictReader(rows))
    placed = dict(COUNTS.findall(said))
    numbers = [float(found[key]) for key in ("sram_memory_used", "off_chip_flash_memory_used", "cycles_total")]
    time_ms = 1000 * float(found["inference_time"])
    sram, flash, cycles = numbers
    return [name, placed["NPU"], placed["CPU"], f"{sram:.2f}", f"{flash:.2f}", f"{cycles:,.0f}", f"{time_ms:.2f}"]


@click.command()
@click.option("--write", type=click.Path(path_type=Path), help="Write what is printed to this file too.")
def main(write: Path | None) -> None:
    if find_spec("ethosu") is None:
        sys.exit("ethos-u-vela is not installed (pip install -c constraints.txt ethos-u-vela)")
    shipped = kws.load("commands")
    files = {
        "commands": export(shipped.graph, shipped.labels, shipped.frontend),
        "ds-cnn-s": export(ds_cnn_s(), [f"class_{i}" for i in range(N_CLASSES)], None),
    }
    rows = [compiled(name, data) for name, data in files.items()]
    head = ["network", "operators on the NPU", "on the CPU", "SRAM KiB", "flash KiB", "cycles", "ms at 500 MHz"]
    text = "\n".join(
        [
            f"{date_and_cpu()}, ethos-u-vela {version('ethos-u-vela')}",
            "python -W ignore benchmarks/vela.py",
            f"vela {' '.join(CONFIGURATION)}",
            "",
            columns([head, *rows]),
        ]
    )
    click.echo(text)
    if write is not None:
        write.write_text(text + "\n")
    sys.exit(any(row[2] != "0" for row in rows))


if __name__ == "__main__":
    main()
