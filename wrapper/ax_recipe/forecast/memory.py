"""How much memory a training takes on each GPU: a closed form over a model's shape and its settings, no GPU needed.

What lies there all the time and what is kept for the backward pass, at each moment that can be the fullest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any

from ax_recipe.forecast import kept, lasting
from ax_recipe.forecast.architecture import Shape, embeddings
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.kept import adapter_parameters as adapter_parameters  # of this module's public names
from ax_recipe.forecast.settings import Settings

GIB = 2**30
FITS, TIGHT, WILL_NOT_FIT, UNKNOWN = "fits", "tight", "will not fit", "unknown"
_FITS, MOST = 0.88, 0.96  # of the card: fragmentation and a longer row want the rest
_LOADING = "loading"  # before the first step: it is in what the allocator holds, not in what training logs as active


@dataclass(frozen=True, slots=True)
class Constants:
    """What no source tells, only a measurement: on one H200, Axolotl 0.19.0, torch 2.11 and CUDA 13.

    ``loss`` and ``eval_loss`` are bytes for each logit at the loss, without a fused one; ``workspace_gib`` is torch's
    own (cuBLAS for the forward and the backward thread, from sm_90 on 32 MiB each); ``cached`` and ``cached_gib`` are
    what the allocator keeps beside the active bytes; ``context_gib`` and ``nccl_gib`` lie outside of torch.
    ``gathered`` layers are whole at a time where the weights are spread.
    """

    loss: float = 12.0
    eval_loss: float = 10.0
    workspace_gib: float = 0.07
    old_workspace_gib: float = 0.024
    cached: float = 0.02
    cached_gib: float = 0.4
    context_gib: float = 0.5
    nccl_gib: float = 0.9
    gathered: float = 3.7


MEASURED = Constants()


@dataclass(frozen=True, slots=True)
class Parts:
    """What lies in memory at one moment, in GiB."""

    weights: float = 0.0
    adapter: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    buckets: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    workspace: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Memory:
    """The peak of one GPU in GiB: ``parts`` add up to ``active_gib`` at ``moment``, the fullest of ``moments``.

    ``reserved_gib`` is what the allocator holds, as Axolotl logs it; ``card_gib`` what nvidia-smi shows.
    ``outside`` says why the figures are no more than a lower bound or a guess.
    """

    moment: str
    parts: Parts
    moments: dict[str, float]
    active_gib: float
    reserved_gib: float
    context_gib: float
    outside: tuple[str, ...]

    @property
    def cached_gib(self) -> float:
        """What the allocator holds beside the active bytes."""
        return self.reserved_gib - self.active_gib

    @property
    def card_gib(self) -> float:
        """What the run takes of the card."""
        return self.reserved_gib + self.context_gib


def estimate(shape: Shape, settings: Settings, constants: Constants = MEASURED) -> Memory:
    """The peak memory of each GPU. Pure; for a model outside the validated ones, its weights alone."""
    context = _context(settings, constants)
    if shape.outside:
        weights = shape.parameters * (0.5 if settings.method == "qlora" else settings.bytes) / lasting.shards(settings)
        parts = Parts(weights=weights / GIB)
        return Memory("weights", parts, {"weights": parts.total}, parts.total, parts.total, context, settings.outside)
    moments = {
        name: Parts(**{part: size / GIB for part, size in sizes.items()})
        for name, sizes in _moments(shape, settings, constants).items()
    }
    moment = max(moments.keys() - {_LOADING}, key=lambda name: (moments[name].total, name))
    active = moments[moment].total
    reserved = max(
        parts.total * (1 + constants.cached) + constants.cached_gib + _hole(shape, settings, name) / GIB
        for name, parts in moments.items()
    )
    totals = {name: parts.total for name, parts in moments.items()}
    return Memory(moment, moments[moment], totals, active, reserved, context, settings.outside)


def judge(needed: Memory, hardware: Hardware) -> str:
    """The verdict: what the run takes of the card, against the card."""
    if hardware.kind is None:
        return UNKNOWN
    share = needed.card_gib / hardware.kind.memory_gib
    if share > MOST:
        return WILL_NOT_FIT
    if needed.moment == "weights":  # a lower bound that fits says nothing
        return UNKNOWN
    return FITS if share <= _FITS else TIGHT


def _moments(shape: Shape, s: Settings, c: Constants) -> dict[str, dict[str, float]]:
    """Bytes of each part at each moment that can be the fullest."""
    fixed = _fixed(shape, s, c)
    gradients = lasting.gradients(shape, s)
    held = gradients if s.accumulation > 1 else 0.0
    stored, last = kept.stored(shape, s)
    room = kept.room(shape, s)
    first = _first_gradients(shape, s) if not held else 0.0
    at_embeddings = 2.0 * kept.stream_bytes(s) * shape.hidden * s.slots
    moments = {
        "loss": {**fixed, "gradients": held, "activations": stored, "logits": _loss(shape, s, c)},
        "first backward": {**fixed, "gradients": held + first, "activations": stored + room},
        "last backward": {**fixed, "gradients": gradients - _embedding_gradients(shape, s), "activations": last + room},
        "optimizer step": {**fixed, "gradients": gradients},
    }
    if s.method == "full":
        moments["embeddings"] = {**fixed, "gradients": gradients, "activations": at_embeddings}
    if lasting.shards(s) > 1:
        moments["optimizer step"]["workspace"] -= _gathered(shape, s, c)
    if s.layout == "fsdp" and s.method == "full":
        _give_embeddings(shape, s, c, moments)
    moments["last backward"]["workspace"] -= _no_longer_gathered(shape, s, c)
    moments["optimizer step"]["workspace"] += lasting.optimizer_room(shape, s)
    if s.layout == "fsdp" and s.method == "qlora":
        moments[_LOADING] = _loading(shape, s)
    if s.eval_slots:
        # Liger fuses the loss in training alone (0.8.1, lce_forward): an evaluation makes all logits.
        logits = 6.0 * shape.hidden if s.loss == "cut" else c.eval_loss * shape.vocab
        moments["evaluation"] = {**fixed, "logits": s.eval_slots * logits}
    return moments


def _give_embeddings(shape: Shape, s: Settings, c: Constants, moments: dict[str, dict[str, float]]) -> None:
    """At the end FSDP gives the embeddings' gradients away: whole, and once more on their way out."""
    last = moments["embeddings"]
    last["workspace"] -= _gathered(shape, s, c)
    last["activations"] = 2.0 * embeddings(shape) * s.bytes
    last["gradients"] -= embeddings(shape) * lasting.gradient_bytes(s)
    last["buckets"] = moments["optimizer step"]["buckets"] = 0.0


def _context(s: Settings, c: Constants) -> float:
    if not s.capability:
        return 0.0
    return c.context_gib + (c.nccl_gib if s.gpus > 1 else 0.0)


def _workspace_gib(s: Settings, c: Constants) -> float:
    if not s.capability:
        return 0.0
    return c.workspace_gib if s.capability >= 90 else c.old_workspace_gib


def _fixed(shape: Shape, s: Settings, c: Constants) -> dict[str, float]:
    """Bytes that lie there all the time."""
    trained = float(adapter_parameters(shape, s) if s.method != "full" else shape.parameters)
    parts = {
        "weights": lasting.weights(shape, s),
        "workspace": _workspace_gib(s, c) * GIB + _gathered(shape, s, c),
        "optimizer": lasting.optimizer(shape, s, trained),
    }
    if s.method != "full":
        parts["adapter"] = trained * lasting.adapter_bytes(s)
    if s.layout == "ddp":
        parts["buckets"] = lasting.gradients(shape, s)
    elif s.layout == "fsdp" and s.method == "full":  # whole gradients: a layer's, and those of the head
        parts["buckets"] = s.bytes * (shape.linear_parameters / shape.layers + shape.vocab * shape.hidden)
    elif s.layout == "fsdp":  # each matrix of the adapter is gathered by itself, in 2 bytes
        parts["buckets"] = 2.0 * trained
    elif s.layout in {"zero1", "zero2", "zero3"}:  # two of 500 million bytes are DeepSpeed's own default
        parts["buckets"] = min(2.0 * 5e8, 2 * trained * 2)
    return parts


def _loading(shape: Shape, s: Settings) -> dict[str, float]:
    """Axolotl 0.19 makes the 4-bit model whole on each GPU, and frees it once the last layer is spread."""
    whole, adapter = replace(s, layout="ddp"), 4.0 * adapter_parameters(shape, s)
    return {"weights": lasting.weights(shape, whole) + lasting.weights(shape, s), "adapter": adapter * (1 + 1 / s.gpus)}


def _gathered(shape: Shape, s: Settings, c: Constants) -> float:
    """With spread weights: a few whole layers, and the embeddings, which FSDP gathers as one and keeps to the end."""
    if lasting.shards(s) == 1:
        return 0.0
    return c.gathered * _layer_bytes(shape, s) + (embeddings(shape) * s.bytes if s.layout == "fsdp" else 0)


def _layer_bytes(shape: Shape, s: Settings) -> float:
    return shape.linear_parameters / shape.layers * (0.516 if s.method == "qlora" else s.bytes)


def _no_longer_gathered(shape: Shape, s: Settings, c: Constants) -> float:
    """At the last layer of a backward pass there is no next one to fetch."""
    return (c.gathered - 1) * _layer_bytes(shape, s) if lasting.shards(s) > 1 else 0.0


def _loss(shape: Shape, s: Settings, c: Constants) -> float:
    """What the head and the loss add at their peak."""
    h, vocab = shape.hidden, shape.vocab
    stream = kept.stream_bytes(s)
    last_norm = (stream if s.liger_norm else 4) * h
    if s.method == "full":
        last_norm += (stream + 2) * h  # what the norm gives, and its narrow copy
    narrow_head = 2.0 * vocab * h if s.wide_embeddings else 0.0
    if s.loss == "liger":
        rows = 1 << (ceil(s.slots / ceil(vocab / h)) - 1).bit_length()
        chunk = min(rows, s.slots) * (vocab + h) * 2.0
        # A wide gradient of the head is added to in place, a narrow one through copies of 2 and of 4 bytes.
        head = 0.0 if s.method != "full" else (4.0 if s.wide_embeddings else 8.0) * vocab * h
        return s.slots * (last_norm + 2 * stream * h) + chunk + head + 2 * narrow_head
    if s.loss == "cut":
        return 6.0 * h * s.slots + (2.0 * vocab * h if s.method == "full" else 0)
    width = c.loss if s.loss == "plain" else 6.0  # Liger's unfused loss writes the gradient over the logits
    return s.slots * (width * vocab + last_norm) + narrow_head


def _embedding_gradients(shape: Shape, s: Settings) -> float:
    """Those of the embeddings come last of all."""
    if s.method != "full" or s.accumulation > 1 or (shape.tied and s.layout != "fsdp"):
        return 0.0
    if s.layout == "fsdp":  # with those of the head, in one
        return embeddings(shape) * lasting.gradient_bytes(s)
    return shape.vocab * shape.hidden * (lasting.gradient_bytes(s) + (2 if s.wide_embeddings else 0))


def _first_gradients(shape: Shape, s: Settings) -> float:
    """The head's own gradient, and the first layer's that is gone back through."""
    if s.method != "full":
        return 0.0
    head = shape.vocab * shape.hidden * (lasting.gradient_bytes(s) + (2 if s.wide_embeddings else 0))
    return head + shape.linear_parameters / shape.layers * lasting.gradient_bytes(s)


def _hole(shape: Shape, s: Settings, moment: str) -> float:
    """What is free and yet of no use.

    The logits in 2 bytes leave a hole that is too small for what comes after them. With spread weights, what is fetched
    and given away has memory of its own, which recomputing does not get.
    """
    plain = 2.0 * s.slots * shape.vocab if moment == "loss" and s.loss == "plain" else 0.0
    if lasting.shards(s) == 1 or not s.checkpointing:
        return plain
    if s.method != "full" and moment == "first backward":
        return kept.room(shape, s) + embeddings(shape) * s.bytes
    if s.layout == "fsdp" and s.method == "full" and moment == "last backward":
        return kept.room(shape, s) + lasting.gradients(shape, s) - embeddings(shape) * lasting.gradient_bytes(s)
    return plain


def as_json(memory: Memory) -> dict[str, Any]:
    """The memory of one GPU as plain values; GiB to three digits."""
    parts = {field.name: round(getattr(memory.parts, field.name), 3) for field in fields(Parts)}
    return {
        "active_gib": round(memory.active_gib, 3),
        "reserved_gib": round(memory.reserved_gib, 3),
        "card_gib": round(memory.card_gib, 3),
        "moment": memory.moment,
        "parts": {**parts, "cached": round(memory.cached_gib, 3), "context": round(memory.context_gib, 3)},
        "moments": {name: round(size, 3) for name, size in memory.moments.items()},
        "outside": list(memory.outside),
    }
