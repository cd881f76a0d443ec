"""Several machines for one training, as the command line asks for them: how many, how they are started and reached."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.forecast import bandwidth
from ax_recipe.forecast.hardware import Hardware, here, lend, over, parse

LAUNCHERS = ("torchrun", "slurm", "ray")
# How long the head waits for the others: somebody may have to log in to each (seconds).
WAIT_S = 600.0
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:\[\]-]*")
_OPTION = re.compile(r"([a-z][a-z-]*)(?:=([^\n]*))?")


@dataclass(frozen=True, slots=True)
class Cluster:
    """``nodes`` machines, the first of them the head, where the run's other stages are done.

    ``hosts`` are the others where ssh starts them; ``head`` is the name or address by which they reach the first, at
    ``port`` (any that is free where it is 0). ``options`` are sbatch's, without their dashes. ``address`` is Ray's.
    """

    launcher: str
    nodes: int
    hosts: tuple[str, ...] = ()
    head: str = ""
    port: int = 0
    wait_s: float = WAIT_S
    options: tuple[str, ...] = ()
    address: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether this machine is none of those that train."""
        return self.launcher != "torchrun"


def asked(
    nodes: int | None = None,
    launcher: str | None = None,
    hosts: str | None = None,
    head: str | None = None,
    port: int | None = None,
    wait_nodes: float | None = None,
    slurm: str | None = None,
    ray_address: str | None = None,
) -> Cluster | None:
    """What the options say; None is one machine, this one.

    :raises RecipeError: they contradict each other.
    """
    names = _hosts(hosts, nodes)
    count = nodes or (len(names) + 1)
    launcher = launcher or ("slurm" if slurm else "ray" if ray_address else "torchrun")
    its_own = (("hosts", names, "torchrun"), ("slurm", slurm, "slurm"), ("ray-address", ray_address, "ray"))
    for option, given, its in its_own:
        if given and launcher != its:
            raise RecipeError(f"--{option} is for --launcher {its}, not for {launcher}", "leave one of them out")
    if launcher == "torchrun" and count == 1:
        return None
    wait_s = WAIT_S if wait_nodes is None else wait_nodes
    head = head or (socket.gethostname() if launcher == "torchrun" else "")
    return Cluster(launcher, count, names, head, port or 0, wait_s, _options(slurm), ray_address or "")


def gathers(orders: Mapping[str, Any]) -> bool:
    """Whether the machines of a planned run come together by our own word, which is where no Ray does that."""
    told = orders.get("cluster") or {"nodes": 1}
    return bool(told["nodes"] > 1 and told["launcher"] != "ray")


def _hosts(text: str | None, nodes: int | None) -> tuple[str, ...]:
    """The other machines, by name.

    :raises RecipeError: one is there twice, is no name, or they are not as many as the nodes want.
    """
    names = tuple(part.strip() for part in text.split(",")) if text else ()
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"--hosts: {', '.join(twice)} more than once", "each machine trains once: name it once")
    for name in names:
        if not _HOST.fullmatch(name):  # ssh would take -oProxyCommand=... for an option
            raise RecipeError(f"--hosts: {name!r} is no name of a machine", "write --hosts b,c or --hosts me@10.0.0.2")
    if names and nodes and nodes != len(names) + 1:
        hint = "--hosts names all but this one; leave --nodes out, or name them all"
        raise RecipeError(f"--nodes {nodes}, and with this machine --hosts names {len(names) + 1}", hint)
    return names


def _options(text: str | None) -> tuple[str, ...]:
    """``partition=gpu,account=me`` as sbatch has it: a line of its own for each.

    :raises RecipeError: something else.
    """
    parts = re.split(r",(?=[a-z][a-z-]*(?:=|,|$))", text) if text else []
    for part in parts:
        if not _OPTION.fullmatch(part):
            raise RecipeError(f"--slurm: {part!r} is no option of sbatch", "write --slurm partition=gpu,time=04:00:00")
    return tuple(parts)


def lent(cluster: Cluster | None, gpus: str | None, wanted: Hardware, gbit: float | None = None) -> Hardware:
    """What a run gets: of this machine, of several like it, or of others, whose word ``gpus`` is taken for.

    :raises MissingError: this machine trains, and has less.
    """
    if cluster is None:
        return lend(gpus, here(), wanted)
    each = (parse(gpus, wanted.kind) if gpus else wanted) if cluster.elsewhere else lend(gpus, here(), wanted)
    return spread(each, cluster, gbit)


def spread(each: Hardware, cluster: Cluster | None, gbit: float | None = None) -> Hardware:
    """The machines of ``cluster``, each like this one; ``gbit`` is the rate of their network where it is given."""
    if cluster is None or cluster.nodes == 1:
        return each
    return over(each, cluster.nodes, *bandwidth.known(asdict(cluster), each.count, gbit))
