"""The runner's own eye on a training: whether it hangs, and how long before a deadline it has to be asked to save."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from ax_recipe import process
from ax_recipe.errors import RunFailedError
from ax_recipe.observe import events, measures, rules
from ax_recipe.observe.alerts import Given
from ax_recipe.observe.follow import Follower
from ax_recipe.observe.state import State, advance
from ax_recipe.run import belonging
from ax_recipe.run.rundir import RunDir, write

EVERY_S = 1.0
# How long a checkpoint takes where none was seen yet, and what is added to those that were seen (seconds).
SAVE_S, SPARE_S = 120.0, 20.0
DUMP_S = 30.0
# A clock that was set, or a machine that slept (seconds): what was before says nothing of a silence.
JUMP_S = 5.0


class HungError(RunFailedError):
    """Nothing has come of a training for far longer than a step takes."""


class Watch:
    """Reads one training's exact events once a second; of its log it knows only whether it grows."""

    def __init__(
        self, exact: Path, log: Path, hang_s: float | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """``clock`` gives unix seconds, as events have them."""
        self._exact, self._log, self._clock = Follower(exact), log, clock
        rule = rules.BY_NAME["hang"]
        self._rule = replace(rule, limit=rule.limit if hang_s is None else hang_s)
        self._state = State()
        self._size = 0
        self._next = 0.0
        self._ahead = clock() - time.monotonic()
        self._saving: float | None = None
        self._longest_save: float | None = None
        for event in self._events():  # those of earlier attempts: how long saving takes is all that still holds
            self._time(event)

    def look(self) -> str:
        """Read on, if a second has passed; say since when nothing came, if that is too long."""
        now = time.monotonic()
        if now < self._next:
            return ""
        self._next = now + EVERY_S
        self._read(self._clock())
        reading = measures.hang(Given(self._state), self._rule)
        if reading is None or not reading.holds:
            return ""
        pace = reading.words["pace"]
        return f"nothing came for {reading.value:.0f} s at step {self._state.step}, where a step takes {pace} s"

    def begun(self) -> bool:
        """Whether it trains, so that there is something to save."""
        self._read(self._clock())
        return self._state.total_steps is not None

    @property
    def needs_s(self) -> float:
        """Seconds from asking for a stop until the checkpoint is whole: two steps, and twice what saving took."""
        steps = 2 * (self._state.step_seconds or 0.0)
        return SPARE_S + steps + (SAVE_S if self._longest_save is None else 2 * self._longest_save)

    def _read(self, now: float) -> None:
        for event in self._events():
            advance(self._state, event)
            self._time(event)
        ahead, self._ahead = self._ahead, now - time.monotonic()
        jumped = abs(self._ahead - ahead) > JUMP_S
        size = self._log.stat().st_size if self._log.exists() else 0
        if size != self._size or jumped:
            self._size = size
            advance(self._state, events.Line("", time=now))
        advance(self._state, events.Tick(now))

    def _events(self) -> Iterator[events.Event]:
        return filter(None, map(events.from_json, self._exact.poll()))

    def _time(self, event: events.Event) -> None:
        if isinstance(event, events.Phase):
            self._saving = event.time if event.name == "saving" else self._saving
        elif isinstance(event, events.Saved) and event.time is not None and self._saving is not None:
            self._longest_save = max(self._longest_save or 0.0, event.time - self._saving)


def dump(run: RunDir, attempt: int) -> Path:
    """Write where every process of the run waits: what the kernel knows, and the Python stacks where py-spy is."""
    spy = shutil.which("py-spy") or _beside(run)
    write(run.stacks(attempt), "\n".join(_lines(belonging.processes(run), spy)))
    return run.stacks(attempt)


def _beside(run: RunDir) -> str | None:
    found = Path(run.read_json(run.orders)["axolotl"]["python"]).with_name("py-spy")
    return str(found) if found.is_file() else None


def _lines(found: list[psutil.Process], spy: str | None) -> Iterator[str]:
    yield "" if spy else "py-spy is not installed: pip install py-spy shows the Python stacks, too"
    for each in found:
        try:
            cpu = each.cpu_times()
            yield f"process {each.pid} (parent {each.ppid()}), {each.status()}, {each.num_threads()} threads, "
            yield f"  {cpu.user:.0f} s of CPU, {cpu.system:.0f} s in the kernel: {' '.join(each.cmdline())}"
        except psutil.Error:
            continue
        if spy:
            yield process.words((spy, "dump", "--pid", str(each.pid)), DUMP_S) or "  py-spy could not look into it"
