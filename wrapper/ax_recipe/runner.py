"""The only loop: runs the stages of one run folder in order, in a process of its own that no terminal ends.

``python -m ax_recipe.runner RUN [STAGE ...]`` runs what is not done yet, or does the named stages again.
"""

from __future__ import annotations

import fcntl
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from ax_recipe import environment, outcomes, process
from ax_recipe.errors import AxRecipeError, MissingError, RunFailedError
from ax_recipe.outcomes import Outcome
from ax_recipe.rundir import RunDir, StageRecord, StageState

# Our plugin writes a whole checkpoint within this time (seconds): an 8B adapter takes 3, a full 8B model a minute.
CHECKPOINT_GRACE_S = 120.0


class StoppedError(Exception):
    """Somebody asked the run to stop."""


class Runner:
    """Runs one run folder; a SIGTERM or SIGINT makes it end its child, note it, and leave."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.orders: dict[str, Any] = run.read_json(run.orders)
        self.state = run.read_state()
        self.stopping = False

    def go(self, again: Sequence[str] = ()) -> int:
        """Run every stage that is not done, or exactly those in ``again``; give the exit code."""
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, self._ask_to_stop)
        # Beside the first stage: asking the training environment what it holds takes a moment of its start.
        threading.Thread(target=environment.record, args=(self.run,)).start()
        for stage in self.orders["stages"]:
            record = self.state.stage(stage["name"])
            wanted = stage["name"] in again if again else record.state not in ("done", "skipped")
            if wanted and not self._run(stage, record):
                return 130 if self.stopping else 1
        return 0

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _run(self, stage: dict[str, Any], record: StageRecord) -> bool:
        if stage["skip"]:
            self._note(replace(record, state="skipped", detail=stage["skip"]))
            return True
        record = replace(
            record, state="running", attempt=record.attempt + 1, started=time.time(), ended=None, detail=""
        )
        self._note(record)
        state: StageState
        try:
            outcome = self._work(stage, record)
            state, detail = "skipped" if outcome.skipped else "done", outcome.detail
            record = replace(record, figures=dict(outcome.figures))
        except StoppedError:
            state, detail = "interrupted", "stopped as asked"
        except AxRecipeError as error:
            state, detail = "failed", str(error)
        except BaseException:
            # A bug of ours: its traceback belongs in runner.log, and the run must not look as if it went on.
            self._note(
                replace(record, state="failed", detail=f"ax-recipe failed: {self.run.runner_log}", ended=time.time())
            )
            raise
        self._note(replace(record, state=state, detail=detail, ended=time.time()))
        return state in ("done", "skipped")

    def _work(self, stage: dict[str, Any], record: StageRecord) -> Outcome:
        if self.stopping:
            raise StoppedError
        with _alone(stage, self.orders):
            if stage["name"] == "base" and outcomes.is_made(Path(self.orders["base"])):
                return Outcome("made before from the same text: nothing to do")
            for argv in stage["argvs"]:
                self._program(argv, stage, self.run.log(stage["name"], record.attempt))
            # The exit code is no proof: Axolotl exits 0 on NaN, on all-masked labels and when it was interrupted.
            return outcomes.OF[stage["name"]](self.run, self.orders)

    def _program(self, argv: Sequence[str], stage: dict[str, Any], log: Path) -> None:
        child = process.start(argv, stage["environment"], log)
        while (code := child.wait(0.1)) is None and not self.stopping:
            continue
        if code is None:
            self._stop(child, saves=stage["name"] == "train")
        if self.stopping:
            raise StoppedError
        if code:
            raise RunFailedError(
                f"{' '.join((Path(argv[0]).name, *argv[1:2]))} ended with {_ended(code)}", f"its log: {log}"
            )

    def _stop(self, child: process.Child, *, saves: bool) -> None:
        # Asked by the file, our plugin saves a whole, resumable checkpoint, which no signal to Axolotl does.
        if saves and self.run.events.exists():
            self.run.stop_file.touch()
        try:
            if not self.run.stop_file.exists() or child.wait(CHECKPOINT_GRACE_S) is None:
                child.stop()
        finally:
            self.run.stop_file.unlink(missing_ok=True)

    def _note(self, record: StageRecord) -> None:
        self.state = self.state.with_stage(record)
        self.run.write_state(self.state)


def by_hand(run: RunDir, name: str, work: Callable[[], Outcome]) -> Outcome:
    """Do one stage here and now, in this very process, and note in the run how it went.

    :raises MissingError: a live runner works on this run.
    """
    with run.held():
        state = run.read_state()
        record = state.stage(name)
        record = replace(
            record, state="running", attempt=record.attempt + 1, started=time.time(), ended=None, detail=""
        )

        def note(how: StageState, detail: str) -> None:
            run.write_state(state.with_stage(replace(record, state=how, detail=detail, ended=time.time())))

        run.write_state(state.with_stage(record))
        try:
            outcome = work()
        except AxRecipeError as error:
            note("failed", str(error))
            raise
        except BaseException:
            note("interrupted", "stopped by hand")
            raise
        note("skipped" if outcome.skipped else "done", outcome.detail)
        return outcome


@contextmanager
def _alone(stage: dict[str, Any], orders: dict[str, Any]) -> Iterator[None]:
    """Let one run at a time make the base that several share."""
    if stage["name"] != "base":
        yield
        return
    base = Path(orders["base"])
    base.mkdir(parents=True, exist_ok=True)
    with base.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ended(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"{signal.Signals(-code).name}"


def launch(run: RunDir, again: Sequence[str] = ()) -> None:
    """Start the runner of ``run`` in the background, in its own session: a closed terminal does not end it.

    :raises MissingError: a live runner works on this run already.
    :raises RunFailedError: the runner ended before it could take the run.
    """
    holder = run.holder()
    if holder is not None:
        raise MissingError(f"{run.name}: process {holder} works on this run already", f"ax-recipe watch {run.name}")
    source = str(Path(__file__).resolve().parents[1])  # `python -m` must find this very ax_recipe
    argv = [sys.executable, "-m", "ax_recipe.runner", str(run.path), *again]
    child = process.start(argv, {"PYTHONPATH": process.path_with(source)}, run.runner_log)
    while run.holder() is None:  # a viewer that came before it would take the run for ended
        if child.wait(0.02):
            raise RunFailedError(f"the runner of {run.name} did not start", f"its log: {run.runner_log}")
        if child.exit_code() == 0:
            return


def main() -> int:
    """Entry of the background process."""
    run = RunDir(Path(sys.argv[1]))
    with run.held():
        return Runner(run).go(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
