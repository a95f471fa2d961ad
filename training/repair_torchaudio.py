# SPDX-License-Identifier: Apache-2.0
"""Make ``import torchaudio`` work beside a CPU build of torch: ``python -m training.repair_torchaudio``.

torchaudio 2.11 ships a compiled library that wants CUDA's, so beside a CPU torch its import fails. The transforms that
this project uses need no compiled code: without the library torchaudio takes its own "no extension" path. Only when the
import fails is the library removed. Safe to run twice; says what it did; exit status 1 when the import still fails.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path


def import_error() -> str | None:
    """The last line of what ``import torchaudio`` prints in a fresh interpreter, or None when it works."""
    result = subprocess.run([sys.executable, "-c", "import torchaudio"], capture_output=True, text=True)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["unknown error"])[-1]


def main() -> int:
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or spec.origin is None:
        print("torchaudio is not installed: nothing to repair")
        return 0
    if import_error() is None:
        print("torchaudio imports: nothing to repair")
        return 0
    for library in sorted((Path(spec.origin).parent / "lib").glob("*torchaudio*.so")):
        library.unlink()
        print(f"removed {library}: it does not load beside this torch, and the transforms do not need it")
    error = import_error()
    if error is not None:
        print(f"torchaudio still does not import: {error}", file=sys.stderr)
        return 1
    print("torchaudio imports now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
