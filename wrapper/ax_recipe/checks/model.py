"""The base, its tokenizer and the adapter: what does not fit together, by the files that lie here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from ax_recipe.checks.accounts import has_hub_token
from ax_recipe.checks.subject import ADAPTERS, Subject, nearest
from ax_recipe.errors import Problem, RecipeError, RunFailedError
from ax_recipe.forecast import architecture
from ax_recipe.ship import tokenizer as tokenizers
from ax_recipe.ship.tokenizer import TokenizerFiles

# Models that open only to who has accepted their licence.
_GATED = re.compile(
    r"(?i)^(meta-llama/|google/(gemma-|codegemma|recurrentgemma)|mistralai/(codestral|ministral)|bigcode/starcoder|"
    r"cohereforai/|coherelabs/|stabilityai/stable(lm|-code)|databricks/dbrx)"
)
# The marks of the usual templates, for where no Axolotl is here to read them from.
MARKS: Mapping[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "gemma3": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "phi_3": ("<|user|>", "<|assistant|>", "<|end|>"),
    "qwen3": ("<|im_start|>", "<|im_end|>"),
    "qwen_25": ("<|im_start|>", "<|im_end|>"),
}
_MARK = re.compile(r"<\|[a-z0-9_]+\|>|<(?:start|end)_of_turn>")
_NEVER = frozenset(["<|python_tag|>", "<|image|>", "<|video|>", "<|audio|>"])  # written for what few data have


def base_folder(subject: Subject) -> Iterator[Problem]:
    """AX004, AX012, AX034: a base that is not named, a local one that is not there, or is no model."""
    text = subject.text("base_model")
    if subject.keys.get("base_model") == "":
        yield subject.problem("AX004", "base_model", "is empty", "A folder, or a hub id.")
    folder = subject.path(text) if text else None
    if folder is None or subject.made:
        return
    if not folder.exists():
        yield subject.problem("AX012", "base_model", f"no such file: {folder}", nearest(folder))
    elif not (folder / "config.json").is_file():
        yield subject.problem(
            "AX034", "base_model", f"{folder}: has no config.json", "Name the folder of the model's files."
        )
    else:
        try:
            architecture.read(folder / "config.json", str(text))
        except RecipeError as error:
            yield subject.problem(
                "AX034", "base_model", error.message, "Is it the folder of a language model?", "warning"
            )


def gated(subject: Subject) -> Iterator[Problem]:
    """AX033: a gated model, neither here nor to be had."""
    text = subject.text("base_model")
    if not text or subject.path(text) is not None or not _GATED.match(text):
        return
    if subject.base() is None and not has_hub_token():
        fix = "Accept its licence on the hub, then set HF_TOKEN; or take an open copy."
        yield subject.problem("AX033", "base_model", f"{text} is gated, and no hub token is on this machine", fix)


def length(subject: Subject) -> Iterator[Problem]:
    """AX028: longer texts than the model was made for."""
    wanted, shape = subject.number("sequence_len"), subject.shape()
    scaled = [subject.keys, subject.block("overrides_of_model_config"), subject.block("overrides_of_model_kwargs")]
    if (
        not wanted
        or not shape
        or not shape.max_positions
        or any("rope" in str(key) for block in scaled for key in block)
    ):
        return
    if any("max_position_embeddings" in block for block in scaled):
        return
    if wanted > shape.max_positions:
        message = f"{wanted:g}, and {shape.name} was made for {shape.max_positions} tokens"
        yield subject.problem("AX028", "sequence_len", message, f"{shape.max_positions} at most, or rope scaling.")


def targets(subject: Subject) -> Iterator[Problem]:
    """AX029, AX030: an adapter on modules that are not there, or on none."""
    if subject.adapter not in ADAPTERS or subject.text("lora_model_dir"):
        return
    wanted = [each for each in subject.list("lora_target_modules") if isinstance(each, str)]
    others = ("lora_target_linear", "lora_target_parameters")
    if not wanted and not any(subject.keys.get(key) for key in others):
        fix = "lora_target_linear: true"
        yield subject.problem("AX030", "adapter", "no modules are named for the adapter", fix)
    text = subject.text("lora_target_modules")
    if text and text != "all-linear" and re.fullmatch(r"[\w, ]+", text) and not subject.on("lora_target_linear"):
        message = f"{text!r} is one text, which PEFT takes for a pattern of whole names: no module has this one"
        fix = f"lora_target_modules: [{', '.join(text.replace(',', ' ').split())}]"
        yield subject.problem("AX029", "lora_target_modules", message, fix)
        return
    modules = _modules(subject)
    for key in ("lora_target_modules", "lora_modules_to_save") if modules else ():
        for index, name in enumerate(subject.list(key)):
            if isinstance(name, str) and not _has(modules, name):
                near = get_close_matches(
                    name, sorted({module.rpartition(".")[2] for module in modules}), n=1, cutoff=0.5
                )
                fix = f"Did you mean `{near[0]}`?" if near else "lora_target_linear: true takes every linear module."
                yield subject.problem("AX029", (key, index), f"{name!r} is not in {subject.text('base_model')}", fix)


def _has(modules: frozenset[str], name: str) -> bool:
    """As PEFT matches one of a list: the whole name, its end, or (for what is more than a name) a pattern."""
    whole = any("." in module for module in modules)  # of the weights; an architecture knows the last part alone
    if name == "all-linear":
        return True
    if re.fullmatch(r"[\w.]+", name):
        last = name.rpartition(".")[2]
        return any(module == name or module.endswith(f".{name}") for module in modules) if whole else last in modules
    try:
        return not whole or any(re.search(name, module) for module in modules)
    except re.error:
        return False


def _modules(subject: Subject) -> frozenset[str]:
    """The modules of the base by its weights' names, else by its architecture; empty where neither says."""
    from ax_recipe.ship import weights

    folder = None if subject.made else subject.base()
    try:
        names = weights.of_folder(folder) if folder else {}
    except (RunFailedError, RecipeError):
        names = {}
    if names:
        return frozenset([*(name.rpartition(".")[0] for name in names), "lm_head"])
    shape = subject.shape()
    return frozenset([*shape.linears, "embed_tokens", "lm_head"]) if shape and shape.outside is None else frozenset()


def tied_heads(subject: Subject) -> Iterator[Problem]:
    """AX032: one tensor that is both embeddings and head, trained as two."""
    shape = subject.shape()
    saved = {"embed_tokens", "lm_head"} & {str(name) for name in subject.list("lora_modules_to_save")}
    if subject.of_recipe or not saved or not shape or not shape.tied or subject.adapter is None:
        return
    message = f"trains {' and '.join(sorted(saved))}, which {shape.name} ties together: the merge keeps one of them"
    yield subject.problem("AX032", "lora_modules_to_save", message, "Leave it out, or train with an ax-recipe recipe.")


def tokens(subject: Subject) -> Iterator[Problem]:
    """AX024 to AX027, AX055: template, special tokens and tokenizer."""
    files = _files(subject)
    yield from _padding(subject, files)
    if files is None:
        return
    yield from _template(subject, files)
    yield from _new_tokens(subject, files)


def _files(subject: Subject) -> TokenizerFiles | None:
    folder = subject.tokenizer()
    try:
        return tokenizers.load(folder) if folder else None
    except (RecipeError, KeyError, TypeError, ValueError, AttributeError):  # no tokenizer as transformers writes one
        return None


def _padding(subject: Subject, files: TokenizerFiles | None) -> Iterator[Problem]:
    special = subject.block("special_tokens")
    named = files.tokens if files else None
    pad = special.get("pad_token")
    eos = special.get("eos_token") or (named.eos if named else None)
    if pad and pad == eos:
        key = ("special_tokens", "pad_token")
        yield subject.problem("AX025", key, f"{pad} is the end token, too", "A token that text never uses.")
    elif not pad and named and eos and (named.others.get("pad_token") or eos) == eos:
        message = f"no pad token of its own: Axolotl pads with the end token {eos}"
        yield subject.problem("AX025", "base_model", message, "special_tokens: {pad_token: ...}", "warning")


def _template(subject: Subject, files: TokenizerFiles) -> Iterator[Problem]:
    for key, name in _templates(subject):
        if name == "tokenizer_default":
            if not files.chat_template:
                message = "the tokenizer's own template is asked for, and it has none"
                yield subject.problem("AX024", key, message, "chat_template: chatml, or another that exists.")
            continue
        added = {str(token) for token in (*subject.list("tokens"), *subject.block("added_tokens_overrides").values())}
        added |= {str(token) for token in _flat(subject.block("special_tokens"))}
        missing = [mark for mark in marks(subject, name) if mark not in files.ids and mark not in added]
        if missing:
            message = f"{name} writes {', '.join(missing[:4])}, which the tokenizer does not know as tokens"
            yield subject.problem("AX026", key, message, "The base's own template, or tokens: [...].")
        yield from _ending(subject, files, key, name)


def _flat(block: Mapping[str, object]) -> Iterator[object]:
    for value in block.values():
        yield from value if isinstance(value, list) else [value]


def _ending(subject: Subject, files: TokenizerFiles, key: tuple[str | int, ...], name: str) -> Iterator[Problem]:
    text = template_text(subject, name)
    eos = subject.block("special_tokens").get("eos_token") or files.tokens.eos
    if not text or subject.list("eot_tokens") or not isinstance(eos, str) or eos in text or "eos_token" in text:
        return
    written = [mark for mark in _MARK.findall(text) if re.search("end|eot|stop", mark)]
    fix = f"eot_tokens: [{written[-1]!r}]" if written else "eot_tokens: the token with which the template ends a turn."
    message = f"{name} never writes the end token {eos}: the end of a turn is not trained"
    yield subject.problem("AX055", key, message, fix, "warning")


def _templates(subject: Subject) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each chat template that data is read with, and the key that names it."""
    seen = set()
    for key, dataset in subject.datasets("datasets", "test_datasets"):
        if dataset.get("type") not in ("chat_template", "orpo.chat_template"):
            continue
        own = dataset.get("chat_template")
        name = own or subject.keys.get("chat_template") or "tokenizer_default"
        at = (
            (*key, "chat_template" if own else "type")
            if own or not subject.keys.get("chat_template")
            else ("chat_template",)
        )
        if (
            isinstance(name, str)
            and name != "jinja"
            and name not in seen
            and not subject.keys.get("chat_template_jinja")
        ):
            seen.add(name)
            yield at, name


def template_text(subject: Subject, name: str) -> str | None:
    """The text of one of Axolotl's own templates, out of the training environment; None where it cannot be read."""
    if subject.axolotl is None or not re.fullmatch(r"\w+", name):
        return None
    pattern = f"lib/python*/site-packages/axolotl/utils/chat_templates/templates/{name}.jinja"
    found = next(iter(subject.axolotl.command.parents[1].glob(pattern)), None)
    return found.read_text(encoding="utf-8") if found else None


def written(subject: Subject, dataset: Mapping[str, Any]) -> str | None:
    """The text of the template that the dataset is read with; None where it is not here."""
    place: Mapping[str, Any] = dataset if dataset.get("chat_template") else subject.keys
    name, jinja = str(place.get("chat_template") or "tokenizer_default"), place.get("chat_template_jinja")
    if isinstance(jinja, str) and name in {"jinja", "tokenizer_default"}:
        path = subject.path(jinja) if len(jinja) < 300 and "\n" not in jinja and "{" not in jinja else None
        return path.read_text(encoding="utf-8") if path and path.is_file() else jinja
    if name.startswith("tokenizer_default"):
        files = _files(subject)
        default = files.chat_template if files else None
        return default or template_text(subject, name.removeprefix("tokenizer_default_fallback_"))
    return template_text(subject, name)


def marks(subject: Subject, name: str) -> list[str]:
    """The special tokens that a template writes around every turn."""
    if name in MARKS:
        return list(MARKS[name])
    text = template_text(subject, name) or ""
    return [mark for mark in dict.fromkeys(_MARK.findall(text)) if mark not in _NEVER and "tool" not in mark]


def _new_tokens(subject: Subject, files: TokenizerFiles) -> Iterator[Problem]:
    saved = {str(name) for name in subject.list("lora_modules_to_save")}
    if subject.adapter is None or not files.ids or {"embed_tokens", "lm_head"} <= saved or len(saved) >= 2:
        return
    fix = "lora_modules_to_save: [embed_tokens, lm_head], or a token that the tokenizer has."
    for name, token in subject.block("special_tokens").items():
        if isinstance(token, str) and token not in files.ids and name != "pad_token":
            message = f"{token} is new to the tokenizer, and its embedding is not trained"
            yield subject.problem("AX027", ("special_tokens", name), message, fix)
    for index, token in enumerate(subject.list("tokens")):
        if isinstance(token, str) and token not in files.ids:
            message = f"{token} is new to the tokenizer, and its embedding is not trained"
            yield subject.problem("AX027", ("tokens", index), message, fix, "warning")


CHECKS = (base_folder, gated, length, targets, tied_heads, tokens)
