"""The run that the same command made before: giving it twice trains once."""

from __future__ import annotations

import json
from typing import Any

from ax_recipe.errors import MissingError
from ax_recipe.launch import environment
from ax_recipe.run import preparing, rundir, seal
from ax_recipe.run.preparing import Prepared
from ax_recipe.run.rundir import RunDir


def find(prepared: Prepared) -> RunDir | None:
    """The newest run in the same folder that was decided to the letter as ``prepared`` is, from the same data."""
    return next((run for run in rundir.every(prepared.run.path.parent) if _is_same(run, prepared)), None)


def _is_same(run: RunDir, prepared: Prepared) -> bool:
    names = [name for name in prepared.files if name != prepared.run.state.name]
    try:
        same = all(
            _bare(name, (run.path / name).read_text(encoding="utf-8"), run)
            == _bare(name, prepared.files[name], prepared.run)
            for name in names
        )
    except (OSError, ValueError):  # gone, or torn
        return False
    return same and seal.holds(run.path) and _has_the_same_data(run)


def _has_the_same_data(run: RunDir) -> bool:
    if not run.environment.exists():  # its runner writes it a moment after the start
        return run.holder() is not None
    try:
        data: object = run.read_json(run.environment)["files"]
    except (MissingError, KeyError):  # torn
        return False
    return data == environment.files(run)


def _bare(name: str, text: str, run: RunDir) -> Any:
    """What was decided, without what is no difference: the run's own folder, and what another shell brings along.

    Nor is it where tokenised data lies, in the run (which may be kept elsewhere, too) or in the cache.
    """
    text = text.replace(str(preparing.shared_data()), str(run.prepared)).replace(str(run.path), "")
    if name != run.orders.name:
        return text
    value = json.loads(text)
    told = value.get("cluster") and {**value["cluster"], "gbit": None, "gbit_from": None}
    measured = {"cluster": told, "foretold": None}  # of a network that was measured since, say
    return {**value, **measured, "stages": [{**stage, "environment": None} for stage in value["stages"]]}
