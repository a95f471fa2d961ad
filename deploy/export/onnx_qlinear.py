# SPDX-License-Identifier: Apache-2.0
"""QLinearConv and its kin: operators that take and make integers, most of them ONNX Runtime's own.

ONNX Runtime computes a requantization as rint(float32(acc) * float32(Sx Sw / Sy)) + Z: one rounding, ties to even, as
the rule `half_even`, but for products that float32 rounds across a tie. It derives that factor from the scales alone,
so there is no multiplier or shift here to compare with. An add whose output has an odd zero point is on reals.

Activations stay int8: on x86 with AVX2 and without VNNI, products of uint8 and int8 are added in 16 bits and saturate.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from deploy.export.onnx_file import OPSET, Writer, clamp_of, weight_scales
from deploy.graph import Graph, Op
from deploy.ops.base import Pair
from deploy.tensor import IntArray
from deploy.tflite_rules import FULL_CLAMP

_CONTRIB = "com.microsoft"
_MORE: dict[str, dict[str, Any]] = {"GlobalAveragePool": {"channels_last": 0}, "Softmax": {"opset": OPSET}}
"""What ONNX Runtime's operators are told besides the attributes of ONNX's."""


def has_odd_output(graph: Graph, op: Op) -> bool:
    """Whether QLinearAdd or QLinearMul, which add Z before they round half to even, would turn the op's ties."""
    return graph.tensors[op.output].zero_point % 2 == 1


class QLinearWriter(Writer):
    """All but convolution and what moves values are operators of ONNX Runtime's com.microsoft, version 1."""

    opsets: ClassVar[dict[str, int]] = {"": OPSET, _CONTRIB: 1}

    def convolve(self, op: Op, weight: IntArray, **attributes: Any) -> None:
        self._conv(op, op.inputs[0], op.output, weight, **attributes)

    def dense(self, op: Op) -> None:
        """A convolution of one by one: QLinearMatMul has no bias."""
        weight = self.graph.tensors[op.inputs[1]].data
        assert weight is not None
        column, made = self.name(f"{op.name}/column"), self.name(f"{op.name}/made")
        shapes = [
            self.constant(f"{op.name}/shape", np.array([0, size, *ones], np.int64))
            for size, ones in ((weight.shape[1], (1, 1)), (weight.shape[0], ()))
        ]
        self.node("Reshape", [op.inputs[0], shapes[0]], column)
        self._conv(op, column, made, weight[..., None, None])
        self.node("Reshape", [made, shapes[1]], op.output)

    def compute(self, kind: str, op: Op, output: str, *, clamp: Pair = FULL_CLAMP, **attributes: Any) -> None:
        if op.kind == "add" and has_odd_output(self.graph, op):
            super().compute("Sum", op, output, clamp=clamp)  # ONNX Runtime makes a QLinearAdd of an Add on reals
            return
        target = self.graph.tensors[op.output]
        first = self.domain(target) if kind == "Concat" else []
        inputs = [name for x in self.graph.inputs_of(op) for name in (x.name, *self.domain(x))]
        last = [] if first else self.domain(target)
        attributes |= _MORE.get(kind, {})
        self.node(f"QLinear{kind}", [*first, *inputs, *last], output, domain=_CONTRIB, clamp=clamp, **attributes)

    def _conv(self, op: Op, source: str, target: str, weight: IntArray, **attributes: Any) -> None:
        """QLinearConv from the tensor `source` to `target`."""
        x, kept, bias = self.graph.inputs_of(op)
        assert bias.data is not None
        scales = weight_scales(kept)
        constants = [
            self.constant(kept.name, weight),
            self.constant(f"{kept.name}/scale", scales),
            self.constant(f"{kept.name}/zero_point", np.full(scales.shape, kept.zero_point, np.int8)),
        ]
        output = self.domain(self.graph.tensors[op.output])
        inputs = [source, *self.domain(x), *constants, *output, self.constant(bias.name, bias.data)]
        self.node("QLinearConv", inputs, target, clamp=clamp_of(op), **attributes)
