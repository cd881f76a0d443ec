"""Runs as jobs of a real Slurm with two nodes: to the end, stopped half-way, out of the queue, and refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import slurm_cluster
from ax_recipe.run import rundir
from test_nodes import broken_torch
from test_runner import Command, background, newest, states, until

pytestmark = pytest.mark.slow
TWO = ("--until", "train", "--nodes", "2", "--launcher", "slurm")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with slurm_cluster.slurm(tmp_path_factory.mktemp("slurm")) as config:
        yield config


@pytest.fixture
def recipe(cluster: Path, small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("SLURM_CONF", str(cluster))
    yield str(small_recipe)
    subprocess.run(["scancel", "--user=root"], check=True)


def test_a_job_runs_to_the_end_on_two_nodes(command: Command, recipe: str) -> None:
    done = command("run", recipe, *TWO, "--slurm", "time=00:10:00,comment=ahoy", FAKE_AXOLOTL="ok")
    run = newest()
    assert done.returncode == 0, done.stderr + run.runner_log.read_text()
    assert states(run)["train"] == "done"
    assert "a word from machine 1" in run.node_logs("train", 1)[1].read_text()
    assert [run.read_json(run.nodes / f"{node}.json")["code"] for node in (0, 1)] == [0, 0]
    assert "Slurm job" in command("status").stdout
    script = run.script.read_text()
    assert "#SBATCH --time=00:10:00\n#SBATCH --comment=ahoy\n" in script
    assert "--gpus-per-node" not in script


def test_one_machine_of_slurm_needs_no_srun_whatever_its_folder_is_called(
    command: Command, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AX_RECIPE_RUNS", str(tmp_path / "50%j it's mine"))
    done = command("run", recipe, "--until", "train", "--launcher", "slurm", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    assert not newest().nodes.exists()
    assert json.loads(command("status", "--json").stdout)["job"]["id"] == newest().job.number


def test_a_job_is_stopped_half_way_with_a_checkpoint_and_goes_on(command: Command, recipe: str) -> None:
    with background(["run", recipe, *TWO], FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        run = newest()
        assert "RUNNING" in command("status").stdout
        assert command("resume").returncode == 3
        stopped = command("stop")
        assert "saves a checkpoint" in stopped.stdout
        assert viewer.wait(60) == 130
    assert states(run)["train"] == "interrupted"
    assert "is whole" in run.read_state().stage("train").detail
    done = command("resume", "--until", "train", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr + run.runner_log.read_text()
    assert states(run)["train"] == "done"


def test_a_job_that_waits_is_seen_and_taken_out_of_the_queue(command: Command, recipe: str) -> None:
    with background(["run", recipe, *TWO, "--slurm", "begin=now+1hour"], FAKE_AXOLOTL="ok") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().job.number)
        status = command("status").stdout
        assert "PENDING" in status
        assert command("stop").returncode == 0
        assert viewer.wait(60) == 0
    assert states(newest())["train"] == "waiting"


def test_slurm_brings_the_machines_together_to_measure(
    command: Command, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(broken_torch(tmp_path)))
    done = command("plan", recipe, *TWO[2:], "--slurm", "partition=all", "--measure")
    assert done.returncode == 3
    assert done.stderr.count("it is broken") == 2
    assert not list(rundir.root().iterdir())


def test_what_slurm_refuses_is_told_in_its_words(command: Command, recipe: str) -> None:
    done = command("run", recipe, *TWO, "--slurm", "partition=none")
    assert done.returncode == 3
    assert "invalid partition" in done.stderr
    assert "--slurm partition=" in done.stderr


def test_without_slurm_it_is_said(
    command: Command, small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = command("run", str(small_recipe), *TWO)
    assert done.returncode == 3
    assert "no sbatch here" in done.stderr


def test_a_slurm_that_cannot_measure_is_told_with_what_does(
    command: Command, small_recipe: Path, fake_axolotl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a real srun says where its controller is not to be reached, after a quarter of a minute."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\necho 'srun: fatal: Could not establish a configuration source' >&2\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:/usr/bin:/bin")
    done = command("plan", str(small_recipe), *TWO[2:], "--measure")
    assert done.returncode == 3
    assert "has ended: srun: fatal: Could not establish a configuration source\n    sinfo tells whether" in done.stderr
    assert "--bandwidth GBIT plans without measuring" in done.stderr
    assert not list(rundir.root().iterdir())


def test_the_script_starts_what_the_plan_holds(command: Command, small_recipe: Path, fake_axolotl: Path) -> None:
    shown = command("run", str(small_recipe), *TWO, "--dry-run", "--json")
    train = next(stage for stage in json.loads(shown.stdout)["stages"] if stage["name"] == "train")
    assert train["argvs"][0][:4] == ["srun", "--nodes=2", "--ntasks-per-node=1", "--cpu-bind=none"]
    assert rundir.TITLES["train"] == "Fine-tuned"
