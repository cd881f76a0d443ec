"""The network between the machines of a training, measured without one: they come together, measure, and leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe import process
from ax_recipe.axolotl import Axolotl
from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.forecast import cluster
from ax_recipe.forecast.bandwidth import Measured
from ax_recipe.forecast.cluster import Cluster
from ax_recipe.launch.gathering import Gathering
from ax_recipe.recipe import recipe as recipes
from ax_recipe.run import belonging, preparing, rundir, runs
from ax_recipe.run.rundir import RunDir, StageRecord

# What helps where the machines do not come together at all.
_WITHOUT = {
    "slurm": "sinfo tells whether Slurm is to be reached from here; --bandwidth GBIT plans without measuring",
    "torchrun": "training would meet the same; --bandwidth GBIT plans without measuring",
}


@dataclass(frozen=True, slots=True)
class There:
    """By what the machines measure: the training environment, and the folder of all runs, which all of them see.

    ``tell`` says what a person starts on the others.
    """

    axolotl: Axolotl
    runs: Path
    tell: Callable[[RunDir, Mapping[str, Any]], None]


def measure(name: str, changes: Sequence[str], gpus: str | None, several: Cluster | None, there: There) -> Measured:
    """Let the machines of ``several`` come together as for a training of recipe ``name``, measure, and leave.

    :raises RecipeError: there are not several machines, or Ray has them.
    :raises MissingError: they do not come together, or the network could not be measured.
    """
    if several is None or several.nodes == 1 or several.launcher == "ray":
        hint = "--nodes 2 or --hosts b,c; what the machines of a Ray carry, --bandwidth says"
        raise RecipeError("--measure is for several machines, of torchrun or Slurm", hint)
    recipe = recipes.load(name, changes)
    lent = cluster.lent(several, gpus, preparing.wanted_hardware(recipe))
    prepared = preparing.for_run(recipe, lent, there.axolotl, there.runs, cluster=several)
    rundir.create(prepared.run, prepared.files)
    try:
        there.tell(prepared.run, prepared.orders)
        return _measured(prepared.run, prepared.orders, several)
    finally:
        runs.remove(prepared.run)


def _measured(run: RunDir, orders: Mapping[str, Any], several: Cluster) -> Measured:
    stage = next(stage for stage in orders["stages"] if stage["name"] == "train")
    gathered = Gathering(run, orders, StageRecord("train", attempt=1), "", measures=True)
    gathered.call()
    environment = {**stage["environment"], **belonging.environment(run)}
    child = process.start(_alone(stage["argvs"][0], several, orders["gpus"]), environment, run.log("train", 1))
    try:
        while not gathered.network and not gathered.fault:
            if child.wait(process.POLL_S) is not None:
                said = run.log("train", 1).read_text(encoding="utf-8", errors="replace").strip().splitlines()
                words = f"this machine's part has ended: {said[-1] if said else 'it says nothing'}"
                raise MissingError(words, _WITHOUT[several.launcher])
            gathered.look()
    finally:
        gathered.leave()
        child.stop(lambda: True)
        belonging.sweep(run, 0.0)
    if gathered.network:
        return gathered.network
    raise MissingError(gathered.fault, "training would meet the same: NCCL_DEBUG=INFO tells what it tries")


def _alone(argv: list[str], several: Cluster, gpus: int) -> list[str]:
    """What brings the machines together; srun without a job of ours wants the options of one."""
    if several.launcher != "slurm":
        return argv
    each = [f"--gpus-per-node={gpus}"] if gpus else []
    return [argv[0], *(f"--{option}" for option in several.options), *each, *argv[1:]]
