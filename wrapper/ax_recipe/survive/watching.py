"""The runner's own eye on a training: whether it hangs, and how long before a deadline it has to be asked to save."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from ax_recipe.errors import RunFailedError
from ax_recipe.observe import events, measures, rules
from ax_recipe.observe.alerts import Given
from ax_recipe.observe.folding import advance
from ax_recipe.observe.follow import Follower
from ax_recipe.observe.state import State
from ax_recipe.run import belonging
from ax_recipe.run.rundir import RunDir, write

EVERY_S = 1.0
# How long a checkpoint takes where none was seen yet, and what is added to those that were seen (seconds).
SAVE_S, SPARE_S = 120.0, 20.0
# How long a process may take to write its stacks, and how long it is quiet when it has.
DUMP_S, QUIET_S = 5.0, 0.1
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


def dump(run: RunDir, log: Path, attempt: int) -> Path:
    """Write where every process of the run on this machine waits."""
    write(run.stacks(attempt), "\n".join(waits(belonging.processes(run), log)))
    return run.stacks(attempt)


def waits(found: list[psutil.Process], log: Path) -> Iterator[str]:
    """Where each process waits: what the kernel knows, and on Linux the Python stacks of those that our plugin is in.

    They write these to their ``log`` on SIGUSR2, by Python's faulthandler: that needs no rights over other processes,
    and works where they wait in native code.
    """
    for each in found:
        try:
            cpu = each.cpu_times()
            yield f"process {each.pid} (parent {each.ppid()}), {each.status()}, {each.num_threads()} threads, "
            yield f"  {cpu.user:.0f} s of CPU, {cpu.system:.0f} s in the kernel: {' '.join(each.cmdline())}"
            yield _stacks(each, log) if _hears(each) else ""
        except psutil.Error:
            continue


def _hears(each: psutil.Process) -> bool:
    """Whether it has a handler for SIGUSR2, which would else end it (Linux, proc_pid_status(5): SigCgt)."""
    try:
        status = Path(f"/proc/{each.pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGUSR2 - 1) & 1)


def _stacks(each: psutil.Process, log: Path) -> str:
    """What it writes once it is asked: until nothing more came for a moment, or nothing at all."""
    size = start = log.stat().st_size
    each.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + DUMP_S
    while time.monotonic() < deadline:
        time.sleep(QUIET_S)
        before, size = size, log.stat().st_size
        if size == before > start:
            break
    with log.open("rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")
