# SPDX-License-Identifier: Apache-2.0
"""Runs the x86 kernels on an emulated processor with AMX, which few hosts have, against the NumPy executor.

    make test-amx                                                  # builds the emulator once, into .venv
    python -m tests.amx.run --write benchmarks/results/amx.txt     # the result to a file as well

The emulator is Bochs 3.0, whose Sapphire Rapids is taken, built from Debian's source: as released it takes the weights
of TDPBUSD for unsigned, which MENDED puts right as Intel's manual has it. The program is a ROM of 2 MB that needs no
operating system. Its cases are the convolutions of two networks and random ones. A byte that differs, one written that
is no output's, and a path that takes fewer cases than it should are failures.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.host import date_and_cpu
from deploy import reference
from deploy.boards import WARNINGS, Failure, run
from deploy.graph import Graph, GraphBuilder
from deploy.program import compile_graph
from deploy.verify import alone
from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError
from tests.mcu.models import ODD, networks

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "deploy" / "c"
BOCHS = Path(sys.prefix) / "bochs"
SOURCE = "pool/main/b/bochs/bochs_3.0%2Bdfsg.orig.tar.xz"  # on a mirror of Debian
SHA256 = "78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b"
MENDED = (
    "DPBDUS(Bit32u x, Bit32u y)",
    r"const Bit8u ybyte\[4\] = .*",
    """\
const Bit8s ybyte[4] = { Bit8s(y & 0xff), Bit8s((y >> 8) & 0xff), Bit8s((y >> 16) & 0xff), Bit8s(y >> 24) };""",
)
"""In cpu/avx/amx.cc: behind what, which line, by which."""
FEATURES = (
    "x86-64", "fpu", "avx", "evex", "amx", "cet", "protection-keys", "uintr", "memtype", "vmx=2", "all-optimizations"
)  # fmt: skip
PACKAGES = {"gcc": "gcc", "g++": "g++", "make": "make", "ld": "binutils", "objcopy": "binutils"}
ROM, RESET = 2 << 20, 4096  # bytes of the image and of its end, where the processor begins
ROOM = 3 << 19  # bytes of cases in one ROM
N_RANDOM = 1500
LIMIT = 120  # seconds of one ROM, which takes a few
LEAST = {"conv2d amx-int8": 500, "conv2d avx512-vnni": 1000, "depthwise_conv2d avx512-vnni": 200}
"""Cases that a path must have taken."""
COMPILE = [*WARNINGS, "-O3", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-mno-red-zone"]
LINK = ["-no-pie", "-static", "-nostdlib", "-Wl,--build-id=none,--no-warn-rwx-segments"]
PORTABLE = ("conv2d", "depthwise_conv2d", "add", "average_pool")
BOCHSRC = """\
cpu: model=sapphire_rapids, count=1, ips=100000000, reset_on_triple_fault=0
memory: guest=64, host=64
romimage: file=rom.bin, address=0xffe00000
vgaromimage: file=vga.bin
display_library: nogui
config_interface: textconfig
port_e9_hack: enabled=1
plugin_ctrl: unmapped=1
log: bochs.log
panic: action=fatal
"""


def main() -> int:
    """1 when anything differs or is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="the file that gets the result, with date, CPU and command")
    options = parser.parse_args()
    try:
        lines = test()
    except Failure as failure:
        print(f"test-amx: {failure}", file=sys.stderr)
        return 1
    if options.write:
        head = [date_and_cpu(), f"python -m tests.amx.run --write {options.write.as_posix()}", ""]
        options.write.write_text("\n".join([*head, *lines]) + "\n")
    return 0


def test() -> list[str]:
    """All cases in as many ROMs as they fill; returns the lines that it prints."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise Failure(f"the emulator runs on Linux on x86-64, not on {sys.platform} on {platform.machine()}")
    build_emulator()
    taken = dict.fromkeys(LEAST, 0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        build(folder)
        for batch in batches():
            for path, count in run_rom(folder, batch).items():
                taken[path] += count
    if few := [f"{path}: {count}, not {LEAST[path]}" for path, count in taken.items() if count < LEAST[path]]:
        raise Failure(f"too few cases: {', '.join(few)}")
    lines = ["emulated by Bochs 3.0, its TDPBUSD mended"]
    lines += [f"{path:<30}{count:>6,} convolutions equal" for path, count in taken.items()]
    print("\n".join(lines))
    return lines


def build_emulator() -> None:
    """Bochs as BOCHS, unless it is there."""
    if missing := sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)}):
        raise Failure(f"not installed: {' '.join(missing)} (apt-get install them)")
    if BOCHS.is_file():
        return
    print("building Bochs 3.0 with AMX", flush=True)
    packed = download()
    with tempfile.TemporaryDirectory() as temporary:
        archive = Path(temporary) / "bochs.tar.xz"
        archive.write_bytes(packed)
        with tarfile.open(archive) as tar:
            tar.extractall(temporary)  # whose digest was compared
        folder = Path(temporary) / "bochs-3.0"
        source = folder / "cpu" / "avx" / "amx.cc"
        begin, line, mended = MENDED
        before, after = source.read_text().split(begin)
        source.write_text(before + begin + re.sub(line, mended, after, count=1))
        options = ["--enable-cpu-level=6", "--with-nogui", "--disable-docbook", *(f"--enable-{f}" for f in FEATURES)]
        run("./configure", *options, "CFLAGS=-O2 -w", "CXXFLAGS=-O2 -w", cwd=folder)
        run("make", f"-j{os.cpu_count()}", "bochs", cwd=folder)
        built = BOCHS.with_name(f"bochs.{os.getpid()}")
        shutil.copy(folder / "bochs", built)
        built.rename(BOCHS)


def download() -> bytes:
    """SOURCE, from any mirror that apt-get knows: the digest says whether it is the file."""
    if not shutil.which("apt-get"):
        raise Failure("apt-get, which knows mirrors of Debian, is not installed")
    mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    for mirror in dict.fromkeys(mirrors):
        try:
            with urllib.request.urlopen(f"{mirror}{SOURCE}", timeout=60) as answer:
                packed: bytes = answer.read()
        except OSError:
            continue
        if hashlib.sha256(packed).hexdigest() == SHA256:
            return packed
    raise Failure(f"no mirror of {len(set(mirrors))} that apt-get knows gives {SOURCE}")


def batches() -> Iterator[list[bytes]]:
    """Cases, as many at a time as a ROM has room for."""
    batch: list[bytes] = []
    for case in cases():
        if sum(map(len, batch)) + len(case) > ROOM:
            yield batch
            batch = []
        batch.append(case)
    yield batch


def cases() -> Iterator[bytes]:
    """The convolutions of `commands` and DS-CNN-S under both rules, then random ones."""
    rng = np.random.default_rng(1)
    for network in networks():
        if network.name != ODD:
            for rule in ("single", "tflm"):
                yield from parts_of(network.graph.with_rounding(rule), rng)
    for _ in range(N_RANDOM):
        yield from parts_of(random_graph(rng), rng)


def parts_of(graph: Graph, rng: np.random.Generator) -> Iterator[bytes]:
    """Each convolution of `graph` alone, on random inputs or on the ends of int8, as main.c reads it."""
    for op in graph.ops:
        if op.kind not in ("conv2d", "depthwise_conv2d", "fully_connected"):
            continue
        part = alone(graph, op)
        (step,) = compile_graph(part).steps
        x = rng.integers(-128, 128, (1, *part.input_shape)).astype(np.int8)
        if rng.random() < 0.3:
            x = np.where(x < 0, -128, 127).astype(np.int8)
        yield case(step.kernel, step.fields, x, reference.run(part, x))


def case(kernel: str, fields: Any, x: Any, y: Any) -> bytes:
    requant = fields["requant"]
    names = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kernel_h", "kernel_w", "stride_h", "stride_w")
    header = [
        kernel == "kws_depthwise_conv2d", x.size, y.size, len(requant["multiplier"]),
        *(fields["window"][name] for name in (*names, "pad_top", "pad_left")),
        fields["input_zero_point"], fields["weight_zero_point"],
        *(requant[name] for name in ("per_channel", "zero_point", "activation_min", "activation_max", "rounding")),
        fields["weight"].size,
    ]  # fmt: skip
    arrays = [np.array(header, "<i4"), fields["weight"], fields["bias"], requant["multiplier"], requant["shift"], x, y]
    pieces = [np.ascontiguousarray(array).tobytes() for array in arrays]
    return b"".join(piece + bytes(-len(piece) % 4) for piece in pieces)


def random_graph(rng: np.random.Generator) -> Graph:
    """One convolution: three of four are conv2d, most with enough inputs and outputs for AMX."""
    while True:
        depthwise = rng.random() < 0.25
        kernel = rng.integers(1, 6, 2).tolist()
        size = [int(rng.integers(k, k + 14)) for k in kernel]
        padding = tuple(tuple(rng.integers(0, k, 2).tolist()) for k in kernel)
        stride = tuple(rng.integers(1, 4, 2).tolist())
        i = int(rng.choice((1, 3, 8, 16, 17, 31, 32, 40, 64, 65, 80, 100, 128)))
        o = i if depthwise else int(rng.choice((1, 8, 15, 16, 17, 31, 33, 48, 63, 64, 65, 80, 112, 130)))
        if i * o * kernel[0] * kernel[1] > 60_000 and not depthwise:
            continue
        affine = not depthwise and rng.random() < 0.15
        shape = (1, *kernel, o) if depthwise else (o, *kernel, i)
        weight = rng.integers(-127, 128, shape).astype(np.int8)
        scale: Any = 2**-9 if affine else rng.choice([0.125, 0.01, 2**-9, 2**-14, 2**-30], o).tolist()
        low, high = (-128, 127) if rng.random() < 0.5 else (int(rng.integers(-128, 0)), int(rng.integers(0, 128)))
        builder = GraphBuilder(str(rng.choice(("single", "tflm"))))
        source, target = (
            QuantParams(float(2.0 ** rng.integers(-7, 3)), int(rng.integers(-128, 128))) for _ in range(2)
        )
        x = builder.input((*size, i), source)
        y = getattr(builder, "depthwise_conv2d" if depthwise else "conv2d")(
            x, "op", weight, scale, int(rng.integers(-128, 128)) if affine else 0,
            rng.integers(-90000, 90000, o).astype(np.int32), stride=stride, padding=padding, output=target,
            activation_min=low, activation_max=high,
        )  # fmt: skip
        try:
            return builder.finish(y)
        except ModelError:  # a sum could overflow
            continue


def build(folder: Path) -> None:
    """What all ROMs have in common."""
    for name in ("start.S", "link.ld"):
        shutil.copy(HERE / name, folder)
    (folder / "bochsrc").write_text(BOCHSRC)
    (folder / "vga.bin").write_bytes(bytes(512))  # Bochs wants one; nothing reads it
    run("gcc", "-m32", "-c", HERE / "reset.S", "-o", "reset", cwd=folder)
    start = ["-Ttext", "0xfffff000", "-e", "0xfffff000"]
    run("ld", "-m", "elf_i386", *start, "reset", "-o", "reset.elf", cwd=folder)
    objcopy("reset", folder)
    sources = [*SOURCES.glob("kws_x86_*.c"), *(SOURCES / f"kws_{name}.c" for name in PORTABLE), HERE / "main.c"]
    run("gcc", *COMPILE, f"-I{SOURCES}", "-c", *sources, cwd=folder)


def objcopy(name: str, folder: Path) -> None:
    sections = [word for section in (".text", ".rodata", ".data") for word in ("-j", section)]
    run("objcopy", "-O", "binary", *sections, f"{name}.elf", name, cwd=folder)


def run_rom(folder: Path, batch: list[bytes]) -> dict[str, int]:
    """How many of the cases each path took, whose outputs were right."""
    (folder / "cases.bin").write_bytes(b"".join(batch))
    program = ["start.S", *(path.name for path in folder.glob("*.o")), "-T", "link.ld", "-o", "main.elf"]
    run("gcc", *LINK, *program, cwd=folder)
    objcopy("main", folder)
    image = (folder / "main").read_bytes()
    if len(image) > ROM - RESET:
        raise Failure(f"a program of {len(image):,} bytes does not fit into the ROM")
    (folder / "rom.bin").write_bytes(image.ljust(ROM - RESET, b"\0") + (folder / "reset").read_bytes())
    try:
        done = subprocess.run(
            [str(BOCHS), "-q", "-f", "bochsrc"],
            cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=LIMIT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failure(f"the program runs for more than {LIMIT} s") from None
    if differs := re.search(r"DIFFERS (.*)", done.stdout):
        raise Failure(f"{differs[1]} of {len(batch)}: the output is not NumPy's")
    if not re.search(r"^end$", done.stdout, re.M):
        log = (folder / "bochs.log").read_text(errors="replace") if (folder / "bochs.log").exists() else done.stderr
        raise Failure(f"the program did not come to its end: {log[-2000:]}")
    return {path: int(count) for count, path in re.findall(r"equal (\d+) (.*\S)", done.stdout)}


if __name__ == "__main__":
    sys.exit(main())
