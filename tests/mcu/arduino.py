# SPDX-License-Identifier: Apache-2.0
"""Arduino's own builder finds exports in a libraries folder and makes sketches of them, which run on an emulated board.

The board's hardware package is arduino/hardware with the start-up code of deploy/board in its core.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import kws
from deploy import reference
from deploy.boards import FOLDER, M4, OPTIMIZE, Failure, emulate, linking, run
from deploy.export.c import export
from features.audio import read_audio
from kws.detector import Detector
from kws.stream import Frames, listener_for_export

HERE = Path(__file__).parent / "arduino"
ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "data" / "recordings" / "recording_00.wav"
WINDOWS = ROOT / "tests" / "golden" / "tc_resnet8.kws"  # it does not stream


def check_sketches() -> None:
    """The examples hear what NumPy does in silence and in a recording; two libraries in one sketch pass their tests."""
    samples = read_audio(RECORDING, dtype="int16")[8_000:40_000]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        shutil.copytree(HERE, work, dirs_exist_ok=True)
        for path in FOLDER.glob("board.[ch]"):
            shutil.copy(path, work / "hardware" / "kws" / "arm" / "cores" / "arduino")
        for name, source in (("commands", "commands"), ("windows", WINDOWS)):
            model = replace(kws.load(source), engine="reference")
            library, listener = work / "libraries" / name, listener_for_export(model)
            export(model.graph, model.frontend, model.labels, library, name=name, listener=listener)
            silence = np.full((1, *model.graph.input_shape), model.graph.input_params.zero_point, np.int8)
            label = model.labels[reference.run(model.graph, silence).argmax()]
            check(rf"{label} in [1-9]\d+ us\n", build_and_run(work, library / "examples" / name))
            stream = Frames(Detector(model))
            heard = stream.push(samples) + stream.finish()
            events = "".join(f"{model.labels[each.keyword]}, {each.score} of 255\n" for each in heard)
            check(events or "an event", build_and_run(work, library / "examples" / f"{name}_listen", samples))
            for test in ("selftest", "listen"):
                text = (library / "selftest" / f"{test}.c").read_text()
                (work / "both" / f"{name}_{test}.c").write_text(f"#define main {name}_{test}\n{text}")
        check("(PASS: .+\n){4}", build_and_run(work, work / "both"))


def check(expected: str, printed: str) -> None:
    """Failure unless the pattern matches."""
    if not re.fullmatch(expected, printed):
        raise Failure(f"an Arduino sketch prints {printed!r}, not {expected!r}")


def build_and_run(work: Path, sketch: Path, samples: Any = ()) -> str:
    """What the sketch prints; Failure when the builder says anything."""
    build = work / f"{sketch.name}_build"
    build.mkdir()
    (build / "samples.bin").write_bytes(np.array(samples, "<i2").tobytes())
    properties = {
        "build.flags": " ".join((*M4.flags, *OPTIMIZE)),
        "link.flags": " ".join((*linking(M4), "-specs=nosys.specs")),  # newlib-nano's stdout would take a heap
    }
    said = run(
        "arduino-builder", "-compile", "-warnings=all", "-fqbn=kws:arm:emulated",
        "-hardware=/usr/share/arduino-builder", f"-hardware={work / 'hardware'}", f"-tools={work}",
        f"-libraries={work / 'libraries'}", f"-build-path={build}",
        *(f"-prefs={name}={value}" for name, value in properties.items()), sketch / f"{sketch.name}.ino",
    )  # fmt: skip
    if said:
        raise Failure(f"arduino-builder: {said}")
    return emulate(M4, build)
