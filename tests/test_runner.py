"""The runner and its run folder, with real processes: what counts as done, and what a stop, a crash or a lie does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.observe.feed import Feed
from ax_recipe.run import rundir, runs
from ax_recipe.run.rundir import RunDir, RunState, StageRecord
from ax_recipe.view import figures, header, layout
from ax_recipe.view.plain import PlainLines
from conftest import ROOT, Started

Command = Callable[..., subprocess.CompletedProcess[str]]
DEADLINE_S = 60.0  # as on a machine that does much else besides; only what fails waits so long

pytestmark = pytest.mark.usefixtures("fake_axolotl")


def until(condition: Callable[[], object], seconds: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def newest() -> RunDir:
    return rundir.find(rundir.root(), None)


def states(run: RunDir) -> dict[str, str]:
    return {stage.name: stage.state for stage in run.current_state().stages}


def trained(command: Command, recipe: Path, mode: str) -> subprocess.CompletedProcess[str]:
    return command("run", str(recipe), "--until", "evaluate", FAKE_AXOLOTL=mode)


def test_a_run_goes_through_its_stages_and_keeps_all_that_was_decided(command: Command, small_recipe: Path) -> None:
    done = trained(command, small_recipe, "ok")
    assert done.returncode == 0, done.stderr
    assert {name: state for name, state in states(newest()).items() if state != "waiting"} == {
        "base": "skipped",
        "preprocess": "skipped",
        "train": "done",
        "evaluate": "done",
    }
    assert "4 steps, loss 1.000" in done.stderr
    assert "held-out loss 1.500" in done.stderr
    run = newest()
    assert run.recipe.read_text() == small_recipe.read_text()
    assert "ax_recipe_events.EventsPlugin" in run.axolotl_yaml.read_text()
    assert run.read_json(run.orders)["recipe"] == "small"
    assert "Starting trainer" in run.log("train", 1).read_text()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("diverge", "training diverged: loss nan"),
        ("short", "ended after step 3 of 4, though with exit code 0"),
        pytest.param("masked", "nothing was learnt", marks=pytest.mark.slow),
        pytest.param("fail", "ended with exit code 1", marks=pytest.mark.slow),
        pytest.param("no-plugin", "did not load our plugin", marks=pytest.mark.slow),
    ],
)
def test_exit_code_0_is_no_proof(command: Command, small_recipe: Path, mode: str, words: str) -> None:
    done = trained(command, small_recipe, mode)
    assert done.returncode == 1
    assert words in done.stderr
    assert states(newest())["train"] == "failed"


def test_a_stop_ends_in_a_noted_interruption_and_resume_goes_on(command: Command, small_recipe: Path) -> None:
    argv = ["run", str(small_recipe), "--until", "evaluate"]
    with background(argv, FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        assert command("stop").returncode == 0
        assert viewer.wait(DEADLINE_S) == 130
    assert states(newest())["train"] == "interrupted"
    assert not newest().stop_file.exists()
    assert command("resume", FAKE_AXOLOTL="ok").returncode in (0, 1)
    assert states(newest())["evaluate"] == "done"


def test_a_resumed_run_worked_as_long_in_every_view_and_not_while_it_lay_still(
    command: Command, small_recipe: Path
) -> None:
    with background(["run", str(small_recipe), "--until", "train"], FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        command("stop")
        viewer.wait(DEADLINE_S)
    run = newest()
    left = run.read_state()
    for stage in left.stages:  # all of it was eight hours ago, and the training took 200 s
        began = stage.started - 8 * 3600 if stage.started else None
        took = 200 if stage.name == "train" else 0
        left = left.with_stage(replace(stage, started=began, ended=began + took if began else None))
    run.write_state(left)
    assert command("resume", "--until", "train").returncode == 0
    row, feed = runs.row_of(run), Feed(run)
    assert not feed.poll()
    assert row.seconds is not None
    assert 200 < row.seconds < 200 + DEADLINE_S
    assert header.Scene(feed.state, layout.ASCII, now=time.time()).elapsed == row.seconds
    assert PlainLines().lines(feed.state)[0].startswith(figures.clock(row.seconds))


def test_a_run_whose_runner_was_killed_worked_until_its_last_word(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.write_state(RunState("r", (StageRecord("train", "running", attempt=2, started=1000.0, worked=5.0),)))
    assert run.current_state().worked == 5.0, "it said nothing"
    run.log("train", 2).parent.mkdir()
    run.log("train", 2).write_text("Loading model\n")
    os.utime(run.log("train", 2), (1100.0, 1100.0))
    feed = Feed(run)
    feed.poll()
    assert runs.row_of(run).seconds == feed.state.elapsed(9999.0) == 105.0


def test_the_run_outlives_its_viewer_and_leaves_no_process(command: Command, small_recipe: Path) -> None:
    with background(["run", str(small_recipe), "--until", "train"], FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        viewer.kill()
        viewer.wait()
    holder = newest().holder()
    assert holder is not None
    tree = [psutil.Process(holder), *psutil.Process(holder).children(recursive=True)]
    assert len(tree) >= 2
    command("stop")
    until(lambda: newest().holder() is None)
    until(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in tree))


@pytest.mark.slow
def test_a_killed_runner_leaves_an_interrupted_run(command: Command, small_recipe: Path) -> None:
    with background(["run", str(small_recipe), "--until", "train"], FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        holder = newest().holder()
        assert holder is not None
        children = psutil.Process(holder).children(recursive=True)
        os.kill(holder, signal.SIGKILL)
        assert viewer.wait(DEADLINE_S) == 130
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # the one before it was its parent
            child.kill()
    assert states(newest())["train"] == "interrupted"


@pytest.mark.slow
def test_two_runners_do_not_share_a_run(command: Command, small_recipe: Path) -> None:
    with background(["run", str(small_recipe), "--until", "train"], FAKE_AXOLOTL="hang"):
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        second = command("resume")
        assert second.returncode == 3
        assert str(newest().holder()) in second.stderr
        command("stop")
        until(lambda: newest().holder() is None)


@pytest.mark.slow
def test_json_tells_each_event_on_a_line(command: Command, small_recipe: Path) -> None:
    done = command("run", str(small_recipe), "--until", "train", "--json", FAKE_AXOLOTL="ok")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]


@pytest.mark.slow
def test_watch_replays_a_run_that_is_over(command: Command, small_recipe: Path) -> None:
    live = command("run", str(small_recipe), "--until", "train", "--json", FAKE_AXOLOTL="ok")
    replayed = command("watch", "--json")
    assert replayed.stdout == live.stdout


@pytest.mark.slow
def test_status_names_each_stage_and_its_state(command: Command, small_recipe: Path) -> None:
    trained(command, small_recipe, "ok")
    value = json.loads(command("status", "--json").stdout)
    assert value["status"] == "waiting"
    assert [stage["name"] for stage in value["stages"]][:3] == ["base", "preprocess", "train"]
    assert {stage["name"]: stage["state"] for stage in value["stages"]}["train"] == "done"
    assert "[x] Fine-tuned" in command("status").stdout


def test_a_run_folder_that_cannot_be_made_says_so(command: Command, small_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("run", str(small_recipe), "--runs", str(tmp_path / "file" / "runs"))
    assert done.returncode == 3
    assert "--runs DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(MissingError, match="cannot be written"):
        rundir.create(run, {"fine": "x", "no/such/folder": "y"})
    assert not run.path.exists()


def test_a_state_that_is_none_says_so(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    rundir.create(run, {"state.json": "{"})
    with pytest.raises(MissingError, match=r"run: state\.json is damaged: "):
        run.read_state()


def test_the_first_stage_that_is_not_done_speaks_for_the_run() -> None:
    done, failed = StageRecord("a", "done"), StageRecord("b", "failed")
    assert RunState("r", (done, StageRecord("b", "skipped"))).status == "finished"
    assert RunState("r", (done, failed, StageRecord("c"))).status == "failed"


def test_an_unknown_run_names_those_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="pirate-tiny"):
        rundir.find(tmp_path, "nothing")


@pytest.mark.parametrize("name", ["../../x", "a b", "ü'\"", "-", "", "\n"])
def test_a_recipes_name_cannot_leave_the_runs_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / rundir.fresh_name(tmp_path, name)
    assert path.parent == tmp_path
    assert path.name[0].isalnum()


def background(arguments: list[str], **environment: str) -> Started:
    """Start the command."""
    argv = [sys.executable, "-m", "ax_recipe", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), **environment}
    quiet = subprocess.DEVNULL
    return Started(argv, env=variables, stdin=quiet, stdout=quiet, stderr=quiet)
