"""The shape of the program, held by reading its source: imports point one way, and each power lies in one place."""

from __future__ import annotations

import ast
import graphlib
from functools import cache
from pathlib import Path

import pytest

from conftest import ROOT

PACKAGE = ROOT / "wrapper" / "ax_recipe"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if "probes" not in path.parts]
PROBES = sorted((PACKAGE / "probes").rglob("*.py"))
# From the recipe to the view, each may import those before it and none after.
PIPE = (
    "errors", "codes", "assets", "process", "axolotl", "recipe", "forecast", "plan", "run", "observe", "diagnose",
    "ship", "data", "checks", "results", "survive", "launch", "explain", "view", "verbs", "cli", "__main__",
)  # fmt: skip
TRAINER = {"axolotl", "torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes"}


@cache
def source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, *, types: bool = True) -> frozenset[str]:
    found: set[str] = set()
    for statement in source(path).body:
        if not types and isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return frozenset(found)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_its_place_in_the_pipe() -> None:
    assert {room(path) for path in MODULES} - {"__init__"} == set(PIPE)


def test_imports_point_one_way() -> None:
    for path in MODULES:
        here = PIPE.index(room(path)) if path.name != "__init__.py" else len(PIPE)
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("ax_recipe.") else None
            assert other in (None, "__version__") or PIPE.index(other) <= here, f"{path} imports {name}"


def test_no_module_is_part_of_a_circle() -> None:
    """Types are left out: a rule judges a state, and a state holds what the rules say of it."""
    names = {".".join(("ax_recipe", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES}
    needs = {name: {other for other in imports(path, types=False) if other in names} for name, path in names.items()}
    list(graphlib.TopologicalSorter(needs).static_order())


def test_the_command_never_imports_what_trains() -> None:
    for path in MODULES:
        assert not {name.split(".")[0] for name in imports(path)} & TRAINER, path


def test_probes_import_nothing_of_ours() -> None:
    assert len(PROBES) >= 4
    for path in PROBES:
        assert not [name for name in imports(path) if name.split(".")[0] == "ax_recipe"], path


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        ("subprocess", {"process"}),
        ("click", {"cli"}),
        ("rich", {"view", "verbs"}),
        ("jinja2", {"plan", "ship", "view"}),
    ],
)
def test_each_power_lies_in_one_place(library: str, owners: set[str]) -> None:
    users = {room(path) for path in MODULES if library in {name.split(".")[0] for name in imports(path)}}
    assert users == owners


def test_no_blanket_except() -> None:
    for path in MODULES:
        for node in ast.walk(source(path)):
            if isinstance(node, ast.ExceptHandler):
                bare = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
                assert not bare, f"{path}:{node.lineno}"
