"""The work of one attempt at a stage: what it stands on, its programs with their YAML, and what they must show."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ax_recipe.errors import StoppedError
from ax_recipe.forecast import cluster
from ax_recipe.launch import training
from ax_recipe.launch.attempts import Attempt, Call
from ax_recipe.launch.gathering import Gathering
from ax_recipe.launch.saying import note
from ax_recipe.launch.training import Orders, Outcome
from ax_recipe.run.rundir import RunDir, StageRecord
from ax_recipe.survive import footing, recovery
from ax_recipe.survive.policy import Policy
from ax_recipe.survive.watching import Watch

Stage = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Worker:
    """Does stages of one run, one attempt after the other."""

    run: RunDir
    orders: dict[str, Any]
    policy: Policy
    call: Call

    def do(self, stage: Stage, record: StageRecord, words: Sequence[str]) -> Outcome:
        """Do ``stage`` once; ``words`` say why it is done again, and stand at the top of its log.

        :raises AxRecipeError: it was not done.
        """
        if reason := self.call.reason():
            raise StoppedError(reason)
        footing.refuse_other_base(self.run, self.orders, record.name)
        said = [*words, *footing.other_axolotl(self.orders)] if stage["argvs"] else list(words)
        with _alone(record.name, self.orders):
            if record.name == "base" and training.is_made(Path(self.orders["base"])):
                return Outcome("made before from the same text: nothing to do")
            if stage["argvs"]:
                self._programs(stage, record, said)
            # The exit code is no proof: Axolotl exits 0 on NaN, on all-masked labels and when it was interrupted.
            outcome = _judge(record.name)(self.run, self.orders)
        return Outcome("\n".join((outcome.detail, *said)), outcome.skipped, outcome.figures)

    def _programs(self, stage: Stage, record: StageRecord, said: list[str]) -> None:
        attempt, extra, noting = self._prepared(stage, record, said)
        note(attempt.log, said)
        yaml = str(recovery.config(self.run, record.name, record.attempt, extra))
        if record.name == "train" and cluster.gathers(self.orders):
            attempt = replace(attempt, nodes=Gathering(self.run, self.orders, record, yaml))
        try:
            for argv in stage["argvs"]:
                attempt.do([yaml if part == str(self.run.axolotl_yaml) else part for part in argv])
        finally:
            if noting:
                noting.join()

    def _prepared(
        self, stage: Stage, record: StageRecord, said: list[str]
    ) -> tuple[Attempt, dict[str, Any], threading.Thread | None]:
        """The attempt, Axolotl's keys that are its alone, and what goes on beside it; ``said`` gets what was found."""
        run, noting, extra, watch = self.run, None, {}, None
        if record.name in ("base", "train"):
            training.begin_attempt(run.base_events if record.name == "base" else run.events, record.attempt)
        if record.name == "train":
            start, found = footing.checkpoint(run)
            said += found
            watch = Watch(run.events, run.log(record.name, record.attempt), self.policy.hang_s)
            if start:
                footing.refuse_other_data(run)
                extra = {"resume_from_checkpoint": str(start.path)}
            else:
                noting = threading.Thread(target=footing.note, args=(run, self.orders))
                noting.start()
        environment = {**stage["environment"], **recovery.environment(run, record.name)}
        ends_hangs = self.policy.on_hang == "restart"
        return Attempt(run, record, environment, self.call, watch, ends_hangs), extra, noting


def _judge(stage: str) -> Callable[[RunDir, Orders], Outcome]:
    """What says whether ``stage`` was done; what ships a model is imported only where one is."""
    if stage in training.OF:
        return training.OF[stage]
    from ax_recipe.launch import outcomes

    return outcomes.OF[stage]


@contextmanager
def _alone(stage: str, orders: Mapping[str, Any]) -> Iterator[None]:
    """Let one run at a time make the base that several share."""
    if stage != "base":
        yield
        return
    base = Path(orders["base"])
    base.mkdir(parents=True, exist_ok=True)
    with base.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
