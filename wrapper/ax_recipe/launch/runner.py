"""The only loop: runs the stages of one run folder in order, in a process of its own that no terminal ends.

``python -m ax_recipe.launch.runner RUN --until=[STAGE] [STAGE ...]`` goes on where proofs end, up to a
stage, or does those that are named again.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ax_recipe import process
from ax_recipe.errors import AxRecipeError, MissingError, ProgramFailedError, RunFailedError, StoppedError
from ax_recipe.launch import gathering
from ax_recipe.launch.attempts import CHECKPOINT_GRACE_S, Call
from ax_recipe.launch.mirroring import Mirroring
from ax_recipe.run import belonging, lock
from ax_recipe.run.rundir import RunDir, StageRecord, StageState
from ax_recipe.survive import failing, policy, proof, recovery
from ax_recipe.survive.watching import HungError

if TYPE_CHECKING:
    from ax_recipe.launch.work import Stage


class Runner:
    """Runs one run folder; a SIGTERM or SIGINT makes it end its child, note it, and leave."""

    def __init__(self, run: RunDir) -> None:
        from ax_recipe.launch.work import Worker  # here, for who launches a run does none of its work

        self.run = run
        self.orders: dict[str, Any] = run.read_json(run.orders)
        self.state = run.left_state()
        self.policy = policy.read(run)
        self.call = Call()
        self.worker = Worker(run, self.orders, self.policy, self.call)
        self.mirroring = Mirroring(run, self.orders, self.call, _say)
        self.hung = self.restarted = False

    def go(self, again: Sequence[str] = (), until: str = "") -> int:
        """Run each stage up to ``until`` that is not proven done, or exactly those in ``again``; give the exit code."""
        from ax_recipe.launch import environment

        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, self._ask_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal ends viewers
        self.call.until(self.policy.time_limit_s)
        if belonging.take_over(self.run, CHECKPOINT_GRACE_S, self.call.hurried):
            _say("a runner was killed and left its trainer at work: it was stopped")
        self.run.stop_file.unlink(missing_ok=True)  # of a runner that was killed when it had just asked
        # Beside the first stage: asking the training environment what it holds takes a moment of its start.
        threading.Thread(target=environment.record, args=(self.run,)).start()
        with self.mirroring:
            for stage in self.orders["stages"]:
                why = "done again: asked for" if stage["name"] in again else "" if again else self._due(stage["name"])
                if why and not self._do(stage, why):
                    return 130 if self.state.stage(stage["name"]).state == "interrupted" else 1
                if stage["name"] == until:
                    break
        return 0

    def listen(self) -> None:
        """Show other machines that the run goes on, and hear when they ask it to stop."""
        while True:
            self.call.asked += self.run.lock.beat()
            time.sleep(lock.BEAT_S)

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.call.asked += 1

    def _due(self, name: str) -> str:
        """Why a stage is to be done now, or nothing."""
        record = self.state.stage(name)
        if record.state != "done":
            return "" if record.state == "skipped" else f"it is {record.state}"
        flaw = proof.flaw(self.run, name)
        return f"done again: {flaw}" if flaw else ""

    def _do(self, stage: Stage, why: str) -> bool:
        """Attempt a stage until it is done or nothing is left to try, as the run's policy has it."""
        for number in range(recovery.MOST + 1):
            before = self.state.stage(stage["name"])
            answer = self._answer(before) if before.state == "failed" else ""
            if number and not answer:
                break
            self._attempt(stage, before, answer or (why if before.state == "done" else ""))
        return self.state.stage(stage["name"]).state in ("done", "skipped")

    def _answer(self, before: StageRecord) -> str:
        """What another attempt does otherwise than the failed one ``before``; nothing if there is to be none."""
        if self.hung:
            again, self.restarted = not self.restarted, True
            return "started once more, for it hung" if again else ""
        if self.policy.on_oom != "retry" or before.exit_code is None:
            return ""
        found = recovery.diagnosed(self.run, before)
        change = recovery.after(self.run, before, found)
        if change is None:
            return ""
        recovery.note(self.run, before.name, before.attempt + 1, recovery.where(found), change)
        return f"{recovery.where(found)}: {change.words}"

    def _attempt(self, stage: Stage, before: StageRecord, why: str) -> None:
        if stage["skip"]:
            self._note(replace(before, state="skipped", detail=stage["skip"]))
            return
        number, worked = before.attempt + 1, before.seconds
        record = StageRecord(before.name, "running", attempt=number, started=time.time(), worked=worked)
        self._note(record)
        ended = self._ended(stage, record, [why] if why else [])
        self._note(replace(ended, ended=time.time()))
        self.mirroring.wake()

    def _ended(self, stage: Stage, record: StageRecord, words: Sequence[str]) -> StageRecord:
        """Do the stage once, and say how that ended."""
        self.hung = False
        try:
            outcome = self.worker.do(stage, record, words)
            state: StageState = "skipped" if outcome.skipped else "done"
            figures = dict(outcome.figures)
            record = replace(record, state=state, detail=outcome.detail, figures=figures, ended=time.time())
            if state == "done":
                proof.take(self.run, self.orders, record)
        except StoppedError as error:
            return replace(record, state="interrupted", detail=failing.stopped(self.run, record, error))
        except ProgramFailedError as error:
            failed = replace(record, state="failed", exit_code=error.code)
            return replace(failed, detail=failing.explained(self.run, failed, error))
        except AxRecipeError as error:
            self.hung = isinstance(error, HungError)
            return replace(record, state="failed", detail=str(error))
        except OSError as error:  # a full disk, a log that cannot be written: not the training's fault
            words = [str(part) for part in (error.filename, error.strerror) if part]
            return replace(record, state="failed", detail=": ".join(words) or str(error))
        except BaseException:
            # A bug of ours: its traceback belongs in runner.log, and the run must not look as if it went on.
            words = [f"ax-recipe failed: {self.run.runner_log}"]
            self._note(replace(record, state="failed", detail=words[0], ended=time.time()))
            raise
        return record

    def _note(self, record: StageRecord) -> None:
        self.state = self.state.with_stage(record)
        self.run.write_state(self.state)


def launch(run: RunDir, again: Sequence[str] = (), told: policy.Policy | None = None, until: str | None = None) -> None:
    """Start the runner of ``run`` in the background, in its own session: a closed terminal does not end it.

    It does the stages in ``again`` once more, else all up to ``until``. ``told`` is kept as the run's policy.

    :raises MissingError: a live runner works on this run already, or may have left something at work elsewhere.
    :raises RunFailedError: the runner ended before it could take the run.
    """
    if who := run.worker:
        raise MissingError(f"{run.name}: {who} works on this run already", f"ax-recipe watch {run.word}")
    belonging.refuse_left(run)
    _repair(run)
    if told:
        policy.write(run, told)
    if run.script.is_file():
        run.job.submit(run.script, (f"--until={until or ''}", *again))
        return
    argv = [*process.RUNNER, str(run.path), f"--until={until or ''}", *again]
    before = run.read_state()
    child = process.start(argv, {"PYTHONPATH": process.path_with(process.SOURCE)}, run.runner_log)
    while run.holder() is None:  # a viewer that came before it would take the run for ended
        if child.wait(0.02):
            if run.read_state() != before:  # it took the run, and a stage failed at once
                return
            raise RunFailedError(f"the runner of {run.name} did not start", f"its log: {run.runner_log}")
        if child.exit_code() == 0:
            return


def _repair(run: RunDir) -> None:
    """Write state.json anew by the proofs, where it is torn or gone."""
    try:
        run.read_state()
    except MissingError:
        run.write_state(proof.repaired(run))


def _say(text: str) -> None:
    """Put a line into runner.log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)  # noqa: T201 - our output is that file


def main() -> int:
    """Entry of the background process."""
    _, path, until, *again = sys.argv
    run = RunDir(Path(path))
    with run.held():
        try:
            runner = Runner(run)
            threading.Thread(target=runner.listen, daemon=True).start()
            return runner.go(again, until.removeprefix("--until="))
        finally:
            gathering.dismissed(run)


if __name__ == "__main__":
    sys.exit(main())
