"""All causes in the order in which they are tried: of two that fit one message, the first is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ax_recipe.diagnose.cause import Cause
from ax_recipe.diagnose.causes import config, course, data, hub, memory, model, ranks, software

NONE = Cause("none", "Nothing failed: the run did all it was to do.")
RUNNING = Cause("none", "Nothing failed so far: it goes on, or was killed without a word (then give --exit-code).")
UNKNOWN = Cause("unknown", "None of the known causes. It says: {said}")
TABLE: tuple[Cause, ...] = (
    *memory.CAUSES,
    *config.CAUSES,
    *hub.CAUSES,
    *data.CAUSES,
    *model.CAUSES,
    *ranks.CAUSES,
    *software.CAUSES,
    *course.CAUSES,
)
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
    """The cause that an exception names; ``frames`` are the lines of its traceback.

    Rich wraps what an exception says at the width of the terminal, hence the second look at it as one line.
    """
    places = list(frames)
    return _search(text, places) or (_search(" ".join(text.split()), places) if "\n" in text else None)


def _search(text: str, frames: list[str]) -> Found | None:
    for cause in TABLE:
        for pattern in cause.errors:
            if found := pattern.search(text):
                return cause, found
        for pattern, place in cause.framed:
            if (found := pattern.search(text)) and any(place.search(frame) for frame in frames):
                return cause, found
    return None
