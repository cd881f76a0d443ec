"""What a judgement is made of, as values: a rule, what it measured, the alert it raises, the verdict of all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ax_recipe.observe.state import State

SEVERITIES = ("OK", "WATCH", "ACT", "STOP")
Band = tuple[float, float]
Asked = Literal["log", "look", "evaluation", "sample", "judge", "words"]
"""When a rule is asked: at every training log, at some of them, at every evaluation, at every sample of the machine
(GPUs, disk), whenever somebody wants a verdict, or when a warning or a crash has its words."""


def as_band(told: Sequence[float] | None) -> Band | None:
    """A recipe's ``targets.loss`` as a band; None where it names none."""
    return (float(told[0]), float(told[1])) if told else None


@dataclass(frozen=True, slots=True)
class Alert:
    """One finding: ``severity`` is one of ``SEVERITIES``, ``step`` where it began."""

    severity: str
    rule: str
    message: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """What a rule may look at: the state, the recipe's band of the loss, and the time (unix seconds)."""

    state: State
    target: Band | None = None
    now: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a rule measured: ``value`` against ``limit``, whether it holds, and what its sentence is filled with."""

    holds: bool
    value: float
    limit: float
    words: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    It is raised when it held at ``times`` of its last ``within`` readings and for ``lasting`` without a break, and
    cleared when it has not held for twice its ``window`` (0: never). Both are in logs, evaluations, or seconds for
    samples of the machine. ``limit`` is the number its measure holds the value against.
    """

    name: str
    severity: str
    sentence: str
    source: str
    asked: Asked
    definition: str = ""
    measure: Callable[[Given, Rule], Reading | None] | None = None
    limit: float = 0.0
    window: int = 0
    times: int = 1
    within: int = 1
    lasting: float = 0.0
    words: re.Pattern[str] | None = None


@dataclass(slots=True)
class Held:
    """How a rule that has held is doing; ``first`` and ``last`` are on its own clock, ``step`` is where it began."""

    first: float
    last: float
    step: int
    marks: list[bool] = field(default_factory=list)
    raised: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """The worst severity, the verdict in words, and everything there is to say now."""

    severity: str
    verdict: str
    alerts: tuple[Alert, ...]
