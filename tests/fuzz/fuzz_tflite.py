# SPDX-License-Identifier: Apache-2.0
"""Fuzz target: bytes -> a TensorFlow Lite file -> a graph. It is refused in one line, or all engines agree on it.

`mutate` changes what a FlatBuffer is made of: bytes, words of 32 bits (offsets, lengths, scales), entries of vtables,
and stretches copied from elsewhere.
"""

from __future__ import annotations

import random
import zlib

from deploy.export.tflite import export
from deploy.importers.tflite import read
from kws.errors import KwsError
from tests.fuzz.common import RawMutation, check_refusal
from tests.fuzz.fuzz_model import MAX_ELEMENTS, MAX_MACS, compare

_WORDS = (0, 1, 2, 4, 8, 16, 127, 128, 255, 0x10000, 0x1000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000)


def check(data: bytes) -> bool:
    """Whether `data` becomes a graph; then all engines agree on it, and an export of it is read as the same."""
    try:
        graph = read(data).graph
    except KwsError as error:
        check_refusal(error)
        return False
    if graph.check().macs > MAX_MACS or sum(t.size for t in graph.tensors.values()) > MAX_ELEMENTS:
        return True
    try:
        again = read(export(graph, ["a"], None)).graph
    except KwsError as error:  # a clamp or weights of -128, for which TensorFlow Lite has no words
        check_refusal(error)
        again = graph
    compare(graph, again, zlib.crc32(data))
    return True


def mutate(data: bytes, max_size: int, rng: random.Random, raw: RawMutation) -> bytes:
    """A changed file of the same length, or now and then what libFuzzer makes of it."""
    changed = bytearray(data)
    if len(changed) < 8 or rng.random() < 0.05:
        return raw(data, max_size)
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        at, action = rng.randrange(len(changed) - 4), rng.random()
        if action < 0.3:
            changed[at] ^= 1 << rng.randrange(8)
        elif action < 0.4:
            changed[at] = rng.choice((0, 1, 2, 3, 9, 127, 128, 255))
        elif action < 0.75:
            word = rng.choice((*_WORDS, len(data), rng.randrange(len(data))))
            changed[at & ~3 : (at & ~3) + 4] = word.to_bytes(4, "little")
        elif action < 0.85:
            changed[at & ~1 : (at & ~1) + 2] = rng.choice((0, 4, 6, 8, 12, 65535)).to_bytes(2, "little")
        else:
            source, size = rng.randrange(len(changed)), rng.randrange(64)
            copied = changed[source : source + size][: len(changed) - at]
            changed[at : at + len(copied)] = copied
    return bytes(changed[:max_size])
