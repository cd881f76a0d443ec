"""What we render is what Axolotl takes: its own full validation, for the hardware that each recipe is for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ax_recipe import preparing, recipe
from ax_recipe.render import render
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


def test_every_recipe_is_valid_on_every_kind_of_hardware(tmp_path: Path) -> None:
    cases = []
    for name in (path.stem for path in recipe.bundled()):
        for target in TARGETS:
            plan = preparing.for_print(recipe.load(name), target, None)
            path = tmp_path / f"{name}-{target}.yml"
            path.write_text(render(plan.train, name, target), encoding="utf-8")
            kind, new = plan.hardware.kind, bool(plan.hardware.kind and plan.hardware.kind.has_bf16)
            capability = f"sm_{kind.compute_capability}" if kind else "sm_00"
            capabilities = {
                "bf16": new, "fp8": capability == "sm_90", "tf32": new, "n_gpu": plan.hardware.count, "n_node": 1,
                "compute_capability": capability,
            }  # fmt: skip
            cases.append((str(path), capabilities))
    command = installed_axolotl()
    assert command is not None
    argv = [str(command.with_name("python")), "-c", VALIDATE, json.dumps(cases)]
    environment = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.count("VALID") == len(cases) == 24, done.stderr[-3000:]
