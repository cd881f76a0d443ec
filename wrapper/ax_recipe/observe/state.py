"""One state of a run: what every view shows, and ``replay --json`` prints."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from ax_recipe.observe import rules
from ax_recipe.observe.alerts import Alert, Band, Held
from ax_recipe.observe.curve import Curve
from ax_recipe.observe.events import DiskSample, Gpu, MirrorSample, Parameters, Saved
from ax_recipe.observe.schedule import expected
from ax_recipe.observe.windows import Windows

Status = Literal["running", "finished", "failed", "interrupted"]
TAIL = 200  # lines of the log that are kept
PACE_STEPS = 50  # whose median is the pace


@dataclass(slots=True)
class State:
    """Everything known about a run; its owner alone changes it, through `folding.advance`, and views read it.

    Memory is in GiB, times in Unix seconds as the events tell them, ``tokens_per_second`` is over all GPUs. Of a run
    folder, ``worked`` is how many seconds its stages took so far, but for the one that runs ``since`` then.
    """

    status: Status = "running"
    phase: str = "starting"
    stage: str | None = None
    stages: dict[str, str] = field(default_factory=dict)
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    total_epochs: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    first_eval_loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    active_gib: float | None = None
    allocated_gib: float | None = None
    reserved_gib: float | None = None
    tokens_per_second: float | None = None
    tokens_per_second_per_gpu: float | None = None
    world_size: int = 1
    started: float | None = None
    now: float | None = None
    worked: float | None = None
    since: float | None = None
    losses: Curve = field(default_factory=Curve)
    eval_losses: Curve = field(default_factory=Curve)
    grad_norms: Curve = field(default_factory=Curve)
    learning_rates: Curve = field(default_factory=Curve)
    actives: Curve = field(default_factory=Curve)
    throughputs: Curve = field(default_factory=Curve)
    checkpoint: Saved | None = None
    parameters: Parameters | None = None
    config: Mapping[str, Any] | None = None
    summary: dict[str, float] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    disk: DiskSample | None = None
    mirror: MirrorSample | None = None
    alerts: list[Alert] = field(default_factory=list)
    past: list[Alert] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)
    windows: Windows = field(default_factory=Windows)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    segments: int = 1
    exact: bool = False
    from_log: bool = False
    failure: str | None = None
    completed: bool = False
    repeats: int = 0
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=PACE_STEPS))
    trained_stage: str | None = ""
    logged_step: int | None = None
    failed_step: int | None = None
    paced: tuple[int, float] | None = None
    moved: float | None = None

    @property
    def trained(self) -> bool:
        """Whether this stage has trained: ``replay`` has no stages, and then it is the log's only one."""
        return self.trained_stage == self.stage

    @property
    def after_training(self) -> bool:
        """Whether another stage has trained and this one has not: the steps that are known are not its own."""
        return bool(self.trained_stage) and not self.trained

    def elapsed(self, now: float | None) -> float | None:
        """Seconds that stages have worked until ``now``, as ``runs`` counts them; of a log, since its first event."""
        begun = self.since if self.worked is not None else self.started
        going = max(0.0, now - begun) if now is not None and begun is not None else None
        return going if self.worked is None else self.worked + (going or 0.0)

    @property
    def step_seconds(self) -> float | None:
        """Seconds of one step: the median of the last ``PACE_STEPS``."""
        return median(self.paces) if self.paces else None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the last step, if the pace holds."""
        pace = self.step_seconds
        if pace is None or self.total_steps is None or self.status != "running":
            return None
        return pace * max(0, self.total_steps - self.step)

    @property
    def learning_rate_expected(self) -> float | None:
        """What the configured schedule gives for the last logged step; None for a schedule not known.

        Transformers 5 logs the rate that a step used, older ones the next step's: the nearer of the two is meant.
        """
        rate, step = self.learning_rate, self.logged_step
        if self.config is None or self.total_steps is None or rate is None or step is None:
            return None
        both = [expected(self.config, self.total_steps, position) for position in (max(0, step - 1), step)]
        return min((due for due in both if due is not None), key=lambda due: abs(due - rate), default=None)

    @property
    def severity(self) -> str:
        """``OK``, ``WATCH``, ``ACT`` or ``STOP``: the worst of all alerts and judgements."""
        return rules.judge(self).severity

    @property
    def verdict(self) -> str:
        """One sentence on how the run does, worst news first."""
        return rules.judge(self).verdict


def summary(state: State, target: Band | None = None) -> dict[str, Any]:
    """What ``replay --json`` prints; not-a-number values are the strings ``"nan"``, ``"inf"``, ``"-inf"``."""
    values = {name: _printable(getattr(state, name)) for name in _SUMMARY}
    found = rules.judge(state, target)
    alerts = [
        {"severity": alert.severity, "rule": alert.rule, "message": alert.message, "step": alert.step}
        for alert in found.alerts
    ]
    return {**values, "severity": found.severity, "verdict": found.verdict, "alerts": alerts}


_SUMMARY = (
    "status",
    "phase",
    "step",
    "total_steps",
    "epoch",
    "loss",
    "eval_loss",
    "grad_norm",
    "learning_rate",
    "active_gib",
    "allocated_gib",
    "reserved_gib",
    "tokens_per_second",
    "tokens_per_second_per_gpu",
    "segments",
    "failure",
)


def _printable(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
