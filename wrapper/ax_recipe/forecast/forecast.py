"""What a run will take before it starts: its memory, verdict, best levers, steps, time and cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.forecast import architecture, memory, network, timing
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.choose import Choice, spread
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.memory import MOST, UNKNOWN, WILL_NOT_FIT, Memory, judge
from ax_recipe.forecast.network import Traffic
from ax_recipe.forecast.settings import LIGER, Settings, resolve
from ax_recipe.forecast.timing import Timing

_LEAST_GIB = 0.05  # less is not worth a change
_LEVERS = 3


@dataclass(frozen=True, slots=True)
class Lever:
    """One change of the keys, in words and as keys, and what it frees of each GPU."""

    change: str
    keys: Mapping[str, Any]
    frees_gib: float


@dataclass(frozen=True, slots=True)
class Experience:
    """How good forecasts have been: the median of foretold over measured, less one, over ``runs`` on such cards.

    ``run`` is the newest one of the very same plan on the same hardware, and ``step_seconds`` what its step took.
    """

    runs: int
    active_off: float | None
    step_off: float | None
    run: str | None
    step_seconds: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """All that a plan says. ``keys`` are the Axolotl keys it is about.

    ``choice`` and ``reasons`` (by key) say how a recipe's open keys were decided; ``experience``, what runs here
    measured. ``base`` is the training before it, where a recipe makes its own base.
    """

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
    choice: Choice | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    experience: Experience | None = None
    base: Timing | None = None

    @property
    def size(self) -> str:
        """What a GPU of a known size has to hold, in words."""
        needed, card = self.memory.card_gib, self.card_gib or 0.0
        kept = f"; {1 - MOST:.0%} are left for fragmentation" if MOST * card < needed <= card else ""
        return f"{needed:.1f} of {card:.1f} GiB on each GPU, {needed / card:.0%}{kept}"

    @property
    def traffic(self) -> Traffic:
        """What several machines send each other in a step."""
        return network.traffic(self.shape, self.settings, self.hardware)

    @property
    def card_gib(self) -> float | None:
        """The memory of one GPU; None for the CPU."""
        return self.hardware.kind.memory_gib if self.hardware.kind else None


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


def _shape(base: str, folder: Path) -> Shape:
    local = Path(base).expanduser() / "config.json"
    return architecture.find(base) if local.is_file() else architecture.find(base, folder)


def refuse(forecast: Forecast | None) -> None:
    """Stop where a training will not fit; one that cannot be foretold may try.

    :raises RecipeError: it will not; names what frees most.
    """
    if forecast is None or forecast.verdict != WILL_NOT_FIT:
        return
    most = f"; {forecast.levers[0].change} frees {forecast.levers[0].frees_gib:.1f} GiB" if forecast.levers else ""
    raise RecipeError(
        f"{forecast.name} will not fit: {forecast.size}",
        f"--force starts it all the same{most}",
    )


def fingerprint(forecast: Forecast) -> str:
    """The same for two trainings that take the same memory and the same time for a step."""
    dimensions = {**asdict(forecast.shape), "name": ""}
    how = [forecast.keys.get("attn_implementation"), forecast.keys.get("torch_compile"), str(forecast.hardware)]
    step = [asdict(forecast.settings), forecast.timing.tokens_per_step]
    whole = json.dumps([*step, dimensions, *how], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def card(forecast: Forecast) -> str:
    """The kind of GPU that a forecast is for: how well another kind was foretold says nothing of it."""
    return forecast.hardware.kind.name if forecast.hardware.kind else "CPU"


def record(forecast: Forecast) -> dict[str, Any]:
    """What a run writes down before it starts, to be held against what it measures."""
    memory_known = forecast.hardware.kind is not None and not forecast.shape.outside
    return {
        "fingerprint": fingerprint(forecast),
        "card": card(forecast),
        "active_gib": round(forecast.memory.active_gib, 3) if memory_known else None,
        "reserved_gib": round(forecast.memory.reserved_gib, 3) if memory_known else None,
        "step_seconds": round(forecast.timing.step_seconds, 4),
    }


def with_experience(forecast: Forecast, experience: Experience | None) -> Forecast:
    """The same forecast, with the time of a step as it was measured where this very plan has run here."""
    changed = replace(forecast, experience=experience)
    if experience is None or experience.step_seconds is None:
        return changed
    source = f"a step as {experience.run} measured it"
    timed = timing.measured(forecast.timing, experience.step_seconds, source, forecast.hardware, forecast.price)
    return replace(changed, timing=timed)


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
    for words, change in _changes(keys, resolve(keys, hardware, shape, longest, folder), shape):
        changed = resolve({**keys, **change}, hardware, shape, longest, folder)
        freed = needed.card_gib - memory.estimate(shape, changed).card_gib
        if freed >= _LEAST_GIB:
            levers.append(Lever(words, change, freed))
    return sorted(levers, key=lambda lever: -lever.frees_gib)[:_LEVERS]


def _changes(keys: Mapping[str, Any], s: Settings, shape: Shape) -> Iterator[tuple[str, Mapping[str, Any]]]:
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
    if s.layout == "ddp" and s.optimizer.startswith("adamw_torch") and (keys_of_it := spread(shape, s.method)):
        yield "fsdp_version: 2 (weights spread over the GPUs)", keys_of_it


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
        "base_seconds": round(forecast.base.seconds, 1) if forecast.base else None,
        "cost": None if forecast.timing.cost is None else round(forecast.timing.cost, 2),
        "assumed": list(forecast.timing.assumed),
        "hardware": str(forecast.hardware),
        "network": {
            **asdict(forecast.traffic),
            "gbit": forecast.hardware.gbit,
            "gbit_from": forecast.hardware.gbit_from,
            "nodes": forecast.hardware.nodes,
        },
        "experience": asdict(forecast.experience) if forecast.experience else None,
        "reasons": dict(forecast.reasons),
        "yaml": dict(forecast.keys),
    }
