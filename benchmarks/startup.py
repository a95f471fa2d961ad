# SPDX-License-Identifier: Apache-2.0
"""How long `kws --help` and `kws --version` take: ``python benchmarks/startup.py``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 40


def main() -> None:
    for option in ("--help", "--version"):
        command = [str(Path(sys.executable).parent / "kws"), option]
        seconds, processor = [], []
        for _ in range(RUNS):
            begin, before = time.perf_counter(), os.times()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - begin)
            after = os.times()
            # what a busy machine does not lengthen: of the processes that ended
            processor.append(
                after.children_user + after.children_system - before.children_user - before.children_system
            )
        print(
            f"kws {option}: {statistics.median(seconds):.3f} s in the median of {RUNS}, {min(seconds):.3f} s at best; "
            f"{statistics.median(processor):.3f} s of processor time, {min(processor):.3f} s at best"
        )


if __name__ == "__main__":
    main()
