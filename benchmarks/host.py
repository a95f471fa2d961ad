# SPDX-License-Identifier: Apache-2.0
"""On what a figure was measured: the first line of every file in benchmarks/results/."""

from __future__ import annotations

import platform
from datetime import date
from pathlib import Path


def date_and_cpu() -> str:
    """Today's date and the name of this CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{date.today()}, {name}"
