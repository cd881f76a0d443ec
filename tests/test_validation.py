"""What we render is what Axolotl takes: its own full validation, for the hardware that each recipe is for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ax_recipe.checks import validation
from ax_recipe.plan.plan import Plan
from ax_recipe.plan.render import render
from ax_recipe.recipe import recipe
from ax_recipe.run import preparing
from conftest import installed_axolotl

pytestmark = [pytest.mark.axolotl, pytest.mark.slow]

VALIDATE = """
import json, sys, yaml
from axolotl.utils.config import prepare_plugins, validate_config
from axolotl.utils.dict import DictDefault
for path, capabilities in json.loads(sys.argv[1]):
    config = DictDefault(yaml.safe_load(open(path)))
    prepare_plugins(config)
    validate_config(config, capabilities=capabilities, env_capabilities={"torch_version": "2.11.0"})
    print("VALID", path)
"""
TARGETS = ("4xA100-80GB", "1xA100-40GB", "4xH200-141GB", "1xRTX4090-24GB", "1xT4-16GB", "0")


SPREAD = ("4xA100-80GB", "8xA100-80GB", "4xH100-80GB", "8xH100-80GB", "4xA6000-48GB", "8xH200-141GB")


def test_every_recipe_is_valid_on_every_kind_of_hardware(tmp_path: Path) -> None:
    names = [path.stem for path in recipe.bundled()]
    plans = [preparing.for_print(recipe.load(name), target, None) for name in names for target in (None, *TARGETS)]
    assert len(plans) >= 24
    refuse_invalid(plans, tmp_path)


def test_what_is_spread_over_the_gpus_is_valid(tmp_path: Path) -> None:
    """Full fine-tunes of 8B and 70B, a 70B QLoRA and a LoRA of 32B: most of them need FSDP 2 on four or eight GPUs."""
    changes = (
        ["method=full"],
        ["method=full", "base=meta-llama/Llama-3.1-70B"],
        ["base=meta-llama/Llama-3.1-70B", "chat_template=llama3"],
        ["method=lora", "base=Qwen/Qwen3-32B", "chat_template=qwen3"],
    )
    plans = [
        preparing.for_print(recipe.load("pirate", change), target, None) for change in changes for target in SPREAD
    ]
    spread = [plan.train.values for plan in plans if "fsdp_config" in plan.train.values]
    assert len(spread) >= 15
    assert {"adamw_torch_fused", "adamw_torch_8bit"} == {values["optimizer"] for values in spread}
    refuse_invalid(plans, tmp_path)


def refuse_invalid(plans: list[Plan], tmp_path: Path) -> None:
    """Ask the installed Axolotl about all of them at once."""
    cases = []
    for number, plan in enumerate(plans):
        path = tmp_path / f"{number}.yml"
        path.write_text(render(plan.train, plan.recipe.name, str(plan.hardware)), encoding="utf-8")
        cases.append((str(path), validation.capabilities(plan.hardware)))
    command = installed_axolotl()
    assert command is not None
    argv = [str(command.with_name("python")), "-c", VALIDATE, json.dumps(cases)]
    environment = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.count("VALID") == len(cases), done.stderr[-3000:]
