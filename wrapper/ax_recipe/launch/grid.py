"""The grid of a sweep: keys, the values that each takes in turn, and every combination of them or a sample."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ax_recipe.errors import RecipeError
from ax_recipe.recipe import recipe


@dataclass(frozen=True, slots=True)
class Axis:
    """One key and the values that it takes in turn, each as YAML text."""

    key: str
    values: tuple[str, ...]


def axis(change: str) -> Axis:
    """Read ``train.learning_rate=1e-4,2e-4``; a comma inside brackets, braces or quotes parts no values.

    :raises RecipeError: it is not of that form.
    """
    key, _, text = change.partition("=")
    values = tuple(each.strip() for each in _parts(text))
    if not all(values):
        raise RecipeError(f"--set {change}: an empty value", "for example --set train.learning_rate=1e-4,2e-4")
    for each in values:
        recipe.parse_change(f"{key}={each}")
    return Axis(key, values)


def _parts(text: str) -> Iterator[str]:
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
            if letter == "," and not depth:
                yield text[start:place]
                start = place + 1
    yield text[start:]


def combinations(axes: Sequence[Axis], most: int | None = None, seed: int | None = None) -> list[tuple[str, ...]]:
    """The changes of ``most`` trials: the grid in order, or with a ``seed`` a sample of it without repetition."""
    sizes = [len(each.values) for each in axes]
    total = math.prod(sizes)
    count = min(total, most or total)
    numbers = range(count) if seed is None else random.Random(seed).sample(range(total), count)
    return [tuple(map(_change, axes, _digits(number, sizes))) for number in numbers]


def _digits(number: int, sizes: Sequence[int]) -> list[int]:
    digits = []
    for size in reversed(sizes):
        number, digit = divmod(number, size)
        digits.append(digit)
    return digits[::-1]


def _change(each: Axis, at: int) -> str:
    return f"{each.key}={each.values[at]}"
