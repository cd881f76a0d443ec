"""A run goes on with other machines than before: planned anew for them, and the rows of a step stay as many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ax_recipe import axolotl
from ax_recipe.checks import keys, planned, trust
from ax_recipe.forecast import cluster
from ax_recipe.forecast.hardware import GpuKind, Hardware
from ax_recipe.run import origin, preparing, rundir, seal
from ax_recipe.run.rundir import RunDir


def regroup(run: RunDir, told: Mapping[str, Any], gbit: float | None = None, *, trusted: bool = True) -> None:
    """Plan ``run`` for the machines that ``told`` (the options of `cluster.asked`) says, else for those it had.

    ``trusted`` says that it may run what came with it. Nobody else may be at work on it.

    :raises RecipeError: its batch cannot be split over so many.
    """
    orders = run.read_json(run.orders)
    before = orders.get("cluster") or {"nodes": 1}
    several = cluster.asked(**options(before, told))
    recipe = origin.recipe_of(run)
    each = Hardware(orders["gpus"], GpuKind(**orders["kind"]) if orders["kind"] else None)
    lent = cluster.lent(several, str(orders["gpus"]), each, gbit or _given(before))
    text = run.read_text(run.recipe)
    found = axolotl.find(orders["axolotl"]["command"])
    prepared = preparing.for_run(recipe, lent, found, run.path.parent, text, several, run)
    trust.refuse(recipe, planned.refuse(prepared.plan, found, keys.examine), trusted=trusted)
    new = json.loads(prepared.files[run.orders.name])
    new["ranks_before"] = sorted({*orders.get("ranks_before", ()), orders["ranks"]})
    for path in (run.script, run.alone_yaml, *run.path.glob("axolotl.train.*.yaml")):
        path.unlink(missing_ok=True)
    for name, content in {**prepared.files, run.orders.name: json.dumps(new, indent=1)}.items():
        if name != run.state.name:
            rundir.write(run.path / name, content)
    seal.put(run.path)


def _given(before: Mapping[str, Any]) -> float | None:
    """The network's rate where a person said it; what was measured or guessed is asked anew."""
    return before.get("gbit") if str(before.get("gbit_from", "as given")).startswith("as given") else None


def options(before: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What `cluster.asked` is told: the options that made the cluster ``before``, with those that are given now.

    How many machines and which ones go together: whoever names one says the other anew.
    """
    old = {name: value for name, value in before.items() if name in ("nodes", "launcher", "head", "port") and value}
    if before.get("hosts"):
        old["hosts"] = ",".join(before["hosts"])
    if before.get("options"):
        old["slurm"] = ",".join(before["options"])
    if before.get("address"):
        old["ray_address"] = before["address"]
    new = {name: value for name, value in told.items() if value is not None}
    if new.get("launcher", old.get("launcher")) != old.get("launcher"):
        old = {"nodes": old["nodes"]}
    if "hosts" in new or new.get("nodes", old["nodes"]) != old["nodes"]:
        old = {name: value for name, value in old.items() if name not in ("hosts", "nodes")}
    return {**old, **new}
