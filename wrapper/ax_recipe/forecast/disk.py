"""The disk that a run will fill, counted before it starts: checkpoints, the merged model, and what Ollama copies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ax_recipe.errors import MissingError
from ax_recipe.forecast import architecture, memory, settings
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.settings import Settings
from ax_recipe.recipe.recipe import is_local

GIB = 2**30
# The tokenizer and the small files beside the weights: Llama 3's take 17 MB.
SMALL = 20e6
# Logs, events, the tokenised data's index: what no formula knows.
MARGIN = 1.02
ELSEWHERE = "name another disk with --runs DIR, keep fewer with axolotl.save_total_limit, "
# DeepSpeed keeps weights and both moments in 4 bytes each, whatever the optimizer's own precision.
_ZERO = 12.0
# Bytes for each trained number that is kept in 4 bytes, and in 2; paged optimizers save as much as the others.
_PAGED = {"paged_adamw_8bit": (2.03, 2.03), "paged_adamw_32bit": (8, 8), "paged_lion_8bit": (1.016, 1.016)}
_OPTIMIZERS = settings.OPTIMIZERS | _PAGED | {"paged_lion_32bit": (4, 4)}


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that a run will write: what it is, where, and how large it is at its fullest, in bytes."""

    what: str
    place: Path
    size: float

    def __str__(self) -> str:
        return f"{self.size / GIB:8.1f} GiB  {self.what}"


def needs(
    keys: Mapping[str, Any],
    shape: Shape,
    hardware: Hardware,
    stages: Collection[str],
    output: Path,
    quantize: str | None = None,
) -> list[Need]:
    """All that the ``stages`` of a run with these Axolotl keys will write, less what of it is there already.

    ``output`` is Axolotl's output_dir; ``quantize`` is what Ollama is asked to make of the model.
    """
    s = settings.resolve(keys, hardware, shape, folder=output)
    found = [*_fetched(str(keys["base_model"]), shape)]
    if "train" in stages:
        found += _trained(keys, shape, s, output)
    if "merge" in stages and s.method != "full":
        wide = 2 if hardware.count else 4  # the base's own width; one made here on the CPU has 4 bytes
        merged = output / "merged"
        size = shape.parameters * wide + SMALL
        found.append(Need("the merged model", merged, _left(size, merged.glob("*.safetensors"))))
    if "deploy" in stages and (models := ollama_models()):
        found += _deployed(shape, quantize, output.parent, models)
    return found


def _fetched(base: str, shape: Shape) -> Iterator[Need]:
    cache = architecture.hub_cache()
    if not is_local(base, Path()) and not any(
        cache.glob(f"models--{base.replace('/', '--')}/snapshots/*/*.safetensors")
    ):
        yield Need("the base, from the hub", cache, shape.parameters * 2.0)


def _trained(keys: Mapping[str, Any], shape: Shape, s: Settings, output: Path) -> Iterator[Need]:
    weights, beside = checkpoint(keys, shape, s)
    count = kept(keys)
    each = weights + (0.0 if keys.get("save_only_model") else beside) + SMALL
    if count:
        text = f"{count} checkpoints of {each / GIB:.1f} GiB, one of them before the oldest goes"
        yield Need(text, output, _left(count * each, output.glob("checkpoint-*/**/*")))
    what = "the adapter" if s.method != "full" else "the model"
    yield Need(what, output, _left(weights + SMALL, output.glob("*.safetensors")))


def _left(size: float, made: Iterable[Path]) -> float:
    """What is still to be written of ``size`` bytes: files that are written anew leave their room to that."""
    return max(0.0, size - sum(path.stat().st_size for path in made if path.is_file()))


def checkpoint(keys: Mapping[str, Any], shape: Shape, s: Settings) -> tuple[float, float]:
    """The weights of one checkpoint and what it has beside them, in bytes.

    That is the optimizer's state and, under FSDP, the weights once more: accelerate (1.13) keeps its own copy of them.
    """
    trained = memory.adapter_parameters(shape, s) if s.method != "full" else shape.parameters
    if s.method != "full":  # PEFT saves whole modules beside the adapter
        trained += len(keys.get("lora_modules_to_save") or ()) * shape.vocab * shape.hidden
    wide, narrow = _OPTIMIZERS.get(s.optimizer, (8, 4))
    halves = s.method == "full" and s.bytes == 2
    state = _ZERO if s.layout.startswith("zero") else narrow if halves else wide
    weights = trained * (2.0 if halves else 4.0)
    return weights, trained * float(state) + (weights if s.layout == "fsdp" else 0.0)


def kept(keys: Mapping[str, Any]) -> int:
    """How many checkpoints lie on the disk at once; the next one is written before the oldest is removed."""
    if keys.get("save_strategy") == "no":
        return 0
    limit = keys.get("save_total_limit")
    saves = float(keys.get("saves_per_epoch") or 1) * float(keys.get("num_epochs") or 1)
    if limit is None:
        return max(1, round(saves))
    best = 1 if keys.get("load_best_model_at_end") else 0
    most = int(limit) + best + 1
    return most if keys.get("save_steps") else min(most, max(1, round(saves)))


def _deployed(shape: Shape, quantize: str | None, run: Path, models: Path) -> Iterator[Need]:
    """Ollama since 0.34.1 is sent the GGUF that it is to run; 8 bits are what a quantised one takes at the most.

    Older ones made it themselves, and needed three times 16 bits for it.
    """
    half = shape.parameters * 2.0
    yield Need("the GGUF", run, _left(half, run.glob("model.gguf")))
    if quantize:
        yield Need(f"the GGUF in {quantize}", run, half / 2)
    yield Need("Ollama's copy of it", models, half / 2 if quantize else half)


def ollama_models() -> Path | None:
    """Where the Ollama of this machine keeps its models; None where it is another's, or there is none."""
    host = os.environ.get("OLLAMA_HOST", "").strip()
    name = urlsplit(host if "://" in host else f"//{host}").hostname or "localhost"
    if name not in {"localhost", "127.0.0.1", "::1", "0.0.0.0"}:  # noqa: S104 - a server's way to say "everywhere"
        return None
    told = os.environ.get("OLLAMA_MODELS")
    places = [Path(told)] if told else [Path("~/.ollama/models").expanduser(), Path("/usr/share/ollama/.ollama/models")]
    return next((place for place in places if _is_there(place)), None)


def _is_there(place: Path) -> bool:
    try:
        return place.is_dir()
    except PermissionError:  # the service's own home: its size cannot be asked either
        return False


def refuse(found: Sequence[Need], ways: str = ELSEWHERE) -> None:
    """Stop where a file system has less room than a run will need of it; ``ways`` are those out of it.

    :raises MissingError: with what each thing takes.
    """
    for needed in by_file_system(found):
        free, takes = shutil.disk_usage(nearest(needed[0].place)).free, total(needed)
        if takes > free:
            words = f"the disk of {needed[0].place} has {free / GIB:.1f} GiB free, and needs {takes / GIB:.1f} GiB:"
            raise MissingError(
                "\n".join((words, *(f"    {need}" for need in needed))),
                f"make room, {ways}or --force",
            )


def total(found: Sequence[Need]) -> float:
    """The bytes of all of them, and a little for what no formula knows."""
    return sum(need.size for need in found) * MARGIN


def by_file_system(found: Sequence[Need]) -> list[list[Need]]:
    """Those that share a disk, together."""
    groups: dict[int, list[Need]] = {}
    for need in found:
        groups.setdefault(file_system(need.place), []).append(need)
    return list(groups.values())


def file_system(place: Path) -> int:
    """The number of the file system that ``place`` is on, or would be."""
    return nearest(place).stat().st_dev


def nearest(place: Path) -> Path:
    """The folder, or the nearest above it that is there already."""
    return next(folder for folder in (place, *place.absolute().parents) if folder.exists())
