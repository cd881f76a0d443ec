"""What the files of a tokenizer say: its chat template, special tokens, size, and whether it puts a BOS in front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.ship import sentencepiece
from ax_recipe.ship.chat_template import SpecialTokens
from ax_recipe.ship.files import read_json

FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
)
"""The files that a tokenizer may consist of."""

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A folder's tokenizer; ``vocabulary`` is the highest id plus one, None where only a binary model says it."""

    chat_template: str | None
    tokens: SpecialTokens
    adds_bos: bool
    ids: Mapping[str, int]
    vocabulary: int | None


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder's tokenizer is more than its settings."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def load(folder: Path) -> TokenizerFiles:
    """Read a folder's tokenizer; raises :class:`RecipeError` where there is none.

    One that is a tokenizer_config.json and no vocabulary has no ``ids``: its chat template can be read all the same.
    """
    if not has_vocabulary(folder) and not (folder / "tokenizer_config.json").is_file():
        raise RecipeError(f"{folder} has no tokenizer", "expected tokenizer.json beside the model")
    config = _filled(read_json(folder / "tokenizer_config.json"))
    model = _filled(read_json(folder / "tokenizer.json"))
    ids = _ids(folder, config, model)
    return TokenizerFiles(
        chat_template(folder), _tokens(folder, config, model, ids), _adds_bos(config, model), ids, _vocabulary(ids)
    )


def chat_template(folder: Path) -> str | None:
    """The chat template by transformers' order: ``chat_template.jinja`` before the one in tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RecipeError(f"{file} is not UTF-8: {error}") from error
    places = (read_json(folder / name) for name in ("tokenizer_config.json", "chat_template.json"))
    return next((text for place in places if (text := _default(place.get("chat_template")))), None)


def _default(named: object) -> str | None:
    """A chat template that is the only one, or of several by name the one called default."""
    if isinstance(named, list):
        named = {item.get("name"): item.get("template") for item in named if isinstance(item, Mapping)}
    found = named.get("default") if isinstance(named, Mapping) else named
    return found if isinstance(found, str) else None


def other_templates(folder: Path) -> list[str]:
    """The names of chat templates beside the default one: for tools, or for documents."""
    named = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(named, list):
        named = {item.get("name"): item for item in named if isinstance(item, Mapping)}
    listed = [str(name) for name in named] if isinstance(named, Mapping) else []
    files = sorted(path.stem for path in (folder / "additional_chat_templates").glob("*.jinja"))
    return [name for name in dict.fromkeys((*listed, *files)) if name != "default"]


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    """Without what is null: some programs write a key that has no value, others leave it out."""
    return {key: each for key, each in value.items() if each is not None}


def _ids(folder: Path, config: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = (model.get("model", {}).get("vocab") or read_json(folder / "vocab.json")) or sentencepiece.ids(folder)
    if isinstance(vocabulary, list):  # a unigram model's: pairs of text and score, by position
        vocabulary = {text: i for i, (text, *_) in enumerate(vocabulary)}
    added = {item["content"]: item["id"] for item in model.get("added_tokens", [])}
    decoder = {item["content"]: int(i) for i, item in config.get("added_tokens_decoder", {}).items()}
    return {**vocabulary, **read_json(folder / "added_tokens.json"), **decoder, **added}


def _vocabulary(ids: Mapping[str, int]) -> int | None:
    return max(ids.values()) + 1 if ids else None


def _text(token: object) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _tokens(folder: Path, config: Mapping[str, Any], model: Mapping[str, Any], ids: Mapping[str, int]) -> SpecialTokens:
    mapped = {**read_json(folder / "special_tokens_map.json"), **config}
    named = {name: text for name in _NAMED if (text := _text(mapped.get(name))) is not None}
    added = [*model.get("added_tokens", []), *config.get("added_tokens_decoder", {}).values()]
    special = dict.fromkeys(item["content"] for item in added if item.get("special"))
    texts = {i: text for text, i in ids.items()}
    ends = dict.fromkeys(texts[i] for i in end_ids(folder) if i in texts and texts[i] != named.get("eos_token"))
    others = {name: text for name, text in named.items() if name not in ("bos_token", "eos_token")}
    return SpecialTokens(named.get("bos_token"), named.get("eos_token"), tuple(special), tuple(ends), others)


def end_ids(folder: Path) -> list[int]:
    """The ids that end a text by generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        found = read_json(folder / name).get("eos_token_id")
        if found is not None:
            return list(found) if isinstance(found, list) else [found]
    return []


def _adds_bos(config: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether encoding puts a BOS in front: as configured, else as the post-processor does."""
    told = config.get("add_bos_token")
    if isinstance(told, bool):
        return told
    if not model:  # a SentencePiece model alone: transformers' and llama.cpp's default
        return True
    bos = _text(config.get("bos_token"))
    return any(
        piece.get("SpecialToken", {}).get("id") == bos
        for processor in _processors(model.get("post_processor"))
        for piece in processor.get("single", [])[:1]
    )


def _processors(processor: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if processor:
        yield processor
        for inner in processor.get("processors", []):
            yield from _processors(inner)
