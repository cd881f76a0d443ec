"""Runs on a real shared file system, looked at, stopped and gone on with from another machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shared_files
from ax_recipe.launch import gathering
from ax_recipe.run import belonging, lock, rundir
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import checkpoints
from conftest import ROOT, Started
from shared_files import Shared
from test_runner import Command, background, newest, states, until

pytestmark = pytest.mark.slow
DEADLINE_S = 60.0
HERE = socket.gethostname()


def _place(folder: Path, *programs: str) -> Path:
    if reason := shared_files.missing(*programs):
        pytest.skip(reason)
    (folder / "shared").mkdir()
    return folder / "shared"


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    with shared_files.gluster(_place(tmp_path, *shared_files.GLUSTER)) as found:
        monkeypatch.setenv("AX_RECIPE_RUNS", str(found.here / "runs"))
        monkeypatch.setenv("PYTHONPATH", str(ROOT / "wrapper"))
        yield found


@contextmanager
def training(recipe: Path, *options: str, mode: str = "hang") -> Iterator[RunDir]:
    """A run on this machine that trains."""
    with background(["run", str(recipe), "--until", "train", *options], FAKE_AXOLOTL=mode) as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        yield newest()
        assert viewer.wait(DEADLINE_S) == 130


def on_b(shared: Shared, *words: str, mode: str = "ok") -> subprocess.CompletedProcess[str]:
    """A verb, given on machine b."""
    argv = shared.on_b(sys.executable, "-m", "ax_recipe", *words)
    told = {**os.environ, "FAKE_AXOLOTL": mode}
    return subprocess.run(argv, capture_output=True, text=True, env=told, check=False, stdin=subprocess.DEVNULL)


@contextmanager
def training_on_b(shared: Shared, recipe: Path) -> Iterator[RunDir]:
    argv = shared.on_b(sys.executable, "-m", "ax_recipe", "run", recipe, "--until", "train")
    with Started(argv, env={**os.environ, "FAKE_AXOLOTL": "hang"}, stderr=subprocess.DEVNULL):
        until(lambda: rundir.every(rundir.root()) and newest().events.exists())
        yield newest()


def _later(run: RunDir, seconds: float) -> None:
    """Let all that was written be so much older."""
    for path in (run.lock.path, *(each for each in run.path.rglob("*") if each.is_file())):
        when = path.stat().st_mtime - seconds
        os.utime(path, (when, when))


def test_a_run_is_seen_and_stopped_from_another_machine(shared: Shared, small_recipe: Path, fake_axolotl: Path) -> None:
    with training(small_recipe) as run:
        owner = run.lock.owner()
        assert owner
        assert owner.is_here
        assert "running" in on_b(shared, "status").stdout
        again = on_b(shared, "resume")
        assert again.returncode == 3
        assert f"process {owner.pid} on {HERE} works on this run already" in again.stderr
        removed = on_b(shared, "rm", run.name, "--yes")
        assert f"is running (process {owner.pid} on {HERE})" in removed.stderr
        assert "saves a checkpoint" in on_b(shared, "stop").stdout
    assert "is whole" in run.read_state().stage("train").detail
    assert not (run.path / "asked").exists()
    there = shared.there / run.path.relative_to(shared.here)
    assert checkpoints.newest(there / "output")


def test_another_machine_goes_on_where_this_one_stopped(
    shared: Shared, command: Command, small_recipe: Path, fake_axolotl: Path
) -> None:
    with training(small_recipe):
        command("stop")
    assert on_b(shared, "resume", "--until", "train").returncode == 0
    until(lambda: states(newest())["train"] == "done")  # what this client remembers is up to a second old


def test_what_is_written_is_seen_on_the_other_machine(shared: Shared) -> None:
    """Files that are renamed over others, and one that grows, through all that a client remembers."""
    here, there = shared.here / "state.json", shared.there / "state.json"
    with (shared.here / "events.jsonl").open("ab", buffering=0) as growing:
        for number in range(5):
            rundir.write(here, json.dumps({"number": number}))
            growing.write(b"a line\n")
            until(lambda: (_number(there), _lines(shared.there / "events.jsonl")) == (number, number + 1))  # noqa: B023


def test_a_file_that_is_replaced_without_end_is_read_whole(shared: Shared) -> None:
    here, there = shared.here / "0.json", shared.there / "0.json"
    rundir.write(here, json.dumps({"number": 0}))
    until(there.exists)
    writer = threading.Thread(target=_count, args=(here, 1200))
    writer.start()
    read = []
    while writer.is_alive():
        read.append(json.loads(rundir.read(there))["number"])
    assert len(read) > 50


def _count(path: Path, most: int) -> None:
    for number in range(most):
        rundir.write(path, json.dumps({"number": number}))


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _number(path: Path) -> int:
    try:
        return int(json.loads(path.read_text())["number"])  # never half: that would be no JSON
    except FileNotFoundError:
        return -1


def test_a_machine_without_power_frees_its_lock_and_is_named(
    shared: Shared, command: Command, small_recipe: Path, fake_axolotl: Path
) -> None:
    with training_on_b(shared, small_recipe) as run:
        owner = run.lock.owner()
        assert owner
        assert owner.host == "b"
        until(lambda: "running" in command("status").stdout)
        shared.kill_b()
    until(lambda: not belonging.processes(run))
    _later(run, lock.LOST_S)
    status = command("status").stdout
    assert "its runner on b was killed" in status
    refused = command("resume", "--until", "train", FAKE_AXOLOTL="ok")
    assert refused.returncode == 3
    assert "may train on there" in refused.stderr
    assert f"rm {run.lock.path}" in refused.stderr
    _later(run, lock.QUIET_S)
    done = command("resume", "--until", "train", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    assert states(run)["train"] == "done"


def test_a_machine_that_loses_its_file_system_frees_the_lock(
    shared: Shared, command: Command, small_recipe: Path, fake_axolotl: Path
) -> None:
    with training_on_b(shared, small_recipe) as run:
        shared.kill_client_of_b()
        until(lambda: not belonging.processes(run), DEADLINE_S)
    _later(run, lock.LOST_S)
    until(lambda: run.holder() is None)
    assert "its runner on b was killed" in command("status").stdout


def test_the_words_of_two_machines_come_together(shared: Shared, small_recipe: Path, fake_axolotl: Path) -> None:
    argv = ["run", str(small_recipe), "--until", "train", "--nodes", "2", "--head", "127.0.0.1"]
    with background(argv, FAKE_AXOLOTL="ok") as viewer:
        until(lambda: rundir.every(rundir.root()))
        run = newest()
        (by_hand,) = gathering.commands(run, run.read_json(run.orders))
        told = {**os.environ, "FAKE_AXOLOTL": "ok"}
        with Started(shared.on_b(*by_hand.split()), env=told, stdout=subprocess.DEVNULL) as node:
            assert viewer.wait(DEADLINE_S) == 0, run.log("train", 1).read_text()
            assert node.wait(DEADLINE_S) == 0
    assert run.read_json(run.nodes / "1.json")["host"] == "b"
    until(lambda: "a word from machine 1" in run.node_logs("train", 1)[1].read_text())


def test_a_file_system_without_locks_is_refused_before_anything_starts(
    tmp_path: Path, command: Command, small_recipe: Path, fake_axolotl: Path
) -> None:
    with shared_files.gluster(_place(tmp_path, *shared_files.GLUSTER), locks=False) as found:
        runs = found.here / "runs"
        done = command("run", str(small_recipe), "--runs", str(runs))
        assert done.returncode == 3
        assert "this file system has no locks (Function not implemented)" in done.stderr
        assert "--runs DIR" in done.stderr
        assert not list(runs.iterdir())


def test_locks_that_a_file_system_keeps_to_itself_are_made_up_for_by_signs_of_life(
    tmp_path: Path, command: Command, small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "wrapper"))
    with shared_files.sshfs(_place(tmp_path, "sshfs", shared_files.SFTP)) as shared:
        monkeypatch.setenv("AX_RECIPE_RUNS", str(shared.here / "runs"))
        with training(small_recipe) as run:
            free = shared.on_b("flock", "--nonblock", "--exclusive", run.lock.path, "true")
            assert subprocess.run(free, check=False).returncode == 0  # its lock is not seen there
            assert "running" in on_b(shared, "status").stdout
            again = on_b(shared, "resume")
            assert again.returncode == 3
            assert f"process {run.holder()} on {HERE} works on this run already" in again.stderr
            assert "saves a checkpoint" in on_b(shared, "stop").stdout
        assert "is whole" in run.read_state().stage("train").detail
