"""Where else a run's folder is kept, and what of it is there: mirror.json as it was asked, mirrored.json as it came."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ax_recipe.errors import RecipeError

NONE = "none"  # what ends it


@dataclass(frozen=True, slots=True)
class Mirror:
    """The mirror of the run in ``folder``, if it has one."""

    folder: Path

    @property
    def path(self) -> Path:
        """What was asked for: ``url``, and by which name this machine writes there."""
        return self.folder / "mirror.json"

    @property
    def told(self) -> Path:
        """What the last copy said: what is there, when, and what was wrong."""
        return self.folder / "mirrored.json"

    @property
    def log(self) -> Path:
        """A line to each copy, and what its libraries say."""
        return self.folder / "logs" / "mirror.log"

    @property
    def url(self) -> str:
        """The folder of runs there; empty where it is kept nowhere else."""
        return str(_read(self.path).get("url", ""))

    @property
    def place(self) -> str:
        """Where this very run is there."""
        return f"{self.url}/{self.folder.name}"

    def read(self) -> dict[str, Any]:
        """What the last copy to that place said; nothing where there was none."""
        told = _read(self.told)
        return told if told.get("url") == self.place else {}

    def words(self) -> str:
        """In a line what is there and what is not; empty where it is kept nowhere else."""
        if not self.url:
            return ""
        place, told = self.place, self.read()
        if not told:
            return f"{place}: nothing is there yet"
        there = _there(told)
        if told.get("error"):
            return f"{place}: {there}, nothing after it: {told['error']} ({told.get('hint')})"
        return f"{place}: {there}"


def _there(told: Mapping[str, Any]) -> str:
    at, size = told.get("time"), told.get("bytes")
    if not (isinstance(at, int | float) and isinstance(size, int)):
        return "nothing is there"
    newest = f", {told['checkpoint']} the newest" if told.get("checkpoint") else ", no checkpoint yet"
    return f"all of {when(at)} is there{newest}, {size / 2**20:,.1f} MiB"


def when(at: float) -> str:
    """A moment (unix seconds), as a person reads it here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def asked(told: str) -> str:
    """The place that a person names: a URL, or a folder of this machine or a shared one; empty for ``none``.

    :raises RecipeError: it holds a secret, or is neither.
    """
    if told == NONE or not told:
        return ""
    if "://" not in told:
        scheme, colon, _ = told.partition(":")
        if colon and scheme.isalnum():
            hint = f"an address begins with two slashes, {scheme}://; a folder of that name is ./{told}"
            raise RecipeError(f"{told} is neither an address nor plainly a folder", hint)
        return str(Path(told).expanduser().absolute())
    from ax_recipe.recipe import secret  # here, for it reads YAML, and who only looks at a run has no use for that

    parts = urlsplit(told)
    if parts.query or secret.has_form(told) or (parts.username and parts.scheme in ("s3", "gs", "gcs")):
        raise RecipeError(
            f"{told.partition('://')[0]}://...: a secret in it would lie open in the run's files",
            "leave it out: the provider's own variables and files are read",
        )
    return told.rstrip("/")


def wanted(url: str, before: str | None = None) -> str:
    """mirror.json: ``before`` is who wrote to that run there until now."""
    return json.dumps({"url": url, "writer": uuid.uuid4().hex, "before": before}, indent=1)


def changed(found: Mirror, url: str) -> str:
    """mirror.json for another place, or for none (empty): who writes stays who it is, for it may come back."""
    return json.dumps({**json.loads(wanted(url)), **_read(found.path), "url": url}, indent=1)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it is damaged: then the seal of mirror.json does not hold
        return {}
    return value if isinstance(value, dict) else {}
