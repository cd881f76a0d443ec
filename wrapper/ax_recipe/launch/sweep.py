"""Many runs of one recipe, each with other values: a grid or a sample of it, resumable, ranked by held-out loss.

A sweep is a list of trials in ``runs/sweeps/``; each trial is an ordinary run, up to its evaluation.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from ax_recipe.axolotl import Axolotl
from ax_recipe.checks import all as checks
from ax_recipe.checks import planned, trust
from ax_recipe.errors import MissingError
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.launch import grid, mirroring, runner
from ax_recipe.observe import rules
from ax_recipe.observe.feed import Feed
from ax_recipe.recipe import recipe
from ax_recipe.recipe.recipe import Recipe
from ax_recipe.results import evaluation, intervals
from ax_recipe.results.intervals import Interval
from ax_recipe.run import mirror, preparing, rundir, runs, seal
from ax_recipe.run.preparing import Prepared
from ax_recipe.run.rundir import RunDir
from ax_recipe.run.runs import Row

STAGES = ("base", "preprocess", "train", "evaluate")
POLL_S = 0.5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the sweep: its ``changes`` to the recipe, its name once it is made, the GPUs it was made for.

    ``stopped`` says why it was stopped before its end.
    """

    changes: tuple[str, ...]
    run: str | None = None
    devices: str | None = None
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a person asks of a sweep; ``changes`` are ``key=value,value`` texts, ``most`` how many trials at most.

    ``mirror`` is where else each trial is kept; None leaves those that are made where they are.
    """

    changes: tuple[str, ...]
    most: int | None = None
    sampled: bool = False
    seed: int = 0
    gpus_each: int | None = None
    stop_hopeless: bool = False
    trusted: bool = False
    mirror: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the trials run: the folder of all runs, the Axolotl, the GPUs of one trial, and the sets that there are.

    Without an Axolotl they are only looked at.
    """

    runs: Path
    axolotl: Axolotl | None
    hardware: Hardware
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One trial as it came out; without a ``row`` it was never made."""

    trial: Trial
    row: Row | None

    def as_json(self) -> dict[str, object]:
        """What ``sweep --json`` tells of it."""
        row = self.row
        told = {"eval_loss": row.eval_loss, "loss": row.loss, "seconds": row.seconds} if row else {}
        return {"changes": values(self.trial), "run": self.trial.run, "state": self.state, **told}

    @property
    def eval_loss(self) -> float:
        """Infinite where there is none."""
        return math.inf if self.row is None or self.row.eval_loss is None else self.row.eval_loss

    @property
    def state(self) -> str:
        """In a word or a sentence, how far it came."""
        if self.trial.stopped:
            return f"hopeless: {self.trial.stopped}"
        if self.row is None:
            return "waiting"
        scored = self.row.eval_loss is not None and self.row.status != "finished"
        return f"scored, {self.row.status}" if scored else self.row.status


class Sweep:
    """The trials of one grid, kept in ``folder``: the same command finds them again."""

    def __init__(self, name: str, wishes: Wishes, place: Place) -> None:
        """Read or make the sweep of recipe ``name``.

        :raises RecipeError: the recipe or a change of it is wrong.
        :raises MissingError: its sweep.json is damaged.
        """
        self.name, self.wishes, self.place = name, wishes, place
        first = recipe.load(name)
        self.axes = [grid.axis(change) for change in wishes.changes]
        text = first.file.read_text(encoding="utf-8")
        content = [text, str(place.hardware), place.devices, [asdict(each) for each in self.axes]]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
        self.folder = place.runs / "sweeps" / f"{first.name}-{digest}"
        known = {trial.changes: trial for trial in self._read()}
        tried = grid.combinations(self.axes, wishes.most, wishes.seed if wishes.sampled else None)
        wanted = {changes: known.get(changes, Trial(changes)) for changes in tried}
        # Another --max or --seed of the same grid adds to what is there.
        self.trials = [*wanted.values(), *(each for each in known.values() if each.run and each.changes not in wanted)]
        self._started: set[tuple[str, ...]] = set()
        self._mirror = mirror.asked(wishes.mirror or "")

    @property
    def varied(self) -> list[str]:
        """The keys that are not the same in all trials."""
        return [each.key for each in self.axes if len(each.values) > 1]

    def _read(self) -> list[Trial]:
        """The trials that sweep.json tells of.

        :raises MissingError: it is damaged.
        """
        file = self.folder / "sweep.json"
        if not file.exists():
            return []
        try:
            known = json.loads(rundir.read(file))["trials"]
            return [Trial(**{**each, "changes": tuple(each["changes"])}) for each in known]
        except (ValueError, KeyError, TypeError) as error:
            hint = "put it back, or remove it: then each trial is made anew (the runs of the old ones stay)"
            raise MissingError(f"{file} is damaged: {error}", hint) from error

    def check(self) -> None:
        """Plan every trial that is not made yet, so that none fails at its turn.

        :raises RecipeError: one of them cannot be.
        """
        for trial in self.trials:
            if trial.run is None:
                self._prepared(trial)

    def _prepared(self, trial: Trial) -> Prepared:
        found: Recipe = recipe.load(self.name, trial.changes)
        place, alone = self.place, not self._mirror
        prepared = preparing.for_run(found, place.hardware, place.axolotl, place.runs, alone=alone)
        warnings = planned.refuse(prepared.plan, self.place.axolotl, checks.examine)
        trust.refuse(found, warnings, trusted=self.wishes.trusted)
        return prepared

    def run_of(self, trial: Trial) -> RunDir | None:
        """The run of a trial; None where it is not made yet, or was removed."""
        run = RunDir(self.place.runs / trial.run) if trial.run else None
        return run if run and run.state.is_file() else None

    def results(self) -> list[Result]:
        """Every trial, the best first."""
        found = []
        for trial in self.trials:
            run = self.run_of(trial)
            found.append(Result(trial, runs.row_of(run) if run else None))
        return sorted(found, key=lambda result: result.eval_loss)

    def go(self, say: Say) -> None:
        """Run what is not over yet, as many at once as there are sets of GPUs; what runs already is taken over.

        :raises KeyboardInterrupt: the person stopped it, after the running trials saved a whole checkpoint.
        :raises MissingError: the trials cannot be kept where they are to be.
        """
        if self._mirror and self.place.axolotl:
            say(f"looking whether {self._mirror} can be written to ...")
            mirroring.refuse(self._mirror, RunDir(self.place.runs / self.folder.name), self.place.axolotl.python)
        self.folder.mkdir(parents=True, exist_ok=True)
        with RunDir(self.folder).held():
            self._write()
            going: dict[str, _Going] = {}
            try:
                while self._step(going, say):
                    time.sleep(POLL_S)
            except KeyboardInterrupt:
                say("stopping: each running trial saves a checkpoint")
                _stop_all([each.run for each in going.values()])
                raise

    def _step(self, going: dict[str, _Going], say: Say) -> bool:
        """Look at what runs, and start what can; whether anything is left."""
        for devices, each in list(going.items()):
            if not each.feed.poll():
                del going[devices]
                say(f"{_words(each.trial)}: {self._told(each.trial)}")
                if kept := each.run.mirror.words():
                    say(f"  kept at {kept}")
            elif self.wishes.stop_hopeless and (why := each.hopeless()):
                self._note(each.trial, replace(each.trial, stopped=why))
                runs.stop(each.run)
        for devices in self.place.devices:
            trial = None if devices in going else self._next(devices)
            if trial:
                going[devices] = self._start(trial, devices, say)
        return bool(going)

    def _next(self, devices: str) -> Trial | None:
        """What to start on these GPUs; each trial once a command, for one that was stopped by hand is to stay so."""
        waiting = (each for each in self.trials if each.changes not in self._started and not self._over(each))
        return next((each for each in waiting if each.devices in (None, devices)), None)

    def _over(self, trial: Trial) -> bool:
        """A trial that failed is over: it would fail again; resume it by hand, or remove it to have it made anew."""
        run = self.run_of(trial)
        if run is None or trial.stopped:
            return bool(trial.stopped)
        states = [stage.state for stage in run.current_state().stages if stage.name in STAGES]
        return "failed" in states or all(state in ("done", "skipped") for state in states)

    def _start(self, trial: Trial, devices: str, say: Say) -> _Going:
        self._started.add(trial.changes)
        run = self.run_of(trial)
        if run is None:
            with _only(devices):
                prepared = self._prepared(trial)
            run = prepared.run
            rundir.create(run, prepared.files)
            trial = self._note(trial, replace(trial, run=run.name, devices=devices))
        say(f"{_words(trial)}: {run.name}")
        if run.holder() is None:
            left = [stage.name for stage in run.current_state().stages if stage.state not in ("done", "skipped")]
            if self.wishes.trusted:
                seal.put(run.path)
            rundir.refuse_foreign(run)
            if self.wishes.mirror is not None:
                mirroring.keep(run, self._mirror)
            runner.launch(run, [name for name in left if name in STAGES])
        return _Going(trial, run, Feed(run, stages=("train",)))

    def _note(self, old: Trial, new: Trial) -> Trial:
        self.trials = [new if each.changes == old.changes else each for each in self.trials]
        self._write()
        return new

    def _write(self) -> None:
        value = {"recipe": self.name, "changes": self.wishes.changes, "trials": [asdict(each) for each in self.trials]}
        rundir.write(self.folder / "sweep.json", json.dumps(value, indent=1))

    def _told(self, trial: Trial) -> str:
        result = next(each for each in self.results() if each.trial.changes == trial.changes)
        return f"held-out loss {result.eval_loss:.4g}" if math.isfinite(result.eval_loss) else result.state


@dataclass(slots=True)
class _Going:
    """A trial that runs, and what has been read of its training."""

    trial: Trial
    run: RunDir
    feed: Feed
    told: bool = False

    def hopeless(self) -> str:
        """Why its verdict is STOP, once."""
        judged = rules.judge(self.feed.state, self.run.read_json(self.run.orders)["targets"]["loss"], time.time())
        if self.told or judged.severity != "STOP":
            return ""
        self.told = True
        return next(alert.message for alert in judged.alerts if alert.severity == "STOP").partition(":")[0]


def _words(trial: Trial) -> str:
    return " ".join(trial.changes) or "as the recipe has it"


def _stop_all(going: Sequence[RunDir]) -> None:
    for run in going:
        runs.stop(run)
    while any(run.holder() is not None for run in going):
        time.sleep(POLL_S)


@contextmanager
def _only(devices: str) -> Iterator[None]:
    """Let a run be planned for these GPUs alone: which it sees is fixed in its plan."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = devices
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def device_sets(machine: Hardware, each: int) -> tuple[str, ...]:
    """The GPUs of ``machine``, of those that this process may see, in sets of ``each``; one set of none for the CPU."""
    if not each:
        return ("",)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(machine.count)] if visible is None else visible.split(",")
    names = names[: machine.count]
    return tuple(",".join(names[at : at + each]) for at in range(0, len(names) - each + 1, each))


def lead(sweep: Sweep, results: Sequence[Result]) -> Interval | None:
    """By how much the best trial is better than the second, in nats a token on the same rows, with its interval."""
    named = itertools.islice((sweep.run_of(each.trial) for each in results if math.isfinite(each.eval_loss)), 2)
    pair = [evaluation.held_out_costs(run) for run in named if run]
    if len(pair) < 2 or not pair[0] or [tokens for tokens, _ in pair[0]] != [tokens for tokens, _ in pair[1]]:
        return None
    (best, second), tokens = pair, [count for count, _ in pair[0]]
    rows = intervals.Rows(tokens, [nats for _, nats in second], [nats for _, nats in best])
    return intervals.turned(intervals.losses(rows).change)


def values(trial: Trial) -> dict[str, object]:
    """What a trial changes, by key."""
    return {change.partition("=")[0]: yaml.safe_load(change.partition("=")[2]) for change in trial.changes}
