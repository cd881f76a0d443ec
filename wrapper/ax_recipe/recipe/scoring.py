"""What a good answer holds, by a recipe's ``checks:``, and whether an answer is one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Expectations = Mapping[str, Any]
"""Some of ``KINDS``, each with what the recipe wants; an answer is good when all of them hold."""

KINDS = ("matches", "not_matches", "contains", "not_contains", "equals", "json", "min_chars", "max_chars")


def questions(checks: Mapping[str, Any]) -> list[tuple[str, Expectations]]:
    """Each question of a recipe's ``checks:`` with what is expected of its answer.

    What stands beside ``prompts`` is expected of every answer; a question's own word on the same kind wins.
    """
    shared = _expected(checks)
    asked = [{"ask": each} if isinstance(each, str) else each for each in checks["prompts"]]
    return [(str(each["ask"]), {**shared, **_expected(each)}) for each in asked]


def _expected(block: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: block[kind] for kind in KINDS if block.get(kind) is not None}


def missed(answer: str, wanted: Expectations) -> list[str]:
    """What is wrong with ``answer``, in words; nothing where it is good."""
    return list(_missed(answer.strip(), wanted))


def _missed(answer: str, wanted: Expectations) -> Iterator[str]:
    if (pattern := wanted.get("matches")) and not re.search(pattern, answer):
        yield f"nothing matches {_brief(pattern)}"
    if (pattern := wanted.get("not_matches")) and (found := re.search(pattern, answer)):
        yield f"{found.group()!r} matches {_brief(pattern)}"
    yield from (f"{text!r} is not in it" for text in _texts(wanted, "contains") if not _holds(answer, text))
    yield from (f"{text!r} is in it" for text in _texts(wanted, "not_contains") if _holds(answer, text))
    if "equals" in wanted and answer != wanted["equals"].strip():
        yield f"it is not {wanted['equals'].strip()!r}"
    if "json" in wanted and _is_json(answer) != wanted["json"]:
        yield "it is not JSON" if wanted["json"] else "it is JSON"
    if len(answer) < wanted.get("min_chars", 0):
        yield f"{len(answer)} characters, wanted at least {wanted['min_chars']}"
    if len(answer) > wanted.get("max_chars", len(answer)):
        yield f"{len(answer)} characters, wanted at most {wanted['max_chars']}"


def _brief(pattern: str) -> str:
    return pattern if len(pattern) <= 40 else f"{pattern[:38]}.."


def _texts(wanted: Expectations, kind: str) -> Sequence[str]:
    value = wanted.get(kind, ())
    return [value] if isinstance(value, str) else value


def _holds(answer: str, text: str) -> bool:
    """Whether ``text`` is in the answer; capitals do not count, ``matches`` is there for whom they do."""
    return text.casefold() in answer.casefold()


def _is_json(answer: str) -> bool:
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True


def judged(rows: Sequence[Mapping[str, Any]], wanted: Sequence[Expectations]) -> list[dict[str, Any]]:
    """The rows of an answers file (``prompt``, ``tuned``, mostly ``base``), each with what is wrong with its answers.

    ``tuned_matches`` and ``base_matches`` say in one word whether nothing is.
    """
    return [_judged(row, each) for row, each in zip(rows, wanted, strict=True)]


def _judged(row: Mapping[str, Any], wanted: Expectations) -> dict[str, Any]:
    verdicts: dict[str, Any] = {}
    for who in ("base", "tuned"):
        if row.get(who) is not None:
            wrong = missed(row[who], wanted)
            verdicts |= {f"{who}_matches": not wrong, f"{who}_missed": wrong}
    return {**row, **verdicts}
