"""Sizes foretold are those that llama.cpp's own llama-quantize makes, counted by its dry run on hollow models."""

from __future__ import annotations

import math
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ax_recipe.forecast import architecture
from ax_recipe.forecast.architecture import Shape
from ax_recipe.ship import convert
from ax_recipe.ship.size import PRECISIONS, weight_bytes
from ship_folders import gguf_head

QUANTISED = [precision for precision in PRECISIONS if precision.name not in ("F32", "BF16")]
RECORDED = {
    "meta-llama/Llama-3.1-8B": [8137.64, 6282.97, 5459.93, 5332.43, 4685.3, 4467.8, 3825.27],
    "meta-llama/Llama-3.1-70B": [71494.28, 55198.94, 47628.36, 46395.86, 40543.11, 38470.61, 32672.53],
    "meta-llama/Llama-3.2-1B": [1252.41, 967.0, 861.81, 843.75, 762.81, 732.25, 651.37],
    "HuggingFaceTB/SmolLM2-135M": [136.4, 130.27, 105.21, 103.18, 98.87, 95.61, 87.48],
    "Qwen/Qwen2.5-0.5B": [500.79, 476.64, 394.95, 387.92, 373.71, 361.94, 333.33],
    "Qwen/Qwen2.5-72B": [73677.66, 61360.97, 51919.44, 48989.44, 45213.44, 41850.31, 35946.59],
    "Qwen/Qwen3-4B": [4076.43, 3147.42, 2749.97, 2687.22, 2375.91, 2267.22, 1973.78],
    "google/gemma-2-2b": [2649.74, 2045.96, 1828.42, 1789.57, 1623.67, 1556.97, 1388.19],
    "mistralai/Mistral-7B-v0.3": [7345.02, 5671.02, 4897.52, 4770.02, 4169.52, 3952.02, 3359.02],
}
"""MiB in each of :data:`QUANTISED`, said by llama-quantize 0.7.0 (Debian, build 11669) on 2026-11-22."""

ROLES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
ROLES |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


@pytest.mark.parametrize("base", RECORDED)
def test_the_size_is_foretold_to_the_last_digit_that_it_says(base: str) -> None:
    foretold = [weight_bytes(architecture.find(base), precision) / 2**20 for precision in QUANTISED]
    assert foretold == pytest.approx(RECORDED[base], abs=0.006)


@pytest.mark.parametrize("base", RECORDED)
def test_the_llama_quantize_at_hand_says_the_same(tmp_path: Path, base: str) -> None:
    tool = convert.program("llama-quantize")
    if tool is None:
        pytest.skip("no llama-quantize on PATH or in LLAMA_CPP_DIR")
    hollow(tmp_path / "model.gguf", architecture.find(base))
    assert [dry_run(tool, tmp_path / "model.gguf", precision.name) for precision in QUANTISED] == RECORDED[base]


def dry_run(tool: Path, model: Path, kind: str) -> float:
    """What the tool would make of a model, in MiB."""
    done = subprocess.run([tool, "--dry-run", model, kind], capture_output=True, text=True, check=True)
    found = re.search(r"quant size\s*=\s*([\d.]+) MiB", done.stdout + done.stderr)
    assert found, done.stderr
    return float(found[1])


def hollow(path: Path, shape: Shape) -> None:
    """A model of 16 bits with all its tensors and nothing in them: the file has no blocks on the disk."""
    kind = {"mistral": "llama"}.get(shape.kind, shape.kind)
    told = {"context_length": shape.max_positions, "embedding_length": shape.hidden, "block_count": shape.layers}
    told |= {"feed_forward_length": shape.feedforward, "vocab_size": shape.vocab}
    told |= {"attention.head_count": shape.heads, "attention.head_count_kv": shape.kv_heads}
    told |= {"attention.key_length": shape.head_dim, "attention.value_length": shape.head_dim}
    told |= {"attention.sliding_window": shape.sliding_window or 4096}
    keys: dict[str, object] = {f"{kind}.{name}": value for name, value in told.items()}
    keys |= {f"{kind}.attention.layer_norm_rms_epsilon": 1e-6, "tokenizer.ggml.model": "no_vocab"}
    heads, size = b"", 0
    tensors = dict(_tensors(shape))
    for name, sides in tensors.items():
        wide = len(sides) > 1
        heads += struct.pack("<Q", len(name)) + name.encode()
        heads += struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, int(wide), size)
        size += -(-math.prod(sides) * (2 if wide else 4) // 32) * 32
    head = gguf_head({"general.architecture": kind, **keys}, len(tensors), heads)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "token_embd.weight", (shape.hidden, shape.vocab)
    yield "output_norm.weight", (shape.hidden,)
    if not shape.tied:
        yield "output.weight", (shape.hidden, shape.vocab)
    norms = {"attn_norm": shape.hidden, "ffn_norm": shape.hidden}
    if shape.kind == "gemma2":
        norms |= {"post_attention_norm": shape.hidden, "post_ffw_norm": shape.hidden}
    if shape.kind == "qwen3":
        norms |= {"attn_q_norm": shape.head_dim, "attn_k_norm": shape.head_dim}
    biases = {"attn_q": shape.q, "attn_k": shape.kv, "attn_v": shape.kv} if shape.kind == "qwen2" else {}
    for layer in range(shape.layers):
        yield from ((f"blk.{layer}.{ROLES[role]}.weight", sides) for role, sides in shape.linears.items())
        yield from ((f"blk.{layer}.{name}.weight", (wide,)) for name, wide in norms.items())
        yield from ((f"blk.{layer}.{name}.bias", (wide,)) for name, wide in biases.items())
