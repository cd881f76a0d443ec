"""A run's folder kept in another place while it goes on: beside the training, one copy at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ax_recipe import assets, process
from ax_recipe.errors import AxRecipeError, MissingError
from ax_recipe.launch.attempts import Call
from ax_recipe.run import mirror, rundir, seal
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import checkpoints

LOOK_S = 2.0
# When what could not be copied is tried again, if no checkpoint or stage comes before (seconds).
RETRY_S = 60.0


class Mirroring:
    """Copies a run as soon as a checkpoint is whole or a stage has ended, in a ``with`` that ends when all is there.

    It does nothing where no mirror is wanted. ``say`` puts a line into the runner's log.
    """

    def __init__(self, run: RunDir, orders: Mapping[str, Any], call: Call, say: Callable[[str], None]) -> None:
        self.run, self._call, self._say = run, call, say
        self._python = orders["axolotl"]["python"]
        full = orders["method"] == "full"
        # What a stage is about to write is not copied while it does: a copy of half of it would serve nobody.
        self._writes = {
            "train": "output/",
            "merge": "output/merged/",
            "check-merge": "output/" if full else "output/merged/",
            "export": "model/",
        }
        self._wake, self._over = threading.Event(), threading.Event()
        self._child: process.Child | None = None
        self._seen: list[str] = []
        self._tried, self._error = 0.0, ""
        self._thread = threading.Thread(target=self._go, daemon=True) if run.mirror.url else None

    def __enter__(self) -> None:
        """Begin; what was not copied before is copied at once."""
        if self._thread:
            self._wake.set()
            self._thread.start()

    def wake(self) -> None:
        """A stage has ended."""
        self._wake.set()

    def __exit__(self, *_: object) -> None:
        """Copy all of it a last time, unless somebody is in a hurry; say what is there and what is not."""
        if not self._thread:
            return
        self._over.set()
        self._wake.set()
        while self._thread.is_alive():
            self._thread.join(process.POLL_S)
            if self._call.hurried() and self._child:
                self._child.stop(lambda: True)
        self._tell(f"mirror: {self.run.mirror.words()}")

    def _go(self) -> None:
        over = False
        while not over:
            woken = self._wake.wait(LOOK_S)
            over = self._over.is_set()  # asked before it looks: the last copy is of everything
            self._wake.clear()
            try:
                whole = self._whole()
                due = self._error and time.monotonic() - self._tried > RETRY_S
                if woken or due or whole != self._seen:
                    self._copy(whole)
            except (AxRecipeError, OSError) as problem:  # the disk of the run may be away or full for a while
                self._fail(problem.message if isinstance(problem, AxRecipeError) else str(problem))

    def _whole(self) -> list[str]:
        """The whole checkpoints; those that were are not looked at again."""
        found = checkpoints.every(self.run.output)
        whole = [each for each in found if each.path.name in self._seen or not checkpoints.flaw(each, *self.run.ranks)]
        return [each.path.name for each in whole]

    def _copy(self, whole: list[str]) -> None:
        self._tried, self._seen = time.monotonic(), whole
        running = (stage.name for stage in self.run.read_state().stages if stage.state == "running")
        but = [f"--but={self._writes[name]}" for name in running if name in self._writes]
        argv = [self._python, str(assets.probe("mirror.py")), "put", str(self.run.path), *but, *whole]
        self._child = process.start(argv, {}, self.run.mirror.log)
        code = self._child.popen.wait()
        if code:
            told = str(self.run.mirror.read().get("error", ""))
            self._fail(told if code == 1 and told else f"its copy ended with {code}")
            return
        before, self._error = self._error, ""
        self._call.copying_s = time.monotonic() - self._tried
        if before:
            self._tell("mirror: it works again")

    def _fail(self, error: str) -> None:
        """Say it once; all that a person sees of a run reads mirrored.json."""
        told = self.run.mirror.read()
        if told.get("error") != error:  # it could not say so itself
            hint, place = f"its log: {self.run.mirror.log}", self.run.mirror.place
            with suppress(MissingError):  # the disk is full, which the run itself says
                self.run.write_json(self.run.mirror.told, {**told, "error": error, "hint": hint, "url": place})
        before, self._error = self._error, error
        if error != before:
            self._tell(f"mirror: {self.run.mirror.words()}")

    def _tell(self, text: str) -> None:
        with suppress(OSError):  # the log is on that disk, too
            self._say(text)


def settle(run: RunDir, told: str | None) -> None:
    """Before a run goes on: keep it where ``told`` says (else where it was), if that can be written to.

    :raises MissingError: it cannot.
    """
    url = run.mirror.url if told is None else mirror.asked(told)
    if run.worker:  # nothing is changed under a run that goes on; who starts it again is told so
        return
    if url:
        refuse(url, run, run.read_json(run.orders)["axolotl"]["python"])
    keep(run, url)


def keep(run: RunDir, url: str) -> None:
    """Have ``run``, from its next start on, kept at ``url``; nowhere else where that is empty."""
    if url != run.mirror.url:
        rundir.write(run.mirror.path, mirror.changed(run.mirror, url))
        seal.put(run.path)


def refuse(url: str, run: RunDir, python: str | Path) -> None:
    """Stop before anything starts where ``run`` cannot be kept at ``url``.

    :raises MissingError: with what its storage says.
    """
    ask(python, "try", url, str(run.path))


def ask(python: str | Path, *arguments: str) -> dict[str, Any]:
    """What the probe says about a place.

    :raises MissingError: it cannot be done; the message is the storage's own.
    """
    found: dict[str, Any] = process.probe(Path(python), assets.probe("mirror.py"), *arguments)
    if found.get("error"):
        raise MissingError(f"{arguments[1]}: {found['error']}", found["hint"])
    return found
