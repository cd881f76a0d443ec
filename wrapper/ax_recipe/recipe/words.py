"""What is said of a key or a value that is wrong: what it is, what it should be, and which name was meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

Json = Mapping[str, Any]

# What people write who come from other trainers; used only where the name on the right exists in the schema.
RENAMED = {
    "adam_eps": "adam_epsilon",
    "alpha": "lora_alpha",
    "batch_size_per_device": "micro_batch_size",
    "context_length": "sequence_len",
    "cutoff_len": "sequence_len",
    "dataset": "datasets",
    "dropout": "lora_dropout",
    "eta_min": "cosine_min_lr_ratio",
    "epochs": "num_epochs",
    "finetuning_type": "adapter",
    "fsdp": "fsdp_config",
    "grad_accum": "gradient_accumulation_steps",
    "grad_clip": "max_grad_norm",
    "gradient_accumulation": "gradient_accumulation_steps",
    "load_4bit": "load_in_4bit",
    "load_8bit": "load_in_8bit",
    "lora_rank": "lora_r",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "max_length": "sequence_len",
    "max_seq_len": "sequence_len",
    "max_seq_length": "sequence_len",
    "model": "base_model",
    "model_max_length": "sequence_len",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "num_train_epochs": "num_epochs",
    "optim": "optimizer",
    "packing": "sample_packing",
    "per_device_eval_batch_size": "eval_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "precision": "bf16",
    "quantization_bit": "load_in_4bit",
    "r": "lora_r",
    "rank": "lora_r",
    "report_to": "use_wandb",
    "sharding_strategy": "reshard_after_forward",
    "fsdp_sharding_strategy": "reshard_after_forward",
    "sharegpt": "chat_template",
    "scheduler": "lr_scheduler",
    "target_modules": "lora_target_modules",
    "test_size": "val_set_size",
    "train_batch_size": "micro_batch_size",
    "train_dataset": "datasets",
    "warmup": "warmup_ratio",
}
_NAMES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}


def mean(name: str | None) -> str | None:
    """Ask whether ``name`` was meant, where there is one."""
    return f"Did you mean `{name}`?" if name else None


def nearest(name: str, names: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Give the most alike of ``names``, if one is at all."""
    return next(iter(get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)


def listed(values: Sequence[Any], most: int = 12) -> str:
    """Join the values as YAML has them, ``most`` of them at most."""
    words = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def described(value: Any) -> str:
    """Show a value, shortened, and name its kind."""
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    name = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return f"{short} ({name.get(type(value), type(value).__name__)})"


def kind_of(schema: Json) -> str:
    """Name what a schema takes."""
    if "enum" in schema or "const" in schema:
        return listed(schema.get("enum") or [schema["const"]])
    return _NAMES.get("number" if schema.get("x-numeric") else schema.get("type", ""), "another kind of value")


def kinds_of(schema: Json) -> str:
    """`` (a number)`` after the name of a missing key, where the schema says."""
    kinds = [_NAMES[each["type"]] for each in (schema, *schema.get("anyOf", ())) if each.get("type") in _NAMES]
    return f" ({' or '.join(kinds)})" if kinds else ""


def written(value: Any) -> str:
    """As it stood in the file: what YAML 1.1 reads as false where text is wanted was a bare no, as in save_strategy."""
    return {False: "no", True: "true"}[value] if isinstance(value, bool) else str(value)
