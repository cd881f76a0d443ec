"""Axolotl's keys to what a training does with memory and time, Axolotl 0.19's own defaults filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware

LIGER = "axolotl.integrations.liger.LigerPlugin"

# Optimizers whose state is known: bytes for each trained parameter, where the parameter has 4 bytes and where it has 2.
# torch keeps its state in the parameter's own precision, bitsandbytes in 4 bytes, or in 1 with a scale for each 256.
OPTIMIZERS: dict[str, tuple[float, float]] = {
    "adamw_torch_fused": (8, 4),
    "adamw_torch": (8, 4),
    "adamw_hf": (8, 4),
    "adamw_bnb_8bit": (2.03, 2.03),
    "adamw_8bit": (2.03, 2.03),
    "adamw_torch_8bit": (2.06, 2.06),
    "paged_adamw_8bit": (0, 0),  # paged state lies in managed memory, which no allocator of torch sees
    "paged_adamw_32bit": (0, 0),
    "paged_lion_8bit": (0, 0),
    "paged_lion_32bit": (0, 0),
    "lion_8bit": (1.016, 1.016),
    "lion_32bit": (4, 4),
    "sgd": (0, 0),
}
UNMEASURED = "counted, not measured"
_MEASURED_LAYOUTS = frozenset(["single", "ddp", "fsdp", "zero3"])
# Where each row is a chosen and a rejected answer, both of which go through the model at once (trl 1.9).
_PAIRED = ("dpo", "ipo", "orpo", "simpo")
_EVALS = ("evals_per_epoch", "eval_steps", "eval_strategy")
# Keys with which a training is another one than those that were measured or counted.
_ELSEWHERE = (
    "activation_offloading", "fp8", "layer_offloading", "load_in_8bit", "lora_modules_to_save",
    "lora_target_parameters", "peft_use_dora", "relora", "reward_model", "rl", "selective_checkpointing", "streaming",
    "tiled_mlp", "torch_compile", "unfrozen_parameters",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """One training as it uses a GPU. Lengths are in tokens; ``bytes`` is the width of the model's numbers.

    ``row`` is the longest row of a micro-batch, ``slots`` the tokens of one, padding counted. ``layout`` is ``single``,
    ``ddp``, ``fsdp``, ``zero1``, ``zero2`` or ``zero3``; ``synchronised``: gradients are spread after each micro-batch;
    ``loss`` is ``plain``, ``liger`` (never all logits at once in training), ``liger-logits`` or ``cut``; ``attention``
    says what it keeps: ``grouped`` keys, ``repeated`` ones, or a ``mask`` too. ``wide_embeddings``: embeddings, head
    and norms, and with them the hidden states between the layers, have 4 bytes beside linear modules of 2.
    ``capability`` is the GPU's CUDA compute capability times ten, 0 for the CPU. ``outside`` lists why the memory model
    has not been validated for this training.
    """

    method: str
    gpus: int
    layout: str
    micro_batch: int
    accumulation: int
    synchronised: bool
    row: int
    slots: int
    eval_slots: int
    packed: bool
    checkpointing: bool
    mlp_kernel: bool
    attention_kernel: bool
    liger_rope: bool
    liger_norm: bool
    liger_glu: bool
    loss: str
    attention: str
    optimizer: str
    dropout: bool
    rank: int
    targets: tuple[str, ...]
    double_quant: bool
    bytes: int
    wide_embeddings: bool
    capability: int
    outside: tuple[str, ...]


def resolve(
    keys: Mapping[str, Any], hardware: Hardware, shape: Shape, longest: int | None = None, folder: Path = Path()
) -> Settings:
    """Read what the Axolotl keys mean on ``hardware``.

    :raises RecipeError: the DeepSpeed file is no JSON.
    :param longest: the longest row of the data, where it is known: without packing or padding no row is longer.
    :param folder: where the path of a DeepSpeed file starts.
    """
    gpus = hardware.ranks
    layout = _layout(keys, gpus, folder)
    method = str(keys.get("adapter") or "full")
    packed = bool(keys.get("sample_packing"))
    micro = int(keys.get("micro_batch_size") or 1)
    answers = 2 if keys.get("rl") in _PAIRED else 1
    row = _row(keys, packed, longest)
    kernels = _kernels(keys, method, hardware, shape, layout)
    loss = _loss(keys)
    attention = _attention(keys, shape, packed, hardware)
    return Settings(
        method=method,
        gpus=gpus,
        layout=layout,
        micro_batch=micro,
        accumulation=_accumulation(keys, micro),
        synchronised=_synchronised(keys),
        row=micro * row if packed else row,
        slots=micro * row * answers,
        eval_slots=_eval_rows(keys, micro) * row * answers,
        packed=packed,
        checkpointing=bool(keys.get("gradient_checkpointing")),
        mlp_kernel=kernels and keys.get("lora_mlp_kernel") is not False,
        attention_kernel=kernels and keys.get("lora_qkv_kernel") is not False,
        liger_rope=bool(keys.get("liger_rope")),
        liger_norm=bool(keys.get("liger_rms_norm")),
        liger_glu=bool(keys.get("liger_glu_activation")),
        loss=loss,
        attention=attention,
        optimizer=str(keys.get("optimizer") or "adamw_torch_fused"),
        dropout=method != "full" and float(keys.get("lora_dropout") or 0) > 0,
        rank=int(keys.get("lora_r") or 8) if method != "full" else 0,
        targets=_targets(keys, shape) if method != "full" else (),
        double_quant=(keys.get("bnb_config_kwargs") or {}).get("bnb_4bit_use_double_quant", True) is not False,
        bytes=_bytes(keys, hardware),
        wide_embeddings=_wide_embeddings(keys, method, layout, loss, hardware),
        capability=hardware.kind.compute_capability if hardware.kind else 0,
        outside=_outside(keys, hardware, shape, attention, layout),
    )


def _layout(keys: Mapping[str, Any], gpus: int, folder: Path) -> str:
    if gpus == 1:
        return "single"
    if keys.get("fsdp_config") or keys.get("fsdp"):
        return "fsdp"
    return f"zero{_zero_stage(keys['deepspeed'], folder)}" if keys.get("deepspeed") else "ddp"


def _zero_stage(deepspeed: Any, folder: Path) -> int:
    """The stage in a DeepSpeed config: its value, its file, or (deepspeed_configs/zero3_bf16.json) its file's name."""
    if isinstance(deepspeed, str):
        named = re.search(r"zero_?([123])", deepspeed)
        path = folder / deepspeed
        if not path.is_file():
            return int(named[1]) if named else 2
        try:
            deepspeed = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecipeError(f"{path}: no JSON: {error}", "deepspeed: names a DeepSpeed config file") from error
    return int((deepspeed.get("zero_optimization") or {}).get("stage") or 0) or 1


def _accumulation(keys: Mapping[str, Any], micro: int) -> int:
    given = keys.get("gradient_accumulation_steps")
    return int(given) if given else max(1, int(keys.get("batch_size") or micro) // micro)


def _synchronised(keys: Mapping[str, Any]) -> bool:
    accumulates = (keys.get("accelerator_config") or {}).get("gradient_accumulation_kwargs") or {}
    return bool(accumulates.get("sync_each_batch"))


def _row(keys: Mapping[str, Any], packed: bool, longest: int | None) -> int:
    """How long a row gets: padded to sequence_len, or to 64 tokens (Axolotl 0.19, core/builders/causal.py)."""
    full = int(keys.get("sequence_len") or 512)
    multiple = int(keys.get("pad_to_multiple_of") or 64)
    if packed and keys.get("pad_to_sequence_len") is False:
        return full
    if packed or keys.get("pad_to_sequence_len") or longest is None:
        return multiple * ceil(full / multiple)
    return multiple * ceil(min(full, max(1, longest)) / multiple)


def _eval_rows(keys: Mapping[str, Any], micro: int) -> int:
    """Rows of an evaluation's micro-batch, none where there is no evaluation."""
    has_rows = bool(keys.get("val_set_size") or keys.get("test_datasets"))
    if not has_rows or keys.get("eval_strategy") == "no" or not any(keys.get(key) for key in _EVALS):
        return 0
    return int(keys.get("eval_batch_size") or micro)


def _kernels(keys: Mapping[str, Any], method: str, hardware: Hardware, shape: Shape, layout: str) -> bool:
    """Whether Axolotl's LoRA kernels run: asked for, or left open where 0.19 switches them on by itself."""
    names = [f"lora_{part}_kernel" for part in ("mlp", "qkv", "o", "embedding")]
    asked = [keys.get(name) for name in names]
    if method not in {"lora", "qlora"} or hardware.kind is None or shape.kind == "phi3":
        return False
    if any(value is not None for value in asked):
        return any(asked)
    fsdp1 = layout == "fsdp" and str(keys.get("fsdp_version", "")) != "2"
    return not (fsdp1 or keys.get("load_in_8bit") or keys.get("rl") or keys.get("trust_remote_code"))


def _loss(keys: Mapping[str, Any]) -> str:
    plugins = [str(plugin) for plugin in keys.get("plugins") or ()]
    if any("CutCrossEntropy" in plugin for plugin in plugins) and keys.get("cut_cross_entropy") is not False:
        return "cut"
    if any("Liger" in plugin for plugin in plugins):
        if keys.get("liger_fused_linear_cross_entropy"):
            return "liger"
        if keys.get("liger_cross_entropy"):
            return "liger-logits"
    return "plain"


def _attention(keys: Mapping[str, Any], shape: Shape, packed: bool, hardware: Hardware) -> str:
    name = str(keys.get("attn_implementation") or _old_attention(keys) or "sdpa").split(":")[0].split("@")[0]
    if name == "eager" or hardware.kind is None:
        return "mask"
    if name != "sdpa":
        return "grouped"
    # Axolotl 0.19 runs packed rows through torch's varlen_attn and repeats the keys for every query (sdpa_varlen.py);
    # rows with padding need a mask, with which transformers 5 repeats them too (integrations/sdpa_attention.py).
    varlen = packed and keys.get("sdpa_varlen") is not False and not shape.sliding_window and shape.head_dim <= 256
    return "repeated" if varlen else "mask"


def _old_attention(keys: Mapping[str, Any]) -> str | None:
    old = {"flash_attention": "flash_attention_2", "flex_attention": "flex_attention", "eager_attention": "eager"}
    return next((name for key, name in old.items() if keys.get(key)), None)


def _targets(keys: Mapping[str, Any], shape: Shape) -> tuple[str, ...]:
    wanted = keys.get("lora_target_modules")
    if keys.get("lora_target_linear") or not wanted or wanted == "all-linear":
        return tuple(shape.linears)
    if isinstance(wanted, str):
        return tuple(name for name in shape.linears if any(re.fullmatch(wanted, path) for path in _paths(name)))
    return tuple(name for name in shape.linears if any(str(each).endswith(name) for each in wanted))


def _paths(name: str) -> tuple[str, ...]:
    """What a linear module of the first layer may be called as a whole, which is what PEFT holds a pattern against."""
    part = "mlp" if name in {"gate_proj", "up_proj", "gate_up_proj", "down_proj"} else "self_attn"
    return name, *(
        f"{root}.layers.0.{part}.{name}" for root in ("model", "model.language_model", "language_model.model")
    )


def _bytes(keys: Mapping[str, Any], hardware: Hardware) -> int:
    if hardware.kind is None:
        return 4
    halves = [keys.get(key) for key in ("bf16", "fp16", "bfloat16", "float16")]
    return 2 if any(halves) else 4


def _wide_embeddings(keys: Mapping[str, Any], method: str, layout: str, loss: str, hardware: Hardware) -> bool:
    """Whether embeddings, head and norms stay as wide as Axolotl 0.19 makes them on loading.

    It narrows them again for an adapter, for flash attention and for cut cross entropy (loaders/model.py,
    _configure_embedding_dtypes); FSDP and DeepSpeed have one width for all.
    """
    if method != "full" or layout not in {"single", "ddp"} or loss == "cut" or _bytes(keys, hardware) == 4:
        return False
    return str(keys.get("attn_implementation") or _old_attention(keys) or "sdpa") in {"sdpa", "eager"}


def _outside(keys: Mapping[str, Any], hardware: Hardware, shape: Shape, attention: str, layout: str) -> tuple[str, ...]:
    found = [shape.outside] if shape.outside else []
    if layout not in _MEASURED_LAYOUTS:
        found.append(f"{layout}: {UNMEASURED}")
    found += [key for key in _ELSEWHERE if keys.get(key) not in (None, False, "auto", [])]
    found += [key for key in ("context_parallel_size", "tensor_parallel_size") if int(keys.get(key) or 1) > 1]
    if hardware.kind is None:
        found.append("the CPU")
    if str(keys.get("optimizer") or "adamw_torch_fused") not in OPTIMIZERS:
        found.append(f"optimizer: {keys['optimizer']}")
    if attention == "mask" and str(keys.get("attn_implementation")) == "eager":
        found.append("attn_implementation: eager")
    return tuple(found)
