# SPDX-License-Identifier: Apache-2.0
"""How long `kws --help` takes: ``python benchmarks/startup.py``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 20


def main() -> None:
    command = [str(Path(sys.executable).parent / "kws"), "--help"]
    seconds = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - begin)
    print(f"kws --help: {statistics.median(seconds):.3f} s in the median of {RUNS}, {min(seconds):.3f} s at best")


if __name__ == "__main__":
    main()
