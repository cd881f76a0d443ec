"""Real shared file systems for tests: a GlusterFS server with two clients on this machine, or sshfs.

Machine b is a mount, a name and process ids of its own: it sees the same folder under the same path by another client.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from conftest import Started

SPACES = ("unshare", "nsenter", "mount", "umount")
GLUSTER = ("glusterfsd", "glusterfs")
SFTP = "/usr/lib/openssh/sftp-server"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
DEADLINE_S = 30.0
SERVER = """
volume posix
  type storage/posix
  option directory {folder}/brick
end-volume
{locks}
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port {port}
  option auth.addr.{top}.allow 127.0.0.1
  subvolumes {top}
end-volume
"""
LOCKS = """
volume locks
  type features/locks
  subvolumes posix
end-volume
"""
CLIENT = """
volume client
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port {port}
  option remote-subvolume {top}
end-volume
"""
# What `gluster volume create` puts above a client: what it remembers and puts off is what a reader elsewhere waits for.
CACHES = ("write-behind", "open-behind", "quick-read", "md-cache")


def missing(*programs: str) -> str:
    """Why there can be none here, or nothing."""
    away = [name for name in (*SPACES, *programs) if not shutil.which(name, path=PATH)]
    if away:
        return f"no {', '.join(away)}: apt-get install glusterfs-server sshfs openssh-sftp-server"
    if os.geteuid() or not os.access("/dev/fuse", os.W_OK):
        return "file systems are mounted by root only, where there is a /dev/fuse"
    made = subprocess.run(["unshare", "--mount", "--uts", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "no name spaces of our own here"


@dataclass(slots=True)
class Shared:
    """``here`` is the folder on this machine and on b alike; ``there`` is b's as this machine sees it."""

    folder: Path
    here: Path = field(init=False)
    there: Path = field(init=False)
    init: int = 0

    def __post_init__(self) -> None:
        self.here, self.there = self.folder / "shared", self.folder / "of-b"

    def on_b(self, *argv: str | Path) -> list[str]:
        """The same program on machine b."""
        return ["nsenter", f"--target={self.init}", "--mount", "--uts", "--pid", *map(str, argv)]

    def kill_b(self) -> None:
        """Take machine b's power away."""
        os.kill(self.init, signal.SIGKILL)

    def kill_client_of_b(self) -> None:
        """Take the file system away from machine b."""
        os.kill(int((self.folder / f"{self.there.name}.pid").read_text()), signal.SIGKILL)


@contextmanager
def gluster(folder: Path, *, locks: bool = True) -> Iterator[Shared]:
    """Run one in ``folder``; whatever happens, nothing of it stays."""
    shared = Shared(folder)
    with ExitStack() as ending:
        ending.callback(_end, folder)
        _serve(folder, locks=locks)
        for mount in (shared.here, shared.there):
            mount.mkdir()
            ending.callback(_unmount, mount)
            _daemon("glusterfs", folder, "client.vol", mount.name, mount)
        ending.enter_context(_machine_b(shared))
        yield shared


@contextmanager
def sshfs(folder: Path) -> Iterator[Shared]:
    """The same where machine b has a folder of this one by sftp, which knows no locks and does not say so."""
    shared, (ours, theirs) = Shared(folder), socket.socketpair()
    with ExitStack() as ending:
        ending.enter_context(ours)
        ending.enter_context(theirs)
        for mount in (shared.here, shared.there):
            mount.mkdir()
        ending.callback(_unmount, shared.there)
        client = ["sshfs", "-f", "-o", "passive", f":{shared.here}", str(shared.there)]
        sides: list[tuple[list[str], socket.socket]] = [([SFTP], ours), (client, theirs)]
        for argv, side in sides:
            ending.enter_context(Started(argv, stdin=side.fileno(), stdout=side.fileno()))
        ending.enter_context(_machine_b(shared))
        yield shared


def _unmount(mount: Path) -> None:
    subprocess.run(["umount", "--lazy", mount], capture_output=True, check=False)


@contextmanager
def _machine_b(shared: Shared) -> Iterator[None]:
    (shared.here / "seen").touch()
    _until(lambda: (shared.there / "seen").exists(), shared.folder)
    script = 'hostname b && mount --bind "$0" "$1" && hostname && exec sleep infinity'
    spaces = ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
    argv = [*spaces, "sh", "-c", script, str(shared.there), str(shared.here)]
    with Started(argv, stdout=subprocess.PIPE) as b:
        assert b.stdout
        assert b.stdout.readline() == b"b\n"
        shared.init = psutil.Process(b.pid).children()[0].pid
        yield


def _serve(folder: Path, *, locks: bool) -> None:
    (folder / "brick").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    top = "locks" if locks else "posix"
    words = {"folder": folder, "port": port, "top": top, "locks": LOCKS if locks else ""}
    (folder / "server.vol").write_text(SERVER.format(**words))
    graph, below = CLIENT.format(**words), "client"
    for name in CACHES:
        graph += f"volume {name}\n  type performance/{name}\n  subvolumes {below}\nend-volume\n"
        below = name
    (folder / "client.vol").write_text(graph)
    _daemon("glusterfsd", folder, "server.vol", "server")


def _daemon(program: str, folder: Path, graph: str, name: str, *mount: Path) -> None:
    argv = [
        program,
        "-f",
        str(folder / graph),
        "-p",
        f"{folder}/{name}.pid",
        "-l",
        f"{folder}/{name}.log",
        *map(str, mount),
    ]
    subprocess.run(argv, check=True, env={**os.environ, "PATH": PATH})


def _end(folder: Path) -> None:
    for path in folder.glob("*.pid"):
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def _until(condition: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
        time.sleep(0.05)
