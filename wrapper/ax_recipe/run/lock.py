"""The lock of a run: which process works on it, on which machine, and what that one is asked for from another."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from ax_recipe.errors import MissingError

# How often the owner shows that it lives, and looks whether another machine asks it to stop (seconds).
BEAT_S = 1.0
# Where the lock itself does not tell, an owner that is silent for so long is gone. That bears clocks that differ, and
# what a file system remembers of a file: NFS up to a minute, sshfs 20 s.
LOST_S = 60.0
# What was written so long ago at the latest is of nobody who still trains, though a runner was killed where we cannot
# see what it started.
QUIET_S = 300.0


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock: a process id, the machine's name, and which of that name it is; both empty in old locks."""

    pid: int
    host: str = ""
    place: str = ""

    @property
    def is_here(self) -> bool:
        """Whether its process id means anything to us."""
        return not self.host or (self.host, self.place) == (socket.gethostname(), _place())

    @property
    def is_elsewhere(self) -> bool:
        """Whether it may live where we cannot see it. A machine that was started anew has nothing left of it."""
        boot, ours = self.place.partition("/")[0], _place().partition("/")[0]
        return not self.is_here and not (self.host == socket.gethostname() and boot != ours)

    def __str__(self) -> str:
        return f"process {self.pid}" if self.is_here else f"process {self.pid} on {self.host}"


class Lock:
    """``path`` under flock, which the kernel or the file system's server frees when its owner dies.

    A file system may carry no locks between machines, and say nothing of it: so the owner writes who it is, and touches
    the file every ``BEAT_S``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._asked = path.with_name("asked")

    def owner(self) -> Owner | None:
        """The live owner, if there is one."""
        try:
            with self.path.open("rb") as lock:
                return _owner(lock)
        except FileNotFoundError:  # nobody has held it yet, or the run was removed just now
            return None

    def left(self) -> Owner | None:
        """Who was killed on another machine while it held the lock; whoever ends by itself leaves nothing."""
        try:
            with self.path.open("rb") as lock:
                found = _read(lock)
        except FileNotFoundError:
            return None
        return found if found and found.is_elsewhere else None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it.

        :raises MissingError: another process does, or there are no locks on this file system.
        """
        with self.path.open("a+b") as lock:
            self._take(lock)
            self._asked.unlink(missing_ok=True)
            lock.truncate(0)
            lock.write(f"{os.getpid()} {socket.gethostname()} {_place()} ".encode())
            lock.flush()
            os.fsync(lock.fileno())  # NFS would keep it on this machine until the file is closed
            try:
                yield
            finally:
                lock.truncate(0)

    def _take(self, lock: IO[bytes]) -> None:
        deadline = time.monotonic() + 1.0  # a viewer that asks who holds it has it for an instant
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    words = f"{self.path.parent}: {self.owner() or 'another process'} works on this run already"
                    raise MissingError(words, f"ax-recipe watch {self.path.parent}") from error
                time.sleep(0.05)
            except OSError as error:  # ENOSYS, ENOLCK, EOPNOTSUPP: Lustre without -o flock, NFS without its lock daemon
                hint = "mount it with locks (Lustre: -o flock), or name another place with --runs DIR"
                words = f"this file system has no locks ({error.strerror})"
                raise MissingError(f"{self.path}: {words}: two runners could train into one folder", hint) from error
            else:
                return

    def ask(self) -> None:
        """Ask an owner on another machine to stop; once more hurries it."""
        self._asked.touch()

    def beat(self) -> bool:
        """Show that the owner lives; give whether it was asked to stop since the last beat."""
        now = time.time()  # of this machine, like every reader's: a server's clock would be a third
        with suppress(OSError):  # the file system is away: then so is the sign
            os.utime(self.path, (now, now))
            self._asked.unlink()
            return True
        return False


def _owner(lock: IO[bytes]) -> Owner | None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if found := _read(lock):
                return found
            time.sleep(0.005)  # it has the lock, and is about to write who it is
        except OSError:  # no locks here: `held` says so, a viewer goes by the beats
            return _beating(lock)
        else:
            found = _beating(lock)
            return found if found and found.is_elsewhere else None


def _read(lock: IO[bytes]) -> Owner | None:
    lock.seek(0)
    words = lock.read().decode(errors="replace").split()
    return Owner(int(words[0]), *words[1:3]) if words and words[0].isdigit() else None


def _beating(lock: IO[bytes]) -> Owner | None:
    found = _read(lock)
    return found if found and time.time() - os.fstat(lock.fileno()).st_mtime < LOST_S else None


@cache
def _place() -> str:
    """What tells machines of one name apart: the boot, and the process ids that a container shares with nobody."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    return ""
