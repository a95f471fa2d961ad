# SPDX-License-Identifier: Apache-2.0
"""What a network costs on a microcontroller: bytes of flash and RAM, instructions, cycles and milliseconds, by layer.

Bytes of numbers and memory are those of the export. Code and instructions come from measurements: CORES holds what
`python -m benchmarks.profile_fit` made of code sizes and of the instructions that emulated boards counted. An
instruction is taken to last a fixed number of cycles, which no emulator tells; docs/runtime.md has the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from deploy.export.c import sizes_of
from deploy.graph import Graph
from deploy.listen import Listen
from deploy.program import compile_graph
from kws.errors import UsageError

BUDGETS = ("flash", "ram")
_STACK = 512  # bytes: more than any board used for an inference


@dataclass(frozen=True, slots=True)
class Kernel:
    """Instructions a multiply-accumulate, an output, a value of the columns that outputs see, and a row of a kernel
    that is gathered into them; bytes of code."""

    per_mac: float
    per_output: float
    per_value: float
    per_row: float
    code: int


@dataclass(frozen=True, slots=True)
class Core:
    """A processor: its clock in the figures, cycles an instruction, code beside the kernels, and the kernels."""

    mhz: int
    cycles_per_instruction: float
    dsp: bool
    code: int
    kernels: Mapping[str, Kernel]


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One op. An op that only gives its input another shape costs nothing."""

    name: str
    kind: str
    macs: int
    weight_bytes: int
    instructions: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A network on a core; `flash` and `ram` are bytes of everything, an inference's stack included."""

    core: str
    layers: tuple[LayerCost, ...]
    weight_bytes: int
    table_bytes: int
    code_bytes: int
    arena_bytes: int
    scratch_bytes: int
    stack_bytes: int
    listener_bytes: int | None
    """Memory of a stream from samples to events, in which front-end and network run as well: `kws_listen_size` there.
    None for a model that cannot listen."""
    mhz: int
    cycles_per_instruction: float

    @property
    def flash(self) -> int:
        """Weights, tables and code."""
        return self.weight_bytes + self.table_bytes + self.code_bytes

    @property
    def ram(self) -> int:
        """Activations, scratch memory and stack."""
        return self.arena_bytes + self.scratch_bytes + self.stack_bytes

    @property
    def instructions(self) -> int:
        """Of one inference."""
        return sum(layer.instructions for layer in self.layers)

    @property
    def cycles(self) -> int:
        """Of one inference, estimated."""
        return round(self.instructions * self.cycles_per_instruction)

    @property
    def milliseconds(self) -> float:
        """Of one inference at the core's clock, estimated."""
        return self.cycles / self.mhz / 1000

    def to_dict(self) -> dict[str, Any]:
        """All fields and sums by name, fit for JSON."""
        names = ("flash", "ram", "instructions", "cycles", "milliseconds")
        return asdict(self) | {name: getattr(self, name) for name in names}


CORES: dict[str, Core] = {
    "cortex-m3": Core(72, 1.7, False, 188, {
        "kws_add": Kernel(0.00, 97.52, 0.00, 0.00, 528),
        "kws_average_pool": Kernel(7.76, 84.24, 0.00, 0.00, 328),
        "kws_concatenation": Kernel(0.00, 21.96, 0.00, 0.00, 256),
        "kws_conv2d": Kernel(4.98, 61.55, 0.94, 64.72, 692),
        "kws_depthwise_conv2d": Kernel(27.62, 0.00, 0.00, 0.00, 596),
        "kws_lookup": Kernel(0.00, 10.01, 0.00, 0.00, 44),
        "kws_max_pool": Kernel(19.24, 0.00, 0.00, 0.00, 288),
        "kws_mean": Kernel(7.25, 0.00, 0.00, 0.00, 280),
        "kws_mul": Kernel(0.00, 53.01, 0.00, 0.00, 280),
        "kws_pad": Kernel(0.00, 3.03, 0.00, 0.00, 144),
        "kws_slice": Kernel(0.00, 1.76, 0.00, 0.00, 124),
        "kws_softmax": Kernel(0.00, 240.67, 0.00, 0.00, 884),
    }),
    "cortex-m4": Core(120, 1.5, True, 220, {
        "kws_add": Kernel(0.00, 97.52, 0.00, 0.00, 516),
        "kws_average_pool": Kernel(7.76, 84.25, 0.00, 0.00, 336),
        "kws_concatenation": Kernel(0.00, 20.99, 0.00, 0.00, 256),
        "kws_conv2d": Kernel(0.97, 14.84, 0.00, 129.96, 2380),
        "kws_depthwise_conv2d": Kernel(4.32, 0.00, 0.00, 0.00, 2216),
        "kws_lookup": Kernel(0.00, 10.01, 0.00, 0.00, 44),
        "kws_max_pool": Kernel(19.23, 0.00, 0.00, 0.00, 300),
        "kws_mean": Kernel(7.25, 0.00, 0.00, 0.00, 272),
        "kws_mul": Kernel(0.00, 50.01, 0.00, 0.00, 272),
        "kws_pad": Kernel(0.00, 2.97, 0.00, 0.00, 144),
        "kws_slice": Kernel(0.00, 1.76, 0.00, 0.00, 116),
        "kws_softmax": Kernel(0.00, 246.67, 0.00, 0.00, 900),
    }),
    "cortex-m7": Core(216, 1.0, True, 220, {
        "kws_add": Kernel(0.00, 98.52, 0.00, 0.00, 520),
        "kws_average_pool": Kernel(7.76, 84.25, 0.00, 0.00, 340),
        "kws_concatenation": Kernel(0.00, 20.50, 0.00, 0.00, 264),
        "kws_conv2d": Kernel(0.97, 15.08, 0.00, 123.12, 2384),
        "kws_depthwise_conv2d": Kernel(4.35, 0.00, 0.00, 0.00, 2224),
        "kws_lookup": Kernel(0.00, 10.01, 0.00, 0.00, 44),
        "kws_max_pool": Kernel(19.23, 0.00, 0.00, 0.00, 296),
        "kws_mean": Kernel(7.24, 0.00, 0.00, 0.00, 284),
        "kws_mul": Kernel(0.00, 63.01, 0.00, 0.00, 284),
        "kws_pad": Kernel(0.00, 2.97, 0.00, 0.00, 144),
        "kws_slice": Kernel(0.00, 1.76, 0.00, 0.00, 116),
        "kws_softmax": Kernel(0.00, 246.67, 0.00, 0.00, 908),
    }),
    "cortex-m55": Core(160, 1.0, False, 188, {
        "kws_add": Kernel(0.00, 86.51, 0.00, 0.00, 472),
        "kws_average_pool": Kernel(5.92, 89.31, 0.00, 0.00, 340),
        "kws_concatenation": Kernel(0.00, 18.06, 0.00, 0.00, 228),
        "kws_conv2d": Kernel(0.14, 14.22, 0.76, 84.88, 1512),
        "kws_depthwise_conv2d": Kernel(2.87, 0.00, 0.00, 0.00, 1744),
        "kws_lookup": Kernel(0.00, 10.01, 0.00, 0.00, 44),
        "kws_max_pool": Kernel(17.81, 0.00, 0.00, 0.00, 308),
        "kws_mean": Kernel(5.21, 0.00, 0.00, 0.00, 244),
        "kws_mul": Kernel(0.00, 45.01, 0.00, 0.00, 268),
        "kws_pad": Kernel(0.00, 3.03, 0.00, 0.00, 144),
        "kws_slice": Kernel(0.00, 1.75, 0.00, 0.00, 124),
        "kws_softmax": Kernel(0.00, 275.42, 0.00, 0.00, 992),
    }),
    "rv32imac": Core(160, 1.5, False, 188, {
        "kws_add": Kernel(0.00, 89.15, 0.00, 0.00, 670),
        "kws_average_pool": Kernel(6.76, 76.12, 0.00, 0.00, 324),
        "kws_concatenation": Kernel(0.00, 21.96, 0.00, 0.00, 324),
        "kws_conv2d": Kernel(6.91, 50.45, 6.79, 53.35, 844),
        "kws_depthwise_conv2d": Kernel(24.98, 0.00, 0.00, 0.00, 624),
        "kws_lookup": Kernel(0.00, 10.01, 0.00, 0.00, 42),
        "kws_max_pool": Kernel(14.97, 0.00, 0.00, 0.00, 278),
        "kws_mean": Kernel(6.23, 0.00, 0.00, 0.00, 316),
        "kws_mul": Kernel(0.00, 45.01, 0.00, 0.00, 344),
        "kws_pad": Kernel(0.00, 11.20, 0.00, 0.00, 192),
        "kws_slice": Kernel(0.00, 6.80, 0.00, 0.00, 160),
        "kws_softmax": Kernel(0.00, 285.08, 0.00, 0.00, 1122),
    }),
}  # fmt: skip
"""By name. Cycles an instruction follow Arm's manual for the M3 and M4 and are assumed for the others."""


def profile(graph: Graph, core: str, listen: Listen | None = None) -> Profile:
    """The cost of a checked graph on one of CORES, and of its listener's memory.

    UsageError for another core, or a rule that C does not compute.
    """
    if core not in CORES:
        raise UsageError(f"unknown core {core!r}", hint="one of " + ", ".join(CORES))
    target, program = CORES[core], compile_graph(graph)
    sizes = sizes_of(program)
    kernel_of = {step.name: target.kernels[step.kernel] for step in program.steps}
    layers = []
    for op, report in zip(graph.ops, graph.check().ops, strict=True):
        kernel = kernel_of.get(op.name, Kernel(0, 0, 0, 0, 0))
        each = kernel.per_mac, kernel.per_output, kernel.per_value, kernel.per_row
        count = sum(cost * n for cost, n in zip(each, work_of(graph, op.name), strict=True))
        layers.append(LayerCost(op.name, op.kind, report.macs, report.weight_bytes, round(count)))
    kernels = {step.kernel for step in program.steps}
    return Profile(
        core=core,
        layers=tuple(layers),
        weight_bytes=sizes.weight_bytes,
        table_bytes=sizes.table_bytes + sizes.structure_bytes,
        code_bytes=target.code + sum(target.kernels[kernel].code for kernel in kernels),
        arena_bytes=sizes.arena_size,
        scratch_bytes=sizes.scratch_dsp if target.dsp else sizes.scratch_portable,
        stack_bytes=_STACK,
        listener_bytes=None if listen is None else _listener_bytes(listen, target),
        mhz=target.mhz,
        cycles_per_instruction=target.cycles_per_instruction,
    )


def _listener_bytes(listen: Listen, target: Core) -> int:
    program, _ = listen.program()
    sizes = sizes_of(program)
    return listen.size(sizes.arena_size + (sizes.scratch_dsp if target.dsp else sizes.scratch_portable))


def work_of(graph: Graph, name: str) -> tuple[int, int, int, int]:
    """Multiply-accumulates of the op `name`, its outputs, and what a convolution gathers: values and kernel rows."""
    op = next(op for op in graph.ops if op.name == name)
    inputs, output = graph.inputs_of(op), graph.tensors[op.output]
    macs = op.attributes.macs(inputs, output)
    if op.kind not in ("conv2d", "fully_connected"):
        return macs, output.size, 0, 0
    kernel_h = inputs[1].shape[1] if op.kind == "conv2d" else 1
    channels = output.shape[-1]
    return macs, output.size, macs // channels, output.size // channels * kernel_h


def parse_budget(text: str) -> dict[str, int]:
    """``flash=64k,ram=24k`` -> bytes by name; k is 1,024, M is 1,024 k. UsageError for anything else."""
    budget: dict[str, int] = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        factor = {"k": 1 << 10, "m": 1 << 20}.get(amount[-1:].lower(), 1)
        digits = amount if factor == 1 else amount[:-1]
        if name not in BUDGETS or name in budget or not (digits.isascii() and digits.isdigit()) or len(digits) > 12:
            raise UsageError(f"budget {text!r} is not understood", hint="for example flash=64k,ram=24k")
        budget[name] = int(digits) * factor
    return budget


def over(profile: Profile, budget: Mapping[str, int]) -> list[str]:
    """A line for each budget that the network exceeds."""
    found = {"flash": profile.flash, "ram": profile.ram}
    return [
        f"{name}: {found[name]:,} bytes are {found[name] - limit:,} over the budget of {limit:,}"
        for name, limit in budget.items()
        if found[name] > limit
    ]
