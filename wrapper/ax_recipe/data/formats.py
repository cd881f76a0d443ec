"""Which form rows have, and which columns a dataset's type reads (Axolotl 0.19, prompt_strategies/)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

CHAT, ALPACA, COMPLETION, PREFERENCE, RATED, TOKENS = "chat", "alpaca", "completion", "preference", "rated", "tokens"

CHATS = ("messages", "conversations", "conversation", "dialog", "turns")
QUESTIONS, ANSWERS = ("instruction", "question", "prompt", "input"), ("output", "response", "answer", "completion")
# Form: the columns that make it, any one of each group.
_FORMS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    (TOKENS, (("input_ids",), ("labels", "attention_mask"))),
    (PREFERENCE, (("chosen",), ("rejected",))),
    (CHAT, (CHATS,)),
    (ALPACA, (QUESTIONS, ANSWERS)),
    (COMPLETION, (("text", "content"),)),
)
# The `type` that reads each form.
TYPES = {CHAT: "chat_template", ALPACA: "alpaca", COMPLETION: "completion"}

_QUESTION = ("question",)
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "alpaca": ("instruction", "output"),
    "alpaca_chat": ("instruction", "output"),
    "alpaca_chat.load_concise": ("instruction", "output"),
    "alpaca_chat.load_no_prompt": ("instruction", "output"),
    "alpaca_chat.load_qa": ("question", "answer"),
    "alpaca_chat.load_camel_ai": ("message_1", "message_2"),
    "alpaca_instruct": ("instruction", "output"),
    "alpaca_w_system": ("instruction", "output", "system"),
    "alpaca_w_system.load_chat": ("instruction", "output", "system"),
    "alpaca_w_system.load_instruct": ("instruction", "output", "system"),
    "alpaca_w_system.load_open_orca": ("question", "response", "system_prompt"),
    "alpaca_w_system.load_open_orca_chatml": ("question", "response", "system_prompt"),
    "concisechoice": ("question", "choices"),
    "context_qa": ("article", "question", "answer"),
    "context_qa.load_v2": ("context", "question", "answer"),
    "explainchoice": ("question", "choices"),
    "gpteacher": ("instruction", "response"),
    "input_output": ("segments",),
    "jeopardy": ("question", "category", "answer"),
    "metharme": ("prompt", "generation"),
    "oasst": ("INSTRUCTION", "RESPONSE"),
    "pygmalion": ("conversations",),
    "reflection": ("instruction", "output", "reflection", "corrected"),
    "stepwise_supervised": ("prompt", "completions", "labels"),
    "summarizetldr": ("article", "summary"),
}
_OF_RL: Mapping[str, tuple[str, ...]] = {
    "chat_template.argilla_chat": ("chosen", "rejected"),
    "icr": ("input", "chosen", "rejected"),
    "intel": ("question", "chosen", "rejected"),
    "nectar": ("prompt", "answers"),
    "prompt_pairs": ("prompt", "chosen", "rejected"),
    "ultra": ("prompt", "chosen", "rejected"),
    "argilla_chat": ("chosen", "rejected"),
    "argilla": ("chosen", "rejected"),
}
_OF_KTO: Mapping[str, tuple[str, ...]] = {
    "argilla": ("instruction", "completion"),
    "argilla_chat": ("completion",),
    "intel": ("question", "completion"),
    "prompt_pairs": ("prompt", "completion"),
    "ultra": ("prompt", "completion"),
}


@dataclass(frozen=True, slots=True)
class Form:
    """The form that columns have, or the nearest; ``missing`` is what it lacks, and ``field`` holds the turns."""

    name: str
    missing: tuple[str, ...] = ()
    field: str | None = None


def recognise(row: Mapping[str, Any]) -> Form:
    """The form of a row by its columns: chat, alpaca, completion, preference, or tokens; else the nearest."""
    chat = next((key for key, value in row.items() if is_chat(listed(value) if key in CHATS else value)), None)
    columns = set(row)
    if {"completion", "label"} <= columns:
        return Form(RATED)
    found = [(name, [group for group in groups if columns.isdisjoint(group)], groups) for name, groups in _FORMS]
    whole = next((Form(name) for name, lacks, _ in found if not lacks), None)
    if whole and whole.name in {TOKENS, PREFERENCE}:
        return whole
    if chat:
        return Form(CHAT, (), chat)
    if whole and whole.name != CHAT:  # a column of that name without turns in it is no chat
        return whole
    name, lacks, _ = min(found, key=lambda each: len(each[1]) / len(each[2]))
    if len(lacks) == len(dict(_FORMS)[name]):
        return Form(COMPLETION, ("text",))
    return Form(name, tuple(group[0] for group in lacks))


def listed(value: Any) -> Any:
    """Turns that are written down as JSON, which Axolotl's chat_template reads, too; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def is_chat(value: Any) -> bool:
    """Whether this is a list of turns."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, Mapping) and {"role", "from", "content", "value"} & set(turn) for turn in value)


def columns(dataset: Mapping[str, Any], rl: str | None = None) -> tuple[str, ...] | None:
    """The columns that the dataset's type reads of every row; None where this is not known."""
    kind = dataset.get("type")
    if isinstance(kind, Mapping):
        return _user_defined(kind, rl)
    if kind is None:
        return None
    name = re.sub(r":\w+$", "", str(kind)).removesuffix(".load")
    if rl:
        return _preferred(name, dataset, rl)
    if name == "chat_template":
        return (field(dataset),)
    if name in {"completion", "pretrain"}:
        return (str(dataset.get("field") or dataset.get("text_column") or "text"),)
    return _COLUMNS.get(name)


def field(dataset: Mapping[str, Any]) -> str:
    """The column of a chat_template dataset that holds the turns."""
    return str(dataset.get("field_messages") or "messages")


def _user_defined(kind: Mapping[str, Any], rl: str | None) -> tuple[str, ...]:
    names = {"field_instruction": "instruction"}
    if rl == "kto":
        names = {"field_prompt": "prompt", "field_completion": "completion", "field_label": "label"}
    elif rl:
        names = {"field_prompt": "prompt", "field_chosen": "chosen", "field_rejected": "rejected"}
    return tuple(str(kind.get(key) or default) for key, default in names.items())


def _preferred(name: str, dataset: Mapping[str, Any], rl: str) -> tuple[str, ...] | None:
    chosen = str(dataset.get("field_chosen") or "chosen"), str(dataset.get("field_rejected") or "rejected")
    last = name.rpartition(".")[2]
    if rl == "kto":
        return (*_OF_KTO[last], "label") if last in _OF_KTO else None
    if rl not in {"dpo", "ipo", "simpo", "orpo"}:
        return None
    if name in {"chat_template", "chat_template.default"}:
        return (field(dataset), *chosen) if rl != "orpo" else None
    if name in {"chatml", "llama3", "chatml.default", "llama3.default"}:
        return ("prompt", *chosen)
    return _OF_RL.get(name) or _OF_RL.get(last)


def lacking(wanted: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The wanted columns that none of the rows has."""
    seen: set[str] = set()
    for row in rows:
        seen |= set(row)
    return [name for name in wanted if name not in seen]
