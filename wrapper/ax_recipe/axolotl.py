"""The training environment: which Axolotl a run uses, what is installed beside it, and the keys it knows."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ax_recipe import assets
from ax_recipe.errors import MissingError

VARIABLE = "AX_RECIPE_AXOLOTL"
_TRACKING = "AXOLOTL_DO_NOT_TRACK"
# Axolotl's telemetry delays the start by seconds, and offline it hangs the exit.
QUIET = {_TRACKING: "1"}


@dataclass(frozen=True, slots=True)
class Axolotl:
    """One installed Axolotl: its command, the python it runs under, and its version."""

    command: Path
    python: Path
    version: str

    def has(self, package: str) -> bool:
        """Whether its environment has a package, by its distribution's name."""
        pattern = f"lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info"
        return any(True for _ in self.command.parents[1].glob(pattern))

    def versions(self) -> dict[str, str]:
        """The versions of Axolotl, torch, peft, ... in this environment, asked of its python."""
        from ax_recipe import process  # here, for `render` starts no program

        found: dict[str, str] = process.probe(self.python, assets.probe("versions.py"))
        return found


def telemetry() -> dict[str, str]:
    """What a run is started with: telemetry is off, unless the person has turned it on."""
    return {_TRACKING: os.environ.get(_TRACKING, QUIET[_TRACKING])}


def find(named: str | None = None) -> Axolotl:
    """The Axolotl that ``--axolotl`` or AX_RECIPE_AXOLOTL names, else this environment's, else the one on PATH.

    :raises MissingError: there is none, or what was named is none.
    """
    named = named or os.environ.get(VARIABLE)
    command = _named(Path(named).expanduser()) if named else _nearest()
    python = command.with_name("python")
    # The installed metadata says the version without starting a python: venv and conda lay it out alike.
    metadata = list(command.parents[1].glob("lib/python*/site-packages/axolotl-*.dist-info"))
    if not python.exists() or not metadata:
        raise MissingError(
            f"{command}: no python with an installed axolotl belongs to it",
            "name the axolotl inside the bin folder of its environment",
        )
    return Axolotl(command, python, metadata[0].name.removeprefix("axolotl-").removesuffix(".dist-info"))


def find_if_any(named: str | None = None) -> Axolotl | None:
    """The same, or None where nobody named one and none is installed: a laptop may render."""
    if named or os.environ.get(VARIABLE):
        return find(named)
    try:
        return find()
    except MissingError:
        return None


def assumed() -> Axolotl:
    """What is shown in the place of one where none is installed: of the newest version whose schema is shipped."""
    return Axolotl(Path("axolotl"), Path("python"), _newest().stem.removeprefix("axolotl-"))


def _named(path: Path) -> Path:
    for command in (path, path / "axolotl", path / "bin" / "axolotl"):
        if command.is_file():
            return command.absolute()
    raise MissingError(
        f"--axolotl {path}: no axolotl there", f"name the command or its environment, or unset {VARIABLE}"
    )


def _nearest() -> Path:
    beside = Path(sys.executable).with_name("axolotl")
    found = str(beside) if beside.is_file() else shutil.which("axolotl")
    if not found:
        raise MissingError("no axolotl in this environment or on PATH", how_to_have_one(sys.version_info[:2]))
    return Path(found).absolute()


def how_to_have_one(python: tuple[int, ...]) -> str:
    """What to do where there is none, under this version of Python.

    Axolotl 0.19 to 0.21 pin zstandard 0.22.0, which has no wheel for 3.13 and does not build there (tried with pip 26).
    """
    if python < (3, 13):
        return f"pip install 'axolotl>=0.19', or name one with --axolotl PATH or {VARIABLE}"
    version = ".".join(map(str, python))
    return (
        f"Axolotl 0.19 to 0.21 cannot be installed under Python {version}: put one into an environment of Python 3.12, "
        f"and name it with --axolotl PATH or {VARIABLE}"
    )


def cache_folder() -> Path:
    """Where things that can be made again are kept: schemas, tokenised data, pre-trained tiny bases."""
    import platformdirs

    return Path(os.environ.get("AX_RECIPE_CACHE") or platformdirs.user_cache_dir("ax-recipe"))


def keep(path: Path, text: str) -> None:
    """Write a file, of the cache say, whole at once: two commands may make the same, and none reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def schema(axolotl: Axolotl | None) -> dict[str, Any]:
    """What the checker knows of an Axolotl version: shipped, or asked of the environment once and cached.

    Without an Axolotl at hand, the newest version that we ship stands in.
    """
    if axolotl is None:
        return _read(_newest())
    name = f"axolotl-{axolotl.version}.json"
    cached = cache_folder() / "schemas" / name
    for path in (assets.schemas() / name, cached):
        if path.is_file():
            return _read(path)
    from ax_recipe import process

    value: dict[str, Any] = process.probe(axolotl.python, assets.probe("axolotl_schema.py"))
    keep(cached, json.dumps(value))
    return value


def _newest() -> Path:
    def number(path: Path) -> list[int]:
        return [int(part) for part in path.stem.removeprefix("axolotl-").split(".") if part.isdigit()]

    return max(assets.schemas().glob("axolotl-*.json"), key=number)


@cache
def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
