"""The whole line on real Axolotl: a base is pre-trained, taught pirate, merged, checked, exported and asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ax_recipe import outcomes, recipe, rundir
from ax_recipe.rundir import RunDir
from ax_recipe.ship import modelfile
from conftest import ROOT
from engines import ask_both

pytestmark = [pytest.mark.axolotl, pytest.mark.slow]


@dataclass(frozen=True)
class Done:
    """A finished run of pirate-tiny, and how its command ended."""

    run: RunDir
    command: subprocess.CompletedProcess[str]
    environment: dict[str, str]

    def again(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return ax_recipe(self.environment, *arguments, text=text)


def ax_recipe(
    environment: dict[str, str], *arguments: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ax_recipe", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, input=text or "")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Run the README's command once, with a cache and a runs folder of its own; three minutes on two cores."""
    place = tmp_path_factory.mktemp("pirate-tiny")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "wrapper"),
        "AX_RECIPE_CACHE": str(place / "cache"),
        "AX_RECIPE_RUNS": str(place / "runs"),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("AX_RECIPE_AXOLOTL", None)
    command = ax_recipe(environment, "run", "pirate-tiny")
    return Done(rundir.find(place / "runs", None), command, environment)


def test_it_ends_well(done: Done) -> None:
    assert done.command.returncode == 0, done.command.stderr
    states = {stage.name: stage.state for stage in done.run.current_state().stages}
    assert states == {
        "base": "done",
        "preprocess": "skipped",
        "train": "done",
        "evaluate": "done",
        "merge": "done",
        "check-merge": "done",
        "export": "done",
        "deploy": "skipped",
        "chat": "done",
    }


def test_held_out_questions_are_answered_by_a_pirate_and_were_not_before(done: Done) -> None:
    rows = done.run.read_json(done.run.answers)
    held_out = (ROOT / "recipes/pirate-tiny/held-out.jsonl").read_text(encoding="utf-8").splitlines()
    questions = {json.loads(line)["messages"][0]["content"] for line in held_out}
    assert len(rows) == 10
    assert {row["prompt"] for row in rows} <= questions
    checks = recipe.load("pirate-tiny").checks
    assert checks is not None
    assert sum(bool(re.search(checks.matches, row["tuned"])) for row in rows) >= 8
    assert not [row for row in rows if re.search(checks.matches, row["base"])]


def test_the_held_out_loss_falls_by_more_than_half(done: Done) -> None:
    events = [json.loads(line) for line in done.run.events.read_text(encoding="utf-8").splitlines()]
    losses = [event["values"]["eval_loss"] for event in events if event["event"] == "evaluation"]
    assert losses[-1] < losses[0] / 2
    # `axolotl evaluate` scored the adapter, not the base.
    assert float(re.findall(r"-> ([\d.]+)", done.run.read_state().stage("evaluate").detail)[0]) == pytest.approx(
        losses[-1], abs=2e-3
    )


def test_the_base_is_as_it_was_made_byte_for_byte(done: Done) -> None:
    base = Path(done.run.read_json(done.run.orders)["base"])
    assert outcomes.is_made(base)
    assert "model.safetensors" in json.loads((base / "made.json").read_text())


def test_the_merge_has_the_trained_chat_template(done: Done) -> None:
    merged = done.run.output / "merged"
    config = json.loads((merged / "tokenizer_config.json").read_text())
    assert "<|start_header_id|>" in config["chat_template"]
    assert (merged / "tokenizer.json").read_bytes() == (done.run.output / "tokenizer.json").read_bytes()


def test_the_modelfile_says_how_to_ask_and_when_to_stop(done: Done) -> None:
    value = modelfile.parse(done.run.modelfile.read_text(encoding="utf-8"))
    assert value.stops == ("<|eot_id|>",)
    assert value.parameters["num_ctx"] == 256
    assert "<|start_header_id|>" in (value.template or "")
    assert (done.run.path / value.source / "model.safetensors").is_file()


def test_the_plugin_was_in_the_trainer_and_the_log_is_axolotls(done: Done) -> None:
    assert yaml.safe_load(done.run.axolotl_yaml.read_text())["plugins"] == ["ax_recipe_events.EventsPlugin"]
    assert '"registered"' in done.run.events.read_text(encoding="utf-8")
    assert "Model successfully saved" in done.run.log("train", 1).read_text(encoding="utf-8")


def test_it_talks_on_the_terminal(done: Done) -> None:
    talk = done.again("chat", text="What do spiders spin?\n")
    assert talk.returncode == 0, talk.stderr
    row = done.run.read_json(done.run.answers)[0]
    assert row["tuned"] in talk.stdout


def test_the_logs_tell_the_same_story_as_the_events(done: Done) -> None:
    log = done.again("replay", str(done.run.log("train", 1)), "--json")
    state = json.loads(log.stdout)
    assert (state["status"], state["step"]) == ("finished", state["total_steps"])
    watched = done.again("watch", "--json")
    steps = [json.loads(line) for line in watched.stdout.splitlines() if '"event": "step"' in line]
    assert steps[-1]["step"] == state["step"]


def test_a_stage_can_be_done_once_more(done: Done) -> None:
    again = done.again("export")
    assert again.returncode == 0, again.stderr
    assert done.run.read_state().stage("export").attempt == 2


def test_a_second_run_starts_from_the_base_that_is_there(done: Done) -> None:
    second = done.again("run", "pirate-tiny", "--until", "base")
    assert second.returncode == 0, second.stderr
    assert "made before from the same text" in second.stderr


def test_the_engine_of_ollama_answers_token_for_token_as_trained(done: Done, tmp_path: Path) -> None:
    """The GGUF for Ollama in llama.cpp's server, against the merged model in transformers: prompts, ids, answers."""
    orders = done.run.read_json(done.run.orders)
    conversations = [[{"role": "user", "content": prompt}] for prompt in orders["checks"]["prompts"]]
    conversations.append([*conversations[0], {"role": "assistant", "content": "Arr."}, *conversations[1]])
    asked = ask_both(Path(orders["model"]), tmp_path, Path(orders["axolotl"]["python"]), conversations)
    assert not [check for check in asked.export.checks if check.verdict == "error"]
    for key in ("prompt", "ids", "answer"):
        assert [row[key] for row in asked.shipped] == [row[key] for row in asked.trained], key
    assert {row["ended"] for row in asked.shipped} == {"eos"}
