"""What was exported into a folder, read again from it: by a person's hands or ours, it is what the files say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ax_recipe.errors import RecipeError
from ax_recipe.ship import modelfile, tokenizer
from ax_recipe.ship.export import MODEL
from ax_recipe.ship.files import read_json
from ax_recipe.ship.merged import IMPORTED
from ax_recipe.ship.modelfile import Modelfile
from ax_recipe.ship.tokenizer import TokenizerFiles


@dataclass(frozen=True, slots=True)
class Exported:
    """What ``export`` wrote into a folder: the Modelfile, what its FROM and ADAPTER name, the trained tokenizer."""

    folder: Path
    value: Modelfile
    source: Path
    trained: TokenizerFiles
    adapter: Path | None = None

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer's files, as they are to be used."""
        return self.folder / MODEL


def read(folder: Path) -> Exported:
    """What ``export`` wrote into ``folder``.

    :raises RecipeError: it did not, or Ollama cannot import what it wrote.
    """
    file = folder / "Modelfile"
    if not file.is_file() or not (folder / MODEL).is_dir():
        raise RecipeError(f"{folder} holds nothing exported", f"ax-recipe export {folder}, then deploy")
    value = modelfile.read(file)
    source = folder / value.source
    if not source.exists():
        raise RecipeError(f"{file}: FROM {value.source} is not there", "export it again")
    names = read_json(folder / MODEL / "config.json").get("architectures") or ["none"]
    if source.is_dir() and names[0] not in IMPORTED:
        raise RecipeError(
            f"Ollama cannot import {names[0]} from its weights",
            "export a GGUF: with --llama-cpp DIR (a checkout of llama.cpp), or --gguf FILE (a ready one)",
        )
    adapter = folder / value.adapter if value.adapter else None
    if adapter and not adapter.is_file():
        raise RecipeError(f"{file}: ADAPTER {value.adapter} is not there", "export it again")
    return Exported(folder, value, source, tokenizer.load(folder / MODEL), adapter)
