# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.layout import LEAST, MOST, PAD, add_at, place, place_anywhere, place_part, word_bounds

N = 16000


def burst(start: float, end: float, *, level: float = 3000.0, noise: float = 3.0, seconds: float = 1.0) -> np.ndarray:
    """A tone from `start` to `end` seconds on a noise floor, int16."""
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * N)) / N
    tone = level * np.sin(2 * np.pi * 440 * t) * ((t >= start) & (t < end))
    return (tone + noise * rng.standard_normal(len(t))).astype(np.int16)


@given(st.floats(0.05, 0.4), st.floats(0.17, 0.5))
def test_a_word_is_found_to_two_frames(start: float, length: float) -> None:
    bounds = word_bounds(burst(start, start + length))
    assert bounds is not None
    assert bounds[0] / N == pytest.approx(start, abs=0.021)
    assert bounds[1] / N == pytest.approx(start + length, abs=0.021)


def test_level_and_type_of_the_samples_do_not_matter() -> None:
    clip = burst(0.2, 0.6)
    assert word_bounds(clip) == word_bounds(clip.astype(np.float64) / 32768)


def test_a_click_beside_the_word_is_passed_over() -> None:
    clip = burst(0.1, 0.5)
    clip[14000:14100] += 2000
    bounds = word_bounds(clip)
    assert bounds is not None
    assert bounds[1] < 0.53 * N


def test_a_short_pause_belongs_to_the_word() -> None:
    bounds = word_bounds(burst(0.1, 0.4) + burst(0.55, 0.62))
    assert bounds is not None
    assert bounds[1] / N == pytest.approx(0.62, abs=0.021)


@pytest.mark.parametrize(
    "clip",
    [
        np.zeros(0, np.int16),
        np.zeros(100, np.int16),
        np.zeros(N, np.int16),
        burst(0.1, 0.3) + burst(0.6, 0.9),  # two sounds
        burst(0.1, 0.5, noise=400),  # the background is too loud
        burst(0.1, 0.2),  # too short
        burst(0.02, 0.99),  # too long
    ],
)
def test_where_nothing_can_be_told_there_is_no_word(clip: np.ndarray) -> None:
    assert word_bounds(clip) is None


@given(st.integers(1, 40), st.floats(0, 1), st.integers(-30, 30))
def test_place_keeps_what_fits_in_order(length: int, where: float, shift: int) -> None:
    row = np.zeros(20, np.float32)
    place(row, np.arange(1, length + 1, dtype=np.float32), where, shift)
    values = row[row > 0]
    assert np.array_equal(np.diff(values), np.ones(max(len(values) - 1, 0)))
    if shift == 0:
        assert len(values) == min(length, 20)


def test_add_at_adds() -> None:
    row = np.ones(5, np.float32)
    add_at(row, np.array([1, 2, 3], np.float32), -1)
    assert row.tolist() == [3, 4, 1, 1, 1]
    add_at(row, np.array([1, 2, 3], np.float32), 9)
    assert row.tolist() == [3, 4, 1, 1, 1]


def spoken(length: int, before: int, after: int, value: float) -> np.ndarray:
    """A clip whose word is `length` samples of `value` between zeros."""
    return np.pad(np.full(length, value, np.float32), (before, after))


WORDS = st.tuples(st.integers(2000, 13000), st.integers(0, 4000), st.integers(0, 4000))


@given(WORDS, st.none() | st.integers(2000, 13000), st.integers(0, 1000))
def test_a_word_placed_anywhere_is_whole_and_its_neighbour_is_not(
    word: tuple[int, int, int], other: int | None, seed: int
) -> None:
    length, before, after = word
    neighbour = None if other is None else spoken(other, PAD, PAD, 10)
    row = np.zeros(N, np.float32)
    taken = place_anywhere(
        np.random.default_rng(seed), row, spoken(length, before, after, 1), (before, before + length), neighbour
    )
    own, others = np.flatnonzero(row == 1), np.flatnonzero(row == 10)
    assert len(own) == length
    assert (own[0], own[-1] + 1) == taken
    assert len(own) + len(others) == np.count_nonzero(row)  # they never lie on each other
    if other is not None:
        assert len(others) <= MOST * other
        if len(others):
            assert min(abs(own[0] - others[-1]), abs(others[0] - own[-1])) >= 0.2 * N


@given(WORDS, st.none() | st.integers(2000, 13000), st.integers(0, 1000))
def test_a_part_is_less_than_half_of_the_word_at_an_end_of_the_window(
    word: tuple[int, int, int], other: int | None, seed: int
) -> None:
    length, before, after = word
    neighbour = None if other is None else spoken(other, PAD, PAD, 10)
    row = np.zeros(N, np.float32)
    begin, end = place_part(
        np.random.default_rng(seed), row, spoken(length, before, after, 1), (before, before + length), neighbour
    )
    own, others = np.flatnonzero(row == 1), np.flatnonzero(row == 10)
    assert LEAST * length - 1 <= len(own) <= MOST * length
    assert (own[0] == 0) != (own[-1] == N - 1)
    assert not row[:begin].any()
    assert not row[end:].any()
    if other is not None:
        assert len(others) <= MOST * other
        assert (others[0] == 0) == (own[0] != 0)


def test_place_anywhere_reaches_both_ends() -> None:
    rng, sound = np.random.default_rng(0), spoken(4000, 100, 100, 1)
    starts = [place_anywhere(rng, np.zeros(N, np.float32), sound, (100, 4100), None)[0] for _ in range(300)]
    assert min(starts) < 200
    assert max(starts) > 11800
