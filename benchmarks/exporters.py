# SPDX-License-Identifier: Apache-2.0
"""One small network through three exporters of int8 models and through ours: the table of docs/formats.md.

    python -W ignore benchmarks/exporters.py --write benchmarks/results/exporters.txt [--python NAME=PATH ...]

Makes a virtual environment for each exporter in a temporary folder, installs it there, runs its script of
benchmarks/in_exporter/ and removes the environment. `--python` names another interpreter for one of them (onnx2tf
wants Python 3.12). The network is a 49x10 DS-CNN-S for twelve of the words in data/, trained for EPOCHS epochs and
then by QAT for one; the inputs are N_INPUTS of the same clips. Needs the test extra, a network and 3 GB of disk. What
fails has the first line of its message in the table.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter
from host import date_and_cpu
from in_exporter.common import eager_qat, first_line
from numpy.typing import NDArray
from torch import nn

from deploy import reference
from deploy.export.tflite import export
from deploy.export.tflite_file import tflite_schema
from deploy.verify import Verifier, engines
from features.audio import read_audio
from features.config import get_preset
from features.float_frontend import features
from features.quantize import clip_samples, quantize_features
from training import qat
from training.compare import float_logits
from training.convert import convert
from training.networks import registry
from training.networks.layers import AveragePool, ConvBn

ROOT = Path(__file__).parents[1]
N_INPUTS, N_LABELS, EPOCHS = 500, 12, 3
CALLS = 2000
TORCH = f"torch=={version('torch').split('+')[0]}"
EXPORTERS = {
    # its Cortex-M quantizer imports the next two
    "executorch": ("executorch==1.5.1", "tosa-tools==2026.5.0", "ml_dtypes==0.5.1", TORCH),
    "litert-torch": ("litert-torch==0.10.0", TORCH),
    "onnx2tf": ("onnx2tf==2.6.9",),
}
OURS = "integer-kws"
ROWS = (
    "install", "eager QAT as input", "QAT at all", "fully int8", "int8 logits equal to its own reference",
    "file; latency", "runs without a vendor's simulator",
)  # fmt: skip
Column = dict[str, str]


def clips() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (N, T, F) and labels of the clips of the first twelve words in data/."""
    words = sorted(path for path in (ROOT / "data").iterdir() if path.is_dir() and path.name[0] != "_")
    words = [path for path in words if path.name != "recordings"][:N_LABELS]
    files = [(path, label) for label, word in enumerate(words) for path in sorted(word.glob("*.opus"))]
    sound = np.stack([clip_samples(read_audio(path, dtype="int16", sample_rate=16_000), 16_000) for path, _ in files])
    return features(sound, get_preset("mfcc10")), np.array([label for _, label in files])


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, rate: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), rate)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 32 * 32].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


def plain(model: nn.Module) -> nn.Sequential:
    """The same layers, and no class of ours: what an exporter's own user would hand to it."""
    layers: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ConvBn):
            layers += [module.pad, module.conv, module.bn, module.relu]
        elif isinstance(module, AveragePool):
            layers.append(nn.AvgPool2d(module.window))
        elif isinstance(module, nn.Flatten | nn.Linear):
            layers.append(module)
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity))).eval()


def prepare(folder: Path) -> tuple[nn.Module, NDArray[np.float32]]:
    """Writes what the scripts read; returns the fake-quantized network and the inputs (N, T, F)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    values, labels = clips()
    x, y = torch.from_numpy(values)[:, None], torch.from_numpy(labels)
    model = registry.build("ds-cnn-s", get_preset("mfcc10").input_shape[:2], N_LABELS)
    train(model, x, y, EPOCHS, 1e-3)
    model.eval()
    layers = plain(model)
    inputs = x[torch.randperm(len(x))[:N_INPUTS]]
    torch.testing.assert_close(layers(inputs), model(inputs))
    torch.save(layers, folder / "plain.pt")
    np.save(folder / "inputs.npy", inputs.numpy())
    np.savez(folder / "train.npz", x=x.numpy(), y=labels)
    fake = qat.prepare_qat(model, qat.QuantScheme())
    train(fake, x, y, 1, 1e-4)
    qat.freeze(fake)
    qat.avoid_ties(fake)
    fake.eval()
    for name, network in (("net", layers), ("qat", eager_qat(layers, folder))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    network,
                    (inputs[:1],),
                    folder / f"{name}.onnx",
                    dynamo=False,
                    opset_version=17,
                    input_names=["input"],
                )
        except Exception as error:  # whatever torch raises is what the table shows of onnx2tf
            (folder / f"{name}.failed").write_text(first_line(error))
    return fake, inputs[:, 0].numpy()


def installed(folder: Path, python: str, *requirements: str) -> str:
    """What an environment takes up: site-packages, without pip. RuntimeError where pip does not install it."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--quiet", "--no-cache-dir", *requirements], capture_output=True, text=True)
    if done.returncode:
        lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RuntimeError(f"did not install: {first_line(lines[0] if lines else done.stderr)}")
    (packages,) = folder.glob("lib/python*/site-packages")
    size = sum(path.lstat().st_size for path in packages.rglob("*") if path.is_file())
    return f"{size / 1e6:,.0f} MB, {len(list(packages.glob('*.dist-info')))} packages"


def float_operators(data: bytes) -> int:
    """Operators that read or write reals, other than the conversions at the ends of the network."""
    schema = tflite_schema()
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    ends = {schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE}
    real = {i for i, tensor in enumerate(graph.tensors) if tensor.type == schema.TensorType.FLOAT32}
    kinds = [model.operatorCodes[op.opcodeIndex].builtinCode for op in graph.operators]
    used = [real & {*map(int, op.inputs), *map(int, op.outputs)} for op in graph.operators]
    return sum(bool(reals) and kind not in ends for kind, reals in zip(kinds, used, strict=True))


def run_litert(data: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits of inputs (N, T, F) as reals, in LiteRT with one thread."""
    interpreter = Interpreter(model_content=data, num_threads=1)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = x.reshape(len(x), *source["shape"])
    if source["dtype"] == np.int8:
        scale, zero_point = source["quantization"]
        rows = np.clip(np.rint(rows / scale) + zero_point, -128, 127).astype(np.int8)
    found = []
    for row in rows:
        interpreter.set_tensor(source["index"], row)
        interpreter.invoke()
        found.append(interpreter.get_tensor(sink["index"])[0].astype(np.float32))
    logits = np.stack(found)
    if sink["dtype"] == np.int8:
        logits = (logits - sink["quantization"][1]) * sink["quantization"][0]
    return logits


def latencies(files: dict[str, bytes]) -> dict[str, float]:
    """The median microseconds of a call of each file in LiteRT with one thread, the files in turn."""
    times: dict[str, list[float]] = {name: [] for name in files}
    interpreters = {name: Interpreter(model_content=data, num_threads=1) for name, data in files.items()}
    for interpreter in interpreters.values():
        interpreter.allocate_tensors()
    for _ in range(CALLS):
        for name, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * float(np.median(values)) for name, values in times.items()}


def equal(expected: NDArray[Any], actual: NDArray[Any], scale: float) -> str:
    """Of logits that lie on a grid of `scale`: the share that is equal, and the largest difference in steps."""
    steps = np.abs(np.rint(expected / scale) - np.rint(actual / scale)).astype(int)
    share = np.floor(1e4 * (steps == 0).mean()) / 100
    return f"{share:.2f} % (max {steps.max()})"


def theirs(name: str, folder: Path, x: NDArray[np.float32], python: str, files: dict[str, bytes]) -> Column:
    """Installs an exporter, runs its script, reads what it left; a .tflite goes into `files`."""
    column = dict.fromkeys(ROWS, "-")
    environment = folder / name
    try:
        column["install"] = installed(environment, python, *EXPORTERS[name])
        for old in ("result.json", "int8.tflite", "int8.pte", "reference.npz"):
            (folder / old).unlink(missing_ok=True)
        script = Path(__file__).parent / "in_exporter" / f"in_{name.replace('-', '_')}.py"
        command = [str(environment / "bin/python"), "-W", "ignore", str(script), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        if not (folder / "result.json").exists():
            raise RuntimeError(f"script fails: {done.stderr.strip().splitlines()[-1]}")
        result = json.loads((folder / "result.json").read_text())
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return {**column, "install": f"{column['install']} {first_line(error)}".removeprefix("- ")}
    finally:
        shutil.rmtree(environment, ignore_errors=True)
    return column | read(name, folder, result, x, files)


def read(name: str, folder: Path, result: dict[str, str], x: NDArray[np.float32], files: dict[str, bytes]) -> Column:
    """The rows below `install`."""
    column = {
        "eager QAT as input": result["eager"],
        "QAT at all": result.get("qat", "no such mode"),
        "fully int8": result["ptq"],
    }
    if "contiguous" in result:
        column["fully int8"] = f"channels last: {result['ptq']}; contiguous: {result['contiguous']}"
    if "per-tensor" in result:
        column["fully int8"] = f"per channel {result['ptq']}; per tensor: {result['per-tensor']}"
    file = next((folder / f for f in ("int8.tflite", "int8.pte") if (folder / f).exists()), None)
    if file is None:
        return column
    known = np.load(folder / "reference.npz") if (folder / "reference.npz").exists() else None
    if file.suffix == ".tflite":
        files[name] = file.read_bytes()
        logits = run_litert(files[name], x)
        column["fully int8"] += f" ({float_operators(files[name])} float operators)"
        column["runs without a vendor's simulator"] = "yes"
    else:
        logits = np.load(folder / "logits.npy")
        column["runs without a vendor's simulator"] = "no: the package's runtime has none of its operators"
    column["file; latency"] = f"{file.stat().st_size:,} bytes" + (f"; {result['run']}" if "run" in result else "")
    how = ", by the operators' Python versions" if file.suffix == ".pte" else ""
    same = "has none" if known is None else equal(known["logits"], logits, float(known["scale"])) + how
    return column | {"int8 logits equal to its own reference": same}


def ours(fake: nn.Module, x: NDArray[np.float32], files: dict[str, bytes]) -> Column:
    """The same rows: eager QAT to a graph, its engines, its file, which goes into `files`."""
    graph = convert(fake, get_preset("mfcc10").input_shape)
    values = quantize_features(x, graph.input_params)[..., None].astype(np.int8)
    verifier = Verifier(graph, values[:100])
    rows = [row for engine in engines() for row in verifier.rows(engine)]
    must = [row for row in rows if row.verdict in ("equal", "DIFFERS", "FAILED") and row.part == "logits"]
    wrong = [f"{row.engine} ({row.rule})" for row in rows if row.failed]
    files[OURS] = export(graph.with_rounding("half_even"), [f"class_{i}" for i in range(N_LABELS)], None)
    own = reference.run(graph, values).astype(np.float32)
    logits = run_litert(files[OURS], x)
    scale, zero_point = graph.output_params.scale, graph.output_params.zero_point
    sizes = []
    for extra, options in (("", ()), ("[train,tflite]", ("--constraint", str(ROOT / "constraints.txt")))):
        with tempfile.TemporaryDirectory() as environment:
            sizes.append(installed(Path(environment), sys.executable, *options, f"{ROOT}{extra}"))
    agreed = equal(float_logits(fake, x), (own - zero_point) * scale, scale)
    in_litert = equal((own - zero_point) * scale, logits, scale)
    engines_say = (
        f"differ: {', '.join(wrong)}"
        if wrong
        else f"{len(must)} comparisons with C and TFLM under their rules: every bit"
    )
    return {
        "install": f"{sizes[0]}; with torch and the extras for QAT and .tflite {sizes[1]}",
        "eager QAT as input": "yes",
        "QAT at all": "yes",
        "fully int8": f"yes ({float_operators(files[OURS])} float operators); an error, never float",
        ROWS[4]: f"{engines_say}; fake-quantized network {agreed}; in LiteRT {in_litert}",
        "file; latency": f"{len(files[OURS]):,} bytes",
        "runs without a vendor's simulator": "yes; and on emulated boards (tests/mcu)",
    }


def table(columns: dict[str, Column]) -> str:
    """Markdown: a row a question, a column an exporter."""
    titles = [EXPORTERS[name][0].replace("==", " ") if name in EXPORTERS else name for name in columns]
    rows = [["", *titles], ["---"] * (len(columns) + 1)]
    rows += [[row, *(column[row].replace("|", "/") for column in columns.values())] for row in ROWS]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


@click.command()
@click.option("--write", type=click.Path(path_type=Path), help="Write what is printed to this file too.")
@click.option("--only", multiple=True, type=click.Choice([*EXPORTERS, OURS]), help="These columns.  [default: all]")
@click.option("--python", "pythons", multiple=True, metavar="NAME=PATH", help="The interpreter of an exporter.")
def main(write: Path | None, only: Sequence[str], pythons: Sequence[str]) -> None:
    given = dict(entry.split("=", 1) for entry in pythons if "=" in entry)
    if len(given) < len(pythons) or not set(given) <= set(EXPORTERS):
        raise click.UsageError(f"--python takes NAME=PATH with a NAME of {', '.join(EXPORTERS)}")
    others = "".join(f", {name} in {python_version(path)}" for name, path in given.items())
    if write is not None and not write.parent.is_dir():
        raise click.UsageError(f"--write {write}: there is no such folder")
    columns: dict[str, Column] = {}
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fake, x = prepare(folder)
        for name in [name for name in (*EXPORTERS, OURS) if name in only or not only]:
            click.echo(f"{name} ...", err=True)
            if name == OURS:
                columns[name] = ours(fake, x, files)
            else:
                columns[name] = theirs(name, folder, x, given.get(name, sys.executable), files)
            click.echo(json.dumps(columns[name]), err=True)
    for name, microseconds in latencies(files).items():
        columns[name]["file; latency"] += f"; {microseconds:.1f} us in LiteRT"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ai-edge-litert", "numpy"))
    text = "\n".join(
        [
            f"{date_and_cpu()}, Python {sys.version.split()[0]}{others}, {versions}",
            "python -W ignore benchmarks/exporters.py"
            + "".join(f" --python {name}=PYTHON" for name in given)
            + "".join(f" --only {name}" for name in only),
            f"49x10 DS-CNN-S of {N_LABELS} words of data/, {EPOCHS} epochs and one of QAT, {N_INPUTS} inputs",
            "",
            table(columns),
        ]
    )
    click.echo(text)
    if write is not None:
        write.write_text(text + "\n")


def python_version(path: str) -> str:
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.UsageError(f"--python: {path} is no interpreter: {error}") from None


if __name__ == "__main__":
    main()
