# SPDX-License-Identifier: Apache-2.0
"""How long `kws --help` and `kws --version` take: ``python benchmarks/startup.py``."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 40


def processor_seconds() -> float:
    """Of the processes that ended: what a busy machine hardly lengthens."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    for option in ("--help", "--version"):
        command = [str(Path(sys.executable).parent / "kws"), option]
        seconds, processor = [], []
        for _ in range(RUNS):
            begin, before = time.perf_counter(), processor_seconds()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
            processor.append(processor_seconds() - before)
        print(
            f"kws {option}: {statistics.median(seconds):.3f} s in the median of {RUNS}, {min(seconds):.3f} s at best; "
            f"{statistics.median(processor):.3f} s of processor time, {min(processor):.3f} s at best"
        )


if __name__ == "__main__":
    main()
