"""A log of any size, read once: its state, and every failure in it, each with its rank, phase and traceback."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ax_recipe.diagnose.causes.table import signed
from ax_recipe.observe.events import Config, Crashed, Event, Interrupted, Line, Phase, Warned
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.state import State, advance

LINE_LIMIT = 1 << 20  # bytes: a longer line is read in pieces
MOST = 200  # failures kept: the first is looked for, and a broken loop can log thousands
FRAMES = 120  # lines kept of a traceback, the innermost
MESSAGE_LINES = 20  # lines kept of what an exception says
CHARS = 2000  # kept of one line

_ERROR = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*(?:Error|Exception|Interrupt|Exit|Timeout|Warning|Failed|Assertion)"
                    r"|[A-Z][A-Za-z]+(?:Invalid|NotFound|Unavailable))(?::? .*|:)?$")  # fmt: skip
_TRACEBACK = "Traceback (most recent call last)"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
# "W1122 13:53:18.881000 12310 torch/distributed/...]"   "[2026-11-22 13:43:01,577] [INFO] ..."   "===="   "----"
_TOLD = re.compile(r"[EWIF]\d{4} \d\d:|\[\d{4}-\d\d-\d\d |={10}|-{10}")
_ROOT = "Root Cause (first observed failure)"
_RANK = re.compile(r"\s+rank\s+: (\d+) \(local_rank")
_CODE = re.compile(r"\s+exitcode\s+: (-?\d+)")
_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")


@dataclass(frozen=True, slots=True)
class Said:
    """An exception as a traceback ends with it, all its lines; ``line`` is that of the first."""

    line: int
    text: str


@dataclass(slots=True)
class Failure:
    """A traceback with those that led to it, or one line that speaks of an end.

    ``aside`` marks one that the run survived: of a thread, of a destructor, of a plugin that did not load.
    """

    line: int
    rank: int | None
    phase: str
    step: int
    said: list[Said] = field(default_factory=list)
    frames: deque[str] = field(default_factory=lambda: deque(maxlen=FRAMES))
    aside: bool = False
    sign: bool = False
    chained: bool = False
    open: bool = True


@dataclass(slots=True)
class Reading:
    """All that the log tells of an end; ``root_rank`` and ``root_code`` are what the launcher says of the first."""

    state: State = field(default_factory=State)
    failures: list[Failure] = field(default_factory=list)
    phase: str = "starting"
    root_rank: int | None = None
    root_code: int | None = None
    root_line: int = 0
    root_text: str = ""
    interrupted: Said | None = None
    last: Said | None = None
    empty: bool = True


def read(path: Path) -> Reading:
    """Read the log at ``path``; memory does not grow with it. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return _Reader().read(file)


def _pieces(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Every stretch between LF or CR that is not blank, with the number of its line by LF."""
    number = 1
    while data := file.readline(LINE_LIMIT):
        for text in data.rstrip(b"\n").replace(b"\r", b"\n").decode("utf-8", "replace").split("\n"):
            if text and not text.isspace():
                yield number, text
        number += data.endswith(b"\n")


class _Reader:
    """Walks the lines of one log; remembers the open traceback of each rank."""

    def __init__(self) -> None:
        self.reading = Reading()
        self._log = LogReader()
        self._open: dict[int | None, Failure] = {}
        self._in_root = False
        self._launcher_ended = False

    def read(self, file: BinaryIO) -> Reading:
        closed = False
        for number, text in _pieces(file):
            self.reading.empty = False
            for event in self._log.feed(text):
                self._take(number, event)
        file.seek(0, 2)
        if file.tell():
            file.seek(-1, 2)
            closed = file.read(1) == b"\n"
        for event in self._log.finish(closed):
            self._take(self.reading.last.line if self.reading.last else 1, event)
        return self.reading

    def _take(self, number: int, event: Event) -> None:
        state = self.reading.state
        if isinstance(event, Phase) and event.name not in ("finished", "failed", "interrupted"):
            self.reading.phase = event.name
        elif isinstance(event, Config):
            self._configured(event)
        elif isinstance(event, Interrupted) and self.reading.interrupted is None:
            self.reading.interrupted = Said(number, event.reason)
        elif isinstance(event, Line | Warned | Crashed):
            text = event.text[:CHARS]
            self.reading.last = Said(number, text)
            self._line(number, text, event.rank, isinstance(event, Warned))
        advance(state, event)

    def _configured(self, event: Config) -> None:
        """A log may hold several attempts: what ended an earlier one is not what ended this."""
        if self._launcher_ended or event.values.get("world_size") in (None, 1):
            fresh = Reading(state=self.reading.state, phase=self.reading.phase, empty=False)
            self.reading, self._open, self._launcher_ended = fresh, {}, False

    def _line(self, number: int, text: str, rank: int | None, warned: bool) -> None:
        self._launcher(number, text)
        failure = self._open.get(rank)
        if _TRACEBACK in text:
            self._begin(number, rank, failure)
        elif text.startswith(_CHAINED) and failure:
            failure.chained = True
        elif failure and failure.open and text[:1] in " \t|│":
            failure.frames.append(text.strip())
        elif _ERROR.match(text) and not (warned and not failure):
            self._ended(number, text, rank, failure, warned)
        elif signed(text):
            self._add(
                Failure(number, rank, self.reading.phase, self.reading.state.step, [Said(number, text)], sign=True)
            )
        elif failure and not failure.open and not _TOLD.match(text) and not warned:
            self._more(text, failure)
        elif failure and not failure.open:
            del self._open[rank]

    def _begin(self, number: int, rank: int | None, failure: Failure | None) -> None:
        if failure and (failure.chained or (failure.open and not failure.said)):
            failure.open, failure.chained = True, False
            return
        failure = Failure(number, rank, self.reading.phase, self.reading.state.step)
        self._add(failure)
        self._open[rank] = failure

    def _ended(self, number: int, text: str, rank: int | None, failure: Failure | None, warned: bool) -> None:
        if failure is None or (failure.said and not failure.open):
            failure = Failure(number, rank, self.reading.phase, self.reading.state.step)
            self._add(failure)
            self._open[rank] = failure
        failure.said.append(Said(number, text))
        failure.open = False
        failure.aside = failure.aside or warned

    def _more(self, text: str, failure: Failure) -> None:
        said = failure.said[-1]
        if said.text.count("\n") < MESSAGE_LINES:
            failure.said[-1] = Said(said.line, f"{said.text}\n{text}")

    def _add(self, failure: Failure) -> None:
        if len(self.reading.failures) < MOST:
            self.reading.failures.append(failure)

    def _launcher(self, number: int, text: str) -> None:
        reading = self.reading
        if _ROOT in text:
            self._in_root, self._launcher_ended = True, True
        elif self._in_root and (found := _RANK.match(text)):
            reading.root_rank = int(found[1])
        elif self._in_root and (found := _CODE.match(text)):
            self._in_root = False
            reading.root_code, reading.root_line, reading.root_text = int(found[1]), number, text.strip()
        elif reading.root_code is None and (found := _FAILED.search(text)):
            reading.root_code, reading.root_line, reading.root_text = int(found[1]), number, text.strip()
            reading.root_rank = int(found[2])
