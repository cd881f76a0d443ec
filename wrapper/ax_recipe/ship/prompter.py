"""The prompts of data that has no chat template (``type: alpaca`` and its kin), written as chat templates.

Axolotl trains such data one instruction at a time. Later turns of a conversation are written as further examples
would be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ax_recipe.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Format:
    """How one example is written: ``{instruction}`` in ``turn``, ``{system}`` (or its default) in ``system_turn``."""

    turn: str
    system_turn: str = "{system}"
    system: str = ""


_TASK = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_INSTRUCT = "### Instruction:\n{instruction}\n\n### Response:\n"
_CHAT = "USER: {instruction}\nASSISTANT:"
_CHATML = "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
_CHATML_SYSTEM = "<|im_start|>system\n{system}<|im_end|>\n"

FORMATS = {
    "alpaca": Format(_INSTRUCT, "{system}\n\n", _TASK),
    "alpaca_chat": Format(_CHAT, "SYSTEM: {system}\n", _TASK),
    "alpaca_chat.load_no_prompt": Format(_CHAT, "SYSTEM: {system}\n"),
    "alpaca_w_system": Format(_CHAT, "SYSTEM: {system}\n"),
    "alpaca_w_system.load_chat": Format(_CHAT, "SYSTEM: {system}\n"),
    "alpaca_w_system.load_instruct": Format(_INSTRUCT, "### System:\n{system}\n\n"),
    "alpaca_w_system.load_open_orca": Format("### Human:\n{instruction}\n### Assistant:\n", "### System:\n{system}\n"),
    "alpaca_w_system.load_open_orca_chatml": Format(_CHATML, _CHATML_SYSTEM),
    # Plain text: what is asked is a beginning, the answer is how it goes on.
    "completion": Format("{instruction}"),
    "pretrain": Format("{instruction}"),
}
"""Axolotl 0.19's prompters by the ``type`` of a dataset, as they write an instruction without input."""


def of_type(kind: str) -> Format:
    """The format of a dataset's ``type``; raises :class:`RecipeError` for one that is not known."""
    name = kind.removesuffix(".load")
    if name not in FORMATS:
        raise RecipeError(f"the prompt format of data of type {kind!r} is not known", f"known are {', '.join(FORMATS)}")
    return FORMATS[name]


def of_config(config: Mapping[str, Any]) -> str | None:
    """The chat template of an Axolotl config's data, where none of it is chats and its one prompter is known.

    Axolotl saves the config's chat template with the tokenizer, also where nothing was trained with it.
    """
    kinds = {_of_data(row.get("type")) for row in config.get("datasets") or []}
    form = kinds.pop() if len(kinds) == 1 else None
    return chat_template(form) if form else None


def _of_data(kind: Any) -> Format | None:
    """The format of a type's name, or of a type that a config spells out (prompt_strategies/user_defined.py)."""
    if not isinstance(kind, Mapping):
        return FORMATS.get(str(kind).removesuffix(".load"))
    turn = str(kind.get("no_input_format") or "{instruction} ")
    if "{instruction}" not in turn:
        return None
    return Format(turn, str(kind.get("system_format") or "{system}"), str(kind.get("system_prompt") or ""))


def chat_template(form: Format) -> str:
    """A Jinja chat template that writes what the prompter writes; each answer ends with the EOS token.

    The BOS token is not in it: Axolotl has the tokenizer add it, or not, and so does Ollama.
    """
    start, _, end = form.turn.partition("{instruction}")
    before, _, after = form.system_turn.partition("{system}")
    default = f"{before}{form.system}{after}" if form.system else ""
    start, end, before, after, default = (
        json.dumps(text, ensure_ascii=False) for text in (start, end, before, after, default)
    )
    return (
        "{%- if messages[0].role == 'system' %}"
        f"{{{{- {before} + messages[0].content + {after} }}}}"
        f"{{%- else %}}{{{{- {default} }}}}{{%- endif %}}"
        "{%- for message in messages %}"
        f"{{%- if message.role == 'user' %}}{{{{- {start} + message.content + {end} }}}}"
        "{%- elif message.role == 'assistant' %}{{- message.content + eos_token }}{%- endif %}"
        "{%- endfor %}"
    )
