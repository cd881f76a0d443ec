"""A log of any size, read once: its state, and every failure in it, each with its rank, phase and traceback."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ax_recipe.diagnose.causes.table import signed
from ax_recipe.observe.collected import bare
from ax_recipe.observe.events import Config, Crashed, Event, Interrupted, Line, Metrics, Phase, Warned
from ax_recipe.observe.folding import advance
from ax_recipe.observe.follow import opened
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.state import State

LINE_LIMIT = 1 << 20  # bytes: a longer line is read in pieces
MOST = 200  # failures kept: the first is looked for, and a broken loop can log thousands
FRAMES = 120  # lines kept of a traceback, the innermost
MESSAGE_LINES = 20  # lines kept of what an exception says
CHARS = 2000  # kept of one line

# "torch.OutOfMemoryError: CUDA out of memory..."   "KeyboardInterrupt"   "pyarrow.lib.ArrowInvalid: JSON parse error"
_ERROR = re.compile(
    r"(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*)?(?:Error|Exception|Interrupt|Exit|Timeout|Warning|Invalid|Failed|Unavailable)"
    r"(?:: .*|:|)$"
)
# In a traceback also what is not called an error: "triton.runtime.errors.OutOfResources: out of resource: ..."
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)+[A-Z]\w*: ")
_TRACEBACK = "Traceback (most recent call last)"
_CHAINED = (
    "During handling of the above exception",
    "The above exception was the direct cause",
    "Original Traceback (most recent call last)",  # what a worker of a data loader met
)
_BAR = re.compile(r"^.*\d(?:it/s|s/it)\]")  # what stands before a text that was written behind a progress bar
_INSIDE = (" ", "\t", "|", "│", 'File "')  # some collectors cut indentation off
# Other speakers, who end what an exception says: launchers, loggers, rulers.
_OTHERS = re.compile(r"[EWIF]\d{3,4} \d\d:|\[\d{4}-\d\d-\d\d |={10}|-{10}|[╭╰]")
_FAILURES, _ROOT = "Failures:", "Root Cause (first observed failure)"
_RANK = re.compile(r"\s+rank\s+: (\d+) \(local_rank")
_CODE = re.compile(r"\s+exitcode\s+: (-?\d+)")
_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_RETURNED = re.compile(r"exits with return code = (-?\d+)")  # DeepSpeed's launcher


@dataclass(frozen=True, slots=True)
class Said:
    """What a traceback ends with, line by line; ``line`` is the number of the first, ``more`` are the others'."""

    line: int
    text: str
    more: tuple[int, ...] = ()

    def at(self, match: re.Match[str] | None) -> tuple[int, str]:
        """The line, by number and text, in which ``match`` begins."""
        index = self.text.count("\n", 0, match.start()) if match and match.string == self.text else 0
        return (self.line, *self.more)[index], self.text.split("\n")[index].strip()


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
    """All that the log tells of an end.

    ``root_rank``, ``root_code`` and ``root`` are what the launcher says of the rank that failed first; ``wild`` is the
    first line with a loss or gradient that is not finite, ``still`` the first with one that is 0.
    """

    state: State = field(default_factory=State)
    failures: list[Failure] = field(default_factory=list)
    phase: str = "starting"
    root_rank: int | None = None
    root_code: int | None = None
    root: Said | None = None
    interrupted: Said | None = None
    last: Said | None = None
    wild: Said | None = None
    still: Said | None = None


def read(path: Path) -> Reading:
    """Read the log at ``path``; memory does not grow with it. Raises OSError if it cannot be read."""
    with opened(path) as file:
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
        self._table = ""  # the part of the launcher's table that is being read
        self._launcher_ended = False

    def read(self, file: BinaryIO) -> Reading:
        number = 1
        for number, text in _pieces(file):
            text, task = bare(text)
            for event in self._log.feed(text):
                self._take(number, event, text, task)
        for event in self._log.finish(_is_closed(file)):
            self._take(number, event, "", None)
        return self.reading

    def _take(self, number: int, event: Event, raw: str, task: int | None) -> None:
        reading = self.reading
        if isinstance(event, Phase) and event.name not in ("finished", "failed", "interrupted"):
            reading.phase = event.name
        elif isinstance(event, Config):
            self._configured(event)
        elif isinstance(event, Interrupted) and reading.interrupted is None:
            text = _BAR.sub("", raw) or (reading.last.text if reading.last else event.reason)
            reading.interrupted = Said(number, text[:CHARS])
        elif isinstance(event, Line | Warned | Crashed):
            # Of a crash that a phrase told, the event holds that phrase alone.
            whole = isinstance(event, Crashed) and raw and not _is_error(event.text, inside=True)
            text = (_BAR.sub("", raw) if whole else event.text)[:CHARS]
            reading.last = Said(number, text)
            self._line(number, text, task if event.rank is None else event.rank, warned=isinstance(event, Warned))
        elif isinstance(event, Metrics):
            self._figures(Said(number, raw[-CHARS:].lstrip()), event)
        advance(reading.state, event)

    def _figures(self, said: Said, event: Metrics) -> None:
        known = [event.values[name] for name in ("loss", "grad_norm") if name in event.values]
        if not all(map(math.isfinite, known)):
            self.reading.wild = self.reading.wild or said
        elif 0 in known:
            self.reading.still = self.reading.still or said

    def _configured(self, event: Config) -> None:
        """A log may hold several attempts: what ended an earlier one is not what ended this."""
        if self._launcher_ended or event.values.get("world_size") in (None, 1):
            self.reading = Reading(state=self.reading.state, phase=self.reading.phase)
            self._open, self._launcher_ended = {}, False

    def _line(self, number: int, text: str, rank: int | None, *, warned: bool) -> None:
        if self._launcher(number, text):
            return
        failure = self._open.get(rank)
        if text.startswith(_CHAINED) and failure:
            failure.chained = True
            failure.open = _TRACEBACK in text
        elif _TRACEBACK in text:
            self._begin(number, rank, failure)
        elif failure and failure.open and text.startswith(_INSIDE):
            failure.frames.append(text.strip(" \t|│"))
        elif (failure or not warned) and _is_error(text, inside=bool(failure and failure.open)):
            self._ended(number, text, rank, failure, warned)
        elif signed(text):
            sign = self._add(number, rank)
            sign.sign, sign.said = True, [Said(number, text)]
        elif failure and not failure.open and not warned and not _OTHERS.match(text):
            _more(number, text, failure)
        elif failure and not failure.open:
            del self._open[rank]

    def _begin(self, number: int, rank: int | None, failure: Failure | None) -> None:
        if failure and failure.chained:
            failure.open, failure.chained = True, False
        else:
            self._open[rank] = self._add(number, rank)

    def _ended(self, number: int, text: str, rank: int | None, failure: Failure | None, warned: bool) -> None:
        if failure is None or not failure.open:
            failure = self._open[rank] = self._add(number, rank)
        failure.said.append(Said(number, text))
        failure.open = failure.chained = False
        failure.aside = failure.aside or warned

    def _add(self, number: int, rank: int | None) -> Failure:
        failure = Failure(number, rank, self.reading.phase, self.reading.state.step)
        if len(self.reading.failures) < MOST:
            self.reading.failures.append(failure)
        return failure

    def _launcher(self, number: int, text: str) -> bool:
        """Read the launcher's table of ranks; whether the line is one that tells of the ranks that followed."""
        reading = self.reading
        if text.startswith((_FAILURES, _ROOT)):
            self._table, self._launcher_ended = text, True
        elif self._table.startswith(_ROOT) and (found := _RANK.match(text)):
            reading.root_rank = int(found[1])
        elif self._table.startswith(_ROOT) and (found := _CODE.match(text)):
            reading.root_code, reading.root = int(found[1]), Said(number, text.strip())
        elif reading.root_code is None and (found := _FAILED.search(text)):
            reading.root_code, reading.root_rank = int(found[1]), int(found[2])
            reading.root = Said(number, text.strip())
        elif reading.root_code is None and (found := _RETURNED.search(text)):
            reading.root_code, reading.root = int(found[1]), Said(number, text.strip())
        elif text.startswith("=" * 10):
            self._table = ""
        return self._table.startswith(_FAILURES)


def _is_error(text: str, *, inside: bool) -> bool:
    return bool(_ERROR.match(text) or (inside and _RAISED.match(text)))


def _more(number: int, text: str, failure: Failure) -> None:
    said = failure.said[-1]
    if len(said.more) < MESSAGE_LINES:
        failure.said[-1] = Said(said.line, f"{said.text}\n{text}", (*said.more, number))


def _is_closed(file: BinaryIO) -> bool:
    """Whether the file ends with LF."""
    if not file.seek(0, 2):
        return False
    file.seek(-1, 2)
    return file.read(1) == b"\n"
