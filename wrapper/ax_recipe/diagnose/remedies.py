"""What helps, as values: new values for Axolotl's keys, worked out from those that the run had."""

from __future__ import annotations

from typing import Any

from ax_recipe.diagnose.cause import Case, NewValue, Remedy

_STEPS = ("training",)


def halved(key: str, least: int) -> NewValue:
    """Half of what the run has, or one row where nobody knows how many; not offered at or below ``least``."""

    def value(case: Case) -> int | None:
        now = case.config.get(key)
        if not isinstance(now, int) or isinstance(now, bool):
            return least if least == 1 else None
        return max(least, now // 2) if now > least else None

    return value


def doubled(key: str, least: int) -> NewValue:
    """Twice what the run has, ``least`` where it has Axolotl's default; not offered where nobody knows its keys."""

    def value(case: Case) -> int | None:
        now = case.config.get(key)
        if not isinstance(now, int) or isinstance(now, bool):
            return least if case.config else None
        return max(least, 2 * now)

    return value


def unless(key: str, value: str | int | bool) -> NewValue:
    """``value``, where the run does not have it already."""
    return lambda case: None if case.config.get(key) == value else value


def torchs_attention(case: Case) -> str:
    """The one of PyTorch's own that keeps packed rows apart on every GPU, where rows are packed."""
    return "flex_attention" if case.config.get("sample_packing") else "sdpa"


def half_rate(case: Case) -> float | None:
    """Half the learning rate, by the config or else the highest that the log tells; None where neither says it."""
    try:
        rate = float(case.config.get("learning_rate") or case.highest_rate or 0.0)
    except (TypeError, ValueError):  # somebody wrote a word there
        rate = case.highest_rate or 0.0
    return rate / 2 or None


def _more_passes(case: Case) -> int | None:
    """The accumulation that leaves a step with the same rows where a pass has half of them."""
    rows, passes = case.config.get("micro_batch_size"), case.config.get("gradient_accumulation_steps") or 1
    if not isinstance(rows, int) or not isinstance(passes, int) or rows < 2:
        return None
    return passes * rows // (rows // 2)


def _quantised(case: Case) -> str | None:
    return "qlora" if case.config.get("adapter") == "lora" else None


def _sharding(case: Case) -> dict[str, Any] | None:
    """FSDP2, where several GPUs each hold all of the model."""
    whole = not (case.config.get("fsdp_config") or case.config.get("deepspeed"))
    if not whole or (case.config.get("world_size") or 1) < 2 or case.config.get("load_in_4bit"):
        return None
    return {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "state_dict_type": "FULL_STATE_DICT",
        "reshard_after_forward": True,
    }


HALF_BATCH = Remedy(
    "Half the rows in a pass, twice the passes (gradient_accumulation_steps): the batch of a step stays as it is.",
    {"micro_batch_size": halved("micro_batch_size", 1), "gradient_accumulation_steps": _more_passes},
    needs="micro_batch_size",
    phases=_STEPS,
)
CHECKPOINTING = Remedy(
    "Recompute activations instead of keeping them: about a third slower, most of their memory is free.",
    {"gradient_checkpointing": unless("gradient_checkpointing", True)},
    phases=_STEPS,
)
SHORTER = Remedy(
    "Shorter rows: activations grow with their length.", {"sequence_len": halved("sequence_len", 512)}, phases=_STEPS
)
FOUR_BITS = Remedy(
    "Keep the frozen weights in 4 bits: a quarter of their memory.",
    {"adapter": _quantised, "load_in_4bit": True},
    needs="adapter",
    phases=("loading", "training"),
)
SHARDED = Remedy(
    "Spread weights, gradients and optimizer over all GPUs.",
    {"fsdp_version": 2, "fsdp_config": _sharding},
    needs="fsdp_config",
    phases=("loading", "training", "saving"),
)
EVALUATE_LESS = Remedy(
    "Evaluate fewer rows at once: the logits of long rows are what fills it.",
    {"eval_batch_size": halved("eval_batch_size", 1), "eval_sample_packing": False},
    phases=("evaluating",),
)
NO_FRAGMENTS = Remedy(
    "Let PyTorch grow its blocks; it helps where much is reserved but not allocated.",
    command="PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True {again}",
    phases=("training", "evaluating"),
)
ON_THE_CPU = Remedy(
    "Merge in the machine's memory instead of the GPU's.",
    command='CUDA_VISIBLE_DEVICES="" {again}',
    phases=("merging",),
)
RESUME = Remedy("Go on from the last whole checkpoint.", command="{resume}")
