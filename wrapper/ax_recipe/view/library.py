"""The bundled recipes as a list: by family, the small before the large."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from ax_recipe.recipe.recipe import Recipe, Scratch

_NARROWEST = 24


def row(recipe: Recipe) -> dict[str, Any]:
    """A recipe in a few values; ``base`` is None where the recipe makes its own."""
    base = None if isinstance(recipe.base, Scratch) else recipe.base
    known = {"base": base, "method": recipe.method, "rl": recipe.rl, "gpus": recipe.gpus}
    return {"name": recipe.name, "about": recipe.about, **known}


def ordered(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """The families (what stands before the first hyphen), each by the numbers in its names: 4b before 14b."""
    found = [list(group) for _, group in groupby(sorted(recipes, key=lambda each: _family(each.name)), _of)]
    return [sorted(family, key=lambda each: _natural(each.name)) for family in found]


def lines(recipes: Sequence[Recipe], width: int) -> Iterator[str]:
    """One line to a recipe, or more where ``width`` columns do not hold what it is about; families lie apart."""
    rows = [[_shown(row(each)) for each in family] for family in ordered(recipes)]
    every = [each for family in rows for each in family]
    wide = {key: max(len(key), *(len(each[key]) for each in every)) for key in ("name", "method", "gpus")}
    left = sum(wide.values()) + len(wide)
    yield _line({"name": "recipe", "method": "method", "gpus": "for"}, wide) + "what it does"
    for family in rows:
        yield ""
        for each in family:
            about = textwrap.wrap(each["about"], max(_NARROWEST, width - left)) or [""]
            yield _line(each, wide) + about[0]
            yield from (" " * left + more for more in about[1:])


def _shown(each: dict[str, Any]) -> dict[str, str]:
    method = ", ".join(filter(None, (each["method"], each["rl"])))
    return {"name": each["name"], "method": method, "gpus": str(each["gpus"] or "CPU"), "about": each["about"] or ""}


def _line(each: dict[str, str], wide: dict[str, int]) -> str:
    return "".join(f"{each[key]:<{size + 1}}" for key, size in wide.items())


def _family(name: str) -> str:
    return name.partition("-")[0]


def _of(recipe: Recipe) -> str:
    return _family(recipe.name)


def _natural(name: str) -> list[tuple[float, str]]:
    """Its parts, numbers as such; a name that ends is before one that goes on."""
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    return [(float(part), "") if part[:1].isdigit() else (-1.0, part) for part in parts]
