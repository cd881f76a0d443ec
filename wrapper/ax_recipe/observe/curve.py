"""A bounded line of points: what is kept of a figure, however long the training."""

from __future__ import annotations

import math
from collections.abc import Sequence

POINTS = 2048


class Curve:
    """A bounded line of points: beyond ``POINTS`` every bucket of neighbours is its lowest and its highest point.

    A bucket with points that are not finite is its first such point instead.
    """

    __slots__ = ("_closed", "_size", "_xs", "_ys")

    def __init__(self) -> None:
        self._closed: list[tuple[float, float]] = []
        self._xs: list[float] = []
        self._ys: list[float] = []
        self._size = 1

    def add(self, x: float, y: float) -> None:
        """Append a point; ``x`` may go back where a run was resumed."""
        xs = self._xs
        xs.append(x)
        self._ys.append(y)
        if len(xs) >= self._size:
            self._close()

    def move_last(self, x: float) -> None:
        """Put the newest point at ``x``: its step became known only after it."""
        if self._xs:
            self._xs[-1] = x
        elif self._closed:
            self._closed[-1] = (x, self._closed[-1][1])

    @property
    def points(self) -> list[tuple[float, float]]:
        """All points kept, oldest first."""
        return self._closed + list(zip(self._xs, self._ys, strict=True))

    def __len__(self) -> int:
        return len(self._closed) + len(self._xs)

    def tail(self, count: int) -> list[tuple[float, float]]:
        """The last ``count`` points kept, oldest first."""
        open_points = list(zip(self._xs[-count:], self._ys[-count:], strict=True))
        missing = count - len(open_points)
        return self._closed[-missing:] + open_points if missing > 0 else open_points

    @property
    def last(self) -> float | None:
        """The newest value."""
        if self._ys:
            return self._ys[-1]
        return self._closed[-1][1] if self._closed else None

    def _close(self) -> None:
        """End the open bucket, and halve the points when there are too many."""
        self._closed += _extremes(self._xs, self._ys)
        self._xs, self._ys = [], []
        if len(self._closed) >= POINTS:
            points, self._closed = self._closed, []
            for start in range(0, len(points), 4):
                xs, ys = zip(*points[start : start + 4], strict=True)
                self._closed += _extremes(xs, ys)
            self._size = max(4, 2 * self._size)


def _extremes(xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
    if len(ys) == 1:
        return [(xs[0], ys[0])]
    if not math.isfinite(sum(ys)):
        odd = [index for index, y in enumerate(ys) if not math.isfinite(y)]
        if odd:
            return [(xs[odd[0]], ys[odd[0]])]
    low, high = ys.index(min(ys)), ys.index(max(ys))
    return [(xs[index], ys[index]) for index in sorted({low, high})]
