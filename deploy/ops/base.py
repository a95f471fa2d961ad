# SPDX-License-Identifier: Apache-2.0
"""What every op is: attributes, a shape rule, a bound rule and a NumPy kernel, in one frozen dataclass a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import numpy as np

from deploy.tensor import IntArray, Shape, Tensor
from kws.arithmetic.requantize import Requant
from kws.errors import ModelError

INT32_MAX = (1 << 31) - 1
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


@dataclass(frozen=True)
class OpAttributes(ABC):
    """The integer attributes of one op, with the rules that belong to them.

    `kind` names the op in files. Its inputs are `n_activations` activations (None: one or more), then the `constants`,
    weight and bias for example.
    """

    kind: ClassVar[str]
    constants: ClassVar[tuple[str, ...]] = ()
    n_activations: ClassVar[int | None] = 1

    @abstractmethod
    def output_shape(self, inputs: Sequence[Tensor]) -> Shape:
        """The shape rule; ModelError, with the field, for attributes that do not fit the inputs."""

    @abstractmethod
    def run(self, arrays: Sequence[IntArray], inputs: Sequence[Tensor], output: Tensor) -> IntArray:
        """The kernel: activations (N, *shape) and constants in, int8 (N, *output.shape) out. Integers only."""

    def acc_bound(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        """The bound rule: the largest magnitude of any int32 intermediate; 0 where values are only moved."""
        return 0

    def macs(self, inputs: Sequence[Tensor], output: Tensor) -> int:
        """Multiply-accumulates of one inference."""
        return 0

    @abstractmethod
    def check_params(self, inputs: Sequence[Tensor], output: Tensor) -> None:
        """ModelError where (S, Z), multipliers or clamps do not fit the tensors; scales of None are not compared."""

    def requants(self) -> Iterator[tuple[str, Requant]]:
        """Every Requant of the op with its field name."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Requant):
                yield field.name, value
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, Requant):
                        yield f"{field.name}[{index}]", item

    def with_rounding(self, rounding: str) -> Self:
        """A copy whose requantizations all use `rounding`."""
        changed: dict[str, Requant | tuple[Requant, ...]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Requant):
                changed[field.name] = replace(value, rounding=rounding)
            elif isinstance(value, tuple) and value and isinstance(value[0], Requant):
                changed[field.name] = tuple(replace(item, rounding=rounding) for item in value)
        return replace(self, **changed)


def same_params(inputs: Sequence[Tensor], output: Tensor) -> None:
    """ModelError unless each input has the (S, Z) of the output: for ops that move values without changing them."""
    for tensor in inputs:
        if tensor.zero_point != output.zero_point:
            raise ModelError(
                f"zero_point {output.zero_point} of '{output.name}' is not that of '{tensor.name}', {tensor.zero_point}"
            )
        if tensor.scale is not None and output.scale is not None and tensor.scale != output.scale:
            raise ModelError(f"scale {output.scale} of '{output.name}' is not that of '{tensor.name}', {tensor.scale}")


def check_requant(field: str, requant: Requant, zero_point: int, clamp: Pair, n_channels: int = 1) -> None:
    """ModelError unless `requant` adds `zero_point`, clamps inside `clamp` and has 1 or `n_channels` multipliers."""
    if requant.zero_point != zero_point:
        raise ModelError(f"{field}.zero_point is {requant.zero_point}, not {zero_point}")
    if not (clamp[0] <= requant.activation_min and requant.activation_max <= clamp[1]):
        raise ModelError(
            f"{field}: clamp [{requant.activation_min}, {requant.activation_max}] is outside [{clamp[0]}, {clamp[1]}]"
        )
    if requant.multiplier.shape[0] not in (1, n_channels):
        raise ModelError(f"{field} has {requant.multiplier.shape[0]} multipliers, not 1 or {n_channels}")


def check_multipliers(field: str, requant: Requant, expected: tuple[IntArray, IntArray]) -> None:
    """ModelError unless multiplier and shift are those that the scales give."""
    multiplier, shift = expected
    if not (np.array_equal(requant.multiplier, multiplier) and np.array_equal(requant.shift, shift)):
        raise ModelError(f"{field}: multiplier and shift are not those of the scales")


def check_activation(activation_min: int, activation_max: int) -> None:
    """ModelError unless -128 <= activation_min <= activation_max <= 127."""
    if not -128 <= activation_min <= activation_max <= 127:
        raise ModelError(f"clamp [{activation_min}, {activation_max}] is not inside int8 [-128, 127]")
