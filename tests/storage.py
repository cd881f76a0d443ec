"""A real S3 for tests: moto's server, a process of its own that keeps all objects in its memory."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from conftest import Started

START_S = 30.0
# Where no rights are asked for, moto wants to see that somebody has signed, and does not look who.
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=a/20261122/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=a"
}


@dataclass(frozen=True)
class Storage:
    """What answers at ``address``, its process, and the ``environment`` of somebody who knows it."""

    address: str
    pid: int
    environment: dict[str, str]

    def make(self, bucket: str) -> None:
        """Make a bucket."""
        httpx.put(f"{self.address}/{bucket}", headers=SIGNED).raise_for_status()

    def vanish(self) -> None:
        """Lose every bucket with all that is in it."""
        httpx.post(f"{self.address}/moto-api/reset").raise_for_status()

    def write(self, name: str, content: bytes) -> None:
        """Write an object, whose name begins with its bucket."""
        httpx.put(f"{self.address}/{name}", content=content, headers=SIGNED).raise_for_status()

    def read(self, name: str) -> bytes:
        """Read an object."""
        return httpx.get(f"{self.address}/{name}", headers=SIGNED).raise_for_status().content

    def names(self, bucket: str) -> list[str]:
        """All objects of a bucket."""
        return re.findall("<Key>([^<]+)</Key>", httpx.get(f"{self.address}/{bucket}?list-type=2", headers=SIGNED).text)


@contextlib.contextmanager
def serve(folder: Path, *, anonymous: int | None = None) -> Iterator[Storage]:
    """Serve until left; only the first ``anonymous`` requests need no right, all where it is None."""
    beside = Path(sys.executable).with_name("moto_server")
    program = str(beside) if beside.is_file() else shutil.which("moto_server")
    if program is None:
        pytest.skip("no moto_server here: pip install 'moto[s3]' flask flask-cors")
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    limit = {} if anonymous is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(anonymous)}
    address = f"http://127.0.0.1:{port}"
    told = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "a-key-that-is-nobodys",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with (folder / "moto.log").open("wb") as log:
        argv = [program, "-H", "127.0.0.1", "-p", str(port)]
        quiet = subprocess.DEVNULL
        with Started(argv, stdout=log, stderr=log, env={**os.environ, **limit}, stdin=quiet) as child:
            _wait(address, child)
            yield Storage(address, child.pid, told)


def _wait(address: str, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert child.poll() is None, "moto_server ended"
        assert time.monotonic() < deadline, "moto_server does not answer"
        try:
            httpx.get(f"{address}/moto-api/data.json")
        except httpx.TransportError:  # not there yet, or slow on a busy machine
            time.sleep(0.1)
        else:
            return
