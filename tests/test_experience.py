"""What runs measured beside what was foretold: read from real events, found among a thousand runs, used by the plan."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.forecast import forecast
from ax_recipe.forecast.forecast import Forecast, fingerprint
from ax_recipe.forecast.hardware import KINDS, named, parse
from ax_recipe.observe import events
from ax_recipe.recipe import recipe
from ax_recipe.results import experience
from ax_recipe.run.preparing import for_print, foretold
from ax_recipe.run.rundir import RunDir
from conftest import ROOT, Invoke

EVENTS = ROOT / "tests/logs/axolotl-0.19.0-2gpu-pirate.jsonl"


def pirate(gpus: str = "2xH200-141GB", *changes: str) -> Forecast:
    return foretold(for_print(recipe.load("pirate", changes), gpus, None))


def noted(runs: Path, name: str, found: Forecast, measured: dict[str, Any]) -> Path:
    run = RunDir(runs / name)
    run.path.mkdir(parents=True)
    run.write_json(run.measured, {"foretold": forecast.record(found), "measured": measured})
    return run.measured


def test_the_events_of_a_real_run_tell_its_peaks_and_its_pace(tmp_path: Path) -> None:
    """110 steps on two H200: 18,286 tokens/s at 32,768 tokens a step; the peaks are those of its evaluations."""
    run = RunDir(tmp_path / "pirate-1")
    run.path.mkdir()
    shutil.copy(EVENTS, run.events)
    experience.note(run, {"foretold": forecast.record(pirate())})
    took = run.read_json(run.measured)["measured"]
    assert (took["active_gib"], took["reserved_gib"]) == (17.72, 19.88)
    assert took["step_seconds"] == pytest.approx(32_768 / 18_286, rel=0.05)


def test_what_was_not_foretold_or_not_measured_is_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "other-1")
    run.path.mkdir()
    experience.note(run, {"foretold": None})
    assert not run.measured.exists()
    assert experience.measured([]) == {"active_gib": None, "reserved_gib": None, "step_seconds": None}
    assert experience.measured([events.Step(1, 9, time=1.0)])["step_seconds"] is None
    assert experience.of(pirate(), tmp_path) is None


def test_the_plan_says_how_good_it_has_been_and_takes_the_measured_pace(tmp_path: Path) -> None:
    found = pirate()
    said = forecast.record(found)
    off = {"active_gib": said["active_gib"] / 1.01, "reserved_gib": 1.0, "step_seconds": said["step_seconds"] * 2}
    noted(tmp_path, "pirate-1", found, off)
    noted(tmp_path, "other-1", pirate("1xH200-141GB"), {"active_gib": None, "reserved_gib": None, "step_seconds": None})
    known = experience.of(found, tmp_path)
    assert known
    assert (known.runs, known.run) == (2, "pirate-1")
    assert known.active_off == pytest.approx(0.01)
    assert known.step_off == pytest.approx(-0.5)
    after = forecast.with_experience(found, known)
    assert after.timing.tokens_per_second == pytest.approx(found.timing.tokens_per_second / 2, rel=0.001)
    assert after.timing.seconds > found.timing.seconds
    assert "as pirate-1 measured it" in after.timing.assumed[0]
    other = experience.of(pirate("1xH200-141GB"), tmp_path)
    assert other
    assert other.step_seconds is None
    assert experience.of(pirate("2xH100-80GB"), tmp_path) is None


@pytest.mark.parametrize(
    ("gpus", "change"),
    [("1xH200-141GB", ""), ("2xH100-80GB", ""), ("2xH200-141GB", "lora.r=8"), ("2xH200-141GB", "base=Qwen/Qwen3-8B")],
)
def test_another_plan_is_another(gpus: str, change: str) -> None:
    assert fingerprint(pirate(gpus, *filter(None, [change]))) != fingerprint(pirate())


def test_what_changes_neither_memory_nor_pace_is_the_same_plan() -> None:
    changes = ("train.learning_rate=1.0e-5", "train.num_epochs=3", "train.seed=4", "ship.model=mine")
    assert fingerprint(pirate("2xH200-141GB", *changes)) == fingerprint(pirate())


def test_plan_shows_it(invoke: Invoke, tmp_path: Path) -> None:
    found = pirate("1xH200-141GB")
    measured = {"active_gib": 80.0, "reserved_gib": 88.0, "step_seconds": 20.0}
    noted(tmp_path / "runs", "pirate-1", found, measured)
    arguments = ("plan", "pirate", "--gpus", "1xH200-141GB", "--runs", str(tmp_path / "runs"))
    text = " ".join(invoke(*arguments).stdout.split())
    assert "1 earlier run here on the same kind of GPU: the forecast was off by +8.7% in active memory" in text
    assert "20 s a step: " in text
    assert "(a step as pirate-1 measured it)" in text
    said = json.loads(invoke(*arguments, "--json").stdout)
    assert said["tokens_per_second"] == pytest.approx(131_072 / 20)
    assert said["experience"]["runs"] == 1


def test_a_thousand_runs_are_looked_through_in_less_than_a_second(tmp_path: Path) -> None:
    found = pirate()
    whole = noted(tmp_path, "pirate-0", found, {"active_gib": 9.0, "reserved_gib": 9.0, "step_seconds": 1.0})
    for number in range(1, 1000):
        (tmp_path / f"pirate-{number}").mkdir()
        shutil.copy(whole, tmp_path / f"pirate-{number}" / whole.name)
    (tmp_path / "pirate-7" / whole.name).write_text("{", encoding="utf-8")
    start = time.process_time()
    known = experience.of(found, tmp_path)
    assert time.process_time() - start < 1.0
    assert known
    assert known.runs == 999


@pytest.mark.parametrize(
    ("driver", "memory", "capability", "name"),
    [
        ("NVIDIA H200", 140.4, 90, "H200-141GB"),
        ("NVIDIA A100-SXM4-80GB", 79.3, 80, "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", 39.6, 80, "A100-40GB"),
        ("NVIDIA GeForce RTX 4090", 24.0, 89, "RTX4090-24GB"),
        ("NVIDIA L40S", 45.0, 89, "L40S-48GB"),
        ("NVIDIA L4", 22.5, 89, "L4-24GB"),
        ("Tesla T4", 15.0, 75, "T4-16GB"),
        ("NVIDIA RTX 6000 Ada Generation", 48.0, 89, "RTX 6000 Ada Generation"),
    ],
)
def test_a_gpu_here_has_the_name_that_a_plan_gives_it(driver: str, memory: float, capability: int, name: str) -> None:
    found = named(driver, memory, capability)
    assert (found.name, found.memory_gib) == (name, memory)
    assert name not in KINDS or parse(f"1x{name}").kind is not None


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
def test_a_run_writes_down_what_was_foretold_and_what_it_measured(
    command: Callable[..., subprocess.CompletedProcess[str]], small_recipe: Path
) -> None:
    done = command("run", str(small_recipe), "--until", "train")
    assert done.returncode == 0, done.stderr
    assert "small on the CPU" in done.stderr
    (run,) = map(RunDir, (small_recipe.parent / "runs").glob("small-*"))
    note = run.read_json(run.measured)
    assert note["foretold"] == run.read_json(run.orders)["foretold"]
    assert note["measured"].keys() == {"active_gib", "reserved_gib", "step_seconds"}
    assert "1 earlier run here on the CPU: " in command("plan", str(small_recipe)).stdout
