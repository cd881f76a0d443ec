"""The plan: batch arithmetic, what the hardware decides, and where each key came from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe import plan, recipe
from ax_recipe.errors import RecipeError
from ax_recipe.hardware import CPU, KINDS, Hardware, parse


def keys(name: str, hardware: Hardware) -> dict[str, object]:
    made = plan.make(recipe.load(name), hardware, "/out", "/prepared", "/base")
    assert set(made.train.values) == set(made.train.origins)
    return dict(made.train.values)


@given(st.integers(1, 512), st.integers(1, 64), st.integers(1, 64))
def test_the_global_batch_is_kept_or_refused(rows: int, micro: int, gpus: int) -> None:
    train = replace(recipe.load("pirate").train, global_batch_size=rows, micro_batch_size=micro)
    if rows % gpus:
        with pytest.raises(RecipeError, match="cannot be split"):
            plan.batch(train, gpus)
        return
    got_micro, accumulation, _ = plan.batch(train, gpus)
    assert got_micro * accumulation * gpus == rows
    assert got_micro <= micro


def test_more_gpus_accumulate_less() -> None:
    four, one = keys("pirate", parse("4xA100-80GB")), keys("pirate", parse("1xA100-80GB"))
    assert (four["gradient_accumulation_steps"], one["gradient_accumulation_steps"]) == (4, 16)


def test_a_cpu_trains_in_float32_without_gpu_kernels() -> None:
    cpu = keys("pirate-tiny", CPU)
    assert (cpu["bf16"], cpu["fp16"], cpu["lora_mlp_kernel"]) == (False, False, False)
    assert "attn_implementation" not in cpu


def test_an_old_gpu_gets_neither_bfloat16_nor_packing() -> None:
    old = keys("pirate", Hardware(1, KINDS["T4-16GB"]))
    assert (old["bf16"], old["fp16"], old["sample_packing"]) == (False, True, False)


def test_ampere_packs_with_flash_attention_and_hopper_without() -> None:
    assert keys("pirate", parse("1xA100-80GB"))["attn_implementation"] == "flash_attention_2"
    assert keys("pirate", parse("1xH200-141GB"))["attn_implementation"] == "sdpa"


def test_a_raw_key_wins_and_says_over_what() -> None:
    mine = recipe.load("pirate", ["axolotl.sequence_len=512"])
    made = plan.make(mine, parse(4), "/out", "/prepared", "/base").train
    assert made.values["sequence_len"] == 512
    assert made.origins["sequence_len"].reason == "wins over 4096"


def test_the_plugin_joins_those_of_the_recipe() -> None:
    made = plan.with_plugin(plan.make(recipe.load("pirate"), parse(4), "/out", "/prepared", "/base"), "ours.Plugin")
    assert made.train.values["plugins"] == ["axolotl.integrations.liger.LigerPlugin", "ours.Plugin"]


def test_the_same_recipe_gives_the_same_plan() -> None:
    assert keys("pirate", parse(4)) == keys("pirate", parse(4))
