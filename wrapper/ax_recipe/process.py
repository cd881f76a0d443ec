"""Starting programs: the one module that does. argv lists only, own session, output to a file, never a pipe to us."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from ax_recipe.errors import MissingError

# How long a signalled program may take before the next, harder signal (seconds). Axolotl saves an 8B adapter
# within a few seconds, a full 8B model to a slow disk within a minute.
GRACE_S = {signal.SIGINT: 90.0, signal.SIGTERM: 10.0}
# The same, once somebody is in a hurry.
HURRY_S = 3.0
POLL_S = 0.1
# Without -P, python would first look for every module in the folder that it is started in.
RUNNER = (sys.executable, "-P", "-m", "ax_recipe.launch.runner")
SOURCE = str(Path(__file__).resolve().parents[1])  # with which `python -m` finds this very ax_recipe


@dataclass(frozen=True, slots=True)
class Child:
    """A program that was started: its process id and when the kernel says it began (which tells reused ids apart)."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """The id of the process, its group and its session alike."""
        return self.popen.pid

    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number where one ended it."""
        return self.popen.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait up to ``timeout_s`` for the exit code; None if it still runs."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def wait_patiently(self, grace_s: float, hurried: Callable[[], bool]) -> int | None:
        """Wait up to ``grace_s`` for the exit code, or ``HURRY_S`` from when ``hurried`` first says so."""
        deadline = time.monotonic() + grace_s
        while (code := self.wait(POLL_S)) is None and time.monotonic() < deadline:
            if hurried():
                return self.wait(HURRY_S)
        return code

    def stop(self, hurried: Callable[[], bool] = lambda: False) -> int:
        """Interrupt, then terminate, then kill the whole tree; give the exit code of its root.

        torchrun gives each rank a session of its own, so the tree is listed before its root can die.
        """
        for number, grace_s in GRACE_S.items():
            tree = self._tree()
            self._signal_group(number)
            if self.wait_patiently(grace_s, hurried) is not None:
                break
        else:
            tree = self._tree()
            self._signal_group(signal.SIGKILL)
        _kill(tree)
        return self.popen.wait()

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return


def _kill(tree: Sequence[psutil.Process]) -> None:
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree, timeout=10)


def path_with(folder: str) -> str:
    """PYTHONPATH with ``folder`` put before what it holds already."""
    return os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))


def start(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
    """Start ``argv`` with ``environment`` added to ours; stdout and stderr go to the end of ``log``, in order.

    One file for both, since a traceback means little without the lines before it, and a replay must be exact.

    :raises MissingError: there is no such program, or the log cannot be written.
    """
    try:
        output = log.open("ab")
    except OSError as error:
        raise MissingError(
            f"{log}: cannot be written: {error.strerror}", "free some space, or mend its rights"
        ) from error
    with output:
        try:
            with _heard():
                popen = subprocess.Popen(  # the session leader: a closed terminal does not reach it
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    start_new_session=True,
                )
        except OSError as error:
            raise MissingError(
                f"cannot start {argv[0]}: {error.strerror}", "ax-recipe doctor shows what is here"
            ) from error
    return Child(popen)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Let what is started here hear SIGINT, which a shell without job control has its background programs ignore.

    What is ignored stays so in a program that is started; a handler, whatever it does, becomes the default (execve(2)).
    """
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not deaf or threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def attached(argv: Sequence[str], environment: Mapping[str, str], *, quiet: bool = False) -> int:
    """Run ``argv`` on this very terminal and give its exit code.

    ``quiet`` shows stderr only of what fails: torch and its kin warn of things that a person at a chat cannot change.
    """
    everything = {**os.environ, **environment}
    if not quiet:
        return subprocess.run(list(argv), env=everything, check=False).returncode
    with tempfile.TemporaryFile() as errors:
        code = subprocess.run(list(argv), env=everything, check=False, stderr=errors).returncode
        if code > 0:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
        return code


class Partner:
    """A probe that is asked again and again: JSON lines to its stdin, JSON lines from its stdout; use it in a ``with``.

    What it says on stderr goes to a temporary file, so that neither can wait for the other.
    """

    def __init__(self, python: Path, program: Path, *arguments: str) -> None:
        self._name = program.name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when we are left
        argv = [str(python), str(program), *arguments]
        quiet = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1"}
        try:
            self._popen = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=quiet
            )
        except OSError as error:
            raise MissingError(
                f"cannot start {python}: {error.strerror}", "ax-recipe doctor shows what is here"
            ) from error

    def __enter__(self) -> Partner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._popen.terminate()
        self._popen.wait()
        self._errors.close()

    def tell(self, value: Any) -> None:
        """Send one line; that nobody reads it any more shows when the answer is heard."""
        assert self._popen.stdin  # noqa: S101 - narrows the type
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.write(json.dumps(value) + "\n")
            self._popen.stdin.flush()

    def hear(self) -> Any:
        """The next line.

        :raises MissingError: it has ended instead; the message ends with the probe's own last line.
        """
        line = self._line()
        if not line:
            raise MissingError(f"{self._name} ended: {self._last_words()}", "ax-recipe doctor shows what is there")
        return json.loads(line)

    def all(self) -> Iterator[Any]:
        """Every line until it ends.

        :raises MissingError: it ended with an error.
        """
        while line := self._line():
            yield json.loads(line)
        if self._popen.wait():
            raise MissingError(f"{self._name} failed: {self._last_words()}", "ax-recipe doctor shows what is there")

    def _line(self) -> str:
        assert self._popen.stdout  # noqa: S101 - narrows the type
        return self._popen.stdout.readline()

    def _last_words(self) -> str:
        self._popen.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


def words(argv: Sequence[str], timeout_s: float | None = None) -> str | None:
    """What a program says on stdout; None where it is not there, ends with an error or takes longer."""
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run(list(argv), stdin=quiet, capture_output=True, text=True, check=False, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def said(argv: Sequence[str]) -> tuple[int | None, str]:
    """The exit code of a program and all it says, without its last line end; no code where it is not there."""
    try:
        done = subprocess.run(list(argv), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        return None, str(error.strerror)
    return done.returncode, (done.stderr if done.returncode else done.stdout).strip()


def probe(python: Path, program: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Run one of our probes with the training environment's python and give the JSON it prints last.

    :raises MissingError: it failed; the message ends with the probe's own last line.
    """
    argv = [str(python), str(program), *arguments]
    # A probe may import what lies beside it, however python is told to start.
    quiet = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "PYTHONSAFEPATH": "", **(environment or {})}
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=quiet, check=False)
    except OSError as error:
        raise MissingError(f"cannot start {python}: {error.strerror}", "ax-recipe doctor shows what is here") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise MissingError(f"{program.name} failed under {python}: {last}", "ax-recipe doctor shows what is there")
    return json.loads(lines[-1])
