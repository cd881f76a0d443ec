"""The library: each recipe fits its data, its base's tokens and its hardware, and trains real steps on the CPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.forecast.memory import FITS, UNKNOWN
from ax_recipe.recipe import recipe
from ax_recipe.recipe.recipe import Recipe
from ax_recipe.run import planning, preparing
from ax_recipe.view import library
from conftest import ROOT, Invoke, installed_axolotl
from tiny_bases import DATA, TOKENS, reads, small, texts

RECIPES = {path.stem: recipe.load(path.stem) for path in recipe.bundled()}
FROM_HUB = {name: each for name, each in RECIPES.items() if isinstance(each.base, str)}
# `make recipes` trains them all. CI trains these: pairs of answers, and a stream of plain text.
QUICK = ("smollm2-1.7b-dpo", "qwen3-1.7b-pretrain")
CHOSEN = sorted(FROM_HUB) if os.environ.get("AX_RECIPE_LIBRARY") == "all" else QUICK
if os.environ.get("AX_RECIPE_LIBRARY") not in {None, "all"}:
    CHOSEN = os.environ["AX_RECIPE_LIBRARY"].split(",")
STEPS = 4

hub = pytest.mark.parametrize("name", sorted(FROM_HUB))


def test_the_library_is_what_people_look_for() -> None:
    bases = " ".join(str(each.base) for each in FROM_HUB.values())
    for family in ("Llama-3.1-8B", "Llama-3.2-1B", "Llama-3.2-3B", "70B", "Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B"):
        assert family in bases, family
    for family in ("Qwen3-8B", "Qwen3-14B", "Qwen3-32B", "mistral-7b", "Small-24B", "gemma-3-1b", "gemma-3-4b"):
        assert family in bases, family
    assert "phi-4" in bases
    assert "SmolLM2" in bases
    assert len(RECIPES) >= 20
    assert {each.method for each in RECIPES.values()} == {"full", "lora", "qlora"}
    assert {each.rl for each in RECIPES.values()} == {None, "dpo", "orpo"}


def test_the_table_of_recipes_is_current() -> None:
    spec = importlib.util.spec_from_file_location("recipe_docs", ROOT / "docs/recipes.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "recipes/README.md").read_text(encoding="utf-8")
    assert written == script.page(written), "python docs/recipes.py writes it anew"
    assert all(f"| `{name}` |" in written for name in RECIPES)


@hub
def test_its_data_set_has_the_columns_the_config_and_the_split(name: str) -> None:
    found = RECIPES[name]
    for dataset in found.data:
        known = DATA[str(dataset["path"])]
        row = next(iter(known.rows()))
        assert set(reads(found, dataset)) <= set(row)
        assert dataset.get("name") in (known.configs or (None,))
        assert str(dataset.get("split", "train")).partition("[")[0] in known.splits


@hub
def test_its_special_tokens_are_in_its_bases_vocabulary_and_no_turn_ends_in_the_padding(name: str) -> None:
    found = RECIPES[name]
    tokens = TOKENS[str(found.base)]
    own = found.axolotl.get("special_tokens", {})
    named = {**tokens.named, **own}
    assert set(named.values()) <= set(tokens.special)
    assert "pad_token" in named, "its tokenizer names no padding, so the recipe must"
    # A padding that equals the end is told from it by its place; one that a recipe names is better told by its id.
    assert "pad_token" not in own or named["pad_token"] != named["eos_token"]


ENDS = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>", "qwen3": "<|im_end|>", "gemma3": "<end_of_turn>"}


@hub
def test_a_turn_ends_with_what_the_chat_template_writes(name: str) -> None:
    found = RECIPES[name]
    named = {**TOKENS[str(found.base)].named, **found.axolotl.get("special_tokens", {})}
    template = str(found.chat_template)
    ends = "</s>" if template.startswith("mistral") else ENDS.get(template)
    if ends:
        assert named["eos_token"] == ends


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_its_header_says_what_and_where_in_few_lines(name: str) -> None:
    lines = RECIPES[name].file.read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[:7] if line.startswith("#")]
    assert 2 <= len(header) <= 6
    assert max(map(len, lines)) <= 124
    assert len(str(RECIPES[name].about)) <= 72


def test_the_list_has_80_columns_and_the_small_before_the_large() -> None:
    rows = list(library.lines(list(RECIPES.values()), 80))
    assert max(map(len, rows)) <= 80
    names = [line.split()[0] for line in rows if line[:1].strip()][1:]
    assert sorted(names) == sorted(RECIPES)
    assert names.index("qwen3-4b-tools") < names.index("qwen3-14b-chat") < names.index("qwen3-32b-chat")
    assert rows.count("") == len({name.partition("-")[0] for name in names})
    assert next(line for line in rows if line.startswith("mistral-7b-orpo")).split()[1:4] == [
        "qlora,", "orpo", "1xA100-40GB",
    ]  # fmt: skip


def case(name: str, folder: Path) -> dict[str, Any]:
    """The recipe as the CPU gets it, with a tiny base, few rows, and few but large steps."""
    found: Recipe = recipe.load(
        name,
        [
            f"train.max_steps={STEPS}", "train.sequence_len=1024", "train.global_batch_size=4", "train.num_epochs=1",
            "train.learning_rate=5e-3", "train.saves_per_epoch=1",
        ],
    )  # fmt: skip
    plan = preparing.for_print(found, "0", None)
    datasets, rows = [], []
    for index, dataset in enumerate(plan.train.values["datasets"]):
        made = list(DATA[str(found.data[index]["path"])].rows())
        rows += made
        path = folder / f"rows-{index}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
        kept = {key: value for key, value in dataset.items() if key not in {"path", "name", "split"}}
        datasets.append({"path": str(path), "ds_type": "json", "split": "train", **kept})
    # Four steps are all warmth.
    values = {key: value for key, value in plan.train.values.items() if not key.startswith("warmup")}
    own = {
        "base_model": str(folder / "base"), "datasets": datasets, "output_dir": str(folder / "out"),
        "dataset_prepared_path": str(folder / "prepared"), "dataloader_num_workers": 0,
    }  # fmt: skip
    if "val_set_size" in values:
        own["val_set_size"] = 0.1
    return {
        "name": name, "folder": str(folder), "config": {**values, **own}, "model": small(str(found.base)),
        "tokenizer": TOKENS[str(found.base)].as_json(), "texts": texts(rows),
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """Train the chosen recipes, one after another, in one process of the training environment."""
    place = tmp_path_factory.mktemp("library")
    command = installed_axolotl()
    assert command is not None
    cases = place / "cases.json"
    cases.write_text(json.dumps([case(name, place / name) for name in CHOSEN]), encoding="utf-8")
    argv = [str(command.with_name("python")), str(ROOT / "tests/tiny_training.py"), str(cases)]
    environment = {**os.environ, "HOME": str(place), "HF_HOME": str(place / "hub")}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, cwd=place)
    seen = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert sorted(seen) == sorted(CHOSEN), done.stderr[-3000:]
    return seen


@pytest.mark.axolotl
@pytest.mark.slow
@pytest.mark.parametrize("name", CHOSEN)
def test_it_trains(name: str, trained: Mapping[str, dict[str, Any]]) -> None:
    seen, found = trained[name], FROM_HUB[name]
    assert "error" not in seen, seen["error"][-1500:]
    assert seen["steps"] == STEPS
    assert len(seen["losses"]) >= STEPS
    assert None not in seen["losses"]
    assert min(seen["losses"][1:]) < seen["losses"][0]
    assert all(seen["gradients"])
    kind = "adapter_model.safetensors" if found.method != "full" else "model.safetensors"
    assert kind in seen["files"]
    assert seen["eos"] != seen["pad"] or "pad_token" not in found.axolotl.get("special_tokens", {})
    if found.method != "full":
        assert all("lora" in each for each in seen["trained"])
        assert not [each for each in seen["trained"] if "vision" in each]
    if seen["learnt"] is not None:
        assert seen["learnt"].rstrip().endswith(seen["eos"])
        assert "What comes after" not in seen["learnt"], "questions are not learnt"
    if found.val_set_size:
        assert seen["eval_losses"]
        assert None not in seen["eval_losses"]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_its_plan_fits_the_hardware_that_it_is_for(name: str) -> None:
    found = planning.of_file(name, None, None)
    assert found.verdict == (FITS if found.hardware.kind else UNKNOWN)
    assert found.shape.outside is None


@pytest.mark.parametrize("name", ["llama-70b-qlora", "llama-8b-full"])
def test_what_no_gpu_holds_with_ease_is_spread(name: str) -> None:
    assert planning.of_file(name, None, None).keys["fsdp_version"] == 2


@pytest.mark.usefixtures("fake_axolotl")
def test_pairs_of_answers_are_scored_in_training_alone(
    invoke: Invoke,
) -> None:
    """`axolotl evaluate` loads the adapter as the reference, too: it says ln 2 where training last said 0.415."""
    shown = invoke("run", "smollm2-1.7b-dpo", "--gpus", "0", "--dry-run")
    assert "# evaluate: left out, of pairs of answers" in shown.stdout, shown.stderr


def test_phi_gets_no_lora_kernels() -> None:
    """Axolotl 0.19 looks for q_proj in the source of its attention, and fails: "Original QKV code not found"."""
    assert planning.of_file("phi4-chat", None, None).keys["lora_qkv_kernel"] is False
