"""Speak Ollama's HTTP API: send files, create a model, prove what it renders, chat, unload.

Known of 0.30 to 0.33: an error may come as a line of the stream after HTTP 200, and only a last status of "success"
is one. Parameter names and types are not checked there (``modelfile.check_parameters`` does it before).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.ship.gotemplate import Message

if TYPE_CHECKING:
    import httpx

OLDEST = (0, 30, 0)
"""Before 0.30 GGUFs ran in other engines, with other rules for templates."""

PLAIN = (0, 34, 1)
"""From here on ``create`` takes a GGUF as it is (its server/create.go).

It quantises none, takes no adapter, and safetensors become models for MLX, of a few architectures.
"""

QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M")
"""What ``create`` could make itself until 0.34; anything else needs a ready GGUF."""

_CHUNK = 1 << 20  # bytes
_NAME = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}/){0,2}[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(?::[A-Za-z0-9_][\w.-]{0,79})?"
)


DELAYS_S = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long to wait before each new attempt, where a server dies while a model is brought to it."""


class LostError(MissingError):
    """The server does not answer, or the connection to it broke."""


class UnshownError(MissingError):
    """The server does not show the prompts that it renders."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is: ``what`` in words, ``done`` of ``total`` bytes where the step counts them."""

    what: str
    done: int | None = None
    total: int | None = None


Report = Callable[[Progress], None]


def _silent(_: Progress) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Creation:
    """A model to be made: ``files`` and ``adapters`` by the relative name that Ollama is to know them under.

    ``fields`` are those of ``POST /api/create`` as :meth:`ax_recipe.ship.modelfile.Modelfile.request` gives them.
    """

    name: str
    files: Mapping[str, Path]
    fields: Mapping[str, object] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    quantize: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the model. ``ended`` is Ollama's reason (``stop``, ``length``), the counts are in tokens.

    ``first_s`` is when the first word came, ``all_s`` when the last did, in seconds from the question.
    """

    text: str
    ended: str
    prompt_tokens: int
    answer_tokens: int
    first_s: float = 0.0
    all_s: float = 0.0


def address(host: str | None = None) -> str:
    """The server's URL: ``host``, else OLLAMA_HOST, else this machine, completed as Ollama's own client does."""
    given = (host or os.environ.get("OLLAMA_HOST") or "").strip().strip("\"'") or "127.0.0.1"
    scheme, _, rest = given.rpartition("://")
    parts = urlsplit(f"//{rest}")
    name = parts.hostname or "127.0.0.1"
    name = "127.0.0.1" if name in ("0.0.0.0", "::") else f"[{name}]" if ":" in name else name  # noqa: S104 - a server's way to say "everywhere"
    usual = {"http": 80, "https": 443}.get(scheme, 11434)
    return f"{scheme or 'http'}://{name}:{parts.port or usual}{parts.path.rstrip('/')}"


def model_name(name: str) -> str:
    """``name``, if Ollama would take it; raises :class:`RecipeError` else."""
    if not _NAME.fullmatch(name):
        raise RecipeError(
            f"{name!r} is no name for a model in Ollama",
            "letters, digits, '_', '-' and '.', no more than 80, then perhaps ':' and a tag",
        )
    return name


class Ollama:
    """A server, reached over one connection pool: close it, or use it in a ``with`` statement.

    ``timeout_s`` is how long it may be silent. Creating and loading have no limit: a large model takes minutes
    between two lines. ``delays_s`` are the pauses before creating again, where the connection is lost.
    """

    def __init__(
        self, host: str | None = None, *, timeout_s: float = 30.0, delays_s: Sequence[float] = DELAYS_S
    ) -> None:
        import httpx  # here and below, for most who know this module speak to no server

        self.url = address(host)
        self._delays_s = tuple(delays_s)
        self._patience = httpx.Timeout(None, connect=timeout_s, write=timeout_s)
        self._digests: dict[tuple[Path, int, int], str] = {}
        secure = self.url.startswith("https:")  # loading the certificates takes longer than all the rest
        self._client = httpx.Client(base_url=self.url, timeout=timeout_s, trust_env=False, verify=secure)

    def __enter__(self) -> Ollama:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def version(self) -> str:
        """The server's version; raises :class:`MissingError` where none answers."""
        found = self._json("GET", "/api/version").get("version")
        if not isinstance(found, str):
            raise MissingError(f"{self.url} answers, but not as Ollama does", "check OLLAMA_HOST or --host")
        return found

    def require(self, oldest: tuple[int, int, int] = OLDEST) -> str:
        """The version, if it is new enough; raises :class:`MissingError` else."""
        version = self.version()
        if _is_before(version, oldest):
            wanted = ".".join(map(str, oldest))
            raise MissingError(
                f"Ollama at {self.url} is {version}, older than {wanted}", "update it: https://ollama.com/download"
            )
        return version

    def makes(self) -> bool:
        """Whether it still makes models: GGUFs of safetensors, quantised ones, ones with an adapter."""
        return _is_before(self.version(), PLAIN)

    def has(self, name: str) -> bool:
        """Whether the server has a model of this name."""
        response = self._send("POST", "/api/show", json={"model": model_name(name)})
        if response.status_code == 404:
            return False
        self._check(response)
        return True

    def show(self, name: str) -> dict[str, Any]:
        """What the server knows of a model: template, parameters, capabilities."""
        return self._json("POST", "/api/show", json={"model": model_name(name)})

    def delete(self, name: str) -> None:
        """Take a model away; raises :class:`RunFailedError` where there is none."""
        self._check(self._send("DELETE", "/api/delete", json={"model": model_name(name)}))

    def copy(self, name: str, other: str) -> None:
        """Give a model another name as well; a model of that name is replaced."""
        self._check(self._send("POST", "/api/copy", json={"source": name, "destination": model_name(other)}))

    def create(self, creation: Creation, report: Report = _silent) -> None:
        """Send what the server lacks and have it make the model; where the connection breaks, again, a few times.

        Raises :class:`RecipeError` for a name, file name or quantisation that it does not take,
        :class:`RunFailedError` where it fails, and :class:`LostError` where it stays away. A file that the server has
        already is not sent again.
        """
        for delay_s in self._delays_s:
            try:
                return self._create(creation, report)
            except LostError as error:
                report(Progress(f"{error.message}: once more in {delay_s:g} s"))
                time.sleep(delay_s)
        return self._create(creation, report)

    def _create(self, creation: Creation, report: Report) -> None:
        body: dict[str, object] = {"model": model_name(creation.name), **creation.fields}
        if creation.quantize:
            body["quantize"] = _quantisation(creation.quantize)
        for key, files in (("files", creation.files), ("adapters", creation.adapters)):
            for name in files:
                if name.startswith("/") or ".." in Path(name).parts:
                    raise RecipeError(f"{name!r}: a file for Ollama needs a name without '..' or a leading '/'")
            if files:
                body[key] = {name: self.send_file(path, report) for name, path in files.items()}
        last = ""
        for line in self._stream("/api/create", body):
            last = str(line.get("status", ""))
            report(Progress(last, line.get("completed"), line.get("total")))
        if last != "success":
            raise RunFailedError(
                f"Ollama stopped after {last!r} without success", "see the server's log, then deploy again"
            )

    def send_file(self, path: Path, report: Report = _silent) -> str:
        """Have the server hold the file's content; its digest (``sha256:...``)."""
        digest = self._digest(path, report)
        if self._send("HEAD", f"/api/blobs/{digest}").status_code == 200:
            report(Progress(f"{path.name} is there already", path.stat().st_size, path.stat().st_size))
            return digest
        size = str(path.stat().st_size)
        content = _chunks(path, f"sending {path.name}", report)
        self._check(
            self._send(
                "POST",
                f"/api/blobs/{digest}",
                content=content,
                headers={"Content-Length": size},
                timeout=self._patience,
            )
        )
        return digest

    def _digest(self, path: Path, report: Report) -> str:
        """The file's digest, read once as long as the file stays as it is."""
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            self._digests[key] = _digest(path, report)
        return self._digests[key]

    def chat(self, name: str, messages: Sequence[Message], options: Mapping[str, object] | None = None) -> Reply:
        """Have the model answer, with ``options`` over its own parameters."""
        body = {"model": name, "messages": list(messages), "options": dict(options or {}), "stream": True}
        text, last, asked, first = [], dict[str, Any](), time.perf_counter(), 0.0
        for last in self._stream("/api/chat", body):
            text.append(last.get("message", {}).get("content", ""))
            first = first or time.perf_counter() - asked
        if not last.get("done"):
            raise RunFailedError(f"Ollama's answer broke off after {''.join(text)[-60:]!r}", "see the server's log")
        counts = (last.get("prompt_eval_count", 0), last.get("eval_count", 0))
        return Reply("".join(text), last.get("done_reason", ""), *counts, first, time.perf_counter() - asked)

    def memory(self, name: str) -> int | None:
        """How many bytes a loaded model takes, None where it is not loaded."""
        loaded = self._json("GET", "/api/ps").get("models") or []
        sizes = [int(each["size"]) for each in loaded if name in (each["name"], each["name"].removesuffix(":latest"))]
        return sizes[0] if sizes else None

    def rendered(self, name: str, messages: Sequence[Message]) -> str:
        """The prompt that the server makes of ``messages``, without running the model."""
        body = {"model": name, "messages": list(messages), "stream": False, "_debug_render_only": True}
        answer = self._json("POST", "/api/chat", json=body, timeout=None)
        text = answer.get("_debug_info", {}).get("rendered_template")
        if not isinstance(text, str):
            raise UnshownError("this Ollama does not show the prompt it renders", "update it to prove the template")
        return text

    def unload(self, name: str) -> None:
        """Take the model out of memory.

        Two models on one GGUF share a runner (0.33), so one is unloaded before the other is asked.
        """
        self._json("POST", "/api/generate", json={"model": name, "keep_alive": 0})

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        response = self._send(method, path, **more)
        self._check(response)
        try:
            value = response.json()
        except ValueError as error:
            raise MissingError(f"{self.url} answers, but not as Ollama does", "check OLLAMA_HOST or --host") from error
        return value if isinstance(value, dict) else {}

    def _send(self, method: str, path: str, **more: Any) -> httpx.Response:
        import httpx

        try:
            return self._client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise self._unreached(error) from error

    def _stream(self, path: str, body: Mapping[str, object]) -> Iterator[dict[str, Any]]:
        import httpx

        try:
            with self._client.stream("POST", path, json=dict(body), timeout=self._patience) as response:
                if response.status_code != 200:
                    response.read()
                    self._check(response)
                for line in response.iter_lines():
                    value = json.loads(line or "{}")
                    if "error" in value:
                        raise RunFailedError(f"Ollama: {value['error']}")
                    yield value
        except httpx.HTTPError as error:
            raise self._unreached(error) from error
        except json.JSONDecodeError as error:
            raise RunFailedError(
                f"Ollama's answer broke off: {error}", "see the server's log, then try again"
            ) from error

    def _check(self, response: httpx.Response) -> None:
        if response.status_code < 400:
            return
        try:
            said = response.json().get("error") or response.text
        except (ValueError, AttributeError):
            said = response.text
        raise RunFailedError(f"Ollama at {self.url} answers {response.status_code}: {str(said).strip()[:500]}")

    def _unreached(self, error: httpx.HTTPError) -> LostError:
        import httpx

        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return LostError(f"no Ollama at {self.url}", "start it with `ollama serve`, or name another by --host")
        if isinstance(error, httpx.TimeoutException):
            return LostError(f"Ollama at {self.url} is silent", "is the machine busy? see its log, then try again")
        said = str(error) or type(error).__name__
        return LostError(f"the connection to Ollama at {self.url} broke: {said}", "what was sent is kept: try again")


def _is_before(version: str, other: tuple[int, int, int]) -> bool:
    """Whether ``version`` is an older one; a build from source calls itself 0.0.0, and is taken for a new one."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    return any(numbers) and numbers < other


def quantisation(name: str) -> str | None:
    """The type that ``create`` makes when it is asked for ``name``; None for one that it does not make."""
    wanted = {"Q4_K": "Q4_K_M"}.get(name.upper(), name.upper())
    return wanted if wanted in QUANTISATIONS else None


def _quantisation(name: str) -> str:
    wanted = quantisation(name)
    if wanted is None:
        raise RecipeError(
            f"Ollama cannot quantise to {name}", f"it makes {', '.join(QUANTISATIONS)}; for others bring a ready GGUF"
        )
    return wanted


def _digest(path: Path, report: Report) -> str:
    found = hashlib.sha256()
    for chunk in _chunks(path, f"reading {path.name}", report):
        found.update(chunk)
    return f"sha256:{found.hexdigest()}"


def _chunks(path: Path, what: str, report: Report) -> Iterator[bytes]:
    total, done = path.stat().st_size, 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            done += len(chunk)
            report(Progress(what, done, total))
            yield chunk


def files_of(source: Path) -> dict[str, Path]:
    """What to send of a GGUF, or of a staged folder, by the names that Ollama is to know."""
    if source.is_file():
        return {source.name: source}
    skipped = (".stale", ".of-the-base")
    return {
        path.name: path
        for path in sorted(source.iterdir())
        if path.is_file() and path.stat().st_size and not path.name.startswith(".") and path.suffix not in skipped
    }
