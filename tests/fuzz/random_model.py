# SPDX-License-Identifier: Apache-2.0
"""Random models that are valid: random bytes never become one, and engines are compared on models that load."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.graph import Graph, GraphBuilder
from deploy.ops.window import window_shape
from features.config import FrontendConfig
from kws.arithmetic.fixedpoint import ROUNDING_RULES
from kws.arithmetic.quant import QuantParams
from kws.detector import DetectionConfig
from kws.errors import KwsError
from kws.model import Model

Shape = tuple[int, ...]
LABELS = ("yes", "no", "on", "_silence_", "_unknown_")
_HOP = 400


def random_model(rng: random.Random) -> Model:
    """A model of one to eight random ops on a few frames; the same for the same state of `rng`."""
    while True:
        n_frames, n_mels = rng.randint(1, 12), rng.randint(1, 8)
        frontend = FrontendConfig(
            kind="mfb", frame_length=_HOP, hop_length=_HOP, n_fft=512, n_mels=n_mels, fmin=100.0, fmax=6000.0,
            clip_samples=_HOP * n_frames,
        )  # fmt: skip
        labels = LABELS[rng.randint(0, 2) :]
        try:
            graph = _Network(rng, frontend.input_shape).finish(len(labels))
            detection = replace(DetectionConfig.default(frontend, len(labels) - 2), hop=rng.randint(1, n_frames))
            model = Model(graph, frontend, labels, detection, {"made by": "tests/fuzz/random_model.py"})
            model.check()
        except KwsError:  # a multiplier or a sum out of range: other numbers
            continue
        return model


class _Network:
    """Adds random ops to a graph, one after another."""

    def __init__(self, rng: random.Random, shape: Shape) -> None:
        self._rng = rng
        self._numbers = np.random.default_rng(rng.getrandbits(32))
        self._builder = GraphBuilder(rng.choice(ROUNDING_RULES))
        self._shape = shape
        self._params = self._domain()
        self._x = self._builder.input(shape, self._params)
        self._count = 0

    def finish(self, n_labels: int) -> Graph:
        """The graph, ending in `n_labels` outputs; its inner scales are dropped now and then, as a stranger may."""
        spatial = (
            self._conv2d, self._depthwise, self._pool, self._add, self._concatenation, self._slice, self._pad,
            self._mul, self._logistic,
        )  # fmt: skip
        for _ in range(self._rng.randint(0, 5)):
            self._rng.choice(spatial)()
        if self._rng.random() < 0.4:
            self._x = self._builder.mean(self._x, self._name("mean"), output=self._domain())
        else:
            size = int(np.prod(self._shape))
            self._x = self._builder.reshape(self._x, self._name("reshape"), shape=(size,))
            self._shape = (1, 1, size)
        weight, bias = self._values(n_labels, self._shape[-1]), self._bias(n_labels)
        self._x = self._builder.fully_connected(
            self._x, self._name("dense"), weight, *self._weight_domain(n_labels), bias, output=self._domain()
        )
        if self._rng.random() < 0.4:
            self._x = self._builder.softmax(self._x, self._name("softmax"))
        graph = self._builder.finish(self._x)
        if self._rng.random() < 0.3:
            kept = {graph.input, graph.output}
            tensors = {name: t if name in kept else t.without_scale() for name, t in graph.tensors.items()}
            graph = replace(graph, tensors=tensors)
        return graph

    def _conv2d(self) -> None:
        kernel, stride, padding = self._window()
        channels, name = self._rng.randint(1, 5), self._name("conv")
        weight = self._values(channels, *kernel, self._shape[2])
        self._x = self._builder.conv2d(
            self._x, name, weight, *self._weight_domain(channels), self._bias(channels), stride=stride,
            padding=padding, **self._clamped(),
        )  # fmt: skip
        self._shape = (*window_shape(self._shape, kernel, stride, padding), channels)

    def _depthwise(self) -> None:
        kernel, stride, padding = self._window()
        channels, name = self._shape[2] * self._rng.choice((1, 1, 2)), self._name("depthwise")
        weight = self._values(1, *kernel, channels)
        self._x = self._builder.depthwise_conv2d(
            self._x, name, weight, *self._weight_domain(channels), self._bias(channels), stride=stride,
            padding=padding, **self._clamped(),
        )  # fmt: skip
        self._shape = (*window_shape(self._shape, kernel, stride, padding), channels)

    def _pool(self) -> None:
        kernel, stride, padding = self._window()
        add = self._rng.choice((self._builder.average_pool, self._builder.max_pool))
        self._x = add(self._x, self._name("pool"), kernel, stride=stride, padding=padding)
        self._shape = (*window_shape(self._shape, kernel, stride, padding), self._shape[2])

    def _add(self) -> None:
        other = self._builder.pad(self._x, self._name("same"), paddings=[(0, 0)] * 3)
        self._x = self._builder.add(self._x, other, self._name("add"), **self._clamped())

    def _mul(self) -> None:
        other = self._builder.mean(self._x, self._name("factors"), output=self._domain(), keep_dims=True)
        self._x = self._builder.mul(other, self._x, self._name("mul"), **self._clamped())

    def _logistic(self) -> None:
        self._x = self._builder.logistic(self._x, self._name("logistic"))

    def _concatenation(self) -> None:
        axis = self._rng.randint(0, 2)
        copies = self._rng.randint(1, 3)
        self._x = self._builder.concatenation([self._x] * copies, self._name("join"), axis=axis, output=self._domain())
        self._shape = tuple(size * copies if i == axis else size for i, size in enumerate(self._shape))

    def _slice(self) -> None:
        begin = tuple(self._rng.randint(0, size - 1) for size in self._shape)
        size = tuple(self._rng.randint(1, full - first) for full, first in zip(self._shape, begin, strict=True))
        self._x = self._builder.slice(self._x, self._name("slice"), begin=begin, size=size)
        self._shape = size

    def _pad(self) -> None:
        paddings = [(self._rng.randint(0, 2), self._rng.randint(0, 2)) for _ in self._shape]
        self._x = self._builder.pad(self._x, self._name("pad"), paddings=paddings)
        self._shape = tuple(size + sum(pair) for size, pair in zip(self._shape, paddings, strict=True))

    def _window(self) -> tuple[tuple[int, int], tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]:
        """Kernel, stride and padding; sometimes larger than the input, which is then refused."""
        kernel = self._rng.randint(1, 4), self._rng.randint(1, 4)
        stride = self._rng.randint(1, 3), self._rng.randint(1, 3)
        rows, columns = ((self._rng.randint(0, k - 1), self._rng.randint(0, k - 1)) for k in kernel)
        return kernel, stride, (rows, columns)

    def _clamped(self) -> dict[str, Any]:
        low, high = sorted((self._rng.randint(-128, 127), self._rng.randint(-128, 127)))
        wide = self._rng.random() < 0.7
        return {
            "output": self._domain(),
            "activation_min": -128 if wide else low,
            "activation_max": 127 if wide else high,
        }

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _scale(self) -> float:
        """A power of two in half of the cases: those meet ties."""
        exponent = self._rng.uniform(-8, 2)
        return float(np.float32(2.0 ** (round(exponent) if self._rng.random() < 0.5 else exponent)))

    def _domain(self) -> QuantParams:
        self._params = QuantParams(self._scale(), self._rng.choice((-128, 127, 0, self._rng.randint(-128, 127))))
        return self._params

    def _weight_domain(self, channels: int) -> tuple[float | list[float], int]:
        if self._rng.random() < 0.5:
            return [self._scale() for _ in range(channels)], 0
        return self._scale(), self._rng.choice((0, self._rng.randint(-128, 127)))

    def _values(self, *shape: int) -> NDArray[np.int8]:
        if self._rng.random() < 0.2:
            return np.full(shape, self._rng.choice((-128, 0, 127)), np.int8)
        return self._numbers.integers(-128, 128, shape).astype(np.int8)

    def _bias(self, channels: int) -> NDArray[np.int32] | None:
        if self._rng.random() < 0.2:
            return None
        largest = 1 << self._rng.randint(1, 30)
        return self._numbers.integers(-largest, largest, channels).astype(np.int32)
