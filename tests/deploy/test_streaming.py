# SPDX-License-Identifier: Apache-2.0
"""Streams of columns against the whole graph on every window, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import native, reference
from deploy.graph import Graph, GraphBuilder
from deploy.streaming import ReferenceStream, can_stream, plan_stream
from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError

IN, OUT = QuantParams(0.0625, 3), QuantParams(0.125, -5)


def weights(rng: Any, *shape: int) -> Any:
    return rng.integers(-127, 128, shape).astype(np.int8)


def compare(graph: Graph, n_frames: int = 90, windows: tuple[int, ...] = (1, 3)) -> None:
    time, *rest = graph.input_shape
    x = np.random.default_rng(7).integers(-128, 128, (n_frames, int(np.prod(rest)))).astype(np.int8)
    for count in windows:
        plan = plan_stream(graph, count)
        starts = range(0, n_frames - time + 1, plan.stride)
        expected = reference.run(graph, np.stack([x[i : i + time] for i in starts]).reshape(-1, time, *rest))
        used = x[: n_frames // plan.frames * plan.frames]
        outputs = ReferenceStream(plan).run(used)
        got = outputs[plan.lag :]
        n = min(len(got), len(expected))
        assert n >= len(expected) - count
        np.testing.assert_array_equal(got[:n], expected[:n].reshape(n, -1))
        for level in native.levels():
            stream = native.Stream(plan, level)
            half = len(used) // plan.frames // 2 * plan.frames
            pieces = [stream.run(used[:half]), stream.run(used[half:])]
            np.testing.assert_array_equal(np.concatenate(pieces), outputs, level)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2), st.booleans(), st.booleans()), min_size=1, max_size=4),
    st.integers(0, 6), st.sampled_from(["pool", "mean", "convolution"]), st.integers(0, 2**32),
)  # fmt: skip
def test_any_network_without_padding(blocks: Any, surplus: int, end: str, seed: int) -> None:
    """Convolutions with kernels and strides in time, some depthwise, some with a cropped skip path around them."""
    rng = np.random.default_rng(seed)
    needed = 1
    for kernel, stride, _, _ in reversed(blocks):
        needed = (needed - 1) * stride + kernel
    builder = GraphBuilder(("single", "tflm")[seed % 2])
    time, channels = needed + surplus, 3
    x = builder.reshape(builder.input((time, channels, 1), IN), "channels", shape=(time, 1, channels))
    for i, (kernel, stride, depthwise, skip) in enumerate(blocks):
        before, width = x, channels if depthwise else int(rng.integers(1, 6))
        shape = (1, kernel, 1, width) if depthwise else (width, kernel, 1, channels)
        make = builder.depthwise_conv2d if depthwise else builder.conv2d
        x = make(x, f"conv{i}", weights(rng, *shape), 2.0**-7, 0, None, stride=(stride, 1), output=OUT)
        left = (time - kernel) // stride + 1
        if skip:
            begin = int(rng.integers(0, kernel))
            size = (left - 1) * stride + 1
            crop = builder.slice(before, f"crop{i}", begin=(begin, 0, 0), size=(size, 1, channels))
            one = weights(rng, width, 1, 1, channels)
            path = builder.conv2d(crop, f"skip{i}", one, 2.0**-6, 0, None, stride=(stride, 1), output=OUT)
            x = builder.add(x, path, f"add{i}", output=OUT)
        time, channels = left, width
    if end == "pool":
        x = builder.average_pool(x, "end", (time, 1))
    elif end == "mean":
        x = builder.mean(x, "end")
    else:
        x = builder.conv2d(x, "end", weights(rng, 2, time, 1, channels), 2.0**-7, 0, None, output=OUT)
        channels = 2
    x = builder.reshape(x, "flat", shape=(channels,))
    x = builder.fully_connected(x, "logits", weights(rng, 4, channels), 2.0**-6, 0, None, output=OUT)
    compare(builder.finish(builder.softmax(x, "softmax") if seed % 3 == 0 else x))


def two_dimensional(padding: Any = ((0, 0), (1, 1)), pool_rows: int = 3) -> Graph:
    """Convolutions over time and bands, padding along the bands only, concatenation of two paths."""
    rng = np.random.default_rng(1)
    builder = GraphBuilder()
    x = builder.input((15, 8, 1), IN)
    x = builder.conv2d(
        x, "conv", weights(rng, 4, 4, 3, 1), 2.0**-6, 0, None, stride=(2, 2), padding=padding, output=OUT
    )
    height = (15 + sum(padding[0]) - 4) // 2 + 1
    a = builder.depthwise_conv2d(
        x, "a", weights(rng, 1, 3, 3, 4), 2.0**-5, 0, None, padding=((0, 0), (1, 1)), output=OUT
    )
    b = builder.slice(x, "crop", begin=(1, 0, 0), size=(height - 2, 4, 4))
    x = builder.concatenation([a, b], "both", axis=2)
    x = builder.max_pool(x, "max", (2, 2), stride=(1, 2))
    x = builder.average_pool(x, "mean", (pool_rows, 2))
    x = builder.reshape(x, "flat", shape=(8,))
    return builder.finish(builder.fully_connected(x, "logits", weights(rng, 3, 8), 2.0**-6, 0, None, output=OUT))


def test_two_dimensional_networks_stream() -> None:
    compare(two_dimensional())


def test_products_and_logistics_stream_by_column_and_squeeze_and_excite_where_time_has_ended() -> None:
    rng = np.random.default_rng(2)
    builder = GraphBuilder()
    x = builder.input((9, 4, 1), IN)
    x = builder.conv2d(x, "conv", weights(rng, 6, 3, 3, 1), 2.0**-6, 0, None, stride=(2, 1), output=OUT)
    x = builder.mul(x, builder.logistic(x, "gate"), "swish", output=QuantParams(0.0625, -100))
    x = builder.mean(x, "mean", keep_dims=True)
    gate = builder.conv2d(x, "excite", weights(rng, 6, 1, 1, 6), 2.0**-6, 0, None, output=OUT)
    x = builder.mul(builder.logistic(gate, "gates"), x, "scaled", output=QuantParams(0.03125, -100))
    compare(builder.finish(builder.reshape(x, "flat", shape=(6,))))


def test_state_and_stride_are_as_small_as_they_can_be() -> None:
    plan = plan_stream(two_dimensional())
    assert plan.stride == 2
    # input 2 frames of 8; conv 2 columns of 4 x 4 and none for the crop; both 1 column of 4 x 8; max 2 of 2 x 8
    assert plan.state_size == 2 * 8 + 2 * 16 + 32 + 2 * 16


def test_padding_in_time_does_not_stream() -> None:
    assert can_stream(two_dimensional(((1, 0), (1, 1)))) == "op 'conv': pads in time"
    with pytest.raises(ModelError, match=r"op 'conv': pads in time \(networks tc-resnet and tc-stream do not\)"):
        plan_stream(two_dimensional(((1, 0), (1, 1))))


@pytest.mark.parametrize(("make", "why"), [
    (lambda b, x: b.reshape(x, "r", shape=(9 * 2,)), "op 'r': mixes frames"),
    (lambda b, x: b.reshape(b.slice(x, "s", begin=(0, 1, 0), size=(9, 1, 1)), "r", shape=(9,)), "op 's': cuts a frame"),
    (lambda b, x: b.concatenation([x, x], "c", axis=0), "op 'c': joins along time"),
    (lambda b, x: b.pad(x, "p", paddings=((1, 0), (0, 0), (0, 0))), "op 'p': pads in time"),
    (lambda b, x: b.mul(x, b.mean(x, "n", keep_dims=True), "m", output=OUT), "op 'm': needs the whole window"),
    (lambda b, x: b.mul(b.mean(x, "n", keep_dims=True), x, "m", output=OUT), "op 'm': needs the whole window"),
    (lambda b, x: b.mul(b.max_pool(x, "n", (9, 2)), x, "m", output=OUT), "op 'm': needs the whole window"),
    (lambda b, x: b.max_pool(x, "m", (2, 1), stride=(1, 1)), "the output still has a time axis"),
])  # fmt: skip
def test_what_does_not_stream_says_why(make: Any, why: str) -> None:
    builder = GraphBuilder()
    graph = builder.finish(make(builder, builder.input((9, 2, 1), IN)))
    assert can_stream(graph) == why
