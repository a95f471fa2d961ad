# SPDX-License-Identifier: Apache-2.0
"""How far two engines agree on a network: logit by logit over clips, and op by op from the same inputs.

What differs in one op from the same inputs has to be a tie that float32 could not see; `compare_ops` measures it. What
differs in the logits is the sum of what such values did to the layers after them; `compare_logits` counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deploy import reference
from deploy.graph import Graph, Op
from deploy.ops.add import LEFT_SHIFT, Add
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.verify import FLOAT32_ROUNDINGS
from features.quantize import quantize_features
from kws.arithmetic.quant import dequantize, quantize
from training.convert import tensor_names
from training.qat import quantizer_of
from training.trace import consumers, trace

Int8 = NDArray[np.int8]
Float64 = NDArray[np.float64]

RULES = ("single", "half_even", "tflm")

_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Agreement:
    """Int8 logits of a graph against those of the fake-quantized network, over clips."""

    rounding: str
    n_clips: int
    n_values: int
    n_equal: int
    max_step: int
    """Largest difference, in steps of the output."""
    n_clips_different: int
    argmax_changed: tuple[int, ...]
    """Indices of the clips for which the two name another label."""
    right_to_wrong: int
    wrong_to_right: int

    @property
    def equal(self) -> float:
        """Share of the logits that are equal."""
        return self.n_equal / self.n_values

    @property
    def p_value(self) -> float:
        """Exact two-sided sign test of the clips that go right to wrong against those that go wrong to right."""
        return sign_test(self.right_to_wrong, self.wrong_to_right)


@dataclass(frozen=True, slots=True)
class OpAgreement:
    """One op in two engines, from the same inputs."""

    name: str
    kind: str
    n_values: int
    n_different: int
    max_step: int
    max_tie_distance: float
    """Of the values that differ, the largest distance of the exact result from a tie, in steps of the output."""
    n_unexplained: int
    """Of the values that differ, those further from a tie than float32 reaches."""


def compare_network(
    model: nn.Module, graph: Graph, features: NDArray[np.float32], labels: NDArray[np.integer[Any]]
) -> list[Agreement]:
    """The fake-quantized network against its graph, under each rule of RULES: features (N, T, F), true labels (N,)."""
    expected = quantize(float_logits(model, features), graph.output_params)
    x = quantize_features(features, graph.input_params)[..., None]
    return [
        compare_logits(expected, reference.run(graph.with_rounding(rule), x), labels, rounding=rule) for rule in RULES
    ]


def float_logits(model: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (N, n_labels) of a network in eval mode for features (N, T, F)."""
    model.eval()
    with torch.no_grad():
        batches = torch.split(torch.from_numpy(features)[:, None], _CHUNK)
        return cast(NDArray[np.float32], torch.cat([model(batch) for batch in batches]).numpy())


def compare_logits(
    expected: NDArray[np.integer[Any]],
    actual: NDArray[np.integer[Any]],
    labels: NDArray[np.integer[Any]],
    *,
    rounding: str,
) -> Agreement:
    """Counts over int8 logits (N, n_labels) and true labels (N,); `rounding` is the rule that made `actual`."""
    steps = np.abs(expected.astype(np.int64) - actual)
    before, after = expected.argmax(1), actual.argmax(1)
    return Agreement(
        rounding=rounding,
        n_clips=len(steps),
        n_values=steps.size,
        n_equal=int((steps == 0).sum()),
        max_step=int(steps.max(initial=0)),
        n_clips_different=int(steps.any(1).sum()),
        argmax_changed=tuple(np.flatnonzero(before != after).tolist()),
        right_to_wrong=int(((before == labels) & (after != labels)).sum()),
        wrong_to_right=int(((before != labels) & (after == labels)).sum()),
    )


def sign_test(a: int, b: int) -> float:
    """Exact two-sided p of a coin that falls `a` times one way and `b` times the other; 1 where there is no throw."""
    tail = sum(math.comb(a + b, i) for i in range(min(a, b) + 1))
    return min(1.0, float(Fraction(tail, 2 ** (a + b - 1)))) if a + b else 1.0


def compare_ops(run_op: Callable[[Op, Sequence[Int8]], Int8], graph: Graph, x: Int8) -> list[OpAgreement]:
    """Another engine's `run_op` against the executor, op by op, each from the executor's inputs; x int8 (N, *shape).

    For average pools, which round by a rule of their own, tie distances are not measured.
    """
    reports = [OpAgreement(op.name, op.kind, 0, 0, 0, 0.0, 0) for op in graph.ops]
    for start in range(0, len(x), _CHUNK):
        values = reference.run_all(graph, x[start : start + _CHUNK])
        for i, op in enumerate(graph.ops):
            inputs = [values[name] for name in op.inputs if name in values]
            reports[i] = _accumulate(reports[i], graph, op, inputs, values[op.output], run_op(op, inputs))
    return reports


class FakeQuantizedOps:
    """The modules of a fake-quantized network as an engine of the ops that they became: int8 in, int8 out."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.graph = graph
        self.calls = trace(model.eval())
        self.tensors = tensor_names(self.calls)

    def run_op(self, op: Op, inputs: Sequence[Int8]) -> Int8:
        """What the modules of one op, with the zero padding before and the ReLU6 behind, make of its activations."""
        given = {
            name: _to_torch(dequantize(x, self.graph.tensors[name].params))
            for name, x in zip(op.inputs, inputs, strict=False)
        }
        call = next(call for call in self.calls if call.name == op.name)
        with torch.no_grad():
            output = call.module(*(self._input(name, given) for name in call.inputs))
            if isinstance(call.module, nn.Module) and quantizer_of(call.module) is None:
                for reader in consumers(self.calls, call.name):
                    if isinstance(reader.module, nn.ReLU6):
                        output = reader.module(output)
        return cast(Int8, quantize(_from_torch(output), self.graph.tensors[op.output].params))

    def _input(self, name: str, given: dict[str, Tensor]) -> Tensor:
        call = next(call for call in self.calls if call.name == name)
        x = given[self.tensors[name]]
        return cast(Tensor, call.module(x)) if isinstance(call.module, nn.ZeroPad2d) else x


def _accumulate(
    report: OpAgreement, graph: Graph, op: Op, inputs: Sequence[Int8], expected: Int8, actual: Int8
) -> OpAgreement:
    different = expected != actual
    report = replace(report, n_values=report.n_values + expected.size)
    if not different.any():
        return report
    clips = different.reshape(len(different), -1).any(1)
    steps = np.abs(expected.astype(np.int64) - actual).max()
    report = replace(
        report, n_different=report.n_different + int(different.sum()), max_step=max(report.max_step, int(steps))
    )
    if op.kind == "average_pool":
        return report
    exact, reach = exact_result(graph, op, [x[clips] for x in inputs])
    distance = np.abs(exact - np.floor(exact) - 0.5)[different[clips]]
    return replace(
        report,
        max_tie_distance=max(report.max_tie_distance, float(distance.max())),
        n_unexplained=report.n_unexplained + int((distance > reach[different[clips]]).sum()),
    )


def exact_result(graph: Graph, op: Op, inputs: Sequence[Int8]) -> tuple[Float64, Float64]:
    """(result, reach) of an affine op or a sum before it is rounded, float64 (N, *shape), in output steps without Z.

    `reach` bounds the error of FLOAT32_ROUNDINGS roundings of the terms, and for a sum that of the executor's own two.
    """
    tensors = graph.inputs_of(op)
    output = graph.tensors[op.output].params
    centred = [x.astype(np.float64) - tensor.zero_point for x, tensor in zip(inputs, tensors, strict=False)]
    unit = FLOAT32_ROUNDINGS * 2.0**-24
    if isinstance(op.attributes, Add):
        a, b = (x * (tensor.params.scale / output.scale) for x, tensor in zip(centred, tensors, strict=True))
        shared = 2 * max(tensor.params.scale for tensor in tensors) / output.scale
        return a + b, unit * (np.abs(a) + np.abs(b)) + shared * 2.0**-LEFT_SHIFT
    x, weight, bias = tensors
    assert weight.data is not None
    assert bias.data is not None
    acc = _affine(op, centred[0], weight.data.astype(np.float64) - weight.zero_point)
    multiplier = x.params.scale * np.asarray(weight.scale, np.float64) / output.scale
    return (acc + bias.data) * multiplier, unit * (np.abs(acc) + np.abs(bias.data)) * multiplier


def _affine(op: Op, x: Float64, weight: Float64) -> Float64:
    """The sums of a convolution, depthwise convolution or fully connected op, exact in float64."""
    attributes = cast(Any, op.attributes)
    if isinstance(attributes, FullyConnected):
        return x @ weight.T
    depthwise = isinstance(attributes, DepthwiseConv2d)
    kernel = np.ascontiguousarray(weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)))
    acc = torch.nn.functional.conv2d(
        _to_torch(np.pad(x, ((0, 0), *attributes.padding, (0, 0)))), torch.from_numpy(kernel), stride=attributes.stride,
        groups=x.shape[3] if depthwise else 1,
    )  # fmt: skip
    return _from_torch(acc)


def _to_torch(x: NDArray[Any]) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W); (N, C) stays."""
    tensor = torch.from_numpy(x)
    return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor


def _from_torch(x: Tensor) -> NDArray[Any]:
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).contiguous().numpy()
