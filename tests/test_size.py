"""Sizes are llama.cpp's own, to the digit where it has published them; what is recommended fits."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ax_recipe.forecast import architecture
from ax_recipe.forecast.architecture import Shape
from ax_recipe.ship import size
from ax_recipe.ship.size import GIB, PRECISIONS, cache, longest_context, needed, recommend, weight_bytes
from ax_recipe.ship.sizing import sized
from ax_recipe.view import size as view
from conftest import Invoke

LLAMA = architecture.find("meta-llama/Llama-3.1-8B")
BY_NAME = {precision.name: precision for precision in PRECISIONS}


@pytest.mark.parametrize("precision", PRECISIONS, ids=lambda precision: precision.name)
def test_llama_8b_has_the_bits_that_llama_cpp_measured(precision: size.Precision) -> None:
    """Its README lists bits per weight of whole files, to four digits."""
    assert 8 * weight_bytes(LLAMA, precision) / LLAMA.parameters == pytest.approx(precision.bits, abs=5e-5)


@pytest.mark.parametrize(("precision", "gib"), [("Q8_0", 7.95), ("Q6_K", 6.14), ("Q5_K_M", 5.33), ("Q4_K_M", 4.58)])
def test_llama_8b_has_the_sizes_that_llama_cpp_measured(precision: str, gib: float) -> None:
    assert weight_bytes(LLAMA, BY_NAME[precision]) / GIB == pytest.approx(gib, abs=0.005)


def test_rows_that_are_no_whole_blocks_take_more_bits() -> None:
    small = architecture.find("HuggingFaceTB/SmolLM2-135M")  # 576 wide: two blocks and a quarter
    assert 8 * weight_bytes(small, BY_NAME["Q4_K_M"]) / small.parameters > 6


@pytest.mark.parametrize(("tokens", "gib"), [(4096, 0.5), (8192, 1.0), (32768, 4.0), (131072, 16.0)])
def test_the_cache_of_llama_8b(tokens: int, gib: float) -> None:
    """2 x 32 layers x 8 KV heads x 128 x 2 bytes: 128 KiB a token."""
    assert cache(LLAMA).bytes(tokens) == gib * GIB
    assert cache(LLAMA).bytes(tokens, "q8_0") == gib * GIB * 34 / 64


def test_the_cache_that_llama_cpp_logs() -> None:
    """It says "KV buffer size = 2.00 MiB" for 4 layers, 2 KV heads of 32, and 2,048 tokens."""
    config = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 256}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}
    assert cache(architecture.from_config(config, "tiny")).bytes(2048) == 2 * 2**20


@pytest.mark.parametrize(
    ("base", "full", "windowed", "window"),
    [
        ("google/gemma-2-9b", 21, 21, 4096),
        ("google/gemma-3-1b-it", 4, 22, 512),
        ("mistralai/Mistral-7B-v0.1", 32, 0, 0),  # llama.cpp keeps all of its tokens, whatever its window
        ("Qwen/Qwen3-4B", 36, 0, 0),
    ],
)
def test_layers_with_a_window_keep_no_more_than_it(base: str, full: int, windowed: int, window: int) -> None:
    found = cache(architecture.find(base), architecture.config(base))
    assert (found.full, found.windowed, found.window) == (full, windowed, window)
    growth = found.bytes(131072) - found.bytes(65536)
    assert growth == 65536 * full * found.values * 2


def test_latent_attention_keeps_a_short_vector() -> None:
    config = {"model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128}
    config |= {"vocab_size": 129280, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    found = cache(architecture.from_config(config, "deepseek"), config)
    assert found.bytes(4096) == 4096 * 61 * 576 * 2


def test_linear_attention_keeps_tokens_in_its_full_layers_alone() -> None:
    kinds = (["linear_attention"] * 3 + ["full_attention"]) * 12
    config = {"model_type": "qwen3_next", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 16}
    config |= {"num_key_value_heads": 2, "head_dim": 256, "vocab_size": 151936, "layer_types": kinds}
    assert cache(architecture.from_config(config, "next"), config).full == 12


@pytest.mark.parametrize(
    ("gib", "context", "quantize"), [(24, 8192, "BF16"), (16, 8192, "Q8_0"), (8, 8192, "Q4_K_M"), (40, 131072, "BF16")]
)
def test_the_best_precision_that_fits_is_recommended(gib: float, context: int, quantize: str) -> None:
    fit = recommend(LLAMA, cache(LLAMA), gib * GIB, context)
    assert fit is not None
    assert (fit.precision.name, fit.context) == (quantize, context)


def test_a_shorter_context_comes_before_nothing() -> None:
    fit = recommend(LLAMA, cache(LLAMA), 6 * GIB, 131072)
    assert fit is not None
    assert (fit.precision.name, fit.context) == ("Q4_K_M", 4096)
    assert recommend(LLAMA, cache(LLAMA), 3 * GIB, 8192) is None


@given(st.floats(0.5, 200), st.integers(1, 131072), st.booleans())
def test_what_is_recommended_fits(gib: float, context: int, any_gguf: bool) -> None:
    fit = recommend(LLAMA, cache(LLAMA), gib * GIB, context, any_gguf=any_gguf)
    if fit:
        assert fit.needed <= gib * GIB
        assert fit.context <= context
        assert any_gguf or fit.precision.by_ollama


@given(st.floats(0.5, 200), st.sampled_from(PRECISIONS))
def test_the_longest_context_fits_and_no_longer_one_does(gib: float, precision: size.Precision) -> None:
    tokens, kept = longest_context(LLAMA, cache(LLAMA), precision, gib * GIB), cache(LLAMA)
    if tokens:
        assert needed(LLAMA, kept, precision, tokens) <= 0.95 * gib * GIB
    if tokens < LLAMA.max_positions:
        assert needed(LLAMA, kept, precision, tokens + 256) > 0.95 * gib * GIB


def test_a_model_that_is_not_known_tensor_by_tensor_is_a_lower_bound() -> None:
    outside: Shape = replace(LLAMA, outside="a mixture of experts")
    assert weight_bytes(outside, BY_NAME["Q4_K_M"]) == outside.parameters * 4.8944 / 8
    found = replace(sized("meta-llama/Llama-3.1-8B", Path("none"), None, memory_gib=24), shape=outside)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view.picture(found))
    assert "lower bounds" in console.export_text()


def test_a_recipe_a_hub_id_and_a_folder_are_sized(invoke: Invoke, tmp_path: Path) -> None:
    recipe = json.loads(invoke("size", "pirate", "--memory", "16", "--json").stdout)
    assert recipe["recommended"] == {"quantize": "Q8_0", "num_ctx": 8192, "needed_gib": 9.47}
    assert recipe["adapter_bytes"] == 4 * 167_772_160  # r 64 on every linear layer
    assert json.loads(invoke("size", "Qwen/Qwen3-4B", "--json").stdout)["parameters"] == 4_022_468_096
    config = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    assert json.loads(invoke("size", str(tmp_path), "--json").stdout)["cache"]["layers"].startswith("4 layers")


def test_the_tables_are_read_on_80_columns(invoke: Invoke) -> None:
    text = invoke("size", "pirate", "--memory", "16").stdout
    assert "Q4_K_M" in text
    assert "until 0.34" in text
    assert "Q8_0 with num_ctx 8192" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_model_that_nobody_knows_is_told(invoke: Invoke) -> None:
    assert invoke("size", "no/such").exit_code == 3
    assert invoke("size", "nothing").exit_code == 2
