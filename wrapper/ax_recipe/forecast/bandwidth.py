"""What the network between machines carries: as it is given, as it was measured between these very ones, or a guess."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_high
from typing import Any

from ax_recipe import axolotl
from ax_recipe.forecast.hardware import USUAL_GBIT

# Of what was given, the share that a measurement has to reach not to be spoken of.
FAR_BELOW = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """All-reduces of ``size`` bytes over ``ranks`` processes of ``nodes`` machines that took ``seconds`` each."""

    backend: str
    nodes: int
    ranks: int
    size: int
    seconds: tuple[float, ...]
    time: float
    between: str

    @property
    def gbit(self) -> float:
        """Gbit/s by which `network.traffic` foretells these very all-reduces: of n machines it counts 2 (n - 1) / n."""
        return _rate(self.nodes, self.size, median_high(self.seconds)) * 8 / 1e9

    def bus(self, seconds: float) -> float:
        """Bus bandwidth in GB/s of one that took ``seconds``.

        A ring sends 2 (n - 1) / n of the data from each of its n members (Patarasuk and Yuan, 2009), so that the figure
        can be held against a link's rate; as nccl-tests counts it (doc/PERFORMANCE.md), the members are all processes.
        """
        return _rate(self.ranks, self.size, seconds) / 1e9

    def __str__(self) -> str:
        low, high = self.bus(max(self.seconds)), self.bus(min(self.seconds))
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.time))
        size = f"{self.size / 2**20:.0f} MiB"
        how = f"{len(self.seconds)} all-reduces of {size} over {self.ranks} processes, {self.backend}"
        speed = f"{self.bus(median_high(self.seconds)):.3g} GB/s of bus bandwidth ({low:.3g} to {high:.3g})"
        return f"{speed} between {self.between}, measured {when} ({how})"


def _rate(members: int, size: int, seconds: float) -> float:
    return 2 * (members - 1) / members * size / seconds


def between(cluster: Mapping[str, Any]) -> str:
    """Which machines a cluster's are, as far as its options name them."""
    others, nodes = cluster["hosts"], cluster["nodes"]
    if cluster["launcher"] == "slurm":
        picked = [each for each in cluster["options"] if each.startswith(("partition=", "constraint=", "nodelist="))]
        return f"{nodes} machines of Slurm{' with ' if picked else ''}{', '.join(picked)}"
    if cluster["launcher"] == "ray":
        return f"{nodes} machines of Ray {cluster['address']}".rstrip()
    return f"{cluster['head']}, {', '.join(others)}" if others else f"{cluster['head']} and {nodes - 1} beside it"


def known(cluster: Mapping[str, Any], gpus: int, given: float | None) -> tuple[float, str]:
    """Gbit/s between the machines, and in words whence that is."""
    found = kept(cluster, gpus)
    if given:
        word = compared(found, given) if found else ""
        return given, f"as given; {word}" if word else "as given"
    return (found.gbit, f"by {found}") if found else (USUAL_GBIT, "a guess: --bandwidth or --measure")


def compared(found: Measured, given: float) -> str:
    """Why what was given is not to be counted on, in words; nothing where it is."""
    reached = found.bus(median_high(found.seconds)) * 8
    if reached >= FAR_BELOW * given:
        return ""
    which = "NCCL_SOCKET_IFNAME, NCCL_IB_HCA" if found.backend == "nccl" else "GLOO_SOCKET_IFNAME"
    return f"{reached:.3g} of {given:g} Gbit/s were reached (which network is taken: {which}), by {found}"


def kept(cluster: Mapping[str, Any], gpus: int) -> Measured | None:
    """What was measured last between these machines, by the library that their training takes."""
    value = _all().get(_key(cluster, gpus))
    try:
        return Measured(**{**value, "seconds": tuple(value["seconds"])}) if value else None
    except (KeyError, TypeError):  # of another version: it is measured anew
        return None


def read(cluster: Mapping[str, Any], told: Mapping[str, Any]) -> Measured:
    """What the probe has just told."""
    how, seconds = (told["backend"], cluster["nodes"], told["ranks"], told["bytes"]), tuple(told["seconds"])
    return Measured(*how, seconds, time.time(), between(cluster))


def keep(cluster: Mapping[str, Any], gpus: int, found: Measured) -> None:
    """Note it for the next plan of the same machines.

    :raises OSError: the cache cannot be written to.
    """
    axolotl.keep(_path(), json.dumps({**_all(), _key(cluster, gpus): asdict(found)}, indent=1))


def _key(cluster: Mapping[str, Any], gpus: int) -> str:
    return f"{between(cluster)}, {gpus or 'no'} GPUs each"


def _path() -> Path:
    return axolotl.cache_folder() / "networks.json"


def _all() -> dict[str, Any]:
    try:
        value = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or torn: it is measured anew
        return {}
    return value if isinstance(value, dict) else {}
