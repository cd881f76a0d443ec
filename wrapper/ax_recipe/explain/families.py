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
    """A family of models by what its tokenizers have. None: what its copies have will do.

    ``base_template`` is for a base that learns to chat, ``own_template`` for a model that can already; ``eos`` ends a
    turn of both. ``pad`` never comes up in chats, ``text_pad`` not in plain text either.
    """

    name: str
    base_template: str
    own_template: str
    eos: str | None = None
    pad: str | None = None
    text_pad: str | None = None


_SPARE = "<|finetune_right_pad_id|>"
_FAMILIES: tuple[tuple[str, Family], ...] = (
    (r"llama-?3[.-][123]", Family("Llama 3", "llama3", "llama3", "<|eot_id|>", _SPARE, _SPARE)),
    (r"llama-?3", Family("Llama 3", "llama3", "llama3", "<|eot_id|>", *2 * ("<|reserved_special_token_250|>",))),
    (r"qwen-?3", Family("Qwen3", "chatml", "qwen3", "<|im_end|>", "<|endoftext|>", "<|fim_pad|>")),
    (r"qwen-?2", Family("Qwen2.5", "chatml", "tokenizer_default", "<|im_end|>", "<|endoftext|>", "<|fim_pad|>")),
    (r"gemma-?3", Family("Gemma 3", "gemma3", "gemma3", "<end_of_turn>", "<pad>", "<pad>")),
    (r"gemma", Family("Gemma", "gemma", "gemma", "<end_of_turn>", "<pad>", "<pad>")),
    (r"phi-?4", Family("Phi-4", "tokenizer_default", "tokenizer_default", "<|im_end|>", *2 * ("<|dummy_85|>",))),
    (r"phi-?3", Family("Phi-3", "phi_3", "tokenizer_default", "<|end|>", "<|endoftext|>")),
    (r"smollm2", Family("SmolLM2", "chatml", "chatml", "<|im_end|>", "<|endoftext|>", "<|im_end|>")),
    (r"mistral-(small|nemo)", Family("Mistral", "mistral_v7_tekken", "tokenizer_default", None, *2 * ("<pad>",))),
    (r"mistral-7b.*v0\.3", Family("Mistral", "mistral_v2v3", "tokenizer_default", None, *2 * ("[control_768]",))),
    (r"mistral", Family("Mistral", "mistral_v1", "tokenizer_default", None, *2 * ("<unk>",))),
)  # fmt: skip
_TAUGHT = re.compile(r"(?i)(instruct|chat|[-_]it\b|qwen3-[\d.]+b$|phi-?[34])")


def of(base: str) -> Family | None:
    """The family that a hub id or a folder's name speaks of; None where it is none of those known."""
    name = base.rstrip("/").rpartition("/")[2].lower()
    return next((family for pattern, family in _FAMILIES if re.search(pattern, name)), None)


def is_taught(base: str) -> bool:
    """Whether the name is that of a model that can converse already, and has a template of its own."""
    return bool(_TAUGHT.search(base.rstrip("/").rpartition("/")[2]))
