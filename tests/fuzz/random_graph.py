# SPDX-License-Identifier: Apache-2.0
"""Random small graphs that formats of others can hold, with sums that fill the range of their outputs: for comparing
engines. `random_model` makes what no format holds too, and mostly saturates."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from deploy.graph import Graph, GraphBuilder
from deploy.ops.base import Padding, Pair
from deploy.tflite_rules import fused_activations, same_padding
from kws.arithmetic.quant import QuantParams
from kws.errors import KwsError

MAX_MACS = 1 << 17
MOVES = frozenset(("max_pool", "pad", "reshape", "slice"))
"""Ops that compute nothing: no engine may change a bit."""


def random_graph(rng: random.Random) -> Graph:
    """A graph of one to six random ops; the same for the same state of `rng`."""
    while True:
        try:
            graph = _Network(rng).finish()
        except KwsError:  # a multiplier, a window or a sum out of range: other numbers
            continue
        if graph.check().macs <= MAX_MACS:
            return graph


class _Network:
    """Adds random ops to a graph, one after another. Reals are about `unit` times what int8 holds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._numbers = np.random.default_rng(rng.getrandbits(32))
        self._powers_of_two = rng.random() < 0.5  # those meet ties
        self._builder = GraphBuilder()
        unit = 2.0 ** (rng.uniform(-60, 40) if rng.random() < 0.1 else rng.uniform(-8, 0))
        channels = rng.choice((1, 2, 3, rng.randint(4, 40)))
        shape = rng.randint(1, 13), rng.randint(1, 9), channels
        self._x = self._builder.input(shape, QuantParams(self._scale(unit), self._zero_point()))
        self._count = 0

    def finish(self) -> Graph:
        spatial = (
            self._conv2d, self._conv2d, self._depthwise, self._depthwise, self._pool, self._add, self._concatenation,
            self._slice, self._pad, self._mean_kept, self._mul, self._logistic,
        )  # fmt: skip
        n_ops = self._rng.choice((0, 1, 1, 1, 2, 3, 5))
        for _ in range(n_ops):
            self._rng.choice(spatial)()
        if n_ops == 0 or self._rng.random() < 0.3:
            self._rng.choice((self._mean, self._flat))()
            if self._rng.random() < 0.7:
                self._fully_connected()
            if self._rng.random() < 0.2:
                self._x = self._builder.softmax(self._x, self._name("softmax"))
        return self._builder.finish(self._x)

    def _conv2d(self) -> None:
        kernel, stride, padding = self._window()
        channels = self._rng.choice((1, 2, 3, self._rng.randint(4, 40)))
        self._affine(self._builder.conv2d, (channels, *kernel, self._shape[2]), 0, stride=stride, padding=padding)

    def _depthwise(self) -> None:
        kernel, stride, padding = self._window()
        channels = self._shape[2] * self._rng.choice((1, 1, 1, 2, 3))
        self._affine(self._builder.depthwise_conv2d, (1, *kernel, channels), 3, stride=stride, padding=padding)

    def _fully_connected(self) -> None:
        self._affine(self._builder.fully_connected, (self._rng.randint(1, 20), self._shape[0]), 0)

    def _affine(self, add: Any, shape: tuple[int, ...], channel_axis: int, **attributes: Any) -> None:
        channels, source = shape[channel_axis], self._builder.params(self._x)
        taps = math.prod(shape) // channels
        about = 2.0 ** self._rng.uniform(-10, 0)
        if self._rng.random() < 0.5:
            scales: Any = [self._scale(about * self._rng.uniform(0.5, 2)) for _ in range(channels)]
        else:
            scales = self._scale(about)
        zero_point = 0 if isinstance(scales, list) or self._rng.random() < 0.8 else self._rng.randint(-20, 20)
        ends = self._rng.choice((1, 8, 127))
        weight = self._numbers.integers(-ends, ends + 1, shape).astype(np.int8)
        spread = math.sqrt(taps) * 74 * (ends + abs(zero_point)) / 2  # of the sum
        output = self._output(source.scale * about * spread)
        bias = None
        if self._rng.random() < 0.7:
            bias = (self._numbers.uniform(-1, 1, channels) * min(spread, 2**28)).astype(np.int32)
        self._x = add(
            self._x, self._name("affine"), weight, scales, zero_point, bias, output=output, **self._clamp(output),
            **attributes,
        )  # fmt: skip

    def _pool(self) -> None:
        kernel, stride, padding = self._window(named=True)
        add = self._rng.choice((self._builder.average_pool, self._builder.average_pool, self._builder.max_pool))
        clamp = self._clamp(self._builder.params(self._x))
        self._x = add(self._x, self._name("pool"), kernel, stride=stride, padding=padding, **clamp)

    def _add(self) -> None:
        """Of the tensor and what a depthwise scaling makes of it, or of the tensor twice."""
        before, params = self._x, self._builder.params(self._x)
        if self._rng.random() < 0.7:
            self._affine(self._builder.depthwise_conv2d, (1, 1, 1, self._shape[2]), 3)
        other = self._builder.params(self._x)
        output = self._output(74 * max(params.scale, other.scale))
        self._x = self._builder.add(before, self._x, self._name("add"), output=output, **self._clamp(output))

    def _mul(self) -> None:
        """Of the tensor and itself, its logistic, or its mean over height and width, in either order."""
        before, params = self._x, self._builder.params(self._x)
        self._rng.choice((self._mean_kept, self._logistic, lambda: None))()
        output = self._output(74 * 74 * params.scale * self._builder.params(self._x).scale)
        inputs = self._rng.sample((before, self._x), 2)
        self._x = self._builder.mul(*inputs, self._name("mul"), output=output, **self._clamp(output))

    def _logistic(self) -> None:
        self._x = self._builder.logistic(self._x, self._name("logistic"))

    def _concatenation(self) -> None:
        axis, source = self._rng.randint(0, 2), self._builder.params(self._x)
        output = source if self._rng.random() < 0.3 else self._output(74 * source.scale)
        xs = [self._x] * self._rng.randint(1, 3)
        self._x = self._builder.concatenation(xs, self._name("join"), axis=axis, output=output)

    def _slice(self) -> None:
        begin = tuple(self._rng.randint(0, size - 1) for size in self._shape)
        size = tuple(self._rng.randint(1, full - first) for full, first in zip(self._shape, begin, strict=True))
        self._x = self._builder.slice(self._x, self._name("slice"), begin=begin, size=size)

    def _pad(self) -> None:
        paddings = [(self._rng.randint(0, 2), self._rng.randint(0, 2)) for _ in self._shape]
        self._x = self._builder.pad(self._x, self._name("pad"), paddings=paddings)

    def _mean_kept(self) -> None:
        self._mean(keep_dims=True)

    def _mean(self, *, keep_dims: bool = False) -> None:
        spread = 74 / math.sqrt(self._shape[0] * self._shape[1])
        output = self._output(spread * self._builder.params(self._x).scale)
        self._x = self._builder.mean(self._x, self._name("mean"), output=output, keep_dims=keep_dims)

    def _flat(self) -> None:
        self._x = self._builder.reshape(self._x, self._name("flat"), shape=(math.prod(self._shape),))

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._builder.shape(self._x)

    def _window(self, *, named: bool = False) -> tuple[Pair, Pair, Padding]:
        """Kernel, stride and padding: SAME, VALID or, where it need not be `named`, any other."""
        kernel = self._rng.randint(1, 5), self._rng.randint(1, 4)
        stride = self._rng.randint(1, 3), self._rng.randint(1, 3)
        kind = self._rng.choice(("same", "same", "valid", "valid" if named else "other"))
        if kind == "same":
            rows, columns = (same_padding(self._shape[i], kernel[i], stride[i])[0] for i in (0, 1))
        elif kind == "valid":
            rows, columns = (0, 0), (0, 0)
        else:
            rows, columns = ((self._rng.randint(0, k - 1), self._rng.randint(0, k - 1)) for k in kernel)
        return kernel, stride, (rows, columns)

    def _output(self, spread: float) -> QuantParams:
        """A domain that reals of about `spread` fill: 2^3 to 2^8 steps of it, now and then far fewer or more."""
        far = self._rng.random() < 0.05
        return QuantParams(
            self._scale(spread / 2.0 ** self._rng.uniform(*((-10, 25) if far else (3, 8)))), self._zero_point()
        )

    def _clamp(self, params: QuantParams) -> dict[str, int]:
        """That of a fused activation, mostly of none."""
        kinds = [pair for pair in fused_activations(params).values() if pair[0] <= pair[1]]
        low, high = kinds[0] if self._rng.random() < 0.6 else self._rng.choice(kinds)
        return {"activation_min": low, "activation_max": high}

    def _scale(self, about: float) -> float:
        return float(np.float32(2.0 ** round(math.log2(about)) if self._powers_of_two else about))

    def _zero_point(self) -> int:
        return self._rng.choice((-128, 0, 127, self._rng.randint(-128, 127)))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"
