"""What the target hardware, or what is installed for it, cannot do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ax_recipe.checks.subject import ADAPTERS, Subject, names_a_file
from ax_recipe.errors import Problem, Severity
from ax_recipe.forecast.hardware import is_here
from ax_recipe.plan.decide import KERNEL
from ax_recipe.run import preparing

# Attention that keeps packed rows apart (Axolotl 0.19, utils/schemas/enums.py); what has a slash is a hub kernel.
_PACKS = frozenset(
    [
        "flash_attention_2",
        "flash_attention_3",
        "flash_attention_4",
        "flash_attention_torch",
        "flex_attention",
        "xformers",
    ]
) | {"sage"}
_OLD = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "flex_attention": "flex_attention",
    "xformers_attention": "xformers",
    "eager_attention": "eager",
    "sage_attention": "sage",
}
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")


def attention(subject: Subject) -> str | None:
    """The attention that is asked for, old spellings included; None where it is left to Axolotl."""
    named = subject.text("attn_implementation")
    return named or next((new for old, new in _OLD.items() if subject.on(old)), None)


def _attention_key(subject: Subject) -> str:
    keys = ("attn_implementation", *_OLD)
    return next((key for key in keys if subject.keys.get(key)), "sample_packing")


def _set(subject: Subject, name: str) -> str:
    return subject.setting("attn_implementation", name)


def _apart(subject: Subject) -> str:
    """What keeps packed rows apart on this hardware, with what is installed for it."""
    kind, unpacked = subject.hardware.kind, subject.setting("sample_packing", False)
    if kind is None or not kind.has_bf16:
        return f"{unpacked}."
    lacks = preparing.missing(subject.axolotl, subject.hardware)
    return f"{_set(subject, 'flex_attention' if KERNEL in lacks else 'flash_attention_2')}, or {unpacked}."


def _without_packages(subject: Subject) -> str:
    """Attention of torch's own: sdpa, unless that mixes packed rows."""
    kind = subject.hardware.kind
    mixes = subject.on("sample_packing") and kind and kind.compute_capability < 90 and not subject.on("fp16")
    return _set(subject, "flex_attention" if mixes else "sdpa")


def packing(subject: Subject) -> Iterator[Problem]:
    """AX041: packed rows that read each other."""
    if not subject.on("sample_packing"):
        return
    named, kind = attention(subject), subject.hardware.kind
    key, fix = _attention_key(subject), _apart(subject)
    if named in _PACKS or (named and "/" in named):
        return
    if named in {"eager", "fp8"}:
        yield subject.problem("AX041", key, f"{named} does not keep packed rows apart", fix)
    elif kind is None:
        message = "on the CPU packed rows are not kept apart"
        yield subject.problem("AX041", "sample_packing", message, fix, "warning")
    elif kind.compute_capability < 90 and not subject.on("fp16"):
        words = f"{named or 'sdpa, the default,'} with packing in bfloat16 can give a loss of 0 on {kind.name}"
        yield subject.problem("AX041", key, words, fix, "error" if named else "warning")
    elif named is None:
        message = "no attention is named; sdpa keeps packed rows apart with torch 2.10 or newer only"
        yield subject.problem("AX041", "sample_packing", message, fix, "warning")


def packages(subject: Subject) -> Iterator[Problem]:
    """AX042: what is asked for and not installed."""
    if subject.axolotl is None:
        return
    where = subject.axolotl.command.parents[1]
    for key, name, fix in _needed(subject):
        if subject.package(name) is False:
            yield subject.problem("AX042", key, f"{name} is not installed in {where}", fix, _missing(subject, name))
    flash = attention(subject) in {"flash_attention_2", "flash_attention_3"}
    if flash and subject.package("flash-attn") is False and subject.hardware.count:
        lost = KERNEL in preparing.missing(subject.axolotl, subject.hardware)
        instead = "its kernel cannot be fetched from the hub" if lost else "a kernel of the hub takes its place"
        fix = f"pip install flash-attn --no-build-isolation, or {_without_packages(subject)}"
        message = f"flash-attn is not installed in {where}; {instead}"
        yield subject.problem("AX042", _attention_key(subject), message, fix, "error" if lost else "warning")


def _missing(subject: Subject, name: str) -> Severity:
    """A plugin is skipped in silence; the rest, or all of it, may be installed where the training is to run."""
    return "error" if name in {"cut-cross-entropy", "liger-kernel"} and is_here(subject.hardware) else "warning"


def _needed(subject: Subject) -> Iterator[tuple[str, str, str]]:
    """Each key that needs a package, the package, and what to do without it."""
    if subject.has_plugin("CutCrossEntropyPlugin"):
        yield (
            "plugins",
            "cut-cross-entropy",
            "Axolotl's fork of it; or LigerPlugin with liger_fused_linear_cross_entropy: true.",
        )
    if subject.has_plugin("LigerPlugin"):
        yield "plugins", "liger-kernel", "pip install liger-kernel"
    if subject.keys.get("deepspeed"):
        yield "deepspeed", "deepspeed", "pip install deepspeed; or fsdp_config with fsdp_version: 2."
    optimizer = str(subject.keys.get("optimizer") or "")
    if subject.on("load_in_4bit") or subject.on("load_in_8bit"):
        yield (
            "load_in_4bit" if subject.on("load_in_4bit") else "load_in_8bit",
            "bitsandbytes",
            "pip install bitsandbytes",
        )
    elif "bnb" in optimizer or re.fullmatch(r"(paged_)?(adamw|lion)_(8|32)bit", optimizer):
        yield "optimizer", "bitsandbytes", "optimizer: adamw_torch_fused"
    if (subject.number("context_parallel_size") or 1) > 1:
        yield "context_parallel_size", "ring-flash-attn", "pip install 'axolotl[ring-flash-attn]'"


def precision(subject: Subject) -> Iterator[Problem]:
    """AX043: number formats and attention that the target GPU does not have."""
    kind = subject.hardware.kind
    if kind is None:
        return
    if not kind.has_bf16:
        for key in ("bf16", "bfloat16"):
            if subject.on(key) or subject.keys.get(key) == "full":
                yield subject.problem("AX043", key, f"{kind.name} has no bfloat16", "bf16: false, fp16: true")
        if (named := attention(subject)) in {"flash_attention_2", "flash_attention_3"}:
            yield subject.problem(
                "AX043",
                _attention_key(subject),
                f"{named} needs an Ampere GPU or newer, {kind.name} is older",
                _set(subject, "sdpa"),
            )
    if subject.on("fp8") and kind.compute_capability < 89:
        yield subject.problem("AX043", "fp8", f"{kind.name} has no fp8", "Remove it.")
    if attention(subject) == "flash_attention_3" and kind.compute_capability != 90 and kind.has_bf16:
        yield subject.problem(
            "AX043",
            _attention_key(subject),
            f"flash_attention_3 is for Hopper, {kind.name} is none",
            _without_packages(subject),
        )


def cpu(subject: Subject) -> Iterator[Problem]:
    """AX044, AX047: what a CPU cannot, or hardly."""
    if subject.hardware.kind is not None:
        return
    for key in ("bf16", "bfloat16", "fp8"):
        if subject.on(key):
            yield subject.problem("AX044", key, "the CPU cannot train in it", f"{key}: false")
    if subject.keys.get("bf16") == "auto" and not subject.on("fp16"):
        yield subject.problem(
            "AX044", "bf16", "auto is float16 on a CPU: half as fast", "bf16: false, fp16: false", "warning"
        )
    named = attention(subject)
    if named and ("flash" in named or named in {"xformers", "sage"}):
        yield subject.problem("AX044", _attention_key(subject), f"{named} needs a GPU", _set(subject, "sdpa"))
    for index, plugin in enumerate(subject.list("plugins")):
        if re.search("LigerPlugin|CutCrossEntropyPlugin", str(plugin)):
            yield subject.problem("AX044", ("plugins", index), "its Triton kernels need a GPU", "Remove it on the CPU.")
    yield from _kernels(subject)
    if subject.on("load_in_4bit"):
        yield from _four_bit(subject)


def _kernels(subject: Subject) -> Iterator[Problem]:
    """Axolotl 0.19 switches the LoRA kernels on where they are left open, on a CPU too."""
    if (
        subject.adapter not in ADAPTERS
        or subject.on("load_in_8bit")
        or subject.on("trust_remote_code")
        or subject.keys.get("rl")
    ):
        return
    open_ = [key for key in _KERNELS if subject.keys.get(key) is None]
    for key in [key for key in _KERNELS if subject.on(key)] or (["adapter"] if len(open_) == len(_KERNELS) else []):
        message = (
            "Triton kernels need a GPU"
            if key != "adapter"
            else "Axolotl switches its Triton kernels on by itself, and they need a GPU"
        )
        yield subject.problem("AX044", key, message, ", ".join(f"{each}: false" for each in _KERNELS))


def _four_bit(subject: Subject) -> Iterator[Problem]:
    fix = "method: lora" if subject.of_recipe else "adapter: lora, without load_in_4bit."
    shape = subject.shape()
    odd = (
        sorted({name for name, (wide, _) in shape.linears.items() if wide % 64}) if shape and not shape.outside else []
    )
    if odd:
        message = f"bitsandbytes on a CPU fails with the width of {', '.join(odd)}, no multiple of 64"
        yield subject.problem("AX047", "load_in_4bit", message, fix)
    else:
        message = "4 bit on a CPU is slower than float32, and saves little"
        yield subject.problem("AX047", "load_in_4bit", message, fix, "warning")


def spreading(subject: Subject) -> Iterator[Problem]:
    """AX045, AX046, AX012: DeepSpeed and FSDP."""
    deep, fsdp = (
        subject.keys.get("deepspeed"),
        next((key for key in ("fsdp_config", "fsdp") if subject.keys.get(key)), None),
    )
    if deep and fsdp:
        yield subject.problem("AX045", "deepspeed", f"`{fsdp}` spreads the weights as well", "Keep one of the two.")
    if (
        isinstance(deep, str)
        and names_a_file(deep)
        and not Path(deep).exists()
        and not (subject.folder / deep).exists()
    ):
        fix = "`axolotl fetch deepspeed_configs` writes Axolotl's own here."
        yield subject.problem("AX012", "deepspeed", f"no such file: {deep}", fix)
    if deep and subject.hardware.count <= 1:
        yield subject.problem(
            "AX046", "deepspeed", f"nothing to spread over on {subject.hardware}", "Remove it, or --gpus 4.", "warning"
        )


def plugins(subject: Subject) -> Iterator[Problem]:
    """AX052: Liger without one of its keys."""
    if subject.has_plugin("LigerPlugin") and not any(
        str(key).startswith("liger_") and value for key, value in subject.keys.items()
    ):
        fix = "liger_rope, liger_rms_norm, liger_glu_activation, liger_fused_linear_cross_entropy: true"
        yield subject.problem("AX052", "plugins", "LigerPlugin changes nothing without its keys", fix, "warning")


CHECKS = (packing, packages, precision, cpu, spreading, plugins)
