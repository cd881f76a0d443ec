"""The lock of a run: who has it, and what another machine may do about that. Real shared ones: test_shared_files.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ax_recipe.errors import MissingError
from ax_recipe.run import belonging, lock, runs
from ax_recipe.run.lock import Lock, Owner
from ax_recipe.run.rundir import RunDir, RunState

ELSEWHERE = "b boot/1"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "run")
    found.path.mkdir()
    found.write_state(RunState("r", ()))
    return found


def test_who_holds_it_is_told(run: RunDir) -> None:
    with run.held():
        owner = run.lock.owner()
        assert owner
        assert (owner.pid, owner.host, owner.is_here) == (os.getpid(), socket.gethostname(), True)
    assert run.lock.owner() is None
    assert not run.lock.path.read_bytes()


def test_it_is_held_once(run: RunDir) -> None:
    with run.held(), pytest.raises(MissingError, match=f"process {os.getpid()} works on this run already"), run.held():
        pass


def test_one_that_was_killed_here_leaves_nothing(run: RunDir) -> None:
    program = "import sys, os; from pathlib import Path; from ax_recipe.run.lock import Lock\n"
    program += "with Lock(Path(sys.argv[1])).held(): os.kill(os.getpid(), 9)"
    folder = str(Path(lock.__file__).parents[2])
    told = {**os.environ, "PYTHONPATH": folder}
    assert subprocess.run([sys.executable, "-c", program, run.lock.path], env=told, check=False).returncode == -9
    assert run.lock.path.read_bytes()
    assert run.lock.owner() is None
    assert run.lock.left() is None


def test_a_process_of_another_machine_is_asked_and_never_signalled(run: RunDir) -> None:
    run.lock.path.write_text(f"{os.getpid()} {ELSEWHERE} ")  # SIGTERM would end this very test
    assert run.worker == f"process {os.getpid()} on b"
    assert runs.stop(run)
    assert run.lock.beat()
    assert not run.lock.beat()


def test_another_machine_that_falls_silent_is_gone_but_not_yet_followed(run: RunDir) -> None:
    run.lock.path.write_text(f"12 {ELSEWHERE} ")
    _silent(run, lock.LOST_S + 1)
    assert run.lock.owner() is None
    with pytest.raises(MissingError, match="runner on b was killed, and what it started may train on there: lock was"):
        belonging.refuse_left(run)
    _silent(run, lock.QUIET_S + 1)
    belonging.refuse_left(run)


def test_what_still_writes_is_named(run: RunDir) -> None:
    run.lock.path.write_text(f"12 {ELSEWHERE} ")
    _silent(run, lock.QUIET_S + 1)
    run.events.touch()
    with pytest.raises(MissingError, match=r"events\.jsonl was written"):
        belonging.refuse_left(run)


def test_a_machine_that_was_started_anew_has_nothing_left() -> None:
    assert not Owner(1, socket.gethostname(), "boot/1").is_elsewhere
    assert Owner(1, "b", "boot/1").is_elsewhere


def test_an_old_lock_is_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("12 ")
    assert Lock(tmp_path / "lock").owner() is None
    assert Lock(tmp_path / "lock").left() is None


def _silent(run: RunDir, seconds: float) -> None:
    when = time.time() - seconds
    os.utime(run.lock.path, (when, when))


def test_one_that_holds_other_words_is_nobodys(run: RunDir) -> None:
    run.lock.path.write_text("{}")
    assert run.holder() is None
