"""Rows to figures: how many, how long, how much of them is trained, and which of them are no good."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Any

from ax_recipe.data import formats
from ax_recipe.data.counting import Counter
from ax_recipe.data.marks import Marks
from ax_recipe.data.rows import Row
from ax_recipe.data.samples import Reader, Sample
from ax_recipe.data.seen import Seen
from ax_recipe.data.turns import EMPTY, UNTRAINED, lacks
from ax_recipe.errors import Problem, RecipeError

LISTED = 1000  # findings that are kept, each with its line; the rest are counted
_BATCH = 256
_SHOWN = 3
_PACKED = 20_000  # rows that packing is tried with


@dataclass(slots=True)
class Measured:
    """What is known of one dataset so far. Lengths are in tokens; ``lengths`` counts the rows of each."""

    form: formats.Form | None = None
    rows: int = 0
    broken: int = 0
    truncated: int = 0
    duplicates: int = 0
    overlap: int = 0
    tokens: int = 0
    trained: int = 0
    lengths: Tally[int] = field(default_factory=Tally)
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    shown: list[tuple[Row, Sample]] = field(default_factory=list)

    def note(self, problem: Problem) -> None:
        """Keep a finding, or count it where there are too many."""
        if len(self.problems) < LISTED:
            self.problems.append(problem)
        else:
            self.unlisted += 1


@dataclass(frozen=True, slots=True)
class How:
    """How a dataset is read: its reader, the length that rows are cut at, and what has been seen of it and others."""

    reader: Reader
    counter: Counter
    sequence_len: int | None
    seen: Seen
    trained_on: Seen | None = None
    strategy: str = "drop"
    columns: tuple[str, ...] | None = None
    marks: Marks | None = None


def measure(rows: Iterable[Row], how: How, tick: Callable[[Row], None]) -> Measured:
    """Read every row once.

    :param tick: called with each row, for a progress bar.
    :raises MissingError: the program that counts tokens ended.
    """
    found = Measured()
    batches = iter(rows)
    while batch := list(islice(batches, _BATCH)):
        samples = [(row, sample) for row in batch if (sample := _sample(row, how, found)) is not None]
        counts = how.counter.count([sample for _, sample in samples])
        for (row, sample), (tokens, trained) in zip(samples, counts, strict=True):
            _add(found, row, sample, tokens, trained, how)
        for row in batch:
            tick(row)
    return found


def _sample(row: Row, how: How, found: Measured) -> Sample | None:
    """The row as it is trained; None, with a finding, where it cannot be."""
    found.rows += 1
    if row.value is None:
        found.broken += 1
        found.note(row.problem("AX014", "error", row.broken or "cannot be read", "Mend or remove it."))
        return None
    if found.form is None:
        found.form = formats.recognise(row.value)
    _compare(row, row.value, how, found)
    lacking = [name for name in how.columns or () if row.value.get(name) is None]
    if lacking:
        found.broken += 1
        found.note(row.problem("AX013", "error", lacks(row.value, lacking), "Mend or remove this row."))
        return None
    if how.marks and (marked := how.marks.problem(row)):
        found.note(marked)
    try:
        return how.reader(row.value)
    except RecipeError as error:
        found.broken += 1
        found.note(row.problem("AX015", "error", error.message, "Mend or remove this row."))
        return None


def _compare(row: Row, value: Mapping[str, Any], how: How, found: Measured) -> None:
    """Whether the row was there before, here or among those that are trained on."""
    if how.trained_on and (place := how.trained_on.before(value)):
        found.overlap += 1
        words = f"held out, and trained on as well: {place}"
        found.note(row.problem("AX019", "warning", words, "Remove it from one of the two."))
    if place := how.seen.before(value):
        found.duplicates += 1
        found.note(row.problem("AX018", "warning", f"the same as {place}", "Remove it."))
    else:
        how.seen.remember(value, str(row))


def _add(found: Measured, row: Row, sample: Sample, tokens: int, trained: int, how: How) -> None:
    if not tokens:
        found.note(row.problem("AX017", "warning", EMPTY, "Remove it."))
    elif not trained:
        found.note(row.problem("AX017", "warning", UNTRAINED, "Remove it, or mend it."))
    longest = how.sequence_len
    if longest and tokens > longest and not sample.split:
        found.truncated += 1
        word = {"truncate": "cut off", "raise": "refused"}.get(how.strategy, "dropped")
        words = f"{tokens} tokens, {tokens - longest} more than sequence_len: {word}"
        found.note(row.problem("AX020", "warning", words, "Shorten it, or a larger sequence_len."))
    found.tokens += tokens
    found.trained += trained
    for length in _pieces(tokens, longest) if sample.split and longest else [tokens]:
        found.lengths[length] += 1
    if len(found.shown) < _SHOWN:
        found.shown.append((row, sample))


def _pieces(tokens: int, longest: int) -> Iterator[int]:
    for start in range(0, tokens, longest):
        yield min(longest, tokens - start)


def quantile(lengths: Mapping[int, int], share: float) -> int:
    """The length that this share of the rows does not exceed; 0 where there are none."""
    wanted = max(1, ceil(share * sum(lengths.values())))
    seen = 0
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= wanted:
            return length
    return 0


def packing(lengths: Mapping[int, int], sequence_len: int) -> float | None:
    """How full packs of ``sequence_len`` tokens get, first-fit decreasing as Axolotl packs; None without rows.

    Of many rows as many as can be tried in a moment, in the same proportions.
    """
    kept = {length: count for length, count in lengths.items() if 0 < length <= sequence_len}
    total = sum(kept.values())
    if not total:
        return None
    scale = min(1.0, _PACKED / total)
    sizes = [length for length in sorted(kept, reverse=True) for _ in range(max(1, round(kept[length] * scale)))]
    return sum(sizes) / (_packs(sizes, sequence_len) * sequence_len)


def _packs(sizes: Sequence[int], capacity: int) -> int:
    """How many packs first-fit decreasing needs: the free room of all packs is held by amount."""
    room: Tally[int] = Tally()
    packs = 0
    amounts: list[int] = []
    for size in sizes:
        at = bisect_left(amounts, size)
        if at == len(amounts):
            packs += 1
            left = capacity - size
        else:
            amount = amounts[at]
            room[amount] -= 1
            if not room[amount]:
                amounts.pop(at)
            left = amount - size
        if left:
            if not room[left]:
                insort(amounts, left)
            room[left] += 1
    return packs
