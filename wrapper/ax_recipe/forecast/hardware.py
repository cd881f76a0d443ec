"""What a run is made for: so many GPUs of one kind, or the CPU."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

from ax_recipe.errors import MissingError, RecipeError


@dataclass(frozen=True, slots=True)
class GpuKind:
    """One model of GPU: its memory in GiB as the driver reports it, and its CUDA compute capability times ten."""

    name: str
    memory_gib: float
    compute_capability: int

    @property
    def has_bf16(self) -> bool:
        """Ampere (8.0) and newer multiply bfloat16."""
        return self.compute_capability >= 80


_KINDS = (
    GpuKind("T4-16GB", 15.0, 75),
    GpuKind("V100-32GB", 31.7, 70),
    GpuKind("A100-40GB", 39.4, 80),
    GpuKind("A100-80GB", 79.2, 80),
    GpuKind("A10-24GB", 22.5, 86),
    GpuKind("RTX3090-24GB", 23.7, 86),
    GpuKind("A6000-48GB", 47.5, 86),
    GpuKind("L4-24GB", 22.5, 89),
    GpuKind("L40S-48GB", 44.5, 89),
    GpuKind("RTX4090-24GB", 23.5, 89),
    GpuKind("H100-80GB", 79.2, 90),
    GpuKind("H200-141GB", 139.8, 90),
    GpuKind("B200-180GB", 178.4, 100),
    GpuKind("RTX5090-32GB", 31.4, 120),
)
KINDS = {kind.name: kind for kind in _KINDS}
# What --gpus N means where neither the recipe nor this machine names a kind: the commonest card for fine-tuning.
USUAL_KIND = KINDS["A100-80GB"]
# What is taken for a network that nobody describes: InfiniBand and RoCE of the last years have two to eight times that.
USUAL_GBIT = 100.0


@dataclass(frozen=True, slots=True)
class Hardware:
    """``count`` GPUs of one kind in each of ``nodes`` machines; none at all is the CPU.

    ``gbit`` is how many Gbit/s each machine's network carries to the others, ``gbit_from`` in words whence that is.
    """

    count: int
    kind: GpuKind | None
    nodes: int = 1
    gbit: float = 0.0
    gbit_from: str = ""

    @property
    def ranks(self) -> int:
        """How many processes train: one to a GPU, or one to a machine on the CPU."""
        return max(1, self.count) * self.nodes

    def __str__(self) -> str:
        one = f"{self.count}x{self.kind.name}" if self.kind else "the CPU"
        return one if self.nodes == 1 else f"{self.nodes} nodes of {one}"


CPU = Hardware(0, None)
_SAME_MEMORY = 0.03  # what drivers keep for themselves differs a little
# What a plan and a check are for where nobody says and no GPU is here.
RECENT = Hardware(1, KINDS["H100-80GB"])


def parse(text: str | int, usual: GpuKind | None = None) -> Hardware:
    """Read ``4``, ``4xA100-80GB`` or ``0`` (the CPU); a bare number means GPUs of the ``usual`` kind.

    A kind that comes with one size of memory only need not name it: ``4xH200``.
    """
    match = re.fullmatch(r"(\d{1,4})(?:x(.+))?", str(text).strip())
    if not match:
        raise RecipeError(f"--gpus {text}: not a number of GPUs", "write 4, or 4xA100-80GB, or 0 for the CPU")
    count = int(match[1])
    if count == 0:
        return CPU
    return Hardware(count, _kind(match[2]) if match[2] else usual or USUAL_KIND)


def _kind(name: str) -> GpuKind:
    by_lower = {known.lower(): kind for known, kind in KINDS.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    models = [kind for kind in _KINDS if kind.name.partition("-")[0].lower() == name.lower()]
    if len(models) == 1:
        return models[0]
    near = [kind.name.lower() for kind in models] or get_close_matches(name.lower(), by_lower, n=3, cutoff=0.3)
    hint = ", ".join(by_lower[key].name for key in near) or ", ".join(KINDS)
    raise RecipeError(f"which GPU is {name}?" if models else f"unknown kind of GPU: {name}", f"write one of {hint}")


def here() -> Hardware:
    """The GPUs that this machine lends a process: NVML's list, cut by CUDA_VISIBLE_DEVICES."""
    import pynvml  # here, for it is wanted by `run` and `doctor` alone

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return CPU
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(handles) if visible is None else len([part for part in visible.split(",") if part.strip()])
    if not handles or not count:
        return CPU
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handles[0])
    memory = int(pynvml.nvmlDeviceGetMemoryInfo(handles[0]).total) / 2**30
    name = str(pynvml.nvmlDeviceGetName(handles[0]))
    return Hardware(min(count, len(handles)), named(name, memory, 10 * int(major) + int(minor)))


def is_here(hardware: Hardware) -> bool:
    """Whether this very machine can be what is meant, rather than another one: the CPU always is."""
    if hardware.kind is None:
        return True
    found = here()
    return found.kind is not None and found.kind.name == hardware.kind.name and hardware.count <= found.count


def named(name: str, memory_gib: float, compute_capability: int) -> GpuKind:
    """The GPU that the driver calls ``name``, under its name in ``KINDS`` where it is one of them."""
    letters = name.replace(" ", "").upper()
    known = (kind for kind in _KINDS if kind.name.partition("-")[0].upper() in letters)
    near = (kind.name for kind in known if abs(kind.memory_gib / memory_gib - 1) < _SAME_MEMORY)
    return GpuKind(next(near, name.removeprefix("NVIDIA ")), memory_gib, compute_capability)


def target(gpus: str | None) -> Hardware:
    """What a config that names no hardware is meant for: ``gpus`` as asked, ``auto`` for this machine, else a guess."""
    if gpus and gpus != "auto":
        return parse(gpus)
    found = here()
    return found if found.count or gpus else RECENT


def lend(asked: str | int | None, machine: Hardware, wanted: Hardware) -> Hardware:
    """Decide what a run gets: what was asked for, else what the recipe wants as far as the machine has it.

    :raises MissingError: the machine has fewer GPUs than asked for, or none where the recipe wants some.
    """
    if asked is not None:
        target = parse(asked, machine.kind)
        if target.count > machine.count:
            raise MissingError(
                f"--gpus {asked}: this machine has {_has(machine)}",
                f"run on what is here with --gpus {machine.count}; `ax-recipe render --gpus {asked}` works anywhere",
            )
        return Hardware(target.count, machine.kind) if target.count else CPU
    if wanted.count and not machine.count:
        raise MissingError(
            f"this recipe is for {wanted}, and this machine has {_has(machine)}",
            "`ax-recipe run pirate-tiny` needs none; --gpus 0 tries this recipe on the CPU",
        )
    return Hardware(min(wanted.count, machine.count), machine.kind) if wanted.count else CPU


def over(each: Hardware, nodes: int, gbit: float, gbit_from: str = "as given") -> Hardware:
    """``nodes`` machines like this one."""
    return replace(each, nodes=nodes, gbit=gbit, gbit_from=gbit_from) if nodes > 1 else each


def _has(machine: Hardware) -> str:
    return f"{machine} ({machine.count} in all)" if machine.count else "no GPU"
