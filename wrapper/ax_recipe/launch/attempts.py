"""One attempt at a stage: its programs from start to exit code, stopped in time, and nothing left of them."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ax_recipe import process
from ax_recipe.errors import ProgramFailedError, StoppedError
from ax_recipe.launch.gathering import Gathering
from ax_recipe.run import belonging
from ax_recipe.run.rundir import RunDir, StageRecord
from ax_recipe.survive import watching
from ax_recipe.survive.watching import SPARE_S, HungError, Watch

# Our plugin writes a whole checkpoint within this time (seconds): an 8B adapter takes 3, a full 8B model a minute.
CHECKPOINT_GRACE_S = 120.0
# What a signal from outside makes of an exit code. Axolotl itself exits 0 after SIGINT.
_STOPPED = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, 128 + signal.SIGTERM, 128 + signal.SIGINT}


@dataclass(slots=True)
class Call:
    """What the runner is asked for from outside: ``asked`` times to stop; by ``deadline`` (monotonic) at the latest.

    ``copying_s`` is how long the run's folder takes to its mirror, after all else.
    """

    asked: int = 0
    deadline: float | None = None
    limit: float = 0.0
    copying_s: float = 0.0

    def until(self, seconds: float | None) -> None:
        """The run's time is up ``seconds`` from now."""
        if seconds is not None:
            self.deadline, self.limit = time.monotonic() + seconds, seconds

    def reason(self, needs_s: float = SPARE_S) -> str:
        """Why to stop now, or nothing; ``needs_s`` is how long stopping takes, at most half of the whole time."""
        if self.asked:
            return "stopped as asked"
        needs_s = min(needs_s + self.copying_s, self.limit / 2)
        if self.deadline is not None and time.monotonic() > self.deadline - needs_s:
            return f"its time limit of {self.limit:.0f} s came"
        return ""

    def hurried(self) -> bool:
        """Whether somebody asked more than once, or the time is really up."""
        return self.asked > 1 or (self.deadline is not None and time.monotonic() > self.deadline)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a stage; ``watch`` is there where it trains, and ``ends_hangs`` what is done about its word.

    ``nodes`` are the machines that take part where there are several.
    """

    run: RunDir
    record: StageRecord
    environment: Mapping[str, str]
    call: Call
    watch: Watch | None = None
    ends_hangs: bool = False
    nodes: Gathering | None = None

    @property
    def log(self) -> Path:
        """Where its programs write."""
        return self.run.log(self.record.name, self.record.attempt)

    def do(self, argv: Sequence[str]) -> None:
        """Run one program to its end; whatever happens, no process of it stays.

        :raises StoppedError: it was asked to stop, from here or by a signal from outside.
        :raises HungError: it hung, and was stopped.
        :raises ProgramFailedError: it ended with an error.
        :raises AxRecipeError: one of several machines did not come, has failed or was lost.
        """
        if self.nodes:
            self.nodes.call()
        child = process.start(argv, {**self.environment, **belonging.environment(self.run)}, self.log)
        try:
            reason, hung = self._wait(child)
            if hung:
                stacks = watching.dump(self.run, self.log, self.record.attempt)
            if reason or hung:
                self._stop(child, hung=bool(hung))
        finally:
            if self.nodes:
                if (left := child.exit_code()) is None:  # the others are no more
                    child.stop(lambda: True)
                self.nodes.dismiss(left)
            belonging.sweep(self.run, 0.0 if self.call.hurried() else belonging.LINGER_S)
        code = child.wait(process.POLL_S)
        if reason:
            raise StoppedError(reason)
        if hung:
            raise HungError(f"training hung: {hung}", f"where each process waited: {stacks}")
        _judge(argv, code or 0, self.log)

    def _wait(self, child: process.Child) -> tuple[str, str]:
        """Until it ends: nothing; until there is a reason to stop it, or it hangs: that."""
        while child.wait(process.POLL_S) is None:
            if self.nodes:
                self.nodes.look()
            word = self.watch.look() if self.watch else ""
            hung = word if self.ends_hangs else ""
            reason = self.call.reason(self.watch.needs_s if self.watch else SPARE_S)
            if reason or hung:
                return reason, hung
        if self.nodes and child.exit_code():
            self.nodes.judge()
        return "", ""

    def _stop(self, child: process.Child, *, hung: bool) -> None:
        """Asked by the file, our plugin saves a whole, resumable checkpoint, which no signal to Axolotl does."""
        if hung:  # it will not come to the end of a step, where it would see the file
            child.stop(lambda: True)
            return
        saves = self.watch is not None and self.watch.begun()
        if self.nodes and not saves:  # srun hears a signal less well than each machine hears us
            self.nodes.dismiss(None)
        if saves:
            self.run.stop_file.touch()
        try:
            if not saves or child.wait_patiently(CHECKPOINT_GRACE_S, self.call.hurried) is None:
                child.stop(self.call.hurried)
        finally:
            self.run.stop_file.unlink(missing_ok=True)


def _judge(argv: Sequence[str], code: int, log: Path) -> None:
    name = " ".join((Path(argv[0]).name, *argv[1:2]))
    words = f"exit code {code}" if code > 0 else signal.Signals(-code).name if code else ""
    if code in _STOPPED:
        raise StoppedError(f"{name} was ended from outside: {words}")
    if code:
        raise ProgramFailedError(f"{name} ended with {words}", f"its log: {log}", code)
