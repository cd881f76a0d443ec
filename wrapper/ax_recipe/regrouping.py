"""A run goes on with other machines than before: planned anew for them, and the rows of a step stay as many."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ax_recipe import axolotl, cluster, preparing, rundir, runs, seal
from ax_recipe.checks import keys, planned
from ax_recipe.cluster import Cluster
from ax_recipe.hardware import GpuKind, Hardware
from ax_recipe.rundir import RunDir


def regroup(run: RunDir, told: Mapping[str, Any], gbit: float | None = None) -> None:
    """Plan ``run`` for the machines that ``told`` (the options of `cluster.asked`) says, else for those it had.

    :raises RecipeError: it is running, or its batch cannot be split over so many.
    """
    runs.refuse_running(run)
    orders = run.read_json(run.orders)
    before = orders.get("cluster") or {"nodes": 1}
    several = cluster.asked(**(_options(before) | {name: value for name, value in told.items() if value is not None}))
    recipe = preparing.recipe_of(run)
    each = Hardware(orders["gpus"], GpuKind(**orders["kind"]) if orders["kind"] else None)
    lent = cluster.lent(several, str(orders["gpus"]), each, gbit or before.get("gbit"))
    text = run.recipe.read_text(encoding="utf-8")
    found = axolotl.find(orders["axolotl"]["command"])
    prepared = preparing.for_run(recipe, lent, found, run.path.parent, text, several, run)
    planned.refuse(prepared.plan, found, keys.examine)
    new = json.loads(prepared.files[run.orders.name])
    new["ranks_before"] = sorted({*orders.get("ranks_before", ()), orders["ranks"]})
    for path in (run.script, run.alone_yaml, *run.path.glob("axolotl.train.*.yaml")):
        path.unlink(missing_ok=True)
    for name, content in {**prepared.files, run.orders.name: json.dumps(new, indent=1)}.items():
        if name != run.state.name:
            rundir.write(run.path / name, content)
    seal.put(run.path)


def _options(before: Mapping[str, Any]) -> dict[str, Any]:
    """The options that made this cluster; how many and which machines they were is said anew."""
    if "launcher" not in before:
        return {}
    old = Cluster(**{field.name: before[field.name] for field in fields(Cluster)})
    slurm = ",".join(old.options) or None
    return {"nodes": old.nodes, "launcher": old.launcher, "slurm": slurm, "ray_address": old.address or None}
