"""ax-recipe plan: a recipe or a raw Axolotl YAML in, a verdict with its reasons out."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ax_recipe.forecast import cluster, forecast
from ax_recipe.forecast.architecture import from_config
from ax_recipe.forecast.hardware import parse
from ax_recipe.observe import events
from ax_recipe.recipe import recipe
from ax_recipe.view import plan as view
from ax_recipe.view.figures import duration
from conftest import ROOT, Invoke

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
RAW = {
    "base_model": "./model", "adapter": "qlora", "load_in_4bit": True, "lora_r": 64, "lora_dropout": 0.05,
    "lora_target_linear": True, "bf16": "auto", "gradient_checkpointing": True, "sequence_len": 4096,
    "micro_batch_size": 2, "gradient_accumulation_steps": 1, "sample_packing": True, "max_steps": 12,
    "optimizer": "paged_adamw_32bit", "attn_implementation": "sdpa", "chat_template": "llama3",
    "datasets": [{"path": "rows.jsonl", "type": "chat_template"}], "learning_rate": 0.0002,
}  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    path = tmp_path / "raw.yml"
    path.write_text(yaml.safe_dump(RAW), encoding="utf-8")
    return path


def planned(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    result = invoke("plan", *arguments, "--json")
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_a_raw_yaml_with_a_local_model(invoke: Invoke, raw: Path) -> None:
    """Measured on four H200, axolotl 0.19.0, torch 2.11: 20.53 GiB active, 23.22 reserved, 29,729 tokens/s."""
    found = planned(invoke, str(raw), "--gpus", "4xH200-141GB")
    assert found["fits"] is True
    assert found["memory"]["active_gib"] == pytest.approx(20.53, rel=0.01)
    assert found["memory"]["reserved_gib"] == pytest.approx(23.22, rel=0.03)
    assert found["tokens_per_second"] == pytest.approx(29_729, rel=0.35)
    assert found["steps"] == 12
    assert found["tokens_per_step"] == 4 * 2 * 4096
    assert found["seconds"] > 12 * found["tokens_per_step"] / found["tokens_per_second"]
    assert found["yaml"] == RAW
    parts = found["memory"]["parts"]
    shown = sum(size for name, size in parts.items() if name not in {"cached", "context"})
    assert shown == pytest.approx(found["memory"]["active_gib"], abs=0.01)


@pytest.mark.parametrize("name", [path.stem for path in recipe.bundled()])
def test_every_bundled_recipe_is_planned(invoke: Invoke, name: str) -> None:
    found = planned(invoke, name)
    assert found["yaml"]["output_dir"] == f"./outputs/{name}"
    assert found["steps"] > 0
    assert found["fits"] in {True, None}
    assert planned(invoke, name, "--gpus", "1xH100-80GB")["fits"] is True


def test_another_length_is_planned_anew(invoke: Invoke) -> None:
    """Longer rows are no longer of the shorter ones' choice."""
    usual, long = planned(invoke, "pirate"), planned(invoke, "pirate", "--seq", "32768")
    assert usual["yaml"]["gradient_checkpointing"] is False
    assert (long["yaml"]["sequence_len"], long["yaml"]["gradient_checkpointing"]) == (32768, True)
    assert long["fits"] is True


def test_explain_says_why_and_what_came_next(invoke: Invoke) -> None:
    text = " ".join(invoke("plan", "pirate", "--gpus", "1xH200-141GB", "--explain").stdout.split())
    for words in ("4 rows x 8 passes x 1 = 32 a step", "next best, 2 rows x 16 passes", "ways to train, best first"):
        assert words in text
    assert "ways to train" not in invoke("plan", "pirate-tiny", "--explain").stdout


def test_the_plan_of_a_recipe_is_of_what_render_prints(invoke: Invoke) -> None:
    rendered = yaml.safe_load(invoke("render", "pirate", "--gpus", "2").stdout)
    assert planned(invoke, "pirate", "--gpus", "2")["yaml"] == rendered


def test_the_levers_free_what_they_say(invoke: Invoke, raw: Path) -> None:
    before = planned(invoke, str(raw), "--gpus", "1xH200-141GB")
    assert [lever["frees_gib"] for lever in before["levers"]] == sorted(
        (lever["frees_gib"] for lever in before["levers"]), reverse=True
    )
    assert len(before["levers"]) == 3
    assert "Liger" in before["levers"][0]["change"]
    for lever in before["levers"]:
        raw.write_text(yaml.safe_dump({**RAW, **lever["keys"]}), encoding="utf-8")
        after = planned(invoke, str(raw), "--gpus", "1xH200-141GB")
        freed = before["memory"]["card_gib"] - after["memory"]["card_gib"]
        assert freed == pytest.approx(lever["frees_gib"], abs=0.01)
        assert after["yaml"].get("gradient_accumulation_steps", 1) * after["yaml"]["micro_batch_size"] == 2


def test_the_three_verdicts(invoke: Invoke, raw: Path) -> None:
    assert planned(invoke, str(raw), "--gpus", "1xRTX5090-32GB")["verdict"] == "fits"
    assert planned(invoke, str(raw), "--gpus", "1xRTX4090-24GB")["verdict"] == "will not fit"
    assert planned(invoke, str(raw), "--gpus", "1xRTX4090-24GB")["fits"] is False
    tight = planned(invoke, str(raw), "--gpus", "1xRTX4090-24GB", "--seq", "3840")
    assert tight["verdict"] == "tight", tight["memory"]
    assert tight["fits"] is True


def test_seq_is_the_sequence_length(invoke: Invoke, raw: Path) -> None:
    assert planned(invoke, str(raw), "--gpus", "1", "--seq", "1024")["yaml"]["sequence_len"] == 1024


def test_the_price_gives_the_cost(invoke: Invoke, raw: Path) -> None:
    found = planned(invoke, str(raw), "--gpus", "4xH200-141GB", "--price", "360")
    assert found["cost"] == pytest.approx(4 * found["seconds"] / 10, abs=0.05)
    assert planned(invoke, str(raw), "--gpus", "1")["cost"] is None


def test_local_rows_without_packing_set_the_length(invoke: Invoke, raw: Path) -> None:
    raw.write_text(yaml.safe_dump({**RAW, "sample_packing": False}), encoding="utf-8")
    without = planned(invoke, str(raw), "--gpus", "1xH200-141GB")
    row = {"messages": [{"role": "user", "content": "x" * 1600}]}
    (raw.parent / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = planned(invoke, str(raw), "--gpus", "1xH200-141GB")
    assert found["memory"]["active_gib"] < without["memory"]["active_gib"] / 2


def test_a_model_outside_gets_no_verdict_unless_its_weights_alone_are_too_many(invoke: Invoke, raw: Path) -> None:
    config = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8}
    (raw.parent / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = planned(invoke, str(raw), "--gpus", "1xH200-141GB")
    assert (found["fits"], found["verdict"], found["levers"]) == (None, "unknown", [])
    assert "a mixture of experts" in found["memory"]["outside"]
    assert planned(invoke, str(raw), "--gpus", "1xT4-16GB")["fits"] is False
    assert "outside the validated model: a mixture of experts" in invoke("plan", str(raw), "--gpus", "1").stdout


@pytest.mark.parametrize(
    ("change", "arguments", "code", "words"),
    [
        ({}, ("--gpus", "1xQ100"), 2, "unknown kind of GPU"),
        ({}, ("--gpus", "1xA100"), 2, "write one of A100-40GB, A100-80GB"),
        ({}, ("--set", "lora.r=8"), 2, "--set changes a recipe"),
        ({}, ("--seq", "0"), 2, "--seq"),
        ({"base_model": "./elsewhere"}, (), 3, "shape is not known here"),
        ({"micro_batch_size": "many"}, (), 2, "micro_batch_size"),
        ({"micro_batch_sise": 2}, (), 2, "micro_batch_size"),
    ],
)
def test_mistakes_are_named(
    invoke: Invoke, raw: Path, change: dict[str, Any], arguments: tuple[str, ...], code: int, words: str
) -> None:
    raw.write_text(yaml.safe_dump({**RAW, **change}), encoding="utf-8")
    result = invoke("plan", str(raw), *arguments)
    assert result.exit_code == code, result.output
    assert words in result.output


def test_a_name_that_is_no_recipe_is_told_the_nearest(invoke: Invoke) -> None:
    result = invoke("plan", "pirat")
    assert result.exit_code == 2
    assert "did you mean pirate" in result.output


def shown(found: forecast.Forecast, width: int, *, ascii_only: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None, record=True)
    console.print(view.picture(found, width, ascii_only=ascii_only))
    return console.export_text().splitlines()


def found_for(gpus: str, **change: Any) -> forecast.Forecast:
    return forecast.foretell("mine", {**RAW, **change}, parse(gpus), shape=from_config(LLAMA, "llama"), price=2.0)


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_the_bars_lie_one_after_the_other_within_the_width(width: int) -> None:
    lines = shown(found_for("1xH200-141GB", gradient_checkpointing=False), width)
    assert max(map(len, lines)) <= width
    bars = [line for line in lines if "█" in line]
    assert len(bars) >= 6
    starts = [line.index("█") for line in bars]
    assert starts == sorted(starts)
    assert len({len(line.rstrip()) for line in bars}) == 1


def test_words_say_what_the_bars_show() -> None:
    text = "\n".join(shown(found_for("1xRTX4090-24GB"), 100))
    for words in ("will not fit", "fullest at the loss", "frees most", "fused loss (Liger)", "steps", "2.00 an hour"):
        assert words in text


def test_what_is_foretold_of_pirate_tiny_adds_up_to_the_steps_that_it_took(invoke: Invoke) -> None:
    lines = (ROOT / "tests/logs/axolotl-0.19.0-pirate-tiny.jsonl").read_text().splitlines()
    began = next(event for event in map(events.from_json, lines) if isinstance(event, events.Began))
    rows = (f"train.{key}={began.micro_batch}" for key in ("micro_batch_size", "global_batch_size"))
    plan = ("plan", "pirate-tiny", "--gpus", "0", *(word for change in rows for word in ("--set", change)))
    assert json.loads(invoke(*plan, "--json").output)["steps"] == began.total_steps
    said = " ".join(invoke(*plan).output.split())
    numbers = re.search(r"([\d,]+) steps of (\d+) tokens, ([\d,]+) tokens/s, ([\d.]+) s a step: (\w+), with 60 s", said)
    assert numbers, said
    steps, tokens, speed, pace = (float(number.replace(",", "")) for number in numbers.groups()[:4])
    assert tokens / speed == pytest.approx(pace, rel=0.02)
    assert duration(steps * pace) == numbers[5]
    assert f"{duration(60 + steps * pace)} (no promise on a CPU)" in said


def test_ascii_terminals_get_ascii() -> None:
    assert "\n".join(shown(found_for("2xL4-24GB"), 80, ascii_only=True)).isascii()


def test_a_run_that_will_not_fit_is_not_started_unless_forced(
    invoke: Invoke, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("liger_kernel-0.8.1", "bitsandbytes-0.50.2"):
        (fake_axolotl / f"lib/python3.11/site-packages/{package}.dist-info").mkdir()
    monkeypatch.setattr(cluster, "here", lambda: parse("1xT4-16GB"))
    runs = fake_axolotl.parent / "runs"
    refused = invoke("run", "pirate", "--set", "base=Qwen/Qwen2.5-32B", "--trust", "--runs", str(runs))
    assert refused.exit_code == 2
    assert "pirate will not fit" in refused.stderr
    assert "--force starts it all the same" in refused.stderr
    assert "will not fit (" in refused.stderr.splitlines()[0], "the plan is shown first"
    assert not runs.exists()


def test_a_margin_that_a_plan_breaks_is_named() -> None:
    found = found_for("1xL4-24GB")
    full = replace(found, verdict="will not fit", memory=replace(found.memory, reserved_gib=22.0, context_gib=0.0))
    assert "will not fit (22.0 of 22.5 GiB on each GPU, 98%; 4% are left for fragmentation)" in shown(full, 120)[0]
    assert "fragmentation" not in shown(found, 120)[0]


def test_the_base_that_a_run_makes_is_foretold_too(invoke: Invoke) -> None:
    found = planned(invoke, "pirate-tiny")
    assert found["base_seconds"] > found["seconds"], "more and longer rows, more epochs"
    assert "before it the base is made, unless it is there: 730 steps of " in invoke("plan", "pirate-tiny").stdout
    assert planned(invoke, "pirate", "--gpus", "1xL4-24GB")["base_seconds"] is None


def test_no_verdict_for_the_cpu() -> None:
    lines = shown(found_for("0"), 80)
    assert "on the CPU: about " in lines[0]
    assert not any(word in "\n".join(lines) for word in ("verdict", "fits", "x 1 GPU"))


def test_render_stays_free_of_what_looks_at_runs() -> None:
    program = (
        "import sys; from ax_recipe.cli import main\n"
        "try: main(['render', 'pirate'])\n"
        "except SystemExit: pass\n"
        "bad = {'experience', 'view', 'checking', 'runs'}\n"
        "sys.exit(bool(bad & {name.removeprefix('ax_recipe.') for name in sys.modules}))"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, check=False, capture_output=True, env={"PYTHONPATH": str(ROOT / "wrapper")})
    assert done.returncode == 0
