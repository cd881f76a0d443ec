"""Read JSON files, and replace files whole, so that no other program ever reads half of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ax_recipe.errors import RecipeError


def copy(source: Path, target: Path) -> None:
    """Put a copy of ``source`` in the place of ``target``, whole at once, or nothing of it."""
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def link(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target`` as well, as a hard link, or as a copy on another file system."""
    # A symbolic link that leaves the folder is an "insecure path" to Ollama; across file systems only a copy remains.
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        copy(source, target)


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole; other hard links to the old one keep it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole: another program never reads half of it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, empty where the file does not exist; raises :class:`RecipeError` for anything else."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds no JSON object")
    return value
