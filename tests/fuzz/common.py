# SPDX-License-Identifier: Apache-2.0
"""What both fuzz targets share: when a refusal is a good one, and how libFuzzer's own mutation is called."""

from __future__ import annotations

from collections.abc import Callable

from kws.errors import KwsError

RawMutation = Callable[[bytes, int], bytes]
"""Bytes and a largest size -> other bytes: flips, inserts and copies that know nothing of a format."""

MAX_LINE = 600


def check_refusal(error: KwsError) -> None:
    """A refusal is one line that a terminal can print: a stranger's file must not write escape codes or pages."""
    line = str(error)
    assert line.isprintable(), f"a refusal that is not one printable line: {line[:200]!r}"
    assert len(line) <= MAX_LINE, f"a refusal of {len(line)} characters: {line[:200]}"
