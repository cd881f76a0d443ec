"""Curves: nothing is lost, nothing is drawn out of bounds, noise stays calm."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rich.cells import cell_len

from ax_recipe.view.curve import Chart, bounds, draw, finite, smooth, spark, thin, ticks

nan, inf = math.nan, math.inf
FALL = [(float(step), 3.0 - step / 50) for step in range(101)]


def rows(chart: Chart, width: int = 30, height: int = 6, *, ascii_only: bool = False) -> list[str]:
    """The chart without its roles."""
    return ["".join(text for text, _ in runs) for runs in draw(chart, width, height, ascii_only=ascii_only)]


def roles(chart: Chart, role: str) -> str:
    """All characters that play ``role``."""
    return "".join(text for runs in draw(chart, 40, 8) for text, name in runs if name == role)


def test_a_falling_line_falls() -> None:
    assert rows(Chart(FALL, smoothed=False), 24, 4) == [
        "3┤⠑⠒⠤⢄⣀                 ",
        "2┤     ⠉⠑⠒⠢⠤⣀⡀          ",
        " │           ⠉⠉⠒⠢⠤⣀⡀    ",
        "1┤                 ⠈⠉⠒⠢⠄",
    ]


def test_the_same_in_ascii() -> None:
    text = rows(Chart(FALL, [(50.0, 2.0)], (1.0, 1.5)), ascii_only=True)
    assert "".join(text).isascii()
    assert {"*", "o", "-", "|", "+"} < set("".join(text))


def test_a_spike_between_two_columns_is_still_drawn() -> None:
    points = [(float(step), 1.0) for step in range(4000)]
    points[2718] = (2718.0, 9.0)
    assert roles(Chart(points), "raw").strip(), "the spike is the only point off the line"


def test_a_point_that_is_no_number_is_a_cross() -> None:
    chart = Chart([*FALL, (101.0, nan), (102.0, inf)])
    assert "✗" in roles(chart, "bad")
    assert rows(Chart([(1.0, nan)]))[0].count("✗") == 1


def test_evaluations_are_marked_but_do_not_hide_the_line() -> None:
    assert roles(Chart(FALL, [(50.0, 2.0), (100.0, 1.0)]), "mark") == "◆◆"
    many = [(float(step), 2.0) for step in range(100)]
    assert 2 <= len(roles(Chart(FALL, many), "mark")) <= 40 // 6


def test_the_band_is_labelled_at_both_edges() -> None:
    text = "\n".join(rows(Chart(FALL, band=(0.5, 0.8)), 40, 20))
    assert "0.5┤" in text
    assert "0.8┤" in text


def test_a_resumed_run_starts_a_new_stroke() -> None:
    first, again = [(float(step), 1.0) for step in range(50)], [(float(step), 5.0) for step in range(20, 50)]
    columns = [row[2:] for row in rows(Chart([*first, *again], smoothed=False), 40, 8)]
    assert not any(char.strip() for row in columns[2:6] for char in row), "no line joins the two attempts"


def test_smoothing_follows_a_level_and_forgets_a_resume() -> None:
    first, again = [(float(step), 8.0) for step in range(60)], [(float(step), 2.0) for step in range(60)]
    line = smooth(thin([*first, *again], 999))
    assert line[0][1] == pytest.approx(8.0)
    assert line[59][1] == pytest.approx(8.0)
    assert line[60][1] == pytest.approx(2.0)


def test_the_warm_up_does_not_flatten_the_rest() -> None:
    points = [(float(step), 100.0 if step < 10 else 1.0 + step / 1000) for step in range(1000)]
    assert bounds(thin(points, 100))[1] < 3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
def test_thinning_keeps_every_point_in_one_bucket(values: list[float], count: int) -> None:
    buckets = thin([(float(index), value) for index, value in enumerate(values)], count)
    assert sum(bucket.count for bucket in buckets) == len(values)
    assert len(buckets) <= count
    assert min(bucket.low for bucket in buckets) == min(values)
    assert max(bucket.high for bucket in buckets) == max(values)


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(1, 12))
def test_ticks_are_few_and_inside(low: float, size: float, count: int) -> None:
    assume(size > abs(low) * 1e-9)  # below, neighbouring floats are farther apart than the ticks
    high = low + size
    found = ticks(low, high, count)
    assert len(found) <= count + 1
    assert all(low - size * 1e-6 <= tick <= high + size * 1e-6 for tick in found)


@given(
    st.lists(st.tuples(st.integers(0, 10**9).map(float), st.floats(width=32)), max_size=80),
    st.integers(12, 120),
    st.integers(1, 30),
    st.booleans(),
)
def test_a_chart_has_exactly_its_size(
    points: list[tuple[float, float]], width: int, height: int, ascii_only: bool
) -> None:
    found = rows(Chart(points, points[:3], (0.5, 0.8), zero=ascii_only), width, height, ascii_only=ascii_only)
    assert [cell_len(row) for row in found] == [width] * height


def test_a_chart_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="12 columns"):
        draw(Chart(FALL), 11, 5)


def test_a_spark_shows_the_way_and_leaves_noise_flat() -> None:
    assert spark([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert spark([8, 1], 20) == "█▁"
    assert set(spark([100, 101, 100, 99, 100], 5)) <= set("▃▄▅")
    assert spark([nan, inf], 5) == spark([], 5) == ""
    assert spark([1, 2, 3], 3, ascii_only=True).isascii()


def test_finite_leaves_out_what_has_no_place() -> None:
    assert finite([(1, 2.0), (2, nan), (3, -inf), (4, 0.0)]) == [(1, 2.0), (4, 0.0)]
