# SPDX-License-Identifier: Apache-2.0
"""Where words lie: in their clips, found by energy, and in the windows that training shows.

A detector's window slides over speech, so it meets more than words in its middle: words anywhere, the end of one and
the beginning of the next, a recording that begins or ends. What a network was never shown, it may call a keyword.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SAMPLE_RATE = 16000
FRAME = SAMPLE_RATE // 100
LEAST, MOST = 0.1, 0.45  # share of a word that a window shows where it is not to be recognized
GAP = (0.2, 0.6)  # seconds between a word and its neighbour
PAD = SAMPLE_RATE // 10  # of a neighbour's clip, on either side of the word

Floats = NDArray[np.float32]


def word_bounds(samples: NDArray[np.floating] | NDArray[np.int16]) -> tuple[int, int] | None:
    """The word's own (start, end) in a clip (n,) at 16 kHz, in samples, found by energy; None where it cannot be told.

    The RMS of 10 ms frames, averaged over three, counts as speech above a twentieth of its maximum (-26 dB) and above
    three times its tenth percentile, the clip's background. Stretches more than 200 ms apart are separate sounds; one
    with less than a fiftieth of the loudest one's energy is a click. It cannot be told where the word ends when there
    are two sounds, when the background lies within 20 dB of the loudest frame, and when the word would last less than
    0.15 s or more than 0.85 s.
    """
    n_frames = len(samples) // FRAME
    if n_frames < 15:
        return None
    frames = samples[: n_frames * FRAME].reshape(n_frames, FRAME).astype(np.float32)
    power = np.einsum("ij,ij->i", frames, frames)
    level = np.sqrt(power)
    level[1:-1] = (level[:-2] + level[1:-1] + level[2:]) / 3
    peak, background = level.max(), np.partition(level, n_frames // 10)[n_frames // 10]
    active = np.flatnonzero(level > max(peak / 20, 3 * background))
    if not len(active) or background > peak / 10:
        return None
    pauses = np.flatnonzero(np.diff(active) > 20) + 1
    energies = np.add.reduceat(power[active], [0, *pauses])
    loudest = int(energies.argmax())
    if np.sum(energies > energies[loudest] / 50) > 1:
        return None
    word = np.split(active, pauses)[loudest]
    start, end = int(word[0]) * FRAME, int(word[-1] + 1) * FRAME
    return (start, end) if 0.15 <= (end - start) / SAMPLE_RATE <= 0.85 else None


def add_at(row: Floats, sound: Floats, start: int) -> None:
    """Add `sound` to `row` from sample `start` on, which may be negative; what does not fit is lost."""
    first, last = max(start, 0), min(start + len(sound), len(row))
    if first < last:
        row[first:last] += sound[first - start : last - start]


def place(row: Floats, sound: Floats, where: float, shift: int) -> None:
    """Lay `sound` at `where` (0 to 1) of the room that it leaves in `row`, or lacks, then `shift` samples later.

    A trimmed clip may lie anywhere; a clip as long as the window moves by the shift alone.
    """
    add_at(row, sound, round(where * (len(row) - len(sound))) + shift)


def place_anywhere(
    rng: Generator, row: Floats, sound: Floats, word: tuple[int, int], neighbour: Floats | None
) -> tuple[int, int]:
    """Lay the whole word (start, end) of `sound` anywhere in `row`; returns where: its first and last sample + 1.

    `neighbour`, a word with PAD samples around it, comes GAP before it or after it, whichever side has more room; less
    than half of it shows.
    """
    n, length = len(row), word[1] - word[0]
    first = int(rng.integers(max(n - length, 0) + 1))
    add_at(row, sound, first - word[0])
    gap = int(rng.uniform(*GAP) * SAMPLE_RATE)
    if neighbour is not None:
        most = int(MOST * (len(neighbour) - 2 * PAD))
        if first > n - first - length:
            add_at(row, neighbour, min(first - gap, most) - len(neighbour) + PAD)
        else:
            add_at(row, neighbour, max(first + length + gap, n - most) - PAD)
    return first, min(first + length, n)


def place_part(
    rng: Generator, row: Floats, sound: Floats, word: tuple[int, int], neighbour: Floats | None
) -> tuple[int, int]:
    """Lay `sound` so that LEAST to MOST of its word shows: its beginning at the end of `row`, or its end at the start.

    `neighbour` shows as little at the other side. Returns the first and last sample + 1 that are taken.
    """
    n = len(row)
    visible = int(rng.uniform(LEAST, MOST) * (word[1] - word[0]))
    others = 0 if neighbour is None else int(rng.uniform(LEAST, MOST) * (len(neighbour) - 2 * PAD))
    if rng.random() < 0.5:
        add_at(row, sound, n - visible - word[0])
        if neighbour is not None:
            add_at(row, neighbour, others - len(neighbour) + PAD)
        return (n - visible if neighbour is None else 0), n
    add_at(row, sound, visible - word[1])
    if neighbour is not None:
        add_at(row, neighbour, n - others - PAD)
    return 0, (visible if neighbour is None else n)
