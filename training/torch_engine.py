# SPDX-License-Identifier: Apache-2.0
# mypy: allow-untyped-calls
"""A graph's integers rebuilt as PyTorch's quantized modules: an engine to compare with, op by op or as a whole.

PyTorch keeps activations in quint8: its q and Z are the graph's plus 128. It rounds half to even once, from a float32
product, and keeps the bias in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.ao.nn import quantized

from deploy import reference
from deploy.graph import Graph, Op
from deploy.ops.add import Add
from deploy.ops.average_pool import AveragePool
from deploy.ops.conv2d import Conv2d
from deploy.ops.depthwise_conv2d import DepthwiseConv2d
from deploy.ops.fully_connected import FullyConnected
from deploy.tensor import Tensor as GraphTensor
from kws.errors import ModelError, UsageError

Int8 = NDArray[np.int8]


def default_backend() -> str:
    """fbgemm where the CPU has VNNI; elsewhere qnnpack, as fbgemm's 16-bit sums of 8-bit products saturate there."""
    return "fbgemm" if torch.cpu._is_vnni_supported() else "qnnpack"


class TorchEngine:
    """Runs a graph with torch's quantized kernels: int8 (N, *input_shape) -> int8 (N, *output_shape).

    Convolution, depthwise, fully connected, add and average pool are torch's; ops that only move values are the
    reference executor's. Raises UsageError for a backend that this torch lacks, ModelError for an op that it has not.
    """

    def __init__(self, graph: Graph, backend: str | None = None) -> None:
        self.graph = graph
        self.backend = backend or default_backend()
        if self.backend not in torch.backends.quantized.supported_engines:
            choices = ", ".join(torch.backends.quantized.supported_engines)
            raise UsageError(f"this torch has no quantized backend '{self.backend}'", hint=f"choose one of {choices}")
        with _using(self.backend):
            self._layers = {op.name: _layer(graph, op) for op in graph.ops if isinstance(op.attributes, _AFFINE)}

    def __call__(self, x: Int8) -> Int8:
        values = {self.graph.input: x}
        for op in self.graph.ops:
            values[op.output] = self.run_op(op, [values[name] for name in op.inputs if name in values])
        return values[self.graph.output]

    def prepared_layers(self, values: Mapping[str, Int8]) -> list[tuple[Any, Tensor]]:
        """torch's module of each convolution and fully connected op with its input, from the activations `values` by
        name: converted and padded, so that a benchmark can time the kernels alone."""
        found = []
        for op in self.graph.ops:
            if op.name in self._layers:
                tensor = self.graph.tensors[op.inputs[0]]
                found.append((self._layers[op.name], _to_torch(_pad(values[tensor.name], op, tensor), tensor)))
        return found

    def run_op(self, op: Op, inputs: Sequence[Int8]) -> Int8:
        """The output of one op for its activations, int8 (N, *shape)."""
        attributes = op.attributes
        tensors = self.graph.inputs_of(op)
        with _using(self.backend), torch.no_grad():
            if isinstance(attributes, _AFFINE):
                x = _pad(inputs[0], op, tensors[0])
                output = _from_torch(self._layers[op.name](_to_torch(x, tensors[0])))
            elif isinstance(attributes, Add):
                a, b = (_to_torch(x, tensor) for x, tensor in zip(inputs, tensors, strict=True))
                target = self.graph.tensors[op.output].params
                output = _from_torch(torch.ops.quantized.add(a, b, target.scale, target.zero_point + 128))
            elif isinstance(attributes, AveragePool) and attributes.padding == ((0, 0), (0, 0)):
                pooled = torch.nn.functional.avg_pool2d(
                    _to_torch(inputs[0], tensors[0]), attributes.kernel, attributes.stride
                )
                return np.clip(_from_torch(pooled), attributes.activation_min, attributes.activation_max)
            elif op.kind in _MOVING:
                return reference.run_op(self.graph, op, inputs)
            else:
                raise ModelError(f"torch has no {op.kind} to compare with", where=f"op '{op.name}'")
        return np.clip(output, attributes.requant.activation_min, attributes.requant.activation_max)


_AFFINE = (Conv2d, DepthwiseConv2d, FullyConnected)
_MOVING = ("slice", "reshape", "pad", "max_pool")


def _layer(graph: Graph, op: Op) -> Any:
    """torch's quantized module with the weight and bias of a convolution or fully connected op."""
    x, weight, bias = graph.inputs_of(op)
    output = graph.tensors[op.output].params
    assert weight.data is not None
    assert bias.data is not None
    if isinstance(op.attributes, FullyConnected):
        layer: Any = quantized.Linear(weight.shape[1], weight.shape[0])
        values = weight.data
    else:
        depthwise = isinstance(op.attributes, DepthwiseConv2d)
        values = weight.data.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        channels = x.shape[2]
        layer = quantized.Conv2d(
            channels, values.shape[0], cast(Any, values.shape[2:]), stride=cast(Any, op.attributes).stride,
            groups=channels if depthwise else 1,
        )  # fmt: skip
    step = x.params.scale * np.asarray(weight.scale, np.float64)
    real_bias = torch.from_numpy((bias.data * step).astype(np.float32))
    layer.set_weight_bias(_weight(np.ascontiguousarray(values), weight), real_bias)
    layer.scale, layer.zero_point = output.scale, output.zero_point + 128
    return layer


def _weight(values: NDArray[Any], tensor: GraphTensor) -> Tensor:
    """A torch qint8 weight, output channels first."""
    q = torch.from_numpy(values)
    if isinstance(tensor.scale, tuple):
        scales = torch.tensor(tensor.scale, dtype=torch.float64)
        return torch._make_per_channel_quantized_tensor(q, scales, torch.zeros(len(scales), dtype=torch.int64), 0)
    return torch._make_per_tensor_quantized_tensor(q, cast(float, tensor.scale), tensor.zero_point)


def _pad(x: Int8, op: Op, tensor: GraphTensor) -> Int8:
    padding = getattr(op.attributes, "padding", ((0, 0), (0, 0)))
    return np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=tensor.zero_point) if np.any(padding) else x


def _to_torch(x: Int8, tensor: GraphTensor) -> Tensor:
    """int8 (N, H, W, C) or (N, C) -> torch quint8 (N, C, H, W) in channels-last memory, or (N, C)."""
    q = torch.from_numpy((x.astype(np.int16) + 128).astype(np.uint8))
    if q.ndim == 4:
        q = q.permute(0, 3, 1, 2)
    return torch._make_per_tensor_quantized_tensor(q, tensor.params.scale, tensor.params.zero_point + 128)


def _from_torch(x: Tensor) -> Int8:
    q = x.int_repr()
    if q.ndim == 4:
        q = q.permute(0, 2, 3, 1)
    return (q.contiguous().numpy().astype(np.int16) - 128).astype(np.int8)


@contextmanager
def _using(backend: str) -> Iterator[None]:
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = backend
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
