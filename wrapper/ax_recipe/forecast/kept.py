"""What a training keeps for its backward pass, counted tensor by tensor, in bytes.

From the sources of Axolotl 0.19, transformers 5.16, PEFT 0.20 and Liger 0.8. h, q, kv and ff stand for the widths of
the hidden state, queries, keys and feed-forward block.
"""

from __future__ import annotations

from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.settings import Settings


def adapter_parameters(shape: Shape, settings: Settings) -> int:
    """How many parameters the adapter trains."""
    linears = shape.linears
    return settings.rank * shape.layers * sum(sum(linears[name]) for name in settings.targets)


def stream_bytes(s: Settings) -> int:
    """Width of the hidden states between the layers."""
    return 4 if s.wide_embeddings else s.bytes


def stored(shape: Shape, s: Settings) -> tuple[float, float]:
    """Kept for the backward pass: of all layers, and of the last one left."""
    copies = 2.0 * adapter_parameters(shape, s)  # autocast's, of the adapter
    if s.checkpointing:
        inputs = s.slots * shape.hidden * stream_bytes(s)
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


def room(shape: Shape, s: Settings) -> float:
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
        kept -= stream_bytes(s) * h  # its input is the checkpoint itself
    again = s.slots * (kept + backward + (s.bytes * h if s.mlp_kernel else 0)) + fused
    copies = 2.0 * adapter_parameters(shape, s) / shape.layers
    if s.mlp_kernel:
        return again + copies
    return max(again, again - 12.5 * h * s.slots + whole_weight) + copies
