# SPDX-License-Identifier: Apache-2.0
"""Events against the truth of a recording: which word was found, which event is false; and Audacity's label files.

An event matches a word when their labels are equal, their intervals overlap and their ends lie within the tolerance,
one to one in time order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kws.detector import Event
from kws.errors import DataError

TOLERANCE = 0.3  # seconds between the end of an event and the end of its word
_FLOAT_ERROR = 1e-9  # 1.8 - 1.5 is not 0.3


@dataclass(frozen=True, slots=True)
class Word:
    """A word that was spoken: label, start and end in seconds."""

    label: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Score:
    """The outcome of one recording: pairs that match, words without an event, events without a word."""

    found: tuple[tuple[Word, Event], ...]
    missed: tuple[Word, ...]
    false: tuple[Event, ...]


def score(
    events: Iterable[Event], words: Iterable[Word], keywords: Sequence[str], *, tolerance: float = TOLERANCE
) -> Score:
    """Match `events` with those `words` that are `keywords`; other words only make their events false ones.

    Words are taken in the order of their ends; each takes the earliest event that matches and is still free. A second
    event for the same word is false.
    """
    free = sorted(events, key=lambda event: event.end)
    found, missed = [], []
    for word in sorted(words, key=lambda word: word.end):
        if word.label not in keywords:
            continue
        match = next((event for event in free if matches(event, word, tolerance)), None)
        if match is None:
            missed.append(word)
        else:
            free.remove(match)
            found.append((word, match))
    return Score(tuple(found), tuple(missed), tuple(free))


def matches(event: Event, word: Word, tolerance: float = TOLERANCE) -> bool:
    """Whether the event is that of the word: same label, overlapping, ends at most `tolerance` seconds apart."""
    overlap = event.start < word.end and word.start < event.end
    return event.label == word.label and overlap and abs(event.end - word.end) <= tolerance + _FLOAT_ERROR


def read_labels(path: str | Path) -> list[Word]:
    """Audacity's label track: start, end, label in seconds, tab-separated; DataError names the line that is not."""
    path = Path(path)
    words = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError("is not text in UTF-8", where=path) from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("\\"):  # a backslash starts the frequency range of the label before
            continue
        parts = line.split("\t")
        try:
            start, end = float(parts[0]), float(parts[1])
            label = parts[2].strip()
        except (ValueError, IndexError):
            what = f"line {number} is not start, end, label with tabs between: {line[:80]!r}"
            raise DataError(what, where=path) from None
        if not 0 <= start <= end < float("inf"):
            raise DataError(f"line {number} ends before it starts, or before 0: {line[:80]!r}", where=path)
        words.append(Word(label, start, end))
    return words


def write_labels(path: str | Path, words: Iterable[Word | Event]) -> None:
    """Write words or events as an Audacity label track, times to the millisecond."""
    Path(path).write_text(label_track(words), encoding="utf-8")


def label_track(words: Iterable[Word | Event]) -> str:
    """The text of a label track: one line a word."""
    return "".join(f"{word.start:.3f}\t{word.end:.3f}\t{word.label}\n" for word in words)
