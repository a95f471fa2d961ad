# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: bytes -> a sound file -> samples. A file is read or refused in one line, whatever its header claims.

`check` is the target. `mutate` keeps an Ogg file's checksums right, because a page with a wrong one is dropped unread,
and writes whole fields of headers. `tests/fuzz/run.py` drives both.
"""

from __future__ import annotations

import random
import struct
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from features.audio import read_audio
from kws.errors import KwsError
from tests.fuzz.common import RawMutation, check_refusal


def check(data: bytes) -> bool:
    """Whether `data` can be read as sound."""
    path = _folder() / "sound"
    path.write_bytes(data)
    notes: list[str] = []
    try:
        samples = read_audio(path, dtype="int16", notes=notes)
    except KwsError as error:
        check_refusal(error)
        return False
    assert samples.dtype == np.int16
    assert samples.ndim == 1
    assert len(samples) >= 1
    assert all(note.isprintable() for note in notes), notes
    return True


@cache
def _folder() -> Path:
    """One folder a process; `run.py` deletes it with its own."""
    return Path(tempfile.mkdtemp(prefix="fuzz-audio-"))


# Mutation.

_FIELDS = (0, 1, 2, 3, 7, 8, 16, 24, 32, 255, 256, 1024, 8000, 65535, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
_CODES = (1, 2, 3, 6, 7, 17, 20, 31, 49, 80, 85, 0x674F, 0x566F, 0xF1AC, 0xFFFE)  # WAVE format tags
_HEADER = 160


def mutate(data: bytes, max_size: int, rng: random.Random, raw: RawMutation) -> bytes:
    """A changed file: a field of its header, a piece cut, doubled or moved, or its bytes; Ogg checksums made right."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        action = rng.random()
        if action < 0.45 and len(changed) > 4:
            _set_field(changed, rng)
        elif action < 0.65 and len(changed) > 4:
            _move_piece(changed, rng)
        else:
            changed = bytearray(raw(bytes(changed), max_size))
    if rng.random() < 0.95:
        mend_ogg(changed)
    return bytes(changed[:max_size])


def _set_field(data: bytearray, rng: random.Random) -> None:
    """One number of 1, 2, 4 or 8 bytes, of either order, near the beginning in most cases."""
    size, order = rng.choice((1, 2, 2, 4, 4, 4, 8)), rng.choice("<>")
    at = rng.randrange(min(len(data), _HEADER) if rng.random() < 0.8 else len(data))
    value = rng.choice(_CODES if size == 2 and rng.random() < 0.3 else _FIELDS)
    if rng.random() < 0.3:
        old = int.from_bytes(data[at : at + size], "little" if order == "<" else "big")
        value = rng.choice((old + 1, old - 1, old * 2, old // 2))
    number = struct.pack(f"{order}Q", value % (1 << 64))
    data[at : at + size] = number[:size] if order == "<" else number[8 - size :]


def _move_piece(data: bytearray, rng: random.Random) -> None:
    """Cut a piece out, or put a copy of it elsewhere, as often as thirty times."""
    start = rng.randrange(len(data))
    piece = data[start : start + rng.choice((1, 2, 4, 8, 16, 64, 256, 1024))]
    if rng.random() < 0.3:
        del data[start : start + len(piece)]
    else:
        at = rng.randrange(len(data))
        data[at:at] = piece * rng.choice((1, 1, 1, 2, 30))


@cache
def _crc_table() -> tuple[int, ...]:
    """Of the CRC-32 of Ogg pages: polynomial 0x04C11DB7, not reflected."""
    table = []
    for value in range(256):
        register = value << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 1 << 31 else 0)
        table.append(register & 0xFFFFFFFF)
    return tuple(table)


def mend_ogg(data: bytearray) -> None:
    """Write the checksum of every Ogg page that is there in full."""
    table = _crc_table()
    at = data.find(b"OggS")
    while at >= 0 and at + 27 <= len(data):
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(segments) + sum(segments)
        if end <= len(data):
            data[at + 22 : at + 26] = bytes(4)
            register = 0
            for byte in data[at:end]:
                register = (register << 8) & 0xFFFFFFFF ^ table[(register >> 24) ^ byte]
            data[at + 22 : at + 26] = struct.pack("<I", register)
        at = data.find(b"OggS", at + 4)
