"""Lay out a folder for Ollama's own import, without touching the model it is made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ax_recipe.errors import RunFailedError
from ax_recipe.ship import tokenizer, weights
from ax_recipe.ship.files import link, read_json, write_json, write_text
from ax_recipe.ship.merged import Check

_MARK = ".staged-by-ax-recipe"


def stage(merged: Path, out: Path, *, whole: bool = True) -> Path:
    """Lay out ``out`` for ``ollama create``: hard links to the weights (where ``whole``), small files written anew.

    Its config.json has the rope keys of transformers 4 beside those of 5, its tokenizer_config.json holds the chat
    template, and only the model's own weight files are there. What was staged there earlier is replaced; raises
    :class:`RunFailedError` where ``out`` holds anything else.
    """
    if out.resolve() == merged.resolve():
        raise RunFailedError(f"{out} is the model itself", "give another folder")
    _clear(out)
    small = [path for path in merged.iterdir() if path.is_file() and _is_small(path)]
    heavy = [path for path in (*weights.shards(merged), merged / weights.INDEX) if whole and path.is_file()]
    for path in (*heavy, *small):
        link(path.resolve(), out / path.name)
    config = read_json(merged / "config.json")
    write_json(out / "config.json", _with_rope(config))
    told = read_json(merged / "tokenizer_config.json")
    template = tokenizer.chat_template(merged)
    embedded = {"chat_template": template} if template else {}
    write_json(out / "tokenizer_config.json", {**told, **embedded})
    return out


def drop_weights(staged: Path) -> None:
    """Leave the small files alone, once a GGUF holds the weights."""
    for path in (*weights.shards(staged), staged / weights.INDEX):
        path.unlink(missing_ok=True)


def tell_bos(staged: Path, *, add_bos: bool) -> None:
    """Say outright in the staged tokenizer whether a BOS is added: else converters go by its kind."""
    path = staged / "tokenizer_config.json"
    write_json(path, {**read_json(path), "add_bos_token": add_bos})


def put_chat_template(staged: Path, jinja: str) -> None:
    """Make ``jinja`` the staged tokenizer's chat template."""
    write_json(
        staged / "tokenizer_config.json", {**read_json(staged / "tokenizer_config.json"), "chat_template": jinja}
    )
    write_text(staged / "chat_template.jinja", jinja)


def staging_checks(folder: Path) -> Iterator[Check]:
    """What :func:`stage` puts right in its own copies."""
    config = read_json(folder / "config.json")
    if _with_rope(config) != config:
        yield Check("rope", "mended", "the old rope keys are put beside rope_parameters in the staged config.json")
    embedded = read_json(folder / "tokenizer_config.json").get("chat_template")
    if tokenizer.chat_template(folder) not in (None, embedded):
        yield Check("chat template", "mended", "it is put inside the staged tokenizer_config.json")


def _clear(out: Path) -> None:
    """An empty folder with our mark, made or made again."""
    mark = out / _MARK
    if out.exists() and any(out.iterdir()) and not mark.is_file():
        raise RunFailedError(f"{out} is not empty, and nothing that was staged earlier", "give another folder")
    out.mkdir(parents=True, exist_ok=True)
    for path in [path for path in out.iterdir() if path.is_file()]:
        path.unlink()
    mark.touch()


def _is_small(path: Path) -> bool:
    names = ("config.json", "generation_config.json", *tokenizer.FILES)
    return path.name in names and path.stat().st_size > 0  # an empty file ends Ollama's client


def _with_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Ollama 0.33's converter reads ``rope_theta`` and ``rope_scaling``; transformers 5 writes ``rope_parameters``."""
    rope = config.get("rope_parameters")
    text = {"text_config": _with_rope(config["text_config"])} if isinstance(config.get("text_config"), dict) else {}
    local = {}
    if isinstance(rope, Mapping) and isinstance(rope.get("full_attention"), Mapping):  # Gemma 3: by kind of layer
        theta = (rope.get("sliding_attention") or {}).get("rope_theta")
        local = {"rope_local_base_freq": theta} if theta else {}
        rope = rope["full_attention"]
    if not isinstance(rope, Mapping) or "rope_theta" not in rope:
        return {**config, **text}
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    scaled = {"rope_scaling": scaling} if scaling.get("rope_type", "default") != "default" else {}
    return {"rope_theta": rope["rope_theta"], **scaled, **local, **config, **text}
