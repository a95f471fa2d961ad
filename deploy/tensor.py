# SPDX-License-Identifier: Apache-2.0
"""A tensor of the integer graph: its shape, its integer type, its (S, Z) and, for constants, its values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError, QuantError

IntArray = NDArray[np.integer[Any]]
Shape = tuple[int, ...]

MAX_DIMENSION = 1 << 16
MAX_ELEMENTS = 1 << 24
MAX_RANK = 4
DTYPE_BITS = {"int8": 8, "int32": 32}
NAME_RULE = "name is not 1 to 128 letters, digits, '_', '.', '/', '-'"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """One tensor, an activation or a constant: real = scale * (q - zero_point).

    `shape` has no batch axis: (H, W, C) or (C,) for activations, H being time; weights are OHWI, 1HWC or OI. `scale`
    is a float32 value, a tuple of them (one an output channel, constants only), or None where no reals are meant.
    `dtype` is "int8" or, for biases, "int32". `data` is None for activations.
    """

    name: str
    shape: Shape
    dtype: str
    scale: float | tuple[float, ...] | None
    zero_point: int
    data: IntArray | None = None

    @property
    def size(self) -> int:
        """Number of elements, without the batch axis."""
        return math.prod(self.shape)

    @property
    def params(self) -> QuantParams:
        """The (S, Z) of an activation; ModelError where there is no single scale."""
        if not isinstance(self.scale, float):
            raise ModelError("has no per-tensor scale", where=f"tensor '{self.name}'")
        return QuantParams(self.scale, self.zero_point, DTYPE_BITS[self.dtype])

    def without_scale(self) -> Tensor:
        """The same integers, not knowing what reals they stand for."""
        return replace(self, scale=None)

    def check(self) -> None:
        """ModelError that names the field which is out of range."""
        where = f"tensor '{self.name}'"
        if not is_name(self.name):
            raise ModelError(NAME_RULE, where=f"tensor {self.name[:140]!r}")
        if self.dtype not in DTYPE_BITS:
            raise ModelError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_BITS)}", where=where)
        if not 1 <= len(self.shape) <= MAX_RANK or not all(1 <= d <= MAX_DIMENSION for d in self.shape):
            raise ModelError(f"shape {self.shape} is not 1 to {MAX_RANK} sizes in [1, {MAX_DIMENSION}]", where=where)
        if self.size > MAX_ELEMENTS:
            raise ModelError(f"shape {self.shape} has more than {MAX_ELEMENTS} elements", where=where)
        scales = self.scale if isinstance(self.scale, tuple) else (1.0 if self.scale is None else self.scale,)
        try:
            for scale in scales:
                QuantParams(scale, self.zero_point, DTYPE_BITS[self.dtype])
        except QuantError as error:
            raise ModelError(error.what, where=where, hint=error.hint) from None
        if isinstance(self.scale, tuple) and (self.data is None or len(self.scale) not in self.shape):
            raise ModelError(f"{len(self.scale)} scales do not fit a tensor of shape {self.shape}", where=where)
        if self.data is not None and (self.data.dtype != np.dtype(self.dtype) or self.data.shape != self.shape):
            raise ModelError(f"data is {self.data.dtype}{self.data.shape}, not {self.dtype}{self.shape}", where=where)


def is_name(name: str) -> bool:
    """Whether `name` may name a tensor or an op."""
    return _NAME.fullmatch(name) is not None
