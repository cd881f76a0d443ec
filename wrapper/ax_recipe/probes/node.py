"""One machine of a training over several: says what it is and what it sees, and trains its share at the head's word.

``python node.py RUN [NODE] [--once]``, by the training environment's python on every machine; NODE counts from 0, the
head, and is SLURM_NODEID where it is left out. ``RUN/nodes/meeting.json`` is what the head says, and what this machine
answers is ``RUN/nodes/NODE.json``. Without ``--once`` it stays for the next attempt, until the head dismisses it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

BEAT_S = 1.0
REACH_S = 20.0  # how long a machine tries to reach the head's port
LOST_S = 60.0  # a head that says nothing for so long is gone
STAY_S = 900.0  # how long a machine waits for another attempt
MEASURE_S = 180.0  # how long measuring the network may take: torch's imports, NCCL's start, a network that hangs
END_S = 40.0  # torchrun gives its processes 30 seconds to save and leave
PACKAGES = ("axolotl", "torch", "transformers", "accelerate", "peft", "trl", "bitsandbytes", "deepspeed")
# How Python ends a traceback; ChildFailedError and its kin only say that a process has failed.
_ERROR = re.compile(r"(?:\[rank\d+\]: )?(?!.*ChildFailed)[A-Za-z_.]*(?:Error|Exception)\b.*")
WAITS, TRAINS, ENDED = "waits", "trains", "ended"


class Node:
    """A machine, and what it tells the head."""

    def __init__(self, run: Path, number: int) -> None:
        self.run, self.number = run, number
        plan = json.loads((run / "plan.json").read_text())
        self.command: str = plan["axolotl"]["command"]
        self.environment: dict[str, str] = next(
            stage["environment"] for stage in plan["stages"] if stage["name"] == "train"
        )
        self.told: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "beat": 0}
        self._meeting: dict[str, Any] = {}
        self._heard, self._heard_at = None, time.monotonic()

    def meeting(self) -> dict[str, Any]:
        """What the head said last; nothing where it has not spoken yet."""
        self._meeting = _read(self.run / "nodes" / "meeting.json") or self._meeting
        return self._meeting

    def tell(self, **values: Any) -> None:
        """Answer the head, whole or not at all; each answer is one heartbeat more."""
        self.told |= values
        self.told["beat"] += 1
        path = self.run / "nodes" / f"{self.number}.json"
        partial = path.with_suffix(f".{self.told['host']}.{os.getpid()}")
        partial.write_text(json.dumps(self.told))
        partial.replace(path)

    def head_is_gone(self) -> bool:
        """Whether the head itself has said nothing for a long time."""
        beat = _read(self.run / "nodes" / "0.json").get("beat")
        if beat and beat != self._heard:
            self._heard, self._heard_at = beat, time.monotonic()
        return self.number > 0 and time.monotonic() - self._heard_at > LOST_S

    def attempt(self, meeting: dict[str, Any]) -> int:
        """Take part in one attempt at the training; give its exit code."""
        new = {"attempt": meeting["attempt"], "state": WAITS, "code": None, "fault": "", "port": 0, "measured": None}
        self.told |= new | look(meeting["paths"])
        with contextlib.ExitStack() as doors:
            try:
                port = self._meet(meeting, doors)
            except OSError as error:
                self.tell(fault=str(error), state=ENDED, code=3)
                print(f"node {self.number}: {error}", file=sys.stderr, flush=True)
                return 3
            self._heard_at = time.monotonic()
            while not self.meeting()["go"] or over(self.meeting(), meeting):
                if over(self.meeting(), meeting) or self.head_is_gone():
                    self.tell(state=ENDED, code=0)
                    return 0
                if self.meeting()["measure"] and self.told["measured"] is None:
                    doors.close()
                    self.told["measured"] = self._measure(meeting, port)
                self.tell()
                time.sleep(BEAT_S)
        code = self._train(meeting, port)
        self.tell(state=ENDED, code=code)
        return code

    def _meet(self, meeting: dict[str, Any], doors: contextlib.ExitStack) -> int:
        """The head holds its port open for the others until all have come; they try whether they reach it."""
        if self.number == 0:
            doors.enter_context(door := listen(meeting["port"]))
            self.tell(port=door.getsockname()[1])
            return int(self.told["port"])
        while not (port := self._heads_port(meeting)):
            self.tell()
            time.sleep(BEAT_S)
        reach(meeting["head"], port, self.tell)
        self.tell(port=port)
        return port

    def _heads_port(self, meeting: dict[str, Any]) -> int:
        head = _read(self.run / "nodes" / "0.json")
        if over(self.meeting(), meeting):
            raise OSError("the head has ended the attempt")
        return int(head.get("port") or 0) if head.get("attempt") == meeting["attempt"] else 0

    def _measure(self, meeting: dict[str, Any], port: int) -> dict[str, Any]:
        """Time the sum of gradients over all machines; give what the head's process found, or why there is nothing."""
        result, log = self.run / "nodes" / "network.json", self.run / "nodes" / f"network.{self.number}.log"
        if self.number == 0:
            result.unlink(missing_ok=True)
        probe = Path(__file__).with_name("network.py")
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun(meeting, self.number, port)]
        code = self._beside([*command, str(probe), str(result)], log, meeting, time.monotonic() + MEASURE_S)
        found = _read(result) if self.number == 0 else {}
        if code or (self.number == 0 and not found):
            return {"fault": last_words(log) or f"exit code {code}"}
        return found

    def _train(self, meeting: dict[str, Any], port: int) -> int:
        """Start torchrun and stay beside it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it is for torchrun to act on them
            signal.signal(number, _ignore)
        self.told["state"] = TRAINS
        # The head's words go where its runner reads them.
        log = self._log(meeting) if self.number else None
        return self._beside(argv(self.command, meeting, self.number, port), log, meeting)

    def _beside(self, command: list[str], path: Path | None, meeting: dict[str, Any], until: float = math.inf) -> int:
        """Run a program, to its end or that of the attempt, the head or ``until``; give its exit code."""
        environment = {**os.environ, **self.environment, "AX_RECIPE_RUN": str(self.run)}
        with contextlib.ExitStack() as files:
            log = files.enter_context(path.open("ab")) if path else None
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log and subprocess.STDOUT,
                start_new_session=self.number > 0,  # the head's runner signals its group, the others are signalled here
            )
            files.callback(_leave_none, child)  # where the disk is full, say, and nothing can be told any more
            while (code := child.poll()) is None:
                self.tell()
                if over(self.meeting(), meeting) or self.head_is_gone() or time.monotonic() > until:
                    return end(child)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(BEAT_S)
        return code

    def _log(self, meeting: dict[str, Any]) -> Path:
        return Path(meeting["log"]).with_suffix(f".node{self.number}.log")


def _ignore(_number: int, _frame: object) -> None:
    """Unlike SIG_IGN, a handler of our own is not inherited."""


def argv(command: str, meeting: dict[str, Any], number: int, port: int) -> list[str]:
    """The exact command of one machine."""
    return [command, "train", meeting["yaml"], "--launcher", "torchrun", "--", *torchrun(meeting, number, port)]


def torchrun(meeting: dict[str, Any], number: int, port: int) -> list[str]:
    """What torchrun is told on one machine. A static rendezvous puts rank 0 on the head, c10d (torch 2.13) anywhere."""
    where = {
        "nnodes": meeting["nodes"],
        "node_rank": number,
        "nproc_per_node": meeting["each"],
        "master_addr": meeting["head"],
        "master_port": port,
        "rdzv_id": meeting["id"],
    }
    return [f"--{name}={value}" for name, value in where.items()]


def last_words(log: Path) -> str:
    """The line that says most of why a program of torch failed: its last error before torchrun's own."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if _ERROR.match(line)), lines[-1] if lines else "")


def over(now: dict[str, Any], meeting: dict[str, Any]) -> bool:
    """Whether the head has ended the attempt, or gone on to another."""
    return bool(now["over"] or now["attempt"] != meeting["attempt"])


def end(child: subprocess.Popen[bytes]) -> int:
    """Terminate, then kill, what was started; give its exit code."""
    tree = _tree(child.pid)
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(END_S)
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return child.wait()


def _leave_none(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        end(child)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def look(paths: list[str]) -> dict[str, Any]:
    """What this machine is: versions, GPUs, and which of ``paths`` it does not see."""
    return {
        "versions": dict(_versions()),
        "gpus": len(list(Path("/dev").glob("nvidia[0-9]*"))),
        "missing": [words for path in paths if (words := unseen(path))],
    }


def unseen(path: str) -> str:
    """The path where it is not seen here, with the reason if the library of its storage gives one."""
    if "://" not in path:
        return "" if Path(path).exists() else path
    try:
        from fsspec.core import url_to_fs

        storage, place = url_to_fs(path)
        return "" if storage.exists(place) else path
    except Exception as error:  # noqa: BLE001 - s3fs, gcsfs and the hub have errors of their own, without a parent
        return f"{path} ({error})"


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield package, version(package)


def listen(port: int) -> socket.socket:
    """Hold a port open: ``port``, or any that is free where it is 0.

    :raises OSError: another program has it.
    """
    try:
        door = socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise OSError(f"port {port} is in use on {socket.gethostname()}: {error.strerror}") from error
    door.settimeout(None)
    return door


def reach(host: str, port: int, tell: Callable[[], None]) -> None:
    """Connect to the head once.

    :raises OSError: there is no way to it.
    """
    deadline = time.monotonic() + REACH_S
    while True:
        try:
            socket.create_connection((host, port), BEAT_S).close()
        except OSError as error:
            if time.monotonic() > deadline or isinstance(error, socket.gaierror):
                words = error.strerror or "it does not answer"
                raise OSError(f"{socket.gethostname()} cannot reach the head at {host}:{port}: {words}") from error
            tell()
            time.sleep(BEAT_S)
        else:
            return


def _read(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        return {}
    except OSError as error:  # NFS and GlusterFS call a file stale that another machine is about to replace
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return {}
        raise
    return value


def main() -> int:
    """Take part until the training is over."""
    once = "--once" in sys.argv
    words = [word for word in sys.argv[1:] if word != "--once"]
    run = Path(words[0])
    number = int(words[1] if len(words) > 1 else os.environ["SLURM_NODEID"])
    if not (run / "plan.json").is_file():
        print(f"{run} is not seen on {socket.gethostname()}: every machine needs it, on a shared file system")
        return 3
    (run / "nodes").mkdir(exist_ok=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return stay(Node(run, number), once=once)


def stay(node: Node, *, once: bool) -> int:
    """Take part in each attempt, or in ``once`` one; give the last exit code."""
    done, code, until = 0, 0, time.monotonic() + STAY_S
    while time.monotonic() < until:
        meeting = node.meeting()
        if meeting and meeting["attempt"] > done and not meeting["over"]:
            print(f"node {node.number} takes part in attempt {meeting['attempt']}", flush=True)
            code, done, until = node.attempt(meeting), meeting["attempt"], time.monotonic() + STAY_S
        if done and (once or meeting["dismissed"]):
            break
        time.sleep(BEAT_S)
    return code


if __name__ == "__main__":
    sys.exit(main())
