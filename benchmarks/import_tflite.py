# SPDX-License-Identifier: Apache-2.0
"""Models that others made: which are imported, and whether every value is TensorFlow Lite Micro's.

    python benchmarks/import_tflite.py --models FOLDER [--data TEST_SET]

FOLDER holds .tflite files. Each is imported, or refused with the line that is printed. INPUTS random int8 inputs go
through the NumPy executor, the C engine and the tflite-micro interpreter; every operator's output is compared, and the
C engine's output. TEST_SET is the official test set of Speech Commands v0.02: with it, a file named
mlperf_tiny_kws_ref_int8.tflite is imported with `--preset mlperf-tiny` and evaluated. Exit code 1 for a difference.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from host import date_and_cpu
from numpy.typing import NDArray

from deploy import engine, reference
from deploy.export import c, tflite
from deploy.graph import Graph
from deploy.importers.tflite import Imported, read
from deploy.profile import profile
from deploy.tflite_runtimes import part_of, run_tflite, with_outputs
from kws.cli.common import columns
from kws.errors import KwsError
from kws.evaluate import evaluate
from kws.importing import import_tflite

INPUTS = 100
MLPERF = "mlperf_tiny_kws_ref_int8"
MLPERF_LABELS = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "_silence_", "_unknown_"]


def compare(data: bytes, found: Imported) -> tuple[int, int, int]:
    """Values, values that differ from TensorFlow Lite Micro, and outputs of the C engine that differ from NumPy's."""
    graph = found.graph
    x = np.random.default_rng(0).integers(-128, 128, (INPUTS, *graph.input_shape)).astype(np.int8)
    ours = reference.run_all(graph, x)
    subgraph = schema.ModelT.InitFromPackedBuf(data, 0).subgraphs[0]
    file_names = {number: subgraph.tensors[number].name.decode() for number in found.names}
    source = next(number for number, name in found.names.items() if name == graph.input)
    outputs = {number: name for number, name in found.names.items() if name != graph.input}
    only_int8 = part_of(data, file_names[max(outputs, key=lambda n: order(graph, outputs[n]))], [file_names[source]])
    theirs = run_tflite("tflm", with_outputs(only_int8, {file_names[n] for n in outputs}), {file_names[source]: x})
    values = differ = 0
    for number, name in outputs.items():
        mine = ours[name].reshape(INPUTS, -1)
        values += mine.size
        differ += int((theirs[file_names[number]].reshape(INPUTS, -1) != mine).sum())
    native: NDArray[Any] = engine.run(graph, x, "native")
    return values, differ, int((native != ours[graph.output]).sum())


def order(graph: Graph, name: str) -> int:
    """When the tensor is made."""
    return next(index for index, op in enumerate(graph.ops) if op.output == name)


def row(path: Path, data: bytes, found: Imported) -> list[str]:
    """One row of the table."""
    graph = found.graph
    values, differ, native = compare(data, found)
    m4 = profile(graph, "cortex-m4")
    with tempfile.TemporaryDirectory() as folder:
        labels = [f"class_{i}" for i in range(graph.output_shape[0])]
        c.export(graph, None, labels, Path(folder) / "c", name="model")
    again = read(tflite.export(graph, labels, None)).graph
    x = np.random.default_rng(1).integers(-128, 128, (5, *graph.input_shape)).astype(np.int8)
    same = np.array_equal(reference.run(again, x), reference.run(graph, x))
    shape = "x".join(map(str, graph.input_shape))
    return [
        path.stem, shape, str(len(graph.ops)), f"{graph.check().macs:,}", f"{values:,}", str(differ), str(native),
        "yes" if same else "NO", f"{m4.flash:,}", f"{m4.ram:,}",
    ]  # fmt: skip


@click.command()
@click.option("--models", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of .tflite files.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of twelve folders.")
def main(models: Path, data: Path | None) -> None:
    print(date_and_cpu())
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "tflite-micro")))
    options = " --data SPEECH_COMMANDS_TEST_SET_V0.02" if data else ""
    print(f"python benchmarks/import_tflite.py --models FOLDER{options}\n")
    head = ["model", "input", "ops", "MACs", "values", "not TFLM's", "C not NumPy's", "exported again"]
    rows, refused = [[*head, "M4 flash", "M4 RAM"]], []
    for path in sorted(models.glob("*.tflite")):
        content = path.read_bytes()
        try:
            found = read(content)
        except KwsError as error:
            refused.append(f"{path.stem}: {error.what}")
        else:
            rows.append(row(path, content, found))
    print(columns(rows))
    print("\nvalues: of every operator's output, over", INPUTS, "random inputs\n\nrefused:")
    print("\n".join(refused))
    if data is not None:
        model = import_tflite(models / f"{MLPERF}.tflite", labels=MLPERF_LABELS, preset="mlperf-tiny")
        found_right = int(np.trace(evaluate(model, data, "all").confusion))
        print(f"\n{MLPERF} with --preset mlperf-tiny: {found_right:,} of 4,890 clips right")
    sys.exit(any(line[5:8] != ["0", "0", "yes"] for line in rows[1:]))


if __name__ == "__main__":
    main()
