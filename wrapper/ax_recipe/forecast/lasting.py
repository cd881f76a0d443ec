"""What a training holds of each GPU all the time: weights, adapter, gradients and the optimizer's state, in bytes."""

from __future__ import annotations

from ax_recipe.forecast.architecture import Shape, embeddings
from ax_recipe.forecast.kept import adapter_parameters
from ax_recipe.forecast.settings import OPTIMIZERS, Settings


def shards(s: Settings) -> int:
    """Over how many GPUs the weights are spread."""
    return s.gpus if s.layout in {"fsdp", "zero3"} else 1


def weights(shape: Shape, s: Settings) -> float:
    """The model's own, as wide as they are kept."""
    quantized = shape.linear_parameters if s.method == "qlora" else 0
    # 4 bits, and one scale for 64 of them: in 4 bytes, or in 1 byte with a second scale for each 256 scales.
    scales = 1 / 64 + 4 / 16384 if s.double_quant else 4 / 64
    if s.method == "full":
        return (shape.parameters * s.bytes + widened(shape, s, 2)) / shards(s)
    spread = (quantized * 0.5 + (shape.parameters - quantized) * s.bytes) / shards(s)
    return spread + quantized * scales  # the scales are no parameters: each GPU keeps them all


def widened(shape: Shape, s: Settings, more: float) -> float:
    """So many bytes more for each parameter that is kept in 4 bytes among linear modules of 2."""
    return more * embeddings(shape) if s.wide_embeddings else 0.0


def adapter_bytes(s: Settings) -> float:
    """PEFT keeps the adapter in 4 bytes; DeepSpeed makes it 2 and spreads a copy of 4."""
    return {"fsdp": 4 / s.gpus, "zero1": 2 + 4 / s.gpus, "zero2": 2 + 4 / s.gpus, "zero3": 6 / s.gpus}.get(s.layout, 4)


def gradient_bytes(s: Settings) -> float:
    """Of each trained parameter."""
    wide = 4.0 if s.method != "full" else float(s.bytes)
    # Without asking for it, FSDP 2 spreads gradients at the last micro-batch only, and keeps them whole until then.
    held = s.bytes if s.accumulation > 1 and not s.synchronised else 0
    spread = {"fsdp": wide / s.gpus + held, "zero1": 2.0, "zero2": 2 / s.gpus, "zero3": 2 / s.gpus}
    return spread.get(s.layout, wide)


def gradients(shape: Shape, s: Settings) -> float:
    """All of them, as they lie there before the step."""
    trained = adapter_parameters(shape, s) if s.method != "full" else shape.parameters
    return trained * gradient_bytes(s) + widened(shape, s, 2)


def optimizer(shape: Shape, s: Settings, trained: float) -> float:
    """The optimizer's state, for so many trained parameters."""
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
        return (trained * narrow + widened(shape, s, wide - narrow)) / spread
    return trained * wide / spread


def optimizer_room(shape: Shape, s: Settings) -> float:
    """What the step itself needs.

    DeepSpeed takes a billion numbers at a time, in 4 and in 2 bytes; an optimizer of torch without fusing makes lists
    of temporaries as large as the parameters.
    """
    if s.layout == "zero3" and s.method == "full":
        return 6.0 * min(1e9, shape.parameters / s.gpus)
    return gradients(shape, s) if s.optimizer in {"adamw_torch", "adamw_hf"} else 0.0
