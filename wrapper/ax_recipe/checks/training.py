"""Numbers that cannot mean anything, keys that contradict each other, evaluations that cannot be, folders in use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from ax_recipe.checks.accounts import has_wandb_key
from ax_recipe.checks.subject import Subject, names_a_file
from ax_recipe.errors import Problem

# Key: lowest, whether that itself is allowed, highest.
_RANGES: dict[str, tuple[float, bool, float]] = {
    "adam_beta1": (0, True, 1),
    "adam_beta2": (0, True, 1),
    "adam_epsilon": (0, False, math.inf),
    "eval_batch_size": (1, True, math.inf),
    "eval_steps": (0, True, math.inf),
    "evals_per_epoch": (0, True, math.inf),  # 0 is never
    "gradient_accumulation_steps": (1, True, math.inf),
    "learning_rate": (0, False, math.inf),
    "logging_steps": (0, False, math.inf),
    "lora_alpha": (0, False, math.inf),
    "lora_dropout": (0, True, 0.999),
    "lora_r": (1, True, math.inf),
    "max_grad_norm": (0, True, math.inf),
    "micro_batch_size": (1, True, math.inf),
    "num_epochs": (0, False, math.inf),
    "save_steps": (0, True, math.inf),
    "save_total_limit": (0, True, math.inf),
    "saves_per_epoch": (0, True, math.inf),
    "sequence_len": (1, True, math.inf),
    "val_set_size": (0, True, math.inf),
    "warmup_ratio": (0, True, 1),
    "warmup_steps": (0, True, math.inf),
    "weight_decay": (0, True, 1),
}
_WITH_ADAPTER = frozenset(["lora_r", "lora_alpha", "lora_dropout"])
_EXCLUDING = (
    ("warmup_steps", "warmup_ratio"),
    ("eval_steps", "evals_per_epoch"),
    ("save_steps", "saves_per_epoch"),
    ("batch_size", "gradient_accumulation_steps"),
    ("val_set_size", "test_datasets"),
    ("load_in_4bit", "load_in_8bit"),
    ("peft_layers_to_transform", "unfrozen_parameters"),
    ("lr_groups", "loraplus_lr_ratio"),
)
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "model.safetensors", "model.safetensors.index.json")


def ranges(subject: Subject) -> Iterator[Problem]:
    """AX010: a batch of 0 rows, a rank of 0, a negative rate."""
    for key, (low, inclusive, high) in _RANGES.items():
        value = subject.number(key)
        if subject.keys.get(key) is True:  # pydantic takes it for 1
            yield subject.problem("AX010", key, "expected a number, found true", "Give a number that can be meant.")
        if value is None or (key in _WITH_ADAPTER and subject.adapter is None):
            continue
        if not math.isfinite(value) or value > high or value < low or (value == low and not inclusive):
            words = f"{'at least' if inclusive else 'more than'} {low:g}" + (
                "" if high == math.inf else f", at most {high:g}"
            )
            yield subject.problem(
                "AX010", key, f"expected {words}, found {value:g}", "Give a number that can be meant."
            )
    steps = subject.number("max_steps")
    if steps is not None and steps < 1 and steps != -1:
        yield subject.problem(
            "AX010", "max_steps", f"expected at least 1, found {steps:g}", "Remove it for whole epochs."
        )


def exclusive_keys(subject: Subject) -> Iterator[Problem]:
    """AX035: two keys that say one thing."""
    for one, other in _EXCLUDING:
        if subject.keys.get(one) and subject.keys.get(other):
            yield subject.problem("AX035", other, f"excludes `{one}`, which is set as well", "Keep one of the two.")
    for strategy, steps in (("save_strategy", "save_steps"), ("eval_strategy", "eval_steps")):
        named = subject.text(strategy)
        if named and named != "steps" and subject.keys.get(steps):
            yield subject.problem(
                "AX035", strategy, f"{named} leaves no meaning to `{steps}`", f"Set it to steps, or remove `{steps}`."
            )
    if subject.on("bf16") and subject.on("fp16"):
        yield subject.problem(
            "AX035", "fp16", "excludes `bf16`, which is set as well", "Keep bf16 where the GPU has it."
        )


def best_model(subject: Subject) -> Iterator[Problem]:
    """AX036: load_best_model_at_end, which Axolotl 0.19 turns off in silence (core/builders/causal.py)."""
    keys = [key for key in ("load_best_model_at_end", "early_stopping_patience") if subject.keys.get(key)]
    if not keys or not _evaluates(subject):
        return
    epochs = subject.number("num_epochs") or 1.0
    save, evaluate = (
        subject.number(steps) or (1 / (per * epochs) if (per := subject.number(often)) and per > 0 else None)
        for steps, often in (("save_steps", "saves_per_epoch"), ("eval_steps", "evals_per_epoch"))
    )
    if save is None or evaluate is None:
        missing = "save_steps" if save is None else "eval_steps"
        message = f"needs `{missing}` (or the key per epoch): without it Axolotl turns it off in silence"
        yield subject.problem("AX036", keys[0], message, f"Set `{missing}`; every save must be an evaluation.")
    # The same float arithmetic as Axolotl's: 0.5 % 0.1 is 0.0999...
    elif evaluate > 0 and save % evaluate != 0:
        message = "turned off in silence: the steps of saving are no multiple of those of evaluating"
        yield subject.problem("AX036", keys[0], message, "Save as often as you evaluate: the same number for both.")


def _evaluates(subject: Subject) -> bool:
    return bool(subject.number("val_set_size") or subject.list("test_datasets"))


def evaluation(subject: Subject) -> Iterator[Problem]:
    """AX037: something wants evaluations, and nothing is held out."""
    if _evaluates(subject) or subject.text("eval_strategy") == "no" or subject.keys.get("rl") == "grpo":
        return
    for key in ("early_stopping_patience", "load_best_model_at_end", "evals_per_epoch", "eval_steps", "eval_strategy"):
        if subject.keys.get(key) and subject.document.line((key,)) is not None:  # what nobody wrote misleads nobody
            refused = subject.number("val_set_size") == 0 and key in {"eval_steps", "eval_strategy"}
            severe = refused or key in {"early_stopping_patience", "load_best_model_at_end"}
            fix = "val_set_size: 0.02, or test_datasets; else remove this key."
            yield subject.problem(
                "AX037", key, "no rows are held out to evaluate", fix, "error" if severe else "warning"
            )


def learning_rate(subject: Subject) -> Iterator[Problem]:
    """AX038: a rate at which Adam diverges."""
    rate, optimizer = subject.number("learning_rate"), str(subject.keys.get("optimizer") or "adamw")
    if rate is None or "adam" not in optimizer or not 0.005 <= rate < math.inf:
        return
    usual = "2.0e-4" if subject.adapter else "2.0e-5"
    message = f"{rate:g} diverges: the loss becomes NaN, which Axolotl logs as 0"
    yield subject.problem(
        "AX038", "learning_rate", message, f"{usual} is usual.", "error" if rate >= 0.05 else "warning"
    )


def warmup(subject: Subject) -> Iterator[Problem]:
    """AX048: the rate rises to the end."""
    steps, most = subject.number("warmup_steps"), subject.number("max_steps")
    if steps and most and most > 0 and steps >= most:
        message = f"{steps:g} steps of warmup in a training of {most:g}"
        yield subject.problem("AX048", "warmup_steps", message, "warmup_ratio: 0.03", "warning")


def output_folder(subject: Subject) -> Iterator[Problem]:
    """AX039, AX040: a folder that is in use."""
    text = subject.text("output_dir")
    ours = subject.of_recipe and subject.keys.get("reinit_weights")  # a base made here lies in our own cache
    if text is None or ours or not names_a_file(text):
        return
    folder, base = Path(text).expanduser(), subject.base()
    if base is not None and folder.resolve() == base.resolve():
        yield subject.problem(
            "AX040", "output_dir", "is the folder of the base, which would be overwritten", "Another folder."
        )
    elif folder.is_dir() and not any(map(subject.keys.get, ("resume_from_checkpoint", "auto_resume_from_checkpoints"))):
        found = [
            *(name for name in _WEIGHTS if (folder / name).is_file()),
            *sorted(path.name for path in folder.glob("checkpoint-*")),
        ]
        if found:
            message = f"holds another run: {', '.join(found[:3])}"
            fix = "Another folder; or auto_resume_from_checkpoints: true, to go on with that run."
            yield subject.problem("AX039", "output_dir", message, fix)


def accounts(subject: Subject) -> Iterator[Problem]:
    """AX049: Weights & Biases without a key."""
    wanted = next((key for key in ("use_wandb", "wandb_project") if subject.keys.get(key)), None)
    mode = subject.text("wandb_mode") or os.environ.get("WANDB_MODE")
    off = mode in {"offline", "disabled"} or subject.keys.get("use_wandb") is False
    if wanted and not off and not has_wandb_key():
        fix = "WANDB_API_KEY, `wandb login`, or wandb_mode: offline."
        yield subject.problem("AX049", wanted, "no key for Weights & Biases is on this machine", fix, "warning")


def adapter_keys(subject: Subject) -> Iterator[Problem]:
    """AX054: LoRA keys without an adapter."""
    keys = [key for key in ("lora_r", "lora_target_modules", "lora_target_linear") if subject.keys.get(key)]
    if keys and not subject.keys.get("adapter"):
        message = "set, and `adapter` is not: Axolotl would train every weight of the model"
        yield subject.problem("AX054", keys[0], message, "adapter: lora, or remove the lora_ keys.")


def quantisation(subject: Subject) -> Iterator[Problem]:
    """AX031: an adapter and quantised weights that do not go together (Axolotl 0.19, utils/schemas/peft.py)."""
    four, eight = subject.on("load_in_4bit"), subject.on("load_in_8bit")
    if subject.adapter == "qlora" and eight:
        yield subject.problem("AX031", "load_in_8bit", "qlora wants 4-bit weights", "load_in_4bit: true instead.")
    elif subject.adapter == "qlora" and not four and not subject.text("model_quantization_config"):
        yield subject.problem("AX031", "adapter", "qlora wants `load_in_4bit: true`", "Add it, or adapter: lora.")
    elif (four or eight) and not subject.keys.get("adapter"):
        key = "load_in_4bit" if four else "load_in_8bit"
        yield subject.problem("AX031", key, "quantised weights cannot be trained without an adapter", "adapter: qlora")


CHECKS = (
    ranges, exclusive_keys, best_model, evaluation, learning_rate, warmup, output_folder, accounts, adapter_keys,
    quantisation,
)  # fmt: skip
