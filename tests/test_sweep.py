"""Sweeps, with real processes and the fake axolotl: which trials there are, what becomes of them, who is first."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as some

from ax_recipe import axolotl
from ax_recipe.cli.program import FORMS
from ax_recipe.errors import RecipeError
from ax_recipe.forecast import hardware
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.launch import grid, sweep
from ax_recipe.launch.grid import Axis
from ax_recipe.launch.sweep import Wishes
from ax_recipe.results import evaluation
from ax_recipe.results.intervals import Interval
from ax_recipe.run import rundir
from ax_recipe.view import sweep as view
from conftest import ROOT, Invoke, Started

Command = Callable[..., subprocess.CompletedProcess[str]]
DEADLINE_S = 60.0


@pytest.mark.parametrize(
    ("change", "values"),
    [
        ("train.learning_rate=1e-4,2e-4", ("1e-4", "2e-4")),
        ("lora.r=16", ("16",)),
        ("lora.target_modules=[q_proj,v_proj],[k_proj]", ("[q_proj,v_proj]", "[k_proj]")),
        ("lora.target_modules=[q_proj, v_proj]", ("[q_proj, v_proj]",)),
        ("axolotl.x={a: 1, b: [2, 3]}, {a: 2}", ("{a: 1, b: [2, 3]}", "{a: 2}")),
        ("ship.system='Be brief, please.','Be long.'", ("'Be brief, please.'", "'Be long.'")),
    ],
)
def test_commas_part_values_and_brackets_keep_them(change: str, values: tuple[str, ...]) -> None:
    assert grid.axis(change).values == values


@pytest.mark.parametrize("change", ["lora.r", "lora.r=", "lora.r=1,,2", "lora.r=1,", "=1"])
def test_what_is_no_list_of_values_is_refused(change: str) -> None:
    with pytest.raises(RecipeError):
        grid.axis(change)


@given(some.lists(some.integers(1, 4), min_size=1, max_size=4), some.integers(0, 99), some.integers(1, 20))
def test_grids_hold_every_combination_once_and_samples_some_of_them(sizes: list[int], seed: int, most: int) -> None:
    axes = [Axis(f"k{place}", tuple(map(str, range(size)))) for place, size in enumerate(sizes)]
    every = grid.combinations(axes)
    assert len(every) == len(set(every)) == math.prod(sizes)
    sample = grid.combinations(axes, most, seed)
    assert len(sample) == len(set(sample)) == min(most, len(every))
    assert set(sample) <= set(every)
    assert sample == grid.combinations(axes, most, seed)


def test_gpus_are_lent_in_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Hardware(5, hardware.parse("1xA100-80GB").kind)
    assert sweep.device_sets(machine, 1) == ("0", "1", "2", "3", "4")
    assert sweep.device_sets(machine, 2) == ("0,1", "2,3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert sweep.device_sets(machine, 1) == ("4", "6", "7")
    assert sweep.device_sets(Hardware(2, machine.kind), 1) == ("4", "6")
    assert sweep.device_sets(hardware.CPU, 0) == ("",)


def test_a_trial_ends_with_its_evaluation_and_the_command_line_knows_its_forms() -> None:
    assert tuple(rundir.TITLES)[: len(sweep.STAGES)] == sweep.STAGES
    assert sweep.STAGES[-1] == "evaluate"
    assert FORMS == evaluation.FORMS


def folder() -> Path:
    (found,) = (rundir.root() / "sweeps").iterdir()
    return found


def trials() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder() / "sweep.json").read_text())["trials"]
    return found


SWEPT = ("--set", "train.learning_rate=1e-4,1e-3", "--set", "lora.r=2,64", "--set", "train.num_epochs=2")


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.slow
def test_a_sweep_ranks_its_trials_by_held_out_loss_and_is_done_once(command: Command, small_recipe: Path) -> None:
    done = command("sweep", str(small_recipe), *SWEPT, FAKE_AXOLOTL="curve")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "small-2" in line and "resume" not in line]
    assert [(line[1], line[2]) for line in lines] == [("1e-3", "64"), ("1e-3", "2"), ("1e-4", "64"), ("1e-4", "2")]
    assert "num_epochs" not in done.stdout, "all trials have it"
    assert "beyond doubt" in done.stdout
    runs = made()
    assert len(runs) == 4
    assert all(run.read_json(run.orders)["changes"][-1] == "train.num_epochs=2" for run in runs)
    page = (folder() / "report.html").read_text()
    assert page.count("<path") == 4
    again = command("sweep", str(small_recipe), *SWEPT, FAKE_AXOLOTL="curve")
    assert again.stdout == done.stdout
    assert len(made()) == 4, "nothing was trained again"
    told = json.loads(command("sweep", str(small_recipe), *SWEPT, "--dry-run", "--json").stdout)
    assert told[0]["changes"] == {"train.learning_rate": "1e-3", "lora.r": 64, "train.num_epochs": 2}
    assert [trial["eval_loss"] for trial in told] == sorted(trial["eval_loss"] for trial in told)


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.slow
def test_each_trial_is_kept_elsewhere_and_goes_on_from_there(
    command: Command, small_recipe: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fsspec", reason="no fsspec here: it comes with Axolotl")
    argv, there = ["sweep", str(small_recipe), "--set", "lora.r=2,64"], tmp_path / "bucket"
    first = command(*argv, "--max", "1", FAKE_AXOLOTL="curve")
    assert first.returncode == 0, first.stderr
    (plain,) = made()
    assert command(*argv, "--mirror", str(rundir.root())).returncode == 3
    assert len(made()) == 1, "nothing was started"
    done = command(*argv, "--mirror", str(there), FAKE_AXOLOTL="curve")
    assert done.returncode == 0, done.stderr
    (kept,) = (run for run in made() if run.name != plain.name)
    assert f"kept at {there}/{kept.name}: all of " in done.stderr
    assert [path.name for path in there.iterdir()] == [kept.name], "what was done before stays where it is"
    assert kept.prepared == Path(yaml.safe_load(kept.axolotl_yaml.read_text())["dataset_prepared_path"])
    shutil.rmtree(kept.path)
    fetched = command("fetch", f"{there}/{kept.name}")
    assert "not as it was" not in fetched.stdout
    assert made()[0].current_state().stage("evaluate").state == "done"


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.slow
def test_a_hopeless_trial_is_stopped_and_the_others_go_on(command: Command, small_recipe: Path) -> None:
    argv = ["sweep", str(small_recipe), "--set", "lora.r=1,64", "--stop-hopeless"]
    done = command(*argv, FAKE_AXOLOTL="curve")
    assert done.returncode == 0, done.stderr
    hopeless, good = trials()
    assert "not finite" in hopeless["stopped"]
    assert not good["stopped"]
    assert "hopeless: " in done.stdout.splitlines()[-3]
    assert command(*argv, FAKE_AXOLOTL="curve").stdout == done.stdout


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.slow
def test_a_stopped_sweep_goes_on_where_it_was(command: Command, small_recipe: Path) -> None:
    argv = ["sweep", str(small_recipe), "--set", "train.learning_rate=1e-3,1e-4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "FAKE_AXOLOTL": "hang"}
    with Started([sys.executable, "-m", "ax_recipe", *argv], env=environment) as first:
        deadline = time.monotonic() + DEADLINE_S
        while not any(run.events.exists() and "metrics" in run.events.read_text() for run in made()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        assert first.wait(DEADLINE_S) == 130
    (interrupted,) = made()
    assert interrupted.holder() is None
    assert interrupted.current_state().stage("train").state == "interrupted"
    done = command(*argv, FAKE_AXOLOTL="curve")
    assert done.returncode == 0, done.stderr
    assert len(made()) == 2
    assert interrupted.current_state().stage("evaluate").state == "done"
    assert interrupted.current_state().stage("train").attempt == 2


SIDE_BY_SIDE = """
import sys
from ax_recipe import axolotl
from ax_recipe.forecast import hardware
from ax_recipe.run import rundir
from ax_recipe.launch import grid, sweep
place = sweep.Place(rundir.root(), axolotl.find(), hardware.CPU, ("0", "1"))
sweep.Sweep(sys.argv[1], sweep.Wishes(("lora.r=2,4,8",)), place).go(print)
"""


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.slow
def test_trials_run_side_by_side_on_sets_of_gpus_and_stop_together(small_recipe: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "FAKE_AXOLOTL": "hang"}
    with Started([sys.executable, "-c", SIDE_BY_SIDE, str(small_recipe)], env=environment) as sweeping:
        deadline = time.monotonic() + DEADLINE_S
        while sum("metrics" in run.events.read_text() for run in made() if run.events.exists()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [trial["devices"] for trial in trials()] == ["0", "1", None]
        sweeping.send_signal(signal.SIGINT)
        assert sweeping.wait(DEADLINE_S) != 0
    assert len(made()) == 2
    assert {run.current_state().stage("train").state for run in made()} == {"interrupted"}


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.slow
def test_a_trial_that_somebody_stops_stays_stopped(command: Command, small_recipe: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "FAKE_AXOLOTL": "hang"}
    argv = [sys.executable, "-m", "ax_recipe", "sweep", str(small_recipe), "--set", "lora.r=2,4"]
    with Started(argv, env=environment) as sweeping:
        deadline = time.monotonic() + DEADLINE_S
        while sweeping.poll() is None:
            assert time.monotonic() < deadline
            for run in made():
                if run.holder() is not None and run.events.exists() and "metrics" in run.events.read_text():
                    command("stop", run.name)
            time.sleep(0.1)
        assert sweeping.returncode == 1, "no trial came to a held-out loss"
    assert [run.current_state().stage("train").attempt for run in made()] == [1, 1]


@pytest.mark.usefixtures("fake_axolotl")
def test_more_of_the_same_grid_adds_to_what_is_there(small_recipe: Path) -> None:
    place = sweep.Place(rundir.root(), axolotl.find(), hardware.CPU, ("",))
    changes = ("lora.r=2,4,8,16",)
    first = sweep.Sweep(str(small_recipe), Wishes(changes, most=2), place)
    first.folder.mkdir(parents=True)
    told = [{"changes": trial.changes, "run": f"made-{n}"} for n, trial in enumerate(first.trials)]
    (first.folder / "sweep.json").write_text(json.dumps({"trials": told}), encoding="utf-8")
    more = sweep.Sweep(str(small_recipe), Wishes(changes, most=3), place)
    assert [trial.run for trial in more.trials] == ["made-0", "made-1", None]
    fewer = sweep.Sweep(str(small_recipe), Wishes(changes, most=1), place)
    assert [trial.run for trial in fewer.trials] == ["made-0", "made-1"]
    other = sweep.Sweep(str(small_recipe), Wishes(("lora.r=2,4,8",)), place)
    assert other.folder != first.folder


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.parametrize(
    "text", [b"", b'{"trials": [{', b"[]", b'{"trials": [{"run": "a"}]}', b'{"trials": 1}', b"\xff"]
)
def test_a_damaged_list_of_trials_is_told_of(invoke: Invoke, small_recipe: Path, text: bytes) -> None:
    place = sweep.Place(rundir.root(), axolotl.find(), hardware.CPU, ("",))
    file = sweep.Sweep(str(small_recipe), Wishes(("lora.r=2,4",)), place).folder / "sweep.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(text)
    told = invoke("sweep", str(small_recipe), "--set", "lora.r=2,4")
    assert told.exit_code == 3
    assert f"{file} is damaged: " in told.stderr
    assert "remove it" in told.stderr
    assert file.read_bytes() == text


def made() -> list[rundir.RunDir]:
    return rundir.every(rundir.root())


@pytest.mark.usefixtures("fake_axolotl")
def test_a_trial_that_cannot_be_is_refused_before_any_starts(invoke: Invoke, small_recipe: Path) -> None:
    done = invoke("sweep", str(small_recipe), "--set", "train.learning_rate=1e-3,fast")
    assert done.exit_code == 2
    assert "train.learning_rate" in done.stderr
    assert not made()
    dry = invoke("sweep", str(small_recipe), *SWEPT, "--dry-run", "--max", "3")
    assert dry.exit_code == 0
    assert dry.stdout.count("waiting") == 3
    assert not rundir.root().exists()


def test_how_sure_the_first_place_is() -> None:
    assert "beyond doubt." in view.sure(Interval(0.3, 0.1, 0.5))
    assert "cannot tell" in view.sure(Interval(0.3, -0.1, 0.5))
    assert "not measured" in view.sure(None)


def test_curves_share_one_scale() -> None:
    drawn = view.plot([[(0.0, 4.0), (10.0, 2.0)], [(0.0, 3.0), (5.0, 1.0)], []])
    assert drawn is not None
    assert [line.letter for line in drawn.lines] == ["A", "B"]
    assert drawn.lines[0].end[0] == pytest.approx(100)
    assert drawn.lines[1].end[0] == pytest.approx(50)
    assert view.plot([[(0.0, 1.0)]]) is None
