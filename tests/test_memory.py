"""The memory model beside measured runs, and the ways in which memory must and must not grow."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.forecast import architecture, kept, memory
from ax_recipe.forecast.hardware import CPU, parse
from ax_recipe.forecast.memory import Memory
from ax_recipe.forecast.settings import LIGER, OPTIMIZERS, Settings, resolve
from conftest import ROOT

LLAMA = architecture.find("NousResearch/Meta-Llama-3.1-8B")
H200 = parse("1xH200-141GB")
CUT = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
QLORA: dict[str, Any] = {
    "adapter": "qlora", "load_in_4bit": True, "lora_r": 64, "lora_dropout": 0.05, "lora_target_linear": True,
    "bf16": "auto", "gradient_checkpointing": True, "sequence_len": 4096, "micro_batch_size": 2,
    "sample_packing": True, "optimizer": "paged_adamw_32bit", "attn_implementation": "sdpa",
}  # fmt: skip
FULL = {"bf16": True, "gradient_checkpointing": True, "sequence_len": 4096, "sample_packing": True}
FUSED = {"plugins": [LIGER], "liger_fused_linear_cross_entropy": True}
LIGERS = {**FUSED, "liger_rope": True, "liger_rms_norm": True, "liger_glu_activation": True}


def settings(keys: Mapping[str, Any], gpus: str = "1xH200-141GB", longest: int | None = None) -> Settings:
    return resolve(keys, parse(gpus), LLAMA, longest)


def needed(keys: Mapping[str, Any], gpus: str = "1xH200-141GB", longest: int | None = None) -> Memory:
    return memory.estimate(LLAMA, settings(keys, gpus, longest))


def calibrate() -> Any:
    spec = importlib.util.spec_from_file_location("calibrate", ROOT / "benchmarks" / "calibrate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("group", ["fitted", "held out"])
def test_measured_runs_are_foretold(group: str) -> None:
    """Measured on an H200, axolotl 0.19.0, torch 2.11: benchmarks/measured.json."""
    script = calibrate()
    off: dict[str, list[float]] = {}
    for row in script.rows(script.TABLE):
        for figure, _, error in script.errors(row):
            if script.group(row) == group:
                off.setdefault(figure, []).append(abs(error))
    assert len(off["active_gib"]) >= 10
    assert median(off["active_gib"]) <= 0.005
    assert max(off["active_gib"]) <= 0.05
    assert median(off["reserved_gib"]) <= 0.02
    assert max(off["reserved_gib"]) <= 0.08
    assert max(off["tokens_per_second"]) <= 0.2


def test_the_parts_of_a_measured_run() -> None:
    """Its log says 6.03 GiB after the training: weights, adapter and workspace, for paged state is not torch's."""
    parts = needed(QLORA).parts
    kept = parts.weights + parts.adapter + parts.workspace + parts.optimizer
    assert kept == pytest.approx(6.03, abs=0.01)
    assert parts.activations == pytest.approx(2.0)
    assert parts.gradients == 0
    assert parts.optimizer < 0.04  # the tensors that are too small to page


def test_a_measured_evaluation() -> None:
    """16.44 to 16.50 GiB in the log of four GPUs."""
    run = needed({**QLORA, "val_set_size": 0.02, "evals_per_epoch": 2}, "4xH200-141GB")
    assert run.moments["evaluation"] == pytest.approx(16.47, abs=0.05)
    assert run.moment == "loss"


def test_with_a_fused_loss_the_evaluation_is_the_peak() -> None:
    """Liger makes the logits in evaluation; fewer rows there help."""
    keys = {**QLORA, **LIGERS, "val_set_size": 0.02, "evals_per_epoch": 2}
    assert needed(keys).moment == "evaluation"
    assert needed({**keys, "eval_batch_size": 1}).active_gib < needed(keys).active_gib - 4
    assert "evaluation" not in needed({**keys, "val_set_size": 0}).moments


def test_adapter_parameters_of_an_8b_are_exact() -> None:
    assert memory.adapter_parameters(LLAMA, settings(QLORA)) == 167_772_160
    some = settings({**QLORA, "lora_target_linear": False, "lora_target_modules": ["q_proj", "v_proj"]})
    assert memory.adapter_parameters(LLAMA, some) == 64 * 32 * (4096 + 4096 + 4096 + 1024)


def test_the_parts_add_up_to_the_peak() -> None:
    for keys in (QLORA, {**QLORA, **LIGERS}, FULL):
        run = needed(keys)
        assert run.parts.total == pytest.approx(run.active_gib) == pytest.approx(max(run.moments.values()))
        assert run.active_gib < run.reserved_gib < run.card_gib


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}, "weights"),
        ({"adapter": "lora", "load_in_4bit": False}, "weights"),
        ({"optimizer": "adamw_torch_fused"}, "optimizer"),
        ({"optimizer": "adamw_8bit"}, "optimizer"),
        ({"gradient_accumulation_steps": 2}, "gradients"),
        ({"lora_r": 128}, "adapter"),
        ({"gradient_checkpointing": False}, "activations"),
        ({"micro_batch_size": 4}, "logits"),
    ],
)
def test_what_costs_more_costs_it_in_its_part(change: dict[str, Any], part: str) -> None:
    assert getattr(needed({**QLORA, **change}).parts, part) > getattr(needed(QLORA).parts, part)


@pytest.mark.parametrize(
    ("keys", "change"),
    [
        (QLORA, FUSED),
        (QLORA, {"plugins": [CUT]}),
        ({**QLORA, "gradient_checkpointing": False}, LIGERS),
        ({**QLORA, "gradient_checkpointing": False, **LIGERS}, {"lora_dropout": 0}),
        ({**QLORA, "gradient_checkpointing": False, **LIGERS}, {"attn_implementation": "flash_attention_2"}),
        ({**QLORA, **LIGERS, "lora_mlp_kernel": False, "lora_qkv_kernel": False}, {"lora_mlp_kernel": True}),
        (FULL, {"optimizer": "adamw_8bit"}),
    ],
)
def test_what_saves_memory_saves_it(keys: dict[str, Any], change: dict[str, Any]) -> None:
    assert needed({**keys, **change}).active_gib < needed(keys).active_gib


def test_a_full_fine_tune_keeps_its_embeddings_wide() -> None:
    """Measured after the training: 50.81 GiB (8B, fused AdamW), 35.09 (8B, 8 bit)."""
    for optimizer, left in (("adamw_torch_fused", 50.81), ("adamw_8bit", 35.09)):
        parts = needed({**FULL, **LIGERS, "optimizer": optimizer}).parts
        assert parts.weights + parts.optimizer + parts.workspace == pytest.approx(left, rel=0.002)


def test_flash_attention_narrows_the_embeddings_of_a_full_fine_tune() -> None:
    parts = needed({**FULL, **LIGERS, "attn_implementation": "flash_attention_2"}).parts
    assert parts.weights + parts.optimizer == pytest.approx(6 * LLAMA.parameters / memory.GIB)


def test_spreading_the_weights_takes_less_of_each_gpu() -> None:
    keys = {**FULL, **FUSED, "optimizer": "adamw_torch_fused"}
    zero = {
        stage: needed({**keys, "deepspeed": f"deepspeed_configs/zero{stage}.json"}, "8xH200-141GB") for stage in "123"
    }
    fsdp = needed({**keys, "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}, "8xH200-141GB")
    assert zero["1"].active_gib > zero["2"].active_gib > zero["3"].active_gib
    assert fsdp.active_gib < needed(keys, "8xH200-141GB").active_gib


def test_rows_that_are_not_packed_are_as_long_as_the_longest() -> None:
    keys = {**QLORA, "sample_packing": False}
    assert settings(keys, longest=430).slots == 2 * 448
    assert settings(keys).slots == 2 * 4096
    assert settings({**keys, "pad_to_sequence_len": True}, longest=430).slots == 2 * 4096
    assert settings(keys, longest=9000).slots == 2 * 4096


def test_kernels_switch_themselves_on_where_axolotl_does() -> None:
    assert settings(QLORA).mlp_kernel
    assert not settings({**QLORA, "lora_mlp_kernel": False, "lora_qkv_kernel": True}).mlp_kernel
    assert settings({**QLORA, "lora_mlp_kernel": False, "lora_qkv_kernel": True}).attention_kernel
    assert not settings({**QLORA, "lora_qkv_kernel": False}).attention_kernel
    assert not settings({**QLORA, "fsdp_config": {"a": 1}}, "2xH200-141GB").mlp_kernel
    assert not resolve(QLORA, CPU, LLAMA).mlp_kernel


@pytest.mark.parametrize(("stage", "layout"), [(0, "zero1"), (1, "zero1"), (2, "zero2"), (3, "zero3")])
def test_the_zero_stage_is_read_from_the_file(tmp_path: Path, stage: int, layout: str) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}), encoding="utf-8")
    found = resolve({**FULL, "deepspeed": "mine.json"}, parse("2xH200-141GB"), LLAMA, folder=tmp_path)
    assert found.layout == layout


def test_what_was_never_measured_says_so() -> None:
    assert not settings(QLORA).outside
    for more, word in (
        ({"rl": "dpo"}, "rl"),
        ({"optimizer": "muon"}, "muon"),
        ({"activation_offloading": True}, "activation_offloading"),
        ({"attn_implementation": "eager"}, "eager"),
    ):
        assert word in str(settings({**QLORA, **more}).outside)
    assert "the CPU" in resolve(QLORA, CPU, LLAMA).outside


def test_outside_the_model_the_weights_are_a_lower_bound() -> None:
    shape = replace(LLAMA, outside="a mixture of experts")
    run = memory.estimate(shape, resolve(QLORA, H200, shape))
    assert run.moment == "weights"
    assert run.active_gib == pytest.approx(LLAMA.parameters / 2 / memory.GIB)


KEYS = st.fixed_dictionaries(
    {
        "sequence_len": st.integers(64, 65536),
        "micro_batch_size": st.integers(1, 16),
        "gradient_accumulation_steps": st.integers(1, 8),
        "sample_packing": st.booleans(),
        "gradient_checkpointing": st.booleans(),
        "bf16": st.booleans(),
        "optimizer": st.sampled_from(sorted(OPTIMIZERS)),
        "attn_implementation": st.sampled_from(["sdpa", "flash_attention_2", "flex_attention"]),
    },
    optional={
        "adapter": st.sampled_from(["lora", "qlora"]),
        "lora_r": st.integers(1, 512),
        "lora_dropout": st.sampled_from([0, 0.05]),
        "lora_mlp_kernel": st.booleans(),
        "liger_rms_norm": st.booleans(),
        "liger_glu_activation": st.booleans(),
        "liger_fused_linear_cross_entropy": st.booleans(),
        "plugins": st.sampled_from([[LIGER], [CUT], []]),
        "val_set_size": st.sampled_from([0, 0.1]),
        "eval_steps": st.just(10),
    },
)
SHAPES = st.sampled_from(
    [architecture.find(name) for name in ("Qwen/Qwen3-0.6B", "microsoft/phi-4", "google/gemma-3-1b-it")]
)


def peak(shape: architecture.Shape, keys: Mapping[str, Any], gpus: str = "2xA100-80GB") -> float:
    return memory.estimate(shape, resolve(keys, parse(gpus), shape)).card_gib


@given(SHAPES, KEYS, st.sampled_from(["sequence_len", "micro_batch_size", "lora_r"]), st.integers(1, 100))
def test_more_of_anything_never_takes_less(
    shape: architecture.Shape, keys: dict[str, Any], key: str, more: int
) -> None:
    bigger = {**keys, key: keys.get(key, 8) + more}
    assert peak(shape, bigger) >= peak(shape, keys) * (1 - 1e-9)


@given(SHAPES, KEYS)
def test_checkpointing_and_four_bits_never_take_more(shape: architecture.Shape, keys: dict[str, Any]) -> None:
    without = {**keys, "gradient_checkpointing": False}
    assert needed_activations(shape, {**keys, "gradient_checkpointing": True}) <= needed_activations(shape, without)
    if keys.get("adapter"):
        parts = [memory.estimate(shape, resolve({**keys, "adapter": a}, H200, shape)).parts for a in ("qlora", "lora")]
        assert parts[0].weights < parts[1].weights


def needed_activations(shape: architecture.Shape, keys: Mapping[str, Any]) -> float:
    stored, _ = kept.stored(shape, resolve(keys, H200, shape))
    return stored


@given(SHAPES, KEYS)
def test_more_gpus_never_hold_more_each_when_sharded(shape: architecture.Shape, keys: dict[str, Any]) -> None:
    sharded = {**keys, "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}
    assert peak(shape, sharded, "8xA100-80GB") <= peak(shape, sharded, "2xA100-80GB") * (1 + 1e-9)
