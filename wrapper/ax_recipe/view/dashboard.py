"""The observer that keeps a run's picture on a terminal; it can go and come back without the run noticing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from ax_recipe.observe.state import State
from ax_recipe.view.keys import Keys
from ax_recipe.view.layout import Frame
from ax_recipe.view.row import Row
from ax_recipe.view.screen import help_view, log_view, view

__all__ = ["Dashboard", "Reason", "fits", "view"]

Reason = Literal["ended", "detached", "stop"]
_Page = Literal["run", "log", "help"]

_POLL_S = 0.2
"""How often new data, keys and the size of the window are looked for."""
_REPAINT_S = 1.0
"""How often the screen is painted when no key and no new phase asks for it: enough for a calm clock."""
_MOVES = {"up": 1, "down": -1, "page-up": 20, "page-down": -20, "home": 1000, "end": -1000}
_READING = "Reading what the run has written so far"
_QUESTIONS = {
    "stop": "Stop the run? Axolotl saves a checkpoint first.   y stop   n go on",
    "hold": "The run is over.   q close   l log   ? help",
}


def fits(console: Console) -> bool:
    """Whether ``console`` is a terminal on which a full screen can be shown; elsewhere use ``plain.PlainLines``."""
    return console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")


class Dashboard:
    """Owns the terminal from ``__enter__`` to ``__exit__``: alternate screen, hidden cursor, single keys.

    ``feed`` in ``run`` advances ``state``; the dashboard only reads it. Colours follow ``console`` (NO_COLOR, 16
    colours), the alphabet is ASCII when ``ascii_only`` says so or the console's encoding has no braille.
    """

    def __init__(
        self,
        state: State,
        *,
        title: str = "",
        target_loss: tuple[float, float] | None = None,
        ascii_only: bool | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._title = title
        self._target = target_loss
        self._console = console or Console()
        self._ascii = not _has_braille(self._console.encoding) if ascii_only is None else ascii_only
        self._clock = clock
        self._keys = Keys()
        self._exit = ExitStack()
        self._page: _Page = "run"
        self._offset = 0
        self._question: Literal["stop", "hold"] | None = None
        self._read = False
        self._shown: tuple[Row, ...] = ()
        self._size = (0, 0)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_terminated())
            stack.callback(self._leave)
            self._take()
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def run(self, feed: Callable[[], bool], *, behind: Callable[[], bool] = bool, hold: bool = False) -> Reason:
        """Shows the state until the run ends or the person leaves, and says which: ``ended, detached, stop``.

        ``feed`` advances the state by what is new and returns False once the run is over; it should return within
        some 50 ms, because keys wait for it, and is asked again at once while it is ``behind``. ``hold`` keeps a run
        that is over on the screen until a key closes it.
        """
        self.paint()
        pressed, painted, news = True, 0.0, self._news()
        while True:
            over = self._question != "hold" and not feed()
            late = behind()
            self._read = self._read or not late
            if over:
                self._question, pressed = ("hold" if hold else None), True
                if not hold:
                    self.paint()
                    return "ended"
            due = time.monotonic() - painted >= _REPAINT_S
            if pressed or due or news != self._news() or self._size != self._measure():
                self.paint()
                painted, news = time.monotonic(), self._news()
            reason, pressed = self._answer(self._keys.wait(0 if late else _POLL_S))
            if reason:
                return "ended" if self._question == "hold" else reason

    def paint(self) -> None:
        """Writes what has changed since the last frame, line by line, so that a slow link carries little."""
        size = self._measure()
        frame = self._frame(*size)
        console = self._console
        with console:
            if size != self._size:
                console.control(Control.clear(), Control.home())
                self._shown, self._size = (), size
            blank = Row()
            for row in range(size[1]):
                line = frame.lines[row] if row < len(frame.lines) else blank
                if line != (self._shown[row] if row < len(self._shown) else blank):
                    self._write(row, line)
        self._shown = frame.lines

    def _write(self, row: int, line: Row) -> None:
        self._console.control(Control.move_to(0, row))
        self._console.print(line, end="", soft_wrap=True, highlight=False)
        if line.width < self._size[0]:  # erasing behind a full line would take its last character on xterm
            self._console.control(Control((ControlType.ERASE_IN_LINE, 0)))

    def _frame(self, width: int, height: int) -> Frame:
        if self._page == "help":
            return help_view(width, height, ascii_only=self._ascii)
        if self._page == "log":
            return log_view(self._state, width, height, offset=self._offset, ascii_only=self._ascii)
        return view(
            self._state,
            width,
            height,
            now=self._clock(),
            target_loss=self._target,
            ascii_only=self._ascii,
            title=self._title,
            notice=_QUESTIONS[self._question] if self._question else None if self._read else _READING,
        )

    def _news(self) -> tuple[object, ...]:
        """What should be seen at once; steps and log lines wait for the next second."""
        state = self._state
        return state.phase, state.status, state.stage, len(state.alerts)

    def _measure(self) -> tuple[int, int]:
        """Asked anew every time: COLUMNS and LINES, which rich obeys, do not follow a window that is resized."""
        try:
            size = os.get_terminal_size(self._console.file.fileno())
        except OSError:
            return self._console.size
        return (size.columns, size.lines) if size.columns and size.lines else self._console.size

    def _answer(self, keys: list[str]) -> tuple[Reason | None, bool]:
        """What the keys mean: a reason to leave, if one does, and whether there was any."""
        for key in keys:
            reason = self._press(key)
            if reason:
                return reason, True
        return None, bool(keys)

    def _press(self, key: str) -> Reason | None:
        if key == "ctrl-z":
            self._suspend()
        elif key == "ctrl-c":
            return "stop"
        elif self._question == "stop":
            self._question = None  # whatever is not an answer takes the question back
            return "stop" if key == "y" else None
        elif self._page == "help":
            self._page = "run"
        elif self._page == "log" and key in _MOVES:
            self._offset = min(len(self._state.lines), max(0, self._offset + _MOVES[key]))
        else:
            return self._command(key)
        return None

    def _command(self, key: str) -> Reason | None:
        if key == "q" and self._page == "run":
            return "detached"
        if key == "l":
            self._page, self._offset = ("log" if self._page == "run" else "run"), 0
        elif key in ("q", "escape"):
            self._page = "run"
        elif key == "s" and self._question is None:
            self._page, self._question = "run", "stop"
        elif key == "?":
            self._page = "help"
        return None

    def _take(self) -> None:
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)
        self._keys.__enter__()
        self._size = (0, 0)

    def _leave(self) -> None:
        self._keys.__exit__(None, None, None)
        self._console.show_cursor(True)
        self._console.set_alt_screen(False)

    def _suspend(self) -> None:
        self._leave()
        self._keys.suspend()
        self._take()


def _has_braille(encoding: str) -> bool:
    try:
        "⣿╭".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM as an exception while it is open, so that the terminal is put back before the process ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
