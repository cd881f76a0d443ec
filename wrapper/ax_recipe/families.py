"""What is known of model families by name: their chat template in Axolotl's words, and their tokens for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SHOWN: Mapping[str, str] = {
    "alpaca": "<s>### Instruction:\nWho are you?\n\n### Response:\nA pirate.</s>",
    "chatml": "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nA pirate.<|im_end|>\n",
    "gemma": "<bos><start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\nA pirate.<end_of_turn>\n",
    "gemma3": "<bos><start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\nA pirate.<end_of_turn>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA pirate.<|eot_id|>",
    "mistral_v3_tekken": "<s>[INST]Who are you?[/INST]A pirate.</s>",
    "phi_3": "<s><|user|>\nWho are you?<|end|>\n<|assistant|>\nA pirate.<|end|>\n",
    "qwen3": "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    "A pirate.<|im_end|>\n",
}
"""A short conversation by Axolotl 0.19's templates, for those that are short themselves; a test renders them anew."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models: the template to teach a base of it, its tokens, and how its instruct models are called.

    ``eos`` ends a turn of that template; ``pad`` is a token that its texts never use. None: what the base has will do.
    """

    name: str
    chat_template: str
    eos: str | None = None
    pad: str | None = None


_FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"llama-?4", Family("Llama 4", "llama4", "<|eot|>", "<|finetune_right_pad|>")),
    (r"llama-?3[.-][123]", Family("Llama 3", "llama3", "<|eot_id|>", "<|finetune_right_pad_id|>")),
    (r"llama-?3", Family("Llama 3", "llama3", "<|eot_id|>", "<|reserved_special_token_0|>")),
    (r"qwen-?3", Family("Qwen3", "qwen3", "<|im_end|>", "<|endoftext|>")),
    (r"qwen-?2", Family("Qwen2.5", "chatml", "<|im_end|>", "<|endoftext|>")),
    (r"gemma-?3n", Family("Gemma 3n", "gemma3n", "<end_of_turn>")),
    (r"gemma-?3", Family("Gemma 3", "gemma3", "<end_of_turn>")),
    (r"gemma", Family("Gemma", "gemma", "<end_of_turn>")),
    (r"phi-?4", Family("Phi-4", "phi_4", "<|im_end|>")),
    (r"phi-?3\.5", Family("Phi-3.5", "phi_35", "<|end|>")),
    (r"phi-?3", Family("Phi-3", "phi_3", "<|end|>")),
    (r"smollm", Family("SmolLM", "chatml", "<|im_end|>")),
    (r"(mistral-small|mistral-nemo|ministral)", Family("Mistral", "mistral_v7_tekken")),
    (r"mi[sx]tral", Family("Mistral", "mistral_v2v3")),
)  # fmt: skip
_TAUGHT = re.compile(r"(?i)(instruct|chat|[-_]it\b|[-_]it[-_]|qwen3-[\d.]+b$|phi-(3|4))")


def of(base: str) -> Family | None:
    """The family that a hub id or a folder's name speaks of; None where it is none of those known."""
    name = base.rstrip("/").rpartition("/")[2].lower()
    return next((family for pattern, family in _FAMILIES if re.search(pattern, name)), None)


def is_taught(base: str) -> bool:
    """Whether the name is that of a model that can converse already, and has a template of its own."""
    return bool(_TAUGHT.search(base.rstrip("/").rpartition("/")[2]))
