"""What several machines send each other: by hand for one model, and what it makes of the plan."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ax_recipe.forecast import hardware, network
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.settings import Settings, resolve
from ax_recipe.plan import plan
from ax_recipe.recipe import recipe
from conftest import ROOT, Invoke

ADAPTER = 167_772_160  # of r = 64 on every linear layer of Llama 3.1 8B
NODES = hardware.over(hardware.parse("8xH200-141GB"), 4, 100.0)


def found(keys: dict[str, object], machines: Hardware = NODES) -> tuple[Shape, Settings]:
    shape = plan.shape_of(recipe.load("pirate"))
    assert shape
    return shape, resolve(
        {"sequence_len": 4096, "lora_target_linear": True, "micro_batch_size": 1, **keys}, machines, shape
    )


def test_an_adapters_gradients_go_round_twice() -> None:
    shape, settings = found({"adapter": "qlora", "lora_r": 64, "gradient_accumulation_steps": 4})
    between = network.traffic(shape, settings, NODES)
    assert between.sent == 2 * ADAPTER * 4 * 3 / 4
    assert between.seconds == pytest.approx(between.sent * 8 / 100e9 / network.USABLE)


def test_weights_in_pieces_are_fetched_for_each_pass() -> None:
    fsdp = {"fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}
    once, four = (found({**fsdp, "gradient_accumulation_steps": number}) for number in (1, 4))
    one = network.traffic(*once, NODES)
    assert one.sent == pytest.approx(3 * once[0].parameters * once[1].bytes * 3 / 4)
    assert network.traffic(*four, NODES).sent == 4 * one.sent


def test_one_machine_sends_nothing() -> None:
    assert network.traffic(*found({"adapter": "lora"}), replace(NODES, nodes=1)).sent == 0


def test_the_plan_says_what_the_network_costs(invoke: Invoke) -> None:
    def told(*options: str) -> dict[str, float]:
        value = json.loads(invoke("plan", "pirate", "--gpus", "8xH200-141GB", "--json", *options).output)
        return {**value["network"], "speed": value["tokens_per_second"], "step": value["tokens_per_step"]}

    rows = ("--set", "train.global_batch_size=64")
    one, two, slow = told(*rows), told(*rows, "--nodes", "2"), told(*rows, "--nodes", "2", "--bandwidth", "1")
    assert one["sent"] == 0
    assert two["step"] == one["step"]
    assert one["speed"] < two["speed"] < 2 * one["speed"]
    assert slow["seconds"] == pytest.approx(100 * two["seconds"])
    assert slow["speed"] < one["speed"]
    words = invoke("plan", "pirate", "--gpus", "8", "--nodes", "2", *rows).output
    assert "2 nodes of 8xA100-80GB" in words
    assert "each machine sends 0.671 GB a step" in words


@pytest.mark.parametrize("place", ["s3://bucket/rows.jsonl", "gs://bucket/rows.parquet", "hf://datasets/a/b/c.json"])
def test_object_storage_is_passed_through(place: str, tmp_path: Path, invoke: Invoke) -> None:
    text = f"base: NousResearch/Meta-Llama-3.1-8B\ndata: [{{path: '{place}', type: alpaca}}]\n"
    (tmp_path / "far.yaml").write_text(text)
    rendered = invoke("render", str(tmp_path / "far.yaml"))
    assert rendered.exit_code == 0, rendered.output
    assert f"path: {place}\n" in rendered.output


def test_the_page_is_what_its_script_works_out() -> None:
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "docs/scaling.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs/nodes.md").read_text(encoding="utf-8")
    assert written.count(script.BEGIN) == 3
    assert written == script.page(written), "python docs/scaling.py writes it anew"
