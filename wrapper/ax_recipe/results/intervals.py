"""How sure a measured figure is: 95 % intervals of shares and of losses, and what may be said of a difference."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, stdev
from typing import Literal

Verdict = Literal["better", "same", "worse", "unclear"]

SURE = 0.95
RESAMPLES = 2000
GROUPS = 200
"""More rows than this are resampled in so many groups: the interval is the same, and takes no longer."""
ENOUGH = 5
"""Fewer rows than this say nothing about rows that were not seen."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the 95 % interval around it; an infinite end means that too little was measured to tell."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Rows:
    """What several texts cost a model: for each, its ``tokens`` and the sum of their losses in nats."""

    tokens: Sequence[int]
    base: Sequence[float]
    tuned: Sequence[float]


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean losses, in nats a token, of the base and the tuned model on the same rows, and the change between them."""

    base: Interval
    tuned: Interval
    change: Interval


def losses(rows: Rows, seed: int = 0) -> Losses:
    """Bootstrap the rows in pairs: both models are always judged by the same rows.

    The percentiles are set wider for few rows, as Student's t is wider than the normal curve (T. Hesterberg, What
    Teachers Should Know about the Bootstrap, 2015, section 5.3): plain percentiles of 10 rows hold only 90 %.
    """
    groups = _grouped(rows)
    draw = random.Random(seed)
    resampled = (_means(draw.choices(groups, k=len(groups))) for _ in range(RESAMPLES))
    columns = [sorted(column) for column in zip(*resampled, strict=True)]
    outside = _outside(len(groups))
    return Losses(*(_percentiles(value, each, outside) for value, each in zip(_means(groups), columns, strict=True)))


def mean(values: Sequence[float]) -> Interval:
    """The mean of figures that were measured apart from each other."""
    value = math.fsum(values) / len(values)
    if len(values) < ENOUGH:
        return Interval(value, -math.inf, math.inf)
    half = _student(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(value, value - half, value + half)


def _grouped(rows: Rows) -> list[tuple[float, float, float]]:
    each: list[tuple[float, float, float]] = list(zip(rows.tokens, rows.base, rows.tuned, strict=True))
    if len(each) <= GROUPS:
        return each
    return [_sums(each[start::GROUPS]) for start in range(GROUPS)]


def _sums(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    tokens, base, tuned = (math.fsum(column) for column in zip(*rows, strict=True))
    return tokens, base, tuned


def _means(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    tokens, base, tuned = _sums(rows)
    return base / tokens, tuned / tokens, (tuned - base) / tokens


def _outside(rows: int) -> float:
    """The share of the resamples that lies outside on either side, for so many rows."""
    if rows < ENOUGH:
        return 0.0
    wide = math.sqrt(rows / (rows - 1)) * _student(rows - 1)
    return NormalDist().cdf(-wide)


def _student(freedom: int) -> float:
    """Where Student's t holds 95 % on both sides together, by Cornish and Fisher's series (0.1 % off from 4 up)."""
    z = NormalDist().inv_cdf((1 + SURE) / 2)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _percentiles(value: float, ordered: Sequence[float], outside: float) -> Interval:
    if not outside:
        return Interval(value, -math.inf, math.inf)
    last = len(ordered) - 1
    return Interval(value, ordered[math.floor(outside * last)], ordered[math.ceil((1 - outside) * last)])


def perplexity(loss: Interval) -> Interval:
    """A loss in nats a token as perplexity."""
    return Interval(*(math.exp(min(each, 700.0)) for each in (loss.value, loss.low, loss.high)))


def share(passed: int, asked: int) -> Interval:
    """How many of such questions are passed, by Wilson's score interval: honest for 0 and for all of them too."""
    z = NormalDist().inv_cdf((1 + SURE) / 2)
    value = passed / asked
    middle = (value + z**2 / (2 * asked)) / (1 + z**2 / asked)
    half = z / (1 + z**2 / asked) * math.sqrt(value * (1 - value) / asked + z**2 / (4 * asked**2))
    return Interval(value, max(0.0, middle - half), min(1.0, middle + half))


def shares_change(base: int, tuned: int, asked: int) -> Interval:
    """How much larger the tuned model's share is (R. Newcombe's method 10, Statistics in Medicine 17, 1998).

    That both were asked the same questions is left out of account, so the interval is rather too wide.
    """
    before, after = share(base, asked), share(tuned, asked)
    value = after.value - before.value
    low = value - math.hypot(after.value - after.low, before.high - before.value)
    high = value + math.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, low, high)


def normal(base: tuple[float, float], tuned: tuple[float, float]) -> Interval:
    """The change between two figures, each with its standard error."""
    z = NormalDist().inv_cdf((1 + SURE) / 2)
    value, half = tuned[0] - base[0], z * math.hypot(base[1], tuned[1])
    return Interval(value, value - half, value + half)


def verdict(gain: Interval, alike: float) -> Verdict:
    """What the interval of a gain (up is good) says; a gain that is surely smaller than ``alike`` is none.

    ``unclear`` is not ``same``: the one says that the rows cannot tell, the other that there is nothing to tell.
    """
    if -alike <= gain.low and gain.high <= alike:
        return "same"
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "unclear"


def turned(change: Interval) -> Interval:
    """The gain in a figure that is good when it is low."""
    return Interval(-change.value, -change.high, -change.low)
