# SPDX-License-Identifier: Apache-2.0
"""Detection on recordings: what counts as found and as false, the Poisson bound, tuning, and the three commands."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

import kws
from features.audio import read_audio
from features.config import get_preset
from kws.cli.main import main
from kws.detector import Decider, DetectionConfig, Event
from kws.errors import DataError
from kws.stream_evaluate import (
    Counts,
    Segment,
    StreamEvaluation,
    Truth,
    count_events,
    evaluate_streams,
    mixed,
    poisson_upper,
    read_truth,
)
from kws.stream_score import Word
from kws.tune import LEVELS, choose, count_firings, tune
from training.dataset import scan_folder, which_split

DATA = Path(__file__).parents[2] / "data"


def test_the_poisson_bound_is_that_of_chi_square() -> None:
    for count in (0, 1, 2, 5, 30, 400):
        assert poisson_upper(count) == pytest.approx(chi2.ppf(0.95, 2 * (count + 1)) / 2, rel=1e-9)
    assert round(poisson_upper(0), 1) == 3.0
    assert round(poisson_upper(1), 2) == 4.74


def counted(events: list[Event], truth: Truth) -> StreamEvaluation:
    result = StreamEvaluation(("go", "stop"), {"go": Counts(), "stop": Counts()})
    count_events(result, [(event, event.end + 0.25) for event in events], truth, 0.3)
    return result


def test_a_word_is_found_once_and_its_latency_is_from_its_end() -> None:
    truth = Truth((Word("go", 1.0, 1.4), Word("stop", 3.0, 3.5), Word("bed", 5.0, 5.4)))
    events = [Event("go", 1.0, 1.5, 0.9), Event("go", 1.1, 1.6, 0.9), Event("stop", 5.0, 5.3, 0.9)]
    result = counted(events, truth)
    assert (result.counts["go"].said, result.counts["go"].found, result.counts["go"].false) == (1, 1, 1)
    assert result.counts["go"].latencies == pytest.approx([0.35])
    assert (result.counts["stop"].said, result.counts["stop"].found, result.counts["stop"].false) == (1, 0, 1)


def test_a_segment_gives_each_of_its_words_once() -> None:
    truth = Truth(segments=(Segment(0.0, 4.0, ("go", "go", "bed")), Segment(4.2, 8.0, ())))
    events = [Event("go", at, at + 0.4, 0.9) for at in (0.5, 1.5, 2.5, 5.0)]
    result = counted(events, truth)
    assert (result.counts["go"].said, result.counts["go"].found, result.counts["go"].false) == (2, 2, 2)
    assert not result.unknown


def test_what_nobody_wrote_down_makes_the_rate_an_upper_bound() -> None:
    result = counted([Event("go", 1.0, 1.4, 0.9)], Truth(segments=(Segment(0.0, 9.0, None),)))
    assert result.counts["go"].false == 1
    assert result.unknown


def test_truth_is_read_from_either_file(tmp_path: Path) -> None:
    assert read_truth(tmp_path / "a.wav") is None
    (tmp_path / "a.json").write_text(json.dumps({
        "keywords_known": True, "segments": [{"start": 0.5, "end": 2.0, "keywords": ["go"], "text": "go on"}],
    }))  # fmt: skip
    assert read_truth(tmp_path / "a.wav") == Truth(segments=(Segment(0.5, 2.0, ("go",)),))
    (tmp_path / "a.txt").write_text("1.0\t1.5\tgo\n")
    assert read_truth(tmp_path / "a.wav") == Truth((Word("go", 1.0, 1.5),))
    nowhere = '{"keywords_known": true, "segments": [{"start": null, "end": 2, "keywords": []}]}'
    endless = '{"keywords_known": true, "segments": [{"start": 1e999, "end": 2, "keywords": []}]}'
    letters = '{"keywords_known": true, "segments": [{"start": 0, "end": 2, "keywords": "up"}]}'
    for text, why in (
        ("[1, 2", "it is not JSON"), ("[" * 200_000, "it is not JSON"), ("[1, 2]", "it needs keywords_known and"),
        ('{"keywords_known": true}', "it needs"), ('{"keywords_known": true, "segments": 3}', "it needs"),
        *((text, "segment 1 is not start <= end and a list of keywords$") for text in (nowhere, endless, letters)),
    ):  # fmt: skip
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(DataError, match=rf"b\.json: is no description of segments: {why}"):
            read_truth(tmp_path / "b.wav")
    (tmp_path / "c.txt").write_bytes(b"0.5\t1.0\tgr\xfcn\n")
    with pytest.raises(DataError, match=r"c\.txt: is not text in UTF-8"):
        read_truth(tmp_path / "c.wav")


def test_the_recordings_of_the_repository_are_all_found() -> None:
    result = evaluate_streams(kws.load("commands"), DATA / "recordings")
    figures = result.to_dict()
    assert figures["missed"] == 0
    assert figures["false_accepts"] == 0
    assert figures["said"] == sum(figures["by_keyword"][word]["said"] for word in result.keywords) > 10
    assert figures["false_accepts_per_hour_upper95"] == pytest.approx(poisson_upper(0) / figures["hours"])
    assert 0.0 < figures["latency_median"] < 1.0


def test_noise_and_gain_do_what_they_say() -> None:
    rng = np.random.default_rng(0)
    speech = np.zeros(32_000, np.int16)
    speech[8000:24_000] = rng.normal(0, 3000, 16_000)
    noise = rng.normal(0, 50, 8000).astype(np.int16)
    quiet = mixed(speech, noise, 20.0, -6.0)
    added = quiet[:8000] * 32768
    assert np.std(added) == pytest.approx(300 / 1.995, rel=0.1)
    assert mixed(speech, None, None, 60.0).max() <= 32767 / 32768


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=120), st.integers(1, 5), st.floats(0.1, 1.0), st.integers(0, 9)
)
def test_firings_are_counted_as_the_decider_does(column: Any, smoothing: int, level: float, refractory: int) -> None:
    limit = max(1, round(level * 255 * smoothing))
    release = max(1, limit * 6 // 10)
    config = DetectionConfig(1, smoothing, refractory, (limit,), (release,))
    posteriors = np.array(column, np.uint8)[:, None]
    sums = np.convolve(posteriors[:, 0].astype(np.int64), np.ones(smoothing, np.int64))[: len(column)]
    assert count_firings(sums, limit, release, refractory) == len(Decider(config).push(posteriors))


def test_thresholds_share_the_false_accepts_that_are_allowed() -> None:
    found = np.array([[9, 8, 5], [9, 9, 9]])
    false = np.array([[4, 1, 0], [3, 2, 0]])
    assert choose(found, false, 0) == (2, 2)
    assert choose(found, false, 1) == (1, 2)
    assert choose(found, false, 4) == (0, 2)
    assert choose(found, false, 99) == (0, 2)  # among equals the highest threshold
    assert choose(np.array([[10, 8], [10, 8]]), np.array([[1, 0], [5, 0]]), 5) == (0, 1)  # fewest false accepts
    with pytest.raises(DataError, match="more than 0 false accepts"):
        choose(found, false + 1, 0)


@pytest.fixture(scope="module")
def negatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of words that are no keywords."""
    folder = tmp_path_factory.mktemp("negatives")
    clips = sorted(p for word in ("bed", "cat", "happy") for p in (DATA / word).iterdir())[:40]
    samples = np.concatenate([read_audio(path, dtype="int16", sample_rate=16_000) for path in clips])
    soundfile.write(folder / "words.wav", samples, 16_000)
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of the repository without the testing split."""
    folder = tmp_path_factory.mktemp("words")
    for clip in scan_folder(DATA):
        if clip.split != "testing" and clip.word in ("left", "right", "stop", "yes"):
            (folder / clip.word).mkdir(exist_ok=True)
            (folder / clip.word / clip.path.name).symlink_to(clip.path)
    return folder


def test_tuning_finds_words_within_the_rate(words: Path, negatives: Path) -> None:
    model = kws.load("commands")
    tuned, tuning = tune(model, words, negatives, 0.0)
    assert tuning.false_accepts == 0
    assert tuning.words_found > 0.7 * tuning.said.sum()
    assert tuned.detection is not None
    assert tuned.detection.thresholds != model.hearing()[1].thresholds
    assert tuned.provenance["tuned"]["words_found"] == tuning.words_found
    own = model.hearing()[1]
    for keyword, said in enumerate(tuning.said):
        if said == 0:  # "on" has no clip there
            assert abs(tuned.detection.thresholds[keyword] / own.thresholds[keyword] - 1) < 0.01
    loose, more = tune(model, words, negatives, 1e6)
    assert more.words_found >= tuning.words_found
    assert loose.provenance["tuned"]["false_accepts"] == more.false_accepts
    assert all(0 <= level < len(LEVELS) for level in more.chosen)


def test_tuning_refuses_the_testing_split_and_negatives_with_keywords(
    words: Path, negatives: Path, tmp_path: Path
) -> None:
    model = kws.load("commands")
    tested, validated = (
        next(name for name in (f"{i:08x}" for i in range(1000)) if which_split(name) == split)
        for split in ("testing", "validation")
    )
    folder = tmp_path / "words" / "go"
    folder.mkdir(parents=True)
    shutil.copy(next((DATA / "left").iterdir()), folder / f"{tested}_nohash_0.opus")
    (tmp_path / "words" / "validation_list.txt").write_text(f"go/{tested}_nohash_0.opus\n")
    with pytest.raises(DataError, match=f"go/{tested}_nohash_0.opus: its speaker belongs to the testing split"):
        tune(model, tmp_path / "words", negatives, 1.0)
    (tmp_path / "words" / "speakers.csv").write_text(f"{tested},{validated}\n")  # another name of somebody else
    assert tune(model, tmp_path / "words", negatives, 1e6)[1].said.sum() == 1
    (tmp_path / "words" / "validation_list.txt").unlink()
    (tmp_path / "words" / "speakers.csv").write_text(f"{validated},{tested}\n")
    (folder / f"{tested}_nohash_0.opus").rename(folder / f"{validated}_nohash_0.opus")
    with pytest.raises(DataError, match="holds no validation clip"):  # but one of the testing split, which is not used
        tune(model, tmp_path / "words", negatives, 1e6)
    with pytest.raises(DataError, match="has a keyword in it"):
        tune(model, words, DATA / "recordings", 1.0)


def test_clips_of_other_splits_may_lie_there_and_are_not_used(words: Path, negatives: Path) -> None:
    """One folder with its splits serves training, tuning and the report."""
    _, alone = tune(kws.load("commands"), words, negatives, 1.0)
    _, beside = tune(kws.load("commands"), DATA, negatives, 1.0)
    assert np.array_equal(beside.said[alone.said > 0], alone.said[alone.said > 0])


def test_the_command_line_tunes_evaluates_and_draws(words: Path, negatives: Path, tmp_path: Path, capsys: Any) -> None:
    out, png, det = tmp_path / "tuned.kws", tmp_path / "tuned.png", tmp_path / "det.png"
    given = ["--data", str(words), "--negatives", str(negatives), "--out", str(out), "--png", str(png)]
    assert main(["tune", *given, "--max-fa-per-hour", "60"]) == 0
    assert "words found" in capsys.readouterr().out
    assert png.read_bytes()[:4] == b"\x89PNG"
    common = ["evaluate", "--model", str(out), "--stream", str(DATA / "recordings"), "--negatives", str(negatives)]
    assert main([*common, "--det", str(det)]) == 0
    assert "an hour, at most" in capsys.readouterr().out
    assert set(json.loads(det.with_suffix(".det.json").read_text())) == set(kws.load("commands").labels[:-2])
    noisy = ["--noise", str(negatives), "--snr", "20,0", "--gain", "-12"]
    assert main([*common, *noisy, "--json"]) == 0
    conditions = json.loads(capsys.readouterr().out)
    assert [(c["snr_db"], c["gain_db"]) for c in conditions] == [(20.0, -12.0), (0.0, -12.0)]


@pytest.mark.parametrize(("arguments", "said"), [
    (["tune", "--data", str(DATA), "--negatives", str(DATA / "recordings")], "a model that ships is not changed"),
    (["evaluate"], "give either --data, or --stream and --negatives"),
    (["evaluate", "--data", "x", "--stream", "y"], "give either --data"),
    (["evaluate", "--stream", str(DATA / "recordings"), "--snr", "3"], "--noise and --snr belong together"),
    (["evaluate", "--stream", str(DATA / "recordings"), "--gain", "loud"], "--gain 'loud' is not numbers"),
    (["listen", "-", "--device", "3"], "--device is a microphone's"),
    (["evaluate", "--data", "x", "--snr", "3"], "--snr belongs to --stream"),
    (["evaluate", "--data", "x", "--gain", "0"], "--gain belongs to --stream"),
    (["evaluate", "--data", "x", "--tolerance-ms", "0"], "--tolerance-ms belongs to --stream"),
    (["evaluate", "--stream", "x", "--split", "testing"], "--split belongs to --data"),
    (["evaluate", "--stream", "x", "--det", "x.json"], "x.json: is no name for a PNG"),
    *(
        (["tune", "--data", "x", "--negatives", "y", "--out", "z.kws", "--max-fa-per-hour", rate], "is not a number")
        for rate in ("inf", "nan", "1e308")
    ),
    (["tune", "--data", "x", "--negatives", "y", "--out", "z.png", "--png", "./z.png"], "z.png: would be written over"),
    (["profile", "--budget", ""], "budget '' is not understood"),
    (["tune", "--data", "x", "--negatives", "y", "--out", "no/z.kws"], "no/z.kws: is in no folder that exists"),
])  # fmt: skip
def test_wrong_usage_is_one_line(arguments: list[str], said: str, capsys: Any) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_noise_that_is_silent_cannot_be_mixed_in(tmp_path: Path, capsys: Any) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(1600), 16000)
    noise = ["--noise", str(tmp_path / "silence.wav"), "--snr", "10"]
    assert main(["evaluate", "--stream", str(DATA / "recordings"), *noise]) == 1
    assert capsys.readouterr().err == f"kws: {tmp_path}/silence.wav: is silent: it cannot be mixed in at a ratio\n"


@pytest.mark.parametrize(("name", "text"), [
    ("a.txt", "0.5\t0.9\tyes\n1e300\t1e301\tyes\n"),
    ("a.json", '{"keywords_known": true, "segments": [{"start": 1e300, "end": 1e301, "keywords": ["yes"]}]}'),
])  # fmt: skip
def test_words_behind_the_end_of_a_recording_are_not_missed_words(
    name: str, text: str, tmp_path: Path, capsys: Any
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16000), 16000)
    (tmp_path / name).write_text(text)
    assert main(["evaluate", "--stream", str(tmp_path)]) == 1
    said = f"kws: {tmp_path}/a.wav: what is written down begins at 1e+300 s, behind the end of 1 s "
    assert capsys.readouterr().err == said + "(is it another recording's?)\n"


def test_the_numbers_of_a_picture_are_checked_before_the_work(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "x.det.json").mkdir()
    assert main(["evaluate", "--stream", "nowhere", "--det", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err == f"kws: {tmp_path}/x.det.json: is a folder, not a file to write\n"


class _Input:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.mark.parametrize("format_", ["table", "jsonl"])
def test_listening_to_standard_input_gives_the_events_of_the_file(format_: str, monkeypatch: Any, capsys: Any) -> None:
    path = sorted((DATA / "recordings").glob("*.wav"))[0]
    samples = read_audio(path, dtype="int16", sample_rate=16_000)
    monkeypatch.setattr(sys, "stdin", _Input(samples.tobytes()))
    assert main(["listen", "-", "--format", format_]) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = kws.load("commands").detect(path)
    assert len(lines) == len(expected) > 3
    if format_ == "jsonl":
        assert [json.loads(line)["label"] for line in lines] == [event.label for event in expected]


@pytest.mark.parametrize(("samples", "said"), [
    (np.zeros(70_000), "the input is silent"), (np.full(20_000, 32767), "the input is clipped"),
])  # fmt: skip
def test_a_useless_input_is_said_once(samples: Any, said: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "stdin", _Input(samples.astype(np.int16).tobytes() + b"\x00"))
    assert main(["listen", "-"]) == 0
    error = capsys.readouterr().err
    assert error.count(said) == 1
    assert "ended within a sample" in error


def test_recordings_none_of_which_can_be_read(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    assert main(["evaluate", "--negatives", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "no recording could be read" in printed.out
    assert "empty.wav" in printed.err


def test_a_recording_of_no_use_is_named_and_the_others_go_on(
    tone_model_file: Path, tone_file: Any, capsys: Any
) -> None:
    """Without a truth, with one that is none, without samples: the figures are those of the folder without them."""
    folder = tone_file("b/low.wav", 4.0, ("low", 1.5, 0.4)).parent
    (folder / "low.txt").write_text("1.5\t1.9\tlow\n")
    command = ["evaluate", "--model", str(tone_model_file), "--stream", str(folder), "--json"]
    assert main(command) == 0
    expected = json.loads(capsys.readouterr().out)
    assert expected["missed"] == 0 < expected["said"]
    tone_file("b/a_unknown.wav", 4.0, ("high", 1.5, 0.4))
    tone_file("b/m_wrong.wav", 4.0, ("high", 1.5, 0.4)).with_suffix(".txt").write_text("from the start\n")
    tone_file("b/n_folder.wav", 4.0, ("high", 1.5, 0.4)).with_suffix(".json").write_text("{")
    (folder / "z_empty.wav").write_bytes(b"")
    (folder / "z_empty.txt").write_text("")
    det = folder / "det.png"
    assert main([*command, "--det", str(det)]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == expected
    lines = printed.err.splitlines()
    assert lines[0] == f"kws: {folder}/a_unknown.wav: has no X.txt or X.json beside it that says what is said in it"
    assert [line.split(": ")[1] for line in lines[1:]] == [
        f"{folder}/{name}" for name in ("m_wrong.txt", "n_folder.json", "z_empty.wav")
    ]
    curve = json.loads(det.with_suffix(".det.json").read_text())
    assert {point["miss_rate"] for point in curve["high"]} == {None}  # the tones nobody wrote down do not count
    assert {point["false_accepts_per_hour"] for point in curve["high"]} == {0.0}


def test_a_shipped_model_is_not_changed_by_its_path(words: Path, negatives: Path, capsys: Any) -> None:
    shipped = Path(kws.__file__).parent / "models" / "commands.kws"
    given = ["--data", str(words), "--negatives", str(negatives), "--model", os.path.relpath(shipped)]
    assert main(["tune", *given]) == 2
    assert "a model that ships is not changed" in capsys.readouterr().err


def test_a_wav_file_on_standard_input_is_refused(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "stdin", _Input(b"RIFF" + bytes(5000)))
    assert main(["listen", "-"]) == 1
    assert "is a WAV file, not raw samples (kws infer FILE)" in capsys.readouterr().err


def test_a_model_without_threshold_for_streams_says_so(capsys: Any, tmp_path: Path) -> None:
    model = replace(kws.load("commands"), frontend=replace(get_preset("mfb40-10ms"), normalize="peak"))
    model.save(tmp_path / "m.kws")
    assert main(["listen", "-", "--model", str(tmp_path / "m.kws")]) == 2
    assert "has no stream" in capsys.readouterr().err
