"""Axolotl's own validation of a config, for the hardware it is meant for: asked once, then remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ax_recipe import assets
from ax_recipe.axolotl import Axolotl, cache_folder, keep
from ax_recipe.errors import Severity
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.recipe.document import Keys

# What Axolotl 0.19 warns of and nothing is wrong with.
_NEWS = ("Auto-enabling LoRA kernel optimizations",)


@dataclass(frozen=True, slots=True)
class Saying:
    """What Axolotl says: at which key, as far as it tells."""

    key: Keys
    message: str
    severity: Severity


def capabilities(hardware: Hardware) -> dict[str, Any]:
    """The hardware in the words of Axolotl's GPUCapabilities (0.19, utils/schemas/internal)."""
    kind = hardware.kind
    number = kind.compute_capability if kind else 0
    new = bool(kind and kind.has_bf16)
    return {
        "bf16": new,
        "fp8": number >= 90,
        "tf32": new,
        "n_gpu": hardware.count * hardware.nodes,  # Axolotl 0.19 counts all processes
        "n_node": hardware.nodes,
        "compute_capability": f"sm_{number:02d}",
    }


def ask(keys: Mapping[str, Any], hardware: Hardware, axolotl: Axolotl) -> list[Saying]:
    """What Axolotl's validation says of ``keys`` on ``hardware``; a few seconds, unless it has been asked before.

    :raises MissingError: the environment's python fails.
    """
    program, target, text = assets.probe("validate.py"), json.dumps(capabilities(hardware)), _text(keys)
    answer = _answer(keys, hardware, axolotl)
    if not answer.is_file():
        _ask(axolotl, program, text, target, answer)
    return list(_sayings(json.loads(answer.read_text(encoding="utf-8")), keys))


def is_known(keys: Mapping[str, Any], hardware: Hardware, axolotl: Axolotl) -> bool:
    """Whether :func:`ask` would answer from memory."""
    return _answer(keys, hardware, axolotl).is_file()


def _text(keys: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(keys), sort_keys=True, allow_unicode=True)


def _answer(keys: Mapping[str, Any], hardware: Hardware, axolotl: Axolotl) -> Path:
    """Where the answer is kept: named by all that it depends on."""
    programs = [assets.probe(name).read_text(encoding="utf-8") for name in ("validate.py", "listening.py")]
    asked = (_text(keys), json.dumps(capabilities(hardware)), axolotl.version, str(axolotl.command), *programs)
    name = hashlib.sha256("\0".join(asked).encode()).hexdigest()[:24]
    return cache_folder() / "validated" / f"{name}.json"


def _ask(axolotl: Axolotl, program: Path, text: str, target: str, answer: Path) -> None:
    from ax_recipe import process  # here, for a cached answer starts no program

    answer.parent.mkdir(parents=True, exist_ok=True)
    config = answer.with_suffix(f".{os.getpid()}.yml")
    config.write_text(text, encoding="utf-8")
    try:
        said = process.probe(axolotl.python, program, str(config), target)
    finally:
        config.unlink()
    keep(answer, json.dumps(said))


def _sayings(said: Mapping[str, Any], keys: Mapping[str, Any]) -> Iterator[Saying]:
    for error in said["errors"]:
        path = _path(error["loc"], keys)
        yield Saying(path or _named(error["message"], keys), str(error["message"]), "error")
    for message in said["warnings"]:
        if message.startswith(_NEWS):
            continue
        yield Saying(_named(message, keys), " ".join(message.split()), "warning")


def _path(loc: list[Any], keys: Mapping[str, Any]) -> Keys:
    """The part of pydantic's place that the file has; it puts the names of tried types between."""
    at: Any = keys
    found: list[Any] = []
    for part in loc:
        if (isinstance(at, Mapping) and part in at) or (
            isinstance(at, list) and isinstance(part, int) and part < len(at)
        ):
            at = at[part]
        elif not found:
            return (part,) if len(loc) == 1 else ()
        else:
            continue
        found.append(part)
    return tuple(found)


def _named(message: str, keys: Mapping[str, Any]) -> Keys:
    """The key of the file that stands first in the message; the longest where one holds another."""
    places = {key: place for key in map(str, keys) if len(key) > 3 and (place := message.find(key)) >= 0}
    return (min(places, key=lambda key: (places[key], -len(key))),) if places else ()
