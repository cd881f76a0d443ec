"""Checkpoints of a training: which of them are whole, which is the newest, and the torn ones out of the way."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ax_recipe.errors import AxRecipeError
from ax_recipe.ship import weights

STATE = "trainer_state.json"
# Not `checkpoint-40.torn`: transformers (5.16, trainer_utils.sort_checkpoints) takes that for checkpoint 40, counts it
# towards save_total_limit, and deletes it or a whole one in its stead.
TORN = "torn-"
# transformers' own mark of a checkpoint that it is writing under a batch system's notice.
_INCOMPLETE = "checkpoint-is-incomplete.txt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder from which training can go on, and the optimizer step after which it was written."""

    path: Path
    step: int


@dataclass(frozen=True, slots=True)
class Torn:
    """A folder from which it cannot, where it lies now, and why."""

    path: Path
    flaw: str

    def __str__(self) -> str:
        return f"{self.path.name.removeprefix(TORN)} is not whole ({self.flaw}) and was set aside as {self.path.name}"


def newest(output: Path, *ranks: int) -> Checkpoint | None:
    """The newest whole checkpoint of ``ranks`` processes (any of these numbers) in ``output``; changes nothing."""
    return next((found for found in every(output) if not flaw(found, *ranks)), None)


def settle(output: Path, *ranks: int) -> tuple[Checkpoint | None, tuple[Torn, ...]]:
    """The newest whole checkpoint; those after it are renamed, so that nothing takes them for one or deletes them."""
    torn: list[Torn] = []
    for found in every(output):
        wrong = flaw(found, *ranks)
        if not wrong:
            return found, tuple(torn)
        torn.append(Torn(_set_aside(found.path), wrong))
    return None, tuple(torn)


def every(output: Path) -> list[Checkpoint]:
    """All checkpoints in ``output``, whole or not, the newest first."""
    found = [
        Checkpoint(path, int(number))
        for path in output.glob("checkpoint-*")
        if (number := path.name.removeprefix("checkpoint-")).isdecimal() and path.is_dir()
    ]
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def _set_aside(path: Path) -> Path:
    number = 1
    while (target := path.with_name(f"{TORN}{path.name}" + (f".{number}" if number > 1 else ""))).exists():
        number += 1
    return path.rename(target)


def flaw(checkpoint: Checkpoint, *ranks: int) -> str:
    """What keeps training from going on there, or nothing. Axolotl 0.19 looks at none of it and fails in the end."""
    try:
        return next(_flaws(checkpoint, ranks or (1,)), "")
    except OSError as error:
        return f"{Path(error.filename or checkpoint.path).name} cannot be read: {error.strerror}"


def _flaws(checkpoint: Checkpoint, ranks: tuple[int, ...]) -> Iterator[str]:
    folder = checkpoint.path
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if (folder / _INCOMPLETE).exists():
        yield "its writer did not come to its end"
    yield from _state_flaws(folder / STATE, checkpoint.step)
    yield from (f"{path.name} is empty" for path in files if not path.stat().st_size)
    yield from _weight_flaws(folder, files)
    yield from (f"{path.name} is cut short" for path in files if _is_cut(path))
    if not any(folder.glob("optimizer*")) and not _deepspeed(folder):
        yield "no optimizer in it"
    if not (folder / "scheduler.pt").is_file():
        yield "no scheduler.pt in it"
    missing = [[name for name in _random_states(number) if not (folder / name).is_file()] for number in ranks]
    if all(missing):
        yield from (f"no {name} in it" for name in missing[0])


def _random_states(ranks: int) -> list[str]:
    return ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]


def _state_flaws(path: Path, step: int) -> Iterator[str]:
    """trainer_state.json is what transformers writes last."""
    if not path.is_file():
        yield f"no {STATE} in it"
        return
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        yield f"{STATE} is cut short"
        return
    if not isinstance(value, dict) or value.get("global_step") != step:
        yield f"{STATE} is not that of step {step}"


def _weight_flaws(folder: Path, files: list[Path]) -> Iterator[str]:
    index = folder / weights.INDEX
    try:
        missing = [path.name for path in weights.shards(folder) if not path.is_file()] if index.exists() else []
        yield from (f"{name} is missing" for name in missing)
        for path in files:
            if path.suffix == ".safetensors":
                weights.tensors(path)
    except AxRecipeError as error:
        yield error.message.replace(f"{folder}/", "")
    for room in {path.parent for path in files if path.suffix == ".distcp"}:
        if not (room / ".metadata").is_file():  # torch writes it after all the pieces
            yield f"{room.name} has no .metadata"
    kinds = (".safetensors", ".bin", ".distcp")
    if not any(path.suffix in kinds and path.name != "training_args.bin" for path in files) and not _deepspeed(folder):
        yield "no weights in it"


def _is_cut(path: Path) -> bool:
    """torch.save writes a zip file, whose directory comes last."""
    return path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path)


def _deepspeed(folder: Path) -> bool:
    """DeepSpeed keeps weights and optimizer in a folder of their own, which ``latest`` names once it is written."""
    latest = folder / "latest"
    return latest.is_file() and any((folder / latest.read_text(encoding="utf-8").strip()).glob("*_states.pt"))
