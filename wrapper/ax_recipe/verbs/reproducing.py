"""The same run once more, from its folder; and in words what is different around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl
from ax_recipe.checks import all as checks
from ax_recipe.checks import planned, trust
from ax_recipe.forecast import cluster
from ax_recipe.forecast.cluster import Cluster
from ax_recipe.forecast.hardware import GpuKind, Hardware
from ax_recipe.launch import environment
from ax_recipe.run import origin, preparing
from ax_recipe.run.preparing import Prepared
from ax_recipe.run.rundir import RunDir

UNKNOWN = "it left no environment.json, so what is different now is not known"


@dataclass(frozen=True, slots=True)
class Where:
    """Where a run is done again: the folder of all runs, and the GPUs, machines and Gbit/s as they are asked for.

    One that is not ``alone`` here has its tokenised data in its own folder.
    """

    runs: Path
    gpus: str | None = None
    several: Cluster | None = None
    gbit: float | None = None
    alone: bool = True


def prepare(run: RunDir, its_axolotl: Axolotl | None, where: Where, *, trusted: bool) -> tuple[Prepared, list[str]]:
    """A new run of the recipe that ``run`` holds, and one line to each difference of the environment.

    :raises ProblemsError: what was right then is wrong now, such as a file that is no longer there.
    """
    orders, several = run.read_json(run.orders), where.several
    found = origin.recipe_of(run)
    each = Hardware(orders["gpus"], GpuKind(**orders["kind"]) if orders["kind"] else None)
    lent = cluster.lent(several, where.gpus or str(orders["gpus"]), each, where.gbit)
    text = run.read_text(run.recipe)
    prepared = preparing.for_run(found, lent, its_axolotl, where.runs, text, several, alone=where.alone)
    trust.refuse(found, planned.refuse(prepared.plan, its_axolotl, checks.examine), trusted=trusted)
    return prepared, [*_machines(orders, several.nodes if several else 1), *different(run)]


def _machines(orders: Mapping[str, Any], now: int) -> list[str]:
    then = (orders.get("cluster") or {"nodes": 1})["nodes"]
    words = f"{now} machines" if now > 1 else "one alone"
    return [f"it trained on {then} machine{'s' * (then > 1)}, and now on {words}"] if then != now else []


def different(run: RunDir) -> list[str]:
    """What is not as it was when ``run`` was made."""
    if not run.environment.exists():
        return [UNKNOWN]
    return list(environment.differences(run.read_json(run.environment), environment.look(run)))
