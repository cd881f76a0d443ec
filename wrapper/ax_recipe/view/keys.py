"""Single key presses from a terminal: no echo, no waiting for Enter, the terminal's settings put back afterwards."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
from types import TracebackType
from typing import Any, Self, TextIO

_NAMES = {
    b"\x03": "ctrl-c",
    b"\x1a": "ctrl-z",
    b"\x1b": "escape",
    b"\r": "enter",
    b"\n": "enter",
    b" ": "space",
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page-up",
    b"\x1b[6~": "page-down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
}
_KEY = re.compile(rb"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Za-z]|.", re.DOTALL)
_CUT = re.compile(rb"\x1b(?:[\[O][0-9;]*)?\Z")
_ESCAPE_S = 0.05
"""How long the rest of an arrow key may take before a lone escape is taken for the Escape key."""


def names(data: bytes) -> list[str]:
    """The keys in what a terminal sent: ``up``, ``ctrl-c``, ``q``; unknown sequences and other bytes are left out."""
    return [name for key in _KEY.findall(data) if (name := _NAMES.get(key) or _letter(key))]


def _letter(key: bytes) -> str:
    return key.decode("ascii").lower() if key == b"?" or (key.isascii() and key.isalnum()) else ""


class Keys:
    """Reads keys while it is open. Without a terminal on ``stream`` (default: stdin) it only lets time pass.

    Ctrl-C and Ctrl-Z arrive as keys, so that one press can never cut the program short in the middle of its work.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdin
        usable = stream is not None and not stream.closed and stream.isatty() and _is_ours(stream.fileno())
        self._fd = stream.fileno() if usable else None
        self._saved: list[Any] | None = None

    def __enter__(self) -> Self:
        if self._fd is not None and self._saved is None:
            self._saved = termios.tcgetattr(self._fd)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, _quiet(self._fd))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is not None and self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
            self._saved = None

    def suspend(self) -> None:
        """Do what Ctrl-Z does, the terminal as it was; returns when the shell lets this program go on."""
        self.__exit__(None, None, None)
        os.kill(os.getpid(), signal.SIGTSTP)
        self.__enter__()

    def wait(self, seconds: float) -> list[str]:
        """The keys pressed within ``seconds``: as soon as there is one, none when the time is up."""
        if self._fd is None:
            time.sleep(seconds)
            return []
        data = self._read(self._fd, seconds)
        while data and _CUT.search(data) and (more := self._read(self._fd, _ESCAPE_S)):
            data += more
        return names(data)

    def _read(self, fd: int, seconds: float) -> bytes:
        ready, _, _ = select.select([fd], [], [], seconds)
        if not ready:
            return b""
        try:
            data = os.read(fd, 1024)
        except OSError:  # Linux answers EIO once the other end of a terminal is gone
            data = b""
        if not data:
            self._fd = None
        return data


def _is_ours(fd: int) -> bool:
    """Whether its keys come to this program: one behind ``&`` would be halted for changing the settings."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # nobody's terminal
        return True


def _quiet(fd: int) -> list[Any]:
    """The terminal's settings without echo, line editing, and signals from Ctrl-C and Ctrl-Z."""
    settings = termios.tcgetattr(fd)
    settings[3] &= ~(termios.ECHO | termios.ICANON)
    characters = list(settings[6])
    off = bytes([os.fpathconf(fd, "PC_VDISABLE")])
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    characters[termios.VINTR] = characters[termios.VSUSP] = off
    return [*settings[:6], characters]
