# SPDX-License-Identifier: Apache-2.0
"""onnx2tf: its command line with -oiqt, per channel (the default) and per tensor, from ONNX files that torch wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import FOLDER, N_CALIBRATION, attempt

CALIBRATION = FOLDER / "calibration.npy"
ERROR = re.compile(r"^[\w.]*Error: ")


def converted(source: str, quant_type: str, target: str) -> str:
    """Keeps the fully quantized file, also where the command then fails, which is said."""
    out = FOLDER / f"out_{target}"
    programs = Path(sys.executable).parent
    command = [
        str(programs / "onnx2tf"), "-i", str(FOLDER / source), "-o", str(out), "-oiqt", "-qt", quant_type,
        "-b", "1", "-cind", "input", str(CALIBRATION), "[[[[0.0]]]]", "[[[[1.0]]]]",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    )
    print(done.stdout[-8000:], done.stderr[-3000:])
    (found,) = [*out.glob("*_full_integer_quant.tflite"), None][:1]
    said = [line for line in (done.stdout + done.stderr).splitlines() if ERROR.match(line)]
    lines = [ERROR.sub("", line).replace(f"{out}/", "") for line in said if "fast path failed" not in line]
    if found is None:
        raise RuntimeError(lines[-1] if lines else f"exits {done.returncode}, writes no file")
    shutil.copy(found, FOLDER / target)
    return "yes" if done.returncode == 0 else f"yes, exits {done.returncode}"


np.save(CALIBRATION, np.load(FOLDER / "train.npz")["x"][::5][:N_CALIBRATION].transpose(0, 2, 3, 1))
result: dict[str, Any] = {}
attempt(result, "ptq", lambda: converted("net.onnx", "per-channel", "int8.tflite"))
attempt(result, "per-tensor", lambda: converted("net.onnx", "per-tensor", "int8.tflite"))
attempt(result, "eager", lambda: converted("qat.onnx", "per-channel", "eager.tflite"))
print(result)
