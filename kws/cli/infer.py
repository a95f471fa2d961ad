# SPDX-License-Identifier: Apache-2.0
"""`kws infer`: keywords in recordings, as a table or in a format that other programs read."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kws.cli.common import (
    PATH,
    engine_option,
    load_model,
    model_option,
    progress,
    require_matplotlib,
    sound_files,
    verbose_option,
)
from kws.errors import KwsError, UsageError, line_of, printable

if TYPE_CHECKING:
    from kws.detector import Detector, Event

Writer = Callable[[Path, "list[Event]"], None]
PICTURE = ".png"


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="FILE|DIR ...")
@model_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "jsonl", "csv", "audacity", "rttm"]),
    default="table",
    show_default=True,
    help="How events are printed.",
)
@click.option(
    "--png", is_flag=True, help="Draw waveform, features, posteriors and events into X.png beside each X.wav."
)
@engine_option
@verbose_option
def infer(files: tuple[Path, ...], model: str, format_: str, png: bool, engine: str, verbose: bool) -> int:
    """Find keywords in recordings.

    Any length, sound format and rate will do; folders are searched for recordings. Each event has a start and an end
    in seconds and a score up to 1. A file that cannot be used is named and the others go on; the exit code is then 1.
    """
    from kws.detector import Detector

    paths, refused = sound_files(files)
    if format_ == "audacity" and len(paths) > 1:
        raise UsageError("an Audacity label track belongs to one recording", hint="give one file, or --format rttm")
    if format_ == "rttm":
        _refuse_namesakes(paths)
    if png:
        require_matplotlib()
    detector = Detector(load_model(model, engine))
    pictures = _pictures(paths) if png else {}
    write = _writer(format_)
    failed = found = 0
    with progress("listening") as update:
        for done, path in enumerate(paths, 1):
            try:
                events = _listen(detector, path, pictures.get(path), verbose)
            except (KwsError, OSError) as error:  # of this file or its picture; printing concerns all, and is outside
                click.echo(f"kws: {line_of(error, path)}", err=True)
                failed += 1
            else:
                write(path, events)
                found += len(events)
            update(done, len(paths))
    for line in refused:
        click.echo(f"kws: {line}", err=True)
    if format_ == "table":
        click.echo(f"{found} events in {len(paths) - failed} of {len(paths)} recordings", err=True)
    return 1 if failed or refused else 0


def _refuse_namesakes(paths: list[Path]) -> None:
    """UsageError where two recordings have one name, by which alone RTTM knows them."""
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(_recording(path), path)
        if other is not path:
            what = f"{other} and {path} would both be the recording {_recording(path)}"
            raise UsageError(what, hint="give one of them, or --format csv")


def _pictures(paths: list[Path]) -> dict[Path, Path]:
    """Where each recording is drawn: X.png beside X.wav, or X.wav.png where two would share X.png or it is an input."""
    recordings = {path: os.path.realpath(path) for path in paths if os.path.isfile(path)}
    sharing = Counter(os.path.realpath(Path(file).with_suffix(PICTURE)) for file in set(recordings.values()))
    taken = set(recordings.values())
    pictures: dict[Path, Path] = {}
    for path, file in recordings.items():
        picture = path.with_suffix(PICTURE)
        if sharing[os.path.realpath(Path(file).with_suffix(PICTURE))] > 1:
            picture = path.with_name(path.name + PICTURE)
        while os.path.realpath(picture) in taken:
            picture = picture.with_name(picture.name + PICTURE)
        taken.add(os.path.realpath(picture))
        pictures[path] = picture
    return pictures


def _listen(detector: Detector, path: Path, picture: Path | None, verbose: bool) -> list[Event]:
    """The events of one file, with its picture drawn into `picture` where that is wanted."""
    from features.audio import read_audio

    notes: list[str] = []
    samples = read_audio(path, dtype="int16", sample_rate=detector.frontend.sample_rate, notes=notes)
    trace = detector.trace(samples)
    events = detector.decide(trace)
    if picture is not None:
        from kws.plot import plot_detection

        plot_detection(samples, detector, trace, events, picture, title=printable(path.name))
        notes.append(f"{path}: drawn into {picture}")
    for note in notes if verbose else []:
        click.echo(note, err=True)
    return events


def _writer(format_: str) -> Writer:
    """The function that prints the events of one file; it prints a header at once where the format has one."""
    if format_ == "table":
        click.echo(f"{'start':>8} {'end':>8}  {'keyword':<12} {'score':>5}  file")
    elif format_ == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerow(["file", "label", "start", "end", "score"])
    return {"table": _table, "jsonl": _jsonl, "csv": _csv, "audacity": _audacity, "rttm": _rttm}[format_]


def _table(path: Path, events: list[Event]) -> None:
    for e in events:
        click.echo(f"{e.start:>8.2f} {e.end:>8.2f}  {e.label:<12} {e.score:>5.2f}  {path}")


def _jsonl(path: Path, events: list[Event]) -> None:
    for e in events:
        values = {"file": str(path), "label": e.label, "start": round(e.start, 3), "end": round(e.end, 3)}
        click.echo(json.dumps(values | {"score": round(e.score, 4)}))


def _csv(path: Path, events: list[Event]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([str(path), e.label, f"{e.start:.3f}", f"{e.end:.3f}", f"{e.score:.4f}"] for e in events)


def _audacity(path: Path, events: list[Event]) -> None:
    from kws.stream_score import label_track

    click.echo(label_track(events), nl=False)


def _rttm(path: Path, events: list[Event]) -> None:
    """NIST's rich transcription: type, recording, channel, start, duration, two unused, name, confidence, unused."""
    for e in events:
        name = "_".join(e.label.split())
        click.echo(
            f"SPEAKER {_recording(path)} 1 {e.start:.3f} {e.end - e.start:.3f} <NA> <NA> {name} {e.score:.4f} <NA>"
        )


def _recording(path: Path) -> str:
    return "_".join(path.stem.split())  # the format's fields end at white space
