"""What a person reads of a stage that was not done: the cause, and what to do next, each in a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ax_recipe.errors import AxRecipeError
from ax_recipe.run.rundir import RunDir, StageRecord
from ax_recipe.survive import checkpoints, recovery

if TYPE_CHECKING:
    from ax_recipe.diagnose import Diagnosis


def explained(run: RunDir, record: StageRecord, error: AxRecipeError) -> str:
    """A program of a stage ended with an error: why, by its log, and what helps."""
    found = recovery.diagnosed(run, record)
    rank = "" if found.rank is None else f", rank {found.rank}"
    rank += f", node {found.node}" if found.node else ""
    lines = [error.message, f"{found.cause} ({found.phase}{rank}): {found.message}"]
    if found.cause in recovery.MEMORY:
        lines += _memory(run, record, found)
    else:
        log = run.node_logs(record.name, record.attempt).get(found.node or 0, run.log(record.name, record.attempt))
        lines.append(f"its log: {log}; what helps: ax-recipe diagnose {run.word}")
    return "\n".join(lines)


def _memory(run: RunDir, record: StageRecord, found: Diagnosis) -> list[str]:
    change = recovery.after(run, record, found)
    if change is None:
        return [f"nothing is left to make smaller without changing what is learnt: ax-recipe diagnose {run.word}"]
    start = checkpoints.newest(run.output, *run.ranks) if record.name == "train" else None
    place = f" from {start.path.name}" if start else ""
    return [f"ax-recipe resume {run.word} --on-oom retry would go on{place} with {change.words}"]


def stopped(run: RunDir, record: StageRecord, error: AxRecipeError) -> str:
    """A stage was stopped: why, and from where it would go on."""
    if record.name != "train":
        return error.message
    found = checkpoints.newest(run.output, *run.ranks)
    return f"{error.message}; {found.path.name} is whole" if found else f"{error.message}; there is no checkpoint yet"
