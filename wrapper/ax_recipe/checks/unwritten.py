"""What the rows of chats hold beside words and the chat template does not write: Axolotl leaves it out in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ax_recipe.checks.subject import Subject
from ax_recipe.data import formats
from ax_recipe.errors import Problem
from ax_recipe.recipe.document import Keys

_CALLS, _TOOLS, _THOUGHT, _IMAGES = "tool calls", "tools", "reasoning_content", "images"
# Of Axolotl's own templates (0.19, utils/chat_templates/templates), what each writes of these.
_WRITES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "alpaca", "aya", "chatml", "cohere", "deepseek_v2", "exaone", "gemma", "llama3", "metharme", "mistral_v1",
            "nemotron_h", "phi_3", "phi_35", "phi_4",
        ),
        frozenset[str](),
    ),
    **dict.fromkeys(("gemma3", "gemma3n", "llava", "mistral_v7_tekken", "pixtral", "qwen2_vl"), frozenset([_IMAGES])),
    **dict.fromkeys(
        (
            "command_a", "command_a_rag", "command_a_tool_use", "jamba", "mistral_v2v3", "mistral_v3_tekken", "qwen_25",
        ),
        frozenset([_CALLS, _TOOLS]),
    ),
    **dict.fromkeys(("llama3_2_vision", "llama4"), frozenset([_CALLS, _TOOLS, _IMAGES])),
    **dict.fromkeys(("exaone4", "qwen3"), frozenset([_CALLS, _TOOLS, _THOUGHT])),
    "deepseek_v3": frozenset([_CALLS]),
    "falcon_h1": frozenset([_TOOLS]),
}  # fmt: skip


def unwritten(
    subject: Subject, key: Keys, dataset: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> Iterator[Problem]:
    """AX058: a warning for each kind of thing that rows hold and the template of their dataset does not know."""
    own = dataset.get("chat_template")
    name = own or subject.text("chat_template")
    if not isinstance(name, str) or name not in _WRITES:
        return
    field, tools = formats.field(dataset), str(dataset.get("field_tools") or "tools")
    counted = Counter(part for row in rows for part in _parts(row, field, tools))
    for part, count in sorted(counted.items()):
        if part not in _WRITES[name]:
            has = "1 row has them" if count == 1 else f"{count:,} rows have them"
            message = f"{name} writes no {part}, and {has}: Axolotl leaves them out in silence"
            fix = "tokenizer_default where the model's own template writes them, or jinja with one that does."
            yield subject.problem("AX058", (*key, "chat_template") if own else "chat_template", message, fix, "warning")


def _parts(row: Mapping[str, Any], field: str, tools: str) -> set[str]:
    messages = formats.listed(row.get(field))
    turns = [turn for turn in messages if isinstance(turn, Mapping)] if isinstance(messages, list) else []
    found = {_TOOLS} if row.get(tools) else set()
    for turn in turns:
        found |= {_CALLS} if turn.get("tool_calls") else set()
        found |= {_THOUGHT} if turn.get("reasoning_content") else set()
        found |= {_IMAGES} if _has_image(turn.get("content")) else set()
    return found


def _has_image(content: Any) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, Mapping) and str(part.get("type")).startswith("image") for part in parts)
