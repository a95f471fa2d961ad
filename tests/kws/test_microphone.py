# SPDX-License-Identifier: Apache-2.0
"""`kws listen` on a microphone, by a sounddevice that plays a recording. The real one was tried by hand."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kws
from features.audio import read_audio
from kws.cli import listen
from kws.cli.main import main

RECORDING = Path(__file__).parents[2] / "data" / "recordings" / "recording_00.wav"


class PortAudioError(Exception):
    pass


class Microphone:
    """Gives RECORDING, and then nothing: as one that is unplugged. `overflows` of its blocks follow a gap."""

    overflows = 0
    opened: dict[str, Any]

    def __init__(self, callback: Any, **options: Any) -> None:
        type(self).opened = options
        if options["device"] == "none":
            raise PortAudioError("Error querying device -1")
        samples = read_audio(RECORDING, dtype="int16", sample_rate=options["samplerate"])
        self.blocks = np.array_split(samples[:, None], range(options["blocksize"], len(samples), options["blocksize"]))
        self.thread = threading.Thread(target=self.play, args=(callback,))

    def play(self, callback: Any) -> None:
        for i, block in enumerate(self.blocks):
            callback(block, len(block), None, SimpleNamespace(input_overflow=i < self.overflows))

    def start(self) -> None:
        self.thread.start()

    def __enter__(self) -> Microphone:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join()


@pytest.fixture
def microphone(monkeypatch: Any) -> type[Microphone]:
    module: Any = ModuleType("sounddevice")
    module.InputStream, module.PortAudioError = Microphone, PortAudioError
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    monkeypatch.setattr(listen, "_PATIENCE", 0.5)
    monkeypatch.setattr(listen, "_BEHIND", 60.0)
    monkeypatch.setattr(Microphone, "overflows", 0)
    return Microphone


def test_a_microphone_gives_the_events_of_the_file(microphone: type[Microphone], capsys: Any) -> None:
    assert main(["listen", "--device", "2", "--format", "jsonl"]) == 1
    printed = capsys.readouterr()
    events = [json.loads(line) for line in printed.out.splitlines()]
    expected = [
        event for event in kws.load("commands").detect(RECORDING) if event.end < 24
    ]  # it does not end: see below
    assert [(event["label"], event["start"]) for event in events] == [(e.label, round(e.start, 3)) for e in expected]
    assert len(events) > 3
    assert microphone.opened["device"] == 2
    assert printed.err.splitlines() == ["kws: 2: the microphone has given nothing for 0 s: was it unplugged?"]


def test_lost_samples_are_counted_and_said_now_and_then(microphone: type[Microphone], capsys: Any) -> None:
    microphone.overflows = 1000
    assert main(["listen"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "lost" in line]
    blocks = -(-len(read_audio(RECORDING, dtype="int16", sample_rate=16_000)) // 1600)
    assert 1 <= len(lines) <= 4  # of more than 200 blocks
    assert f"samples were lost before {blocks} blocks so far" in lines[-1]


def test_a_device_that_is_none(microphone: type[Microphone], capsys: Any) -> None:
    assert main(["listen", "--device", "none"]) == 1
    assert "none: no microphone gives 16000 samples a second: Error querying device -1" in capsys.readouterr().err


@pytest.mark.parametrize(("broken", "said"), [
    ("raise ImportError('no')", "pip install 'integer-kws[mic]'"),
    ("raise OSError('PortAudio library not found')", "install libportaudio2"),
    ("class E(Exception): pass\nraise E('no host API')", "the system's sound cannot be used: no host API"),
])  # fmt: skip
def test_sound_that_cannot_be_used(broken: str, said: str, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "sounddevice.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert main(["listen"]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
