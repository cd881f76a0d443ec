"""The same run once more, from its folder; and in words what is different around it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl
from ax_recipe.checks import all as checks
from ax_recipe.checks import planned, trust
from ax_recipe.forecast import hardware
from ax_recipe.launch import environment
from ax_recipe.run import origin, preparing
from ax_recipe.run.preparing import Prepared
from ax_recipe.run.rundir import RunDir

UNKNOWN = "it left no environment.json, so what is different now is not known"


def prepare(
    run: RunDir, gpus: str | None, its_axolotl: Axolotl | None, runs: Path, *, trusted: bool
) -> tuple[Prepared, list[str]]:
    """A new run of the recipe that ``run`` holds, and one line to each difference of the environment.

    :raises ProblemsError: what was right then is wrong now, such as a file that is no longer there.
    """
    orders = run.read_json(run.orders)
    found = origin.recipe_of(run)
    lent = hardware.lend(gpus or str(orders["gpus"]), hardware.here(), preparing.wanted_hardware(found))
    text = run.read_text(run.recipe)
    prepared = preparing.for_run(found, lent, its_axolotl, runs, text)
    trust.refuse(found, planned.refuse(prepared.plan, its_axolotl, checks.examine), trusted=trusted)
    return prepared, [*_alone(orders), *different(run)]


def _alone(orders: Mapping[str, Any]) -> list[str]:
    nodes = (orders.get("cluster") or {"nodes": 1})["nodes"]
    return [f"it trained on {nodes} machines, and now on this one alone"] if nodes > 1 else []


def different(run: RunDir) -> list[str]:
    """What is not as it was when ``run`` was made."""
    if not run.environment.exists():
        return [UNKNOWN]
    return list(environment.differences(run.read_json(run.environment), environment.look(run)))
