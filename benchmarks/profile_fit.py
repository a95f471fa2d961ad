# SPDX-License-Identifier: Apache-2.0
"""The constants of deploy/profile.py: instructions by kernel and board, and bytes of code.

    python -m benchmarks.profile_fit

Non-negative least squares, relative to what each layer took on the emulated boards of `tests/mcu/run.py`, over
`commands`, DS-CNN-S and a network of the ops that those two have not, under `single`.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from deploy.boards import FOLDER, Board, build, emulate, run
from deploy.export.c import export
from deploy.graph import GraphBuilder
from deploy.profile import work_of
from deploy.program import compile_graph
from kws.arithmetic.quant import QuantParams
from tests.mcu.models import Network, networks
from tests.mcu.run import BOARDS


def other_ops() -> Network:
    """The ops that no convolutional network of ours has, in sizes that one could have."""
    rng = np.random.default_rng(0)
    params = QuantParams(0.125, 3)
    builder = GraphBuilder("single")
    x = builder.pad(builder.input((49, 10, 16), params), "pad", paddings=((1, 1), (0, 0), (0, 0)))
    x = builder.max_pool(x, "max_pool", (2, 2))
    top = builder.slice(x, "slice", begin=(0, 0, 0), size=(20, 5, 16))
    x = builder.concatenation((top, x), "concatenation", axis=0, output=QuantParams(0.25, -1))
    x = builder.mul(x, builder.logistic(x, "logistic"), "mul", output=QuantParams(0.25, -1))
    x = builder.mean(x, "mean")
    weight = rng.integers(-127, 128, (12, 16)).astype(np.int8)
    x = builder.fully_connected(x, "dense", weight, 0.0078125, 0, None, output=params)
    graph = builder.finish(builder.softmax(x, "softmax"))
    inputs = rng.integers(-128, 128, (1, 49, 10, 16)).astype(np.int8)
    labels = tuple(f"label{i}" for i in range(12))
    return Network("other ops", graph, networks()[1].frontend, labels, inputs)


def main() -> None:
    """Print a table a board, in the form that deploy/profile.py has."""
    found = [*networks()[:2], other_ops()]
    for board in BOARDS:
        rows: dict[str, list[list[float]]] = defaultdict(list)
        code: dict[str, int] = {}
        for network in found:
            program = compile_graph(network.graph)
            classifiers = {op.name for op in network.graph.ops if op.kind == "fully_connected"}
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "m"
                export(network.graph, network.frontend, network.labels, folder, name="m")
                (folder / "inputs.bin").write_bytes(network.inputs[:1].tobytes())
                build(board, folder, FOLDER / "main.c")
                printed = [line.split() for line in emulate(board, folder).splitlines()]
                code |= _code(board, folder)
            counts = [board.instructions(int(row[1])) for row in printed if row[0] == "layer"]
            for step, count in zip(program.steps, counts, strict=True):
                if step.name in classifiers:
                    continue  # one position takes as long as three, and nothing beside the rest
                rows[step.kernel].append([*work_of(network.graph, step.name), count])
        print(f"\n{board.name}, {board.path}")
        for kernel, layers in sorted(rows.items()):
            table = np.array(layers)
            fit, _ = nnls(table[:, :-1] / table[:, -1:], np.ones(len(table)))
            errors = table[:, :-1] @ fit / table[:, -1] - 1
            numbers = ", ".join(f"{value:.2f}" for value in fit)
            error = f"{len(table)} layers, error {errors.min():+.1%} to {errors.max():+.1%}"
            print(f'    "{kernel}": Kernel({numbers}, {code.get(kernel, 0)}),  # {error}')
        print(f"    other code {code['other']}")


def _code(board: Board, folder: Path) -> dict[str, int]:
    """Bytes of text and of constants by kernel, before linking; the walker and the interface are `other`."""
    size = board.compiler.replace("gcc", "size")
    found: dict[str, int] = defaultdict(int)
    for path in sorted((folder / "src").glob("*.o")):
        text = int(run(size, path).splitlines()[1].split()[0])
        name = path.name.split(".")[0].replace("m_nn_", "kws_")
        found[name if name != "kws_network" else "other"] += text
    return found


if __name__ == "__main__":
    main()
