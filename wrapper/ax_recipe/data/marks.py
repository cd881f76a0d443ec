"""Marks of chat templates in the text of rows: the template writes its own once more, and another's are no turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ax_recipe.data import formats
from ax_recipe.data.rows import Row
from ax_recipe.errors import Problem

_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_COMMAND = (
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
)  # fmt: skip
# Of Axolotl's own templates (0.19, utils/chat_templates/templates), what each writes around turns; of those that write
# the same the best known comes first.
WRITTEN: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("chatml", "falcon_h1", "nemotron_h", "qwen2_vl", "qwen3", "qwen3_5", "qwen_25"),
        ("<|im_start|>", "<|im_end|>"),
    ),
    **dict.fromkeys(("llama3", "llama3_2_vision"), _LLAMA3),
    "llama4": ("<|header_start|>", "<|header_end|>", "<|eot|>"),
    **dict.fromkeys(("gemma", "gemma3", "gemma3n"), ("<start_of_turn>", "<end_of_turn>")),
    **dict.fromkeys(("gemma4", "gemma4_unified"), ("<|turn>", "<turn|>")),
    **dict.fromkeys(("mistral_v1", "mistral_v2v3", "mistral_v3_tekken", "pixtral"), ("[INST]", "[/INST]")),
    "mistral_v7_tekken": ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    **dict.fromkeys(("phi_3", "phi_35"), ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")),
    "phi_4": ("<|im_start|>", "<|im_end|>", "<|im_sep|>"),
    **dict.fromkeys(("cohere", "aya", "command_a", "command_a_rag", "command_a_tool_use"), _COMMAND),
    **dict.fromkeys(("deepseek_v3", "deepseek_v2"), ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>")),
    "exaone": ("[|endofturn|]", "[|system|]", "[|assistant|]"),
    "exaone4": ("[|endofturn|]", "[|user|]", "[|system|]", "[|assistant|]"),
    "jamba": ("<|bom|>", "<|eom|>"),
    "metharme": ("<|user|>", "<|system|>", "<|model|>"),
}
# What tokenizers put at the ends of a text, and templates name by `bos_token` and `eos_token`. No `<s>`: it is HTML.
_ENDS = {"<|begin_of_text|>": "llama3", "<bos>": "gemma", "</s>": "mistral_v1"}
_OWNER = {mark: name for name in reversed(list(WRITTEN)) for mark in WRITTEN[name]} | _ENDS
_OWNER |= {"<<SYS>>": "Llama 2", "<</SYS>>": "Llama 2"}
_MARK = re.compile("|".join(map(re.escape, _OWNER)))
_RENDERED = frozenset(["completion", "pretrain", "input_output"])  # types whose text is meant to hold them
_FIX = "Remove them; a text that is rendered already wants `type: completion`, which writes no turns around it."


@dataclass(frozen=True, slots=True)
class Marks:
    """How to look for them in a dataset: the columns that are read, and what its template is and writes.

    ``written`` is the template's text, asked for where a mark was found; empty where it is not here.
    """

    columns: tuple[str, ...]
    template: str
    written: Callable[[], str]

    def problem(self, row: Row) -> Problem | None:
        """AX059, where the text of this row holds marks."""
        value = row.value or {}
        held = [mark for name in self.columns for text in _texts(value.get(name)) for mark in _MARK.findall(text)]
        if not held:
            return None
        marks = list(dict.fromkeys(held))
        text = self.written()
        own = [mark for mark in marks if mark in text or mark in WRITTEN.get(self.template, ()) or self._ends(mark)]
        if own:
            words = f"its text holds {', '.join(own)}, and the chat template writes that, too: trained doubled"
        else:
            names = ", ".join(dict.fromkeys(_OWNER[mark] for mark in marks))
            words = (
                f"its text holds {', '.join(marks)}, which chat templates write around turns ({names}): trained as text"
            )
        return row.problem("AX059", "warning", words, _FIX)

    def _ends(self, mark: str) -> bool:
        """Whether the template ends or begins texts with this mark, by its name."""
        family = _ENDS.get(mark)
        return family is not None and WRITTEN[family][0] in WRITTEN.get(self.template, ())


def marks(dataset: Mapping[str, Any], keys: Mapping[str, Any], written: Callable[[], str]) -> Marks:
    """How to look for marks in the rows of ``dataset``; in none of a type that wants them."""
    kind = dataset.get("type")
    columns = () if re.split("[.:]", str(kind))[0] in _RENDERED else tuple(_read(dataset, kind, keys))
    is_chat = "chat_template" in str(kind)
    name = dataset.get("chat_template") or keys.get("chat_template") if is_chat else ""
    return Marks(columns, str(name), written if is_chat else str)


def _read(dataset: Mapping[str, Any], kind: Any, keys: Mapping[str, Any]) -> Iterator[str]:
    """The columns whose text is trained."""
    rl = keys.get("rl")
    yield from formats.columns(dataset, rl if isinstance(rl, str) else None) or ()
    yield "system"
    if isinstance(kind, Mapping):
        yield from (str(kind.get(f"field_{name}") or name) for name in ("input", "output"))
    elif kind is None:  # a file without a recipe
        yield from (*formats.CHATS, *formats.QUESTIONS, *formats.ANSWERS, "chosen", "rejected")
    elif "chat_template" not in str(kind):
        yield "input"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(each)
