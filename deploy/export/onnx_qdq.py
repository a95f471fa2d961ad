# SPDX-License-Identifier: Apache-2.0
"""ONNX's float operators between DequantizeLinear and QuantizeLinear, for tools that read no QLinear operators.

Activations, weights and biases are the graph's integers; a tool that knows the pattern may compute with them, and one
that does not adds float32 reals and rounds the quotient by S half to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.export.onnx_file import Writer, clamp_of, weight_scales
from deploy.graph import Op
from deploy.tensor import IntArray, Tensor
from kws.errors import ModelError

SUMS = (
    "sums are float32 or integers, as the tool has it; ONNX Runtime on x86: both, and integers throughout with the "
    "session option session.qdqisint8allowed=1"
)
"""What the form leaves open, in a line."""


class QdqWriter(Writer):
    """Operators of ONNX alone."""

    def convolve(self, op: Op, weight: IntArray, **attributes: Any) -> None:
        self._affine("Conv", op, weight, **attributes)

    def dense(self, op: Op) -> None:
        weight = self.graph.tensors[op.inputs[1]].data
        assert weight is not None
        self._affine("Gemm", op, weight, transB=1)

    def _affine(self, kind: str, op: Op, weight: IntArray, **attributes: Any) -> None:
        x, kept, bias = self.graph.inputs_of(op)
        assert bias.data is not None
        scales = weight_scales(kept)
        products = np.float32(x.params.scale) * scales
        if not np.array_equal(products, np.asarray(bias.scale, np.float32)):
            raise ModelError(f"scale of '{bias.name}' is below float32's normal numbers")
        sources = [
            self._real(x.name, x.name, self.domain(x)),
            self._constant(kept, weight, scales),
            self._constant(bias, bias.data, products),
        ]
        self._quantized(kind, sources, op, op.output, clamp_of(op), **attributes)

    def _constant(self, tensor: Tensor, values: NDArray[Any], scales: NDArray[np.float32]) -> str:
        """The reals that constant integers stand for; their first axis has the scales."""
        zero_points = np.full(scales.shape, tensor.zero_point, values.dtype)
        domain = [
            self.constant(f"{tensor.name}/scale", scales),
            self.constant(f"{tensor.name}/zero_point", zero_points),
        ]
        return self._real(tensor.name, self.constant(tensor.name, values), domain, axis=0)
