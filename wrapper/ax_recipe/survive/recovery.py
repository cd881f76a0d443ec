"""Out of memory: what is made smaller for the next attempt without changing what is learnt, and what was so far."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ax_recipe.run.rundir import RunDir, StageRecord, write

if TYPE_CHECKING:
    from ax_recipe.diagnose import Diagnosis

MOST = 3  # attempts beyond the first
KEYS = (
    "micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "eval_batch_size",
    "dataloader_num_workers", "dataset_num_proc",
)  # fmt: skip
MEMORY = ("cuda-oom", "host-oom", "shm-full")
_TITLES = {"cuda-oom": "GPU memory", "host-oom": "the machine's memory", "shm-full": "shared memory"}


@dataclass(frozen=True, slots=True)
class Change:
    """What an attempt does otherwise than the one before it: ``keys`` of Axolotl's YAML, or all of it on the CPU."""

    words: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    on_cpu: bool = False


def easier(keys: Mapping[str, Any], stage: str, found: Diagnosis, *, on_gpu: bool) -> Change | None:
    """The next thing to try where ``found`` says that memory was full in ``stage``; None where nothing is left.

    ``keys`` are those of the attempt that failed. What is learnt stays the same: the rows of an optimizer step, their
    order and their length.
    """
    if found.cause not in MEMORY:
        return None
    if stage == "merge":
        return _merged_on_cpu(found, on_gpu=on_gpu)
    if stage not in ("preprocess", "train", "evaluate"):
        return None
    if found.cause != "cuda-oom" and (changes := _fewer_processes(keys, found.cause)):
        return _told(keys, changes)
    if stage == "preprocess" or found.cause == "shm-full" or (found.cause == "host-oom" and on_gpu):
        return None
    if stage == "evaluate" or found.phase == "evaluating":
        rows = keys.get("eval_batch_size") or keys.get("micro_batch_size") or 1
        return _told(keys, {"eval_batch_size": 1}) if rows > 1 else None
    if found.phase in ("loading", "quantising"):
        return None  # the weights alone do not fit: fewer rows would not help
    return _smaller(keys)


def _merged_on_cpu(found: Diagnosis, *, on_gpu: bool) -> Change | None:
    if found.cause != "cuda-oom" or not on_gpu:
        return None
    return Change("merged in the machine's memory instead of the GPU's", on_cpu=True)


def _fewer_processes(keys: Mapping[str, Any], cause: str) -> dict[str, Any]:
    wanted = {"dataloader_num_workers": 0} | ({"dataset_num_proc": 1} if cause == "host-oom" else {})
    return {key: value for key, value in wanted.items() if keys.get(key) != value}


def _smaller(keys: Mapping[str, Any]) -> Change | None:
    micro, accumulation = keys.get("micro_batch_size") or 1, keys.get("gradient_accumulation_steps") or 1
    if micro > 1:
        factor = next(number for number in range(2, micro + 1) if micro % number == 0)
        halved = {"micro_batch_size": micro // factor, "gradient_accumulation_steps": accumulation * factor}
        change = _told(keys, halved)
        return Change(f"{change.words} (as many rows a step as before)", change.keys)
    if not keys.get("gradient_checkpointing"):
        return _told(keys, {"gradient_checkpointing": True})
    return None


def _told(keys: Mapping[str, Any], changes: Mapping[str, Any]) -> Change:
    words = [f"{key} {_shown(keys.get(key))} -> {_shown(value)}" for key, value in changes.items()]
    return Change(", ".join(words), changes)


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)


def diagnosed(run: RunDir, record: StageRecord) -> Diagnosis:
    """Why the last attempt at a stage ended, by its log and exit code."""
    from ax_recipe import diagnose  # here, for it knows hundreds of patterns, and most stages do not fail

    log, others = run.log(record.name, record.attempt), run.node_logs(record.name, record.attempt)
    return diagnose.diagnose(log, record.exit_code, others)


def where(found: Diagnosis) -> str:
    """``out of GPU memory at step 12 (training)``."""
    at = f" at step {found.step}" if found.step else ""
    return f"out of {_TITLES[found.cause]}{at} ({found.phase})"


def after(run: RunDir, record: StageRecord, found: Diagnosis) -> Change | None:
    """What :func:`easier` says for the last attempt at a stage, whose keys are those of :func:`keys`."""
    on_gpu = bool(run.read_json(run.orders)["gpus"])
    return easier(keys(run), record.name, found, on_gpu=on_gpu)


def told(run: RunDir) -> list[dict[str, Any]]:
    """Every change so far: ``stage``, the ``attempt`` that it was made for, ``why``, and what a `Change` holds."""
    found: list[dict[str, Any]] = run.read_json(run.recovery) if run.recovery.is_file() else []
    return found


def note(run: RunDir, stage: str, attempt: int, why: str, change: Change) -> None:
    """Add a change, made for ``attempt`` because of ``why``."""
    row = {"stage": stage, "attempt": attempt, "why": why, **asdict(change)}
    run.write_json(run.recovery, [*told(run), row])


def _keys_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Only what `easier` changes: the file lies in a folder that others may have touched."""
    return {key: value for key, value in row["keys"].items() if key in KEYS and isinstance(value, int)}


def keys(run: RunDir) -> dict[str, Any]:
    """Axolotl's keys as they are now: those of axolotl.yaml with every change put over them."""
    found = run.read_yaml(run.axolotl_yaml)
    for row in told(run):
        found |= _keys_of(row)
    return found


def environment(run: RunDir, stage: str) -> dict[str, str]:
    """What the changes put over the environment of ``stage``."""
    on_cpu = any(row["on_cpu"] for row in told(run) if row["stage"] == stage)
    return {"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {}


def config(run: RunDir, stage: str, attempt: int, extra: Mapping[str, Any]) -> Path:
    """The YAML of one attempt at a stage: axolotl.yaml itself, or where something is changed one of its own."""
    wanted = {**keys(run), **extra}
    if wanted == run.read_yaml(run.axolotl_yaml):
        return run.axolotl_yaml
    from ax_recipe.plan.plan import Config  # here, for most attempts need no YAML of their own
    from ax_recipe.plan.render import render

    path = run.config(stage, attempt)
    orders = run.read_json(run.orders)
    write(path, render(Config(wanted, {}), f"{orders['recipe']}, attempt {attempt}", orders["hardware"]))
    return path
