"""Run folders made of recorded and altered events, for what is told of a run afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import faults
from ax_recipe import axolotl
from ax_recipe.forecast import hardware
from ax_recipe.observe.events import Config, Event, GpuSample, to_json
from ax_recipe.recipe import recipe
from ax_recipe.run import preparing, rundir
from ax_recipe.run.rundir import RunDir, StageRecord

SHAPE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
STARTED = 1_800_000_000.0
RECIPE = """\
# A recipe with words of its author in it.
base: ./base
method: lora
gpus: 0
data: [{path: rows.jsonl, type: chat_template}]
held_out: [{path: rows.jsonl, type: chat_template}]
lora: {r: 16, alpha: 32, dropout: 0.05}   # as ever
train:
  num_epochs: 4
  learning_rate: 1.0e-3   # a small model bears it
  warmup_ratio: 0.05
  sample_packing: false
targets: {loss: [1.5, 2.5]}
"""


def written(folder: Path, text: str = RECIPE) -> Path:
    """A recipe file with its base and rows beside it."""
    (folder / "base").mkdir(parents=True, exist_ok=True)
    (folder / "base" / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    row = '{"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Arr."}]}\n'
    (folder / "rows.jsonl").write_text(row * 8, encoding="utf-8")
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def made(
    file: Path, events: Iterable[Event] | None = None, *, changes: tuple[str, ...] = (), ended: str = "done"
) -> RunDir:
    """The folder of a run of ``file`` whose training told ``events``, and which went on to its answers."""
    prepared = preparing.for_run(recipe.load(str(file), changes), hardware.CPU, axolotl.find(), rundir.root())
    run = prepared.run
    rundir.create(run, prepared.files)
    told = list(faults.long() if events is None else events)
    logged = [event for event in told if not isinstance(event, Config | GpuSample)]
    run.events.write_text("".join(to_json(event) + "\n" for event in logged), encoding="utf-8")
    config = {**faults.CONFIG, "world_size": 4, "logging_steps": 1}
    lines = ["[2026-11-22 11:26:40,008] [INFO] [axolotl.cli.config] config:", json.dumps(config, indent=2)]
    run.log("train", 1).write_text("\n".join(lines) + "\n", encoding="utf-8")
    figures: dict[str, dict[str, float]] = {
        "train": {"steps": 915, "loss": 1.9},
        "evaluate": {"eval_loss": 2.12, "eval_loss_before": 5.6},
        "chat": {"matched": 9, "asked": 10},
    }
    state = run.read_state()
    for index, stage in enumerate(state.stages):
        known = figures.get(stage.name, {})
        state = state.with_stage(
            StageRecord(stage.name, "done", "", 1, STARTED + 60 * index, STARTED + 60 * index + 50, None, known)
        )
    if ended != "done":
        state = state.with_stage(StageRecord("train", "failed", "it failed", 1, STARTED, STARTED + 9))
    run.write_state(state)
    answers = [
        {"prompt": "<b>Ahoy?</b>", "base": "Hello.", "tuned": "Arr.", "base_matches": False, "tuned_matches": True}
    ]
    run.write_json(run.answers, answers)
    return run


def many(folder: Path, count: int, told: bytes = b"") -> None:
    """``count`` run folders that hold a state and nothing else; of an interrupted training, what it ``told``."""
    stages: list[dict[str, Any]] = [
        {"name": name, "state": "done", "detail": "words " * 8, "attempt": 1, "started": STARTED, "ended": STARTED + 9}
        for name in ("base", "preprocess", "train", "evaluate", "merge", "check-merge", "export", "deploy", "chat")
    ]
    stages[2]["state"] = "interrupted" if told else "done"
    for number in range(count):
        run = folder / f"{'even' if number % 2 == 0 else 'odd'}-{number:04}"
        run.mkdir(parents=True)
        if told:
            (run / "events.jsonl").write_bytes(told)
        else:
            stages[2]["figures"] = {"steps": number, "loss": 1 + number % 97 / 97}
        (run / "state.json").write_text(
            json.dumps({"recipe": run.name.partition("-")[0], "stages": stages}), encoding="utf-8"
        )
