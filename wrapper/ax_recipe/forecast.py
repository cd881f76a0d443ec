"""What a run will take before it starts: its memory, verdict, best levers, steps, time and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe import architecture, memory, preparing, schema, timing
from ax_recipe import document as documents
from ax_recipe import plan as plans
from ax_recipe import recipe as recipes
from ax_recipe.architecture import Shape
from ax_recipe.axolotl import Axolotl
from ax_recipe.axolotl import schema as axolotl_schema
from ax_recipe.errors import RecipeError
from ax_recipe.hardware import Hardware, here, parse, target
from ax_recipe.memory import UNKNOWN, WILL_NOT_FIT, Memory, judge
from ax_recipe.settings import LIGER, Settings, resolve
from ax_recipe.timing import Timing

_LEAST_GIB = 0.05  # less is not worth a change
_LEVERS = 3


@dataclass(frozen=True, slots=True)
class Lever:
    """One change of the keys, in words and as keys, and what it frees of each GPU."""

    change: str
    keys: Mapping[str, Any]
    frees_gib: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """All that a plan says. ``keys`` are the Axolotl keys it is about."""

    name: str
    hardware: Hardware
    shape: Shape
    settings: Settings
    keys: Mapping[str, Any]
    memory: Memory
    verdict: str
    levers: Sequence[Lever]
    timing: Timing
    price: float | None

    @property
    def card_gib(self) -> float | None:
        """The memory of one GPU; None for the CPU."""
        return self.hardware.kind.memory_gib if self.hardware.kind else None


def of_file(
    name: str,
    gpus: str | None,
    axolotl: Axolotl | None,
    changes: Sequence[str] = (),
    sequence_len: int | None = None,
    price: float | None = None,
) -> Forecast:
    """Foretell a recipe (by name or file) or a raw Axolotl YAML: the latter has ``base_model``, a recipe ``base``.

    :param gpus: ``4xH200-141GB``, a number, ``auto`` for this machine's, or None for those of the recipe.
    :raises RecipeError: the file, the hardware or the model's config.json is wrong.
    :raises MissingError: the model's shape is not known here.
    """
    path = Path(name).expanduser()
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        document = documents.read(path)
        if "base_model" in document.value:
            if changes:
                raise RecipeError("--set changes a recipe, and this is an Axolotl YAML", "change the file itself")
            preparing.refuse_problems(schema.check(document, axolotl_schema(axolotl)["schema"]))
            keys = _changed(document.value, sequence_len)
            return foretell(path.stem, keys, target(gpus), path.parent, price=price)
    recipe = recipes.load(name, changes)
    hardware = _hardware(gpus) or preparing.wanted_hardware(recipe)
    base = preparing.base_folder(recipe, axolotl)
    plan = plans.make(recipe, hardware, f"./outputs/{recipe.name}", "last_run_prepared", str(base))
    preparing.refuse_problems(preparing.problems(plan, axolotl))
    folder = recipe.file.resolve().parent
    keys = _changed(plan.train.values, sequence_len)
    return foretell(recipe.name, keys, hardware, folder, shape=plans.shape_of(recipe), price=price)


def foretell(
    name: str,
    keys: Mapping[str, Any],
    hardware: Hardware,
    folder: Path = Path(),
    *,
    shape: Shape | None = None,
    price: float | None = None,
) -> Forecast:
    """Foretell what these Axolotl keys take on ``hardware``; relative paths are tried here, then from ``folder``."""
    shape = shape or _shape(str(keys["base_model"]), folder)
    data = timing.measure(keys) or timing.measure(keys, folder)
    longest = data.longest if data else None
    settings = resolve(keys, hardware, shape, longest, folder)
    needed = memory.estimate(shape, settings)
    verdict = judge(needed, hardware)
    levers = _levers(keys, hardware, shape, longest, folder, needed)
    return Forecast(
        name=name,
        hardware=hardware,
        shape=shape,
        settings=settings,
        keys=keys,
        memory=needed,
        verdict=verdict,
        levers=levers,
        timing=timing.estimate(shape, settings, hardware, keys, data, price),
        price=price,
    )


def _changed(keys: Mapping[str, Any], sequence_len: int | None) -> Mapping[str, Any]:
    return {**keys, "sequence_len": sequence_len} if sequence_len else keys


def _hardware(gpus: str | None) -> Hardware | None:
    if gpus == "auto":
        return here()
    return parse(gpus) if gpus else None


def _shape(base: str, folder: Path) -> Shape:
    local = Path(base).expanduser() / "config.json"
    return architecture.find(base) if local.is_file() else architecture.find(base, folder)


def _levers(
    keys: Mapping[str, Any],
    hardware: Hardware,
    shape: Shape,
    longest: int | None,
    folder: Path,
    needed: Memory,
) -> list[Lever]:
    """The changes that free most, each found by foretelling the changed run."""
    if needed.moment == "weights" or hardware.kind is None:
        return []
    levers = []
    for words, change in _changes(keys, resolve(keys, hardware, shape, longest, folder)):
        changed = resolve({**keys, **change}, hardware, shape, longest, folder)
        freed = needed.card_gib - memory.estimate(shape, changed).card_gib
        if freed >= _LEAST_GIB:
            levers.append(Lever(words, change, freed))
    return sorted(levers, key=lambda lever: -lever.frees_gib)[:_LEVERS]


def _changes(keys: Mapping[str, Any], s: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    if s.loss not in {"liger", "cut"}:
        plugins = [*(keys.get("plugins") or ()), LIGER]
        yield "fused loss (Liger)", {"plugins": plugins, "liger_fused_linear_cross_entropy": True}
    if not s.checkpointing:
        yield "gradient_checkpointing: true", {"gradient_checkpointing": True}
    if s.micro_batch > 1:
        halved = {
            "micro_batch_size": s.micro_batch // 2,
            "gradient_accumulation_steps": s.accumulation * s.micro_batch // (s.micro_batch // 2),
        }
        yield ", ".join(f"{key}: {value}" for key, value in halved.items()), halved
    if s.eval_slots and int(keys.get("eval_batch_size") or s.micro_batch) > 1:
        yield "eval_batch_size: 1", {"eval_batch_size": 1}
    sequence_len = int(keys.get("sequence_len") or 512)
    if sequence_len >= 1024:
        yield f"sequence_len: {sequence_len // 2}", {"sequence_len": sequence_len // 2}
    if s.rank >= 16:
        yield f"lora_r: {s.rank // 2}", {"lora_r": s.rank // 2}
    if s.optimizer.startswith("adamw_torch") or s.optimizer == "adamw_hf":
        yield "optimizer: adamw_8bit", {"optimizer": "adamw_8bit"}
    if s.method == "lora" and not keys.get("load_in_8bit"):
        yield "adapter: qlora", {"adapter": "qlora", "load_in_4bit": True}
    if s.layout == "ddp" and s.method == "full":
        yield "fsdp_version: 2 (weights spread over the GPUs)", {"fsdp_version": 2, "fsdp_config": {"reshard": True}}


def as_json(forecast: Forecast) -> dict[str, Any]:
    """The forecast as plain values, as ``plan --json`` prints it. ``fits`` is null where no verdict can be given."""
    known = forecast.verdict != UNKNOWN
    return {
        "name": forecast.name,
        "fits": forecast.verdict != WILL_NOT_FIT if known else None,
        "verdict": forecast.verdict,
        "memory": {**memory.as_json(forecast.memory), "gpu_gib": forecast.card_gib},
        "levers": [
            {"change": lever.change, "keys": dict(lever.keys), "frees_gib": round(lever.frees_gib, 3)}
            for lever in forecast.levers
        ],
        "steps": forecast.timing.steps,
        "tokens_per_step": forecast.timing.tokens_per_step,
        "tokens_per_second": round(forecast.timing.tokens_per_second, 1),
        "seconds": round(forecast.timing.seconds, 1),
        "cost": None if forecast.timing.cost is None else round(forecast.timing.cost, 2),
        "assumed": list(forecast.timing.assumed),
        "hardware": str(forecast.hardware),
        "yaml": dict(forecast.keys),
    }
