"""All causes in the order in which they are tried: of two that fit one message, the first is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ax_recipe.diagnose.cause import Cause
from ax_recipe.diagnose.causes import course, memory

NONE = Cause("none", "Nothing failed.")
UNKNOWN = Cause("unknown", "None of the known causes: the last words are the evidence.")
TABLE: tuple[Cause, ...] = (*memory.CAUSES, *course.CAUSES)
ALL = (*TABLE, UNKNOWN, NONE)
BY_NAME = {cause.name: cause for cause in ALL}
_SIGNS = tuple((word, pattern, cause) for cause in TABLE for word, pattern in cause.signs)

Found = tuple[Cause, re.Match[str] | None]


def signed(text: str) -> Found | None:
    """The cause that a line outside of any traceback names."""
    for word, pattern, cause in _SIGNS:
        if word in text and (found := pattern.search(text)):
            return cause, found
    return None


def said(text: str, frames: Iterable[str]) -> Found | None:
    """The cause that an exception names; ``frames`` are the lines of its traceback."""
    places: str | None = None
    for cause in TABLE:
        found = next((match for pattern in cause.errors if (match := pattern.search(text))), None)
        if found and cause.frames:
            places = "\n".join(frames) if places is None else places
        if found and (cause.frames is None or cause.frames.search(places or "")):
            return cause, found
    return None
