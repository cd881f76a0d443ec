"""The recent past of a run in a few numbers, kept up at every log: middles, spreads, averages, and what they were."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

SIZE = 64
"""How many logs a spike is held against."""
ENOUGH = 16
_REFRESH = 16
_KEEP = 0.9


class Recent:
    """The last ``SIZE`` values; ``middle`` (median) and ``spread`` (quartiles / 1.349) lag by up to 16 logs.

    Before ``ENOUGH`` values have come, the middle is None.
    """

    __slots__ = ("middle", "spread", "values")

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=SIZE)
        self.middle: float | None = None
        self.spread = 0.0

    def refresh(self) -> None:
        """Bring middle and spread up to the values."""
        ordered = sorted(self.values)
        count = len(ordered)
        if count >= ENOUGH:
            self.middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
            self.spread = (ordered[3 * count // 4] - ordered[count // 4]) / 1.349

    @property
    def full(self) -> bool:
        """Whether as many values have come as are kept."""
        return len(self.values) == self.values.maxlen

    def late(self, count: int, before: int = 0) -> float:
        """The median of ``count`` values, ``before`` values from the end."""
        values = list(self.values)
        return median(values[len(values) - before - count : len(values) - before])


class Windows:
    """Everything that the rules remember of the logs of one training."""

    __slots__ = (
        "_boundary",
        "_epoch",
        "_total",
        "_weight",
        "average",
        "baseline",
        "best_average",
        "best_speed",
        "every",
        "falls",
        "first_step",
        "grads",
        "last_step",
        "logs",
        "losses",
        "next_look",
        "speeds",
        "start",
        "uneasy_until",
    )

    def __init__(self) -> None:
        self.logs = 0
        self.every = 1  # steps from one log to the next
        self.first_step = 0
        self.last_step = 0
        self.losses = Recent()
        self.grads = Recent()
        self.speeds: deque[float] = deque(maxlen=50)
        self.start: list[float] = []  # the first losses
        self.baseline: list[float] = []  # gradient norms behind the warm-up
        self.average = 0.0
        self.best_average = math.inf
        self.best_speed = 0.0
        self.falls: list[tuple[int, float]] = []  # steps at which an epoch began with a fall of the loss, and its share
        self.uneasy_until = 0
        self.next_look = 1
        self._total = 0.0
        self._weight = 0.0
        self._epoch = 0.0  # where the next one begins; 0 before the first log
        self._boundary: tuple[int, int] | None = None

    def calm(self, loss: float | None, grad: float | None) -> bool:
        """Whether no rule that is asked at every log can hold: true of nearly every step, and quickly said."""
        if not (loss and grad) or self.logs < self.uneasy_until:
            return False
        middle, usual = self.losses.middle, self.grads.middle
        return (
            1e-6 < loss <= (math.inf if middle is None else 1.25 * middle)
            and 0 < grad <= (100 if usual is None else min(100, 10 * usual))
            and self.average <= 1.5 * self.best_average
            and loss < math.inf
        )

    def add(self, step: int, loss: float | None, grad: float | None, epoch: float | None, warm: int) -> None:
        """Take the log of ``step``; ``warm`` steps are warm-up."""
        self.logs += 1
        if self.logs == 1:
            self.first_step = step
        elif step > self.last_step:
            self.every = step - self.last_step
        self.last_step = step
        if loss is not None and -math.inf < loss < math.inf:
            self.losses.values.append(loss)
            # An exponential average over about ten logs, without the pull of its start.
            self._total = _KEEP * self._total + (1 - _KEEP) * loss
            self._weight = _KEEP * self._weight + (1 - _KEEP)
            self.average = average = self._total / self._weight
            if average < self.best_average and self.logs >= ENOUGH:
                self.best_average = average
            if self.logs <= 16 and len(self.start) < 10:
                self.start.append(loss)
        if grad is not None and grad < math.inf:
            self.grads.values.append(grad)
            if len(self.baseline) < 100 and step > warm:
                self.baseline.append(grad)
        if self.logs % _REFRESH == 0:
            self.losses.refresh()
            self.grads.refresh()
        if epoch is not None and epoch < math.inf and (epoch >= self._epoch or self._boundary):
            self._epochs(step, epoch)

    def _epochs(self, step: int, epoch: float) -> None:
        """Twenty logs into an epoch, see whether its beginning lies lower than the trend before it explains."""
        if epoch >= self._epoch:
            self._boundary = (self.logs, step) if self._epoch > 0 else None
            self._epoch = math.floor(epoch) + 1.0
        if self._boundary and self.logs == self._boundary[0] + 20:
            began, self._boundary = self._boundary[1], None
            if len(self.losses.values) >= 60:
                earlier, before, after = (self.losses.late(20, back) for back in (40, 20, 0))
                if before - after > max(0.15 * before, 2 * (earlier - before)):
                    self.falls.append((began, 1 - after / before))
