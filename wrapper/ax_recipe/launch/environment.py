"""environment.json: with what a run was made, and what is different now."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ax_recipe import __version__, axolotl, process
from ax_recipe.errors import AxRecipeError
from ax_recipe.forecast import hardware
from ax_recipe.recipe import recipe
from ax_recipe.run import origin, seal
from ax_recipe.run.rundir import RunDir

# Of a larger file only the size is noted: reading it would take longer than it is worth.
HASHED_BYTES = 2**29


def record(run: RunDir) -> None:
    """Write the environment of ``run``, unless an earlier attempt did."""
    if not run.environment.exists():
        run.write_json(run.environment, look(run))


def look(run: RunDir) -> dict[str, Any]:
    """What ``run`` would be made with now."""
    orders = run.read_json(run.orders)
    return {
        "ax-recipe": __version__,
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": str(hardware.here()),
        "driver": _driver(),
        "packages": _packages(orders["axolotl"]["command"]) if seal.holds(run.path) else {},
        "git": _git(Path(orders["recipe_file"]).parent),
        "files": files(run),
    }


def _packages(command: str) -> dict[str, str]:
    try:
        return axolotl.find(command).versions()
    except AxRecipeError as error:
        return {"axolotl": f"not found: {error.message}"}


def _driver() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _git(folder: Path) -> str | None:
    """The commit of the folder's repository, with a word if the folder differs from it."""
    commit = process.words(("git", "-C", str(folder), "rev-parse", "HEAD"))
    if commit is None:
        return None
    changed = process.words(("git", "-C", str(folder), "status", "--porcelain", "--", "."))
    return commit.strip() + (" with changes" if changed else "")


def files(run: RunDir) -> dict[str, str]:
    """The digest of every local file that the recipe names, as it is now."""
    return dict(_digests(run))


def _digests(run: RunDir) -> Iterator[tuple[str, str]]:
    for _, path in recipe.local_files(origin.recipe_of(run)):
        if path.is_file():
            size = path.stat().st_size
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if size <= HASHED_BYTES else f"{size} bytes"
            yield str(path), digest


def differences(then: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """One line to each thing that is not as it was."""
    for key in sorted({*then, *now}):
        old, new = then.get(key), now.get(key)
        name = f"{place}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}: " if key == "files" else "")
        elif old != new:
            words = "changed" if place else f"{_shown(old)} then, {_shown(new)} now"
            yield f"{name}: {words}"


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
