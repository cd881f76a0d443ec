"""Whether one value is of a kind that a JSON Schema wants, and within its limits, by pydantic's lax rules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ax_recipe.errors import Severity
from ax_recipe.recipe.document import Keys
from ax_recipe.recipe.words import RENAMED, Json, described, kind_of, listed, mean, nearest, written

_TRUE = frozenset(["1", "on", "t", "true", "y", "yes"])
_TRUTH = _TRUE | {"0", "off", "f", "false", "n", "no"}
_INTEGER = re.compile(r"\s*[+-]?\d+(_\d+)*(\.0+)?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at one place of a document; `schema.check` gives it its line."""

    path: Keys
    code: str
    message: str
    suggestion: str | None = None
    severity: Severity = "error"


def is_a(value: Any, kind: str) -> bool:
    """Whether pydantic's lax mode takes ``value`` for ``kind`` (tried against pydantic 2.13)."""
    if kind == "string":
        return isinstance(value, (str, bytes))
    if kind == "boolean":
        return value in (0, 1) if isinstance(value, (bool, int, float)) else _text(value).lower() in _TRUTH
    if kind == "integer":
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**63
        return isinstance(value, int) or whole or _INTEGER.fullmatch(_text(value)) is not None
    if kind == "number":
        return isinstance(value, (int, float)) or _number(_text(value)) is not None
    if kind == "array":
        return isinstance(value, (list, tuple, set, frozenset))
    return value is None if kind == "null" else isinstance(value, dict)


def _text(value: Any) -> str:
    """Text of text and (`!!binary`) bytes, else nothing."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def read_as(value: Any, kind: str | None) -> Any:
    """``value``, which `is_a` ``kind``, as pydantic's lax mode gives it: the number of `"16"`, the truth of `"no"`."""
    text = _text(value).strip()
    if kind == "boolean":
        return text.lower() in _TRUE if text else bool(value)
    if kind == "integer":
        return int(text.partition(".")[0]) if text else int(value)
    return float(text) if kind == "number" and text else value


def _number(text: str) -> float | None:
    try:
        return float(text) if text.isascii() else None
    except ValueError:
        return None


def limits(value: Any, schema: Json, path: Keys) -> Iterator[Finding]:
    """Length, range, pattern, and the names that plain text may take."""
    if isinstance(value, (list, tuple)):
        few, many = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not few <= len(value) <= many:
            yield Finding(path, "AX010", f"{len(value)} items where {few if len(value) < few else many} are the limit")
    if schema.get("type") in ("integer", "number"):
        number = value if isinstance(value, int) else float(_text(value) or value)
        for bound, words, holds in _bounds(schema, number):
            if not holds:
                yield Finding(path, "AX010", f"expected {words} {bound}, found {described(value)}")
    if schema.get("type") == "string":
        yield from _names(_text(value), schema, path)


def _bounds(schema: Json, number: float) -> Iterator[tuple[float, str, bool]]:
    if (bound := schema.get("minimum")) is not None:
        yield bound, "at least", number >= bound
    if (bound := schema.get("maximum")) is not None:
        yield bound, "at most", number <= bound
    if (bound := schema.get("exclusiveMinimum")) is not None:
        yield bound, "more than", number > bound
    if (bound := schema.get("exclusiveMaximum")) is not None:
        yield bound, "less than", number < bound


def _names(text: str, schema: Json, path: Keys) -> Iterator[Finding]:
    if schema.get("x-numeric") and _number(text) is None:
        yield Finding(path, "AX002", f"expected a number, found {described(text)}")
    if (pattern := schema.get("pattern")) and not re.search(pattern, text):
        form = "has not the form that is wanted here" if schema.get("description") else f"does not match {pattern}"
        yield Finding(path, "AX003", f"{described(text)} {form}", schema.get("description"))
    if schema.get("format") == "regex" and (error := _broken(text)):
        yield Finding(path, "AX003", f"{described(text)} is no regular expression: {error}")
    if (
        text
        and (names := schema.get("x-values"))
        and text not in names
        and not re.search(schema.get("x-open", "(?!)"), text)
    ):
        yield from choice(text, names, path)


def _broken(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return None


def choice(value: Any, choices: Sequence[Any], path: Keys) -> list[Finding]:
    """Nothing where ``value`` is one of ``choices`` (1 and 1.0 and true are one, as in pydantic)."""
    if value in choices:
        return []
    names = [each for each in choices if isinstance(each, str)]
    near = RENAMED.get(value) if isinstance(value, str) else None
    near = near if near in names else nearest(str(value).lower(), names, cutoff=0.5)
    all_of_them = f"One of {listed([each for each in choices if not str(each).startswith('_')])}."
    message = f"{described(value)} is not one of the values that exist"
    return [Finding(path, "AX003", message, f"{mean(near)} {all_of_them}" if near else all_of_them)]


def wrong(value: Any, schemas: Sequence[Json], path: Keys) -> Finding:
    """Say that ``value`` is of none of the kinds that ``schemas`` take."""
    kinds = [kind_of(each) for each in schemas if each.get("type") != "null"] or ["nothing"]
    expected = " or ".join(dict.fromkeys(kinds))
    fix = None
    if value is None:
        fix = "Give a value, or remove the line."
    elif "text" in kinds and isinstance(value, (bool, int, float)):
        fix = f'Put it in quotes: "{written(value)}".'
    elif "a list" in expected and not isinstance(value, dict):
        fix = f"Write `- {value}` on a line of its own."
    return Finding(path, "AX002", f"expected {expected}, found {described(value)}", fix)
