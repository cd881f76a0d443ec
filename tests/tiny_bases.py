"""What tests/tiny_training.py makes tiny models of: each base's shape made small, its special tokens, and data rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ax_recipe.data import formats
from ax_recipe.forecast import architecture
from ax_recipe.recipe.recipe import Recipe

Row = dict[str, Any]

# Phi-4's turns, as its own tokenizer writes them.
PHI4 = (
    "{%- for message in messages %}<|im_start|>{{ message['role'] }}<|im_sep|>{{ message['content'] }}<|im_end|>"
    "{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{%- endif %}"
)


@dataclass(frozen=True)
class Tokens:
    """The special tokens of a base's own tokenizer, and what it calls them before a recipe says otherwise."""

    special: tuple[str, ...]
    named: Mapping[str, str]
    adds_bos: bool = False
    chat_template: str | None = None

    def as_json(self) -> Row:
        return {
            "special": list(self.special), "named": dict(self.named), "adds_bos": self.adds_bos,
            "chat_template": self.chat_template,
        }  # fmt: skip


LLAMA3 = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>",
)  # fmt: skip
CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MISTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")

_LLAMA_BASE = Tokens(LLAMA3, {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1]}, adds_bos=True)
_LLAMA_INSTRUCT = Tokens(LLAMA3, {"bos_token": LLAMA3[0], "eos_token": LLAMA3[5]}, adds_bos=True)
_QWEN_BASE = Tokens(CHATML, {"eos_token": CHATML[0], "pad_token": CHATML[0]})
_QWEN = Tokens(CHATML, {"eos_token": CHATML[2], "pad_token": CHATML[0]})
_SMOL_BASE = Tokens(CHATML, {"bos_token": CHATML[0], "eos_token": CHATML[0]})
_SMOL = Tokens(CHATML, {"bos_token": CHATML[1], "eos_token": CHATML[2], "pad_token": CHATML[2]})
_MISTRAL = Tokens((*MISTRAL, "[control_768]"), {"bos_token": "<s>", "eos_token": "</s>"}, adds_bos=True)
_TEKKEN = Tokens(
    (*MISTRAL, "<pad>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"), {"bos_token": "<s>", "eos_token": "</s>"}, adds_bos=True
)
_GEMMA = Tokens(GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}, adds_bos=True)
_GEMMA_SEES = Tokens(
    (*GEMMA, "<start_of_image>", "<end_of_image>", "<image_soft_token>"),
    {
        **_GEMMA.named, "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    },
    adds_bos=True,
)  # fmt: skip
_PHI4 = Tokens(
    (*CHATML, "<|im_sep|>", "<|dummy_85|>"),
    {"bos_token": CHATML[0], "eos_token": CHATML[0], "pad_token": CHATML[0]},
    chat_template=PHI4,
)
TOKENS = {
    "NousResearch/Llama-3.2-1B": _LLAMA_BASE,
    "NousResearch/Meta-Llama-3.1-8B": _LLAMA_BASE,
    "unsloth/Llama-3.2-3B-Instruct": _LLAMA_INSTRUCT,
    "unsloth/Meta-Llama-3.1-8B-Instruct": _LLAMA_INSTRUCT,
    "unsloth/Llama-3.3-70B-Instruct": _LLAMA_INSTRUCT,
    "Qwen/Qwen3-0.6B-Base": _QWEN_BASE,
    "Qwen/Qwen3-1.7B-Base": _QWEN_BASE,
    "Qwen/Qwen3-8B-Base": _QWEN_BASE,
    "Qwen/Qwen3-1.7B": _QWEN,
    "Qwen/Qwen3-4B": _QWEN,
    "Qwen/Qwen3-14B": _QWEN,
    "Qwen/Qwen3-32B": _QWEN,
    "unsloth/mistral-7b-v0.3": _MISTRAL,
    "mistralai/Mistral-Small-24B-Instruct-2501": _TEKKEN,
    "unsloth/gemma-3-270m-it": _GEMMA,
    "unsloth/gemma-3-1b-it": _GEMMA,
    "unsloth/gemma-3-4b-it": _GEMMA_SEES,
    "microsoft/phi-4": _PHI4,
    "HuggingFaceTB/SmolLM2-360M": _SMOL_BASE,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOL,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _SMOL,
}


def small(base: str) -> Row:
    """The shape of a base with two layers of 128: its type, and whether it shares heads and embeddings, stay."""
    config = dict(architecture.config(base))
    if "text_config" not in config:
        return _small(config)
    vision = {
        **config["vision_config"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 56,
    }  # fmt: skip
    own = {"mm_tokens_per_image": 16, "boi_token_index": 6, "eoi_token_index": 7, "image_token_index": 8}
    return {**config, "text_config": _small(config["text_config"]), "vision_config": vision, **own}


def _small(config: Mapping[str, Any]) -> Row:
    # bitsandbytes 0.50 packs 4-bit weights for the CPU in blocks of 64 rows.
    heads = 4
    shared = max(1, heads * int(config["num_key_value_heads"]) // int(config["num_attention_heads"]))
    sizes = {
        "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": heads,
        "num_key_value_heads": shared, "head_dim": 64, "max_position_embeddings": 1024,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    window = {"sliding_window": 64} if config.get("sliding_window") else {}
    return {**config, **sizes, **window}


def _turns(index: int) -> list[Row]:
    question, answer = f"What comes after {index}?", f"After {index} comes {index + 1}."
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _shared(index: int) -> list[Row]:
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in _turns(index)]


def _preferred(index: int) -> Row:
    chosen = _turns(index)
    return {
        "prompt": chosen[0]["content"], "chosen": chosen,
        "rejected": [chosen[0], {"role": "assistant", "content": "I do not care."}],
    }  # fmt: skip


@dataclass(frozen=True)
class DataSet:
    """A public data set: its columns as its card names them, here as one made-up row for an index."""

    row: Callable[[int], Row]
    configs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train",)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, count: int = 40) -> Iterator[Row]:
        return ({**self.row(index), **self.extra} for index in range(count))


DATA = {
    "winglian/pirate-ultrachat-10k": DataSet(lambda i: {"messages": _turns(i)}),
    "HuggingFaceTB/smol-smoltalk": DataSet(
        lambda i: {"messages": _turns(i)}, splits=("train", "test"), extra={"source": "made up"}
    ),
    "mlabonne/FineTome-100k": DataSet(
        lambda i: {"conversations": _shared(i)}, extra={"source": "made up", "score": 5.1}
    ),
    "yahma/alpaca-cleaned": DataSet(lambda i: {"instruction": "Count on.", "input": str(i), "output": str(i + 1)}),
    "iamtarun/python_code_instructions_18k_alpaca": DataSet(
        lambda i: {"instruction": "Print a number.", "input": str(i), "output": f"print({i})", "prompt": "made up"}
    ),
    "argilla/ultrafeedback-binarized-preferences-cleaned": DataSet(
        _preferred,
        extra={
            "source": "made up", "chosen-rating": 5.0, "chosen-model": "one", "rejected-rating": 1.0,
            "rejected-model": "other",
        },
    ),
    "HuggingFaceH4/ultrafeedback_binarized": DataSet(
        lambda i: {**_preferred(i), "messages": _turns(i)},
        splits=("train_prefs", "train_sft", "train_gen", "test_prefs", "test_sft", "test_gen"),
        extra={"prompt_id": "0", "score_chosen": 5.0, "score_rejected": 1.0},
    ),
    "allenai/tulu-3-sft-mixture": DataSet(lambda i: {"messages": _turns(i)}, extra={"id": "0", "source": "made up"}),
    "HuggingFaceH4/ultrachat_200k": DataSet(
        lambda i: {"messages": _turns(i), "prompt": f"What comes after {i}?", "prompt_id": "0"},
        splits=("train_sft", "test_sft", "train_gen", "test_gen"),
    ),
    "open-web-math/open-web-math": DataSet(
        lambda i: {"url": "", "text": f"After {i} comes {i + 1}. " * 9, "date": "", "metadata": "{}"}
    ),
    "roneneldan/TinyStories": DataSet(
        lambda i: {"text": f"Once upon a time, {i} met {i + 1}."}, splits=("train", "validation")
    ),
    "NousResearch/hermes-function-calling-v1": DataSet(
        lambda i: {
            "id": "0", "category": "", "subcategory": "", "task": "",
            "conversations": [{"from": "system", "value": "You may call functions."}, *_shared(i)],
        },
        configs=("func_calling_singleturn", "func_calling", "glaive_func_calling", "json_mode_agentic",
                 "json_mode_singleturn"),
    ),
    "open-r1/Mixture-of-Thoughts": DataSet(
        lambda i: {
            "messages": [
                _turns(i)[0], {"role": "assistant", "content": f"<think>\nOne more.\n</think>\n\n{i + 1}"},
            ],
            "num_tokens": 9, "source": "made up",
        },
        configs=("all", "code", "math", "science"),
    ),
}  # fmt: skip


def texts(data: list[Row]) -> list[str]:
    """Something to make a tokenizer of."""
    return [json.dumps(row, ensure_ascii=False) for row in data]


def reads(recipe: Recipe, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that the dataset's type reads."""
    columns = formats.columns(dataset, recipe.rl)
    assert columns, f"{recipe.name}: what {dataset['type']} reads is not known"
    return columns
