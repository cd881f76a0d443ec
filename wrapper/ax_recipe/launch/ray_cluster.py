"""A Ray cluster that is to train a run: asked before anything is started whether it can."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ax_recipe import assets, axolotl, process
from ax_recipe.errors import MissingError
from ax_recipe.launch.gathering import differing, paths
from ax_recipe.run.rundir import RunDir


def refuse(run: RunDir, orders: Mapping[str, Any]) -> None:
    """Stop where Ray could not train the run: it would wait for ever for what it does not have.

    :raises MissingError: Ray is not installed, its head does not answer, or its machines have too little or differ.
    """
    cluster = orders["cluster"]
    if not axolotl.find(orders["axolotl"]["command"]).has("ray"):
        raise MissingError("Ray is not installed beside Axolotl", "pip install 'axolotl[ray]>=0.19' on every machine")
    asked = json.dumps([{"cluster": cluster}, str(run.path), *paths(run, orders)])
    found = process.probe(Path(orders["axolotl"]["python"]), assets.probe("ray_train.py"), "look", asked)
    if "error" in found:
        hint = "ray start --head on one machine starts a cluster; --ray-address HOST:6379 names it"
        raise MissingError(f"Ray's head at {found['error']}", hint)
    _refuse_too_few(found["hosts"], cluster["nodes"], int(orders["gpus"]))
    for host in found["hosts"]:
        if host["missing"]:
            hint = "what a run reads and writes must lie on a file system that every machine of the cluster has"
            raise MissingError(f"{host['host']} does not see {', '.join(host['missing'])}", hint)
        if differs := list(differing(found["versions"], host["versions"])):
            raise MissingError(f"{host['host']} has {', '.join(differs)}", "install the same versions on all machines")


def _refuse_too_few(hosts: list[dict[str, Any]], nodes: int, each: int) -> None:
    what = "gpus" if each else "cpus"
    has = sum(int(host[what]) for host in hosts)
    wanted = nodes * max(1, each)
    if has < wanted:
        listed = ", ".join(f"{host['host']} {int(host[what])}" for host in hosts)
        hint = f"lend more machines to it (ray start --address=...), or ask for less: {listed}"
        raise MissingError(f"the Ray cluster has {has} {what[:-1].upper()}s in all, and {wanted} are wanted", hint)
