# SPDX-License-Identifier: Apache-2.0
"""A model as a folder of C99 that compiles as it stands: its numbers as constants, and the runtime that it needs.

The folder is also an Arduino library, an ESP-IDF component, a Zephyr module and a CMake project with a self-test. Its
files are the templates in ``c_folder/`` and those of ``deploy/c`` that the network's kernels need, renamed from `kws_`
to the model's prefix, so that two models link into one program.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy import reference
from deploy.arena import ALIGNMENT, aligned
from deploy.export.c_array import c_float, c_string
from deploy.export.c_listener import NOTHING, listening
from deploy.export.c_source import TEMPLATES, Tables, designated, fill, network_of, rename, rows, scratch_dsp
from deploy.graph import Graph
from deploy.listen import Heard, Listen
from deploy.program import ROUNDING, Fields, Program, compile_graph
from features.config import FrontendConfig
from features.native_frontend import constants
from kws.arithmetic.quant import QuantParams
from kws.errors import UsageError

MANIFEST = "kws_export.json"
"""Lists the files of an export: what holds nothing else may be replaced by a new one."""

_RUNTIME = Path(__file__).parents[1] / "c"
_N_RANDOM = 4  # golden inputs
# A prefix.h of these names would be found in the place of the compiler's own; the last line's are targets of CMake.
_TAKEN = frozenset(
    ("arduino", "assert", "complex", "ctype", "errno", "features", "fenv", "float", "inttypes", "iso646", "limits",
     "locale", "malloc", "math", "memory", "sched", "setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool",
     "stddef", "stdint", "stdio", "stdlib", "stdnoreturn", "string", "strings", "tgmath", "threads", "time", "uchar",
     "unistd", "wchar", "wctype",
     "all", "clean", "depend", "help", "install", "package", "test")
)  # fmt: skip
_OURS = frozenset(("nn", "frontend", "listen"))  # NAME_nn.h and its kin are files of the model NAME


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of constants, and of memory. `table_bytes` are biases, multipliers, shifts and lookup tables; equal arrays
    count once. `structure_bytes` are the ops' structures and the table of steps where a pointer has 32 bits."""

    weight_bytes: int
    table_bytes: int
    structure_bytes: int
    arena_size: int
    scratch_portable: int
    scratch_dsp: int


def export(
    graph: Graph,
    frontend: FrontendConfig | None,
    labels: Sequence[str],
    folder: Path,
    *,
    name: str = "kws_model",
    provenance: Mapping[str, Any] | None = None,
    listener: tuple[Listen, Sequence[Heard]] | None = None,
) -> Sizes:
    """Write the folder at once or not at all; `name` begins every C name and file name.

    With a `listener` of the same graph the folder also takes samples to events; its events are those of NumPy for
    `golden_signal`, every threshold and release being 1.

    UsageError when `name` cannot do that, when `folder` holds anything but an earlier export, and for a rounding rule
    that C does not compute.
    """
    _check_name(name)
    if graph.rounding not in ROUNDING:
        what = f"rounding '{graph.rounding}' is not one of {', '.join(ROUNDING)}, those of the C runtime"
        raise UsageError(what, hint=f"export with --rounding {' or '.join(ROUNDING)}")
    program = compile_graph(graph)
    if len(labels) != program.output_size:
        raise UsageError(f"{len(labels)} labels do not fit {program.output_size} outputs")
    folder = Path(os.path.realpath(folder))  # Path.resolve raises where a link leads to itself
    _check_folder(folder)
    files, sizes = _files(graph, program, frontend, labels, name, provenance or {}, listener)
    manifest = {"made_by": "kws export --to c", "name": name, "files": sorted(files)}
    files[MANIFEST] = json.dumps(manifest, indent=2) + "\n"
    _write(folder, files)
    return sizes


def sizes_of(program: Program) -> Sizes:
    """What the export of a program would cost."""
    tables = Tables("")
    for step in program.steps:
        tables.step(step)
    return _sizes(program, tables)


def prefix_of(name: str) -> str:
    """The prefix for a model of this name: in lower case, all but letters and digits as underscores."""
    prefix = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:32].strip("_")
    if _OURS & set(prefix.split("_")[1:]):
        prefix = prefix.replace("_", "")
    return prefix if re.match(r"[a-z]", prefix) and prefix not in _TAKEN else f"kws_{prefix or 'model'}"[:32].strip("_")


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or len(name) > 32:
        hint = "at most 32 lower-case letters, digits and single underscores, a letter first"
        raise UsageError(f"{name!r} cannot begin C names", hint=hint)
    if name in _TAKEN:
        raise UsageError(f"'{name}' cannot begin C names: others have that name", hint=f"'{name}_kws' can")
    for part in sorted(_OURS & set(name.split("_")[1:])):
        what = f"'{name}' cannot begin C names: a model '{name.partition(f'_{part}')[0]}' has files of such names"
        raise UsageError(what, hint=f"'{name.replace('_', '')}' can")


def _check_folder(folder: Path) -> None:
    """UsageError unless the folder is missing, empty, or holds an earlier export and nothing else."""
    if not folder.exists():
        return
    if folder == Path.cwd():
        raise UsageError("is the folder that you are in, which the export would replace", hint="name a new folder")
    if not folder.is_dir():
        raise UsageError("is a file, the export is a folder", where=folder)
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if not found:
        return
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        foreign = sorted(found - {MANIFEST, *listed})
    except (OSError, ValueError, TypeError, LookupError):
        raise UsageError("is not empty and no earlier export", where=folder, hint="name a new folder") from None
    if foreign:
        raise UsageError(f"holds {foreign[0]!r}, which no export wrote", where=folder, hint="name a new folder")


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Into a sibling that then takes the folder's name; an interruption leaves everything as it was."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        for path, text in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_text(text, encoding="utf-8", newline="\n")
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            if old.exists():
                old.rename(folder)
            raise


def _files(
    graph: Graph, program: Program, frontend: FrontendConfig | None, labels: Sequence[str], name: str, provenance: Any,
    listener: tuple[Listen, Sequence[Heard]] | None,
) -> tuple[dict[str, str], Sizes]:  # fmt: skip
    """Text by path, without the manifest, and what it costs."""
    tables = Tables(f"{name}_nn_")
    steps = [tables.step(step) for step in program.steps]
    sizes = _sizes(program, tables)
    needed = ["kws_network.c", *(f"{step.kernel}.c" for step in program.steps)]
    added = NOTHING if listener is None else listening(*listener, name, tables)
    needed += added.needed
    runtime = {f"src/{rename(path, name)}": rename(text, name) for path, text in _with_includes(needed).items()}
    source, target = graph.tensors[graph.input], graph.tensors[graph.output]
    height, width, channels = (*source.shape, 1, 1)[:3]
    golden = reference.run(graph, golden_inputs(program.input_size).reshape(-1, *source.shape)).reshape(-1, len(labels))
    values = {
        "name": name, "NAME": name.upper(), "version": metadata.version("integer-kws"), "rounding": graph.rounding,
        "input_height": height, "input_width": width, "input_channels": channels, "input_size": program.input_size,
        "input_shape": " x ".join(map(str, source.shape)),
        "input_scale": c_float(source.params.scale), "input_scale_number": f"{source.params.scale:.9g}",
        "output_scale": c_float(target.params.scale), "output_scale_number": f"{target.params.scale:.9g}",
        "input_zero_point": source.zero_point, "output_zero_point": target.zero_point,
        "n_labels": len(labels), "labels": rows(c_string(label) for label in labels),
        "label_list": ", ".join(f"`{label}`" for label in labels),
        "tables": tables.text(), "steps": "\n".join(steps),
        "network": designated({"steps": "steps", "n_steps": len(steps), **network_of(program)}, "    "),
        "n_golden": len(golden), "last_random": _N_RANDOM - 1,
        "golden": "\n".join(f"    {{\n{rows(map(str, row), '        ')}\n    }}," for row in golden.tolist()),
        "alignment_slack": ALIGNMENT - 1, "column": program.column, "macs": f"{graph.check().macs:,}",
        "layers": ", ".join(f"{op.name} ({op.kind})" for op in graph.ops),
        "listen_network": added.network, "listen_cmake": added.cmake, "listen_readme": added.readme,
        "frontend": json.dumps(None if frontend is None else frontend.to_dict(), indent=2),
        "provenance": json.dumps(provenance, indent=2),
        **{size.name: getattr(sizes, size.name) for size in fields(sizes)},
    }  # fmt: skip
    if frontend is not None and frontend.arithmetic == "fixed" and frontend.normalize == "none":
        runtime |= _frontend_files(frontend, source.params, name)
    runtime |= added.files
    sources = sorted(path for path in {*runtime, f"src/{name}.c"} if re.fullmatch(r"src/.+\.c", path))
    values["cmake_sources"] = "\n".join(f"    {path}" for path in sources)
    folder = TEMPLATES / "c_folder"
    templates = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    filled = {fill(path, values): fill(file.read_text("utf-8"), values) for path, file in templates.items()}
    return runtime | filled, sizes


def _sizes(program: Program, tables: Tables) -> Sizes:
    return Sizes(
        weight_bytes=tables.bytes_of("weight"),
        table_bytes=tables.bytes_of("bias", "multiplier", "shift", "table"),
        structure_bytes=4 * sum(_words(step.fields) + _STEP_WORDS for step in program.steps),
        arena_size=aligned(program.arena_size),
        scratch_portable=aligned(program.column),
        scratch_dsp=aligned(scratch_dsp(program.column)),
    )


_STEP_WORDS = 6  # kernel, op and three offsets; `packed`, which fast paths of other machines use


def _words(values: Fields) -> int:
    """32-bit words of a structure: one a number or pointer."""
    return sum(
        _words(value) if isinstance(value, Mapping) else len(value) if isinstance(value, tuple) else 1
        for value in values.values()
    )


def golden_inputs(size: int) -> NDArray[np.int8]:
    """The inputs (N, size) of selftest.c: pseudo-random ones, one such of the type's ends alone, all -128, all 127."""
    inputs = np.empty((_N_RANDOM + 3, size), np.int8)
    for number in range(_N_RANDOM + 1):
        x = number
        for i in range(size):
            x = (x * 1664525 + 1013904223) % 2**32
            inputs[number, i] = (x >> 24) - 128
    inputs[_N_RANDOM] = np.where(inputs[_N_RANDOM] < 0, -128, 127)
    inputs[_N_RANDOM + 1], inputs[_N_RANDOM + 2] = -128, 127
    return inputs


def _with_includes(waiting: list[str]) -> dict[str, str]:
    """Files of deploy/c by name: these, and what they include."""
    found: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = (_RUNTIME / name).read_text(encoding="utf-8")
            waiting += re.findall(r'#include "(.+)"', found[name])
    return found


def _frontend_files(frontend: FrontendConfig, params: QuantParams, name: str) -> dict[str, str]:
    """The fixed-point front-end: its code, its tables as NAME_frontend.c, and the header that declares `NAME_frame`."""
    code = {
        f"src/{rename(path, name)}": rename(text, name) for path, text in _with_includes(["kws_frontend.c"]).items()
    }
    lines: list[str] = []
    members: dict[str, object] = {}
    for field_name, value in constants(frontend, params).items():
        members[field_name] = value
        if isinstance(value, np.ndarray):
            members[field_name] = field_name if value.size else "0"
            if value.size:
                lines += [
                    f"static const {value.dtype}_t {field_name}[{value.size}] = {{",
                    rows(map(str, value.ravel().tolist())),
                    "};",
                ]
    values = {
        "name": name, "NAME": name.upper(), "frontend_tables": "\n".join(lines),
        "frontend_members": designated(members, "    "), "n_fft": frontend.n_fft, "n_mels": frontend.n_mels,
        "frame_length": frontend.frame_length, "hop_length": frontend.hop_length, "n_features": frontend.n_features,
        "sample_rate": frontend.sample_rate, "q16_size": frontend.n_features,
    }  # fmt: skip
    folder = TEMPLATES / "c_frontend"
    for path in folder.iterdir():
        code[f"src/{fill(path.name, values)}"] = fill(path.read_text("utf-8"), values)
    return code
