"""Find what belongs together in a folder that a person names: a model, what it was trained as, and what from."""

from __future__ import annotations

from pathlib import Path

from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.forecast.architecture import hub_cache
from ax_recipe.ship import weights
from ax_recipe.ship.files import read_json
from ax_recipe.ship.merged import Folders

ADAPTER = "adapter_config.json"
MERGED = "merged"
"""Where Axolotl's merge-lora puts its result, inside the output_dir."""


def of_folder(folder: Path) -> Folders:
    """The folders of a model: a model's own, an Axolotl output_dir with an adapter and ``merged/``, or that merge.

    :raises MissingError: there is no such folder.
    :raises RecipeError: it holds an adapter that nobody has merged yet.
    """
    if not folder.is_dir():
        raise MissingError(f"{folder} is no folder", "name a run, or a folder with a model and its tokenizer")
    folder = folder.resolve()
    if (folder / ADAPTER).is_file() and not weights.shards(folder):
        merged = folder / MERGED
        if not (merged / "config.json").is_file():
            raise RecipeError(
                f"{folder} holds an adapter, not a model",
                f"merge it first: axolotl merge-lora CONFIG.yml --lora-model-dir {folder}",
            )
        return Folders(merged, *_origin(folder))
    if folder.name == MERGED and (folder.parent / ADAPTER).is_file():
        return Folders(folder, *_origin(folder.parent))
    return Folders(folder)


def of_adapter(folder: Path) -> Folders:
    """The base that an adapter in an Axolotl output_dir belongs on; that is what was trained, if it has a tokenizer.

    :raises RecipeError: there is no adapter, or its base is not on this machine.
    """
    folder = folder.resolve()
    if not (folder / ADAPTER).is_file():
        raise RecipeError(f"{folder} holds no adapter", f"name the output_dir of a LoRA, with its {ADAPTER}")
    trained, found = _origin(folder)
    if found is None:
        name = read_json(folder / ADAPTER).get("base_model_name_or_path")
        raise RecipeError(f"the base {name} of {folder} is not on this machine", f"download it: hf download {name}")
    return Folders(found, trained)


def _origin(output: Path) -> tuple[Path | None, Path | None]:
    """The folder with the trained tokenizer and adapter, and the base's where it is on this machine."""
    has_tokenizer = any((output / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
    return (output if has_tokenizer else None), base(str(read_json(output / ADAPTER).get("base_model_name_or_path")))


def base(name: str) -> Path | None:
    """The folder of a base by its path or its name on the hub; None where not all of it is on this machine."""
    local = Path(name).expanduser()
    snapshots = sorted((hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots").glob("*"))
    return next((path for path in (local, *snapshots) if _is_whole(path)), None)


def _is_whole(folder: Path) -> bool:
    files = [folder / "config.json", *(weights.shards(folder) or [folder / "model.safetensors"])]
    return all(file.is_file() for file in files)
