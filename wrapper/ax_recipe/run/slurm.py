"""A run as a job of Slurm: handed to sbatch, asked after with squeue, ended with scancel."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from ax_recipe.axolotl import keep
from ax_recipe.errors import MissingError

# Slurm's controller serves a whole cluster: it is not asked more often (seconds).
ASK_S = 5.0
ANSWER_S = 20.0
WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")


@dataclass(slots=True)
class Job:
    """The job that ``path`` (job.json) tells of, if it is there; what Slurm says of it is remembered for a while."""

    path: Path
    _state: str = ""
    _asked: float = field(default=-ASK_S)

    @property
    def number(self) -> str:
        """Slurm's id of it; empty where there is none.

        :raises MissingError: what was noted of it is damaged, so that nobody knows whether it goes on.
        """
        try:
            return str(json.loads(self.path.read_text(encoding="utf-8"))["id"])
        except FileNotFoundError:
            return ""
        except (ValueError, KeyError, TypeError) as error:
            hint = "squeue shows whether its job goes on; where it does not, remove that file"
            raise MissingError(f"{self.path.parent.name}: {self.path.name} is damaged", hint) from error

    @property
    def state(self) -> str:
        """``PENDING``, ``RUNNING`` or another word of squeue's with its reason; empty where the job is over."""
        now = time.monotonic()
        if now - self._asked >= ASK_S and (number := self.number):
            from ax_recipe import process  # here, for what completes a word starts no program

            self._asked = now
            argv = ("squeue", "--noheader", "--format=%T %r", f"--jobs={number}")
            words = (process.words(argv, ANSWER_S) or "").split()
            self._state = "" if not words else words[0] if words[1:] == ["None"] else " ".join(words)
        return self._state

    def __str__(self) -> str:
        return f"Slurm job {self.number}: {self.state or 'over'}"

    def stop(self) -> bool:
        """Ask its runner to save a checkpoint and stop, or take it out of the queue; False where it is over."""
        if not self.state:
            return False
        from ax_recipe import process

        waits = self.state.startswith(WAITS)
        how = () if waits else ("--batch", "--signal=TERM")
        return process.words(("scancel", *how, self.number), ANSWER_S) is not None

    def submit(self, script: Path, arguments: tuple[str, ...]) -> None:
        """Hand ``script`` to Slurm, with what the runner is told, and note the job's number.

        :raises MissingError: there is no Slurm here, or it does not take the script.
        """
        from ax_recipe import process

        code, said = process.said(("sbatch", "--parsable", str(script), *arguments))
        if code is None:
            hint = "log in to a machine of the Slurm cluster, or leave --launcher slurm out"
            raise MissingError("no sbatch here", hint)
        if code:
            hint = f"--slurm partition=...,account=... passes options to sbatch; the script: {script}"
            raise MissingError(f"sbatch does not take the job: {said}", hint)
        number = said.split(";")[0]
        keep(self.path, json.dumps({"id": number, "submitted": time.time()}))
        self._state, self._asked = "PENDING", time.monotonic()
