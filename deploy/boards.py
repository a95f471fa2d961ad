# SPDX-License-Identifier: Apache-2.0
"""Emulated microcontrollers: an export that is named m is built for a board, and QEMU runs it.

`run_board` is the engine of `kws verify`; `make test-mcu` builds and emulates its other programs with the same calls.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.export.c import export
from deploy.graph import Graph
from kws.errors import MissingExtraError, ModelError

FOLDER = Path(__file__).parent / "board"
"""Start-up code, linker script and main.c, which runs a network."""
ARM_TOOLS = {"arm-none-eabi-gcc": "gcc-arm-none-eabi", "qemu-system-arm": "qemu-system-arm"}
ARM_LIBRARY = "libnewlib-arm-none-eabi"
"""The packages by tool, and that of nano.specs."""
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
OPTIMIZE = ["-O2", "-ffunction-sections"]
SHIFT = 4  # -icount: an instruction takes 2^4 ns
STACK = 4096
SECONDS = 300  # for one command


@dataclass(frozen=True)
class Board:
    """A machine of QEMU, the compiler for it, and how its counter becomes instructions."""

    name: str
    machine: str
    compiler: str
    flags: tuple[str, ...]
    path: str
    ticks_hz: float
    """Of the counter: SysTick on Arm; minstret, which counts nanoseconds under -icount."""
    origin: tuple[int, int] = (0, 0x20000000)
    """Of code and RAM."""
    size: int = 1 << 22
    """Bytes of either."""

    def instructions(self, ticks: int) -> int:
        return round(ticks * 1e9 / self.ticks_hz / (1 << SHIFT))


def _arm(name: str, machine: str, cpu: str, path: str, *flags: str, hz: float = 25e6, size: int = 1 << 22) -> Board:
    flags = (f"-mcpu={cpu}", "-mthumb", *flags)
    return Board(name, machine, "arm-none-eabi-gcc", flags, path, hz, size=size)


M3 = _arm("Cortex-M3", "mps2-an385", "cortex-m3", "portable")
M4 = _arm("Cortex-M4", "mps2-an386", "cortex-m4", "DSP")
M7 = _arm("Cortex-M7", "mps2-an500", "cortex-m7", "DSP")
M55 = _arm("Cortex-M55", "mps3-an547", "cortex-m55", "Helium", "-mfloat-abi=hard", hz=32e6, size=1 << 19)


class Failure(Exception):
    """A command failed: which, and what it said."""


def run_board(board: Board, graph: Graph, x: NDArray[np.int8]) -> NDArray[np.int8]:
    """What the graph's C export computes on an emulated Arm board of x, int8 (N, *input_shape).

    MissingExtraError where compiler or emulator are not installed, ModelError where the board is too small.
    """
    _require(board)
    labels = [f"class_{i}" for i in range(graph.output_shape[-1])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "m"
        export(graph, None, labels, folder, name="m")
        (folder / "inputs.bin").write_bytes(x.tobytes())
        build(board, folder, FOLDER / "main.c")
        text, data, bss = sizes(board, folder)
        if max(text + data, data + bss + STACK) > board.size:
            raise ModelError(f"the emulated {board.name} has {board.size:,} bytes of code and of RAM, too few")
        rows = [line.split() for line in emulate(board, folder).splitlines()]
    outputs = [[int(number) for number in row[1:]] for row in rows if row[0] == "output"]
    return np.array(outputs, np.int8).reshape(len(x), *graph.output_shape)


def build(board: Board, folder: Path, program: Path, *, strict: bool = False) -> None:
    """m.elf of the export in the folder and a program; `strict`: a warning is a failure."""
    objects = []
    for source in sources(folder):
        if source != "src/m.c" or program.name == "listen.c":  # main.c holds it
            options = [*board.flags, *OPTIMIZE, *(WARNINGS if strict else WARNINGS[:1]), "-Isrc"]
            run(board.compiler, *options, "-c", source, "-o", f"{source}.o", cwd=folder)
            objects.append(f"{source}.o")
    warnings = ["-Wall", "-Wextra", "-Werror"] if strict else []
    run(
        board.compiler, *board.flags, *OPTIMIZE, "-std=gnu99", *warnings, "-Isrc", f"-I{FOLDER}",
        program, FOLDER / "board.c", *objects, *linking(board), "-o", "m.elf", cwd=folder,
    )  # fmt: skip


def linking(board: Board) -> list[str]:
    """The linker's options: where what lies."""
    symbols = {"CODE_ORIGIN": board.origin[0], "RAM_ORIGIN": board.origin[1], "STACK_SIZE": STACK}
    places = [f"-Wl,--defsym={name}={value}" for name, value in symbols.items()]
    return ["-nostartfiles", "-T", str(FOLDER / "board.ld"), "-Wl,--gc-sections", *places]


def sizes(board: Board, folder: Path) -> list[int]:
    """Bytes of m.elf: text, data, bss."""
    table = run(board.compiler.replace("gcc", "size"), "m.elf", cwd=folder)
    return [int(number) for number in table.splitlines()[1].split()[:3]]


def emulate(board: Board, folder: Path) -> str:
    """What m.elf prints."""
    arm = board.compiler.startswith("arm")
    return run(
        "qemu-system-arm" if arm else "qemu-system-riscv32", "-M", board.machine, *([] if arm else ["-bios", "none"]),
        "-display", "none", "-monitor", "none", "-serial", "null", "-icount", f"shift={SHIFT}", "-kernel", "m.elf",
        "-chardev", "stdio,id=console", "-semihosting-config", "enable=on,target=native,chardev=console", cwd=folder,
    )  # fmt: skip


def sources(folder: Path) -> list[str]:
    """The C files of an export."""
    return sorted(path.relative_to(folder).as_posix() for path in (folder / "src").glob("*.c"))


def run(*command: Any, cwd: Path | None = None) -> str:
    """What the command prints; Failure, with what it said, when it fails."""
    words = [str(part) for part in command]
    try:
        done = subprocess.run(words, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise Failure(f"{command[0]} did not end in {SECONDS} s: {' '.join(words)}") from None
    if done.returncode:
        raise Failure(f"{command[0]} failed: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def _require(board: Board) -> None:
    packages = [package for tool, package in ARM_TOOLS.items() if not shutil.which(tool)]
    # a compiler that has no such file prints the bare name
    if not packages and "/" not in run(board.compiler, "-print-file-name=nano.specs"):
        packages = [ARM_LIBRARY]
    if packages:
        raise MissingExtraError(f"{packages[0]} is not installed", hint=f"apt-get install {' '.join(packages)}")
    if board.machine not in _machines():
        raise MissingExtraError(f"qemu-system-arm has no {board.machine}", hint="install QEMU 6.0 or newer")


@cache
def _machines() -> list[str]:
    return [line.split()[0] for line in run("qemu-system-arm", "-M", "help").splitlines() if line.strip()]
