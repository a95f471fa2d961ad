# SPDX-License-Identifier: Apache-2.0
"""Reads FlatBuffers that nobody vouches for: every offset and length is checked against the file before it is used.

A field is named by its place in the table's definition, as in its .fbs file: 0, 1, 2, ...
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kws.errors import ModelError

MAX_TABLES = 1 << 14  # in one vector
MAX_STRING = 1 << 12


def root(data: bytes, identifier: bytes) -> Table:
    """The outermost table of a file; ModelError when its identifier is another."""
    if len(data) < 8 or data[4:8] != identifier:
        raise ModelError(f"is no {identifier.decode()} file, or is cut short")
    return _table_at(data, 0)


def _number(data: bytes, position: int, form: str) -> Any:
    """The little-endian number at a position."""
    if not 0 <= position <= len(data) - struct.calcsize(form):
        raise ModelError("is damaged or cut short: an offset points outside the file")
    return struct.unpack_from("<" + form, data, position)[0]


def _follow(data: bytes, position: int) -> int:
    """Where the offset at a position points: always forward."""
    return position + int(_number(data, position, "I"))


def _table_at(data: bytes, position: int) -> Table:
    """The table to which the offset at a position points."""
    start = _follow(data, position)
    fields = start - int(_number(data, start, "i"))
    size = int(_number(data, fields, "H"))
    if size < 4 or size % 2 or fields + size > len(data):
        raise ModelError("is damaged: a table without fields")
    return Table(data, start, fields, size)


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file; a field that it does not have reads as its default."""

    data: bytes
    start: int
    fields: int
    size: int

    def _position(self, field: int) -> int | None:
        slot = 4 + 2 * field
        if slot + 2 > self.size:
            return None
        offset = int(_number(self.data, self.fields + slot, "H"))
        return self.start + offset if offset else None

    def integer(self, field: int, form: str = "i", default: int = 0) -> int:
        """A number; `form` is that of the module struct."""
        position = self._position(field)
        return default if position is None else int(_number(self.data, position, form))

    def real(self, field: int, default: float = 0.0) -> float:
        """A float32."""
        position = self._position(field)
        return default if position is None else float(_number(self.data, position, "f"))

    def table(self, field: int) -> Table | None:
        """A table, or None."""
        position = self._position(field)
        return None if position is None else _table_at(self.data, position)

    def tables(self, field: int) -> list[Table]:
        """A vector of tables. ModelError for more than MAX_TABLES."""
        offsets = self.vector(field, np.uint32)
        position = self._position(field)
        if position is None:
            return []
        if len(offsets) > MAX_TABLES:
            raise ModelError(f"has {len(offsets)} entries where {MAX_TABLES} are the most")
        first = _follow(self.data, position) + 4
        return [_table_at(self.data, first + 4 * index) for index in range(len(offsets))]

    def vector(self, field: int, dtype: type[np.generic]) -> NDArray[Any]:
        """A vector of numbers, a view into the file; empty where there is none."""
        position = self._position(field)
        if position is None:
            return np.zeros(0, dtype)
        start = _follow(self.data, position)
        count = int(_number(self.data, start, "I"))
        if count * np.dtype(dtype).itemsize > len(self.data) - start - 4:
            raise ModelError("is damaged or cut short: a vector reaches beyond the end")
        return np.frombuffer(self.data, np.dtype(dtype).newbyteorder("<"), count, start + 4)

    def string(self, field: int) -> str:
        """Text, cut to MAX_STRING bytes; what is no UTF-8 is replaced."""
        return bytes(self.vector(field, np.uint8)[:MAX_STRING]).decode("utf-8", "replace")
