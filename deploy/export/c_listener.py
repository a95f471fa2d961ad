# SPDX-License-Identifier: Apache-2.0
"""From samples to events, for `deploy.export.c`: what a model that hears adds to its folder, from ``c_listen/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.arena import ALIGNMENT, aligned
from deploy.export.c_source import TEMPLATES, Tables, designated, fill, network_of, rows, scratch_dsp
from deploy.listen import Heard, Listen


def golden_signal(n: int = 16_000) -> NDArray[np.int16]:
    """The samples of selftest/listen.c: pseudo-random, every 2,000 samples of another loudness."""
    x, samples = 1, np.empty(n, np.int16)
    for i in range(n):
        x = (x * 1664525 + 1013904223) % 2**32
        value = (x >> 16) - 32768
        samples[i] = (abs(value) >> (i // 2000 * 5 % 12)) * (1 if value > 0 else -1)
    return samples


@dataclass(frozen=True, slots=True)
class Listening:
    """What a listener adds to a folder: sources of deploy/c, files of its own, and parts of others."""

    needed: list[str]
    files: dict[str, str]
    network: str
    cmake: str
    readme: str


NOTHING = Listening([], {}, "", "", "")
"""Of a folder without one."""


def listening(listen: Listen, golden: Sequence[Heard], name: str, tables: Tables) -> Listening:
    """The parts of a folder whose names begin with `name`; constants that are not in `tables` yet are added to them."""
    program, moves = listen.program()
    frontend, lasting, work = listen.frontend, listen.lasting_size(), listen.work_size
    steps = [tables.step(step) for step in program.steps]
    members = {
        "frontend": f"&{name}_nn_frontend_tables", "frames": f"{name}_nn_frontend_frames", "frames_at_once": 1,
        "work_size": work, "network": f"&{name}_nn_listen_network", "moves": "moves" if moves else 0,
        "n_moves": len(moves),
    }  # fmt: skip
    lines = []
    if moves:
        moved = "\n".join(f"    {{{move.target}, {move.source}, {move.size}}}," for move in moves)
        lines += [f"static const {name}_nn_move moves[{len(moves)}] = {{", moved, "};"]
    for field_name, value in listen.constants().items():
        members[field_name] = value
        if isinstance(value, np.ndarray):
            members[field_name] = field_name
            lines += [f"static const int32_t {field_name}[{value.size}] = {{", rows(map(str, value.tolist())), "};"]
    memory = f"{name.upper()}_NN_MEMORY_SIZE({aligned(program.arena_size)}, {program.column})"
    sizes = [
        listen.size(aligned(program.arena_size) + aligned(scratch)) + ALIGNMENT - 1
        for scratch in (program.column, scratch_dsp(program.column))
    ]
    every = listen.hop * frontend.hop_length * max(1, listen.refractory)
    values = {
        "name": name, "NAME": name.upper(), "lasting_size": lasting,
        "computing_macro": f"{work} + {memory}" if moves else f"({memory} > {work} ? {memory} : {work})",
        "listen_portable": sizes[0], "listen_dsp": sizes[1],
        "hop_length": frontend.hop_length, "sample_rate": frontend.sample_rate,
        "edge_samples": (frontend.frame_length - frontend.hop_length) // 2, "event_samples": f"{every:,}",
        "listen_tables": "\n".join(lines) + "\n", "listen_members": designated(members, "    "),
        "how_it_runs": "whole windows" if listen.plan is None else "column by column",
        "golden_samples": len(golden_signal()), "n_golden_events": len(golden), "n_keywords": len(listen.thresholds),
        "golden_events": "\n".join(
            f"    {{{e.keyword}, {e.score}, {e.first}, {e.end}}}," for e in [*golden, Heard(-1, 0, 0, 0)]
        ),
        "ones": rows("1" for _ in listen.thresholds),
    }  # fmt: skip
    folder = TEMPLATES / "c_listen"
    texts = {
        path.relative_to(folder).as_posix(): fill(path.read_text("utf-8"), values)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    cmake, readme = texts.pop("CMakeLists.part.txt"), texts.pop("README.part.md")
    network = designated({"steps": "listen_steps", "n_steps": len(steps), **network_of(program)}, "    ")
    return Listening(
        ["kws_listen.c", "kws_advance.c", *(f"{step.kernel}.c" for step in program.steps)],
        {fill(path, values): text for path, text in texts.items()},
        "\n".join([
            f"/* Of {name}_listen.c: the weights are the same */",
            f"static const {name}_nn_step listen_steps[] = {{", *steps, "};", "",
            f"extern const {name}_nn_network {name}_nn_listen_network;",
            f"const {name}_nn_network {name}_nn_listen_network = {{", network, "};", "", "",
        ]),
        cmake,
        readme,
    )  # fmt: skip
