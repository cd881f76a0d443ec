"""llama.cpp's server without Ollama around it: a built llama-server, or the one in the package xllamacpp."""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ax_recipe import assets, process
from ax_recipe.errors import MissingError, RunFailedError
from ax_recipe.process import Child
from ax_recipe.ship import convert
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.ollama import Reply

LOADING_S = 600.0
"""How long a large model may take from a slow disk before it answers."""

_POLL_S = 0.2
_ERROR = re.compile(r"(?:[\d.]+ )?E (.+)")
"""A line of llama.cpp's log that tells an error, after the time where it has one."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is started to serve a GGUF: the program llama-server, or a python that has xllamacpp."""

    name: str
    server: Path | None = None

    def argv(self, gguf: Path, port: int, context: int, adapter: Path | None) -> list[str]:
        """The command that serves ``gguf`` on 127.0.0.1."""
        if self.server is None:
            beside = [str(adapter)] if adapter else []
            return [sys.executable, str(assets.probe("llama_server.py")), str(gguf), str(port), str(context), *beside]
        beside = ["--lora", str(adapter)] if adapter else []
        told = ["--model", str(gguf), "--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(context)]
        return [str(self.server), *told, "--parallel", "1", *beside, "--jinja"]


def find() -> Engine:
    """The engine that is at hand: a llama-server in LLAMA_CPP_DIR or on PATH before the package.

    :raises MissingError: there is none.
    """
    if server := convert.program("llama-server"):
        return Engine("llama-server", server)
    if importlib.util.find_spec("xllamacpp"):
        return Engine("xllamacpp")
    raise MissingError("no llama.cpp engine here", "pip install xllamacpp, or put llama-server on PATH")


class Served:
    """A GGUF that is served; it ends with :func:`serve`."""

    def __init__(self, url: str, child: Child, log: Path) -> None:
        import httpx

        # A connection of its own for each question: the server may just be closing the one of the last.
        alone = httpx.Limits(max_keepalive_connections=0)
        patience = httpx.Timeout(None, connect=5.0)
        self._client = httpx.Client(base_url=url, timeout=patience, trust_env=False, limits=alone)
        self.child, self._log = child, log

    def close(self) -> None:
        """End the program and the connection to it."""
        self._client.close()
        self.child.stop()

    def wait(self, deadline: float) -> None:
        """Until it answers.

        :raises RunFailedError: it ended, or is not there when ``time.monotonic()`` is ``deadline``.
        """
        import httpx

        while time.monotonic() < deadline:
            if (code := self.child.wait(_POLL_S)) is not None:
                said = _cause(self._log.read_text(encoding="utf-8", errors="replace"))
                raise RunFailedError(f"llama.cpp ended with {code}: {said}")
            try:
                if self._client.get("/health").status_code == 200:
                    return
            except httpx.TransportError:
                continue
        raise RunFailedError(f"llama.cpp did not load the model in {LOADING_S:.0f} s")

    def memory(self) -> int:
        """What the program holds of this machine's own memory, in bytes."""
        import psutil

        return int(psutil.Process(self.child.pid).memory_info().rss)

    def chat(self, messages: Sequence[Message], tokens: int) -> Reply:
        """The greedy answer of at most ``tokens``, asked through the GGUF's own chat template.

        :raises RunFailedError: the server does not answer, or no more.
        """
        asked, first, text, last = time.perf_counter(), 0.0, [], dict[str, Any]()
        for last in self._stream({"messages": list(messages), "max_tokens": tokens}):
            if word := last["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter() - asked
                text.append(word)
        counts = last.get("timings", {})
        ended = last["choices"][0].get("finish_reason") if last else None
        if ended is None:
            raise RunFailedError(f"llama.cpp's answer broke off after {''.join(text)[-60:]!r}")
        all_s = time.perf_counter() - asked
        # The words of a fast answer come in one piece, long after the first was there.
        first = min(first, max(all_s - counts["predicted_ms"] / 1000, 0.0))
        return Reply("".join(text), ended, counts["prompt_n"], counts["predicted_n"], first, all_s)

    def _stream(self, question: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        import httpx

        body = {**question, "temperature": 0, "stream": True, "cache_prompt": False}
        try:
            with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise RunFailedError(f"llama.cpp answers {response.status_code}: {response.read().decode()[:300]}")
                lines = (line for line in response.iter_lines() if line.startswith("data: {"))
                yield from (json.loads(line.removeprefix("data: ")) for line in lines)
        except httpx.TransportError as error:
            raise RunFailedError(f"the connection to llama.cpp broke: {error}") from error


@contextmanager
def serve(engine: Engine, gguf: Path, context: int, adapter: Path | None = None) -> Iterator[Served]:
    """``gguf`` on a free port of this machine, perhaps with an adapter on it, as long as it is needed.

    :raises RunFailedError: it cannot be loaded.
    """
    with TemporaryDirectory() as folder:
        log = Path(folder) / "llama.log"
        port = _free_port()
        child = process.start(engine.argv(gguf, port, context, adapter), {}, log)
        served = Served(f"http://127.0.0.1:{port}", child, log)
        try:
            served.wait(time.monotonic() + LOADING_S)
            yield served
        finally:
            served.close()


def _cause(log: str) -> str:
    """The first error: what comes after it (0.5 to 0.7) says no more than that the loading failed."""
    lines = log.strip().splitlines()
    told = (found[1] for line in lines if (found := _ERROR.match(line)))
    return next(told, (lines or ["no output"])[-1])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
