"""A model's shape from its config.json alone: what memory and time depend on, and the exact number of parameters."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from ax_recipe.errors import MissingError, RecipeError

# The architectures whose layers are counted one by one, by the model_type of config.json.
_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3")
# What config.json leaves out where it is the default of transformers 5 for that model_type.
_TIED = {"gemma2": True, "gemma3_text": True, "smollm3": True}
_HEAD_DIM = {"gemma2": 256, "gemma3_text": 256}
# What transformers 5 takes for a key that is not there; Google's own config.json of Gemma 3 leaves these out.
_LEFT_OUT: Mapping[str, Mapping[str, int]] = {
    "gemma3_text": {
        "vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131072,
    }
}  # fmt: skip
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_LINEAR_ATTENTION = ("mamba_d_state", "ssm_state_size", "state_size", "linear_num_value_heads", "linear_attn_config")


@dataclass(frozen=True, slots=True)
class Shape:
    """A decoder's dimensions. ``q`` and ``kv`` are the widths of its queries and of its keys (or values).

    ``outside`` says why nothing but the weights can be foretold, and then ``parameters`` is a lower bound.
    """

    name: str
    kind: str
    layers: int
    hidden: int
    feedforward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    max_positions: int
    sliding_window: int | None
    parameters: int
    outside: str | None = None

    @property
    def q(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of the keys, and of the values, of all heads."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """One layer's linear modules by name: how wide their input and output are."""
        h, q, kv, ff = self.hidden, self.q, self.kv, self.feedforward
        if self.kind == "phi3":
            return {"qkv_proj": (h, q + 2 * kv), "o_proj": (q, h), "gate_up_proj": (h, 2 * ff), "down_proj": (ff, h)}
        attention = {"q_proj": (h, q), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (q, h)}
        return {**attention, "gate_proj": (h, ff), "up_proj": (h, ff), "down_proj": (ff, h)}

    @property
    def linear_parameters(self) -> int:
        """Parameters of all layers' linear modules: what a 4-bit model keeps in 4 bits."""
        return self.layers * sum(wide * high for wide, high in self.linears.values())

    @property
    def norms(self) -> int:
        """RMS norms of the hidden width in one layer."""
        return 4 if self.kind in {"gemma2", "gemma3_text"} else 2

    @property
    def has_qk_norm(self) -> bool:
        """Whether queries and keys are normed too."""
        return self.kind in {"qwen3", "gemma3_text"}


def find(base: str, folder: Path = Path()) -> Shape:
    """The shape of a local model folder (relative ones start at ``folder``), or of a hub id.

    :raises MissingError: as :func:`config` does.
    """
    return from_config(config(base, folder), base)


def config(base: str, folder: Path = Path()) -> Mapping[str, Any]:
    """The config.json of a local model folder or a hub id, or as much of it as ships with ax-recipe.

    Looks at the folder, then at the shapes that ship with ax-recipe, then at the hub's cache on this machine.

    :raises MissingError: none of the three knows it.
    """
    local = folder / Path(base).expanduser()
    if (local / "config.json").is_file():
        return _json(local / "config.json")
    shipped = _shipped().get(base.lower())
    if shipped:
        return shipped
    for path in sorted(hub_cache().glob(f"models--{base.replace('/', '--')}/snapshots/*/config.json")):
        return _json(path)
    if local.is_dir():
        raise MissingError(f"{local}: has no config.json", "name the folder that holds the model's files")
    raise MissingError(
        f"{base}: its shape is not known here: no such folder, not among the shipped ones, not in the hub's cache",
        f"`hf download {base} config.json` fetches the one small file that a plan needs",
    )


def shipped() -> list[str]:
    """The hub ids whose shape ships with ax-recipe."""
    return [each for row in _table() for each in row["ids"]]


def read(path: Path, name: str) -> Shape:
    """The shape in a config.json.

    :raises RecipeError: it is not the JSON of a language model.
    """
    return from_config(_json(path), name)


def _json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}", "is this the folder of a Hugging Face model?") from error
    if not isinstance(config, dict):
        raise RecipeError(f"{path}: holds no mapping", "is this the config.json of a Hugging Face model?")
    return config


def from_config(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a config.json's values describe.

    :raises RecipeError: a number that every language model has is missing.
    """
    outside = _outside(config)
    text = {**config, **config.get("text_config", {})} if isinstance(config.get("text_config"), Mapping) else config
    kind = str(text.get("model_type", ""))
    text = {**_LEFT_OUT.get(kind, {}), **text}
    try:
        heads = int(text["num_attention_heads"])
        hidden = int(text["hidden_size"])
        shape = Shape(
            name=name,
            kind=kind,
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            feedforward=int(text.get("intermediate_size") or 4 * hidden),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or _HEAD_DIM.get(kind) or hidden // heads),
            vocab=int(text["vocab_size"]),
            tied=bool(text.get("tie_word_embeddings", _TIED.get(kind, False))),
            max_positions=int(text.get("max_position_embeddings") or 0),
            sliding_window=_sliding_window(text),
            parameters=0,
            outside=outside,
        )
    except KeyError as error:
        said = f"its config.json does not say {error.args[0]}, as those of the families that are known here do"
        raise RecipeError(f"{name}: {said}", f"its model_type is {kind or 'not said, either'}") from error
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name}: its config.json is no language model's: {error}", "see its model_type") from error
    return replace(shape, parameters=_least(shape, text) if outside else _exact(shape, text))


def _outside(config: Mapping[str, Any]) -> str | None:
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
    assert isinstance(text, Mapping)  # noqa: S101 - narrows the type
    if any(int(text.get(key) or 0) > 1 for key in _EXPERTS):
        return "a mixture of experts"
    if text.get("kv_lora_rank"):
        return "multi-head latent attention"
    if ("vision_config" in config or "audio_config" in config) and not _is_gemma3(config):
        return "more than text"
    if any(text.get(key) for key in _LINEAR_ATTENTION) or "linear_attention" in (text.get("layer_types") or ()):
        return "linear attention"
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    if method not in (None, "bitsandbytes"):
        return f"a base that is quantised already, by {method}"
    kind = text.get("model_type")
    return None if kind in _KNOWN else f"its architecture, {kind}, is not among {', '.join(_KNOWN)}"


def _sliding_window(text: Mapping[str, Any]) -> int | None:
    kinds = text.get("layer_types")
    if text.get("use_sliding_window") is False or (kinds and "sliding_attention" not in kinds):
        return None
    window = text.get("sliding_window")
    return int(window) if window else None


def _exact(shape: Shape, text: Mapping[str, Any]) -> int:
    layer = sum(wide * high for wide, high in shape.linears.values()) + shape.norms * shape.hidden
    if shape.has_qk_norm:
        layer += 2 * shape.head_dim
    if shape.kind == "qwen2":  # its queries, keys and values have biases, whatever config.json says
        layer += shape.q + 2 * shape.kv
    elif text.get("attention_bias"):
        layer += shape.q + 2 * shape.kv + shape.hidden
    if text.get("mlp_bias"):
        layer += 2 * shape.feedforward + shape.hidden
    return embeddings(shape) + shape.layers * layer + shape.hidden + _eyes(text)


def _is_gemma3(config: Mapping[str, Any]) -> bool:
    """Whether the one thing beside text is the SigLIP tower of Gemma 3 from 4B on."""
    return config.get("model_type") == "gemma3" and bool((config.get("vision_config") or {}).get("num_hidden_layers"))


def _eyes(config: Mapping[str, Any]) -> int:
    """The parameters of a SigLIP tower and of what projects its pictures to the text; 0 where there is none."""
    tower = config.get("vision_config")
    if not tower:
        return 0
    wide, high, patch = (int(tower[key]) for key in ("hidden_size", "intermediate_size", "patch_size"))
    patches = (int(tower["image_size"]) // patch) ** 2
    # Each layer: four square matrices and two of the feed-forward block, with biases, and two norms of two vectors.
    layer = 4 * (wide * wide + wide) + (2 * wide * high + high + wide) + 4 * wide
    embeddings = 3 * patch * patch * wide + wide + patches * wide
    return embeddings + int(tower["num_hidden_layers"]) * layer + 2 * wide + wide * int(config["hidden_size"]) + wide


def _least(shape: Shape, text: Mapping[str, Any]) -> int:
    """Embeddings and feed-forward blocks, all experts counted: no model of these numbers has fewer parameters."""
    experts = max([1, *(int(text.get(key) or 0) for key in _EXPERTS)])
    width = int(text.get("moe_intermediate_size") or shape.feedforward) if experts > 1 else shape.feedforward
    dense = int(text.get("first_k_dense_replace") or 0)
    blocks = (shape.layers - dense) * experts * width + dense * shape.feedforward
    return embeddings(shape) + 3 * shape.hidden * blocks


def embeddings(shape: Shape) -> int:
    """Parameters of the embeddings and of the head, one and the same where they are tied."""
    return shape.vocab * shape.hidden * (1 if shape.tied else 2)


@cache
def _table() -> list[dict[str, Any]]:
    text = Path(__file__).with_name("architectures.json").read_text(encoding="utf-8")
    value: list[dict[str, Any]] = json.loads(text)
    return value


def _shipped() -> dict[str, Mapping[str, Any]]:
    return {each.lower(): row["config"] for row in _table() for each in row["ids"]}


def hub_cache() -> Path:
    """Where huggingface_hub 1.x keeps what it has fetched."""
    return Path(os.environ.get("HF_HUB_CACHE") or hub_home() / "hub").expanduser()


def hub_home() -> Path:
    """Where it keeps all that it keeps, a login's token among it."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface").expanduser()
