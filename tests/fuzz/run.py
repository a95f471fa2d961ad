# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets under atheris (libFuzzer for Python), for a bounded time, and prints how many cases each tried.

    make fuzz SECONDS=300                                     # all targets
    python -m tests.fuzz.run --seconds 300 model              # one of them
    python -m tests.fuzz.run --seconds 30 --cases 10000 --seed 1  # the same cases in every run, as .ci/run has it
    python -m tests.fuzz.run --replay fuzz-crashes/model-...  # one kept input again, without atheris

Every target runs in a process of its own: a crash there may be one of C code. A case that takes more than 10 s, or the
process beyond 2 GB, counts as a crash, and so does a warning. Inputs that crash are kept in fuzz-crashes/.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

TARGETS = ("model", "audio", "tflite")
ROOT = Path(__file__).parents[2]
CRASHES = ROOT / "fuzz-crashes"
CASE_SECONDS = 10
MEMORY_MB = 2048
MAX_BYTES = 1 << 16
_GRACE_SECONDS = 60  # to start, to read the corpus and to finish the last case


def main() -> int:
    """1 when a target crashed, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=TARGETS, help="model, audio, tflite; all by default")
    parser.add_argument("--seconds", type=int, default=300, help="time of each target")
    parser.add_argument("--cases", type=int, default=-1, help="end each target after so many, if its time allows")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations; another one each time by default")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one kept input and show what it raises")
    parser.add_argument("--worker", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(*options.worker)
    if options.replay:
        return _replay(options.replay)
    if not set(options.targets) <= set(TARGETS):
        parser.error(f"targets are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: pip install '.[fuzz]' (Linux on x86-64, Python 3.11 to 3.13)")
    CRASHES.mkdir(exist_ok=True)
    crashed = [name for name in options.targets if not _fuzz(name, options.seconds, options.cases, options.seed)]
    return 1 if crashed else 0


def _replay(path: Path) -> int:
    """The target is told from the name of the file, as libFuzzer's prefix wrote it."""
    warnings.simplefilter("error")
    target = importlib.import_module(f"tests.fuzz.fuzz_{path.name.split('-')[0]}")
    print(f"{path}: {'loads' if target.check(path.read_bytes()) else 'is refused'}")
    return 0


def _fuzz(name: str, seconds: int, most: int, seed: int) -> bool:
    """Run one target in a process of its own; False when it crashed."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        found, log = Path(folder) / "found", Path(folder) / "log"
        found.mkdir()
        command = [
            sys.executable, "-m", "tests.fuzz.run", "--worker", name, f"-max_total_time={seconds}",
            f"-timeout={CASE_SECONDS}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={MAX_BYTES}", "-print_final_stats=1",
            f"-runs={most}", f"-seed={seed}", f"-artifact_prefix={CRASHES}/{name}-",
            str(found), str(ROOT / "tests" / "fuzz" / "corpus" / name),
        ]  # fmt: skip
        begin = time.monotonic()
        with log.open("wb") as output:
            try:
                status: object = subprocess.run(
                    command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + _GRACE_SECONDS,
                    env={**os.environ, "TMPDIR": folder}, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                status = f"did not end {_GRACE_SECONDS} s after its time"
        text = log.read_text(errors="replace")
        cases = max(map(int, re.findall(r"(?:^#|executed_units: +)(\d+)", text, re.MULTILINE)), default=0)
        if status == 0:
            print(f"fuzz {name}: {cases} cases in {time.monotonic() - begin:.0f} s, no crash", flush=True)
            return True
        kept = re.findall(r"Test unit written to (\S+)", text)
        if not kept:
            kept = [str(shutil.copy(log, CRASHES / f"{name}-log.txt"))]
        print(text[-4000:])
        print(f"fuzz {name}: crash after {cases} cases ({status}): {kept[-1]}", flush=True)
        return False


def _work(name: str, *arguments: str) -> None:
    """Fuzz with the project's packages instrumented, so that an input which reaches a new branch is kept. No return."""
    import atheris

    with atheris.instrument_imports(include=["kws", "features", "deploy"]):
        target = importlib.import_module(f"tests.fuzz.fuzz_{name}")

    def one_input(data: bytes) -> None:
        target.check(data)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        if peak_mb > MEMORY_MB:
            raise MemoryError(f"{peak_mb} MB")

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        changed: bytes = target.mutate(data, max_size, random.Random(seed), atheris.Mutate)
        return changed

    warnings.simplefilter("error")
    atheris.Setup([name, *arguments], one_input, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
