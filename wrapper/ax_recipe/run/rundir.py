"""The run folder: the one owner of every file name in it, of its state, and of its lock."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.run import seal, slurm
from ax_recipe.run.lock import Lock
from ax_recipe.run.mirror import Mirror

# How long a file that is replaced again and again is opened anew (seconds).
STALE_S = 5.0
# What every plan.json has: one without is none.
_PLANNED = {"recipe", "stages"}

# The stages in their order, and what a person reads of each.
TITLES = {
    "base": "Pre-trained",
    "preprocess": "Tokenised",
    "train": "Fine-tuned",
    "evaluate": "Evaluated",
    "merge": "Merged",
    "check-merge": "Merge checked",
    "export": "Modelfile",
    "deploy": "Deployed",
    "chat": "Answers",
}

StageState = Literal["waiting", "running", "done", "skipped", "failed", "interrupted"]
# A folder with one of these is a run's; the seal is put last of all as it is made, and is there if its state is lost.
_MARKS = (seal.NAME, "state.json")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """How far one stage has come. Times are unix seconds; ``detail`` says in words why, or what came out.

    ``started`` and ``ended`` are those of its last attempt; those before it took ``worked`` seconds together.
    ``figures`` says what came out in numbers: what ``ax-recipe runs`` shows without reading more than state.json.
    """

    name: str
    state: StageState = "waiting"
    detail: str = ""
    attempt: int = 0
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    worked: float = 0.0

    @property
    def seconds(self) -> float:
        """How long all attempts that are over took; the time that it lay still between them is in none."""
        return self.worked + (self.ended - self.started if self.started and self.ended else 0.0)

    @property
    def is_sound(self) -> bool:
        """Whether it can be one of ours, where it was read from a file."""
        times = all(isinstance(each, int | float | None) for each in (self.started, self.ended, self.attempt))
        times = times and isinstance(self.worked, int | float)
        return self.state in get_args(StageState) and times and isinstance(self.figures, Mapping)


@dataclass(frozen=True, slots=True)
class RunState:
    """state.json: every stage's record, in order."""

    recipe: str
    stages: tuple[StageRecord, ...]

    @property
    def status(self) -> str:
        """``finished`` when every stage is done or skipped, else what the first other stage says."""
        for stage in self.stages:
            if stage.state not in ("done", "skipped"):
                return stage.state
        return "finished"

    @property
    def worked(self) -> float:
        """Seconds that attempts at stages took, but for the one that runs."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def since(self) -> float | None:
        """When the stage that runs began, if one does."""
        return next((stage.started for stage in self.stages if stage.state == "running"), None)

    def stage(self, name: str) -> StageRecord:
        """The record of the stage called ``name``."""
        return next(stage for stage in self.stages if stage.name == name)

    def to_json(self) -> str:
        """Write as state.json holds it."""
        return json.dumps(asdict(self), indent=1)

    def with_stage(self, record: StageRecord) -> RunState:
        """The same state with one stage's record replaced."""
        return replace(self, stages=tuple(record if old.name == record.name else old for old in self.stages))


class RunDir:
    """``runs/<recipe>-<time>/``: everything of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.recipe = path / "recipe.yaml"  # as it was given
        self.orders = path / "plan.json"  # everything that was decided before the start
        self.axolotl_yaml = path / "axolotl.yaml"  # what Axolotl trains
        self.alone_yaml = path / "alone.yaml"  # the same for one process, where the training is spread over several
        self.base = path / "base"  # a base that was made on another machine
        self.base_yaml = path / "base.yaml"  # what it pre-trains, where the base is made here
        self.environment = path / "environment.json"  # versions and GPUs
        self.events = path / "events.jsonl"  # the exact events of training, by our plugin
        self.base_events = path / "base-events.jsonl"  # those of pre-training
        self.stop_file = path / "stop"  # its presence asks training to save and stop
        self.measured = path / "measured.json"  # what training took, beside what was foretold
        self.prepared = path / "prepared"  # its tokenised data, where that is not in the cache
        self.output = path / "output"  # Axolotl's output_dir: adapter, checkpoints, merged
        self.modelfile = path / "Modelfile"
        self.deployed = path / "deployed.json"  # the model's name in Ollama, the server, and what the proof said
        self.report = path / "report.html"
        self.losses = path / "losses.jsonl"  # what each held-out row and general text costs base and tuned model
        self.answers = path / "answers.json"  # the checks' questions with both models' answers
        self.policy = path / "policy.json"  # what it may do by itself when memory, time or patience runs out
        self.recovery = path / "recovery.json"  # what was changed to get past that
        self.nodes = path / "nodes"  # what the machines of a training over several tell each other
        self.meeting = self.nodes / "meeting.json"  # the head's word to them
        self.script = path / "job.sbatch"  # what Slurm starts, where it does
        self.job = slurm.Job(path / "job.json")
        self.mirror = Mirror(path)  # where else it is kept
        self.runner_log = path / "logs" / "runner.log"
        self.state = path / "state.json"
        self.lock = Lock(path / "lock")

    @property
    def word(self) -> str:
        """How a command line names it: by its name in the folder of all runs, by its path elsewhere."""
        return self.name if self.path.parent == root() else shlex.quote(str(self.path))

    @property
    def ranks(self) -> tuple[int, ...]:
        """How many processes train now, and how many did before it went on with other machines."""
        orders = self.read_json(self.orders)
        return (orders.get("ranks") or max(1, int(orders["gpus"])), *orders.get("ranks_before", ()))

    def log(self, stage: str, attempt: int) -> Path:
        """The log of one attempt at one stage."""
        return self.path / "logs" / f"{stage}.{attempt}.log"

    def node_logs(self, stage: str, attempt: int) -> dict[int, Path]:
        """The logs of one attempt on the other machines, by their number."""
        if not self.nodes.is_dir():
            return {}
        found = self.log(stage, attempt).parent.glob(f"{stage}.{attempt}.node*.log")
        return {int(path.name.split(".node")[1].removesuffix(".log")): path for path in sorted(found)}

    def config(self, stage: str, attempt: int) -> Path:
        """The YAML of one attempt at a stage, where it is not axolotl.yaml as it was planned."""
        return self.path / f"axolotl.{stage}.{attempt}.yaml"

    def proof(self, stage: str) -> Path:
        """What a stage has made, so that it is known whether it is still so."""
        return self.path / "proofs" / f"{stage}.json"

    def stacks(self, attempt: int) -> Path:
        """Where every process of a training waited when it hung."""
        return self.path / "logs" / f"hang.{attempt}.txt"

    def read_state(self) -> RunState:
        """Read state.json.

        :raises MissingError: it is missing or damaged.
        """
        value = self.read_json(self.state)
        try:
            state = RunState(value["recipe"], tuple(StageRecord(**stage) for stage in value["stages"]))
        except (KeyError, TypeError) as error:
            raise self._not_whole(self.state, "is damaged: it is not the state of a run") from error
        if not state.stages or not all(stage.is_sound for stage in state.stages):
            raise self._not_whole(self.state, "is damaged: it is not the state of a run")
        return state

    def current_state(self) -> RunState:
        """state.json as it is true now: a stage that runs without a live runner was interrupted."""
        return self.read_state() if self.is_alive() else self.left_state()

    def left_state(self) -> RunState:
        """state.json as its last runner left it: what runs there was interrupted with that one."""
        state = self.read_state()
        dead = [stage for stage in state.stages if stage.state == "running"]
        left = self.lock.left() if dead else None
        detail = f"its runner on {left.host} was killed" if left else "its runner was killed"
        for stage in dead:
            ended = self._last_word(stage)
            state = state.with_stage(replace(stage, state="interrupted", detail=detail, ended=ended))
        return state

    def _last_word(self, stage: StageRecord) -> float | None:
        """When the log of a stage was last written to: nobody noted when its runner was killed."""
        try:
            return max(stage.started or 0.0, self.log(stage.name, stage.attempt).stat().st_mtime)
        except FileNotFoundError:
            return stage.started

    def write_state(self, state: RunState) -> None:
        """Write state.json whole or not at all."""
        write(self.state, state.to_json())

    def write_json(self, path: Path, value: Any) -> None:
        """Write one JSON file of the run, whole or not at all."""
        write(path, json.dumps(value, indent=1, default=str))

    def read_text(self, path: Path) -> str:
        """Read one file that every run has.

        :raises MissingError: it is missing or damaged.
        """
        try:
            return read(path)
        except FileNotFoundError as error:
            raise self._not_whole(path, "is missing") from error
        except OSError as error:
            raise self._not_whole(path, f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise self._not_whole(path, "is damaged: it is no text") from error

    def read_json(self, path: Path) -> Any:
        """Read one JSON file of the run.

        :raises MissingError: it is missing or damaged.
        """
        try:
            value = json.loads(self.read_text(path))
        except ValueError as error:
            raise self._not_whole(path, f"is damaged: {error}") from error
        if not self._fits(path, value):
            raise self._not_whole(path, "is damaged: it does not hold what a run writes there")
        return value

    def read_yaml(self, path: Path) -> dict[str, Any]:
        """Read Axolotl's keys from one YAML file of the run.

        :raises MissingError: it is missing or damaged.
        """
        import yaml  # here, for most who look at a run read no YAML

        from ax_recipe.recipe.document import Loader

        try:
            value = yaml.load(self.read_text(path), Loader=Loader)  # noqa: S506 - CSafeLoader
        except (yaml.YAMLError, ValueError) as error:
            raise self._not_whole(path, f"is damaged: {error}") from error
        if not isinstance(value, dict):
            raise self._not_whole(path, "is damaged: it holds no keys")
        return value

    def _fits(self, path: Path, value: Any) -> bool:
        if path == self.recovery or path.name.startswith(self.answers.stem):
            return isinstance(value, list) and all(isinstance(row, dict) for row in value)
        return isinstance(value, dict) and (path != self.orders or value.keys() >= _PLANNED)

    def _not_whole(self, path: Path, how: str) -> MissingError:
        hint = f"put it back; without it this run cannot be used, and ax-recipe rm {self.word} removes it"
        if path in (self.state, self.answers):
            hint = f"ax-recipe resume {self.word} makes it anew"
        return MissingError(f"{self.name}: {path.relative_to(self.path)} {how}", hint)

    def holder(self) -> int | None:
        """The process id of the live runner, if there is one; a dead one does not hold its lock."""
        owner = self.lock.owner()
        return owner.pid if owner else None

    def is_alive(self) -> bool:
        """Whether it goes on: under a live runner, or in Slurm's queue."""
        return self.holder() is not None or bool(self.job.state)

    @property
    def worker(self) -> str:
        """Who works on it, in words; empty where nobody does."""
        owner = self.lock.owner()
        return str(owner) if owner else str(self.job) if self.job.state else ""

    def held(self) -> AbstractContextManager[None]:
        """Hold the run's lock.

        :raises MissingError: another runner holds it, or its file system has no locks.
        """
        return self.lock.held()


def read(path: Path) -> str:
    """Read a file that another machine may be about to replace: NFS and GlusterFS call its handle stale then."""
    until = time.monotonic() + STALE_S
    while True:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            if error.errno != errno.ESTALE or time.monotonic() > until:
                raise


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside it first, then renamed over it. A device or pipe is written to.

    :raises MissingError: the disk is full or the folder cannot be written to.
    """
    path = path.resolve()
    special = path.exists() and not path.is_file()
    partial = path if special else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        if not special:
            partial.replace(path)
    except OSError as error:
        if not special:
            with suppress(OSError):  # of a file system that is read-only now, or gone
                partial.unlink(missing_ok=True)
        raise MissingError(
            f"{path}: cannot be written: {error.strerror}", "make its folder or some space, or name another place"
        ) from error


def root(folder: str | None = None) -> Path:
    """The folder of all runs: ``--runs``, else AX_RECIPE_RUNS, else ./runs."""
    return Path(folder or os.environ.get("AX_RECIPE_RUNS") or "runs").expanduser().absolute()


def fresh_name(runs: Path, recipe_name: str) -> str:
    """A name for a new run, ``<recipe>-<time>``, that no run has yet."""
    safe = re.sub(r"[^A-Za-z0-9._]+", "-", recipe_name).strip("-.") or "recipe"
    stem = f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(name for name in names if not (runs / name).exists())


def create(run: RunDir, files: Mapping[str, str]) -> None:
    """Make the run folder with the given files in it, for this account alone: logs and answers quote the data.

    :raises MissingError: the folder cannot be written to; nothing half-written stays behind.
    """
    try:
        run.path.mkdir(parents=True, mode=0o700)
        (run.path / "logs").mkdir()
    except OSError as error:
        hint = "name another place with --runs DIR"
        raise MissingError(f"{run.path}: cannot be made: {error.strerror}", hint) from error
    try:
        for name, text in files.items():
            write(run.path / name, text)
        seal.put(run.path)
        with run.held():  # where there are no locks, it is said before anything starts
            pass
    except MissingError:
        shutil.rmtree(run.path)
        raise


def refuse_foreign(run: RunDir) -> None:
    """Stop before anything that a run folder names is started, where the folder was not made here.

    :raises RecipeError: it was made by another account or in another place, or changed since.
    :raises MissingError: it is not whole: that no trust helps.
    """
    orders = run.read_json(run.orders)
    if not seal.holds(run.path):
        changed = " or ".join(seal.SEALED)
        raise RecipeError(
            f"{run.path} was not made by this account, or its {changed} was changed since: it could start anything",
            f"read what it would start ({run.orders}), then give the same command with --trust",
        )
    made = made_at(orders)
    if made.resolve() != run.path.resolve():
        words, hint = (
            ("is a copy of", f"use that one: ax-recipe status {made}") if is_run(made)
            else ("was moved from", f"move it back: mv {shlex.quote(str(run.path))} {shlex.quote(str(made))}")
        )  # fmt: skip
        raise RecipeError(f"{run.path} {words} {made}: its configs name that place, and would work there", hint)


def made_at(orders: Mapping[str, Any]) -> Path:
    """The folder that a plan.json was made for: the one whose name is in all its paths."""
    return Path(orders["output"]).parent


def every(runs: Path) -> list[RunDir]:
    """All runs, newest first."""
    found: dict[Path, float] = {}
    for path in (path for name in _MARKS for path in runs.glob(f"*/{name}")):
        with suppress(FileNotFoundError):  # it was removed just now
            found[path.parent] = path.stat().st_ctime
    return [RunDir(path) for path in sorted(found, key=lambda path: found[path], reverse=True)]


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is a run's, its state.json there or lost."""
    return any((folder / name).is_file() for name in _MARKS)


def find(runs: Path, name: str | None, others: str = "", hint: str = "") -> RunDir:
    """The run called ``name`` (or at that path), or the newest.

    ``others`` says what else a verb takes, and ``name`` is none of (``"recipe, no folder"``); ``hint`` what that
    could be.

    :raises RecipeError: there is no such run; names the newest few.
    """
    if name and is_run(Path(name)):
        return RunDir(Path(name).absolute())
    known = every(runs)
    matching = [run for run in known if name is None or run.name == name or run.name.startswith(f"{name}-")]
    if matching:  # two runs of one second are called X and X-2
        return next((run for run in matching if run.name == name), matching[0])
    newest = ", ".join(run.name for run in known[:3])
    hints = [hint] * bool(hint) + [f"runs there: {newest}"] * bool(known)
    said = "no run" if name is None else f"{name} is no {others} and no run" if others else f"no run {name}"
    raise RecipeError(f"{said} in {runs}", "; ".join(hints) or "`ax-recipe run pirate-tiny` makes one")
