# SPDX-License-Identifier: Apache-2.0
"""Folders of recorded words -> clips with words, speakers and splits; clips -> samples in memory.

The layout is that of Google Speech Commands: a folder a word, `SPEAKER_nohash_N.wav`, `validation_list.txt` and
`testing_list.txt`, `_background_noise_`. NumPy only: evaluation uses `scan_folder` without torch.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.audio import read_audio
from kws.errors import AudioError, DataError, UsageError

SILENCE = "_silence_"
UNKNOWN = "_unknown_"
NOISE_FOLDERS = ("_background_noise_", SILENCE)
PHRASES = "_phrases"
SPLITS = ("training", "validation", "testing")
AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".aif", ".aiff", ".mp3", ".au", ".caf", ".w64"})
VALIDATION_PERCENT = TESTING_PERCENT = 10.0
UNKNOWN_PERCENT = SILENCE_PERCENT = 10  # of the keyword clips of a split, rounded up: the data set's convention
_HASH_BUCKETS = 2**27 - 1


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of one word.

    `speaker` is "" where unknown. `source` is "" for a recording, the engine's name for a clip of a train-only folder.
    """

    path: Path
    word: str
    speaker: str
    split: str
    source: str = ""


@dataclass(frozen=True)
class Corpus:
    """Every clip of the joined folders and the noise recordings, with the keywords in training order.

    `noise` holds `_background_noise_`, with split "": each is cut in three in time, a part a split; and what belongs
    to one split as a whole: `_silence_` clips, and the noise of train-only folders.
    """

    keywords: tuple[str, ...]
    clips: tuple[Clip, ...]
    noise: tuple[Clip, ...]

    @property
    def noise_files(self) -> tuple[Path, ...]:
        """The noise recordings that the splits share."""
        return tuple(clip.path for clip in self.noise if not clip.split)

    @property
    def labels(self) -> tuple[str, ...]:
        """Keywords in training order, then `_silence_`, `_unknown_`: the order of the logits."""
        return (*self.keywords, SILENCE, UNKNOWN)

    @property
    def silence(self) -> int:
        """Index of `_silence_` among the labels."""
        return len(self.keywords)

    @property
    def unknown(self) -> int:
        """Index of `_unknown_` among the labels."""
        return len(self.keywords) + 1

    def label_of(self, word: str) -> int:
        """Index of `word` among the labels; a word that is not a keyword counts as `_unknown_`."""
        return self.keywords.index(word) if word in self.keywords else self.unknown

    def held_out(self, split: str, seed: int) -> tuple[tuple[Clip, ...], int]:
        """The clips of `validation` or `testing` by the convention, and how many silence clips belong to them.

        All keyword clips, and 10 % as many unknown clips, drawn by `seed`; silence the same.
        """
        of_split = [clip for clip in self.clips if clip.split == split]
        words = [clip for clip in of_split if clip.word in self.keywords]
        others = [clip for clip in of_split if clip.word not in self.keywords]
        order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(len(others))
        n_unknown = -(-len(words) * UNKNOWN_PERCENT // 100)
        n_silence = -(-len(words) * SILENCE_PERCENT // 100)
        return (*words, *(others[i] for i in order[:n_unknown])), n_silence


def which_split(speaker: str) -> str:
    """The split of a speaker by Speech Commands' own rule: SHA-1 modulo 2^27, 10 % validation, 10 % testing."""
    bucket = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (_HASH_BUCKETS + 1)
    percent = bucket * (100.0 / _HASH_BUCKETS)
    if percent < VALIDATION_PERCENT:
        return "validation"
    return "testing" if percent < VALIDATION_PERCENT + TESTING_PERCENT else "training"


def speaker_of(file_name: str) -> str:
    """`ab12_nohash_0.wav` -> `ab12`; "" where the name does not say who speaks."""
    name, marker, _ = file_name.partition("_nohash_")
    return name if marker else ""


def scan_folder(folder: Path, *, train_only: bool = False) -> list[Clip]:
    """The clips of one folder, WORD/FILE or SOURCE/WORD/FILE, with `_silence_` and `_unknown_`, without noise folders.

    The split comes from the folder's lists where it has one, else from the SHA-1 of the speaker; with `train_only`
    all is training. The speaker is the file name's, or the group of the longest matching prefix in `speakers.csv`.
    """
    if not folder.is_dir():
        raise DataError("no such folder", where=folder, hint="give a folder that holds one folder a word")
    groups, listed = _read_speakers(folder), _read_lists(folder)
    clips = []
    for path in sound_files_below(folder):
        parts = path.relative_to(folder).parts
        if len(parts) < 2 or NOISE_FOLDERS[0] in parts:
            continue
        name = "/".join(parts)
        speaker = _group_of(name, groups) or speaker_of(parts[-1])
        if train_only:
            split = "training"
        elif listed is not None:
            split = listed.get(name, "training")
        else:
            split = which_split(speaker or parts[-1])
        word = PHRASES if PHRASES in parts else parts[-2]
        source = "" if not train_only else parts[0] if parts[0] not in (word, PHRASES) else folder.name
        clips.append(Clip(path, word, speaker, split, source))
    if not clips:
        raise DataError("no recordings in it", where=folder, hint="expected one folder a word with sound files inside")
    return clips


def scan(folders: Sequence[Path], *, train_only: Sequence[Path] = (), keywords: Sequence[str]) -> Corpus:
    """Join folders into one corpus, checked: keywords have clips, no folder is empty, no speaker is in two splits."""
    if len(set(keywords)) != len(keywords) or not keywords:
        raise UsageError(f"keywords must be one or more different words, not {', '.join(keywords) or 'none'}")
    reserved = [word for word in keywords if word.startswith("_")]
    if reserved:
        raise UsageError(f"{reserved[0]!r} cannot be a keyword: names with a leading underscore are reserved")
    every = (*folders, *train_only)
    for i, folder in enumerate(every):
        if os.path.realpath(folder) in map(os.path.realpath, every[:i]):
            raise UsageError("is given twice: its clips would count twice", where=folder, hint="give it once")
    clips = [clip for folder in folders for clip in scan_folder(folder)]
    clips += [clip for folder in train_only for clip in scan_folder(folder, train_only=True)]
    _check_empty_folders(every)
    silence = [clip for clip in clips if clip.word == SILENCE]
    clips = [clip for clip in clips if clip.word != SILENCE]
    _check_words(clips, keywords, every)
    _check_speakers(clips)
    noise = [clip for folder in folders for clip in _noise(folder, split="")]
    noise += [clip for folder in train_only for clip in _noise(folder, split="training")]
    return Corpus(tuple(keywords), tuple(clips), (*noise, *silence))


def _noise(folder: Path, *, split: str) -> list[Clip]:
    name = NOISE_FOLDERS[0]
    if not (folder / name).is_dir():
        return []
    return [Clip(path, name, "", split) for path in sound_files_below(folder / name)]


def sound_files_below(folder: Path, refused: list[str] | None = None) -> list[Path]:
    """The sound files below a folder, sorted, through links too: corpora are often put together from links.

    `refused` gets a line for each folder that cannot be listed, and for a whole that holds none; without it the first
    folder that cannot be listed raises DataError.
    """
    unlisted: list[str] = []
    found = sorted(_walk(folder, frozenset(), unlisted))
    if refused is not None:
        refused += unlisted or ([] if found else [str(DataError("holds no sound files", where=folder))])
    elif unlisted:
        raise DataError(unlisted[0])
    return found


def _walk(folder: Path, above: frozenset[Path], unlisted: list[str]) -> Iterator[Path]:
    """A link to one of the folders `above` is a loop, and is not followed."""
    real = Path(os.path.realpath(folder))
    if real in above:
        return
    try:
        inside = list(folder.iterdir())
    except OSError as error:
        unlisted.append(str(DataError(f"cannot be listed: {error.strerror}", where=folder)))
        return
    for path in inside:
        if os.path.isdir(path):  # Path.is_dir raises where a link leads into a folder that is closed
            yield from _walk(path, above | {real}, unlisted)
        elif path.suffix.lower() in AUDIO_SUFFIXES and (os.path.isfile(path) or not os.path.exists(path)):
            yield path  # a link to nothing too: it is named where it is read


def _read_lists(folder: Path) -> dict[str, str] | None:
    """`word/file` -> split from the lists that exist; None where there is none."""
    listed: dict[str, str] = {}
    found = False
    for split in SPLITS[1:]:
        path = folder / f"{split}_list.txt"
        if path.is_file():
            found = True
            for line in _read_text(path).split("\n"):
                name = line.strip()
                if name and listed.setdefault(name, split) != split:
                    raise DataError(f"{name} is in two splits: {listed[name]} and {split}", where=path)
    return listed if found else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"line {line} is not UTF-8", where=path, hint="save it as UTF-8") from None


def _read_speakers(folder: Path) -> list[tuple[str, str]]:
    """Rows (file prefix, group) of `speakers.csv`, longest prefix first."""
    path = folder / "speakers.csv"
    if not path.is_file():
        return []
    reader = csv.reader(_read_text(path).split("\n"))
    rows = [(reader.line_num, row) for row in reader if row and not row[0].startswith("#")]
    if rows and [cell.strip() for cell in rows[0][1]] == ["file prefix", "group"]:
        rows = rows[1:]
    for number, row in rows:
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            raise DataError(f"line {number} is not 'file prefix,group': {','.join(row)}", where=path)
    return sorted(((prefix.strip(), group.strip()) for _, (prefix, group) in rows), key=lambda row: -len(row[0]))


def _group_of(name: str, groups: list[tuple[str, str]]) -> str | None:
    """The group of `word/file`: a prefix with a slash begins the whole name, one without the file's own name."""
    file_name = name.rsplit("/", 1)[-1]
    return next((group for prefix, group in groups if (name if "/" in prefix else file_name).startswith(prefix)), None)


def _check_empty_folders(folders: Iterable[Path]) -> None:
    for folder in folders:
        for word in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if not sound_files_below(word):
                raise DataError("the folder holds no recording", where=word, hint="fill it or remove it")


def _check_words(clips: Sequence[Clip], keywords: Sequence[str], folders: Sequence[Path]) -> None:
    where = ", ".join(map(str, folders))
    counts = Counter((clip.word, clip.split) for clip in clips)
    words = sorted({clip.word for clip in clips if not clip.word.startswith("_")})
    missing = [word for word in keywords if word not in words]
    if missing:
        some = ", ".join(words[:12]) + (", ..." if len(words) > 12 else "")
        raise DataError(f"no folder for {', '.join(missing)}", where=where, hint=f"words found: {some}")
    hint = "record more speakers, or list files in validation_list.txt"
    silent = [word for word in keywords if not counts[word, "training"]]
    if silent:
        raise DataError(f"no training clip of {', '.join(silent)}", where=where, hint=hint)
    if not any(counts[word, "validation"] for word in keywords):
        raise DataError("no validation clip of any keyword", where=where, hint=hint)


def _check_speakers(clips: Sequence[Clip]) -> None:
    seen: dict[str, Clip] = {}
    for clip in (clip for clip in clips if clip.speaker):
        first = seen.setdefault(clip.speaker, clip)
        if first.split != clip.split:
            places = f"{first.path} ({first.split}) and {clip.path} ({clip.split})"
            raise DataError(
                f"speaker {clip.speaker!r} is in two splits: {places}",
                hint="a speaker belongs to one split: fix the lists or name the groups in speakers.csv",
            )


@dataclass(frozen=True)
class Recordings:
    """Clips with their samples end to end in one int16 array: clip i is samples[starts[i] : starts[i + 1]]."""

    clips: tuple[Clip, ...]
    samples: NDArray[np.int16]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> NDArray[np.int16]:
        return self.samples[self.starts[index] : self.starts[index + 1]]

    def part(self, begin: int, end: int) -> Recordings:
        """Clips `begin` to `end`, over the same samples."""
        return Recordings(self.clips[begin:end], self.samples, self.starts[begin : end + 1])


@dataclass(frozen=True)
class Loaded:
    """Recordings that could be read, one line for each that could not, and the SHA-256 of every file that was."""

    recordings: Recordings
    broken: tuple[str, ...]
    hashes: dict[Path, str]


def load(clips: Sequence[Clip], *, broken: str = "skip", advance: Callable[[int], None] = lambda n: None) -> Loaded:
    """Read clips as 16 kHz int16 in two threads; `advance(n)` is called as clips are done.

    `broken`: "skip" drops clips that cannot be read and names them in the result, "fail" raises DataError with their
    number and the first of them.
    """

    def read(clip: Clip) -> tuple[NDArray[np.int16] | str, str]:
        try:
            samples = read_audio(clip.path, dtype="int16")
        except AudioError as error:
            return str(error), ""
        return samples, hashlib.sha256(clip.path.read_bytes()).hexdigest()

    kept, errors, arrays, hashes = [], [], [], {}
    with ThreadPoolExecutor(2) as pool:
        for done, (clip, (samples, digest)) in enumerate(zip(clips, pool.map(read, clips), strict=True), 1):
            if isinstance(samples, str):
                errors.append(samples)
            else:
                kept.append(clip)
                arrays.append(samples)
                hashes[clip.path] = digest
            if done % 64 == 0 or done == len(clips):
                advance(done)
    if errors and broken == "fail":
        raise DataError(f"{len(errors)} of {len(clips)} clips cannot be read, the first: {errors[0]}")
    starts = np.concatenate(([0], np.cumsum([len(array) for array in arrays], dtype=np.int64)))
    samples = np.concatenate(arrays) if arrays else np.zeros(0, np.int16)
    return Loaded(Recordings(tuple(kept), samples, starts), tuple(errors), hashes)


def digest(loaded: Loaded) -> str:
    """One SHA-256 over the word, file name, split and content of every file, in sorted order.

    The same data gives the same digest wherever the folders lie; a clip in another split gives another.
    """
    clips = loaded.recordings.clips
    rows = sorted((clip.word, clip.path.name, clip.split, loaded.hashes[clip.path]) for clip in clips)
    return hashlib.sha256("\n".join("\0".join(row) for row in rows).encode(errors="surrogateescape")).hexdigest()


def digest_in_order(loaded: Loaded) -> str:
    """One SHA-256 over everything on which the draws of a training depend: the files in their order, and which are of
    one source, whatever it is called."""
    sources: dict[str, int] = {"": 0}
    rows = [
        (clip.word, clip.split, str(sources.setdefault(clip.source, len(sources))), loaded.hashes[clip.path])
        for clip in loaded.recordings.clips
    ]
    return hashlib.sha256("\n".join("\0".join(row) for row in rows).encode(errors="surrogateescape")).hexdigest()
