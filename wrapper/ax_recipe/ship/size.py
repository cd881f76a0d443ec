"""How large a model is in each precision, what its context costs in memory, and which of both fit a machine.

Sizes are those of llama.cpp's quantiser for this very model, tensor by tensor (its rules of 2026: the head and some
layers get more bits); where the tensors are not known one by one, by the bits that Llama 3.1 8B takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ax_recipe.forecast.architecture import Shape
from ax_recipe.ship.gguf import BLOCKS
from ax_recipe.ship.ollama import QUANTISATIONS

GIB = 2**30
CONTEXTS = tuple(1024 * 2**power for power in range(1, 8))
"""2k to 128k tokens."""

CACHE_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of one cached value by OLLAMA_KV_CACHE_TYPE."""

LEAST_CONTEXT = 2048
_BATCH = 512  # tokens that llama.cpp computes at once
_PROGRAM = 0.25 * GIB  # the engine itself, with its CUDA or Metal context
_USED = 0.95  # of a machine's memory; the rest is the driver's and other programs'


@dataclass(frozen=True, slots=True)
class Precision:
    """A way to store the weights.

    ``bits`` a weight and ``cost`` in perplexity are those of Llama 3 8B as llama.cpp measured them (tools/quantize,
    README and help); None where it is the reference.
    """

    name: str
    about: str
    bits: float
    cost: float | None

    @property
    def by_ollama(self) -> bool:
        """Whether ``ollama create`` made it until 0.34; llama-quantize makes each."""
        return self.name.upper() in QUANTISATIONS


PRECISIONS = (
    Precision("F32", "32-bit", 32.0, None),
    Precision("BF16", "16-bit", 16.0, None),
    Precision("Q8_0", "INT8", 8.5008, 0.0026),
    Precision("Q6_K", "6-bit", 6.5633, 0.0217),
    Precision("Q5_K_M", "5-bit", 5.7036, 0.0569),
    Precision("Q5_K_S", "5-bit", 5.5704, 0.1049),
    Precision("Q4_K_M", "INT4", 4.8944, 0.1754),
    Precision("Q4_K_S", "INT4", 4.6672, 0.2689),
    Precision("Q3_K_M", "3-bit", 3.9960, 0.6569),
)
_BEST_FIRST = ("BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q3_K_M")
_PLAIN = {"Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K_M": "Q5_K", "Q5_K_S": "Q5_K", "Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K"}
_SMALLER_BLOCKS = {"Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


@dataclass(frozen=True, slots=True)
class Cache:
    """What is kept of the tokens so far: ``full`` layers keep all, ``windowed`` ones the last ``window``.

    ``values`` are a layer's keys and values of one token. Layers of other kinds keep a state of fixed size.
    """

    full: int
    windowed: int
    window: int
    values: int

    def bytes(self, context: int, kind: str = "f16") -> float:
        """The cache of ``context`` tokens in memory."""
        cells = _padded(context) * self.full + min(_padded(context), _padded(self.window + _BATCH)) * self.windowed
        return cells * self.values * CACHE_BYTES[kind]

    def __str__(self) -> str:
        parts = [f"{self.full} layers that keep every token"] if self.full else []
        if self.windowed:
            parts.append(f"{self.windowed} that keep the last {self.window:,}")
        return f"{' and '.join(parts) or 'no layer that keeps tokens'}, {self.values:,} values a token in each"


def _padded(tokens: int) -> int:
    return -(-tokens // 256) * 256


# How often a layer sees all tokens in the models whose window llama.cpp keeps to (it gives Mistral and Phi 3 none).
_EVERY = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "cohere2": 4}


def cache(shape: Shape, config: Mapping[str, object] | None = None) -> Cache:
    """The cache of a model; ``config`` (its config.json) tells the layers of other kinds apart."""
    text = config.get("text_config", config) if config else {}
    text = text if isinstance(text, Mapping) else {}
    latent = text.get("kv_lora_rank")
    values = 2 * shape.kv
    if isinstance(latent, int):  # multi-head latent attention keeps one short vector, and no values
        values = latent + int(text.get("qk_rope_head_dim") or 0)
    kinds = text.get("layer_types")
    layers = [str(kind) for kind in kinds] if isinstance(kinds, Sequence) else []
    full = sum(kind == "full_attention" for kind in layers) or shape.layers
    every, window = _EVERY.get(shape.kind), shape.sliding_window
    if not every or not window:
        return Cache(full if "linear_attention" in layers else shape.layers, 0, 0, values)
    full = full if "sliding_attention" in layers else shape.layers // every
    return Cache(full, shape.layers - full, window, values)


def weight_bytes(shape: Shape, precision: Precision) -> float:
    """The weights of a model in a precision, without the vocabulary's text (some megabytes)."""
    if precision.name in ("F32", "BF16") or shape.outside:
        return shape.parameters * precision.bits / 8
    matrices = list(_matrices(shape))
    rest = shape.parameters - sum(wide * high for _, _, wide, high in matrices)
    return 4.0 * rest + sum(
        wide * high * _width(_type(shape, precision.name, role, layer), wide) for role, layer, wide, high in matrices
    )


def _matrices(shape: Shape) -> Iterator[tuple[str, int, int, int]]:
    """Each matrix with its role, layer, and how wide its input and output are."""
    yield "head" if shape.tied else "embedding", 0, shape.hidden, shape.vocab
    if not shape.tied:
        yield "head", 0, shape.hidden, shape.vocab
    for layer in range(shape.layers):
        for role, (wide, high) in shape.linears.items():
            yield role, layer, wide, high


def _type(shape: Shape, precision: str, role: str, layer: int) -> str:
    """What llama.cpp stores a matrix as (its llama-quant.cpp)."""
    found = _usual_type(shape, precision, role, layer)
    # It knows "a 70B" by its layers: there eight heads share each value.
    shared = shape.kind == "qwen2" or (shape.kind == "llama" and shape.heads != shape.kv_heads)
    is_70b = shape.layers == 80 and shared
    return "Q5_K" if is_70b and role == "v_proj" and found in ("Q3_K", "Q4_K") else found


def _usual_type(shape: Shape, precision: str, role: str, layer: int) -> str:
    plain, layers = _PLAIN.get(precision, "Q3_K"), shape.layers
    if role == "head":
        return "Q8_0" if precision == "Q8_0" or shape.hidden % BLOCKS[plain][0] else "Q6_K"
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    value, down = role in ("v_proj", "qkv_proj"), role == "down_proj"
    if precision == "Q3_K_M":
        early = layer < 2 if value else layer < layers // 16
        return "Q5_K" if (value or down) and early else "Q4_K" if value or down or role == "o_proj" else plain
    if precision in ("Q4_K_M", "Q5_K_M") and (value or down) and more:
        return "Q6_K"
    if precision == "Q4_K_S" and ((value and layer < 4) or (down and layer < layers // 8)):
        return "Q5_K"
    return plain


def _width(kind: str, wide: int) -> float:
    """Bytes of a weight; rows that are no whole number of blocks take a type of smaller blocks."""
    if wide % BLOCKS[kind][0]:
        kind = _SMALLER_BLOCKS.get(kind, "F16")
        kind = "F16" if wide % BLOCKS[kind][0] else kind
    block, size = BLOCKS[kind]
    return size / block


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits a machine: a precision with a context in tokens, and what they need (bytes)."""

    precision: Precision
    context: int
    needed: float


def needed(shape: Shape, kept: Cache, precision: Precision, context: int) -> float:
    """Memory to run a model: weights, cache (f16), the computation of one batch, the program (bytes)."""
    computing = _BATCH * 4.0 * (shape.vocab + 4 * shape.hidden)
    return weight_bytes(shape, precision) + kept.bytes(context) + computing + _PROGRAM


def recommend(shape: Shape, kept: Cache, memory: float, context: int, *, any_gguf: bool = False) -> Fit | None:
    """The best precision that fits ``memory`` (bytes) with ``context``, else with the longest shorter one.

    Of those that Ollama made until 0.34, or of all with ``any_gguf``; None where nothing fits.
    """
    by_name = {precision.name: precision for precision in PRECISIONS}
    candidates = [by_name[name] for name in _BEST_FIRST if any_gguf or by_name[name].by_ollama]
    shorter = [tokens for tokens in reversed(CONTEXTS) if tokens < context]
    for tokens in (context, *shorter, *([LEAST_CONTEXT] if context > LEAST_CONTEXT else [])):
        for precision in candidates:
            need = needed(shape, kept, precision, tokens)
            if need <= memory * _USED:
                return Fit(precision, tokens, need)
    return None


def longest_context(shape: Shape, kept: Cache, precision: Precision, memory: float) -> int:
    """The longest context that fits beside the weights, in steps of 256 tokens; 0 where none does."""
    low, high = 0, (shape.max_positions or CONTEXTS[-1]) // 256
    while low < high:
        middle = (low + high + 1) // 2
        fits = needed(shape, kept, precision, 256 * middle) <= memory * _USED
        low, high = (middle, high) if fits else (low, middle - 1)
    return 256 * low
