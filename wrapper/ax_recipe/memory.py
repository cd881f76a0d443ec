"""How much memory a training takes on each GPU: a closed form over a model's shape and its settings, no GPU needed.

What is kept for the backward pass is counted tensor by tensor, from the sources of Axolotl 0.19, transformers 5.16,
PEFT 0.20 and Liger 0.8. h, q, kv and ff stand for the widths of the hidden state, queries, keys and feed-forward block.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import ceil
from typing import Any

from ax_recipe.architecture import Shape
from ax_recipe.hardware import Hardware
from ax_recipe.settings import OPTIMIZERS, Settings

GIB = 2**30
FITS, TIGHT, WILL_NOT_FIT, UNKNOWN = "fits", "tight", "will not fit", "unknown"
_FITS, _TIGHT = 0.88, 0.96  # of the card: fragmentation and a longer row want the rest
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
        weights = shape.parameters * (0.5 if settings.method == "qlora" else settings.bytes) / _shards(settings)
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
    if share > _TIGHT:
        return WILL_NOT_FIT
    if needed.moment == "weights":  # a lower bound that fits says nothing
        return UNKNOWN
    return FITS if share <= _FITS else TIGHT


def adapter_parameters(shape: Shape, settings: Settings) -> int:
    """How many parameters the adapter trains."""
    linears = shape.linears
    return settings.rank * shape.layers * sum(sum(linears[name]) for name in settings.targets)


def _moments(shape: Shape, s: Settings, c: Constants) -> dict[str, dict[str, float]]:
    """Bytes of each part at each moment that can be the fullest."""
    fixed = _fixed(shape, s, c)
    gradients = _gradients(shape, s)
    held = gradients if s.accumulation > 1 else 0.0
    stored, last = _stored(shape, s)
    room = _room(shape, s)
    first = _first_gradients(shape, s) if not held else 0.0
    at_embeddings = 2.0 * _stream_bytes(s) * shape.hidden * s.slots
    moments = {
        "loss": {**fixed, "gradients": held, "activations": stored, "logits": _loss(shape, s, c)},
        "first backward": {**fixed, "gradients": held + first, "activations": stored + room},
        "last backward": {**fixed, "gradients": gradients - _embedding_gradients(shape, s), "activations": last + room},
        "optimizer step": {**fixed, "gradients": gradients},
    }
    if s.method == "full":
        moments["embeddings"] = {**fixed, "gradients": gradients, "activations": at_embeddings}
    if _shards(s) > 1:
        moments["optimizer step"]["workspace"] -= _gathered(shape, s, c)
    if s.layout == "fsdp" and s.method == "full":
        _give_embeddings(shape, s, c, moments)
    moments["last backward"]["workspace"] -= _no_longer_gathered(shape, s, c)
    moments["optimizer step"]["workspace"] += _optimizer_room(shape, s)
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
    last["activations"] = 2.0 * _embeddings(shape) * s.bytes
    last["gradients"] -= _embeddings(shape) * _gradient_bytes(s)
    last["buckets"] = moments["optimizer step"]["buckets"] = 0.0


def _context(s: Settings, c: Constants) -> float:
    if not s.capability:
        return 0.0
    return c.context_gib + (c.nccl_gib if s.gpus > 1 else 0.0)


def _workspace_gib(s: Settings, c: Constants) -> float:
    if not s.capability:
        return 0.0
    return c.workspace_gib if s.capability >= 90 else c.old_workspace_gib


def _shards(s: Settings) -> int:
    """Over how many GPUs the weights are spread."""
    return s.gpus if s.layout in {"fsdp", "zero3"} else 1


def _fixed(shape: Shape, s: Settings, c: Constants) -> dict[str, float]:
    """Bytes that lie there all the time."""
    trained = float(adapter_parameters(shape, s) if s.method != "full" else shape.parameters)
    workspace = _workspace_gib(s, c) * GIB + _gathered(shape, s, c)
    parts = {"weights": _weights(shape, s), "workspace": workspace, "optimizer": _optimizer(shape, s, trained)}
    if s.method != "full":
        parts["adapter"] = trained * _adapter_bytes(s)
    if s.layout == "ddp":
        parts["buckets"] = _gradients(shape, s)
    elif s.layout == "fsdp" and s.method == "full":  # whole gradients: a layer's, and those of the head
        parts["buckets"] = s.bytes * (shape.linear_parameters / shape.layers + shape.vocab * shape.hidden)
    elif s.layout == "fsdp":  # each matrix of the adapter is gathered by itself, in 2 bytes
        parts["buckets"] = 2.0 * trained
    elif s.layout in {"zero1", "zero2", "zero3"}:  # two of 500 million bytes are DeepSpeed's own default
        parts["buckets"] = min(2.0 * 5e8, 2 * trained * 2)
    return parts


def _weights(shape: Shape, s: Settings) -> float:
    quantized = shape.linear_parameters if s.method == "qlora" else 0
    # 4 bits, and one scale for 64 of them: in 4 bytes, or in 1 byte with a second scale for each 256 scales.
    scales = 1 / 64 + 4 / 16384 if s.double_quant else 4 / 64
    if s.method == "full":
        return (shape.parameters * s.bytes + _widened(shape, s, 2)) / _shards(s)
    spread = (quantized * 0.5 + (shape.parameters - quantized) * s.bytes) / _shards(s)
    return spread + quantized * scales  # the scales are no parameters: each GPU keeps them all


def _loading(shape: Shape, s: Settings) -> dict[str, float]:
    """Axolotl 0.19 makes the 4-bit model whole on each GPU, and frees it once the last layer is spread."""
    whole, adapter = replace(s, layout="ddp"), 4.0 * adapter_parameters(shape, s)
    return {"weights": _weights(shape, whole) + _weights(shape, s), "adapter": adapter * (1 + 1 / s.gpus)}


def _embeddings(shape: Shape) -> int:
    """Parameters of the embeddings and of the head, one and the same where they are tied."""
    return shape.vocab * shape.hidden * (1 if shape.tied else 2)


def _widened(shape: Shape, s: Settings, more: float) -> float:
    """So many bytes more for each parameter that is kept in 4 bytes among linear modules of 2."""
    return more * _embeddings(shape) if s.wide_embeddings else 0.0


def _stream_bytes(s: Settings) -> int:
    """Width of the hidden states between the layers."""
    return 4 if s.wide_embeddings else s.bytes


def _adapter_bytes(s: Settings) -> float:
    """PEFT keeps the adapter in 4 bytes; DeepSpeed makes it 2 and spreads a copy of 4."""
    return {"fsdp": 4 / s.gpus, "zero1": 2 + 4 / s.gpus, "zero2": 2 + 4 / s.gpus, "zero3": 6 / s.gpus}.get(s.layout, 4)


def _gradient_bytes(s: Settings) -> float:
    wide = 4.0 if s.method != "full" else float(s.bytes)
    # Without asking for it, FSDP 2 spreads gradients at the last micro-batch only, and keeps them whole until then.
    held = s.bytes if s.accumulation > 1 and not s.synchronised else 0
    spread = {"fsdp": wide / s.gpus + held, "zero1": 2.0, "zero2": 2 / s.gpus, "zero3": 2 / s.gpus}
    return spread.get(s.layout, wide)


def _gradients(shape: Shape, s: Settings) -> float:
    trained = adapter_parameters(shape, s) if s.method != "full" else shape.parameters
    return trained * _gradient_bytes(s) + _widened(shape, s, 2)


def _optimizer(shape: Shape, s: Settings, trained: float) -> float:
    wide, narrow = OPTIMIZERS.get(s.optimizer, (8, 4))
    if s.optimizer.startswith("paged") and s.method != "full":
        # bitsandbytes pages no tensor of fewer than 100,000 numbers (optim/optimizer.py, get_state_buffer).
        sizes = [s.rank * width for name in s.targets for width in shape.linears[name]]
        trained, wide = shape.layers * sum(size for size in sizes if size < 1e5), 2 if "8bit" in s.optimizer else 8
    if s.layout in {"zero1", "zero2", "zero3"}:
        master = 4 if s.method == "full" else 0  # the adapter's own is counted with it
        return trained * (wide + master) / s.gpus
    spread = s.gpus if s.layout == "fsdp" else 1
    if s.method == "full" and s.bytes == 2:
        if s.optimizer in {"adamw_8bit", "adamw_bnb_8bit"}:  # transformers asks for 32 bits for nn.Embedding
            return trained * narrow + (8 - narrow) * shape.vocab * shape.hidden
        return (trained * narrow + _widened(shape, s, wide - narrow)) / spread
    return trained * wide / spread


def _optimizer_room(shape: Shape, s: Settings) -> float:
    """What the step itself needs.

    DeepSpeed takes a billion numbers at a time, in 4 and in 2 bytes; an optimizer of torch without fusing makes lists
    of temporaries as large as the parameters.
    """
    if s.layout == "zero3" and s.method == "full":
        return 6.0 * min(1e9, shape.parameters / s.gpus)
    return _gradients(shape, s) if s.optimizer in {"adamw_torch", "adamw_hf"} else 0.0


def _gathered(shape: Shape, s: Settings, c: Constants) -> float:
    """With spread weights: a few whole layers, and the embeddings, which FSDP gathers as one and keeps to the end."""
    if _shards(s) == 1:
        return 0.0
    return c.gathered * _layer_bytes(shape, s) + (_embeddings(shape) * s.bytes if s.layout == "fsdp" else 0)


def _layer_bytes(shape: Shape, s: Settings) -> float:
    return shape.linear_parameters / shape.layers * (0.516 if s.method == "qlora" else s.bytes)


def _no_longer_gathered(shape: Shape, s: Settings, c: Constants) -> float:
    """At the last layer of a backward pass there is no next one to fetch."""
    return (c.gathered - 1) * _layer_bytes(shape, s) if _shards(s) > 1 else 0.0


def _stored(shape: Shape, s: Settings) -> tuple[float, float]:
    """Bytes kept for the backward pass: of all layers, and of the last one left."""
    copies = 2.0 * adapter_parameters(shape, s)  # autocast's, of the adapter
    if s.checkpointing:
        inputs = s.slots * shape.hidden * _stream_bytes(s)
        return shape.layers * inputs, inputs
    layer = s.slots * kept_for_backward(shape, s) + copies / shape.layers
    return shape.layers * layer, layer


def kept_for_backward(shape: Shape, s: Settings) -> float:
    """Bytes that one layer keeps for its backward pass, for each token."""
    kept = _kept_by_norms(shape, s) + _kept_by_attention(shape, s) + _kept_by_mlp(shape, s)
    return kept * s.bytes / 2


def _kept_by_norms(shape: Shape, s: Settings) -> float:
    """Liger keeps its input; transformers a copy of it in 4 bytes and, where the norm is trained, its output."""
    stream = 4 if s.wide_embeddings else 2
    each = stream if s.liger_norm else 4 if s.method != "full" else 4 + stream
    return each * (shape.norms * shape.hidden + (shape.q + shape.kv if shape.has_qk_norm else 0))


def _adapted(shape: Shape, s: Settings) -> tuple[str, ...]:
    """The linear modules that need their input again: those with an adapter, or all."""
    return s.targets if s.method != "full" else tuple(shape.linears)


def _kept_by_attention(shape: Shape, s: Settings) -> float:
    h, q, kv = shape.hidden, shape.q, shape.kv
    inputs = [name for name in _adapted(shape, s) if name in {"q_proj", "k_proj", "v_proj", "qkv_proj"}]
    kept = _kept_inputs(h, len(inputs), s, s.attention_kernel)
    if s.attention == "grouped" or q == kv:
        kept += 4 * q + 4 * kv
    else:
        kept += 8 * q
    # Each layer turns a mask into numbers of its own; without Liger's, a wide stream makes queries that varlen refuses.
    if s.attention == "mask" or (s.wide_embeddings and s.attention == "repeated" and not s.liger_rope):
        kept += 2 * s.row
    if s.dropout and "o_proj" in s.targets:
        kept += 3 * q
    return kept + (0 if s.attention_kernel else 2 * s.rank * (len(inputs) + ("o_proj" in s.targets)))


def _kept_by_mlp(shape: Shape, s: Settings) -> float:
    h, ff = shape.hidden, shape.feedforward
    inputs = [name for name in _adapted(shape, s) if name in {"gate_proj", "up_proj", "gate_up_proj"}]
    kept = _kept_inputs(h, len(inputs), s, s.mlp_kernel)
    if s.mlp_kernel:
        return kept + 4 * ff  # gate and up; their product is made again
    product = 0 if s.method != "full" and "down_proj" not in s.targets else 3 if s.dropout else 2
    kept += (4 if s.liger_glu else 6) * ff + product * ff
    return kept + 2 * s.rank * (len(inputs) + ("down_proj" in s.targets))


def _kept_inputs(width: int, modules: int, s: Settings, kernel: bool) -> float:
    """The input of linear modules side by side; dropout adds its result and a byte of mask, once or for each."""
    if s.method == "full":  # autocast narrows a wide stream for each of them anew
        return 2.0 * width * (modules if s.wide_embeddings else 1)
    if not modules:
        return 0.0
    if not s.dropout:
        return 2.0 * width
    return 5.0 * width if kernel else 3.0 * width * modules


def _room(shape: Shape, s: Settings) -> float:
    """What the backward pass of one layer needs beside what was stored."""
    h, ff = shape.hidden, shape.feedforward
    whole_weight = 2 * h * ff + h * ff / 16 if s.method == "qlora" else 0  # one matrix out of its 4 bits
    if s.method == "full":
        # the layer's output, its gradient and that of its input; those of product, gate and up, the last two in place
        backward, fused = 3.0 * (4 if s.wide_embeddings else 2) * h + (2 if s.liger_glu else 6) * ff, 0.0
    elif s.mlp_kernel:
        # the incoming gradient, that of the input, and that of gate times up, which then holds the others in place
        backward, fused = 4.0 * h + 2 * ff, whole_weight
    else:
        backward, fused = (14.2 * h + 2 * ff if s.dropout else 6.3 * h + 4 * ff), 0.0
    backward *= s.bytes / 2
    if not s.checkpointing:
        return backward * s.slots + fused
    kept = kept_for_backward(shape, s)
    if s.liger_norm:
        kept -= _stream_bytes(s) * h  # its input is the checkpoint itself
    again = s.slots * (kept + backward + (s.bytes * h if s.mlp_kernel else 0)) + fused
    copies = 2.0 * adapter_parameters(shape, s) / shape.layers
    if s.mlp_kernel:
        return again + copies
    return max(again, again - 12.5 * h * s.slots + whole_weight) + copies


def _loss(shape: Shape, s: Settings, c: Constants) -> float:
    """What the head and the loss add at their peak."""
    h, vocab = shape.hidden, shape.vocab
    stream = _stream_bytes(s)
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
        return _embeddings(shape) * _gradient_bytes(s)
    return shape.vocab * shape.hidden * (_gradient_bytes(s) + (2 if s.wide_embeddings else 0))


def _first_gradients(shape: Shape, s: Settings) -> float:
    """The head's own gradient, and the first layer's that is gone back through."""
    if s.method != "full":
        return 0.0
    head = shape.vocab * shape.hidden * (_gradient_bytes(s) + (2 if s.wide_embeddings else 0))
    return head + shape.linear_parameters / shape.layers * _gradient_bytes(s)


def _hole(shape: Shape, s: Settings, moment: str) -> float:
    """What is free and yet of no use.

    The logits in 2 bytes leave a hole that is too small for what comes after them. With spread weights, what is fetched
    and given away has memory of its own, which recomputing does not get.
    """
    plain = 2.0 * s.slots * shape.vocab if moment == "loss" and s.loss == "plain" else 0.0
    if _shards(s) == 1 or not s.checkpointing:
        return plain
    if s.method != "full" and moment == "first backward":
        return _room(shape, s) + _embeddings(shape) * s.bytes
    if s.layout == "fsdp" and s.method == "full" and moment == "last backward":
        return _room(shape, s) + _gradients(shape, s) - _embeddings(shape) * _gradient_bytes(s)
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
