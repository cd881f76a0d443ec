"""What a person can cause: problems found in their files, and errors that end a command with its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a person's file.

    ``key`` is the dotted path (``datasets[0].type``), ``line`` counts from 1; both are None where there is none.
    """

    code: str
    severity: Severity
    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None
    suggestion: str | None = None

    def __str__(self) -> str:
        """``FILE:LINE: warning: KEY: MESSAGE [CODE]``, of an error without that word, then the fix on its own line."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        kind = "warning" if self.severity == "warning" else None
        text = ": ".join(part for part in (place, kind, self.key, self.message) if part)
        fix = f"\n    {self.suggestion}" if self.suggestion else ""
        return f"{text} [{self.code}]{fix}"


class AxRecipeError(Exception):
    """An error that a person can cause or mend: shown as text without a traceback, ends with ``exit_code``."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n    {self.hint}" if self.hint else self.message


class RunFailedError(AxRecipeError):
    """A stage of a run did not do what it should."""


class ProgramFailedError(RunFailedError):
    """A program of a stage ended with ``code`` (negative for a signal)."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint)
        self.code = code


class StoppedError(AxRecipeError):
    """Somebody or something asked the run to stop, and it did."""

    exit_code = 130


class RecipeError(AxRecipeError):
    """The recipe, the Axolotl YAML or the command line is wrong."""

    exit_code = 2


class ProblemsError(RecipeError):
    """All the problems of one file at once, what stops it first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(each) for each in sorted(problems, key=lambda each: each.severity != "error")))
        self.problems = tuple(problems)


class MissingError(AxRecipeError):
    """Something is missing outside the recipe: Axolotl, a GPU, disk, Ollama."""

    exit_code = 3
