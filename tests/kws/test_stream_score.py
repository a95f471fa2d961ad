# SPDX-License-Identifier: Apache-2.0
"""Events against words: the matching rule, and Audacity's label tracks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kws.detector import Event
from kws.errors import DataError
from kws.stream_score import Word, label_track, matches, read_labels, score, write_labels

YES = Word("yes", 1.0, 1.5)


def event(label: str = "yes", start: float = 1.0, end: float = 1.5) -> Event:
    return Event(label, start, end, 0.9)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (event(), True),
        (event(end=1.8), True),
        (event(end=1.81), False),
        (event(end=1.2), True),
        (event(start=0.9, end=1.19), False),
        (event(start=1.5, end=1.7), False),  # touches, does not overlap
        (event(start=0.5, end=1.0), False),
        (event("no"), False),
    ],
)
def test_match_is_label_overlap_and_ends_within_the_tolerance(candidate: Event, expected: bool) -> None:
    assert matches(candidate, YES) is expected


def test_second_event_of_a_word_is_false() -> None:
    first, second = event(end=1.4), event(start=1.42, end=1.6)
    result = score([second, first], [YES], ["yes"])
    assert result.found == ((YES, first),)
    assert result.false == (second,)
    assert result.missed == ()


def test_words_take_events_in_time_order() -> None:
    words = [Word("yes", 1.0, 1.5), Word("yes", 1.4, 1.7)]
    first, second = event(end=1.6), event(start=1.45, end=1.75)
    assert score([first, second], words, ["yes"]).found == ((words[0], first), (words[1], second))


def test_other_words_are_not_missed_and_events_on_them_are_false() -> None:
    other = Word("cat", 3.0, 3.5)
    wrong = event("yes", 3.0, 3.5)
    result = score([wrong], [YES, other], ["yes", "no"])
    assert result.missed == (YES,)
    assert result.false == (wrong,)


def test_nothing_scores_nothing() -> None:
    result = score([], [], ["yes"])
    assert (result.found, result.missed, result.false) == ((), (), ())


intervals = st.tuples(st.sampled_from(["yes", "no", "cat"]), st.floats(0, 20), st.floats(0.1, 1.0))


@given(st.lists(intervals, max_size=12), st.lists(intervals, max_size=12))
def test_every_event_and_every_keyword_is_counted_once(
    spoken: list[tuple[str, float, float]], heard: list[tuple[str, float, float]]
) -> None:
    words = [Word(label, start, start + length) for label, start, length in spoken]
    events = [Event(label, start, start + length, 1.0) for label, start, length in heard]
    result = score(events, words, ["yes", "no"])
    by_end = sorted([*(e for _, e in result.found), *result.false], key=lambda e: (e.end, e.label, e.start))
    assert by_end == sorted(events, key=lambda e: (e.end, e.label, e.start))
    keywords = sorted((w for w in words if w.label != "cat"), key=repr)
    assert sorted([*(w for w, _ in result.found), *result.missed], key=repr) == keywords
    assert all(matches(e, w) for w, e in result.found)


def test_label_track_survives_its_file(tmp_path: Path) -> None:
    words = [Word("yes", 0.5, 1.125), Word("two words", 2, 3)]
    path = tmp_path / "x.txt"
    write_labels(path, words)
    assert path.read_text() == "0.500\t1.125\tyes\n2.000\t3.000\ttwo words\n"
    assert read_labels(path) == words
    assert label_track([event()]) == "1.000\t1.500\tyes\n"


def test_audacity_extras_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("0.5\t1.0\tyes\n\\\t100.0\t4000.0\n\n2\t3\tno\n")
    assert read_labels(path) == [Word("yes", 0.5, 1.0), Word("no", 2, 3)]


@pytest.mark.parametrize(
    "line", ["0.5 1.0 yes", "0.5\t1.0", "a\tb\tyes", "2\t1\tyes", "-1\t1\tyes", "0\tinf\tyes", "nan\t1\tx"]
)
def test_line_that_is_no_label_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text(f"0\t1\tyes\n{line}\n")
    with pytest.raises(DataError, match=r"x\.txt: line 2"):
        read_labels(path)
