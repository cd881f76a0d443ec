"""What the hardware decides of what a recipe leaves open: precision, kernels, and by memory and speed all the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.forecast import choose
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.choose import BATCH, CHECKPOINTING, LAYOUT, OPTIMIZER, Choice, Option
from ax_recipe.forecast.hardware import GpuKind, Hardware
from ax_recipe.forecast.settings import LIGER, UNMEASURED, resolve
from ax_recipe.recipe.recipe import Train

_FULL_PRECISION, _NARROW = "adamw_torch_fused", "adamw_8bit"
# Packages without which the plan is another one.
OPTIONAL = ("flash-attn", "liger-kernel")
KERNEL = "flash-attn's kernel of the hub"  # what transformers 5 takes in its place; it has to be fetched
# The keys that say who holds the weights; a recipe that has one has decided it.
LAYOUTS = frozenset(["fsdp", "fsdp_config", "fsdp_version", "deepspeed", "tensor_parallel_size", "dp_shard_size"])


@dataclass(frozen=True, slots=True)
class Decision:
    """One Axolotl key, its value and why; ``source``: ``recipe`` if it says it, else ``hardware`` or ``default``."""

    key: str
    value: Any
    reason: str
    source: str = "hardware"


@dataclass(frozen=True, slots=True)
class Decided:
    """All decisions; ``choice`` is how memory and speed were weighed, or None, and then ``careful`` says why not."""

    decisions: tuple[Decision, ...]
    choice: Choice | None
    careful: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be trained: ``keys`` are decided already, ``raw`` (Axolotl's own, of the recipe) win over all.

    ``shape`` is None where the model is not known here. ``insists``: the recipe itself says whether to pack.
    ``missing`` are those of ``OPTIONAL``, and ``KERNEL``, that the training environment is known not to have.
    """

    train: Train
    method: str
    keys: Mapping[str, Any]
    raw: Mapping[str, Any]
    shape: Shape | None
    insists: bool = False
    missing: frozenset[str] = frozenset()


def decide(wish: Wish, hardware: Hardware) -> Decided:
    """Decide what is open.

    :raises RecipeError: the global batch cannot be split over the GPUs.
    """
    ruled = [*_precision(hardware), *_packing(wish, hardware), *_kernels(wish, hardware)]
    keys = {**wish.keys, **{each.key: each.value for each in ruled}, **wish.raw}
    ruled += _evaluation(keys, hardware)
    keys |= {each.key: each.value for each in ruled if each.key not in wish.raw}
    careful = _careful(wish, keys, hardware)
    if careful or wish.shape is None:
        return Decided((*ruled, *_carefully(wish, hardware, careful)), None, careful)
    questions = _questions(wish, hardware, wish.shape)
    choice = choose.choose(keys, questions, hardware, wish.shape)
    return Decided((*ruled, *_chosen(wish, hardware, choice)), choice, "")


def share(train: Train, gpus: int) -> int:
    """How many rows of a step each GPU takes.

    :raises RecipeError: the global batch cannot be split over that many GPUs.
    """
    processes = max(1, gpus)
    each, rest = divmod(train.global_batch_size, processes)
    if rest:
        fits = [n for n in range(1, train.global_batch_size + 1) if train.global_batch_size % n == 0][:6]
        raise RecipeError(
            f"train.global_batch_size: {train.global_batch_size} rows a step cannot be split over {processes} GPUs",
            f"use one of {fits} GPUs, or --set train.global_batch_size={each * processes or processes}",
        )
    return each


def batch(train: Train, gpus: int) -> Option:
    """Split the global batch by the recipe's own micro-batch: the largest up to it that divides each GPU's share.

    :raises RecipeError: the global batch cannot be split over that many GPUs.
    """
    rows = share(train, gpus)
    micro = next(n for n in range(min(train.micro_batch_size or 1, rows), 0, -1) if rows % n == 0)
    return choose.split(micro, rows // micro)


def _precision(hardware: Hardware) -> Iterator[Decision]:
    if hardware.kind is None:
        reason = "float32: a CPU is slower in 16 bit, and `auto` would pick fp16"
        yield from (Decision(name, False, reason) for name in ("bf16", "fp16", "tf32"))
        if hardware.ranks > 1:  # else Axolotl 0.19 puts the model on the GPU that has its rank's number
            yield Decision("max_memory", {"cpu": "1000GiB"}, "several processes, and each on its CPU")
        return
    new = hardware.kind.has_bf16
    reason = f"{hardware.kind.name} {'multiplies' if new else 'has no'} bfloat16"
    yield from (Decision(name, value, reason) for name, value in (("bf16", new), ("fp16", not new), ("tf32", new)))


def _packing(wish: Wish, hardware: Hardware) -> Iterator[Decision]:
    kind = hardware.kind
    if wish.insists or not wish.keys.get("sample_packing") or (kind and kind.has_bf16):
        return
    name = kind.name if kind else "a CPU"
    yield Decision("sample_packing", False, f"{name} has no flash attention to keep packed rows apart")


def _kernels(wish: Wish, hardware: Hardware) -> Iterator[Decision]:
    kernels = [f"lora_{part}_kernel" for part in ("mlp", "qkv", "o")] if wish.method != "full" else []
    if hardware.kind is None:
        reason = "Triton kernels need a GPU; Axolotl would switch them on"
        yield from (Decision(name, False, reason) for name in kernels)
        return
    yield _attention(wish, hardware.kind)
    paired = "rl" in wish.keys
    if not paired:  # Axolotl 0.19 has not tried them on pairs
        joined = wish.shape is not None and wish.shape.kind == "phi3"
        reason = "fused LoRA kernels: faster and smaller"
        if joined:
            reason = "queries, keys and values are one matrix, and Axolotl 0.19's LoRA kernels fail on it"
        yield from (Decision(name, hardware.kind.has_bf16 and not joined, reason) for name in kernels)
    if "liger-kernel" in wish.missing:
        return
    reason = "fused kernels and loss: the logits of a 128k vocabulary never exist in memory"
    yield Decision("plugins", [LIGER], reason)
    yield from (Decision(f"liger_{part}", True, reason) for part in ("rope", "rms_norm", "glu_activation"))
    if not paired:  # whose losses are made from logits
        yield Decision("liger_fused_linear_cross_entropy", True, reason)


def _attention(wish: Wish, kind: GpuKind) -> Decision:
    if kind.compute_capability >= 90:
        return Decision("attn_implementation", "sdpa", "needs no extra package and packs well from sm_90 on")
    if KERNEL in wish.missing:
        packs = {**wish.keys, **wish.raw}.get("sample_packing")
        reason = "flash-attn is not installed, and its kernel cannot be fetched from the hub; torch's own"
        more = " keeps packed rows apart, and compiles at the first step" if packs else " needs no package"
        return Decision("attn_implementation", "flex_attention" if packs else "sdpa", reason + more)
    if kind.has_bf16:
        reason = "packed rows in bfloat16 are only right with flash attention below sm_90"
        if "flash-attn" in wish.missing:
            reason += "; flash-attn is not installed here, and without it Axolotl fetches a kernel from the hub"
        return Decision("attn_implementation", "flash_attention_2", reason)
    return Decision("attn_implementation", "sdpa", f"{kind.name} has no flash attention")


def _evaluation(keys: Mapping[str, Any], hardware: Hardware) -> list[Decision]:
    evaluates = bool(keys.get("val_set_size") or keys.get("test_datasets"))
    if hardware.kind is None or not evaluates or not keys.get("liger_fused_linear_cross_entropy"):
        return []
    reason = "the fused loss is training's alone: an evaluation makes all logits of its rows"
    return [Decision("eval_batch_size", 1, reason)]


def _careful(wish: Wish, keys: Mapping[str, Any], hardware: Hardware) -> str:
    """Why memory and speed are not foretold here; empty where they are."""
    if hardware.kind is None:
        return "the CPU"
    if wish.shape is None:
        return f"the shape of {keys.get('base_model')} is not known here"
    found = resolve({**keys, "optimizer": _FULL_PRECISION}, hardware, wish.shape).outside
    found = tuple(words for words in found if not words.endswith(UNMEASURED))
    return f"outside the validated model: {', '.join(found)}" if found else ""


def _carefully(wish: Wish, hardware: Hardware, why: str) -> Iterator[Decision]:
    """Small micro-batches that recompute: what fits wherever anything does."""
    train, split = wish.train, batch(wish.train, hardware.ranks)
    careful = f"; careful: {why}" if hardware.kind else ""
    for key, value in split.keys.items():
        source = "recipe" if key == "micro_batch_size" and value == train.micro_batch_size else "hardware"
        yield Decision(key, value, f"{_arithmetic(train, split, hardware)}{careful}", source)
    if train.gradient_checkpointing is not None:
        yield Decision(CHECKPOINTING, train.gradient_checkpointing, "", "recipe")
    elif hardware.kind is None:
        yield Decision(CHECKPOINTING, False, "memory is not what a CPU is short of")
    else:
        yield Decision(CHECKPOINTING, True, f"recomputes: a quarter slower, several times smaller{careful}")
    yield Decision(OPTIMIZER, train.optimizer or _FULL_PRECISION, "", "recipe" if train.optimizer else "default")


def _arithmetic(train: Train, split: Option, hardware: Hardware) -> str:
    return f"{split.words} x {hardware.ranks} = {train.global_batch_size} a step"


def _questions(wish: Wish, hardware: Hardware, shape: Shape) -> dict[str, list[Option]]:
    train, raw = wish.train, wish.raw
    checkpointing = [train.gradient_checkpointing] if train.gradient_checkpointing is not None else [False, True]
    optimizers = [train.optimizer] if train.optimizer else [_FULL_PRECISION, _NARROW]
    return {
        BATCH: _splits(wish, hardware),
        CHECKPOINTING: _options(CHECKPOINTING, checkpointing, raw),
        LAYOUT: list(_layouts(wish, hardware, shape)),
        OPTIMIZER: _options(OPTIMIZER, optimizers, raw),
    }


def _options(key: str, values: list[Any], raw: Mapping[str, Any]) -> list[Option]:
    found = [raw[key]] if key in raw else values
    words = {False: "no checkpointing", True: "checkpointing"} if key == CHECKPOINTING else {}
    return [Option(words.get(value, str(value)), {key: value}) for value in found]


def _splits(wish: Wish, hardware: Hardware) -> list[Option]:
    rows = share(wish.train, hardware.ranks)
    micro, passes = (int(wish.raw.get(key) or 0) for key in ("micro_batch_size", "gradient_accumulation_steps"))
    if micro or passes:
        micro = micro or max(1, rows // passes)
        return [choose.split(micro, passes or max(1, rows // micro))]
    return [batch(wish.train, hardware.ranks)] if wish.train.micro_batch_size else choose.splits(rows)


def _layouts(wish: Wish, hardware: Hardware, shape: Shape) -> Iterator[Option]:
    whole = "whole on each GPU" if hardware.ranks > 1 else ""
    yield Option(whole, {})
    optimizer = str(wish.raw.get(OPTIMIZER) or wish.train.optimizer or _FULL_PRECISION)
    keys = choose.spread(shape, wish.method)
    several = hardware.kind and hardware.kind.has_bf16 and hardware.ranks > 1  # in fp16 nobody has tried it
    if several and keys and not LAYOUTS & wish.raw.keys() and optimizer.startswith("adamw_torch"):
        yield Option("spread by FSDP 2", keys)


def _chosen(wish: Wish, hardware: Hardware, choice: Choice) -> Iterator[Decision]:
    """The best candidate's keys, each with what came next."""
    best, train = choice.best, wish.train
    foretold = f"the best that fits, {choose.figures(best)} foretold"
    if not best.fits:
        foretold = f"nothing fits with room to spare: the smallest, {choose.figures(best)} foretold, {best.verdict}"
    reasons = {
        "micro_batch_size": f"{_arithmetic(train, best.picked[BATCH], hardware)}; {foretold}",
        "gradient_accumulation_steps": choice.reason(BATCH),
        CHECKPOINTING: choice.reason(CHECKPOINTING),
        OPTIMIZER: choice.reason(OPTIMIZER),
        "accelerator_config": "gradients are spread after each micro-batch, never whole on one GPU",
    }
    spread = f"{choice.whole_gib:.0f} GiB of weights and optimizer are rather spread; {choice.reason(LAYOUT)}"
    asked = [key for key in ("micro_batch_size", CHECKPOINTING, OPTIMIZER) if getattr(train, key) is not None]
    for key, value in best.keys.items():
        source = "recipe" if key in asked else "hardware"
        yield Decision(key, value, reasons.get(key, spread), source)
