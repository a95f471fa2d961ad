# SPDX-License-Identifier: Apache-2.0
"""The C runtime against the NumPy executor, bit for bit: every op, many shapes, both rules, every path of this host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import kws
from deploy import engine, native, reference
from deploy.graph import Graph, GraphBuilder
from kws.arithmetic.quant import QuantParams
from kws.errors import ModelError, UsageError

RULES = ("single", "tflm")
ROOT = Path(__file__).parents[2]

seeds = st.integers(0, 2**32)
rules = st.sampled_from(RULES)
# Powers of two meet ties in every rule, and M > 1 where the output's scale is the smaller one.
scales = st.sampled_from([2.0**-k for k in range(-2, 8)]) | st.floats(2.0**-7, 4.0, width=32)
params = st.builds(QuantParams, scales, st.integers(-128, 127))
clamps = st.tuples(st.integers(-128, 0), st.integers(0, 127)) | st.just((-128, 127))


def clips(seed: int, n: int, *shape: int) -> Any:
    """Random int8, for some seeds nothing but the type's ends, so that outputs saturate."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (n, *shape)).astype(np.int8)
    return np.where(values < 0, -128, 127).astype(np.int8) if seed % 3 == 0 else values


def compare(graph: Graph, seed: int = 1, n: int = 2) -> None:
    """Every instruction set that this host has."""
    x = clips(seed, n, *graph.input_shape)
    expected = reference.run(graph, x)
    for level in native.levels():
        np.testing.assert_array_equal(native.Engine(graph, level).run(x), expected, level)


@st.composite
def windows(draw: st.DrawFn, most: int = 12) -> dict[str, Any]:
    """A size, kernel, stride and odd, asymmetric padding that leave room for one output."""
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    size = draw(st.integers(1, most)), draw(st.integers(1, most))
    padding = []
    for axis in (0, 1):
        before = draw(st.integers(0, kernel[axis] - 1))
        after = draw(st.integers(0, kernel[axis] - 1))
        missing = max(0, kernel[axis] - size[axis] - before - after)
        grown = min(kernel[axis] - 1, before + missing)
        padding.append((grown, min(kernel[axis] - 1, after + missing - (grown - before))))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    return {"size": size, "kernel": kernel, "stride": stride, "padding": (padding[0], padding[1])}


def finish(builder: GraphBuilder, output: str) -> Graph:
    """The graph; hypothesis tries another where a large M and large sums could overflow."""
    try:
        return builder.finish(output)
    except ModelError as error:
        if "an int32 sum can reach" in error.what:
            reject()
        raise


def affine_graph(
    kind: str, window: Any, i: int, o: int, source: Any, target: Any, clamp: Any, rule: str, zero_point: int | None,
    seed: int,
) -> Graph:  # fmt: skip
    """One convolution of random integers; `zero_point` None: weights per channel."""
    rng = np.random.default_rng(seed)
    channels = o * i if kind == "depthwise_conv2d" else o
    shape = (1, *window["kernel"], channels) if kind == "depthwise_conv2d" else (o, *window["kernel"], i)
    weight = rng.integers(-128 if zero_point is not None else -127, 128, shape).astype(np.int8)
    if seed % 5 == 0:
        weight = np.where(weight < 0, -127, 127).astype(np.int8)
    per_channel = [float(s) for s in rng.choice([0.125, 0.01, 2**-9, 2**-14], channels).astype(np.float32)]
    bias = rng.integers(-90000, 90000, channels).astype(np.int32)
    builder = GraphBuilder(rule)
    x = builder.input((*window["size"], i), source)
    make = getattr(builder, kind)
    return finish(
        builder,
        make(
            x, "op", weight, per_channel if zero_point is None else 2**-9, zero_point or 0, bias,
            stride=window["stride"], padding=window["padding"], output=target,
            activation_min=clamp[0], activation_max=clamp[1],
        )
    )  # fmt: skip


channels = st.integers(1, 3) | st.sampled_from([4, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65, 72, 100])
zero_points = st.none() | st.integers(-128, 127)


@settings(max_examples=300, deadline=None)
@given(windows(), channels, channels, params, params, clamps, rules, zero_points, seeds)
def test_conv2d(
    window: Any, i: int, o: int, source: Any, target: Any, clamp: Any, rule: str, z: Any, seed: int
) -> None:
    compare(affine_graph("conv2d", window, i, o, source, target, clamp, rule, z, seed), seed)


@settings(max_examples=300, deadline=None)
@given(windows(), channels, st.integers(1, 3), params, params, clamps, rules, zero_points, seeds)
def test_depthwise_conv2d(
    window: Any, i: int, m: int, source: Any, target: Any, clamp: Any, rule: str, z: Any, seed: int
) -> None:
    compare(affine_graph("depthwise_conv2d", window, i, m, source, target, clamp, rule, z, seed), seed)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 4), st.integers(0, 6), st.integers(0, 7), st.tuples(*[st.integers(0, 1)] * 4), channels, params,
    params, clamps, rules, seeds,
)  # fmt: skip
def test_depthwise_conv2d_of_three_columns(
    kernel_h: int, h: int, w: int, padding: Any, c: int, source: Any, target: Any, clamp: Any, rule: str, seed: int
) -> None:
    """Outputs side by side share columns, those of two rows the inputs: any number of either may be left over."""
    window = {
        "size": (kernel_h + h, 3 + w), "kernel": (kernel_h, 3), "stride": (1, 1),
        "padding": (tuple(min(p, kernel_h - 1) for p in padding[:2]), padding[2:]),
    }  # fmt: skip
    compare(affine_graph("depthwise_conv2d", window, c, 1, source, target, clamp, rule, None, seed), seed)


def test_multipliers_of_every_size_with_both_ends_of_zero_point() -> None:
    """Shifts about and beyond those that fast paths take, and M = 0, beside each other and alone."""
    rng = np.random.default_rng(11)
    exponents = range(-31, 3)
    for kind in ("conv2d", "depthwise_conv2d"):
        for steps in (*([e] for e in exponents), exponents, (-40, -10)):
            for zero_point in (-128, 127):
                weight = rng.integers(-127, 128, (1, 3, 3, 34) if kind == "depthwise_conv2d" else (34, 3, 3, 34))
                scales = [float(2.0 ** steps[i % len(steps)] * rng.uniform(1, 2)) for i in range(34)]
                bias = rng.integers(-(2**20), 2**20, 34).astype(np.int32)
                builder = GraphBuilder("single")
                x = builder.input((5, 5, 34), QuantParams(1.0, 3))
                y = getattr(builder, kind)(
                    x, "op", weight.astype(np.int8), scales, 0, bias, output=QuantParams(1.0, zero_point)
                )
                compare(builder.finish(y), 2)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 70), params, params, clamps, rules, st.integers(-128, 127), seeds)
def test_fully_connected(
    k: int, o: int, source: Any, target: Any, clamp: Any, rule: str, zero_point: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight, bias = rng.integers(-128, 128, (o, k)).astype(np.int8), rng.integers(-9000, 9000, o).astype(np.int32)
    builder = GraphBuilder(rule)
    given = {"output": target, "activation_min": clamp[0], "activation_max": clamp[1]}
    x = builder.input((k,), source)
    compare(finish(builder, builder.fully_connected(x, "op", weight, 0.03125, zero_point, bias, **given)), seed)


@settings(max_examples=150, deadline=None)
@given(windows(), channels, params, clamps, seeds)
def test_pools(window: Any, c: int, source: QuantParams, clamp: Any, seed: int) -> None:
    for kind in ("average_pool", "max_pool"):
        builder = GraphBuilder("single")
        x = builder.input((*window["size"], c), source)
        given = {"stride": window["stride"], "padding": window["padding"]}
        given |= {"activation_min": clamp[0], "activation_max": clamp[1]}
        compare(builder.finish(getattr(builder, kind)(x, "op", window["kernel"], **given)), seed)


def test_average_pools_of_any_number_of_positions() -> None:
    """Sums that are the largest and smallest, those beside a half, and others; 256 is past what a fast path takes."""
    rng = np.random.default_rng(5)
    for count in range(1, 257):
        builder = GraphBuilder("single")
        x = builder.input((count, 1, 35), QuantParams(1.0, 0))
        graph = builder.finish(builder.average_pool(x, "op", (count, 1)))
        means = np.r_[-128, 127, rng.integers(-127, 127, 33)]
        inputs = np.repeat(means[None, None, None], count, axis=1)
        inputs[0, : count // 2, 0, 2:] += 1
        inputs[0, -1, 0, 9:] += rng.integers(-1, 2, 26) * (np.abs(means[9:]) < 126)
        inputs = np.concatenate([inputs, rng.integers(-128, 128, inputs.shape)]).astype(np.int8)
        expected = reference.run(graph, inputs)
        for level in native.levels():
            np.testing.assert_array_equal(native.Engine(graph, level).run(inputs), expected, f"{count} {level}")


def test_outputs_of_16_channels_side_by_side() -> None:
    """Any number of them, in one row and in several; those of other widths are left over in any number, too."""
    for o, i in ((16, 3), (24, 16), (80, 8)):
        for h, w in ((1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (7, 1), (2, 4), (3, 3), (1, 11), (3, 4), (13, 1), (2, 10)):
            for zero_point in (None, 7):
                for rule in RULES:
                    window = {"size": (h + 2, w + 1), "kernel": (3, 2), "stride": (1, 1), "padding": ((0, 0), (0, 0))}
                    source, target = QuantParams(0.5, 3), QuantParams(1.0, -5)
                    graph = affine_graph(
                        "conv2d", window, i, o, source, target, (-128, 127), rule, zero_point, h * w + o
                    )
                    compare(graph, h + w)


@settings(max_examples=150, deadline=None)
@given(params, params, params, clamps, rules, st.integers(1, 60), seeds)
def test_add(a: QuantParams, b: QuantParams, target: QuantParams, clamp: Any, rule: str, size: int, seed: int) -> None:
    """The second operand is a slice of a max pool of the input: another (S, Z) comes by a mean over one position."""
    builder = GraphBuilder(rule)
    x = builder.input((1, 1, size), a)
    y = builder.mean(x, "other", output=b, keep_dims=True)
    graph = builder.finish(builder.add(x, y, "add", output=target, activation_min=clamp[0], activation_max=clamp[1]))
    compare(graph, seed, n=8)


@settings(max_examples=150, deadline=None)
@given(params, params, params, clamps, rules, st.sampled_from([(1, 1), (1, 3), (4, 2)]), st.integers(1, 40), seeds)
def test_mul(a: Any, b: Any, target: QuantParams, clamp: Any, rule: str, size: Any, c: int, seed: int) -> None:
    """By itself, by its like in another (S, Z), and by a factor a channel in either order."""
    builder = GraphBuilder(rule)
    x = builder.input((*size, c), a)
    form = seed % 4
    other = x
    if form == 1:
        other = builder.concatenation([x], "other", axis=0, output=b)
    elif form > 1:
        other = builder.mean(x, "other", output=b, keep_dims=True)
    inputs = (other, x) if form == 3 else (x, other)
    output = builder.mul(*inputs, "op", output=target, activation_min=clamp[0], activation_max=clamp[1])
    compare(finish(builder, output), seed, n=8)


@settings(max_examples=100, deadline=None)
@given(st.integers(-28, 34).map(lambda k: 2.0**k) | scales, st.integers(-128, 127), rules)
def test_logistic_of_every_input(scale: float, zero_point: int, rule: str) -> None:
    builder = GraphBuilder(rule)
    graph = builder.finish(builder.logistic(builder.input((256,), QuantParams(scale, zero_point)), "op"))
    x = np.random.default_rng(0).permutation(256).astype(np.uint8).view(np.int8)[None]
    for level in native.levels():
        np.testing.assert_array_equal(native.Engine(graph, level).run(x), reference.run(graph, x), level)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 70), params, params, rules, st.booleans(), seeds)
def test_mean(h: int, w: int, c: int, source: Any, target: Any, rule: str, keep: bool, seed: int) -> None:
    builder = GraphBuilder(rule)
    compare(builder.finish(builder.mean(builder.input((h, w, c), source), "op", output=target, keep_dims=keep)), seed)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2), st.lists(st.integers(1, 5), min_size=1, max_size=4), params, params, rules, seeds)
def test_slice_pad_and_concatenation(
    axis: int, sizes: list[int], source: QuantParams, target: QuantParams, rule: str, seed: int
) -> None:
    """Slices of one tensor, padded along the other axes as they were, side by side in another (S, Z)."""
    shape = [6, 5, 7]
    builder = GraphBuilder(rule)
    x = builder.input((6, 5, 7), source)
    x = builder.pad(x, "pad", paddings=((1, 0), (0, 2), (1, 1)))
    full = [7, 7, 9]
    parts = []
    for index, size in enumerate(sizes):
        begin, extent = [0, 1, 2], [n - b for n, b in zip(full, (0, 1, 2), strict=True)]
        begin[axis], extent[axis] = index, min(size, full[axis] - index)
        parts.append(builder.slice(x, f"part{index}", begin=tuple(begin), size=tuple(extent)))
    assert shape != full
    compare(builder.finish(builder.concatenation(parts, "op", axis=axis, output=target)), seed)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.floats(2**-10, 4.0, width=32), st.sampled_from([0.5, 1.0, 3.0]), seeds)
def test_softmax(classes: int, scale: float, beta: float, seed: int) -> None:
    builder = GraphBuilder("single")
    x = builder.input((classes,), QuantParams(scale, 5))
    compare(builder.finish(builder.softmax(x, "op", beta=beta)), seed, n=5)


@pytest.mark.parametrize("rule", RULES)
def test_a_network_of_every_op(every_op: Callable[[str], Graph], rule: str) -> None:
    for seed in range(6):
        compare(every_op(rule), seed, n=20)


@pytest.mark.parametrize("rule", RULES)
def test_the_shipped_model_on_recordings(rule: str) -> None:
    """Logits of every window of the example recordings."""
    from features.audio import read_audio
    from kws.detector import Detector

    model = kws.load("commands")
    graph = model.graph.with_rounding(rule)
    run = native.Engine(graph)
    for path in sorted((ROOT / "data" / "recordings").glob("*.wav")):
        windows = Detector(model).trace(read_audio(path, dtype="int16", sample_rate=16000)).windows
        x = windows.take(0, len(windows))[..., None]
        np.testing.assert_array_equal(run.run(x), reference.run(graph, x))


def test_batches_of_any_size_and_number_of_threads(every_op: Callable[[str], Graph]) -> None:
    graph = every_op("single")
    x = clips(4, 70, *graph.input_shape)
    expected, run = reference.run(graph, x), native.Engine(graph)
    for n in (0, 1, 2, 15, 16, 17, 70):
        for threads in (1, 2, 3, None):
            np.testing.assert_array_equal(run.run(x[:n], threads=threads), expected[:n])
    np.testing.assert_array_equal(run.run(x[::2]), expected[::2])  # not contiguous
    with pytest.raises(ModelError, match="not int8"):
        run.run(x.astype(np.int16))


def test_a_rule_that_c_does_not_compute(every_op: Callable[[str], Graph]) -> None:
    graph = every_op("half_even")
    with pytest.raises(UsageError, match="'half_even' is not one of single, tflm"):
        native.Engine(graph)
    x = clips(5, 3, *graph.input_shape)
    with pytest.warns(RuntimeWarning, match="computed in NumPy"):
        np.testing.assert_array_equal(engine.run(graph, x), reference.run(graph, x))


def test_without_the_extension_numpy_computes(every_op: Callable[[str], Graph], monkeypatch: Any) -> None:
    graph = every_op("single")
    x = clips(6, 3, *graph.input_shape)
    monkeypatch.setattr(native, "_load", lambda: None)
    with pytest.warns(RuntimeWarning, match="install a C compiler"):
        np.testing.assert_array_equal(engine.run(graph, x), reference.run(graph, x))
    with pytest.raises(UsageError, match="was not built"):
        native.Engine(graph)


def test_an_unknown_engine_is_refused(every_op: Callable[[str], Graph]) -> None:
    with pytest.raises(UsageError, match="one of native, reference"):
        engine.run(every_op("single"), clips(7, 1, 10, 6, 2), "fast")


def test_clean_under_sanitizers_and_with_checked_sums(tmp_path: Path) -> None:
    """The tests of this file again, by an extension built with ASan, UBSan and KWS_CHECKED, whose asserts are on."""
    for name in ("deploy", "features", "kws", "training"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copytree(ROOT / "tests" / "deploy", tmp_path / "tests" / "deploy")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "data").symlink_to(ROOT / "data")
    flags = "-O1 -g -UNDEBUG -DKWS_CHECKED -fsanitize=address,undefined -fno-sanitize-recover=all"
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tmp_path, env={**os.environ, "CFLAGS": flags}, check=True)
    libraries = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "LD_PRELOAD": " ".join(libraries)}
    environment["ASAN_OPTIONS"] = "detect_leaks=0"  # Python's own
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/deploy/test_native.py"]
    tests += [
        "--deselect",
        f"tests/deploy/test_native.py::{test_clean_under_sanitizers_and_with_checked_sums.__name__}",
    ]
    where = "import deploy._native; print(deploy._native.__file__)"
    seen = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert seen.stdout.startswith(str(tmp_path))
    done = subprocess.run(tests, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", ".join(native.levels()) in done.stdout
