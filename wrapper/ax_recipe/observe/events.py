"""What can happen in a run, as frozen values, and their JSON lines (``events.jsonl``).

``time`` is in Unix seconds where it is known. ``exact`` marks what our plugin inside the trainer wrote: it knows
the step and all digits, so it wins over what the log says about the same thing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from ax_recipe.observe.names import common

PHASES = (
    "starting",
    "importing",
    "preparing",
    "loading",
    "quantising",
    "compiling",
    "training",
    "evaluating",
    "saving",
    "merging",
    "finished",
    "failed",
    "interrupted",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """The run has entered one of ``PHASES``."""

    name: str
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """Our plugin is alive in the trainer: from here on its events are the source, and the log only adds words."""

    pid: int
    versions: Mapping[str, str]
    time: float | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Began:
    """Training begins: ``world_size`` processes, ``micro_batch`` rows x ``accumulation`` on each."""

    total_steps: int | None = None
    world_size: int | None = None
    micro_batch: int | None = None
    accumulation: int | None = None
    epochs: float | None = None
    time: float | None = None
    exact: bool = False


@dataclass(slots=True)  # frozen ones take three times as long to make, and long logs have many of these
class Step:
    """Optimizer step ``step`` of ``total_steps`` is done; ``seconds`` is how long one takes now, if known.

    ``corrects`` says that the metrics just before belong to this step, not to the one they were given.
    """

    step: int
    total_steps: int | None = None
    seconds: float | None = None
    corrects: bool = False
    time: float | None = None
    exact: bool = False


@dataclass(slots=True)  # frozen ones take three times as long to make, and long logs have many of these
class Metrics:
    """One training log entry under our names (``names.NAMES``): GiB, tokens a second, nan and inf as they are."""

    values: Mapping[str, float]
    step: int | None = None
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: ``eval_loss`` if the evaluation set gave one, ``eval_ppl``, ``eval_runtime`` (seconds)."""

    values: Mapping[str, float]
    step: int | None = None
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint folder: the log names it when saving starts, the plugin when it is whole."""

    path: str
    step: int | None = None
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    """The trainer's closing summary (``train_runtime`` in seconds, mean ``train_loss``)."""

    values: Mapping[str, float]
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration as Axolotl resolved and printed it."""

    values: Mapping[str, Any]
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many parameters train, of how many."""

    trainable: int
    total: int
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Warned:
    """A line of level WARNING or above (``level``), without its stamp."""

    text: str
    rank: int | None = None
    level: str = "WARNING"
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Crashed:
    """The last line of a traceback, or a launcher's word that a rank died."""

    text: str
    rank: int | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody or something asked the run to stop: a stop file, a signal, a batch system's time limit."""

    reason: str
    time: float | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class StageStarted:
    """Our runner has started a stage (``train``, ``evaluate``, ``merge``, ...), for the ``attempt``-th time."""

    stage: str
    attempt: int = 1
    time: float | None = None


@dataclass(frozen=True, slots=True)
class StageEnded:
    """The stage's process has ended; ``exit_code`` is negative for a signal, as in ``subprocess``."""

    stage: str
    exit_code: int | None = None
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU now: ``utilisation`` from 0 to 1, memory in GiB, temperature in degrees Celsius, power in watts."""

    index: int
    name: str
    utilisation: float | None = None
    memory_used_gib: float | None = None
    memory_total_gib: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    slowdown_c: float | None = None  # where the driver begins to slow it down
    throttled: str | None = None  # why the driver slows it down now, if it does


@dataclass(frozen=True, slots=True)
class GpuSample:
    """All GPUs at one moment."""

    gpus: tuple[Gpu, ...]
    time: float | None = None


@dataclass(frozen=True, slots=True)
class DiskSample:
    """What is free where checkpoints go, and what the last one takes (0 while there is none), in GiB."""

    free_gib: float
    checkpoint_gib: float
    time: float | None = None


@dataclass(frozen=True, slots=True)
class MirrorSample:
    """What is where else the run is kept, in words; ``error`` is why it is not all of it."""

    words: str
    error: str = ""
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: the one way in which silence becomes known."""

    time: float


@dataclass(frozen=True, slots=True)
class Line:
    """Any other line of the log."""

    text: str
    rank: int | None = None
    time: float | None = None


Event = (
    Phase
    | Registered
    | Began
    | Step
    | Metrics
    | Evaluation
    | Saved
    | Completed
    | Config
    | Parameters
    | Warned
    | Crashed
    | Interrupted
    | StageStarted
    | StageEnded
    | GpuSample
    | DiskSample
    | MirrorSample
    | Tick
    | Line
)

TYPES: dict[str, type[Any]] = {
    "phase": Phase,
    "registered": Registered,
    "began": Began,
    "step": Step,
    "metrics": Metrics,
    "evaluation": Evaluation,
    "saved": Saved,
    "completed": Completed,
    "config": Config,
    "parameters": Parameters,
    "warned": Warned,
    "crashed": Crashed,
    "interrupted": Interrupted,
    "stage_started": StageStarted,
    "stage_ended": StageEnded,
    "gpu_sample": GpuSample,
    "disk_sample": DiskSample,
    "mirror_sample": MirrorSample,
    "tick": Tick,
    "line": Line,
}
_NAMES = {kind: name for name, kind in TYPES.items()}
_FIELDS = {kind: frozenset(field.name for field in fields(kind)) for kind in TYPES.values()}
_NUMBERS = ("metrics", "evaluation", "completed")


def to_json(event: Event) -> str:
    """One line of strict JSON, without its newline: nan and inf are written as the strings ``"nan"``, ``"inf"``."""
    values = {key: value for key, value in _plain(event).items() if value is not None}
    return json.dumps({"event": _NAMES[type(event)], **values}, allow_nan=False, ensure_ascii=False)


def from_json(line: str) -> Event | None:
    """The event of one line; None for half a line, a foreign line, or an event of a newer version."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    name = values.pop("event", None)
    kind = TYPES.get(name) if isinstance(name, str) else None
    if kind is None:
        return None
    return _build(name, kind, values)


def _build(name: str, kind: type[Any], values: dict[str, Any]) -> Event | None:
    known = {key: value for key, value in values.items() if key in _FIELDS[kind]}
    if any(not isinstance(known.get(key), int | float | None) for key in ("step", "total_steps", "time")):
        return None
    try:
        if name in _NUMBERS:
            known["values"] = {common(key): float(value) for key, value in known["values"].items()}
        if name == "gpu_sample":
            known["gpus"] = tuple(Gpu(**gpu) for gpu in known["gpus"])
        event: Event = kind(**known)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return event


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value  # first, for most values are such
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
