# SPDX-License-Identifier: Apache-2.0
"""The errors that this project raises on purpose: one root, few kinds, each says what, where, and what to do."""

from __future__ import annotations


class KwsError(Exception):
    """Root of every expected error.

    `what` is the fact (``zero_point 300 is outside int8 [-128, 127]``), `where` the place (a file, a tensor, a field),
    `hint` what to do about it. ``str()`` joins them into the one line that the command line prints.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        line = what if self.where is None else f"{self.where}: {what}"
        super().__init__(escaped(line if hint is None else f"{line} ({hint})"))


class UsageError(KwsError):
    """The call itself is wrong: an unknown option value, arguments that contradict each other."""

    exit_code = 2


class QuantError(KwsError):
    """A scale, zero point, multiplier or value outside what the arithmetic contract allows."""


class AudioError(KwsError):
    """A sound file that cannot be used: empty, truncated, not audio, NaN inside."""


class DataError(KwsError):
    """A folder of recordings that cannot be used: missing words, broken clips, a speaker in two splits."""


class ModelError(KwsError):
    """A model file or graph that is refused, with the field that is wrong."""


class MissingExtraError(KwsError):
    """A feature whose optional packages are not installed; the hint names the extra."""


MAX_LINE = 300


def printable(text: str) -> str:
    """What a stranger's file made a message say: cut to a length, control characters as escapes."""
    return escaped(text if len(text) <= MAX_LINE else f"{text[:MAX_LINE]}...")


def escaped(text: str) -> str:
    """One line that can be printed whatever is in it: file names may hold line breaks and bytes that are no text."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def line_of(error: KwsError | OSError, where: object = None) -> str:
    """What is said of an error; `where` is the place of a system's error that names no file itself."""
    if isinstance(error, KwsError):
        return str(error)
    place = error.filename or where
    return escaped(f"{place}: {error.strerror or error}" if place else f"{error.strerror or error}")
