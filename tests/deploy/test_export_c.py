# SPDX-License-Identifier: Apache-2.0
"""The exported folder compiles as it stands, computes NumPy's bits, and is written whole or not at all.

What clang and microcontrollers make of it is `make test-mcu`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kws
from deploy import reference
from deploy.export.c import export, prefix_of
from deploy.graph import Graph
from deploy.profile import profile
from features.audio import read_audio
from features.config import PRESETS
from features.quantize import clip_samples
from kws.detector import Detector
from kws.errors import UsageError
from kws.stream import listener_for_export

GCC = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", "-fno-pie", "-Isrc"]
LABELS = ("yes", "what??!", 'quo"te\\', "grün", "_silence_")
RULES = ("single", "tflm")
CONSTANTS = ("labels", "listening", "nn_log2_table_q16", "nn_frontend_tables", "nn_listen_network")


def run(*command: object, cwd: Path, given: bytes = b"") -> str:
    """What the command prints; a failure shows it."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, input=given, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout.decode()}{done.stderr.decode()}"
    return done.stdout.decode()


def sources(folder: Path) -> list[Path]:
    return sorted((folder / "src").glob("*.c"))


def compiled(folder: Path, main: str, *options: str) -> Path:
    """The program of `main` and the library of the folder it lies in."""
    run(*GCC, *options, *sources(folder), main, "-no-pie", "-o", folder / "program", cwd=folder)
    return folder / "program"


@pytest.fixture(scope="module", params=RULES)
def rule(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, rule: str) -> Path:
    """The model that ships, exported."""
    model, folder = kws.load("commands"), tmp_path_factory.mktemp("export") / "commands"
    graph = model.graph.with_rounding(rule)
    listener = listener_for_export(replace(model, graph=graph))
    export(
        graph, model.frontend, model.labels, folder,
        name="commands", provenance=model.provenance, listener=listener,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory, every_op: Callable[[str], Graph], rule: str) -> Path:
    folder = tmp_path_factory.mktemp("export") / "every"
    export(every_op(rule), PRESETS["mfb40"], LABELS, folder, name="every_op")
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ("-O2",), ("-O0",), ("-Os",), ("-O2", "-DCOMMANDS_NN_CHECKED", "-DEVERY_OP_NN_CHECKED"),
        ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_self_test_passes(commands: Path, every: Path, options: tuple[str, ...]) -> None:
    for folder, outputs in ((commands, 7 * 12), (every, 7 * 5)):
        printed = run(compiled(folder, "selftest/selftest.c", *options), cwd=folder)
        assert re.fullmatch(rf"PASS: \w+, 0 of {outputs} outputs differ\n", printed)
    printed = run(compiled(commands, "selftest/listen.c", *options), cwd=commands)
    assert re.fullmatch(r"PASS: commands listens, [1-9] events, 0 of them differ\n", printed)


def test_the_self_test_fails_where_a_bit_differs(every: Path, tmp_path: Path) -> None:
    text = (every / "selftest" / "selftest.c").read_text()
    changed = re.sub(r"(expected.* = \{\n    \{\n        )(-?\d+)", lambda m: f"{m[1]}{int(m[2]) ^ 1}", text)
    assert changed != text
    (tmp_path / "selftest.c").write_text(changed)
    done = subprocess.run(compiled(every, str(tmp_path / "selftest.c")), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith("input 0, output 0: ")
    assert done.stdout.splitlines()[1] == "FAIL: every_op, 1 of 35 outputs differ"


def test_the_example_runs_any_input(every: Path, every_op: Callable[[str], Graph], rule: str) -> None:
    graph = every_op(rule)
    x = np.random.default_rng(5).integers(-128, 128, (60, *graph.input_shape)).astype(np.int8)
    program = compiled(every, "examples/main.c", "-O2")
    rows = [line.rsplit(" ", 5) for line in run(program, cwd=every, given=x.tobytes()).splitlines()]
    expected = reference.run(graph, x)
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), expected)
    assert [row[0] for row in rows] == [LABELS[i] for i in expected.argmax(axis=1)]
    cut = subprocess.run(program, input=x.tobytes()[:-1], capture_output=True, text=False)
    assert (cut.returncode, cut.stderr) == (1, b"the last input is short: 119 of 120 bytes\n")


def test_two_models_link_into_one_program(commands: Path, every: Path, tmp_path: Path) -> None:
    """Both self-tests in one program, each `main` under a name of its own."""
    objects = []
    for name, folder in (("commands", commands), ("every_op", every)):
        for source in (*sources(folder), folder / "selftest" / "selftest.c"):
            target = tmp_path / f"{name}-{source.stem}.o"
            run(*GCC, "-O2", f"-Dmain={name}_main", "-c", source, "-o", target, cwd=folder)
            objects.append(target)
    (tmp_path / "main.c").write_text(
        "int commands_main(void);\nint every_op_main(void);\n"
        "int main(void) { return commands_main() + every_op_main(); }\n"
    )
    run(*GCC, "main.c", *objects, "-no-pie", "-o", "both", cwd=tmp_path)
    assert re.findall("PASS: (.+), 0 of", run(tmp_path / "both", cwd=tmp_path)) == ["commands", "every_op"]


def test_no_heap_no_floating_point_no_state(commands: Path, every: Path, tmp_path: Path) -> None:
    for folder, name in ((commands, "commands"), (every, "every_op")):
        for source in sources(folder):
            text = run(*GCC, "-E", "-P", source, cwd=folder)
            assert not re.search(r"\b(float|double|_Complex)\b", text)
            run(*GCC, "-O2", "-c", source, "-o", tmp_path / "one.o", cwd=folder)
            for kind, symbol in re.findall(r" (\w) (\w+)$", run("nm", "one.o", cwd=tmp_path), re.M):
                constant = kind == "R" and symbol.removeprefix(f"{name}_") in CONSTANTS
                assert kind in "Ttr" or constant or kind == "U", (kind, symbol)
                if kind in "TR":
                    assert symbol.startswith(f"{name}_")
                if kind == "U":
                    assert symbol.startswith(f"{name}_") or symbol in ("memcpy", "memmove", "memset")


def test_only_what_the_model_needs(commands: Path) -> None:
    names = {path.name.removeprefix("commands_nn_") for path in sources(commands)}
    front_end = {"commands_frontend.c", "frontend.c"}
    listener = {"commands_listen.c", "listen.c", "advance.c", "softmax.c"}
    assert names == {"commands.c", "add.c", "average_pool.c", "conv2d.c", "slice.c", "network.c", *front_end, *listener}
    assert not re.search(r"\bkws_|\bKWS_", "".join(path.read_text() for path in (commands / "src").iterdir()))


def test_from_samples_to_logits(commands: Path, rule: str, tmp_path: Path) -> None:
    """A program that knows nothing but the exported folder hears what the package hears."""
    main = commands / "samples.c"
    main.write_text("""
#include <stdio.h>
#include "commands.h"
#include "commands_frontend.h"
static int8_t memory[COMMANDS_MEMORY_SIZE];
static int32_t work[COMMANDS_FRONTEND_WORK];
static int16_t samples[16000];
int main(void)
{
    int i;
    if (commands_init(memory, sizeof memory) != 0)
        return 1;
    while (fread(samples, 2, 16000, stdin) == 16000) {
        for (i = 0; i < COMMANDS_INPUT_HEIGHT; i++)
            commands_frame(samples + i * COMMANDS_HOP_LENGTH, work,
                           commands_input(memory) + i * COMMANDS_N_FEATURES);
        commands_run(memory);
        for (i = 0; i < COMMANDS_N_LABELS; i++)
            printf("%d ", commands_output(memory)[i]);
    }
    return 0;
}
""")
    program = compiled(commands, "samples.c", "-O2")
    main.unlink()
    data = Path(__file__).parents[2] / "data"
    names = (data / "validation_list.txt").read_text().split()[:20]
    clips = np.stack([clip_samples(read_audio(data / name, dtype="int16"), 16_000) for name in names])
    model = kws.load("commands")
    expected = replace(model, graph=model.graph.with_rounding(rule)).logits(clips)
    printed = run(program, cwd=commands, given=clips.astype("<i2").tobytes())
    program.unlink()
    assert list(map(int, printed.split())) == expected.ravel().tolist()


def test_a_float_front_end_is_not_exported(tmp_path: Path) -> None:
    model = kws.load("commands")
    frontend, _ = model.hearing()
    export(model.graph, replace(frontend, arithmetic="float"), model.labels, tmp_path / "m", name="m")
    assert not any("frontend" in path.name for path in sources(tmp_path / "m"))


def test_equal_tables_are_written_once(every_op: Callable[[str], Graph], tmp_path: Path) -> None:
    graph = every_op("single")
    sizes = export(graph, PRESETS["mfb40"], LABELS, tmp_path / "out", name="m")
    text = (tmp_path / "out" / "src" / "m.c").read_text()
    arrays = re.findall(r"static const int(8|32)_t (\w+)_\d+\[\d+\] = \{\n([^}]*)\n\};", text)
    assert len({(bits, values) for bits, _, values in arrays}) == len(arrays)
    found = {"weight": 0, "bias": 0, "multiplier": 0, "shift": 0, "table": 0}
    for bits, role, values in arrays:
        found[role] += int(bits) // 8 * values.count(",")
    weights = sum(t.size for t in graph.tensors.values() if t.data is not None and t.dtype == "int8")
    assert sizes.weight_bytes == found.pop("weight") == weights
    assert sizes.table_bytes == sum(found.values())


def test_cmake_builds_and_tests_it(commands: Path) -> None:
    run("cmake", "-S", ".", "-B", "build", "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror", cwd=commands)
    run("cmake", "--build", "build", cwd=commands)
    assert "100% tests passed, 0 tests failed out of 2" in run("ctest", "--test-dir", "build", cwd=commands)


STAND_INS = """cmake_minimum_required(VERSION 3.16)
project(stand_ins C)
function(idf_component_register)
    cmake_parse_arguments(PARSE_ARGV 0 given "" "" "SRCS;INCLUDE_DIRS")
    add_library(esp_idf OBJECT ${given_SRCS})
    target_include_directories(esp_idf PUBLIC ${given_INCLUDE_DIRS})
endfunction()
macro(zephyr_library_named name)
    add_library(zephyr OBJECT)
endmacro()
function(zephyr_library_sources)
    target_sources(zephyr PRIVATE ${ARGN})
endfunction()
function(zephyr_include_directories)
    target_include_directories(zephyr PUBLIC ${ARGN})
endfunction()
set(ESP_PLATFORM 1)
set(CONFIG_KWS_COMMANDS y)
add_subdirectory(${FOLDER} esp_idf)
add_subdirectory(${FOLDER}/zephyr zephyr)
foreach(system esp_idf zephyr)
    add_executable(${system}_selftest ${FOLDER}/selftest/selftest.c)
    target_link_libraries(${system}_selftest PRIVATE ${system})
endforeach()
"""


def test_esp_idf_and_zephyr_get_the_sources(commands: Path, tmp_path: Path) -> None:
    """Of what either is told to compile all is linked, as Zephyr does: no other `main` is among it."""
    (tmp_path / "CMakeLists.txt").write_text(STAND_INS)
    run("cmake", "-S", ".", "-B", "build", f"-DFOLDER={commands}", cwd=tmp_path)
    run("cmake", "--build", "build", cwd=tmp_path)
    for system in ("esp_idf", "zephyr"):
        assert run(tmp_path / "build" / f"{system}_selftest", cwd=tmp_path).startswith("PASS: commands, 0 of")


def test_the_headers_serve_cplusplus(every: Path, commands: Path, tmp_path: Path) -> None:
    """The Arduino sketches, with what they take from Arduino in its place; `make test-mcu` has Arduino's builder."""
    arduino = tmp_path / "Arduino.h"
    arduino.write_text(
        "struct { void begin(long); unsigned readBytes(char *, unsigned); template <class T> void print(T);\n"
        "template <class T> void println(T); } Serial;\nunsigned long micros();\nvoid delay(int);\n"
    )
    for folder, name in ((every, "every_op"), (commands, "commands"), (commands, "commands_listen")):
        sketch = folder / "examples" / name / f"{name}.ino"
        run("g++", "-Wall", "-Isrc", "-include", arduino, "-fsyntax-only", "-x", "c++", sketch, cwd=folder)


def test_metadata_names_the_model(commands: Path) -> None:
    properties = dict(line.split("=", 1) for line in (commands / "library.properties").read_text().splitlines())
    assert (properties["name"], properties["includes"]) == ("commands", "commands.h")
    assert properties["url"].startswith("https://")  # Arduino takes no library with an empty one
    assert "zephyr/Kconfig" in (commands / "zephyr" / "module.yml").read_text()
    assert "config KWS_COMMANDS" in (commands / "zephyr" / "Kconfig").read_text()
    readme = (commands / "README.md").read_text()
    assert "| activations | 38240 | RAM |" in readme
    assert not re.search(r"@\w+@", "".join(p.read_text() for p in commands.rglob("*") if p.suffix in (".txt", ".md")))
    for path in sources(commands):
        assert path.read_text().startswith("/* SPDX-License-Identifier: Apache-2.0 */\n")


def test_the_readme_states_the_memory(commands: Path, every: Path) -> None:
    """MEMORY_SIZE, as the compiler has it here and with the DSP path's scratch, from the README's figures."""
    for folder, name in ((commands, "commands"), (every, "every_op")):
        text = (folder / "README.md").read_text()
        activations, portable, dsp = (int(n) for n in re.findall(r"\| (\d+) \| RAM \|", text))
        (folder / "size.c").write_text(
            f'#include <stdio.h>\n#include "{name}.h"\n'
            f'int main(void) {{ printf("%d", (int){name.upper()}_MEMORY_SIZE); }}\n'
        )
        for options, scratch in ((), portable), (("-D__ARM_FEATURE_DSP",), dsp):
            run(*GCC, *options, "size.c", "-no-pie", "-o", "size", cwd=folder)
            assert int(run(folder / "size", cwd=folder)) == activations + scratch + 15


def test_the_readme_states_the_memory_of_the_listener(commands: Path) -> None:
    """LISTEN_SIZE, as the compiler has it here and with the DSP path's scratch; `kws profile` has it without slack."""
    portable, dsp = map(int, re.search(r"(\d+) bytes, (\d+) on Arm", (commands / "README.md").read_text()).groups())
    (commands / "size.c").write_text(
        '#include <stdio.h>\n#include "commands_listen.h"\n'
        'int main(void) { printf("%d", (int)COMMANDS_LISTEN_SIZE); }\n'
    )
    for options, expected in ((), portable), (("-D__ARM_FEATURE_DSP",), dsp):
        run(*GCC, *options, "size.c", "-no-pie", "-o", "size", cwd=commands)
        assert int(run(commands / "size", cwd=commands)) == expected
    model = kws.load("commands")
    for core, expected in (("cortex-m3", portable), ("cortex-m4", dsp)):
        assert profile(model.graph, core, Detector(model).listen()).listener_bytes == expected - 15


def again(graph: Graph, folder: Path, **options: Any) -> None:
    export(graph, PRESETS["mfb40"], LABELS, folder, **options)


def test_an_earlier_export_is_replaced_and_nothing_else(every_op: Callable[[str], Graph], tmp_path: Path) -> None:
    graph, folder = every_op("single"), tmp_path / "new" / "out"
    again(graph, folder, name="first")
    again(graph, folder, name="second")
    assert not list(folder.rglob("first*"))
    assert (folder / "src" / "second.c").is_file()
    (folder / "src" / "mine.c").write_text("int mine;\n")
    with pytest.raises(UsageError, match=r"holds 'src/mine\.c', which no export wrote"):
        again(graph, folder)
    other = tmp_path / "other"
    other.mkdir()
    again(graph, other)  # empty
    for content in ("{}", "[]", "no JSON", '{"files": 3}'):
        (other / "kws_export.json").write_text(content)
        with pytest.raises(UsageError, match=r"is not empty and no earlier export \(name a new folder\)"):
            again(graph, other)
    with pytest.raises(UsageError, match="is a file, the export is a folder"):
        again(graph, folder / "README.md")


@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_export_changes_nothing(
    every_op: Callable[[str], Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    graph, folder = every_op("single"), tmp_path / "out"
    if exists:
        again(graph, folder, name="first")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    move, write = Path.rename, Path.write_text

    def rename(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise KeyboardInterrupt
        return move(path, target)

    def write_text(path: Path, text: str, **options: Any) -> int:
        if path.name == "second.c":
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    for name, function, error in (("rename", rename, KeyboardInterrupt), ("write_text", write_text, OSError)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, function)
            with pytest.raises(error):
                again(graph, folder, name="second")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert list(tmp_path.iterdir()) == ([folder] if exists else [])


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "Upper", "a__b", "a_", "_a", "x" * 33, "é", "../a"])
def test_refuses_what_cannot_begin_names(every_op: Callable[[str], Graph], tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot begin C names \(at most 32 lower-case letters"):
        again(every_op("single"), tmp_path / "out", name=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["string", "features", "test"])
def test_refuses_names_of_the_compiler_and_of_cmake(
    every_op: Callable[[str], Graph], tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match=rf"others have that name \('{name}_kws' can\)"):
        again(every_op("single"), tmp_path / "out", name=name)
    assert prefix_of(name) == f"kws_{name}"


@pytest.mark.parametrize("name", ["wand_nn", "wand_frontend", "wand_listen_2"])
def test_refuses_names_of_another_models_files(every_op: Callable[[str], Graph], tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"a model 'wand' has files of such names \('{prefix_of(name)}' can\)"):
        again(every_op("single"), tmp_path / "out", name=name)
    again(every_op("single"), tmp_path / "out", name=prefix_of(name))


def test_refuses_to_replace_the_folder_one_is_in(
    every_op: Callable[[str], Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is the folder that you are in"):
        again(every_op("single"), Path())


def test_refuses_what_c_does_not_compute(every_op: Callable[[str], Graph], tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"rounding 'half_even' is not one of single, tflm.*with --rounding single or tflm"
    ):
        again(every_op("half_even"), tmp_path / "out")
    with pytest.raises(UsageError, match="1 labels do not fit 5 outputs"):
        export(every_op("single"), PRESETS["mfb40"], ("one",), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("commands", "commands"),
        ("My Model-1", "my_model_1"),
        ("2", "kws_2"),
        ("日本", "kws_model"),
        ("time", "kws_time"),
    ],
)
def test_a_prefix_from_a_name(name: str, prefix: str) -> None:
    assert prefix_of(name) == prefix
