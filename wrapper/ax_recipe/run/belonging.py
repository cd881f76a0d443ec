"""The processes of a run, found by a mark in their environment: wherever they went, and whoever their parent is now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil

from ax_recipe.errors import MissingError
from ax_recipe.run.lock import QUIET_S
from ax_recipe.run.rundir import RunDir

# Every program of a run is born with this, and so is all that it starts: workers in sessions of their own, ranks of a
# launcher that was killed, trainers whose runner was. A process id could be anybody's after a reboot; this could not.
MARK = "AX_RECIPE_RUN"
# How long what is left of a stage may take to leave by itself once its program has ended (seconds): wandb uploads.
LINGER_S = 3.0
# One that is killed may have started another meanwhile; and not even SIGKILL ends what waits for a broken driver.
ROUNDS = 5
# What a training that goes on writes.
_SIGNS = ("*events.jsonl", "logs/*.log", "nodes/*.json")


def environment(run: RunDir) -> dict[str, str]:
    """What the programs of ``run`` are started with."""
    return {MARK: str(run.path)}


def processes(run: RunDir) -> list[psutil.Process]:
    """Every live process of ``run``."""
    return [process for process in psutil.process_iter() if _belongs(process, str(run.path))]


def _belongs(process: psutil.Process, path: str) -> bool:
    try:
        return (
            process.pid != os.getpid()
            and process.environ().get(MARK) == path
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, OSError):  # it has ended, or is somebody else's
        return False


def sweep(run: RunDir, linger_s: float = LINGER_S) -> None:
    """Leave no process of ``run`` behind: those still there after ``linger_s`` are killed."""
    psutil.wait_procs(processes(run), timeout=linger_s)
    for _ in range(ROUNDS):
        left = processes(run)
        if not left:
            return
        for process in left:
            _kill(process)
        psutil.wait_procs(left, timeout=1)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def take_over(run: RunDir, grace_s: float, hurried: Callable[[], bool]) -> bool:
    """End what a killed runner left at work; what trains saves a whole checkpoint first. False if there was nothing."""
    left = processes(run)
    if not left:
        return False
    deadline = time.monotonic() + (grace_s if run.read_state().stage("train").state == "running" else 0.0)
    run.stop_file.touch()
    try:
        while left and time.monotonic() < deadline and not hurried():
            _, left = psutil.wait_procs(left, timeout=1.0)
    finally:
        run.stop_file.unlink(missing_ok=True)
    sweep(run)
    return True


def refuse_left(run: RunDir) -> None:
    """Stop where a runner was killed on another machine a moment ago: what it started may train on, unseen from here.

    :raises MissingError: somebody there has written something lately. Slurm itself leaves nothing of a job.
    """
    left = run.lock.left()
    if not left or run.job.number:
        return
    signs = [run.lock.path, *(path for name in _SIGNS for path in run.path.glob(name))]
    newest = max(signs, key=lambda path: path.stat().st_mtime)
    ago = time.time() - newest.stat().st_mtime
    if ago < QUIET_S:
        raise MissingError(
            f"{run.name}: its runner on {left.host} was killed, and what it started may train on there: "
            f"{newest.name} was written {ago:.0f} s ago",
            f"on {left.host}: ax-recipe resume {run.word}; elsewhere once nothing was written for {QUIET_S:.0f} s, "
            f"or at once where that machine is gone: rm {run.lock.path}",
        )
