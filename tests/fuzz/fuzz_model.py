# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: bytes -> a model file -> its engines. A file loads or is refused in one line; what loads runs.

`check` is the target, `mutate` knows that a `.kws` file is a safetensors file with one entry of JSON: flipped bytes
seldom get past its header. `tests/fuzz/run.py` drives both.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import native
from deploy.graph import Graph
from deploy.program import ROUNDING
from deploy.reference import run
from kws.errors import KwsError
from kws.model import Model
from tests.fuzz.common import RawMutation, check_refusal
from tests.fuzz.random_model import random_model

Engine = Callable[[Graph, NDArray[np.int8]], NDArray[np.int8]]
MAX_MACS = 1 << 20  # larger graphs are loaded and not run: a case should take milliseconds
MAX_ELEMENTS = 1 << 17


def engines(graph: Graph) -> dict[str, Engine]:
    """By name, every engine that can run `graph`: its bytes must be those of `deploy.reference.run`."""
    if graph.rounding not in ROUNDING:
        return {}
    return {level: lambda graph, x, level=level: native.Engine(graph, level).run(x) for level in native.levels()}


def check(data: bytes) -> bool:
    """Whether `data` is a model; then it can be written and read again, and all engines agree on it."""
    try:
        model = Model.from_bytes(data)
    except KwsError as error:
        check_refusal(error)
        return False
    again = Model.from_bytes(model.to_bytes())
    if model.graph.check().macs <= MAX_MACS and sum(t.size for t in model.graph.tensors.values()) <= MAX_ELEMENTS:
        compare(model.graph, again.graph, zlib.crc32(data))
    return True


def compare(graph: Graph, again: Graph, seed: int) -> None:
    """One random and one saturated input through the reference and every engine."""
    rng = np.random.default_rng(seed)
    usual = rng.integers(-128, 128, graph.input_shape).astype(np.int8)
    saturated = rng.choice(np.array([-128, 127], np.int8), graph.input_shape)
    x = np.stack([usual, saturated])
    expected = run(graph, x)
    assert expected.dtype == np.int8
    assert expected.shape == (2, *graph.output_shape)
    assert run(again, x).tobytes() == expected.tobytes(), "another result after writing and reading"
    for name, engine in engines(graph).items():
        assert engine(graph, x).tobytes() == expected.tobytes(), f"{name} differs from the reference"


# Mutation.


@dataclass
class _Array:
    dtype: str
    shape: list[int]
    data: bytes


@dataclass
class _File:
    """A model file taken apart, without any check."""

    values: Any
    arrays: dict[str, _Array]


def mutate(data: bytes, max_size: int, rng: random.Random, raw: RawMutation) -> bytes:
    """A changed file: its JSON, its arrays, its header, its bytes, or a new model in its place."""
    if rng.random() < 0.03:
        return random_model(rng).to_bytes()[:max_size]
    file = _apart(data)
    if file is None or rng.random() < 0.05:
        return raw(data, max_size)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if file.arrays and rng.random() < 0.25:
            _edit_array(file.arrays, rng, raw)
        else:
            file.values = _edit(file.values, rng)
    joined = _join(file, rng)
    return joined if len(joined) <= max_size else raw(data, max_size)


def _apart(data: bytes) -> _File | None:
    size = int.from_bytes(data[:8], "little")
    body = data[8 + size :]
    if b"[" * _DEEP in data:  # deeper than what changes it can go
        return None
    try:
        header = json.loads(data[8 : 8 + size])
        values = json.loads(header.pop("__metadata__")["kws"])
        arrays = {
            name: _Array(entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return _File(values, arrays)


def _join(file: _File, rng: random.Random) -> bytes:
    """The bytes of a file, its header changed now and then."""
    header: Any = {"__metadata__": {"kws": _text(file.values)}}
    body = b""
    for name, array in file.arrays.items():
        offsets = [len(body), len(body) + len(array.data)]
        header[name] = {"dtype": array.dtype, "shape": array.shape, "data_offsets": offsets}
        body += array.data
    if rng.random() < 0.05:
        header = _edit(header, rng)
    text = _text(header).encode()
    size = len(text) if rng.random() < 0.99 else rng.choice(_NUMBERS_64)
    return size.to_bytes(8, "little") + text + body


def _text(values: Any) -> str:
    """JSON, in which a string ``nest 900`` becomes 900 nested lists: deeper than Python's own writer goes."""
    return re.sub(r'"nest (\d+)"', lambda m: "[" * int(m[1]) + "]" * int(m[1]), json.dumps(values))


_DEEP = 100
_NUMBERS_64 = (0, 1, 7, 1 << 22, 1 << 32, 1 << 62, (1 << 64) - 1)
_NUMBERS = (
    0, 1, -1, 2, 3, 8, 127, 128, -128, -129, 255, 256, 4096, 65535, 65536, 65537, 1 << 24, 1 << 26, 1 << 30,
    (1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1, 1 << 63, 1 << 64, 10**400, 10**4299, 0.5, 1 / 256, -0.0,
    1e-45, 2.0**-126, 2.0**-127, 2.0**127, 3.4e38, 1e308, math.inf, math.nan,
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (
    None, True, False, "", "a" * 140, "a" * 5000, "per_channel", "_x_", "\n", "\x1b[2J", "\ud800", "é", "0", "input",
    [], {}, [[]], [0] * 300, [1 << 30] * 4096, {"kws": ""}, "nest 20", "nest 500",
)  # fmt: skip


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside `value`."""
    places = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict | list):
            keys = list(container) if isinstance(container, dict) else range(len(container))
            places += [(container, key) for key in keys]
            waiting += [container[key] for key in keys]
    return places


def _edit(values: Any, rng: random.Random) -> Any:
    """One change somewhere in a JSON tree."""
    places = _places(values)
    if not places:
        return _other(rng)
    place, key = rng.choice(places)
    action = rng.choice(("number", "number", "other", "copy", "copy", "swap", "delete", "double", "scale", "nest"))
    if action == "number":
        place[key] = _number(place[key], rng)
    elif action == "other":
        place[key] = _other(rng)
    elif action == "copy":
        there, other = _similar(places, key, rng)
        place[key] = copy.deepcopy(there[other])
    elif action == "swap":
        there, other = _similar(places, key, rng)
        place[key], there[other] = copy.deepcopy(there[other]), copy.deepcopy(place[key])
    elif action == "delete":
        del place[key]
    elif action == "double" and isinstance(place, list):
        place.insert(rng.randint(0, len(place)), copy.deepcopy(place[key]))
    elif action == "double":
        place[rng.choice(("more", f"{key}2", str(key)[:-1]))] = copy.deepcopy(place[key])
    elif action == "scale" and isinstance(place, dict) and "scale" in place:
        place["scale"] = rng.choice((None, 1.0, 0.25, 2.0**-126, 2.0**127))
    else:
        place[key] = f"nest {rng.randint(900, 1000)}"
    return values


def _similar(places: list[tuple[Any, Any]], key: Any, rng: random.Random) -> tuple[Any, Any]:
    """A place, of the same key in most cases: what is there has the right type."""
    same = [place for place in places if place[1] == key]
    return rng.choice(same if rng.random() < 0.8 else places)


def _number(value: Any, rng: random.Random) -> Any:
    if type(value) is int and rng.random() < 0.6:
        return rng.choice((value + 1, value - 1, value * 2, value // 2, -value))
    if type(value) is float and abs(value) < 1e38 and rng.random() < 0.6:
        return rng.choice((value * 2, value / 2, -value, float(np.nextafter(np.float32(value), np.float32(0)))))
    return rng.choice(_NUMBERS)


def _other(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(_OTHERS))


_FILLS: dict[str, tuple[Any, ...]] = {
    "I8": (-128, -1, 0, 1, 127),
    "I32": (0, 1, -1, 30, 31, -31, -32, 1 << 30, (1 << 30) - 1, (1 << 31) - 1, -(1 << 31)),
    "F32": (0.0, -0.0, -1.0, 1.0, 2.0**-126, 2.0**-149, 2.0**127, math.inf, math.nan),
}
_TYPES = {"I8": "<i1", "I32": "<i4", "F32": "<f4"}


def _edit_array(arrays: dict[str, _Array], rng: random.Random, raw: RawMutation) -> None:
    """One change of one array: its bytes, all or one of its values, its shape, its type, its name."""
    name = rng.choice(list(arrays))
    array = arrays[name]
    dtype = _TYPES.get(array.dtype) if isinstance(array.dtype, str) else None
    action = rng.choice(("bytes", "fill", "element", "element", "shape", "dtype", "delete", "rename", "copy"))
    if action in ("fill", "element") and dtype is not None and len(array.data) >= np.dtype(dtype).itemsize:
        value = np.array(rng.choice(_FILLS[array.dtype]), dtype).tobytes()
        count = len(array.data) // len(value)
        at = rng.randrange(count) * len(value)
        whole = action == "fill"
        array.data = value * count if whole else array.data[:at] + value + array.data[at + len(value) :]
    elif action == "shape":
        _reshape(array, rng)
    elif action == "dtype":
        array.dtype = rng.choice(("I8", "U8", "I32", "F32", "F64", "BF16", "F4", "BOOL", "i8"))
    elif action == "delete":
        del arrays[name]
    elif action == "rename":
        new_name = rng.choice((name + "x", "é\n", "a" * 300, rng.choice(list(arrays))))
        arrays[new_name] = arrays.pop(name)
    elif action == "copy":
        arrays[rng.choice(list(arrays))] = copy.deepcopy(array)
    else:
        array.data = raw(array.data, len(array.data)).ljust(len(array.data), b"\0")[: len(array.data)]


def _reshape(array: _Array, rng: random.Random) -> None:
    """Another shape; in most cases the data still fits it."""
    shape = [size for size in array.shape if type(size) is int] if isinstance(array.shape, list) else []
    bytes_each = len(array.data) // max(1, math.prod(shape))
    if shape and rng.random() < 0.7:
        shape[rng.randrange(len(shape))] = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    else:
        shape = [*shape, 1] if rng.random() < 0.5 else shape[1:]
    array.shape = shape
    if rng.random() < 0.9 and 0 <= math.prod(shape) * bytes_each < 1 << 16:
        length = math.prod(shape) * bytes_each
        array.data = (array.data * (length // max(1, len(array.data)) + 1))[:length]
