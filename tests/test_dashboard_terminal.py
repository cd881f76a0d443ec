"""The dashboard on a real pseudo-terminal: what it leaves behind, what its keys do, what happens on a resize."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte
import pytest

from ax_recipe.run import rundir, runs
from test_runner import DEADLINE_S, newest, until
from test_survive import begun

HERE = Path(__file__).parent
COMMAND = "from ax_recipe.cli import main; main()"
PROGRAM = """
import sys
import histories
from rich.console import Console
from ax_recipe.view.dashboard import Dashboard

state = histories.training()
def feed():
    if "slow" in sys.argv:
        input()  # as long as the test wants
        sys.argv.remove("slow")
    if "broken" in sys.argv:
        raise OSError("the log is gone")
    return "ended" not in sys.argv
with Dashboard(state, title="pirate", target_loss=(0.5, 0.8), console=Console(stderr=True)) as shown:
    reason = shown.run(feed, hold="hold" in sys.argv)
print("reason:", reason, flush=True)
"""


class Terminal:
    """A child on a pseudo-terminal of its own, and the screen that a person would see."""

    def __init__(
        self, *arguments: str, columns: int = 100, lines: int = 30, program: str = PROGRAM, **environment: str
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.sent = b""
        self._master, self._slave = pty.openpty()
        self._size(columns, lines)
        self.settings = termios.tcgetattr(self._slave)
        path = os.pathsep.join((str(HERE.parent / "wrapper"), str(HERE)))
        clean = {
            name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS", "LINES")
        }
        self._child = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**clean, "TERM": "xterm-256color", "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environment},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._master)
        os.close(self._slave)

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size, as a person dragging its corner does."""
        self._size(columns, lines)
        self.screen.resize(lines, columns)
        self._child.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        """Type ``keys``."""
        os.write(self._master, keys.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child."""
        self._child.send_signal(number)

    @property
    def text(self) -> str:
        """All that is on the screen."""
        return "\n".join(self.screen.display)

    def until(self, what: str | Callable[[str], bool]) -> str:
        """Read until the screen shows ``what``."""
        holds = (lambda text: what in text) if isinstance(what, str) else what
        end = time.monotonic() + DEADLINE_S
        while not holds(self.text):
            assert time.monotonic() < end, f"waited for {what!r}:\n{self.text}"
            self._read(0.1)
        return self.text

    def left(self) -> str:
        """Read until the child has ended, and give everything it wrote (the picture is still in pyte's way)."""
        end = time.monotonic() + DEADLINE_S
        while self._child.poll() is None:
            assert time.monotonic() < end, f"still there:\n{self.text}"
            self._read(0.1)
        while self._read(0.1):
            pass
        return self.sent.decode("utf-8", "replace")

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], seconds)
        if ready:
            data = os.read(self._master, 1 << 16)
            self.sent += data
            self._stream.feed(data)
        return bool(ready)

    def assert_restored(self) -> None:
        """The terminal is as it was: main screen, visible cursor, echo and line editing."""
        assert self.sent.count(b"\x1b[?1049h") == self.sent.count(b"\x1b[?1049l")
        assert self.sent.rfind(b"\x1b[?25h") >= self.sent.rfind(b"\x1b[?25l")
        assert termios.tcgetattr(self._slave) == self.settings


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with Terminal() as opened:
        opened.until("812/1,240")
        yield opened


def test_q_detaches_and_leaves_the_terminal_as_it_was(terminal: Terminal) -> None:
    assert termios.tcgetattr(terminal._slave) != terminal.settings
    terminal.press("q")
    assert "reason: detached" in terminal.left()
    terminal.assert_restored()


def test_stop_is_asked_for_and_can_be_taken_back(terminal: Terminal) -> None:
    terminal.press("s")
    terminal.until("Stop the run?")
    terminal.press("n")
    terminal.until(lambda text: "Stop the run?" not in text)
    terminal.press("s")
    terminal.until("Stop the run?")
    terminal.press("y")
    assert "reason: stop" in terminal.left()
    terminal.assert_restored()


@pytest.mark.parametrize("keys", ["\x03", "s\x03", "?\x03", "l\x03"])
def test_ctrl_c_stops_whatever_is_shown(terminal: Terminal, keys: str) -> None:
    terminal.press(keys)
    assert "reason: stop" in terminal.left()
    terminal.assert_restored()


@pytest.fixture(params=["dashboard", pytest.param("plain lines", marks=pytest.mark.slow)])
def attended(request: pytest.FixtureRequest, fake_axolotl: Path, small_recipe: Path) -> Iterator[Terminal]:
    """A run that trains on a terminal and has a checkpoint, in each view."""
    assert fake_axolotl
    ci = "1" if request.param == "plain lines" else ""
    command = ("run", str(small_recipe), "--until", "train")
    with Terminal(*command, program=COMMAND, CI=ci, FAKE_AXOLOTL="hang") as terminal:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        terminal.until("training")
        yield terminal
        runs.stop(newest())
        until(lambda: newest().holder() is None)


def test_one_ctrl_c_ends_in_a_checkpoint_in_every_view(attended: Terminal) -> None:
    attended.press("\x03")
    said = attended.left()
    assert f"{newest().name} saves a checkpoint and stops. Ctrl-C once more does not wait." in said
    attended.assert_restored()
    assert newest().current_state().stage("train").detail == "stopped as asked; checkpoint-2 is whole"


def test_q_leaves_the_run_as_it_is_in_every_view(attended: Terminal) -> None:
    attended.press("q")
    assert "The run goes on. ax-recipe watch" in attended.left()
    attended.assert_restored()
    assert newest().current_state().stage("train").state == "running"


def test_help_and_log_come_and_go(terminal: Terminal) -> None:
    terminal.press("?")
    terminal.until("nothing to do yet")
    terminal.press("?")
    terminal.until("gradient norm" if terminal.screen.columns >= 120 else "numbers")
    terminal.press("l")
    terminal.until("newest last")
    terminal.press("\x1b[A\x1b[5~l")
    terminal.until("812/1,240")
    terminal.press("q")
    assert "reason: detached" in terminal.left()


def test_the_picture_follows_the_window(terminal: Terminal) -> None:
    for columns, lines in ((60, 18), (140, 40), (40, 3), (100, 30)):
        terminal.resize(columns, lines)
        terminal.until(lambda text, lines=lines: "training" in text and len(text.splitlines()) == lines)  # type: ignore[misc]
        if columns >= 120:
            terminal.until("gradient norm")
    terminal.until("q detach")
    terminal.press("q")
    terminal.left()
    terminal.assert_restored()


def test_sigterm_puts_the_terminal_back(terminal: Terminal) -> None:
    terminal.signal(signal.SIGTERM)
    terminal.left()
    assert terminal._child.returncode == 128 + signal.SIGTERM
    terminal.assert_restored()


@pytest.mark.parametrize(("argument", "words"), [("ended", "reason: ended"), ("broken", "the log is gone")])
def test_the_end_of_the_run_or_an_error_puts_the_terminal_back(argument: str, words: str) -> None:
    with Terminal(argument) as terminal:
        assert words in terminal.left()
        terminal.assert_restored()


def test_a_run_that_is_over_can_be_looked_at_until_a_key() -> None:
    with Terminal("ended", "hold") as terminal:
        terminal.until("The run is over.")
        terminal.press("q")
        assert "reason: ended" in terminal.left()
        terminal.assert_restored()


def test_no_color_means_none_and_little_is_sent_when_little_changes() -> None:
    with Terminal(NO_COLOR="1") as terminal:
        terminal.until("q detach")
        first = len(terminal.sent)
        terminal.press("s")
        terminal.until("Stop the run?")
        assert len(terminal.sent) - first < first / 5
        terminal.press("y")
        terminal.left()
        assert not re.search(rb"\x1b\[[0-9;]*[34]8;", terminal.sent)
        assert not re.search(rb"\x1b\[(?:\d+;)*[39][0-7]m", terminal.sent)


def test_an_encoding_without_braille_gets_ascii() -> None:
    with Terminal(PYTHONIOENCODING="ascii") as terminal:
        terminal.until("812/1,240")
        terminal.press("q")
        terminal.left()
        assert terminal.sent.isascii()


def test_the_first_picture_does_not_wait_for_the_log() -> None:
    with Terminal("slow") as terminal:
        terminal.until("Reading what the run has written so far")
        terminal.press("\n")
        terminal.until(lambda text: "Reading" not in text and "q detach" in text)
