# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, read off the sources, and what a fresh interpreter loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("kws", "features", "deploy", "training")
TORCH = {"torch", "torchaudio"}
SOURCES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def floor_of(module: str) -> int:
    """Height of a module: nothing imports what stands higher than itself. `kws` is the ground floor and the roof."""
    if module in ("kws", "kws.errors") or module.split(".")[:2] == ["kws", "arithmetic"]:
        return 0
    return {"features": 1, "deploy": 2, "training": 3, "kws": 4}[module.split(".")[0]]


@cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """(module, whether at the top level) of every import of a file, those in functions and for type checkers too."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # `from package import name` may name a module
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if name in MODULES else node.module, id(node) in top) for name in names]
    return tuple(found)


def own(path: Path) -> set[str]:
    """The project's own modules that a file imports."""
    return {name for name, _ in imports(path) if name.split(".")[0] in PACKAGES}


def foreign(path: Path) -> set[str]:
    """The top-level packages of others that a file imports."""
    roots = {name.split(".")[0] for name, _ in imports(path)}
    return roots - set(PACKAGES) - set(sys.stdlib_module_names)


def reachable(module: str) -> set[str]:
    """Every own module that comes along with one."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in MODULES:
            waiting += own(MODULES[current])
    return seen


def test_the_sources_are_found() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(PACKAGES)
    assert {"kws.arithmetic.quant", "features.audio", "deploy.reference", "training.qat"} <= set(MODULES)
    assert ("kws.errors", True) in imports(MODULES["features.audio"])


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_nothing_imports_upwards(path: Path) -> None:
    module = module_of(path)
    if module == "kws":
        return  # the lazy front door names what stands above it; see test_public_api.py
    higher = [name for name in own(path) if floor_of(name) > floor_of(module)]
    assert higher == []


def test_the_ground_floor_is_numpy_only() -> None:
    for module, path in MODULES.items():
        if floor_of(module) == 0:
            assert foreign(path) <= {"numpy"}, module


def test_torch_stays_in_training_and_the_torch_frontend() -> None:
    using = {module for module, path in MODULES.items() if foreign(path) & TORCH}
    assert using
    assert {module for module in using if not module.startswith("training.")} == {"features.torch_frontend"}


def test_eager_mode_quantization_stays_in_one_place() -> None:
    """torch says that it will go: one module then changes."""
    quantization = "torch.ao.quantization"
    using = {m for m, path in MODULES.items() if any(name.startswith(quantization) for name, _ in imports(path))}
    assert using == {"training.qat"}


def test_matplotlib_is_imported_where_a_picture_is_drawn() -> None:
    at_top = [m for m, path in MODULES.items() for name, top in imports(path) if top and name.startswith("matplotlib")]
    assert at_top == []


@pytest.mark.parametrize("module", ["kws.model", "kws.detector"])
def test_models_run_without_training(module: str) -> None:
    assert not [name for name in reachable(module) if name.split(".")[0] == "training"]


def test_evaluation_runs_without_torch() -> None:
    for module in reachable("kws.evaluate"):
        assert not foreign(MODULES[module]) & TORCH, module


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[:2] == ("kws", "cli")], ids=str)
def test_commands_load_only_click_at_first(path: Path) -> None:
    allowed = {"kws.errors", "kws.cli"}
    top = {name for name, is_top in imports(path) if is_top}
    assert {name for name in top & set(MODULES) if ".".join(name.split(".")[:2]) not in allowed} == set()
    roots = {name.split(".")[0] for name in top}
    assert roots - set(PACKAGES) - set(sys.stdlib_module_names) <= {"click"}


def fresh(code: str, *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


FIRST = ["kws", "kws.errors", "kws.arithmetic.quant", "kws.model", "kws.detector", "kws.evaluate", "kws.cli.main"]
FIRST += ["features.audio", "features.float_frontend", "deploy.graph", "deploy.reference", "training.dataset"]


@pytest.mark.parametrize("module", FIRST)
def test_each_can_be_imported_first_and_brings_no_torch(module: str) -> None:
    result = fresh(f"import sys, {module}; print([m for m in ('torch', 'matplotlib', 'librosa') if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("module", ["features.torch_frontend", "training.recipe"])
def test_those_with_torch_can_be_imported_first(module: str) -> None:
    result = fresh(f"import {module}")
    assert result.returncode == 0, result.stderr


def test_help_loads_neither_numpy_nor_torch_nor_rich() -> None:
    code = (
        "import sys; from kws.cli.main import main; code = main(['--help']);"
        "print([m for m in ('numpy', 'torch', 'rich', 'soundfile', 'matplotlib') if m in sys.modules], code)"
    )
    assert fresh(code).stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("layout", ["training/__init__.py", "features.py", "deploy/"])
def test_a_package_in_the_way_is_named(tmp_path: Path, layout: str) -> None:
    stray = tmp_path / layout
    if layout.endswith("/"):
        stray.mkdir()
    else:
        stray.parent.mkdir(exist_ok=True)
        stray.write_text("raise RuntimeError('the wrong one')\n")
    result = fresh("import kws", cwd=tmp_path)  # `python -c` looks into the working folder first
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert str(stray) in last
    assert str(ROOT) in last


def test_the_console_script_does_not_see_a_stray_folder(tmp_path: Path) -> None:
    for name in ("training", "features", "deploy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    script = Path(sys.executable).parent / "kws"
    command = [script, "features", "nothing.wav", "--npy", "x.npy"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "kws: nothing.wav: no such file\n"
