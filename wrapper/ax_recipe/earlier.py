"""The run that the same command made before: giving it twice trains once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ax_recipe import environment, rundir, seal
from ax_recipe.preparing import Prepared
from ax_recipe.rundir import RunDir


def find(prepared: Prepared) -> RunDir | None:
    """The newest run in the same folder that was decided to the letter as ``prepared`` is, from the same data."""
    return next((run for run in rundir.every(prepared.run.path.parent) if _is_same(run, prepared)), None)


def _is_same(run: RunDir, prepared: Prepared) -> bool:
    decided = {name: text for name, text in prepared.files.items() if name != prepared.run.state.name}
    try:
        then = {name: (run.path / name).read_text(encoding="utf-8") for name in decided}
    except (OSError, ValueError):
        return False
    orders = prepared.run.orders.name
    before, after = (
        _orders(texts.pop(orders), path) for texts, path in ((then, run.path), (decided, prepared.run.path))
    )
    same = all(_bare(then[name], run.path) == _bare(text, prepared.run.path) for name, text in decided.items())
    return same and before == after and seal.holds(run.path) and _has_the_same_data(run)


def _has_the_same_data(run: RunDir) -> bool:
    if not run.environment.exists():  # its runner writes it a moment after the start
        return run.holder() is not None
    try:
        data: object = run.read_json(run.environment)["files"]
    except (OSError, ValueError, KeyError):  # torn
        return False
    return data == environment.files(run)


def _orders(text: str, path: Path) -> dict[str, Any] | None:
    """plan.json without what another shell brings along: PATH and its like are no difference either."""
    try:
        value: dict[str, Any] = json.loads(_bare(text, path))
    except ValueError:  # torn
        return None
    return {**value, "stages": [{**stage, "environment": None} for stage in value["stages"]]}


def _bare(text: str, path: Path) -> str:
    """Every run writes into its own folder: that is no difference."""
    return text.replace(str(path), "")
