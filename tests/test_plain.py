"""Plain lines: news at once, the rest every 30 seconds of the run, nothing lost at the end."""

from __future__ import annotations

import histories
from ax_recipe.observe.events import Event, Line, Metrics, StageEnded, StageStarted, Step
from ax_recipe.observe.folding import advance
from ax_recipe.observe.state import State
from ax_recipe.view.plain import PlainLines, line


def said(events: list[Event]) -> list[str]:
    """All lines when they are asked for after every event."""
    state, plain = State(), PlainLines()
    out: list[str] = []
    for event in events:
        advance(state, event)
        out += plain.lines(state)
    return out


def test_thirty_seconds_lie_between_two_lines_without_news() -> None:
    lines = said([*histories.prepared(), *histories.trained(100)])
    steps = [row for row in lines if "train: training" in row]
    assert 100 * 1.9 / 30 <= len(steps) + 1 <= 100 * 1.9 / 30 + 3
    assert "step 100/1,240 (8%)" not in lines[0]


def test_a_line_has_every_number_with_its_name() -> None:
    text = line(histories.training())
    for part in ("0:26:53", "train: training", "step 812/1,240 (65%)", "loss 0.", "lr 5.82e-05", "ETA 13m 33s"):
        assert part in text
    assert "\n" not in text


def test_an_alert_is_said_once_and_at_once() -> None:
    bad: list[Event] = [Metrics({"loss": float("nan"), "grad_norm": float("nan")}, step) for step in range(5, 9)]
    lines = [row for row in said([StageStarted("train", 1, 1.0), Step(4, 10, time=2.0), *bad]) if "STOP" in row]
    assert len(lines) == 1
    assert "step 5" in lines[0]
    assert "not finite" in lines[0]


def test_the_end_is_told_with_its_verdict() -> None:
    ending = said([*histories.prepared(), *histories.trained(1240, total=1240), StageEnded("train", 0, 1_002_500.0)])[
        -2:
    ]
    assert "finished  step 1,240/1,240 (100%)" in ending[0]
    assert " OK " in ending[1]


def test_a_replay_of_the_real_log_is_short_and_whole() -> None:
    lines = said([*histories.recorded("axolotl-0.19.0-4gpu-ok.log"), StageEnded("train", 0)])
    phases = [row.split()[1] for row in lines]
    for phase in ("preparing", "loading", "compiling", "training", "evaluating", "finished"):
        assert any(phase in word or phase in row for word, row in zip(phases, lines, strict=True)), phase
    assert len(lines) < 30


def test_outside_text_cannot_break_a_line() -> None:
    assert all("\x1b" not in row and "\n" not in row for row in said([StageStarted("a\x1b[2J\nb", 1, 0.0), Line("x")]))
