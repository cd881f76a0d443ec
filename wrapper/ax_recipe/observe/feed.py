"""A run folder becomes a state, live or long over: its stages, its exact events, its logs, the GPUs of this machine."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ax_recipe.observe import events, gpus
from ax_recipe.observe.events import Event
from ax_recipe.observe.folding import advance
from ax_recipe.observe.follow import Follower
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.state import State
from ax_recipe.run.rundir import RunDir, StageRecord

_ENDED = ("done", "failed", "interrupted")
_EXIT_CODES = {"done": 0, "failed": 1, "interrupted": 130}
_KEPT = ("stages", "gpus", "mirror", "lines", "started", "now", "worked", "since")
GPU_EVERY_S = 1.0
_BREATH = 64  # lines between two looks at the clock: about a millisecond
DISK_EVERY_S = 30.0


@dataclass(slots=True)
class _Attempt:
    """One stage that is being read: its log, and the exact events of its training, if it trains.

    ``others`` are the logs of the other machines, by their number.
    """

    record: StageRecord
    log: Follower
    exact: Follower | None
    reader: LogReader = field(default_factory=LogReader)
    others: dict[int, tuple[Follower, LogReader]] = field(default_factory=dict)


class Feed:
    """Advances ``state`` by what is new in a run folder; it may come late, leave, and come back."""

    def __init__(
        self, run: RunDir, tell: Callable[[Event], None] | None = None, stages: Collection[str] | None = None
    ) -> None:
        """Read ``run`` from its beginning; ``tell`` is called with each event after the state has taken it.

        ``stages`` are those to read, all where it is None.
        """
        self.run = run
        self._stages = stages
        self._listener = tell
        self.state = State()
        self._attempt: _Attempt | None = None
        self._exact: dict[Path, Follower] = {}  # each attempt at a training goes on in the same file
        self._seen: dict[str, int] = {}
        self._gpus_read = 0.0
        self._disk_read = 0.0
        self._job = ""
        self._mirror = ""
        self._goes_on = True
        self._pass: Iterator[None] | None = None

    @property
    def behind(self) -> bool:
        """Whether the last ``poll`` ran out of patience before it had read all that is there."""
        return self._pass is not None

    def poll(self, patience_s: float = math.inf) -> bool:
        """Read on for at most about ``patience_s``; False once the run is over and read to its end."""
        until = time.monotonic() + patience_s
        if self._pass is None:
            self._goes_on = self.run.is_alive()  # asked before the files are read: no last line is lost
            self._pass = self._whole()
        for _ in self._pass:
            if time.monotonic() > until:
                return True
        self._pass = None
        return self._goes_on

    def _whole(self) -> Iterator[None]:
        """Read all that is new, and take a breath now and then."""
        if self._goes_on:
            self._sample()
        known = self.run.read_state() if self._goes_on else self.run.left_state()
        self.state.worked, self.state.since = known.worked, known.since
        for record in known.stages:
            if self._stages is None or record.name in self._stages:
                yield from self._follow(record)
        if not self._goes_on:
            yield from self._close()

    def _follow(self, record: StageRecord) -> Iterator[None]:
        self.state.stages.setdefault(record.name, record.state)
        if record.state in ("waiting", "skipped") or self._seen.get(record.name) == record.attempt:
            self._show(record)
            return
        attempt = self._attempt
        if attempt is None or (attempt.record.name, attempt.record.attempt) != (record.name, record.attempt):
            yield from self._open(record)
        yield from self._read()
        if record.state in _ENDED:
            yield from self._close(record)

    def _show(self, record: StageRecord) -> None:
        if self.state.stages[record.name] != record.state:
            self.state.stages[record.name] = record.state

    def _open(self, record: StageRecord) -> Iterator[None]:
        yield from self._close()
        exact = {"base": self.run.base_events, "train": self.run.events}.get(record.name)
        log = self.run.log(record.name, record.attempt)
        told = self._exact.setdefault(exact, Follower(exact)) if exact else None
        self._attempt = _Attempt(record, Follower(log), told)
        if record.name in ("base", "train") and record.attempt == 1:
            self._forget()
        self._tell(events.StageStarted(record.name, record.attempt, record.started))

    def _forget(self) -> None:
        """Start the figures anew: those of the base's pre-training say nothing about the fine-tuning."""
        fresh = State(**{name: getattr(self.state, name) for name in _KEPT})
        for each in fields(State):
            setattr(self.state, each.name, getattr(fresh, each.name))

    def _read(self, *, to_the_end: bool = False) -> Iterator[None]:
        """Exact events before the log: once they are there, the log's twins of them do not count."""
        attempt = self._attempt
        if attempt is None:
            return
        if attempt.exact:
            for count, line in enumerate(attempt.exact.drain() if to_the_end else attempt.exact.poll()):
                event = events.from_json(line)
                if event:
                    self._tell(event)
                if not count % _BREATH:
                    yield
        for count, line in enumerate(attempt.log.drain() if to_the_end else attempt.log.poll()):
            for event in attempt.reader.feed(line):
                self._tell(event)
            if not count % _BREATH:
                yield
        for node, path in self.run.node_logs(attempt.record.name, attempt.record.attempt).items():
            log, reader = attempt.others.setdefault(node, (Follower(path), LogReader()))
            for count, line in enumerate(log.drain() if to_the_end else log.poll()):
                self._tell_of(node, reader.feed(line))
                if not count % _BREATH:
                    yield

    def _tell_of(self, node: int, told: Iterable[Event]) -> None:
        """Of another machine only its words count: the figures of a training are rank 0's."""
        for event in told:
            if isinstance(event, events.Crashed | events.Line | events.Warned):
                self._tell(replace(event, text=f"node {node}: {event.text}"))

    def _close(self, record: StageRecord | None = None) -> Iterator[None]:
        attempt = self._attempt
        if attempt is None:
            return
        yield from self._read(to_the_end=True)
        for event in attempt.reader.finish(attempt.log.closed):
            self._tell(event)
        # A stage that is still "running" when its runner is gone was cut off.
        ended = record or self.run.read_state().stage(attempt.record.name)
        word = ended.state if ended.state in _ENDED else "interrupted"
        if ended.attempt != attempt.record.attempt:  # it failed, and the runner has begun anew
            word, ended = "failed", attempt.record
        self._tell(events.StageEnded(ended.name, _EXIT_CODES[word], ended.ended))
        self.state.stages[ended.name] = word
        self._seen[ended.name] = ended.attempt
        self._attempt = None

    def _tell(self, event: Event) -> None:
        advance(self.state, event)
        if self._listener:
            self._listener(event)

    def _sample(self) -> None:
        """What changes whether the run says anything or not: the time, the GPUs, the disk."""
        advance(self.state, events.Tick(time.time()))
        now = time.monotonic()
        if now - self._gpus_read >= GPU_EVERY_S:
            self._gpus_read = now
            sample = gpus.sample()
            if sample:
                self._tell(sample)
        if (word := self.run.job.state) != self._job:
            self._job = word
            self._tell(events.Line(str(self.run.job), time=time.time()))
        if (word := self.run.mirror.words()) != self._mirror:
            self._mirror = word
            self._tell(events.MirrorSample(word, str(self.run.mirror.read().get("error", "")), time.time()))
        if now - self._disk_read >= DISK_EVERY_S:
            self._disk_read = now
            advance(self.state, _disk(self.run))


def trained(run: RunDir) -> State:
    """The state at the end of the run's training, whatever came after it."""
    feed = Feed(run, stages=("train",))
    feed.poll()
    return feed.state


def _disk(run: RunDir) -> events.DiskSample:
    free = shutil.disk_usage(run.path).free
    return events.DiskSample(free / gpus.GIB, _last_checkpoint(run.output) / gpus.GIB, time.time())


def _last_checkpoint(output: Path) -> int:
    """The bytes of the newest checkpoint; old ones may be removed at any moment."""
    folders = {int(number): path for path in output.glob("checkpoint-*") if (number := path.name[11:]).isdigit()}
    try:
        return sum(path.stat().st_size for path in folders[max(folders)].iterdir()) if folders else 0
    except FileNotFoundError:
        return 0
