"""A training on real Axolotl that is killed, and goes on as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ax_recipe.observe import events
from ax_recipe.observe.events import Event, Metrics, Saved, Step
from ax_recipe.run import belonging, rundir
from ax_recipe.run.rundir import RunDir
from conftest import ROOT

pytestmark = [pytest.mark.axolotl, pytest.mark.slow]

DEADLINE_S = 300.0
STEPS = 40  # saved after every tenth
SHORT = ("--set", "base.train.max_steps=5", "--set", f"train.max_steps={STEPS}", "--set", "train.logging_steps=1")


def start(runs: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "wrapper"),
        "AX_RECIPE_RUNS": str(runs),
        "AX_RECIPE_CACHE": str(runs.parent / "cache"),
    }
    environment.pop("AX_RECIPE_AXOLOTL", None)
    with (runs.parent / f"{runs.name}.txt").open("ab") as said:
        argv = [sys.executable, "-m", "ax_recipe", *arguments]
        return subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)


def told(run: RunDir) -> list[Event]:
    lines = run.events.read_text(encoding="utf-8").splitlines() if run.events.exists() else []
    return [event for line in lines if (event := events.from_json(line))]


def losses(run: RunDir) -> dict[int, float]:
    return {event.step or 0: event.values["loss"] for event in told(run) if isinstance(event, Metrics)}


def until(condition: Callable[[], object], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert child.poll() is None, "it ended before it should"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_run_ends_with_the_steps_and_the_loss_of_an_unbroken_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, "run", "pirate-tiny", *SHORT, "--until", "train").wait(DEADLINE_S) == 0
    unbroken = rundir.find(whole, None)

    viewer = start(broken, "run", "pirate-tiny", *SHORT, "--until", "train")
    until(lambda: list(broken.glob("*/state.json")), viewer)
    run = rundir.find(broken, None)
    until(lambda: any(isinstance(event, Step) and event.step >= STEPS // 2 + 2 for event in told(run)), viewer)
    holder = run.holder()
    assert holder is not None
    for pid in (*(process.pid for process in belonging.processes(run)), viewer.pid, holder):
        os.kill(pid, signal.SIGKILL)
    viewer.wait()
    reached = max(event.step for event in told(run) if isinstance(event, Step))
    assert reached < STEPS, "it was over before it was killed"
    saved = [event.step for event in told(run) if isinstance(event, Saved)]

    # The newest checkpoint is torn as well: it was being written.
    newest = run.output / f"checkpoint-{saved[-1]}"
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:1000])
    assert start(broken, "resume", run.name, "--until", "train").wait(DEADLINE_S) == 0
    config = yaml.safe_load(run.config("train", 2).read_text(encoding="utf-8"))
    assert config["resume_from_checkpoint"] == str(run.output / f"checkpoint-{saved[-2]}")
    assert (run.output / f"torn-checkpoint-{saved[-1]}" / "trainer_state.json").is_file()
    assert max(losses(run)) == max(losses(unbroken)) == STEPS
    again = {step: loss for step, loss in losses(run).items() if step > (saved[-2] or 0)}
    assert again == pytest.approx({step: losses(unbroken)[step] for step in again}, abs=1e-3)
