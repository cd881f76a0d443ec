"""What a config names that is looked for long after it was read: files beside the data, words of other libraries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ax_recipe.checks.rows import ROOMS
from ax_recipe.checks.subject import Subject, names_a_file, nearest
from ax_recipe.errors import Problem, RecipeError
from ax_recipe.recipe.document import Keys

_ON_THE_HUB_OR_HERE = ("tokenizer_config", "processor_config", "lora_model_dir")
# Words that Axolotl 0.19 hands on as they are: to transformers' IntervalStrategy and SaveStrategy, and to
# `datasets` for the kind of a local file.
_STRATEGIES = ("no", "steps", "epoch")
_WORDS = {"save_strategy": (*_STRATEGIES, "best"), "eval_strategy": _STRATEGIES, "logging_strategy": _STRATEGIES}
_KINDS = ("json", "csv", "text", "parquet", "arrow", "webdataset", "xml", "imagefolder", "audiofolder", "pandas")


def files(subject: Subject) -> Iterator[Problem]:
    """AX012: a tokenizer, an adapter or a checkpoint that is not there."""
    if subject.of_recipe:  # a recipe's are made on the way
        return
    for key in _ON_THE_HUB_OR_HERE:
        text = subject.text(key)
        place = subject.path(text) if text else None
        if place and not place.exists():
            yield subject.problem("AX012", key, f"no such file: {place}", nearest(place))
    text = subject.text("resume_from_checkpoint")
    if text and names_a_file(text) and not any(each.exists() for each in (Path(text), subject.folder / text)):
        place = subject.folder / text
        yield subject.problem("AX012", "resume_from_checkpoint", f"no such file: {place}", nearest(place))


def words(subject: Subject) -> Iterator[Problem]:
    """AX003: a strategy or a kind of file that nobody knows; the schema takes any text for it."""
    for name, known in _WORDS.items():
        yield from _word(subject, (name,), subject.keys.get(name), known)
    for key, dataset in subject.datasets(*ROOMS):
        yield from _word(subject, (*key, "ds_type"), dataset.get("ds_type"), _KINDS)
    version = subject.number("fsdp_version")
    if version is not None and version not in (1, 2):
        yield subject.problem("AX003", "fsdp_version", f"{version:g} is not one of the versions that exist", "2, or 1.")


def _word(subject: Subject, key: Keys, value: object, known: tuple[str, ...]) -> Iterator[Problem]:
    if isinstance(value, str) and value and value not in known:
        near = get_close_matches(value, known, n=1, cutoff=0.5)
        fix = f"{f'Did you mean `{near[0]}`? ' if near else ''}One of {', '.join(known)}."
        yield subject.problem("AX003", key, f"{value!r} is not one of the values that exist", fix)


def own_template(subject: Subject) -> Iterator[Problem]:
    """AX024: a chat template of one's own that is not there, or is no Jinja."""
    from ax_recipe.ship import hf_jinja

    blocks: list[tuple[Keys, Mapping[str, Any]]] = [((), subject.keys), *subject.datasets("datasets", "test_datasets")]
    for key, block in blocks:
        text = block.get("chat_template_jinja")
        if not isinstance(text, str) or not text:
            if block.get("chat_template") == "jinja":
                message = "jinja, and no chat_template_jinja beside it"
                yield subject.problem("AX024", (*key, "chat_template"), message, "Write the template, or its file.")
            continue
        place = subject.folder / text if names_a_file(text) else None
        found = next((each for each in (Path(text), place) if each and each.is_file()), None) if place else None
        if found is None and "{" not in text:
            yield subject.problem("AX012", (*key, "chat_template_jinja"), f"no such file: {place or text}")
            continue
        try:
            hf_jinja.HfTemplate(found.read_text(encoding="utf-8") if found else text, {})
        except (RecipeError, UnicodeDecodeError) as error:
            message = error.message if isinstance(error, RecipeError) else str(error)
            yield subject.problem("AX024", (*key, "chat_template_jinja"), message, "Mend the template.")


CHECKS = (files, words, own_template)
