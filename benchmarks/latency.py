# SPDX-License-Identifier: Apache-2.0
"""Time of one inference of the 49x10 DS-CNN-S (2.7 million multiply-accumulates) in four runtimes, one thread each,
interleaved in one run; and clips per second of the native engine by batch and threads.

    python -W ignore benchmarks/latency.py --tflite kws_ref_model.tflite --write benchmarks/results/latency.txt

The network is `ds-cnn-s` untrained, quantized after training on noise: the time does not depend on the weights. The
native engine, ONNX Runtime (QLinearConv, built here from the same integers) and PyTorch (its quantized modules of the
same integers) run it; LiteRT runs MLPerf Tiny's reference model of the same shape, which the option names. Beside the
median stands the fastest tenth, which other work on the machine slows less. Needs `pip install onnx onnxruntime` beside
the test extra.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import onnx
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from host import date_and_cpu
from onnx import TensorProto, helper, numpy_helper

from deploy import native, reference
from deploy.graph import Graph
from deploy.ops.average_pool import AveragePool
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from kws.cli.common import columns
from training import qat
from training.convert import convert
from training.networks import registry
from training.torch_engine import TorchEngine

SHAPE = (49, 10, 1)
CALLS = 8  # of one runtime between two looks at the clock
BATCHES = (1, 4, 16, 64, 256, 1024)


def ds_cnn_s() -> Graph:
    """DS-CNN-S for 12 classes, its ranges from noise."""
    torch.manual_seed(0)
    model = registry.build("ds-cnn-s", input_shape=SHAPE[:2], n_labels=12)
    prepared = qat.prepare_ptq(model, qat.QuantScheme(scheme="affine", weights="per-channel"))
    qat.calibrate(prepared, [torch.randn(32, 1, *SHAPE[:2])])
    return convert(prepared, SHAPE)


def onnx_model(graph: Graph) -> bytes:
    """The same integers as QLinearConv, QLinearAveragePool and QGemm; ONNX Runtime rounds half to even.

    Activations are uint8, q and Z plus 128: with int8 ones its kernels took several times as long here.
    """
    nodes, constants, known = [], [], set()

    def constant(name: str, values: Any) -> str:
        if name not in known:
            known.add(name)
            constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def params(name: str) -> list[str]:
        p = graph.tensors[name].params
        scale = constant(f"{name}_scale", np.float32(p.scale))
        return [scale, constant(f"{name}_zero_point", np.uint8(p.zero_point + 128))]

    for op in graph.ops:
        x, a = op.inputs[0], op.attributes
        if isinstance(a, Conv2d | DepthwiseConv2d | FullyConnected):
            weight, bias = graph.inputs_of(op)[1:]
            assert weight.data is not None
            scales = np.broadcast_to(np.float32(weight.scale), bias.shape)
            zeros = np.full(bias.shape, weight.zero_point, np.int8)
            if isinstance(a, FullyConnected):
                values, kind, domain = weight.data, "QGemm", "com.microsoft"
                attributes: dict[str, Any] = {"transB": 1}
            else:
                depthwise = isinstance(a, DepthwiseConv2d)
                values = weight.data.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
                (top, bottom), (left, right) = a.padding
                attributes = {
                    "strides": a.stride, "pads": [top, left, bottom, right],
                    "group": graph.tensors[x].shape[2] if depthwise else 1,
                }  # fmt: skip
                kind, domain = "QLinearConv", ""
            w = [constant(f"{op.name}_w", values), constant(f"{op.name}_ws", scales), constant(f"{op.name}_wz", zeros)]
            b = constant(f"{op.name}_b", bias.data)
            inputs = [x, *params(x), *w, *((b, *params(op.output)) if domain else (*params(op.output), b))]
            nodes.append(helper.make_node(kind, inputs, [op.output], domain=domain, **attributes))
        elif isinstance(a, AveragePool):
            inputs = [x, *params(x), *params(op.output)]
            attributes = {"kernel_shape": a.kernel, "strides": a.stride}
            nodes.append(
                helper.make_node("QLinearAveragePool", inputs, [op.output], domain="com.microsoft", **attributes)
            )
        else:
            assert op.kind == "reshape", op.kind
            nodes.append(helper.make_node("Flatten", [x], [op.output]))
    height, width, channels = graph.input_shape
    made = helper.make_graph(
        nodes, "ds_cnn_s",
        [helper.make_tensor_value_info(graph.input, TensorProto.UINT8, [1, channels, height, width])],
        [helper.make_tensor_value_info(graph.output, TensorProto.UINT8, [1, *graph.output_shape])],
        constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return cast(bytes, helper.make_model(made, opset_imports=opsets, ir_version=8).SerializeToString())


def runtimes(graph: Graph, tflite: Path) -> dict[str, Callable[[], Any]]:
    """By name, a call that computes one inference and copies nothing to or from Python."""
    x = np.random.default_rng(0).integers(-128, 128, (1, *graph.input_shape)).astype(np.int8)
    expected = reference.run(graph, x)
    calls: dict[str, Callable[[], Any]] = {}
    for level in native.levels():
        engine = native.Engine(graph, level)
        assert np.array_equal(engine.run(x), expected), level
        calls[f"native, {level}"] = engine.prepared(x.copy(), np.empty_like(expected))
    interpreter = Interpreter(model_path=str(tflite), num_threads=1)
    interpreter.allocate_tensors()
    entry = interpreter.get_input_details()[0]
    interpreter.set_tensor(entry["index"], x.reshape(entry["shape"]))
    calls["LiteRT, XNNPACK"] = interpreter.invoke
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(graph), options, providers=["CPUExecutionProvider"])
    fed = np.ascontiguousarray((x.transpose(0, 3, 1, 2).astype(np.int16) + 128).astype(np.uint8))
    difference = np.abs(session.run(None, {graph.input: fed})[0].astype(np.int16) - 128 - expected).max()
    click.echo(f"ONNX Runtime's logits against the native engine's: largest difference {difference}")
    binding = session.io_binding()
    binding.bind_cpu_input(graph.input, fed)
    binding.bind_output(graph.output)
    calls["ONNX Runtime, QLinearConv"] = lambda: session.run_with_iobinding(binding)
    backend, call = _torch_call(graph, x)
    calls[f"PyTorch, quantized modules, {backend}"] = call
    return calls


def _torch_call(graph: Graph, x: Any) -> tuple[str, Callable[[], Any]]:
    """The fastest of its backends here, and its kernels alone: every module on its own input, converted and padded."""
    torch.set_num_threads(1)
    calls = {}
    for backend in torch.backends.quantized.supported_engines:
        if backend != "none":
            calls[backend] = _layers(TorchEngine(graph, backend), reference.run_all(graph, x))
    found = measure(calls, 10)
    best = min(calls, key=lambda backend: found[backend][0])
    return best, calls[best]


def _layers(engine: TorchEngine, values: Any) -> Callable[[], Any]:
    steps = engine.prepared_layers(values)

    def call() -> None:
        torch.backends.quantized.engine = engine.backend
        for layer, value in steps:
            layer(value)

    return call


def measure(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Microseconds of one call, the median of `rounds` visits to each and the one that a tenth of them stays below."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            times[name].append((time.perf_counter() - start) / CALLS * 1e6)
    found = {name: np.quantile(values, (0.5, 0.1)) for name, values in times.items()}
    return {name: (float(median), float(tenth)) for name, (median, tenth) in found.items()}


def throughput(graph: Graph) -> str:
    """Clips per second of the native engine."""
    engine, rng = native.Engine(graph), np.random.default_rng(1)
    cores = native.cores()
    rows = [["batch", "one thread", f"{cores} threads", "ratio"]]
    for batch in BATCHES:
        x = rng.integers(-128, 128, (batch, *graph.input_shape)).astype(np.int8)
        calls = {str(n): lambda n=n, x=x: engine.run(x, threads=n) for n in (1, cores)}
        (one, _), (all_, _) = measure(calls, 60 if batch < 256 else 12).values()
        rows.append([str(batch), f"{batch / one * 1e6:,.0f}", f"{batch / all_ * 1e6:,.0f}", f"{one / all_:.2f}"])
    return columns(rows)


@click.command()
@click.option("--tflite", type=click.Path(exists=True, path_type=Path), required=True, help="kws_ref_model.tflite")
@click.option("--rounds", default=400, show_default=True)
@click.option("--write", type=click.Path(path_type=Path), help="The file that gets what is printed, and the command.")
def main(tflite: Path, rounds: int, write: Path | None) -> None:
    """Print both tables."""
    graph = ds_cnn_s()
    head = [f"{date_and_cpu()}; {', '.join(native.levels())}"]
    head.append(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}, torch {torch.__version__}")
    before = os.getloadavg()[0]
    calls = runtimes(graph, tflite)
    found = measure(calls, rounds)
    best = [min(times[i] for name, times in found.items() if not name.startswith("native")) for i in (0, 1)]
    times_best = "times as fast as the best other"
    rows = [["one inference, one thread, microseconds", "median", times_best, "fastest tenth", times_best]]
    rows += [
        [name, *(text for i in (0, 1) for text in (f"{times[i]:.1f}", f"{best[i] / times[i]:.2f}"))]
        for name, times in found.items()
    ]
    clips = throughput(graph)
    load = f"load average {before:.1f} before and {os.getloadavg()[0]:.1f} after, on {native.cores()} cores"
    command = f"python -W ignore benchmarks/latency.py --tflite {tflite.name} --rounds {rounds}"
    text = f"{columns(rows)}\n\nclips per second of the native engine, calls from Python\n{clips}"
    head += [load, f"{command} --write {write.as_posix()}" if write else command]
    text = "\n".join([*head, "", text])
    click.echo(text)
    if write:
        write.write_text(text + "\n")


if __name__ == "__main__":
    main()
