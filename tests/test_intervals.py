"""Intervals hold what they promise: what is true lies in them 19 times of 20, however few the rows."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ax_recipe.results import intervals
from ax_recipe.results.intervals import Interval, Rows


def rows(draw: random.Random, count: int, gain: float) -> Rows:
    tokens = [draw.randint(5, 60) for _ in range(count)]
    base = [n * draw.gauss(3.0, 0.6) for n in tokens]
    tuned = [cost - n * draw.gauss(gain, 0.3) for n, cost in zip(tokens, base, strict=True)]
    return Rows(tokens, base, tuned)


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, 30, 500])
def test_the_true_change_lies_in_the_interval_19_times_of_20(count: int) -> None:
    draw = random.Random(7)
    inside = 0
    for _ in range(200):
        change = intervals.losses(rows(draw, count, 0.2)).change
        inside += change.low <= -0.2 <= change.high
    assert 180 <= inside <= 199


def test_pairs_see_what_each_model_alone_does_not() -> None:
    found = intervals.losses(rows(random.Random(1), 40, 0.3))
    assert found.base.low < found.tuned.high, "apart from each other they overlap"
    assert intervals.verdict(intervals.turned(found.change), 0.03) == "better"


def test_few_rows_say_nothing() -> None:
    change = intervals.losses(Rows([10, 10], [30.0, 31.0], [10.0, 11.0])).change
    assert (change.low, change.high) == (-math.inf, math.inf)
    assert intervals.verdict(intervals.turned(change), 0.01) == "unclear"


def test_many_rows_are_resampled_in_groups_with_the_same_mean() -> None:
    many = rows(random.Random(3), 5000, 0.1)
    found = intervals.losses(many)
    assert found.tuned.value == pytest.approx(sum(many.tuned) / sum(many.tokens))
    assert found.change.high - found.change.low < 0.05


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        (Interval(0.5, 0.2, 0.8), "better"),
        (Interval(-0.5, -0.8, -0.2), "worse"),
        (Interval(0.001, -0.004, 0.006), "same"),
        (Interval(0.005, 0.001, 0.009), "same"),
        (Interval(0.1, -0.2, 0.4), "unclear"),
    ],
)
def test_a_word_is_said_only_when_the_interval_says_it(gain: Interval, word: str) -> None:
    assert intervals.verdict(gain, 0.01) == word


def test_known_intervals() -> None:
    # Newcombe 1998, table I and II: 81 of 263 by Wilson's method, and 56 of 70 against 48 of 80 cut to equal counts.
    known = intervals.share(81, 263)
    assert (round(known.low, 4), round(known.high, 4)) == (0.2553, 0.3662)
    assert intervals.share(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    # Student, The Probable Error of a Mean, 1908: ten differences in hours of sleep, t = 2.262 for nine degrees.
    slept = intervals.mean([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    assert (round(slept.value, 2), round(slept.low, 2), round(slept.high, 2)) == (1.58, 0.70, 2.46)
    assert intervals.mean([1.0, 2.0]).high == math.inf
    sure = intervals.shares_change(0, 10, 10)
    assert sure.low == pytest.approx(1 - math.hypot(0.2775, 0.2775), abs=1e-3)


@given(some.integers(1, 400).flatmap(lambda n: some.tuples(some.integers(0, n), some.integers(0, n), some.just(n))))
def test_shares_and_their_change_stay_in_bounds(counts: tuple[int, int, int]) -> None:
    base, tuned, asked = counts
    change = intervals.shares_change(base, tuned, asked)
    assert -1 - 1e-9 <= change.low <= change.value <= change.high <= 1 + 1e-9
    opposite = intervals.shares_change(tuned, base, asked)
    assert opposite.low == pytest.approx(-change.high)
    share = intervals.share(tuned, asked)
    assert 0 <= share.low <= share.value + 1e-12 <= share.high + 2e-12 <= 1 + 3e-12


def test_perplexity_is_what_the_loss_means() -> None:
    assert intervals.perplexity(Interval(math.log(8), 0.0, math.inf)).value == pytest.approx(8)
