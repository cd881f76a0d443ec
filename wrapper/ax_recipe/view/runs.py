"""Runs in rows, and several runs side by side: what differs in their configs, their curves, what came of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from ax_recipe.observe.state import State
from ax_recipe.results import evaluation
from ax_recipe.results.story import Story
from ax_recipe.run.runs import Row as Run
from ax_recipe.view import figures
from ax_recipe.view.curve import LETTERS, LINES, overlay
from ax_recipe.view.row import Row

_UNSHARED = ("output_dir", "dataset_prepared_path")
"""Keys that every run has for itself."""


def table(found: Sequence[Run], now: float) -> Iterator[str]:
    """One line to a run: its name, what became of it, when, and what came out."""
    width = max((len(row.name) for row in found), default=4)
    names = f"{'status':<12}{'started':<13}{'took':>8}  {'steps':>6}  {'loss':>7}  {'held-out':>16}  answers"
    yield f"{'run':<{width}}  {names}"
    for row in found:
        scored = figures.value(row.eval_loss)
        if row.eval_loss_before is not None and row.eval_loss is not None:
            scored = f"{figures.value(row.eval_loss_before)} -> {scored}"
        answers = f"{row.matched} of {row.asked}" if row.asked else "-"
        yield (
            f"{row.name:<{width}}  {row.status:<12}{when(row.started, now):<13}{figures.duration(row.seconds):>8}  "
            f"{row.steps if row.steps is not None else '-':>6}  {figures.value(row.loss):>7}  {scored:>16}  {answers}"
        )
    if any(row.status == "waiting" for row in found):
        yield "waiting: not all of its stages are done; ax-recipe resume RUN goes on with them"


def when(seconds: float | None, now: float) -> str:
    """``Nov 22 14:50``, with the year instead of the hour where it was not this year; ``-`` when unknown."""
    if seconds is None:
        return "-"
    same = time.localtime(seconds).tm_year == time.localtime(now).tm_year
    return time.strftime("%b %d %H:%M" if same else "%b %d %Y", time.localtime(seconds))


def different(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The keys that the configs do not agree on, with the value of each (None where it is left out)."""
    keys = dict.fromkeys(key for config in configs for key in config if key not in _UNSHARED)
    rows = [(key, [config.get(key) for config in configs]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]


def show(stories: Sequence[Story], console: Console | None = None) -> None:
    """Print runs side by side."""
    console = console or Console(highlight=False)
    plain = not console.encoding.lower().startswith("utf")
    for row in compared(stories, max(40, console.width), ascii_only=plain):
        console.print(row, soft_wrap=True, end="")
        console.line()


def compared(stories: Sequence[Story], width: int, *, ascii_only: bool = False) -> Iterator[Row]:
    """The runs of ``stories`` (``story.Story``) side by side, in lines."""
    for index, story in enumerate(stories):
        yield Row((LETTERS[index], LINES[index % len(LINES)]), f"  {story.run.name}")
    column = max(12, min(28, (width - 24) // len(stories)))
    yield from _section("config", different([story.config for story in stories]), column)
    curves = [story.state.losses.points for story in stories]
    if any(curves):
        yield from (Row(), Row(("training loss, smoothed", "title")))
        yield from (Row(*runs) for runs in overlay(curves, width, 14, ascii_only=ascii_only))
    yield from _section("result", _results(stories), column)


def _section(title: str, rows: Sequence[tuple[str, list[Any]]], column: int) -> Iterator[Row]:
    yield Row()
    yield Row((title, "title"), "" if rows else "  no difference")
    for name, values in rows:
        cells = "".join(f"{_cut(value, column - 2):<{column}}" for value in values)
        yield Row((f"  {name[:28]:<28}  ", "label"), cells.rstrip())


def _cut(value: Any, width: int) -> str:
    text = figures.clean("-" if value is None else str(value))
    return text if len(text) <= width else text[: width - 2] + ".."


def _results(stories: Sequence[Story]) -> list[tuple[str, list[Any]]]:
    states: list[State] = [story.state for story in stories]
    rows = [story.row for story in stories]
    return [
        ("status", [row.status for row in rows]),
        ("verdict", [story.judgement.severity for story in stories]),
        ("steps", [state.step for state in states]),
        (
            "training loss",
            [figures.value(row.loss if row.loss is not None else s.loss) for row, s in _both(rows, states)],
        ),
        ("held-out loss, before", [figures.value(_first(row, s)) for row, s in _both(rows, states)]),
        ("held-out loss, after", [figures.value(_last(row, s)) for row, s in _both(rows, states)]),
        ("against its base", [_against(story) for story in stories]),
        ("answers as taught", [f"{row.matched} of {row.asked}" if row.asked else "-" for row in rows]),
        ("tokens a second", [figures.thousands(state.tokens_per_second) for state in states]),
        ("a step", [figures.per_step(state.step_seconds) for state in states]),
        ("active memory, peak", [figures.gib(_peak(state)) for state in states]),
        ("took", [figures.duration(row.seconds) for row in rows]),
    ]


def _against(story: Story) -> str:
    """The change of the held-out loss, row by row, and what may be said of it."""
    found = evaluation.read(story.run, evaluation.form_of(story.orders), story.orders).held_out
    return f"{found.verdict} {found.losses.change.value:+.3f}" if found else "-"


def _both(rows: Sequence[Run], states: Sequence[State]) -> Iterator[tuple[Run, State]]:
    return zip(rows, states, strict=True)


def _first(row: Run, state: State) -> float | None:
    return row.eval_loss_before if row.eval_loss_before is not None else state.first_eval_loss


def _last(row: Run, state: State) -> float | None:
    return row.eval_loss if row.eval_loss is not None else state.eval_loss


def _peak(state: State) -> float | None:
    return max((y for _, y in state.actives.points), default=0.0) or None
