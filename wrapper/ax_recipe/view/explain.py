"""The numbers behind a verdict as lines: every rule, how it stands, what it read, what it asks for, and from where."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ax_recipe.observe import rules
from ax_recipe.observe.alerts import Band
from ax_recipe.observe.state import State


def as_json(state: State, target: Band | None = None) -> str:
    """The verdict and each rule of the table, as ``--explain --json`` tells them."""
    found = rules.judge(state, target)
    told = [
        {"rule": rule.name, "says": rule.severity, "stands": stands, "numbers": numbers, "asks_for": rule.definition}
        for rule, stands, numbers in rules.explain(state, target)
    ]
    return json.dumps({"severity": found.severity, "verdict": found.verdict, "rules": told}, indent=1)


def lines(state: State, target: Band | None = None, now: float | None = None) -> Iterator[str]:
    """The verdict, then each rule of the table; what is past and was cleared comes last."""
    found = rules.judge(state, target, now)
    yield f"{found.severity}: {found.verdict}"
    yield ""
    yield f"{'rule':<20}{'says':<7}{'stands':<22}{'value against limit':<28}asks for (source)"
    for rule, stands, numbers in rules.explain(state, target, now):
        words = rule.definition or "a line of the log"
        yield f"{rule.name:<20}{rule.severity:<7}{stands:<22}{numbers:<28}{words} ({rule.source})"
    for alert in state.past:
        yield f"past: {alert.severity} at step {alert.step}: {alert.message}"
