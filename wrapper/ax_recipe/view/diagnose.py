"""A diagnosis for a person: the cause, where it happened, the line that says it, and what to do, best first."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ax_recipe.diagnose import Diagnosis
from ax_recipe.diagnose.causes import table
from ax_recipe.view.figures import clean

WIDTH = 100


def lines(found: Diagnosis) -> list[str]:
    """What ``ax-recipe diagnose`` prints."""
    return [found.cause.upper(), *_wrapped(found.message, "  "), *_place(found), *_fixes(found)]


def _place(found: Diagnosis) -> Iterator[str]:
    rank = "" if found.rank is None else f", rank {found.rank}"
    rank += "" if found.node is None else f", node {found.node}"
    step = f", step {found.step}" if found.step else ""
    if found.cause != "none":
        yield f"  while {found.phase}{step}{rank}"
    if found.evidence:
        yield f"  line {found.evidence.line}: {clean(found.evidence.text)[: WIDTH * 3]}"


def _fixes(found: Diagnosis) -> Iterator[str]:
    for number, fix in enumerate(found.fixes, 1):
        yield ""
        yield from _wrapped(f"{number}. {clean(fix.why)}", "   ", first="")
        if fix.yaml:
            yield from (f"       {line}" for line in fix.yaml.splitlines())
        if fix.command:
            yield f"   $ {clean(fix.command)}"


def _wrapped(text: str, indent: str, first: str | None = None) -> list[str]:
    start = indent if first is None else first
    return textwrap.wrap(clean(text), WIDTH, initial_indent=start, subsequent_indent=indent)


def causes() -> dict[str, str]:
    """What ``ax-recipe diagnose --list`` tells: every name, and when it is given."""
    return {cause.name: cause.sentence.replace("{what}", "").replace("{said}", "...") for cause in table.ALL}
