"""What is checked: the Axolotl keys with their lines, the hardware they are for, and the Axolotl that would train."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl
from ax_recipe.errors import MissingError, Problem, RecipeError, Severity
from ax_recipe.forecast import architecture
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.recipe.document import Document, Keys, dotted
from ax_recipe.recipe.edit import flow
from ax_recipe.recipe.recipe import is_local

_TRUE = frozenset(["true", "yes", "on", "1", "t", "y"])
ADAPTERS = frozenset(["lora", "qlora"])


@dataclass(frozen=True, slots=True)
class Subject:
    """One Axolotl config to be looked at.

    ``folder`` is where its file lies. ``made``: its base is made by the run itself, and may not be there yet.
    """

    document: Document
    hardware: Hardware
    folder: Path
    axolotl: Axolotl | None = None
    made: bool = False

    @property
    def of_recipe(self) -> bool:
        """Whether it was made of a recipe, rather than read from a YAML of Axolotl's own."""
        return self.document.ours is not None

    @property
    def keys(self) -> Mapping[str, Any]:
        """The Axolotl keys."""
        return self.document.value

    def number(self, key: str) -> float | None:
        """The number at ``key``; None where there is none, or something else (which the schema names)."""
        return as_number(self.keys.get(key))

    def text(self, key: str) -> str | None:
        """The text at ``key``, None for anything else."""
        value = self.keys.get(key)
        return value if isinstance(value, str) and value else None

    def on(self, key: str) -> bool:
        """Whether ``key`` is true, in any of the words that pydantic takes for it."""
        return is_true(self.keys.get(key))

    def block(self, key: str) -> Mapping[str, Any]:
        """The mapping at ``key``, empty where there is none."""
        value = self.keys.get(key)
        return value if isinstance(value, Mapping) else {}

    def list(self, key: str) -> Sequence[Any]:
        """The list at ``key``; one thing alone is a list of one."""
        value = self.keys.get(key)
        return value if isinstance(value, list) else [] if value is None else [value]

    def datasets(self, *rooms: str) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
        """Each dataset of the rooms (``datasets``, ``test_datasets``, ...) with its key."""
        for room in rooms:
            for index, each in enumerate(self.list(room)):
                if isinstance(each, Mapping):
                    yield (room, index), each

    @property
    def adapter(self) -> str | None:
        """The kind of adapter, None for a full fine-tune."""
        return self.text("adapter")

    def has_plugin(self, name: str) -> bool:
        """Whether a plugin of this name is listed, under whichever path."""
        return any(name in str(plugin) for plugin in self.list("plugins"))

    def path(self, text: str) -> Path | None:
        """The local file or folder that is meant, whether it is there or not; None for a hub id.

        Axolotl looks from where it is started; what lies beside the config is found, too.
        """
        if not names_a_file(text) or not (is_local(text, self.folder) or Path(text).exists()):
            return None
        here = Path(text).expanduser()
        return here if here.exists() else self.folder / here

    def base(self) -> Path | None:
        """The base's folder, local or in the hub's cache, where it is on this machine."""
        text = self.text("base_model")
        if text is None or not names_a_file(text):
            return None
        local = self.path(text)
        if local is not None:
            return local if local.is_dir() else None
        found = sorted(architecture.hub_cache().glob(f"models--{text.replace('/', '--')}/snapshots/*/config.json"))
        return found[-1].parent if found else None

    def tokenizer(self) -> Path | None:
        """The folder of the tokenizer, where it is on this machine and has a tokenizer.json."""
        named = self.text("tokenizer_config")
        folder = self.path(named) if named else self.base()
        return folder if folder and (folder / "tokenizer.json").is_file() else None

    def shape(self) -> Shape | None:
        """The base's dimensions, where its config.json is known and one of a language model."""
        text = self.text("base_model")
        if text is None or self.made or not names_a_file(text):
            return None
        try:
            folder = self.base()
            return architecture.read(folder / "config.json", text) if folder else architecture.find(text, self.folder)
        except (MissingError, RecipeError):
            return None

    def package(self, name: str) -> bool | None:
        """Whether the training environment has a package (by its distribution's name); None where there is none."""
        return None if self.axolotl is None else self.axolotl.has(name)

    def setting(self, key: str, value: Any) -> str:
        """``key: value`` as its file would say it: ``train: {sample_packing: false}`` in a recipe."""
        *rooms, last = self.document.spelt((key,))
        text = f"{last}: {flow(value)}"
        for room in reversed(rooms):
            text = f"{room}: {{{text}}}"
        return text

    def problem(
        self, code: str, key: Keys | str, message: str, fix: str | None = None, severity: Severity = "error"
    ) -> Problem:
        """A finding at ``key`` of the config's file."""
        path = (key,) if isinstance(key, str) else key
        line = self.document.line(path) if path else None
        named = dotted(self.document.spelt(path)) or None
        return Problem(code, severity, message, self.document.file, line, named, fix)


def is_true(value: Any) -> bool:
    """Whether pydantic would take it for true."""
    return value is True or value == 1 or (isinstance(value, str) and value.lower() in _TRUE)


def as_number(value: Any) -> float | None:
    """A number, or text that reads as one (YAML 1.1 takes 2e-4 for text)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def names_a_file(text: str) -> bool:
    """Whether the system can look for such a path at all: no NUL, no endless name, nobody's unknown home."""
    parts = os.fsencode(text).split(b"/") if text.isprintable() else []
    known = not text.startswith("~") or text.startswith("~/") or text == "~"
    return known and bool(parts) and len(text) < 2000 and all(len(part) < 250 for part in parts)


def nearest(path: Path) -> str:
    """Which file of that folder was meant."""
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:  # no such folder, or not ours to read
        names = []
    found = get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"Did you mean `{path.parent / found[0]}`?" if found else "Check the path, and where relative ones start."
