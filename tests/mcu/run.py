# SPDX-License-Identifier: Apache-2.0
"""Runs exported models on emulated microcontrollers and compares every output byte with the NumPy executor's.

    make test-mcu                                                       # installs what is missing when run as root
    python -m tests.mcu.run --write benchmarks/results/mcu.txt          # the table to a file as well

Every board runs two networks under two rounding rules on 60 real clips, single convolutions of odd shapes, front-ends
on hard signals, and two listeners on a recording; one of them runs what Arduino's builder makes.
Instructions are counted by QEMU's -icount, in which each takes the same time; counts on Arm are exact to 3. The exports
are compiled by clang, too, and run here under its sanitizers. A difference, warning, float helper or heap is a failure.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.host import date_and_cpu
from deploy import reference
from deploy.boards import (
    ARM_LIBRARY,
    ARM_TOOLS,
    FOLDER,
    M3,
    M4,
    M7,
    M55,
    OPTIMIZE,
    WARNINGS,
    Board,
    Failure,
    build,
    emulate,
    run,
    sizes,
    sources,
)
from deploy.export.c import export
from deploy.graph import Graph, GraphBuilder
from deploy.program import compile_graph
from deploy.verify import Verifier, board_engines, random_inputs
from features.fixed_frontend import OUTPUT, features_q16
from features.float_frontend import frames_of
from kws.arithmetic.quant import QuantParams
from kws.arithmetic.requantize import requantize
from kws.detector import Detector
from kws.model import Model
from kws.stream import Frames, listener_for_export
from tests.mcu.arduino import check_sketches
from tests.mcu.models import ODD, Network, listeners, networks

HERE = Path(__file__).parent
RULES = ("single", "tflm")
TOOLS = {
    **ARM_TOOLS,
    "arduino-builder": "arduino-builder",
    "clang": "clang",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "qemu-aarch64": "qemu-user",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "qemu-system-riscv32": "qemu-system-misc",
}
FILES = {  # what a compiler has to find
    ("arm-none-eabi-gcc", "nano.specs"): ARM_LIBRARY,
    ("riscv64-unknown-elf-gcc", "picolibc.specs"): "picolibc-riscv64-unknown-elf",
    ("clang", f"libclang_rt.asan-{platform.machine()}.a"): "libclang-rt-dev",
    ("aarch64-linux-gnu-gcc", "libc.a"): "libc6-dev-arm64-cross",
}
# What an integer program without a heap has no use for: the helpers of soft floats, and the allocator.
FORBIDDEN = r"\b(_*aeabi_[cfd]\w*|_*aeabi_[il]2[fd]|_*aeabi_ul?2[fd]|__\w+[sd]f[0-9]?|malloc|calloc|realloc|free)$"
PIECES_A_SECOND = 25  # of listen.c

M4_PORTABLE = replace(M4, path="portable", flags=(*M4.flags, "-DM_NN_PORTABLE"))
M55_DSP = replace(M55, path="DSP", flags=(*M55.flags[:2], "-mfloat-abi=soft"))
RISCV_FLAGS = ("-march=rv32imac", "-mabi=ilp32", "-specs=picolibc.specs")
RISCV = Board("RISC-V", "virt", "riscv64-unknown-elf-gcc", RISCV_FLAGS, "portable", 1e9, (0x80000000, 0x80100000))
BOARDS = (M3, M4_PORTABLE, M4, M7, M55_DSP, M55, RISCV)


@dataclass(frozen=True)
class Result:
    """What one board made of one network."""

    outputs: list[list[int]]
    layers: list[int]
    instructions: int
    flash: int
    ram: int


def main() -> int:
    """1 when anything differs or is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the file that gets the table, with date, versions and command")
    options = parser.parse_args()
    try:
        install()
        lines = test()
    except Failure as failure:
        print(f"test-mcu: {failure}", file=sys.stderr)
        return 1
    if options.write:
        head = [date_and_cpu(), versions(), f"python -m tests.mcu.run --write {options.write.as_posix()}", ""]
        options.write.write_text("\n".join([*head, *lines]) + "\n")
    return 0


def install() -> None:
    """Install the missing packages as root, else name them."""
    packages = missing()
    if packages and os.geteuid() == 0 and shutil.which("apt-get"):
        apt = ["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*apt, "update"], env=environment, check=False)
        subprocess.run([*apt, "install", "-y", "--no-install-recommends", *packages], env=environment, check=False)
        packages = missing()
    if packages:
        raise Failure(f"not installed: {' '.join(packages)} (apt-get install them)")


def missing() -> list[str]:
    packages = [package for tool, package in TOOLS.items() if not shutil.which(tool)]
    for (compiler, name), package in FILES.items():
        # a compiler that has no such file prints the bare name
        if not shutil.which(compiler) or "/" not in run(compiler, f"-print-file-name={name}"):
            packages.append(package)
    return packages


def test() -> list[str]:
    """Everything; returns the lines of the tables, which it prints as they come."""
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    check_verify()
    check_sketches()
    layers: list[str] = []
    say(f"{'network':<10}{'rule':<8}{'board':<12}{'path':<10}{'outputs':>16}{'flash':>9}{'RAM':>8}{'instructions':>14}")
    for network in networks():
        for rule in RULES:
            graph = network.graph.with_rounding(rule)
            results = {}
            for board, result in run_boards(graph, network):
                results[board.name, board.path] = result
                equal = f"{len(network.inputs)} inputs equal"
                say(
                    f"{network.name:<10}{rule:<8}{board.name:<12}{board.path:<10}{equal:>16}"
                    f"{result.flash:>9,}{result.ram:>8,}{result.instructions:>14,}"
                )
            if network.name != ODD and rule == RULES[0]:
                layers += ["", f"{network.name + ', Cortex-M4, ' + rule:<40}{'portable':>12}{'DSP':>12}"]
                counts = (results["Cortex-M4", path].layers for path in ("portable", "DSP"))
                for step, *both in zip(compile_graph(graph).steps, *counts, strict=True):
                    layers.append(f"  {step.name:<38}{both[0]:>12,}{both[1]:>12,}")
    say("")
    say(f"{'front-end':<20}{'board':<12}{'path':<10}{'outputs':>16}{'flash':>9}{'RAM':>8}{'instructions':>14}")
    for network in networks():
        if network.name != ODD:
            for board, result, n_frames in run_frontends(network):
                say(
                    f"{network.name:<20}{board.name:<12}{board.path:<10}{f'{n_frames} frames equal':>16}"
                    f"{result.flash:>9,}{result.ram:>8,}{result.instructions:>14,}"
                )
    say("")
    columns = f"{'outputs':>16}{'flash':>9}{'RAM':>8}{'instructions':>14}"
    say(f"{'listener':<12}{'network runs':<18}{'board':<12}{'path':<10}{columns}")
    for name, model, samples in listeners():
        for board, result, how in run_listeners(name, model, samples):
            say(
                f"{name:<12}{how:<18}{board.name:<12}{board.path:<10}{f'{len(result.outputs)} events equal':>16}"
                f"{result.flash:>9,}{result.ram:>8,}{result.instructions:>14,}"
            )
    say("")
    say("flash: text, constants and initialized data of the whole test program; RAM: data and the stack that it used")
    say("instructions: of the first input; of a listener, from samples to events, of a second of sound")
    say("Arduino's builder: the examples of two models, and both in one sketch, hear what NumPy does (M4)")
    say("NEON, with and without dot product: the self-test of every export passes on emulated aarch64")
    for board in BOARDS:
        say(f"{board.name}, {board.path}: {' '.join((*board.flags, *OPTIMIZE))}")
    for line in layers:
        say(line)
    return lines


def check_verify() -> None:
    """The boards of `kws verify` compute a model's bits, with a softmax too, and those of another are found wrong."""
    network = networks()[0]
    builder = GraphBuilder()
    graph = builder.finish(builder.softmax(builder.input((12,), QuantParams(0.0625, 3)), "y"))
    for engine in board_engines():
        rows = Verifier(network.graph, network.inputs).rows(engine) + Verifier(graph, random_inputs(graph)).rows(engine)
        if any(row.verdict != "equal" for row in rows):
            raise Failure(f"kws verify, {engine.name}: {rows}")
    (engine,) = (replace(each, rules=("single",)) for each in board_engines()[:1])
    other = replace(engine, run=lambda graph, x: engine.run(graph, np.roll(x, 1, axis=0)))
    (row,) = Verifier(network.graph, network.inputs).rows(other)
    if row.verdict != "DIFFERS":
        raise Failure(f"kws verify does not see that a board differs: {row}")


def run_boards(graph: Graph, network: Network) -> Iterator[tuple[Board, Result]]:
    """The results of every board, whose outputs are those of NumPy."""
    expected = reference.run(graph, network.inputs).reshape(len(network.inputs), -1).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "m"
        export(graph, network.frontend, network.labels, folder, name="m")
        (folder / "inputs.bin").write_bytes(network.inputs.tobytes())
        check_clang(folder)
        check_neon(folder)
        for board in BOARDS:
            result = run_program(board, folder)
            compare(f"{network.name}, {graph.rounding}, {board.name} {board.path}", result.outputs, expected)
            yield board, result


def run_frontends(network: Network) -> Iterator[tuple[Board, Result, int]]:
    """What every board makes of frames of speech and of what breaks fixed point; the features are NumPy's."""
    frontend = network.frontend
    speech = network.samples[:4, : frontend.frame_length + 15 * frontend.hop_length]
    hard = hard_signals(frontend.frame_length + 2 * frontend.hop_length)
    frames = np.concatenate([frames_of(clips, frontend).reshape(-1, frontend.frame_length) for clips in (speech, hard)])
    frames = frames[8:]  # the count is of a frame of speech
    params = network.graph.input_params
    expected = requantize(features_q16(frames, frontend)[:, 0], OUTPUT, params).tolist()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "m"
        export(network.graph, frontend, network.labels, folder, name="m")
        (folder / "frames.bin").write_bytes(frames.astype("<i2").tobytes())
        for board in BOARDS:
            result = run_program(board, folder, HERE / "front.c")
            compare(f"front-end of {network.name}, {board.name} {board.path}", result.outputs, expected)
            yield board, result, len(frames)


def run_listeners(name: str, model: Model, samples: Any) -> Iterator[tuple[Board, Result, str]]:
    """What every board hears in a recording; the events are NumPy's."""
    stream = Frames(Detector(replace(model, engine="reference")))
    heard = stream.push(samples) + stream.finish()
    expected = [[each.keyword, each.score, each.first, each.end] for each in heard]
    listener = listener_for_export(model)
    if listener is None or not expected:
        raise Failure(f"{name} hears nothing")
    how = "whole windows" if listener[0].plan is None else "column by column"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "m"
        export(model.graph, model.frontend, model.labels, folder, name="m", listener=listener)
        (folder / "samples.bin").write_bytes(samples.astype("<i2").tobytes())
        check_clang(folder)
        check_neon(folder)
        for board in BOARDS:
            result = run_program(board, folder, HERE / "listen.c")
            compare(f"listener of {name}, {board.name} {board.path}", result.outputs, expected)
            yield board, result, how


def hard_signals(n: int) -> NDArray[np.int16]:
    """int16 (9, n): silence, DC, squares and noise of full scale, an impulse, clipping, one unit of noise."""
    rng, i = np.random.default_rng(5), np.arange(n)
    return np.stack([
        np.zeros(n), np.full(n, 32767), np.full(n, -32768), np.where(i // 37 % 2, 32767, -32768),
        np.where(i % 2, 32767, -32768), np.where(i == 300, -32768, 0), rng.integers(-32768, 32768, n),
        np.clip(rng.normal(0, 60_000, n), -32768, 32767), rng.integers(-1, 2, n),
    ]).astype(np.int16)  # fmt: skip


def check_clang(folder: Path) -> None:
    """Clang finds nothing to warn of, and its sanitizers nothing in the self-tests, also with sums checked."""
    for selftest in self_tests(folder):
        common = ["clang", *WARNINGS, "-Isrc", *sources(folder), selftest, "-o", "selftest.clang"]
        for options in (
            ["-O2"],
            ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DM_NN_CHECKED"],
        ):
            run(*common, *options, cwd=folder)
            run(str(folder / "selftest.clang"), cwd=folder)


def check_neon(folder: Path) -> None:
    """The self-tests pass on emulated aarch64, with and without the dot product of int8."""
    for selftest in self_tests(folder):
        for architecture in ("armv8-a", "armv8.2-a+dotprod"):
            options = [f"-march={architecture}", *WARNINGS, "-O2", "-static", "-Isrc"]
            program = ["-o", "selftest.neon"]
            run("aarch64-linux-gnu-gcc", *options, *sources(folder), selftest, *program, cwd=folder)
            run("qemu-aarch64", "-cpu", "max", str(folder / "selftest.neon"), cwd=folder)


def self_tests(folder: Path) -> list[Path]:
    return sorted((folder / "selftest").glob("*.c"))


def run_program(board: Board, folder: Path, program: Path = FOLDER / "main.c") -> Result:
    build(board, folder, program, strict=True)
    check_symbols(board, folder)
    printed = emulate(board, folder)
    if board.name == "Cortex-M4" and emulate(board, folder) != printed:
        raise Failure(f"{board.name}: a second run differs from the first")
    rows = [line.split() for line in printed.splitlines()]
    numbers = {kind: [[int(n) for n in row[1:]] for row in rows if row[0] == kind] for kind in ("layer", "output")}
    (stack,) = (int(row[1]) for row in rows if row[0] == "stack")
    runs = [int(row[1]) for row in rows if row[0] == "run"][-PIECES_A_SECOND:]  # a network's is one
    text, data, bss = sizes(board, folder)
    return Result(
        numbers["output"],
        [board.instructions(ticks) for (ticks,) in numbers["layer"]],
        board.instructions(sum(runs)),
        text + data,
        data + bss + stack,
    )


def check_symbols(board: Board, folder: Path) -> None:
    """Failure for what an integer program has no use for."""
    names = run(board.compiler.replace("gcc", "nm"), "m.elf", cwd=folder)
    if found := re.findall(FORBIDDEN, names, re.M):
        raise Failure(f"{board.name}: the program holds {', '.join(sorted(set(found)))}")


def compare(what: str, found: list[list[int]], expected: Any) -> None:
    if len(found) != len(expected):
        raise Failure(f"{what}: {len(found)} outputs, not {len(expected)}")
    wrong = [index for index, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    if wrong:
        i = wrong[0]
        raise Failure(f"{what}: {len(wrong)} clips differ, the first is {i}: {found[i]}, not {expected[i]}")


def versions() -> str:
    tools = ("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "qemu-system-arm", "clang")
    return ", ".join(f"{tool} {re.search(r'[0-9]+([.][0-9]+)+', run(tool, '--version'))[0]}" for tool in tools)


if __name__ == "__main__":
    sys.exit(main())
