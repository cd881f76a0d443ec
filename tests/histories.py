"""Histories of runs that several tests show: made of events and of recorded logs, the same at every call."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

from ax_recipe.observe.events import (
    Began,
    Config,
    Crashed,
    Evaluation,
    Event,
    Gpu,
    GpuSample,
    Line,
    Metrics,
    Parameters,
    Phase,
    Registered,
    Saved,
    StageEnded,
    StageStarted,
    Step,
    from_json,
)
from ax_recipe.observe.folding import advance
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.state import State

LOGS = Path(__file__).parent / "logs"
STAGES = ("preflight", "preprocess", "train", "evaluate", "merge", "check-merge", "export", "deploy", "smoke")
START = 1_000_000.0
PEAK = 2e-4


def fold(events: Iterator[Event], stages: tuple[str, ...] = STAGES) -> State:
    """The state after ``events`` of a run with ``stages``."""
    state = State(stages=dict.fromkeys(stages, "waiting"))
    for event in events:
        advance(state, event)
    return state


def prepared() -> Iterator[Event]:
    """The stages before training."""
    for offset, stage in ((0.0, "preflight"), (3.0, "preprocess")):
        yield StageStarted(stage, 1, START + offset)
        yield StageEnded(stage, 0, START + offset + 2)
    yield StageStarted("train", 1, START + 31)
    yield Line("[2026-11-22 11:33:12,104] [INFO] [axolotl.train] [PID:71] Starting trainer...", 0, START + 60)


def trained(steps: int, total: int = 1240, gpus: int = 4) -> Iterator[Event]:
    """A QLoRA run on ``gpus`` H200 that converges, with a spike at step 412: its first ``steps`` steps."""
    time, chance = START + 70, random.Random(7)
    yield Registered(71, {"axolotl": "0.19.0"}, time)
    yield Config({"learning_rate": PEAK, "lr_scheduler": "cosine", "warmup_steps": 60, "val_set_size": 0.02}, time)
    yield Parameters(167_772_160, 8_198_033_408, time, True)
    yield Began(total, gpus, 2, 1, 2.0, time, True)
    yield Phase("training", time, True)
    for step in range(1, steps + 1):
        time += 1.9
        yield Step(step, total, None, False, time, True)
        yield Metrics(
            _metrics(step, total, chance.random() + chance.random() + chance.random() - 1.5), step, time, True
        )
        if step % 100 == 0:
            yield Evaluation({"eval_loss": 0.68 + 1.7 * math.exp(-step / 80)}, step, time, True)
            yield Saved(f"out/checkpoint-{step}", step, time, True)
    yield GpuSample(tuple(_gpu(index) for index in range(gpus)), time)


def _metrics(step: int, total: int, noise: float) -> dict[str, float]:
    spike = 1.0 if step == 412 else 0.0
    warm = step / 60
    rate = PEAK * (warm if warm < 1 else 0.5 * (1 + math.cos(math.pi * (step - 60) / (total - 60))))
    return {
        "loss": 0.63 + 1.9 * math.exp(-step / 80) + 0.1 * noise + 0.7 * spike,
        "grad_norm": 0.52 + 0.8 * math.exp(-step / 40) + 0.08 * abs(noise) + 1.4 * spike,
        "learning_rate": rate,
        "epoch": 2 * step / total,
        "active_gib": 20.53,
        "allocated_gib": 20.31,
        "reserved_gib": 23.22,
        "tokens_per_second_per_gpu": 7432 + 150 * noise,
    }


def _gpu(index: int) -> Gpu:
    return Gpu(index, "NVIDIA H200", 0.98 - 0.01 * index, 52.1, 139.8, 61 + index, 612 - 4 * index, 700)


def recorded(name: str, lines: int | None = None) -> Iterator[Event]:
    """What the recorded log says, up to its ``lines``-th line."""
    reader = LogReader()
    text = (LOGS / name).read_text("utf-8", "replace").replace("\r", "\n").split("\n")
    for line in text[:lines]:
        yield from reader.feed(line)
    if lines is None:
        yield from reader.finish(True)


def starting() -> State:
    """Nothing but a few words of the imports."""
    return fold(iter([StageStarted("train", 1), *recorded("axolotl-0.19.0-4gpu-ok.log", 24)]))


def compiling() -> State:
    """The real log up to its first bar."""
    lines = (LOGS / "axolotl-0.19.0-4gpu-ok.log").read_text("utf-8", "replace").replace("\r", "\n").split("\n")
    first = next(number for number, line in enumerate(lines) if "Starting trainer" in line)
    return fold(iter([StageStarted("train", 1), *recorded("axolotl-0.19.0-4gpu-ok.log", first + 2)]))


def training() -> State:
    """Two thirds of a run on four GPUs."""
    return fold(iter([*prepared(), *trained(812)]))


def failed() -> State:
    """Out of memory in the middle."""
    crash = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 139 GiB."
    return fold(iter([*prepared(), *trained(230), Crashed(crash, 0, START + 600), StageEnded("train", 1, START + 601)]))


def finished() -> State:
    """The whole real log."""
    return fold(iter([StageStarted("train", 1), *recorded("axolotl-0.19.0-4gpu-ok.log"), StageEnded("train", 0)]))


def on_the_cpu() -> State:
    """The real events of `pirate-tiny` up to its step 180, and some of its log."""
    lines = (LOGS / "axolotl-0.19.0-pirate-tiny.jsonl").read_text("utf-8").partition('"step": 181,')[0].splitlines()
    told = [event for line in lines if (event := from_json(line))]
    stamp = "[2026-11-22 11:33:12,104] [INFO] [axolotl.train] [PID:71]"
    log = [Line(f"{stamp} line {number}") for number in range(30)]
    return fold(iter([StageStarted("train", 1), *log, *told]))
