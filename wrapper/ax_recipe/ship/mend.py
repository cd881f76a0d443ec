"""Put right in a merged folder what files can put right: tokenizer, chat template, end token, head, stale files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ax_recipe.errors import AxRecipeError
from ax_recipe.ship import tokenizer, weights
from ax_recipe.ship.files import copy, read_json, write_json, write_text
from ax_recipe.ship.merged import (
    Check,
    Folders,
    close,
    examine,
    input_embedding,
    is_rounding,
    moved,
    tokenizer_is_trained,
    trained_whole,
)


def mend(folders: Folders) -> tuple[Check, ...]:
    """Put right what files can put right, then examine: what was changed is "mended", what could not be is "error"."""
    mended = tuple(check for remedy in _REMEDIES for check in _tried(remedy, folders))
    names = {check.name for check in mended}
    left = (check for check in examine(folders) if check.verdict != "ok" or check.name not in names)
    return (*mended, *left)


def _tried(remedy: Callable[[Folders], Iterator[Check]], folders: Folders) -> Iterator[Check]:
    try:
        yield from remedy(folders)
    except AxRecipeError:  # a file is missing or broken: the examination that follows says which
        return


def _bring_tokenizer(folders: Folders) -> Iterator[Check]:
    """Put the trained tokenizer's files in; one of the base's that would win over them is put aside."""
    trained = folders.trained
    if trained is None or all(check.verdict == "ok" for check in tokenizer_is_trained(folders)):
        return
    copied = [name for name in tokenizer.FILES if (trained / name).is_file()]
    for name in copied:
        copy(trained / name, folders.merged / name)
    aside = [name for name in tokenizer.FILES if name not in copied and (folders.merged / name).is_file()]
    for name in aside:
        (folders.merged / name).rename(folders.merged / f"{name}.of-the-base")
    said = f"; put aside as .of-the-base: {', '.join(aside)}" if aside else ""
    yield Check("tokenizer", "mended", f"the trained one is put in: {', '.join(copied)}{said}")


def _embed_chat_template(folders: Folders) -> Iterator[Check]:
    """Inside tokenizer_config.json, the one place where both of Ollama's engines look for it."""
    template = tokenizer.chat_template(folders.trained or folders.merged)
    path = folders.merged / "tokenizer_config.json"
    config = read_json(path)
    if template is not None and config.get("chat_template") != template:
        write_json(path, {**config, "chat_template": template})
        write_text(folders.merged / "chat_template.jinja", template)
        yield Check("chat template", "mended", "the trained one is put inside tokenizer_config.json")


def _name_end(folders: Folders) -> Iterator[Check]:
    tokens = tokenizer.load(folders.trained or folders.merged)
    ends = tokenizer.end_ids(folders.merged)
    end = tokens.ids.get(tokens.tokens.eos or "")
    if end is None or end in ends:
        return
    for name in ("generation_config.json", "config.json"):
        path = folders.merged / name
        if path.is_file() and (name == "generation_config.json" or "eos_token_id" in read_json(path)):
            write_json(path, {**read_json(path), "eos_token_id": [end, *ends]})
    if not (folders.merged / "generation_config.json").is_file():
        write_json(folders.merged / "generation_config.json", {"eos_token_id": [end, *ends]})
    yield Check("end of text", "mended", f"{tokens.tokens.eos} ({end}) is put before the end tokens {ends}")


def _untie_head(folders: Folders) -> Iterator[Check]:
    """A head trained in full is lost where config.json ties it to the embeddings: write it as a file of its own.

    Axolotl 0.19's default merge only overrides tensors that the base's files hold.
    """
    head, config = trained_whole(folders).get("lm_head.weight"), read_json(folders.merged / "config.json")
    merged = weights.of_folder(folders.merged)
    embedding = input_embedding(merged)
    if head is None or embedding is None or "lm_head.weight" in merged or close(head, embedding):
        return
    weights.add(folders.merged, head, "lm_head.weight")
    write_json(folders.merged / "config.json", {**config, "tie_word_embeddings": False})
    yield Check(
        "trained in full", "mended", f"the trained head is put in as {weights.HEAD} and untied from the embeddings"
    )


def _restore_embeddings(folders: Folders) -> Iterator[Check]:
    """Put back what went through 4 bit in the merge alone, to the byte."""
    for one, other in [pair for pair in moved(folders) if is_rounding(*pair)]:
        weights.put_back(one, other)
        yield Check("embeddings", "mended", f"{one.name} went through 4 bit in the merge: the base's is put back")


def _put_strays_aside(folders: Folders) -> Iterator[Check]:
    strays = weights.strays(folders.merged)
    for path in strays:
        path.rename(path.with_name(f"{path.name}.stale"))
    if strays:
        names = ", ".join(str(path.relative_to(folders.merged)) for path in strays)
        yield Check("stale files", "mended", f"renamed to .stale: {names}")


_REMEDIES: tuple[Callable[[Folders], Iterator[Check]], ...] = (
    *(_bring_tokenizer, _embed_chat_template, _name_end, _restore_embeddings, _untie_head, _put_strays_aside),
)
