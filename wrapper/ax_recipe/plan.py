"""Recipe and hardware in, every decision out: the Axolotl keys of a run, each with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ax_recipe.document import Keys
from ax_recipe.errors import RecipeError
from ax_recipe.hardware import CPU, Hardware
from ax_recipe.recipe import Lora, Recipe, Train, resolve

_LIGER = "axolotl.integrations.liger.LigerPlugin"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key came from: ``recipe``, ``default``, ``hardware`` or ``run``; why; and the recipe's own key."""

    source: str
    reason: str = ""
    recipe_key: Keys | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """One Axolotl YAML: its keys in order, and the origin of each."""

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before anything starts. ``base`` is the pre-training of a model that is made here."""

    recipe: Recipe
    hardware: Hardware
    train: Config
    base: Config | None


class _Keys:
    """Collects the keys of one YAML with their origins; a key whose value is None is left to Axolotl."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, Origin] = {}

    def put(self, key: str, value: Any, origin: Origin) -> None:
        if value is not None:
            self.values[key] = value
            self.origins[key] = origin

    def overrule(self, keys: Mapping[str, Any], prefix: Keys) -> None:
        for key, value in keys.items():
            reason = f"wins over {self.values[key]!r}" if key in self.values else ""
            self.values[key] = value
            self.origins[key] = Origin("recipe", reason, (*prefix, key))

    def config(self) -> Config:
        return Config(self.values, self.origins)


def make(recipe: Recipe, hardware: Hardware, output_dir: str, prepared_dir: str, base_dir: str) -> Plan:
    """Decide every Axolotl key of ``recipe`` on ``hardware``.

    ``output_dir`` is where Axolotl writes the adapter or model, ``prepared_dir`` where it caches tokenised data, and
    ``base_dir`` where a base that is made here lies (``base_dir/untrained`` before its pre-training).

    :raises RecipeError: the hardware cannot train it as asked.
    """
    # Both spellings of a data file must mean the same file wherever Axolotl is started from.
    folder = recipe.file.resolve().parent
    base = None
    if not isinstance(recipe.base, str):
        base = _pretraining(recipe, folder, prepared_dir, base_dir)
    return Plan(recipe, hardware, _finetuning(recipe, hardware, folder, output_dir, prepared_dir, base_dir), base)


def with_plugin(plan: Plan, plugin: str) -> Plan:
    """The same plan with our own events plugin in each YAML: ``run`` has it, ``render`` has not."""

    def watched(config: Config) -> Config:
        values = {**config.values, "plugins": [*config.values.get("plugins", []), plugin]}
        origins = dict(config.origins)
        origins.setdefault("plugins", Origin("run", "reports exact steps and saves when asked to stop"))
        return Config(values, origins)

    return replace(plan, train=watched(plan.train), base=plan.base and watched(plan.base))


def _finetuning(
    recipe: Recipe, hardware: Hardware, folder: Path, output_dir: str, prepared_dir: str, base_dir: str
) -> Config:
    keys = _Keys()
    scratch = not isinstance(recipe.base, str)
    base = base_dir if scratch else resolve(str(recipe.base), folder)
    keys.put("base_model", base, Origin("recipe", "made by this run" if scratch else "", ("base",)))
    keys.put("load_in_4bit", True if recipe.method == "qlora" else None, Origin("recipe", "qlora", ("method",)))
    if recipe.method != "full":
        _put_lora(keys, recipe.method, recipe.lora)
    keys.put("chat_template", recipe.chat_template, _from(recipe, "chat_template"))
    _put_data(keys, recipe, folder, prepared_dir)
    _put_training(keys, recipe, recipe.train, hardware, ("train",))
    _put_speed(keys, recipe, hardware)
    _put_logging(keys, recipe.train)
    keys.put("output_dir", output_dir, Origin("run"))
    keys.overrule(recipe.axolotl, ("axolotl",))
    return keys.config()


def _pretraining(recipe: Recipe, folder: Path, prepared_dir: str, base_dir: str) -> Config:
    scratch = recipe.base
    assert not isinstance(scratch, str)  # noqa: S101 - narrows the type; make() has asked already
    keys = _Keys()
    made_here = Origin("recipe", "the base is pre-trained here", ("base",))
    keys.put("base_model", str(Path(base_dir) / "untrained"), made_here)
    keys.put("reinit_weights", True, Origin("default", "pre-training starts from random weights"))
    keys.put("chat_template", recipe.chat_template, _from(recipe, "chat_template"))
    keys.put("datasets", [_data(row, folder) for row in scratch.data], Origin("recipe", "", ("base", "data")))
    keys.put("val_set_size", 0.0, Origin("default", "a base is judged by what is made of it"))
    keys.put("dataset_prepared_path", prepared_dir, Origin("run"))
    # On the CPU everywhere: the same text gives the same few million weights, whatever the machine.
    _put_training(keys, recipe, scratch.train, CPU, ("base", "train"))
    _put_logging(keys, scratch.train, checkpoints=False)
    keys.put("output_dir", base_dir, Origin("run"))
    keys.overrule(scratch.axolotl, ("base", "axolotl"))
    return keys.config()


def _put_lora(keys: _Keys, method: str, lora: Lora) -> None:
    keys.put("adapter", method, Origin("recipe", "", ("method",)))
    for name, value in (("r", lora.r), ("alpha", lora.alpha), ("dropout", lora.dropout)):
        keys.put(f"lora_{name}", value, Origin("recipe", "", ("lora", name)))
    if lora.target_modules:
        keys.put("lora_target_modules", list(lora.target_modules), Origin("recipe", "", ("lora", "target_modules")))
    else:
        keys.put("lora_target_linear", True, Origin("default", "an adapter on every linear layer learns best"))


def _put_data(keys: _Keys, recipe: Recipe, folder: Path, prepared_dir: str) -> None:
    keys.put("datasets", [_data(row, folder) for row in recipe.data], Origin("recipe", "", ("data",)))
    if recipe.held_out:
        rows = [{**(row := _data(each, folder)), "split": row.get("split", "train")} for each in recipe.held_out]
        keys.put("test_datasets", rows, Origin("recipe", "", ("held_out",)))
    else:
        keys.put("val_set_size", recipe.val_set_size, _from(recipe, "val_set_size"))
    if recipe.train.sample_packing:
        # Axolotl packs what it evaluates too; a set that fills too few packs gives no loss at all.
        keys.put("eval_sample_packing", False, Origin("default", "held-out rows are scored one by one, however few"))
    keys.put("dataset_prepared_path", prepared_dir, Origin("run"))


def _put_training(keys: _Keys, recipe: Recipe, train: Train, hardware: Hardware, room: Keys) -> None:
    def recipe_or_default(name: str) -> Origin:
        key = (*room, name)
        return Origin("recipe" if key in recipe.document.lines else "default", "", key)

    for name in ("sequence_len", "sample_packing", "num_epochs", "max_steps"):
        keys.put(name, getattr(train, name), recipe_or_default(name))
    micro, accumulation, reason = batch(train, hardware.count)
    keys.put("micro_batch_size", micro, Origin("hardware", reason, (*room, "micro_batch_size")))
    keys.put("gradient_accumulation_steps", accumulation, Origin("hardware", reason, (*room, "global_batch_size")))
    for name in ("learning_rate", "lr_scheduler", "warmup_ratio", "warmup_steps", "weight_decay"):
        keys.put(name, getattr(train, name), recipe_or_default(name))
    keys.put("optimizer", train.optimizer or "adamw_torch_fused", recipe_or_default("optimizer"))
    _put_precision(keys, hardware)
    keys.put("gradient_checkpointing", *_checkpointing(train, hardware, recipe_or_default("gradient_checkpointing")))
    keys.put("seed", train.seed, recipe_or_default("seed"))


def batch(train: Train, gpus: int) -> tuple[int, int, str]:
    """Split the global batch: the largest micro-batch up to the recipe's own that divides each GPU's share.

    :raises RecipeError: the global batch cannot be split over that many GPUs.
    """
    processes = max(1, gpus)
    share, rest = divmod(train.global_batch_size, processes)
    if rest:
        fits = [n for n in range(1, train.global_batch_size + 1) if train.global_batch_size % n == 0][:6]
        raise RecipeError(
            f"train.global_batch_size: {train.global_batch_size} rows a step cannot be split over {processes} GPUs",
            f"use one of {fits} GPUs, or --set train.global_batch_size={share * processes or processes}",
        )
    micro = next(n for n in range(min(train.micro_batch_size or 1, share), 0, -1) if share % n == 0)
    accumulation = share // micro
    return (
        micro,
        accumulation,
        f"{micro} rows x {accumulation} passes x {processes} = {train.global_batch_size} a step",
    )


def _put_precision(keys: _Keys, hardware: Hardware) -> None:
    if hardware.kind is None:
        reason = "float32: a CPU is slower in 16 bit, and `auto` would pick fp16"
        for name in ("bf16", "fp16", "tf32"):
            keys.put(name, False, Origin("hardware", reason))
        return
    reason = f"{hardware.kind.name} {'multiplies' if hardware.kind.has_bf16 else 'has no'} bfloat16"
    keys.put("bf16", hardware.kind.has_bf16, Origin("hardware", reason))
    keys.put("fp16", not hardware.kind.has_bf16, Origin("hardware", reason))
    keys.put("tf32", hardware.kind.has_bf16, Origin("hardware", reason))


def _checkpointing(train: Train, hardware: Hardware, origin: Origin) -> tuple[bool, Origin]:
    if train.gradient_checkpointing is not None:
        return train.gradient_checkpointing, origin
    if hardware.kind is None:
        return False, Origin("hardware", "memory is not what a CPU is short of")
    return True, Origin("hardware", "recomputes activations: a quarter slower, several times smaller")


def _put_speed(keys: _Keys, recipe: Recipe, hardware: Hardware) -> None:
    kind = hardware.kind
    kernels = [f"lora_{part}_kernel" for part in ("mlp", "qkv", "o")] if recipe.method != "full" else []
    if kind is None:
        for name in kernels:
            keys.put(name, False, Origin("hardware", "Triton kernels need a GPU; Axolotl would switch them on"))
        return
    if kind.compute_capability >= 90:
        keys.put(
            "attn_implementation",
            "sdpa",
            Origin("hardware", "needs no extra package and packs well from sm_90 on"),
        )
    elif kind.has_bf16:
        reason = "packed rows in bfloat16 are only right with flash attention below sm_90"
        keys.put("attn_implementation", "flash_attention_2", Origin("hardware", reason))
    else:
        keys.put("attn_implementation", "sdpa", Origin("hardware", f"{kind.name} has no flash attention"))
        keys.put(
            "sample_packing",
            False,
            Origin("hardware", f"{kind.name} has no flash attention to keep packed rows apart"),
        )
    for name in kernels:
        keys.put(name, kind.has_bf16, Origin("hardware", "fused LoRA kernels: faster and smaller"))
    fused = Origin("hardware", "fused kernels and loss: the logits of a 128k vocabulary never exist in memory")
    keys.put("plugins", [_LIGER], fused)
    for name in ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_fused_linear_cross_entropy"):
        keys.put(name, True, fused)


def _put_logging(keys: _Keys, train: Train, *, checkpoints: bool = True) -> None:
    def given_or_default(value: Any) -> Origin:
        return Origin("default" if value is None else "recipe")

    keys.put("logging_steps", train.logging_steps or 1, given_or_default(train.logging_steps))
    keys.put("include_tkps", True, Origin("default", "tokens per second in the log"))
    if "val_set_size" in keys.values or "test_datasets" in keys.values:
        keys.put("evals_per_epoch", train.evals_per_epoch or 1, given_or_default(train.evals_per_epoch))
    if not checkpoints:
        keys.put("save_strategy", "no", Origin("default", "a base this small is made anew, not resumed"))
        return
    keys.put("saves_per_epoch", train.saves_per_epoch or 1, given_or_default(train.saves_per_epoch))
    keys.put("save_total_limit", 2, Origin("default", "the newest checkpoint, and one in case it is torn"))


def _from(recipe: Recipe, name: str) -> Origin:
    return Origin("recipe" if (name,) in recipe.document.lines else "default", "", (name,))


def _data(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    path = resolve(str(row["path"]), folder)
    suffix = Path(path).suffix
    kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}.get(suffix)
    # Told a bare file, Axolotl asks the hub for a data set of that name first.
    extra = {"ds_type": kind} if kind and Path(path).is_absolute() else {}
    return {"path": path, **extra, **{key: value for key, value in row.items() if key != "path"}}
