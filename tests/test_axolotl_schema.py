"""The shipped schema is what the installed Axolotl says, and our verdict on a value is pydantic's."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ax_recipe import assets
from ax_recipe.recipe.schema import check

PLAIN = {"base_model": "x", "learning_rate": 1e-4, "micro_batch_size": 1, "gradient_accumulation_steps": 1}
DATASETS = {"datasets": [{"path": "x", "type": "alpaca"}]}

# Asks the real model: for each (config, path) on stdin, true where it takes the config, false where it refuses what
# stands at that path, null where some other rule spoke first.
ASK = """
import json, logging, sys
from pydantic import ValidationError
from axolotl.integrations.config import merge_input_args
logging.disable(logging.CRITICAL)
_, AxolotlInputConfig = merge_input_args()  # from 0.20 on some plugins are always there
answers = []
for config, path in json.load(sys.stdin):
    try:
        AxolotlInputConfig(**config)
        answers.append(True)
    except ValidationError as error:
        about = [each for each in error.errors() if list(each["loc"][: len(path)]) == path]
        answers.append(False if about else None)
    except Exception:
        answers.append(None)
print("\\n" + json.dumps(answers))
"""

TEXTS = ["1", "1.0", "1.5", "1e-2", "1_000", " 7 ", "+1", "0x10", "nan", "inf", ".5", "1.", "true", "YES", "off"]
TEXTS += ["n", "00", "2", "abc", "auto", "all", "int8", "bilinear", "lora", "1_0.5", "-3", "1__0", "10 000"]
VALUES: list[Any] = [*TEXTS, True, False, 0, 1, 2, -1, 0.0, 1.0, 2.0, 1.5, 1e-4, 10**30, 1e300, None]
VALUES += [[], [1], ["a"], ["1", 2.5], [None], [[1, 2]], {}, {"a": 1}, {"a": "b"}, {"a": {"b": None}}, {"0": "x"}]

# Where more than the type speaks: names that Axolotl looks up after the model is loaded, old switches that it
# translates before pydantic sees their value, and single values that a validator of the field refuses.
APART = {"datasets", "plugins", "optimizer", "lr_scheduler", "neftune_noise_alpha", "save_safetensors"}
APART |= {"torch_compile_options", "fsdp_version", "version"}
APART |= {"context_parallel", "diffusion_lm", "label_balance_window_optim_steps", "quantize"}  # from 0.20
APART |= {f"{name}_attention" for name in ("eager", "flash", "flex", "sage", "sdp", "xformers")}


@pytest.fixture(scope="module")
def python() -> str:
    """The python of the environment that has Axolotl: this one, or that of the `axolotl` on PATH."""
    beside = Path(sys.executable).with_name("axolotl")
    found = str(beside) if beside.exists() else shutil.which("axolotl")
    if found is None:
        pytest.skip("no axolotl beside this python or on PATH")
    return str(Path(found).with_name("python"))


@pytest.fixture(scope="module")
def said(python: str) -> str:
    """What the probe prints there."""
    return run(python, str(assets.probe("axolotl_schema.py")))


def run(python: str, *arguments: str, stdin: str = "") -> str:
    env = {**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, *arguments], input=stdin, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.axolotl
def test_the_shipped_schema_is_what_the_installed_axolotl_says(said: str) -> None:
    shipped = assets.schemas() / f"axolotl-{json.loads(said)['axolotl']}.json"
    if not shipped.exists():
        pytest.skip(f"{shipped.name} is not shipped: the command asks this Axolotl once, and remembers")
    assert said == shipped.read_text("utf-8")


@pytest.mark.axolotl
def test_our_verdict_on_a_value_is_pydantics(python: str, said: str) -> None:
    schema = json.loads(said)["schema"]
    every = [(config(path, value), path) for path in paths(schema) for value in VALUES]
    asked = random.Random(19).sample(every, min(len(every), int(os.environ.get("AX_RECIPE_PAIRS", "600"))))
    answers = json.loads(run(python, "-c", ASK, stdin=json.dumps(asked)).splitlines()[-1])
    known = [(each, path, answer) for (each, path), answer in zip(asked, answers, strict=True) if answer is not None]
    wrong = [f"{each}: axolotl says {answer}" for each, path, answer in known if takes(schema, each, path) != answer]
    assert len(known) > 0.85 * len(asked)
    assert not wrong, f"{len(wrong)} of {len(known)} differ:\n" + "\n".join(wrong)


def paths(schema: dict[str, Any]) -> Iterator[list[str]]:
    """Every key of the top level and of the blocks below it, but those of plugins and the old ones."""
    for key, node in schema["properties"].items():
        if {"x-plugins", "x-removed", "x-alias-of"}.isdisjoint(node) and key not in APART:
            yield [key]
            blocks = [each["$ref"].split("/")[-1] for each in node.get("anyOf", ()) if "$ref" in each]
            inner = {each for block in blocks for each in schema["$defs"][block].get("properties", ())}
            yield from ([key, each] for each in sorted(inner - APART))


def config(path: list[str], value: Any) -> dict[str, Any]:
    """The shortest config with ``value`` at ``path``."""
    for part in reversed(path[1:]):
        value = {part: value}
    return {**PLAIN, **DATASETS, path[0]: value}


def takes(schema: dict[str, Any], value: dict[str, Any], path: list[str]) -> bool:
    """Whether our checker takes what stands at ``path``, as far as its type goes."""
    about = [each for each in check(value, schema) if (each.key or "").startswith(".".join(path))]
    return not any(each.code in ("AX002", "AX003", "AX004", "AX010") for each in about)
