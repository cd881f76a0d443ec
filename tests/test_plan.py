"""The plan: batch arithmetic, what the hardware decides, and where each key came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ax_recipe.axolotl import Axolotl
from ax_recipe.forecast.hardware import CPU, KINDS, Hardware, parse
from ax_recipe.plan import decide, plan
from ax_recipe.recipe import recipe
from ax_recipe.run import preparing, stages
from ax_recipe.run.rundir import RunDir


def keys(name: str, hardware: Hardware) -> dict[str, object]:
    made = plan.make(recipe.load(name), hardware, "/out", "/prepared", "/base")
    assert set(made.train.values) == set(made.train.origins)
    return dict(made.train.values)


def test_more_gpus_accumulate_less() -> None:
    four, one = keys("pirate", parse("4xA100-80GB")), keys("pirate", parse("1xA100-80GB"))
    assert (four["gradient_accumulation_steps"], one["gradient_accumulation_steps"]) == (4, 16)


def test_a_recipe_that_says_it_decides_it() -> None:
    said = ["train.micro_batch_size=1", "train.gradient_checkpointing=true", "train.optimizer=adamw_torch"]
    made = plan.make(recipe.load("pirate", said), parse("1xH200-141GB"), "/out", "/prepared", "/base").train
    for key, value in (("micro_batch_size", 1), ("gradient_checkpointing", True), ("optimizer", "adamw_torch")):
        assert (made.values[key], made.origins[key].source) == (value, "recipe")
    assert made.values["gradient_accumulation_steps"] == 32


def test_raw_keys_are_weighed_with_the_rest() -> None:
    """A raw micro-batch keeps the global batch; a raw choice of who holds the weights is not chosen over."""
    eight = recipe.load("pirate", ["axolotl.micro_batch_size=8"])
    assert plan.make(eight, parse("1xH200-141GB"), "/o", "/p", "/b").train.values["gradient_accumulation_steps"] == 4
    longer = recipe.load("pirate", ["axolotl.sequence_len=32768"])
    assert plan.make(longer, parse("1xH200-141GB"), "/o", "/p", "/b").train.values["gradient_checkpointing"] is True
    zero = recipe.load("pirate", ["method=full", "axolotl.deepspeed=deepspeed_configs/zero2.json"])
    assert "fsdp_config" not in plan.make(zero, parse("8xA100-80GB"), "/o", "/p", "/b").train.values


def test_packing_is_left_off_where_rows_would_not_be_kept_apart() -> None:
    assert keys("pirate-small", CPU)["sample_packing"] is False
    assert "eval_sample_packing" not in keys("pirate-small", CPU)
    asked = recipe.load("pirate-small", ["train.sample_packing=true"])
    assert plan.make(asked, CPU, "/out", "/prepared", "/base").train.values["sample_packing"] is True
    assert keys("pirate-small", parse("1xH200-141GB"))["sample_packing"] is True


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


def test_a_package_that_is_missing_changes_the_plan() -> None:
    bare = frozenset(["flash-attn", "liger-kernel"])
    made = plan.make(recipe.load("pirate"), parse("1xA100-80GB"), "/out", "/prepared", "/base", bare).train
    assert "plugins" not in made.values
    assert "eval_batch_size" not in made.values
    assert "from the hub" in made.origins["attn_implementation"].reason
    for packs, attention in ((True, "flex_attention"), (False, "sdpa")):
        mine = recipe.load("pirate", [f"train.sample_packing={str(packs).lower()}"])
        made = plan.make(mine, parse("1xA100-80GB"), "/out", "/prepared", "/base", bare | {decide.KERNEL}).train
        assert made.values["attn_implementation"] == attention


def test_an_evaluation_is_of_one_process(tmp_path: Path) -> None:
    """FSDP and DeepSpeed want several; merge-lora of Axolotl 0.19 leaves them off by itself, evaluate does not."""
    run = RunDir(tmp_path / "run")
    for gpus, name in (("4xA100-80GB", "alone.yaml"), ("1xA100-80GB", "axolotl.yaml")):
        made = plan.make(recipe.load("pirate", ["method=full"]), parse(gpus), "/out", "/prepared", "/base")
        by_name = {
            stage.name: stage for stage in stages.make(made, run, Axolotl(Path("axolotl"), Path("python"), "0.19.0"))
        }
        assert all(argv[2] == str(run.path / name) for argv in by_name["evaluate"].argvs)
        single = plan.alone(made.train)
        assert (single is None) == (gpus[0] == "1")
        assert single is None or made.train.values.keys() - single.values.keys() == {"fsdp_version", "fsdp_config"}


def test_the_plugin_joins_those_of_the_recipe() -> None:
    made = plan.with_plugin(plan.make(recipe.load("pirate"), parse(4), "/out", "/prepared", "/base"), "ours.Plugin")
    assert made.train.values["plugins"] == ["axolotl.integrations.liger.LigerPlugin", "ours.Plugin"]


def test_the_same_recipe_gives_the_same_plan() -> None:
    assert keys("pirate", parse(4)) == keys("pirate", parse(4))


@pytest.mark.parametrize(("here", "kind"), [("0", "A100-80GB"), ("8xH200-141GB", "H200-141GB")])
def test_a_bare_number_is_of_this_machines_gpus_as_it_is_for_a_run(
    here: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "here", lambda: parse(here))
    pirate = recipe.load("pirate")
    assert str(preparing.hardware_for(pirate, "2")) == f"2x{kind}"
    assert str(preparing.hardware_for(pirate, None)) == "4xA100-80GB"
