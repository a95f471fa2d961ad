# SPDX-License-Identifier: Apache-2.0
"""`kws inspect`: what is in a model file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from kws.cli.common import DEFAULT_MODEL, columns, load_model

if TYPE_CHECKING:
    from deploy.graph import Graph, Op
    from kws.arithmetic.requantize import Requant
    from kws.model import Model

_HEAD = ["layer", "op", "output", "scale", "zero point", "clamp", "weight scale", "weight zero point"]
_HEAD += ["multiplier", "shift", "MACs", "bytes", "largest sum"]


@click.command()
@click.argument("model", default=DEFAULT_MODEL)
def inspect(model: str) -> None:
    """Show what is in a model.

    Labels, front-end, detection, and of each layer shape, scales, multipliers, cost and proven bound. MODEL is a .kws
    file, a run folder, or the name of a model that ships. A multiplier and its shift stand for multiplier * 2^(shift
    - 31). The largest sum is the bound of every int32 intermediate, which must stay below 2^31.
    """
    loaded = load_model(model)
    click.echo("\n".join(summary(loaded)))
    click.echo()
    click.echo(layers(loaded.graph))


def summary(model: Model) -> list[str]:
    """One line a fact about everything but the layers."""
    graph = model.graph
    report = graph.check()
    params = graph.input_params
    domain = f"{_shape(graph.input_shape)} int8, S = {params.scale:.6g}, Z = {params.zero_point}"
    lines = [
        f"labels      {' '.join(model.labels)}",
        *(["front-end   none", f"input       {domain}"] if model.frontend is None else _hearing(model, domain)),
        f"rounding    {graph.rounding}",
        f"cost        {report.macs:,} MACs a window, {report.weight_bytes:,} bytes of weights and biases",
    ]
    return lines + [f"{key:<11} {_short(value)}" for key, value in model.provenance.items()]


def _hearing(model: Model, domain: str) -> list[str]:
    """The lines of a model that hears; `domain` is its input's."""
    frontend, detection = model.hearing()
    ms = 1000 / frontend.sample_rate
    kind = f"{frontend.n_mels} mel bands" + (f", {frontend.n_mfcc} MFCC" if frontend.kind == "mfcc" else "")
    hop_ms = detection.hop * frontend.hop_length * ms
    limits = " ".join(f"{t}/{r}" for t, r in zip(detection.thresholds, detection.releases, strict=True))
    return [
        f"front-end   {kind}, {frontend.fmin:g} to {frontend.fmax:g} Hz, {frontend.frame_length * ms:g} ms every "
        f"{frontend.hop_length * ms:g} ms, FFT {frontend.n_fft}, normalize {frontend.normalize}, {frontend.arithmetic}",
        f"input       {domain}; {frontend.clip_samples * ms:g} ms",
        f"detection   every {hop_ms:g} ms, sums of {detection.smoothing} posteriors of 0..255, "
        f"refractory {detection.refractory * hop_ms:g} ms; threshold/release {limits}",
    ]


def layers(graph: Graph) -> str:
    """The table of the ops, in the order in which they run."""
    rows = [_HEAD]
    for op, report in zip(graph.ops, graph.check().ops, strict=True):
        output = graph.tensors[op.output]
        requants = [requant for _, requant in op.attributes.requants()]
        rows.append([
            op.name, op.kind, _shape(output.shape), _spread([output.scale], ".6g"), str(output.zero_point),
            _clamp(requants), *_weights(graph, op),
            _spread((int(m) for r in requants for m in r.multiplier), "d"),
            _spread((int(s) for r in requants for s in r.shift), "d"),
            f"{report.macs:,}", f"{report.weight_bytes:,}", f"{report.acc_bound:,}",
        ])  # fmt: skip
    return columns(rows, left=2)


def _weights(graph: Graph, op: Op) -> tuple[str, str]:
    """Scale (range over the channels) and zero point of the op's weights; empty where it has none."""
    weights = [tensor for tensor in graph.inputs_of(op) if tensor.data is not None and tensor.dtype == "int8"]
    if not weights:
        return "", ""
    scale = weights[0].scale
    return _spread(scale if isinstance(scale, tuple) else [scale], ".6g"), str(weights[0].zero_point)


def _clamp(requants: list[Requant]) -> str:
    return f"[{requants[-1].activation_min}, {requants[-1].activation_max}]" if requants else ""


def _spread(values: Iterable[object], form: str) -> str:
    """The value, or the smallest and the largest of several; empty for none."""
    known = sorted({value for value in values if isinstance(value, int | float)})
    return "" if not known else " .. ".join(format(v, form) for v in dict.fromkeys((known[0], known[-1])))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
