# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from kws.errors import DataError, UsageError
from training.dataset import (
    Clip,
    Corpus,
    digest,
    load,
    scan,
    scan_folder,
    which_split,
)


def write_clip(path: Path, seconds: float = 0.05, value: int = 3000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(16000 * seconds), value, np.int16), 16000)
    return path


def speakers_in(split: str, count: int) -> list[str]:
    """The first `count` speaker names that the hash rule puts into `split`."""
    found = [name for name in (f"{i:08x}" for i in range(2000)) if which_split(name) == split]
    return found[:count]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Two words and an other one, split by hash: 4 training speakers, 2 validation, 1 testing."""
    folder = tmp_path / "words"
    for word in ("yes", "no", "bird"):
        for speaker in [*speakers_in("training", 4), *speakers_in("validation", 2), *speakers_in("testing", 1)]:
            write_clip(folder / word / f"{speaker}_nohash_0.wav")
    return folder


@given(st.text(alphabet="0123456789abcdef", min_size=1, max_size=8))
def test_split_is_the_rule_that_speech_commands_publishes(speaker: str) -> None:
    # tensorflow/examples/speech_commands/input_data.py, which_set
    maximum = 2**27 - 1
    hashed = int(hashlib.sha1(speaker.encode()).hexdigest(), 16)
    percentage = (hashed % (maximum + 1)) * (100.0 / maximum)
    expected = "validation" if percentage < 10 else "testing" if percentage < 20 else "training"
    assert which_split(speaker) == expected


def test_split_of_known_clips() -> None:
    # From the published validation_list.txt and testing_list.txt of version 0.02.
    assert which_split("026290a7") == "validation"
    assert which_split("099d52ad") == "validation"
    assert which_split("28ce0c58") == "training"


def test_lists_decide_where_they_exist(words: Path) -> None:
    (words / "validation_list.txt").write_text(
        "yes/{0}_nohash_0.wav\nno/{0}_nohash_0.wav\nbird/{0}_nohash_0.wav\n".format(*speakers_in("training", 1))
    )
    splits = Counter(clip.split for clip in scan_folder(words))
    assert splits == {"validation": 3, "training": 18}


def test_speakers_csv_replaces_the_hash(words: Path) -> None:
    training, validation = speakers_in("training", 2), speakers_in("validation", 1)
    (words / "speakers.csv").write_text(
        f"file prefix,group\n{training[0]},{validation[0]}\nno/{training[1]},{validation[0]}\n"
    )
    clips = {f"{clip.word}/{clip.path.name}": clip for clip in scan_folder(words)}
    assert clips[f"yes/{training[0]}_nohash_0.wav"].split == "validation"
    assert clips[f"yes/{training[0]}_nohash_0.wav"].speaker == validation[0]
    assert clips[f"no/{training[1]}_nohash_0.wav"].split == "validation"
    assert clips[f"yes/{training[1]}_nohash_0.wav"].split == "training"


@pytest.mark.parametrize("row", ["a", "a,", ",b", "a,b,c"])
def test_bad_row_of_speakers_csv_is_named(words: Path, row: str) -> None:
    (words / "speakers.csv").write_text(f"# who spoke\nfile prefix,group\n\nx,y\n{row}\n")
    with pytest.raises(DataError, match=r"speakers\.csv: line 5 is not"):
        scan_folder(words)


def test_train_only_clips_are_training_and_have_a_source(words: Path, tmp_path: Path) -> None:
    synthetic = tmp_path / "synthetic"
    for name in ("robot/yes/v1_nohash_0.wav", "robot/_phrases/a_b/v1_nohash_0.wav", "flat/v2_nohash_0.wav"):
        write_clip(synthetic / name)
    corpus = scan([words], train_only=[synthetic], keywords=["yes", "no"])
    added = [clip for clip in corpus.clips if clip.source]
    assert {(clip.word, clip.source, clip.split) for clip in added} == {
        ("yes", "robot", "training"), ("_phrases", "robot", "training"), ("flat", "synthetic", "training")
    }  # fmt: skip
    held_out, _ = corpus.held_out("validation", 0)
    assert not any(clip.source for clip in held_out)
    assert corpus.label_of("_phrases") == corpus.labels.index("_unknown_")


def test_folders_are_joined(words: Path, tmp_path: Path) -> None:
    more = tmp_path / "more"
    write_clip(more / "yes" / f"{speakers_in('training', 5)[4]}_nohash_0.wav")
    assert len(scan([words, more], keywords=["yes"]).clips) == 22


def test_noise_folders_are_noise_and_not_words(words: Path) -> None:
    write_clip(words / "_background_noise_" / "tap.wav")
    write_clip(words / "_silence_" / "1.wav")
    corpus = scan([words], keywords=["yes"])
    assert {path.parent.name for path in corpus.noise_files} == {"_background_noise_"}
    assert {clip.word for clip in corpus.noise} == {"_background_noise_", "_silence_"}
    assert {clip.word for clip in corpus.clips} == {"yes", "no", "bird"}
    assert "_silence_" in {clip.word for clip in scan_folder(words)}


def test_labels_are_keywords_in_training_order_then_silence_then_unknown(words: Path) -> None:
    corpus = scan([words], keywords=["no", "yes"])
    assert corpus.labels == ("no", "yes", "_silence_", "_unknown_")
    assert [corpus.label_of(word) for word in ("no", "yes", "bird")] == [0, 1, 3]


def test_held_out_split_follows_the_convention() -> None:
    clips = [Clip(Path(f"{word}{i}"), word, "", "testing") for word in ("yes", "no", "bird", "cat") for i in range(51)]
    corpus = Corpus(("yes", "no"), tuple(clips), ())
    chosen, n_silence = corpus.held_out("testing", 3)
    counts = Counter(clip.word in corpus.keywords for clip in chosen)
    assert (counts[True], counts[False], n_silence) == (102, 11, 11)
    assert chosen == corpus.held_out("testing", 3)[0]
    assert chosen != corpus.held_out("testing", 4)[0]


def test_missing_words_are_named_with_those_found(words: Path) -> None:
    with pytest.raises(DataError, match=r"no folder for stop, go \(words found: bird, no, yes\)"):
        scan([words], keywords=["yes", "stop", "go"])


def test_keyword_without_training_clips_is_named(words: Path) -> None:
    write_clip(words / "up" / f"{speakers_in('validation', 1)[0]}_nohash_0.wav")
    with pytest.raises(DataError, match="no training clip of up"):
        scan([words], keywords=["yes", "up"])


def test_some_keyword_needs_validation_clips(words: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "synthetic" / "up" / "v_nohash_0.wav")
    synthetic = {"train_only": [tmp_path / "synthetic"]}
    assert scan([words], keywords=["yes", "up"], **synthetic).labels[1] == "up"
    with pytest.raises(DataError, match="no validation clip of any keyword"):
        scan([words], keywords=["up"], **synthetic)


def test_empty_folders_are_named(words: Path, tmp_path: Path) -> None:
    (words / "maybe").mkdir()
    with pytest.raises(DataError, match=r"maybe: the folder holds no recording"):
        scan([words], keywords=["yes"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing: no recordings in it"):
        scan([tmp_path / "nothing"], keywords=["yes"])
    with pytest.raises(DataError, match="no such folder"):
        scan([tmp_path / "nowhere"], keywords=["yes"])


def test_a_folder_given_twice_is_refused(words: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(words)
    with pytest.raises(UsageError, match="link: is given twice"):
        scan([words, tmp_path / "link"], keywords=["yes"])
    with pytest.raises(UsageError, match="words: is given twice"):
        scan([words], train_only=[words], keywords=["yes"])


def test_a_folder_that_cannot_be_listed_is_named(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "yes":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(DataError, match="words/yes: cannot be listed: Permission denied"):
        scan([words], keywords=["no"])


@pytest.mark.parametrize("keywords", [[], ["yes", "yes"], ["_unknown_"]])
def test_impossible_keywords_are_usage_errors(words: Path, keywords: list[str]) -> None:
    with pytest.raises(UsageError):
        scan([words], keywords=keywords)


def test_speaker_in_two_splits_is_refused(words: Path, tmp_path: Path) -> None:
    speaker = speakers_in("validation", 1)[0]
    write_clip(tmp_path / "leak" / "yes" / f"{speaker}_nohash_1.wav")
    with pytest.raises(DataError, match=f"speaker '{speaker}' is in two splits"):
        scan([words], train_only=[tmp_path / "leak"], keywords=["yes"])


def test_clip_in_two_lists_is_refused(words: Path) -> None:
    for split in ("validation", "testing"):
        (words / f"{split}_list.txt").write_text("yes/a_nohash_0.wav\n")
    with pytest.raises(DataError, match="in two splits: validation and testing"):
        scan_folder(words)


def test_broken_clips_are_named_and_skipped_or_fatal(words: Path) -> None:
    broken = words / "yes" / f"{speakers_in('training', 1)[0]}_nohash_1.wav"
    broken.write_bytes(b"not audio")
    clips = scan([words], keywords=["yes"]).clips
    loaded = load(clips)
    assert len(loaded.recordings) == len(clips) - 1
    assert len(loaded.broken) == 1
    assert str(broken) in loaded.broken[0]
    with pytest.raises(DataError, match=f"1 of 22 clips cannot be read, the first: {re.escape(str(broken))}"):
        load(clips, broken="fail")


def test_load_returns_each_clip_s_samples(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / "yes" / f"{i}.wav", seconds=0.01 * (i + 1), value=100 * i) for i in range(3)]
    done: list[int] = []
    loaded = load([Clip(path, "yes", "", "training") for path in paths], advance=done.append)
    assert [len(loaded.recordings[i]) for i in range(3)] == [160, 320, 480]
    assert [int(loaded.recordings[i][0]) for i in range(3)] == [0, 100, 200]
    assert done == [3]
    assert loaded.hashes[paths[0]] == hashlib.sha256(paths[0].read_bytes()).hexdigest()


def test_digest_depends_on_names_splits_and_contents_and_not_on_places(tmp_path: Path) -> None:
    def of(path: str, value: int, split: str = "training") -> str:
        return digest(load([Clip(write_clip(tmp_path / path, value=value), "yes", "", split)]))

    assert of("a/yes/1.wav", 5) == of("b/yes/1.wav", 5)
    assert len({of("a/yes/1.wav", 5), of("a/yes/1.wav", 6), of("a/yes/2.wav", 5), of("a/yes/1.wav", 5, "testing")}) == 4


def test_noise_of_one_split_stays_there(words: Path, tmp_path: Path) -> None:
    write_clip(words / "_background_noise_" / "tap.wav")
    for split in ("training", "validation", "testing"):
        write_clip(words / "_silence_" / f"{speakers_in(split, 1)[0]}_nohash_0.wav")
    write_clip(tmp_path / "synthetic" / "yes" / "v_nohash_0.wav")
    write_clip(tmp_path / "synthetic" / "_background_noise_" / "fan.wav")
    corpus = scan([words], train_only=[tmp_path / "synthetic"], keywords=["yes"])
    assert [path.name for path in corpus.noise_files] == ["tap.wav"]
    splits = Counter((clip.word, clip.split) for clip in corpus.noise)
    assert splits == {
        ("_background_noise_", ""): 1, ("_background_noise_", "training"): 1,
        ("_silence_", "training"): 1, ("_silence_", "validation"): 1, ("_silence_", "testing"): 1,
    }  # fmt: skip


def test_linked_folders_are_read_and_loops_are_not_followed(words: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "again").symlink_to(linked)
    for word in ("yes", "no"):
        (linked / word).symlink_to(words / word)
    clips = scan_folder(linked)
    assert Counter(clip.word for clip in clips) == {"yes": 7, "no": 7}
    assert clips[0].path.parent == linked / "no"


@pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt", "speakers.csv"])
def test_text_that_is_not_utf8_is_one_error(words: Path, name: str) -> None:
    (words / name).write_bytes(b"a,b\nj\xfcrgen,c\n")
    with pytest.raises(DataError, match=rf"{name}: line 2 is not UTF-8"):
        scan_folder(words)
