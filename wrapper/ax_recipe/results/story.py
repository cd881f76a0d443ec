"""Everything that a run folder tells of one run, read once: what report, compare and advise speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ax_recipe.observe import feed, rules
from ax_recipe.observe.alerts import Band, Judgement, as_band
from ax_recipe.observe.state import State
from ax_recipe.run import runs
from ax_recipe.run.rundir import RunDir, RunState
from ax_recipe.run.runs import Row


@dataclass(frozen=True, slots=True)
class Story:
    """One run: ``state`` is that at the end of its training, ``config`` is what Axolotl was given."""

    run: RunDir
    row: Row
    stages: RunState
    orders: Mapping[str, Any]
    config: Mapping[str, Any]
    state: State
    target: Band | None
    judgement: Judgement
    environment: Mapping[str, Any] | None
    answers: tuple[Mapping[str, Any], ...]


def read(run: RunDir) -> Story:
    """Read a run folder.

    :raises MissingError: one of the files that every run has is absent or broken.
    """
    orders = run.read_json(run.orders)
    config = run.read_yaml(run.axolotl_yaml)
    target = as_band(orders["targets"]["loss"])
    state = feed.trained(run)
    found = rules.judge(state, target)
    answers = tuple(each for each in _if_any(run, run.answers) or () if "tuned_matches" in each)
    row = runs.row_of(run)
    if answers and row.asked is None:
        row = replace(row, asked=len(answers), matched=sum(bool(each["tuned_matches"]) for each in answers))
    return Story(
        run,
        row,
        run.current_state(),
        orders,
        config,
        state,
        target,
        found,
        _if_any(run, run.environment),
        answers,
    )


def _if_any(run: RunDir, path: Path) -> Any:
    return run.read_json(path) if path.is_file() else None


def best_evaluation(state: State) -> tuple[float, float] | None:
    """The step and the loss of the best evaluation."""
    return min(state.eval_losses.points, key=lambda point: point[1], default=None)


def peak(story: Story, name: str) -> float | None:
    """The largest active or reserved memory (GiB) of the training; None on a CPU."""
    if name == "active_gib":
        highest = max((y for _, y in story.state.actives.points), default=0.0)
    else:
        highest = story.state.reserved_gib or 0.0
    return highest or None
