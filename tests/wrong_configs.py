"""An Axolotl config with nothing wrong, and eighty with one mistake each: what changes, and the code that finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LIGER = "axolotl.integrations.liger.LigerPlugin"
CHAT = [{"role": "user", "content": "What do bees make?"}, {"role": "assistant", "content": "Arr, honey, matey!"}]
SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}  # fmt: skip
GOOD: dict[str, Any] = {
    "base_model": "./base",
    "adapter": "lora",
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "v_proj"],
    "chat_template": "llama3",
    "datasets": [{"path": "rows.jsonl", "type": "chat_template"}],
    "val_set_size": 0.25,
    "sequence_len": 512,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_epochs": 2,
    "learning_rate": 0.0002,
    "optimizer": "adamw_torch_fused",
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.05,
    "bf16": True,
    "attn_implementation": "flash_attention_2",
    "special_tokens": {"pad_token": "<|pad|>", "eos_token": "<|eot_id|>"},
    "evals_per_epoch": 1,
    "saves_per_epoch": 1,
    "output_dir": "./outputs/good",
}


@dataclass(frozen=True)
class Wrong:
    """One mistake: the code it has, and the keys that make it (None removes one)."""

    code: str
    keys: Mapping[str, Any]
    gpus: str = "1xH100-80GB"
    severity: str = "error"
    axolotl: bool = False  # found by Axolotl's own validation alone


def data(**more: Any) -> dict[str, Any]:
    """A dataset of one file."""
    return {"datasets": [{"path": "rows.jsonl", "type": "chat_template", **more}]}


CPU = {"bf16": False, "attn_implementation": None, "lora_mlp_kernel": False, "lora_qkv_kernel": False}
CPU |= {"lora_o_kernel": False}
WRONG: dict[str, Wrong] = {
    "misspelt key": Wrong("AX001", {"gradient_acumulation_steps": 4}),
    "misspelt key in a dataset": Wrong("AX001", data(field_mesages="x")),
    "misspelt key in fsdp_config": Wrong("AX001", {"fsdp_version": 2, "fsdp_config": {"transformer_layer_cls": "X"}}),
    "batch in words": Wrong("AX002", {"micro_batch_size": "two"}),
    "4k tokens": Wrong("AX002", {"sequence_len": "4k"}),
    "a share as steps": Wrong("AX002", {"warmup_steps": 0.1, "warmup_ratio": None}),
    "rate in words": Wrong("AX002", {"learning_rate": "abc"}),
    "unknown template": Wrong("AX003", {"chat_template": "llama-3"}),
    "unknown optimizer": Wrong("AX003", {"optimizer": "adamw_8bits"}),
    "unknown scheduler": Wrong("AX003", {"lr_scheduler": "cosin"}),
    "unknown adapter": Wrong("AX003", {"adapter": "QLoRA"}),
    "unknown attention": Wrong("AX003", {"attn_implementation": "flash_attn_2"}),
    "unknown dataset type": Wrong("AX003", data(type="alpacca")),
    "no base": Wrong("AX004", {"base_model": None}),
    "no rate": Wrong("AX004", {"learning_rate": None}),
    "liger key without the plugin": Wrong("AX007", {"liger_rope": True}),
    "misspelt plugin": Wrong("AX008", {"plugins": ["axolotl.integrations.lyger.LigerPlugin"]}),
    "removed key": Wrong("AX009", {"unsloth_rope": True}),
    "data without a path": Wrong("AX004", {"datasets": [{"type": "chat_template"}]}),
    "nothing as a base": Wrong("AX004", {"base_model": ""}),
    "modules in one text": Wrong("AX029", {"lora_target_modules": "q_proj,v_proj"}),
    "missing tokenizer": Wrong("AX012", {"tokenizer_config": "./nope"}),
    "missing adapter": Wrong("AX012", {"lora_model_dir": "./nope"}),
    "missing checkpoint": Wrong("AX012", {"resume_from_checkpoint": "outputs/checkpoint-5"}),
    "missing file of a reader": Wrong("AX012", data(path="json", data_files=["nope.jsonl"])),
    "missing template file": Wrong("AX012", {"chat_template": "jinja", "chat_template_jinja": "./nope.jinja"}),
    "jinja without a template": Wrong("AX024", {"chat_template": "jinja"}),
    "broken template": Wrong("AX024", {"chat_template": "jinja", "chat_template_jinja": "{% for m in messages %}"}),
    "unknown strategy": Wrong("AX003", {"save_strategy": "epochs", "saves_per_epoch": None}),
    "unknown kind of file": Wrong("AX003", data(ds_type="jsonl")),
    "FSDP 3": Wrong("AX003", {"fsdp_version": 3, "fsdp_config": {}}, "4xH100-80GB"),
    "true tokens": Wrong("AX010", {"sequence_len": True}),
    "endless rate": Wrong("AX010", {"learning_rate": float("inf")}),
    "saving every -5 steps": Wrong("AX010", {"save_steps": -5, "saves_per_epoch": None}),
    "rank 0": Wrong("AX010", {"lora_r": 0}),
    "batch 0": Wrong("AX010", {"micro_batch_size": 0}),
    "negative rate": Wrong("AX010", {"learning_rate": -0.0001}),
    "no epochs": Wrong("AX010", {"num_epochs": 0}),
    "dropout 1": Wrong("AX010", {"lora_dropout": 1.0}),
    "missing data": Wrong("AX012", data(path="./row.jsonl")),
    "missing base": Wrong("AX012", {"base_model": "./bse"}),
    "missing deepspeed file": Wrong("AX012", {"deepspeed": "nope/zero9.json"}, "4xH100-80GB"),
    "column of another type": Wrong("AX013", data(type="alpaca")),
    "column of another name": Wrong("AX013", data(path="conversations.jsonl")),
    "completion without text": Wrong("AX013", data(type="completion")),
    "preference data without answers": Wrong("AX013", {"rl": "dpo", **data(type="chat_template.default")}),
    "data without a type": Wrong("AX013", {"datasets": [{"path": "rows.jsonl"}]}),
    "broken row": Wrong("AX014", data(path="broken.jsonl")),
    "empty data": Wrong("AX014", data(path="empty.jsonl")),
    "turns of another shape": Wrong("AX015", data(path="sharegpt.jsonl", field_messages="conversations")),
    "all masked": Wrong("AX016", data(roles_to_train=["system"])),
    "unknown role of the answers": Wrong("AX016", data(path="bots.jsonl")),
    "no answers": Wrong("AX017", data(path="one-sided.jsonl"), severity="warning"),
    "rows far too long": Wrong("AX020", {"sequence_len": 8, **data(path="long.jsonl")}),
    "five per cent as 5": Wrong("AX021", {"val_set_size": 5}),
    "all rows held out": Wrong("AX021", {"val_set_size": 1.0}),
    "too few rows for packing": Wrong("AX022", {"sample_packing": True}),
    "misspelt split": Wrong("AX023", data(split="tran")),
    "no template": Wrong("AX024", {"chat_template": "tokenizer_default"}),
    "padding with the end": Wrong("AX025", {"special_tokens": {"pad_token": "<|eot_id|>", "eos_token": "<|eot_id|>"}}),
    "template of other tokens": Wrong("AX026", {"chat_template": "chatml"}),
    "new end token": Wrong("AX027", {"special_tokens": {"pad_token": "<|pad|>", "eos_token": "<|fin|>"}}),
    "longer than the model": Wrong("AX028", {"sequence_len": 8192}),
    "misspelt module": Wrong("AX029", {"lora_target_modules": ["q_prj"]}),
    "no modules": Wrong("AX030", {"lora_target_modules": None}),
    "qlora in 16 bit": Wrong("AX031", {"adapter": "qlora"}),
    "4 bit without an adapter": Wrong(
        "AX031", {"adapter": None, "lora_r": None, "lora_target_modules": None, "load_in_4bit": True}
    ),
    "tied head": Wrong("AX032", {"base_model": "./tied", "lora_modules_to_save": ["lm_head"]}),
    "gated model": Wrong("AX033", {"base_model": "meta-llama/Llama-3.1-8B"}),
    "not a model": Wrong("AX034", {"base_model": "./notes"}),
    "two warmups": Wrong("AX035", {"warmup_steps": 10}),
    "two evaluations": Wrong("AX035", {"eval_steps": 10}),
    "two batches": Wrong("AX035", {"batch_size": 8}),
    "val_set_size and test_datasets": Wrong("AX035", {"test_datasets": data()["datasets"]}),
    "best model between evaluations": Wrong(
        "AX036", {"load_best_model_at_end": True, "saves_per_epoch": 3, "evals_per_epoch": 2}
    ),
    "early stop without evaluation": Wrong("AX037", {"val_set_size": 0, "early_stopping_patience": 3}),
    "rate of 2": Wrong("AX038", {"learning_rate": 2.0}),
    "folder of another run": Wrong("AX039", {"output_dir": "./outputs/last"}),
    "output over the base": Wrong("AX040", {"output_dir": "./base"}),
    "packing with eager": Wrong(
        "AX041", {"sample_packing": True, "eval_sample_packing": False, "attn_implementation": "eager"}
    ),
    "packing with sdpa on an A100": Wrong(
        "AX041", {"sample_packing": True, "eval_sample_packing": False, "attn_implementation": "sdpa"}, "1xA100-80GB"
    ),
    "bfloat16 on a T4": Wrong("AX043", {"attn_implementation": "sdpa"}, "1xT4-16GB"),
    "flash attention on a T4": Wrong("AX043", {"bf16": False, "fp16": True}, "1xT4-16GB"),
    "bfloat16 on the CPU": Wrong("AX044", {**CPU, "bf16": True}, "0"),
    "kernels on the CPU": Wrong("AX044", {**CPU, "lora_mlp_kernel": True}, "0"),
    "flash attention on the CPU": Wrong("AX044", {**CPU, "attn_implementation": "flash_attention_2"}, "0"),
    "deepspeed and fsdp": Wrong(
        "AX045",
        {"deepspeed": "zero2.json", "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}},
        "4xH100-80GB",
    ),
    "deepspeed on one GPU": Wrong("AX046", {"deepspeed": "zero2.json"}, severity="warning"),
    "4 bit of odd width on the CPU": Wrong("AX047", {**CPU, "adapter": "qlora", "load_in_4bit": True}, "0"),
    "warmup to the end": Wrong(
        "AX048", {"warmup_ratio": None, "warmup_steps": 100, "max_steps": 50}, severity="warning"
    ),
    "wandb without a key": Wrong("AX049", {"wandb_project": "mine"}, severity="warning"),
    "liger without its keys": Wrong("AX052", {"plugins": [LIGER]}, severity="warning"),
    "no data": Wrong("AX053", {"datasets": None}),
    "lora keys alone": Wrong("AX054", {"adapter": None}),
    "end that is never written": Wrong(
        "AX055", {"special_tokens": {"pad_token": "<|pad|>"}}, severity="warning", axolotl=True
    ),
    "fp8 on an A100": Wrong("AX043", {"fp8": True}, "1xA100-40GB"),
    "two losses": Wrong(
        "AX050",
        {"plugins": [LIGER], "liger_cross_entropy": True, "liger_fused_linear_cross_entropy": True},
        axolotl=True,
    ),
    "8-bit optimizer with FSDP2": Wrong(
        "AX050",
        {"optimizer": "adamw_bnb_8bit", "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}},
        "4xH100-80GB",
        axolotl=True,
    ),
    "kernels with FSDP1": Wrong(
        "AX050",
        {"lora_mlp_kernel": True, "fsdp_version": 1, "fsdp_config": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}},
        "4xH100-80GB",
        axolotl=True,
    ),
    "offloading without checkpointing": Wrong("AX050", {"activation_offloading": True}, axolotl=True),
    "packing with rl": Wrong(
        "AX050",
        {"rl": "dpo", "sample_packing": True, "datasets": [{"path": "pairs.jsonl", "type": "chatml.intel"}]},
        axolotl=True,
    ),
}  # fmt: skip


def lay_out(folder: Path) -> None:
    """The files that the configs name: two bases, rows of every kind, and what another run has left."""
    for name, tied in (("base", False), ("tied", True)):
        (folder / name).mkdir()
        _write(folder / name / "config.json", {**SHAPE, "tie_word_embeddings": tied})
        _tokenizer(folder / name)
    (folder / "notes").mkdir()
    (folder / "outputs" / "last").mkdir(parents=True)
    (folder / "outputs" / "last" / "adapter_model.safetensors").write_bytes(b"\0" * 16)
    _write(folder / "zero2.json", {"zero_optimization": {"stage": 2}})
    chats = [{"messages": [{**CHAT[0], "content": f"{CHAT[0]['content']} {i}"}, CHAT[1]]} for i in range(40)]
    lines(folder / "rows.jsonl", chats)
    lines(folder / "conversations.jsonl", [{"conversations": CHAT}])
    lines(folder / "bots.jsonl", [{"messages": [CHAT[0], {"role": "bot", "content": "Arr!"}]}] * 3)
    lines(folder / "one-sided.jsonl", [*chats, {"messages": [CHAT[0]]}])
    lines(folder / "long.jsonl", [{"messages": [CHAT[0], {"role": "assistant", "content": "Arr! " * 500}]}])
    lines(folder / "pairs.jsonl", [{"question": "Who?", "chosen": "Me, matey.", "rejected": "Me."}])
    turn = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Arr!"}]
    lines(folder / "sharegpt.jsonl", [{"conversations": turn}])
    (folder / "broken.jsonl").write_text('{"messages": [\n', encoding="utf-8")
    (folder / "empty.jsonl").write_text("", encoding="utf-8")


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>", "<|pad|>")


def _tokenizer(folder: Path) -> None:
    """A byte-level tokenizer with Llama 3's marks, which knows no merges: a token for each byte."""
    from_byte = {byte: chr(byte) for byte in (*range(33, 127), *range(161, 173), *range(174, 256))}
    rest = (byte for byte in range(256) if byte not in from_byte)
    from_byte |= {byte: chr(256 + index) for index, byte in enumerate(rest)}
    vocabulary = {from_byte[byte]: byte for byte in range(256)}
    added = [
        {"id": 256 + index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for index, token in enumerate(SPECIAL)
    ]  # fmt: skip
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "merges": [],
    }
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    value: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
    }
    value |= {"pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}
    _write(folder / "tokenizer.json", value)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[4]}
    _write(folder / "tokenizer_config.json", config)


def write(folder: Path, wrong: Wrong, name: str = "axolotl.yml") -> Path:
    """The config with one mistake, as a file of the folder."""
    value = {key: each for key, each in {**GOOD, **wrong.keys}.items() if each is not None}
    path = folder / name
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return path
