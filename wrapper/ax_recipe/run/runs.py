"""All runs at a glance, from state.json and, of a training not done, the end of its events; and a run that goes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ax_recipe.errors import AxRecipeError, MissingError, RecipeError
from ax_recipe.run import rundir
from ax_recipe.run.rundir import RunDir, RunState

UNREADABLE = "unreadable"
_TAIL = 16384  # bytes of events: a hundred of them, and one in two is a step
_STEP = re.compile(rb'"event": "(?:step|metrics)", .*"step": (\d{1,15})')
_LOSS = re.compile(rb'"event": "metrics", .*"loss": (-?\d{1,15}(?:\.\d+)?(?:e[-+]?\d{1,2})?)')
_UNDONE = ("running", "failed", "interrupted")


@dataclass(frozen=True, slots=True)
class Row:
    """One run. Times are unix seconds, losses are means a token, ``matched`` of ``asked`` answers were as taught.

    ``seconds`` are those that its stages worked: all their attempts, and not the time between these.
    Of one whose training is not done, ``seconds``, ``steps`` and ``loss`` are those so far.
    """

    name: str
    recipe: str
    status: str
    path: str
    started: float | None = None
    seconds: float | None = None
    steps: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    eval_loss_before: float | None = None
    matched: int | None = None
    asked: int | None = None


SORTS: dict[str, Callable[[Row], Any]] = {
    "time": lambda row: -(row.started or 0),
    "name": lambda row: row.name,
    "recipe": lambda row: (row.recipe, row.name),
    "status": lambda row: (row.status, row.name),
    "loss": lambda row: row.loss,
    "eval-loss": lambda row: row.eval_loss,
    "duration": lambda row: row.seconds,
}


def rows(runs: Path, recipe: str | None = None, sort: str = "time") -> list[Row]:
    """Every run in ``runs``, or those of ``recipe``, in the order of ``SORTS``; what is not known comes last."""
    found = [row for row in map(row_of, rundir.every(runs)) if recipe is None or row.recipe == recipe]
    key = SORTS[sort]
    return sorted(found, key=lambda row: (key(row) is None, key(row) if key(row) is not None else 0))


def row_of(run: RunDir) -> Row:
    """One run in a row; a folder whose state cannot be read is shown as such."""
    try:
        state = run.read_state()
        # Whether it still runs is only asked where it may: that opens another file.
        state = run.current_state() if state.status == "running" else state
    except AxRecipeError:
        return Row(run.name, "", UNREADABLE, str(run.path))
    return _row(run, state)


def _row(run: RunDir, state: RunState) -> Row:
    figures: dict[str, Any] = {}
    for stage in state.stages:
        if stage.name != "base":
            figures |= stage.figures
    starts = [stage.started for stage in state.stages if stage.started]
    seconds = state.worked + (time.time() - state.since if state.since else 0.0)
    if any(stage.name == "train" and stage.state in _UNDONE for stage in state.stages):
        figures = _so_far(run) | figures
    known = {name: figures[name] for name in ("loss", "eval_loss", "eval_loss_before") if name in figures}
    counts = {name: int(figures[name]) for name in ("steps", "matched", "asked") if name in figures}
    took = seconds if starts else None
    return Row(run.name, state.recipe, state.status, str(run.path), min(starts, default=None), took, **known, **counts)


def _so_far(run: RunDir) -> dict[str, float]:
    """The last step, and the last loss that is a number, that the end of its events tells; of pre-training nothing."""
    try:
        with run.events.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            told = file.read()
    except FileNotFoundError:
        return {}
    found = {"steps": _STEP.findall(told), "loss": _LOSS.findall(told)}
    return {name: float(values[-1]) for name, values in found.items() if values}


def others_in_words(run: RunDir) -> str:
    """With what ``run`` may be compared: the newest others of its recipe, in its folder."""
    recipe = row_of(run).recipe
    others = [row.name for row in rows(run.path.parent, recipe) if row.name != run.name]
    if not others:
        return f"{run.name} is the only run of {recipe} there; ax-recipe report {run.word} tells of one"
    return f"others of {recipe}: {', '.join(others[:3])}"


def as_json(found: list[Row]) -> str:
    """``runs --json``."""
    return json.dumps([asdict(row) for row in found], indent=1)


def exactly(runs: Path, name: str) -> RunDir:
    """The run of that full name or path: what is to be removed is not guessed.

    :raises RecipeError: there is none.
    """
    run = rundir.find(runs, name)
    if name != run.name and Path(name).absolute() != run.path:
        raise RecipeError(f"no run is called {name}", f"the nearest is {run.name}: give its full name to remove it")
    return run


def refuse_running(run: RunDir) -> None:
    """Stop where the run goes on.

    :raises RecipeError: it does.
    """
    if who := run.worker:
        raise RecipeError(f"{run.name} is running ({who})", f"ax-recipe stop {run.word} ends it first")


def stop(run: RunDir) -> bool:
    """Ask the runner to stop: it saves a whole checkpoint first. False where none runs."""
    if run.job.state:  # its process may be on another machine
        return run.job.stop()
    owner = run.lock.owner()
    if owner is None:
        return False
    if not owner.is_here:  # its process id is another program's here
        run.lock.ask()
        return True
    try:
        os.kill(owner.pid, signal.SIGTERM)
    except ProcessLookupError:  # it has just ended
        return False
    return True


def remove(run: RunDir) -> None:
    """Delete a run's folder with everything in it.

    :raises MissingError: the folder cannot be removed.
    """
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        raise MissingError(f"{run.path}: cannot be removed: {error.strerror}", "remove it by hand") from error


def size_gib(run: RunDir) -> float:
    """What the folder takes on disk."""
    return sum(path.lstat().st_size for path in run.path.rglob("*") if not path.is_dir()) / 2**30
