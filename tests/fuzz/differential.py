# SPDX-License-Identifier: Apache-2.0
"""Random small graphs through every engine at once, which must be equal where `deploy.verify` says so.

    python -m tests.fuzz.differential --seconds 300                       # new cases each time: `make fuzz`
    python -m tests.fuzz.differential --seconds 30 --cases 150 --first 1  # the same in every run: .ci/run
    python -m tests.fuzz.differential --first 1661 --cases 1              # one case again

NumPy under each rule, C with every instruction set of the host, TensorFlow Lite Micro, LiteRT in three ways, ONNX
Runtime in two. Prints how many cases were tried, and by op and engine how many values differ where they may: of graphs
with one op that computes. Exit code 1 when an engine differs that must not, or fails otherwise than KNOWN says.

A case is its number. Others' runtimes may take the process down with them: fuzz-crashes/differential then holds it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.host import date_and_cpu
from deploy.graph import Graph, Op
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.tflite_rules import FULL_CLAMP
from deploy.verify import Row, Verifier, engines, random_inputs
from kws.cli.common import columns
from tests.fuzz.random_graph import MOVES, random_graph

CURRENT = Path(__file__).parents[2] / "fuzz-crashes" / "differential"
N_INPUTS = 14  # random ones, besides the two ends of int8


@dataclass(frozen=True)
class Limit:
    """What others' runtimes are known to do with an op for which `applies` holds; docs/formats.md has it."""

    engines: tuple[str, ...]
    what: str
    applies: Callable[[Graph, Op], bool]


def multipliers(op: Op) -> np.ndarray:
    """M of every requantization of the op, all channels."""
    return np.concatenate([np.ldexp(r.multiplier.astype(float), r.shift - 31) for _, r in op.attributes.requants()])


def affine_from_256(graph: Graph, op: Op) -> bool:
    """Whether a convolution or fully connected op has an M of 256 or more."""
    return isinstance(op.attributes, Conv2d | DepthwiseConv2d | FullyConnected) and bool(multipliers(op).max() >= 256)


def mean_out_of_range(graph: Graph, op: Op) -> bool:
    """Whether a mean over n values has M / n outside [2^-32, 256)."""
    if op.kind != "mean":
        return False
    (source,), output = graph.inputs_of(op), graph.tensors[op.output]
    ratio = source.params.scale / output.params.scale / (source.shape[0] * source.shape[1])
    return not 2.0**-32 <= ratio < 256


def clamp_on_a_tie(graph: Graph, op: Op) -> bool:
    """Whether the op has a fused activation one of whose ends lies halfway between two integers."""
    ends = np.float32([-1, 1, 6]) / np.float32(graph.tensors[op.output].params.scale)
    clamps = [(r.activation_min, r.activation_max) for _, r in op.attributes.requants()]
    return bool((ends % 1 == 0.5).any()) and any(clamp != FULL_CLAMP for clamp in clamps)


def frees_twice(graph: Graph) -> bool:
    """Whether an op takes a tensor and its logistic, in a graph that XNNPACK refuses."""
    source = {op.output: op.inputs[0] for op in graph.ops if op.kind == "logistic"}
    gated = any(source.get(name) in op.inputs for op in graph.ops for name in op.inputs)
    return gated and any(affine_from_256(graph, op) for op in graph.ops)


FREES_TWICE = (
    "XNNPACK frees memory twice, which ends the process, where it refuses a file in which an op takes x and f(x)"
)
KNOWN = (
    Limit(("LiteRT default",), "XNNPACK refuses a file with an M of 256 or more in an affine op", affine_from_256),
    Limit(
        ("ONNX Runtime", "ONNX Runtime, QDQ"),
        "QLinearGlobalAveragePool refuses M / n outside [2^-32, 256)",
        mean_out_of_range,
    ),
    Limit(("LiteRT default",), "XNNPACK adds Z before it rounds the end of a fused activation", clamp_on_a_tie),
)


class Tally:
    """What was seen over many cases."""

    def __init__(self) -> None:
        self.cases = 0
        self.wrong: list[str] = []
        self.known: Counter[str] = Counter()
        self.verdicts: Counter[tuple[str, str, str]] = Counter()
        self.counts: dict[tuple[str, str], Counter[str]] = {}

    def run(self, case: int) -> None:
        """One graph in every engine."""
        graph = random_graph(random.Random(case))
        kinds = [op.kind for op in graph.ops]
        verifier = Verifier(graph, random_inputs(graph, N_INPUTS, seed=case))
        self.cases += 1
        for engine in engines():
            if engine.name == "LiteRT default" and frees_twice(graph):
                self.known[FREES_TWICE] += 1
                continue
            for row in verifier.rows(engine):
                moved = bool(row.different) and set(kinds) <= MOVES
                limits = [limit.what for limit in KNOWN if row.failed and _explains(limit, row, graph)]
                self.known.update(limits[:1])
                self.verdicts[row.engine, row.part, row.verdict] += 1
                if (row.failed or moved) and not limits:
                    said = f"{row.engine}, {row.rule}, {row.part}: {row.different} of {row.values} differ"
                    self.wrong.append(f"case {case} ({', '.join(kinds)}): {said}, {row.verdict} {row.note}")
                    print(self.wrong[-1], flush=True)
                if not engine.equal and row.rule == engine.rules[0]:
                    self._count(kinds, row)

    def _count(self, kinds: list[str], row: Row) -> None:
        computing = [kind for kind in kinds if kind not in MOVES]
        if len(computing) == 1 and row.values and row.part != "ops":
            counts = self.counts.setdefault((computing[0], f"{row.engine}, {row.rule}"), Counter())
            counts["values"] += row.values
            counts["differ"] += row.different
            counts["largest"] = max(counts["largest"], row.largest)

    def table(self) -> str:
        """A row an op, a column an engine that need not be equal: how many values of how many differ from NumPy's."""
        kinds, names = (list(dict.fromkeys(key[i] for key in sorted(self.counts))) for i in (0, 1))
        rows = [[kind, *(self._cell(kind, name) for name in names)] for kind in kinds]
        return columns([["op", *names], *rows], left=1)

    def _cell(self, kind: str, name: str) -> str:
        counts = self.counts.get((kind, name), Counter())
        far = f" (up to {counts['largest']})" if counts["largest"] > 1 else ""
        return f"{counts['differ']:,} of {counts['values']:,}{far}"


def _explains(limit: Limit, row: Row, graph: Graph) -> bool:
    return row.engine in limit.engines and any(limit.applies(graph, op) for op in graph.ops)


def main() -> int:
    """1 when something differed or failed that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--cases", type=int, help="end after so many, if the time allows")
    parser.add_argument("--first", type=int, default=time.time_ns() % 2**40, help="number of the first case")
    options = parser.parse_args()
    CURRENT.parent.mkdir(exist_ok=True)
    tally, begin = Tally(), time.monotonic()
    while tally.cases != options.cases and time.monotonic() - begin < options.seconds:
        CURRENT.write_text(f"{options.first + tally.cases}\n")
        tally.run(options.first + tally.cases)
    CURRENT.unlink(missing_ok=True)
    print(date_and_cpu())
    print(", ".join(f"{n} {version(n)}" for n in ("numpy", "tflite-micro", "ai-edge-litert", "onnxruntime")))
    print(f"python -m tests.fuzz.differential --first {options.first} --cases {tally.cases}\n")
    print(tally.table() + "\n")
    for what, count in tally.known.items():
        print(f"known: {what}: {count} comparisons")
    compared = sum(n for (_, _, verdict), n in tally.verdicts.items() if verdict not in ("refused", "not installed"))
    seconds = time.monotonic() - begin
    print(
        f"fuzz differential: {tally.cases} cases from {options.first} on in {seconds:.0f} s, {compared} comparisons, "
        f"{len(tally.wrong)} wrong"
    )
    missing = sorted({engine for engine, _, verdict in tally.verdicts if verdict == "not installed"})
    if missing:
        print(f"not installed: {', '.join(missing)}")
    return 1 if tally.wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
