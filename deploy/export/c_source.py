# SPDX-License-Identifier: Apache-2.0
"""Constants as C source: arrays, structures and tables of steps, and templates that take them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.program import Fields, Program, Step

TEMPLATES = Path(__file__).parent
_LINE = 110


def rename(text: str, name: str) -> str:
    """kws_nn.h -> NAME_nn.h, kws_x -> NAME_nn_x: the model's own names are NAME_x."""
    text = re.sub(r"\bkws_(nn\b|nn_)?", lambda match: f"{name}_{match[1] or 'nn_'}", text)
    return re.sub(r"\bKWS_(NN_)?", f"{name.upper()}_NN_", text)


def fill(template: str, values: Mapping[str, object]) -> str:
    """`template` with each @name@ replaced."""
    return re.sub(r"@(\w+)@", lambda match: str(values[match[1]]), template)


@dataclass(slots=True)
class Tables:
    """The constants that steps point to; arrays of equal values are one."""

    prefix: str
    _names: dict[tuple[str, bytes], str] = field(default_factory=dict)
    _ops: dict[tuple[str, str], str] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)

    def step(self, step: Step) -> str:
        """Adds the step's structure and arrays, unless equal ones are there; returns its line in the table of steps."""
        index = len(self._ops)
        members = designated(self._members(step.fields, index), "    ")
        if (step.struct, members) not in self._ops:
            self._ops[step.struct, members] = f"op_{index}"
            self._lines += [
                f"/* {step.name} */",
                f"static const {self.prefix}{step.struct.removeprefix('kws_')} op_{index} = {{",
                members,
                "};\n",
            ]
        kernel = self.prefix + step.kernel.removeprefix("kws_")
        op = self._ops[step.struct, members]
        return f"    {{{kernel}, &{op}, {step.inputs[0]}, {step.inputs[-1]}, {step.output}}},"

    def bytes_of(self, *roles: str) -> int:
        return sum(self._bytes.get(role, 0) for role in roles)

    def text(self) -> str:
        return "\n".join(self._lines)

    def _members(self, values: Fields, index: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for role, value in values.items():
            if isinstance(value, Mapping):
                members[role] = self._members(value, index)
            else:
                members[role] = self._array(role, index, value) if isinstance(value, np.ndarray) else value
        return members

    def _array(self, role: str, index: int, values: NDArray[Any]) -> str:
        """The name of the array, which is written unless it is there."""
        key = str(values.dtype), values.tobytes()
        if key not in self._names:
            self._names[key] = f"{role}_{index}"
            self._bytes[role] = self._bytes.get(role, 0) + values.nbytes
            self._lines += [
                f"/* {' x '.join(map(str, values.shape))} */",
                f"static const {values.dtype}_t {role}_{index}[{values.size}] = {{",
                rows(map(str, values.ravel().tolist())),
                "};",
            ]
        return self._names[key]


def designated(members: Mapping[str, Any], indent: str) -> str:
    """One line a member."""
    return "\n".join(f"{indent}.{name} = {_initializer(value)}," for name, value in members.items())


def _initializer(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f".{name} = {_initializer(inner)}" for name, inner in value.items()) + "}"
    return f"{{{', '.join(map(str, value))}}}" if isinstance(value, tuple) else str(value)


def rows(values: Iterable[str], indent: str = "    ") -> str:
    """Comma-separated, wrapped."""
    lines = [indent]
    for value in values:
        if len(lines[-1]) + len(value) > _LINE:
            lines.append(indent)
        lines[-1] += f"{value}, "
    return "\n".join(line.rstrip() for line in lines)


def scratch_dsp(column: int) -> int:
    """Bytes of scratch memory where the DSP path is compiled, KWS_SCRATCH_SIZE in kws_nn.h."""
    return 8 * (-(-column // 4) * 4)


def network_of(program: Program) -> dict[str, int]:
    """The fields of `kws_network` but for its steps."""
    names = ("input", "input_size", "output", "output_size", "arena_size", "column")
    return {name: getattr(program, name) for name in names}
