"""Ship a LoRA beside its base, unmerged: what llama.cpp's converter cannot carry is refused before anything is made.

Ollama 0.33 would convert an adapter itself, but mixes up the rows of q_proj and k_proj, so it is never asked to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.ship import gguf, weights
from ax_recipe.ship.files import link, read_json, write_json
from ax_recipe.ship.merged import Check

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILE = "adapter.gguf"


def require_carried(adapter: Path, base: Path) -> None:
    """Nothing, where a GGUF can carry all of ``adapter``.

    :raises RecipeError: it cannot; each reason is told. The merge carries what this cannot.
    """
    reasons = list(obstacles(adapter, base))
    if reasons:
        raise RecipeError(
            f"{adapter} cannot be shipped as an adapter: {'; '.join(reasons)}", "export the merged model instead"
        )


def obstacles(adapter: Path, base: Path) -> Iterator[str]:
    """What of a PEFT adapter a GGUF adapter has no place for."""
    config = read_json(adapter / CONFIG)
    if not (adapter / WEIGHTS).is_file():
        yield f"it has no {WEIGHTS}"
        return
    if config.get("peft_type") != "LORA":
        yield f"it is no LoRA but {config.get('peft_type')}"
    if config.get("use_dora"):
        yield "DoRA: its magnitudes have no place"
    if config.get("alpha_pattern"):
        yield "alpha_pattern: there is one alpha for all"
    if config.get("use_rslora") and config.get("rank_pattern"):
        yield "rsLoRA with a rank_pattern: each rank has a scale of its own"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "it trains biases"
    others = sorted(name for name in weights.tensors(adapter / WEIGHTS) if not _is_pair(name))
    if others:
        yield f"{len(others)} tensors are trained whole ({others[0]}): embeddings, heads and new tokens need the merge"
    tied = read_json(base / "config.json").get("tie_word_embeddings")
    if tied and any("lm_head" in name for name in weights.tensors(adapter / WEIGHTS)):
        yield "it changes lm_head, which the base ties to its embeddings"


def _is_pair(name: str) -> bool:
    return (".lora_A." in name or ".lora_B." in name) and "embed" not in name


def scale(config: Mapping[str, Any]) -> float:
    """The alpha that a converter is to be told: it divides by r alone, rsLoRA by the root of r."""
    alpha = float(config["lora_alpha"])
    return alpha * math.sqrt(config["r"]) if config.get("use_rslora") else alpha


def stage(adapter: Path, out: Path) -> Path:
    """A folder for the converter: the weights as a link, the config with the alpha that it is to be told."""
    out.mkdir(parents=True, exist_ok=True)
    link((adapter / WEIGHTS).resolve(), out / WEIGHTS)
    config = read_json(adapter / CONFIG)
    write_json(out / CONFIG, {**config, "lora_alpha": scale(config), "use_rslora": False})
    return out


def examine(file: Path, adapter: Path, *, quantised_base: bool) -> Iterator[Check]:
    """Whether a converted adapter holds every pair and the scale; ``quantised_base`` says that it is a QLoRA's."""
    found, config = gguf.read(file), read_json(adapter / CONFIG)
    pairs = sum(".lora_B." in name for name in weights.tensors(adapter / WEIGHTS))
    held = sum(name.endswith(".lora_b") for name in found.types)
    alpha = found.keys.get("adapter.lora.alpha", math.nan)
    whole = held == pairs and math.isclose(alpha, scale(config), rel_tol=1e-6)
    said = f"{held} of {pairs} pairs, alpha {alpha:g}" + ("" if whole else f", trained was {scale(config):g}")
    yield Check("adapter", "ok" if whole else "error", said)
    if quantised_base:
        said = "it was trained on the base in 4 bit, and here is put on the whole one: the merge is nearer to training"
        yield Check("adapter base", "warning", said)
