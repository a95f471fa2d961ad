# SPDX-License-Identifier: Apache-2.0
"""Arduino's own builder finds exports in a libraries folder and makes sketches of them, which run on an emulated board.

The board's hardware package is arduino/hardware with the start-up code of deploy/board in its core.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import numpy as np

import kws
from deploy import reference
from deploy.boards import FOLDER, M4, OPTIMIZE, Failure, emulate, linking, run
from deploy.export.c import export
from kws.stream import listener_for_export

HERE = Path(__file__).parent / "arduino"


def check_sketches() -> None:
    """The example hears in silence what NumPy does; two libraries in one sketch pass their self-tests."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        shutil.copytree(HERE, work, dirs_exist_ok=True)
        for path in FOLDER.glob("board.[ch]"):
            shutil.copy(path, work / "hardware" / "kws" / "arm" / "cores" / "arduino")
        for name in ("commands", "commands_stream"):
            model = kws.load(name.replace("_", "-"))
            library, listener = work / "libraries" / name, listener_for_export(model)
            export(model.graph, model.frontend, model.labels, library, name=name, listener=listener)
            silence = np.full((1, *model.graph.input_shape), model.graph.input_params.zero_point, np.int8)
            label = model.labels[reference.run(model.graph, silence).argmax()]
            printed = build_and_run(work, library / "examples" / name)
            if not re.fullmatch(rf"{label} in [1-9]\d+ us\n", printed):
                raise Failure(f"the Arduino example of {name} prints {printed!r}, not {label}")
            for test in ("selftest", "listen"):
                text = (library / "selftest" / f"{test}.c").read_text()
                (work / "both" / f"{name}_{test}.c").write_text(f"#define main {name}_{test}\n{text}")
        printed = build_and_run(work, work / "both")
        if len(re.findall("^PASS", printed, re.M)) != 4:
            raise Failure(f"two libraries in one Arduino sketch: {printed}")


def build_and_run(work: Path, sketch: Path) -> str:
    """What the sketch prints, of which the builder may not warn."""
    build = work / f"{sketch.name}_build"
    build.mkdir()
    properties = {  # not newlib-nano, whose stdout takes a heap
        "build.flags": " ".join((*M4.flags, *OPTIMIZE)),
        "link.flags": " ".join((*linking(M4), "-specs=nosys.specs")),
    }
    run(
        "arduino-builder", "-compile", "-warnings=all", "-fqbn=kws:arm:emulated",
        "-hardware=/usr/share/arduino-builder", f"-hardware={work / 'hardware'}", f"-tools={work}",
        f"-libraries={work / 'libraries'}", f"-build-path={build}",
        *(f"-prefs={name}={value}" for name, value in properties.items()), sketch / f"{sketch.name}.ino",
    )  # fmt: skip
    return emulate(M4, build)
