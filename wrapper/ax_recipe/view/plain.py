"""The run as plain lines, for pipes, batch jobs and screen readers: now and then a line, news at once."""

from __future__ import annotations

from ax_recipe.observe import rules
from ax_recipe.observe.alerts import Alert, Band
from ax_recipe.observe.state import State
from ax_recipe.view import figures

EVERY_S = 30.0
"""Seconds of the run's own time between two lines without news."""


TRAINING = (None, "base", "train")
"""The stages whose figures are a training's; a foreign log has no stage."""


class PlainLines:
    """Remembers what was said; ``lines`` gives what is new. Time is the events', so a replay reads the same."""

    def __init__(self, every: float = EVERY_S, target: Band | None = None) -> None:
        self._every = every
        self._target = target
        self._said_at: float | None = None
        self._places: set[tuple[str | None, str]] = set()
        self._told: set[tuple[str, int | None]] = set()
        self._done: tuple[str | None, str] | None = None

    def lines(self, state: State) -> list[str]:
        """The lines to print now, most often none: alerts and changes of stage, phase or outcome come at once."""
        news = self._news(state)
        out = [self._alert(state, alert) for alert in news]
        self._told.update(_key(state, alert) for alert in news)
        if state.status != "running":
            return out + self._end(state)
        self._done = None
        place = (state.stage, state.phase)
        if place not in self._places or self._due(state):
            out.append(line(state))
            self._said_at = state.now
        self._places.add(place)
        return out

    def _news(self, state: State) -> list[Alert]:
        """The alerts not told yet; how it ended is told with the verdict, and a judgement's numbers may go on."""
        if state.stage not in TRAINING:
            return []
        alerts = rules.judge(state, self._target).alerts
        return [alert for alert in alerts if alert.rule != state.status and _key(state, alert) not in self._told]

    def _due(self, state: State) -> bool:
        if state.now is None or self._said_at is None:
            return False
        return state.now - self._said_at >= self._every

    def _alert(self, state: State, alert: Alert) -> str:
        where = f"step {alert.step:,}: " if alert.step else ""
        return figures.clean(f"{_elapsed(state)} {alert.severity} {where}{alert.message}")

    def _end(self, state: State) -> list[str]:
        """One closing line to a stage, with the verdict on it."""
        place = (state.stage, state.status)
        if place == self._done:
            return []
        self._done = place
        self._places.clear()
        if state.stage not in TRAINING:
            return [line(state)]
        found = rules.judge(state, self._target)
        return [line(state), figures.clean(f"{_elapsed(state)} {found.severity} {found.verdict}")]


def _key(state: State, alert: Alert) -> tuple[str, int | None]:
    """What makes an alert the same one: a judgement that is made anew has no step of its own."""
    return alert.rule, alert.step if alert in state.alerts else None


def line(state: State) -> str:
    """Where the run stands, in one line without colour; what is unknown is left out."""
    place = f"{state.stage}: {state.phase}" if state.stage else state.phase
    if state.stage not in TRAINING or not state.step:
        return figures.clean(f"{_elapsed(state)} {place}")
    total = f"{state.total_steps:,}" if state.total_steps else "?"
    share = f" ({state.step / state.total_steps:.0%})" if state.total_steps else ""
    pairs = [
        ("step", f"{state.step:,}/{total}{share}" if state.step else "-"),
        ("epoch", figures.epochs(state.epoch, state.total_epochs)),
        ("loss", figures.value(state.loss)),
        ("eval", figures.value(state.eval_loss)),
        ("grad", figures.value(state.grad_norm)),
        ("lr", figures.rate(state.learning_rate)),
        ("tokens/s", figures.thousands(state.tokens_per_second)),
        ("active", figures.gib(state.active_gib or None)),  # a CPU has none
        ("reserved", figures.gib(state.reserved_gib or None)),
        ("ETA", figures.duration(state.eta_seconds)),
    ]
    words = [f"{name} {figure}" for name, figure in pairs if figure != "-"]
    return figures.clean("  ".join([f"{_elapsed(state)} {place}", *words]))


def _elapsed(state: State) -> str:
    return figures.clock(state.elapsed(state.now))
