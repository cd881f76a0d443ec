"""Curves as text: points in, rows of (characters, role) runs out, two by four braille dots to a cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter

Point = tuple[float, float]
_x, _y, _role = itemgetter(0), itemgetter(1), itemgetter(1)
Run = tuple[str, str]
"""Characters and the role they play: axis, band, raw, line, mark, bad or space."""

_BLANK = 0x2800
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_UPPER, _LOWER = 0x1B, 0xE4
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = "_.,-=+*#"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values to dots of a field of ``width`` by ``height`` cells; a y outside the range lands on the edge."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: int
    height: int

    def column(self, x: float) -> int:
        """The dot column of ``x``, 0 to 2 * width - 1."""
        last = 2 * self.width - 1
        at = round((x - self.x0) / (self.x1 - self.x0) * last)
        return 0 if at < 0 else min(at, last)

    def row(self, y: float) -> int:
        """The dot row of ``y`` counted from the top, 0 to 4 * height - 1."""
        last = 4 * self.height - 1
        at = round((self.y1 - y) / (self.y1 - self.y0) * last)
        return 0 if at < 0 else min(at, last)


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw: points of (step, value), points to mark, a target band, how to write a y value.

    ``zero`` keeps 0 in sight, so that a small change looks small.
    """

    points: Sequence[Point]
    marks: Sequence[Point] = ()
    band: tuple[float, float] | None = None
    smoothed: bool = True
    zero: bool = False
    label: Callable[[float], str] = "{:.4g}".format


@dataclass(frozen=True, slots=True)
class Bucket:
    """Neighbouring points as one: the first step, the mean, and the extremes so that no spike is lost."""

    x: float
    mean: float
    low: float
    high: float
    count: int


def finite(points: Sequence[Point]) -> list[Point]:
    """The points that can be drawn: no NaN, no infinity."""
    if all(map(math.isfinite, map(_y, points))):  # the common case, several times faster than the loop below
        return list(points)
    return [point for point in points if math.isfinite(point[1])]


def thin(points: Sequence[Point], count: int) -> list[Bucket]:
    """At most ``count`` buckets of finite ``points`` in their order; sums are taken over slices, which is fast."""
    ys = list(map(_y, points))
    size = min(count, len(points))
    edges = [index * len(points) // size for index in range(size + 1)] if size else []
    return [
        Bucket(points[a][0], sum(part) / (b - a), min(part), max(part), b - a)
        for a, b in pairwise(edges)
        for part in (ys[a:b],)
    ]


def smooth(buckets: Sequence[Bucket]) -> list[Point]:
    """A bias-corrected exponential average; a resumed run starts anew.

    It spans 10 points; an eighth of a curve of less than 80, so as not to lag, a fortieth of one of more than 400.
    """
    count = sum(bucket.count for bucket in buckets)
    beta = 1 - 1 / max(1.5, min(10.0, count / 8), count / 40)
    out: list[Point] = []
    total = weight = 0.0
    previous = -math.inf
    for bucket in buckets:
        if bucket.x < previous:
            total = weight = 0.0
        keep = beta**bucket.count
        total, weight = keep * total + (1 - keep) * bucket.mean, keep * weight + (1 - keep)
        previous = bucket.x
        out.append((bucket.x, total / weight))
    return out


def bounds(buckets: Sequence[Bucket], extra: Iterable[float] = ()) -> tuple[float, float]:
    """The y range to show: without the first 5 % (warm-up) and the highest 2 % (spikes) of a long curve."""
    settled = buckets[len(buckets) // 20 if len(buckets) >= 40 else 0 :]
    highs = sorted(bucket.high for bucket in settled)
    top = highs[: len(highs) - len(highs) // 50][-1:]
    values = [*(bucket.low for bucket in settled), *top, *extra]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    floor = 0.0 if low >= 0 else -math.inf
    return max(floor, low - margin), high + margin


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most ``count`` + 1 round numbers (1, 2 or 5 times a power of ten apart) from ``low`` to ``high``."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def spark(values: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """One row of at most ``width`` bars: the mean of each bucket; noise of a few per cent stays flat."""
    means = [bucket.mean for bucket in thin(finite([(0.0, value) for value in values]), max(0, width))]
    if not means:
        return ""
    low, high = min(means), max(means)
    reach = max(high - low, 0.2 * abs(high)) or 1.0
    floor = low - (reach - (high - low)) / 2
    bars = _ASCII_BARS if ascii_only else _BARS
    return "".join(bars[int((mean - floor) / reach * 7.99)] for mean in means)


def draw(chart: Chart, width: int, height: int, *, ascii_only: bool = False) -> list[list[Run]]:
    """``height`` rows of exactly ``width`` cells: y axis, target band, raw points, smoothed line, marks.

    A NaN or infinite point is a cross on the top row. Raises ValueError when nothing fits (width < 12, height < 1).
    """
    if width < 12 or height < 1:
        raise ValueError(f"a chart needs 12 columns and 1 row, not {width} by {height}")
    points = finite(chart.points)
    buckets = thin(points, 2 * width)
    low, high = bounds(
        buckets, [*(chart.band or ()), *((0.0,) if chart.zero else ()), *(y for _, y in finite(chart.marks))]
    )
    labels = _axis(chart, low, high, height)
    margin = max(map(len, labels.values()), default=0)
    x0, x1 = span(chart.points)
    scale = Scale(x0, x1, low, high, width - margin - 1, height)
    field = [[(" ", "space")] * scale.width for _ in range(height)]
    _band(field, chart.band, scale, ascii_only)
    if chart.smoothed:
        _paint(field, _dots(_sample(points, buckets), scale), "raw", ascii_only)
    line = smooth(buckets) if chart.smoothed else [(bucket.x, bucket.mean) for bucket in buckets]
    _paint(field, _trace(line, scale), "line", ascii_only)
    _marks(field, _few(finite(chart.marks), scale.width // 6), scale, "mark", "o" if ascii_only else "◆")
    if len(points) < len(chart.points):
        bad = [(x, high) for x, y in chart.points if not math.isfinite(y)]
        _marks(field, bad, scale, "bad", "x" if ascii_only else "✗")
    return _framed(field, labels, margin, ascii_only)


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LINES = ("line", "mark", "OK", "WATCH", "bad", "raw")
"""The roles of the lines of an overlay, in turn: the letter at its end says whose a line is, colour or not."""


def overlay(curves: Sequence[Sequence[Point]], width: int, height: int, *, ascii_only: bool = False) -> list[list[Run]]:
    """The smoothed lines of several curves on one scale, each ending in its letter; sizes as in ``draw``."""
    thinned = [thin(finite(points), 2 * width) for points in curves]
    ranges = [bounds(buckets) for buckets in thinned if buckets] or [(0.0, 1.0)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    labels = _axis(Chart(()), low, high, height)
    margin = max(map(len, labels.values()), default=0)
    spans = [span(finite(points)) for points in curves if finite(points)] or [(0.0, 1.0)]
    x0, x1 = min(first for first, _ in spans), max(last for _, last in spans)
    scale = Scale(x0, x1, low, high, width - margin - 1, height)
    field = [[(" ", "space")] * scale.width for _ in range(height)]
    lines = [smooth(buckets) for buckets in thinned]
    for index, line in enumerate(lines):
        _paint(field, _trace(line, scale), LINES[index % len(LINES)], ascii_only)
    for index, line in enumerate(lines):
        _marks(field, line[-1:], scale, LINES[index % len(LINES)], LETTERS[index % len(LETTERS)])
    return _framed(field, labels, margin, ascii_only)


def _framed(field: list[list[Run]], labels: dict[int, str], margin: int, ascii_only: bool) -> list[list[Run]]:
    stem, tick = ("|", "+") if ascii_only else ("│", "┤")
    return [
        [(labels.get(row, "").rjust(margin) + (tick if row in labels else stem), "axis"), *_runs(cells)]
        for row, cells in enumerate(field)
    ]


def _axis(chart: Chart, low: float, high: float, height: int) -> dict[int, str]:
    """Cell row -> label: the edges of the band first, then round numbers where there is room."""
    scale = Scale(0, 1, low, high, 1, height)
    rows: dict[int, str] = {}
    gap = 1 if height <= 4 else 2
    for value in (*(chart.band or ()), *ticks(low, high, max(3, height // 3))):
        row = scale.row(value) // 4
        if all(abs(row - other) >= gap for other in rows) and chart.label(value) not in rows.values():
            rows[row] = chart.label(value)
    return rows


def span(points: Sequence[Point]) -> tuple[float, float]:
    """The first and the last step on the x axis; never an empty range."""
    xs = list(map(_x, points)) or [0.0]
    first = min(xs)
    return first, max(max(xs), first + 1.0)


def _sample(points: Sequence[Point], buckets: Sequence[Bucket]) -> list[Point]:
    """Some raw points and every bucket's extremes: as dense as they lie, at a cost that the width bounds."""
    stride = max(1, len(points) // (len(buckets) or 1))
    if stride == 1:
        return list(points)
    return [*points[::stride], *((b.x, b.low) for b in buckets), *((b.x, b.high) for b in buckets)]


def _dots(points: Sequence[Point], scale: Scale) -> bytearray:
    """Braille bits of every cell, one dot to a point; a spike stays on the edge, a warm-up above it goes."""
    cells = bytearray(scale.width * scale.height)
    warm = scale.x0 + (scale.x1 - scale.x0) / 20
    for x, y in points:
        if y <= scale.y1 or x > warm:
            _set(cells, scale.width, scale.column(x), scale.row(y))
    return cells


def _trace(points: Sequence[Point], scale: Scale) -> bytearray:
    """The same with neighbours joined; a step that goes back (a resumed run) starts a new stroke."""
    cells = bytearray(scale.width * scale.height)
    placed = [(x, y, scale.column(x), scale.row(y)) for x, y in points]
    for _, y, column, row in placed[:1]:
        if y <= scale.y1:
            _set(cells, scale.width, column, row)
    for (x0, y0, c0, r0), (x1, y1, c1, r1) in pairwise(placed):
        if x1 >= x0 and (y0 <= scale.y1 or y1 <= scale.y1):
            _stroke(cells, scale.width, (c0, r0), (c1, r1))
    return cells


def _stroke(cells: bytearray, width: int, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Dots from after ``start`` to ``end``."""
    across, down = end[0] - start[0], end[1] - start[1]
    reach = max(abs(across), abs(down))
    for index in range(1, reach + 1):
        _set(cells, width, start[0] + round(across * index / reach), start[1] + round(down * index / reach))


def _set(cells: bytearray, width: int, column: int, row: int) -> None:
    cells[(row >> 2) * width + (column >> 1)] |= _BITS[row & 3][column & 1]


def _paint(field: list[list[Run]], cells: bytearray, role: str, ascii_only: bool) -> None:
    width = len(field[0])
    for index, bits in enumerate(cells):
        if bits:
            char = _ascii(bits, role) if ascii_only else chr(_BLANK | bits)
            field[index // width][index % width] = (char, role)


def _ascii(bits: int, role: str) -> str:
    if role == "line":
        return "*"
    return ":" if bits & _UPPER and bits & _LOWER else "'" if bits & _UPPER else "."


def _band(field: list[list[Run]], band: tuple[float, float] | None, scale: Scale, ascii_only: bool) -> None:
    for value in band or ():
        field[scale.row(value) // 4] = [("-" if ascii_only else "┄", "band")] * scale.width


def _few(points: Sequence[Point], count: int) -> Sequence[Point]:
    """At most ``count`` of the points, evenly, the last among them: marks must not hide the line."""
    return points[:: -max(1, math.ceil(len(points) / max(1, count)))]


def _marks(field: list[list[Run]], points: Iterable[Point], scale: Scale, role: str, sign: str) -> None:
    for x, y in points:
        field[scale.row(y) // 4][scale.column(x) // 2] = (sign, role)


def _runs(cells: list[Run]) -> list[Run]:
    return [("".join(char for char, _ in group), role) for role, group in groupby(cells, key=_role)]
