# SPDX-License-Identifier: Apache-2.0
"""One tensor of a TensorFlow Lite file: shape, type, (S, Z) and values, each checked when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.importers.flatbuffer import Table
from deploy.tensor import MAX_ELEMENTS, Shape
from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError

_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 17: "int4"}
_NUMPY: dict[str, type[np.generic]] = {"int8": np.int8, "int32": np.int32, "int64": np.int64}


class FileTensor:
    """One tensor of the file, of which nothing is read before it is asked for."""

    def __init__(self, table: Table, buffers: Sequence[Table]) -> None:
        self._table = table
        self.shape: Shape = tuple(map(int, table.vector(0, np.int32)[:9]))
        self.type = _TYPES.get(table.integer(1, "b"), "of an unknown type")
        self.name = table.string(3)
        self.is_variable = bool(table.integer(5, "B"))
        quantization = table.table(4)
        self._scales = np.zeros(0, np.float32) if quantization is None else quantization.vector(2, np.float32)
        self._zero_points = np.zeros(0, np.int64) if quantization is None else quantization.vector(3, np.int64)
        self.axis = 0 if quantization is None else quantization.integer(6)
        index = table.integer(2, "I")
        if index >= len(buffers):
            raise ModelError(f"buffer {index} of tensor '{self.name[:60]}' does not exist")
        self._bytes = buffers[index].vector(0, np.uint8)
        self.is_constant = len(self._bytes) > 0

    def params(self) -> QuantParams:
        """The (S, Z) of an int8 activation."""
        if self.type != "int8":
            raise ModelError(f"tensor '{self.name[:60]}' is {self.type}, not int8")
        if len(self._scales) != 1 or len(self._zero_points) > 1:
            raise ModelError(f"tensor '{self.name[:60]}' does not have one scale and one zero point")
        return QuantParams(float(self._scales[0]), self._zero_point())

    def _zero_point(self) -> int:
        return int(self._zero_points[0]) if len(self._zero_points) else 0

    def activation_shape(self) -> Shape:
        """The shape without the batch axis, which must be 1."""
        if not 2 <= len(self.shape) <= 5 or self.shape[0] != 1 or not all(size >= 1 for size in self.shape):
            raise ModelError(f"shape {list(self.shape)} of '{self.name[:60]}' is no batch of 1")
        return self.shape[1:]

    def values(self, kind: str) -> NDArray[Any]:
        """The constant values, of that type."""
        if not self.is_constant:
            raise ModelError(f"tensor '{self.name[:60]}' is not constant")
        if self.type != kind:
            raise ModelError(f"constant '{self.name[:60]}' is {self.type}, not {kind}")
        dtype = np.dtype(_NUMPY[kind]).newbyteorder("<")
        size = 1
        for length in self.shape:
            size *= max(0, length)
            if size > MAX_ELEMENTS:
                break
        if len(self.shape) > 4 or size > MAX_ELEMENTS or size * dtype.itemsize != len(self._bytes):
            raise ModelError(f"constant '{self.name[:60]}' has {len(self._bytes)} bytes for shape {list(self.shape)}")
        return np.frombuffer(self._bytes.tobytes(), dtype).reshape(self.shape).astype(_NUMPY[kind])

    def integers(self) -> NDArray[np.int64]:
        """The values of a small constant of int32 or int64: axes, paddings, shapes."""
        if len(self._bytes) > 1024:
            raise ModelError(f"constant '{self.name[:60]}' has {len(self._bytes)} bytes where a few are expected")
        return self.values("int64" if self.type == "int64" else "int32").astype(np.int64)

    def weight_domain(self, channels: int, channel_axis: int, *, affine: bool) -> tuple[float | list[float], int]:
        """Scale or scales, and zero point, of weights."""
        where = f"weight '{self.name[:60]}'"
        if len(self._scales) not in (1, channels) or len(self._zero_points) not in (0, 1, len(self._scales)):
            raise ModelError(f"{where} has {len(self._scales)} scales for {channels} channels")
        if len(self._scales) == 1:
            zero_point = self._zero_point()
            if zero_point and not affine:
                raise ModelError(f"zero_point {zero_point} of {where} is not 0")
            return float(self._scales[0]), zero_point
        if self._zero_points.any():
            raise ModelError(f"zero points of {where}, which has a scale a channel, are not 0")
        if self.axis != channel_axis:
            raise ModelError(f"{where} has its scales along axis {self.axis}, not {channel_axis}")
        return [float(scale) for scale in self._scales], 0
