# SPDX-License-Identifier: Apache-2.0
"""A model's numbers as one C99 header: weights, biases, multipliers, shifts, front-end tables, labels.

Constants are ``static const`` arrays, everything else macros. It holds no code: it is for those who bring their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.graph import Graph, Op
from features import tables
from features.config import FrontendConfig
from kws.arithmetic.requantize import Requant
from kws.errors import UsageError

_LINE = 110
_TYPES = {"int8": "int8_t", "int32": "int32_t", "int16": "int16_t", "float32": "float"}


def export(graph: Graph, frontend: FrontendConfig | None, labels: Sequence[str], *, name: str = "kws_model") -> str:
    """The text of the header; `name` begins every identifier and, in capitals, every macro.

    real = scale * (q - zero_point). Weights are OHWI, 1HWC or OI, activations HWC. A multiplier and its shift stand for
    M = multiplier * 2^(shift - 31). UsageError when `name` is no C identifier.
    """
    check_identifier(name)
    writer = _Writer(name)
    writer.section("Labels, in the order of the outputs")
    writer.macro("N_LABELS", len(labels))
    writer.line(f"static const char *const {name}_labels[{len(labels)}] = {{")
    writer.values(c_string(label) for label in labels)
    writer.line("};")
    if frontend is not None:
        _write_frontend(writer, frontend)
    writer.section(f"Network: every requantization rounds by the rule '{graph.rounding}'")
    for role, tensor in (("INPUT", graph.tensors[graph.input]), ("OUTPUT", graph.tensors[graph.output])):
        writer.macro(f"{role}_SHAPE", _initializer(tensor.shape))
        writer.macro(f"{role}_SCALE", c_float(tensor.params.scale))
        writer.macro(f"{role}_ZERO_POINT", tensor.zero_point)
    for op in graph.ops:
        _write_op(writer, graph, op)
    return writer.text()


# Words of C11 and C++17 in lower case, which no variable can have as its name.
_RESERVED = frozenset((
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch",
    "char", "class", "compl", "const", "const_cast", "constexpr", "continue", "decltype", "default", "delete", "do",
    "double", "dynamic_cast", "else", "enum", "explicit", "export", "extern", "false", "float", "for", "friend",
    "goto", "if", "inline", "int", "long", "mutable", "namespace", "new", "noexcept", "not", "not_eq", "nullptr",
    "operator", "or", "or_eq", "private", "protected", "public", "register", "reinterpret_cast", "restrict",
    "return", "short", "signed", "sizeof", "static", "static_assert", "static_cast", "struct", "switch", "template",
    "this", "thread_local", "throw", "true", "try", "typedef", "typeid", "typename", "union", "unsigned", "using",
    "virtual", "void", "volatile", "wchar_t", "while", "xor", "xor_eq",
))  # fmt: skip


def check_identifier(name: str) -> None:
    """UsageError where C or C++ takes `name` for no identifier."""
    if name in _RESERVED:
        raise UsageError(f"{name!r} is a word of C or C++", hint=f"'{name}_model' is none")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
        raise UsageError(f"{name!r} is no C identifier", hint="a letter, then letters, digits and underscores")


class _Writer:
    """Collects the lines of one header and keeps identifiers apart."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lines: list[str] = []
        self._taken = {"input": "", "output": ""}  # of the network as a whole

    def line(self, text: str) -> None:
        self._lines.append(text)

    def section(self, title: str) -> None:
        self._lines += ["", f"/* {_comment(title)} */"]

    def macro(self, suffix: str, value: object) -> None:
        self.line(f"#define {self._name.upper()}_{suffix} {value}")

    def array(self, suffix: str, values: NDArray[Any]) -> None:
        """One flat array in C order."""
        flat = values.ravel()
        self.line(f"static const {_TYPES[str(values.dtype)]} {self._name}_{suffix}[{flat.size}] = {{")
        self.values(c_float(v) if values.dtype.kind == "f" else str(int(v)) for v in flat)
        self.line("};")

    def values(self, values: Iterable[str]) -> None:
        """Comma-separated, wrapped."""
        row = "   "
        for value in values:
            if len(row) + len(value) + 2 > _LINE:
                self.line(row)
                row = "   "
            row += f" {value},"
        self.line(row)

    def identifier(self, name: str) -> str:
        """A C identifier for a graph name; names that differ only in other characters get different ones."""
        base = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower() or "op"
        candidate, count = base, 1
        while self._taken.setdefault(candidate, name) != name:
            count += 1
            candidate = f"{base}_{count}"
        return candidate

    def text(self) -> str:
        guard = f"{self._name.upper()}_H"
        head = [
            f"/* {self._name}: made by `kws export --to c-array`; include it in one C file. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <stdint.h>",
        ]
        return "\n".join([*head, *self._lines, "", f"#endif /* {guard} */", ""])


def _write_frontend(writer: _Writer, frontend: FrontendConfig) -> None:
    """Settings as macros; window, mel filters (the run of bins that each band sees) and DCT as float32."""
    writer.section("Front-end: lengths in samples, frequencies in Hz")
    for field in fields(frontend):
        value = getattr(frontend, field.name)
        text = c_string(value) if isinstance(value, str) else c_float(value) if isinstance(value, float) else value
        writer.macro(field.name.upper(), text)
    writer.macro("N_FRAMES", frontend.n_frames)
    writer.array("window", tables.window(frontend).astype(np.float32))
    weights = tables.mel_weights(frontend)
    runs = [np.flatnonzero(band) for band in weights.T]
    writer.line(
        "/* mel band b = sum of spectrum[first + i] * weight[begin + i], i < count, begin = sum of earlier counts */"
    )
    writer.array("mel_first", np.array([run[0] for run in runs], np.int16))
    writer.array("mel_count", np.array([run[-1] - run[0] + 1 for run in runs], np.int16))
    bands = [band[run[0] : run[-1] + 1] for band, run in zip(weights.T, runs, strict=True)]
    writer.array("mel_weights", np.concatenate(bands).astype(np.float32))
    if frontend.kind == "mfcc":
        writer.line("/* coefficient k = sum of log_mel[b] * dct[b * N_MFCC + k] */")
        writer.array("dct", tables.dct(frontend).astype(np.float32))


def _write_op(writer: _Writer, graph: Graph, op: Op) -> None:
    inputs = graph.inputs_of(op)
    output = graph.tensors[op.output]
    sources = ", ".join(f"{t.name} {_shape(t.shape)}" for t in inputs if t.data is None)
    writer.section(f"{op.name}: {op.kind}, {sources} -> {output.name} {_shape(output.shape)}")
    name = writer.identifier(op.name)
    writer.macro(f"{name.upper()}_OUTPUT_ZERO_POINT", output.zero_point)
    for role, tensor in zip(op.attributes.constants, [t for t in inputs if t.data is not None], strict=True):
        assert tensor.data is not None
        writer.macro(f"{name.upper()}_{role.upper()}_SHAPE", _initializer(tensor.shape))
        writer.macro(f"{name.upper()}_{role.upper()}_ZERO_POINT", tensor.zero_point)
        writer.array(f"{name}_{role}", tensor.data)
    for field in fields(op.attributes):
        value = getattr(op.attributes, field.name)
        items = list(enumerate(value)) if isinstance(value, tuple) and isinstance(value[0], Requant) else [("", value)]
        for index, item in items:
            _write_attribute(writer, f"{name}_{field.name}{index}", item)


def _write_attribute(writer: _Writer, name: str, value: Any) -> None:
    if not isinstance(value, Requant):
        writer.macro(name.upper(), _initializer(value))
        return
    writer.array(f"{name}_multiplier", value.multiplier)
    writer.array(f"{name}_shift", value.shift.astype(np.int8))
    for field in ("zero_point", "activation_min", "activation_max"):
        writer.macro(f"{name}_{field}".upper(), getattr(value, field))


def _initializer(value: Any) -> str:
    """An integer, or nested braces."""
    return f"{{{', '.join(map(_initializer, value))}}}" if isinstance(value, tuple) else str(int(value))


def c_float(value: float) -> str:
    """The float32 literal that reads back as the same float32."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


def c_string(text: str) -> str:
    """A string literal in UTF-8; what is not plain ASCII, and what C would read otherwise, in octal."""
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_- "
    return '"' + "".join(chr(b) if chr(b) in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def _comment(text: str) -> str:
    return text.replace("*/", "* /")


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
