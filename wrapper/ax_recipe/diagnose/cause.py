"""The values of a diagnosis: a cause as the table holds it, and what is told of one run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

# A new value, or what works it out from the run; None for a fix that does not apply there.
NewValue = Callable[["Case"], Any] | str | int | float | bool | dict[str, Any] | list[Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What a fix can depend on.

    ``config`` holds Axolotl's keys (empty where nobody knows them), ``file`` the YAML, ``what`` the word of the log
    that the cause picked out, ``highest_rate`` the highest learning rate that the log tells. Of one of our runs:
    ``run`` is its name, ``recipe`` its recipe, and ``changes`` are those that it was started with.
    """

    phase: str
    config: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    file: str = "config.yml"
    run: str | None = None
    changes: tuple[str, ...] = ()
    what: str = ""
    highest_rate: float | None = None


@dataclass(frozen=True, slots=True)
class Remedy:
    """One thing that helps: why, Axolotl's keys with their new values, and the command.

    ``command`` may hold ``{again}`` (the training once more, with the new values), ``{resume}`` and ``{what}``.
    ``phases`` are those in which it applies, all where there are none; it does not apply where the key that it
    ``needs`` gets no new value.
    """

    why: str
    keys: Mapping[str, NewValue] = field(default_factory=dict)
    command: str = "{again}"
    needs: str | None = None
    phases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cause:
    """Why runs end.

    ``errors`` are looked for in the message that ends a traceback, the first of a pair in ``framed`` as well if the
    second is in its frames; ``signs`` (a word, and a pattern) in any other line. An ``echo`` is what the other ranks
    say when one has died, so anything of a lower number comes before it; a ``broad`` cause gives way to a
    narrower one that the same traceback names as its reason.
    """

    name: str
    sentence: str  # {what} is the group of that name, with brackets, where the log has one
    errors: tuple[re.Pattern[str], ...] = ()
    signs: tuple[tuple[str, re.Pattern[str]], ...] = ()
    remedies: tuple[Remedy, ...] = ()
    source: str = ""
    framed: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...] = ()
    echo: int = 0
    broad: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """The line that says it: ``line`` counts the log's LF from 1."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """A remedy for this very run: Axolotl's keys with their new ``values``, and the ``command`` to give."""

    why: str
    values: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None

    @property
    def yaml(self) -> str | None:
        """The values as lines of an Axolotl YAML."""
        return yaml.safe_dump(dict(self.values), sort_keys=False, width=1000) if self.values else None

    def as_json(self) -> dict[str, Any]:
        """``{"why", "yaml", "command"}``."""
        return {"why": self.why, "yaml": self.yaml, "command": self.command}


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What ended a run: ``cause`` is a name of the table, ``rank`` None where there was one process or nobody knows.

    ``node`` is the machine whose log says it, where there were several.
    """

    cause: str
    phase: str
    message: str
    rank: int | None = None
    step: int = 0
    evidence: Evidence | None = None
    fixes: tuple[Fix, ...] = ()
    node: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What ``ax-recipe diagnose --json`` prints."""
        evidence = self.evidence
        return {
            "cause": self.cause,
            "phase": self.phase,
            "rank": self.rank,
            "node": self.node,
            "message": self.message,
            "evidence": {"line": evidence.line, "text": evidence.text} if evidence else None,
            "fixes": [fix.as_json() for fix in self.fixes],
        }


def patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    """Compile what ``Cause.errors`` holds."""
    return tuple(re.compile(text) for text in texts)


def sign(word: str, pattern: str | None = None) -> tuple[str, re.Pattern[str]]:
    """A sign: a word that the line must hold (most lines mean nothing, and ``in`` says so fastest), and a pattern."""
    return word, re.compile(pattern or re.escape(word))
