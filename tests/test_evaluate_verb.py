"""`ax-recipe evaluate`, with real processes, the fake axolotl and the fake Ollama: what it runs, says and ends with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ax_recipe.run import rundir
from ax_recipe.run.rundir import RunDir
from conftest import Invoke
from fake_ollama import CHATML, serve

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.usefixtures("fake_axolotl")


@pytest.fixture
def trained(command: Command, small_recipe: Path) -> Callable[[str], RunDir]:
    """A run of the small recipe with ``more`` in it, trained by the fake axolotl."""

    def train(more: str = "") -> RunDir:
        with small_recipe.open("a", encoding="utf-8") as file:
            file.write(more)
        done = command("run", str(small_recipe), "--until", "train")
        assert done.returncode == 0, done.stderr
        return rundir.find(rundir.root(), None)

    return train


def test_the_adapter_is_scored_against_its_base_and_passes(command: Command, trained: Callable[..., RunDir]) -> None:
    run = trained()
    done = command("evaluate", "--gate")
    assert done.returncode == 0, done.stderr
    assert "better (20 rows, 200 tokens)" in done.stdout
    assert "met     held-out loss against the base" in done.stdout
    record = run.current_state().stage("evaluate")
    assert record.state == "done"
    assert "row by row better than the base by 4.5" in record.detail
    assert command("report").returncode == 0
    assert "Against its base" in run.report.read_text()


@pytest.mark.slow
def test_a_missed_bar_fails_the_gate_and_nothing_else(command: Command, trained: Callable[..., RunDir]) -> None:
    trained("targets: {eval_loss: 1.2}\n")
    assert command("evaluate").returncode == 0
    done = command("evaluate", "--gate", "--json")
    assert done.returncode == 1
    bars = {bar["name"]: bar["met"] for bar in json.loads(done.stdout)["bars"]}
    assert bars == {"held-out loss against the base": True, "held-out loss": False}


def test_a_run_without_its_model_says_what_is_missing(
    invoke: Invoke, trained: Callable[..., RunDir], fake_axolotl: Path
) -> None:
    run = trained()
    for arguments, words in (
        (("--on", "merged"), "merged/config.json is not there"),
        (("--on", "ollama"), "ax-recipe deploy"),
        (("--on", "adapter", "--task", "piqa"), "whole models"),
    ):
        result = invoke("evaluate", *arguments)
        assert result.exit_code == 2
        assert words in result.stderr
    (run.output / "merged").mkdir()
    (run.output / "merged" / "config.json").write_text("{}", encoding="utf-8")
    # Without site-packages, so without lm-eval, which some versions of Axolotl bring along.
    (fake_axolotl / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', encoding="utf-8")
    missing = invoke("evaluate", "--task", "piqa")
    assert missing.exit_code == 3
    assert "pip install lm-eval" in missing.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_that_is_gone_is_told_before_anything_starts(
    command: Command, invoke: Invoke, trained: Callable[..., RunDir], name: str
) -> None:
    run = trained()
    (run.output / name).unlink()
    before = run.state.read_bytes()
    asked = (("merge",), ("merge", "--logits"), ("evaluate",), ("export", "--adapter"))
    for arguments in asked:
        result = invoke(*arguments, run.name)
        assert result.exit_code == 2
        assert f"{run.name} has no adapter: {run.output / name} is not there" in result.stderr
        assert f"ax-recipe resume {run.name} makes it anew from checkpoint-4" in result.stderr
    assert run.state.read_bytes() == before
    assert command("resume", run.name, "--until", "train").returncode == 0
    assert (run.output / name).is_file()
    for checkpoint in run.output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (run.output / name).unlink()
    assert f"ax-recipe resume {run.name} trains it" in invoke("merge").stderr
    with run.held():
        assert f"ax-recipe watch {run.name} shows how far it is" in invoke("merge").stderr


CHECKS = """\
checks:
  prompts: [Who goes there?, {ask: "Why?", contains: because}]
  matches: Arr
  at_least: 1
"""


def test_what_ollama_serves_is_asked_and_held_against_the_checks(
    invoke: Invoke, trained: Callable[..., RunDir]
) -> None:
    run = trained(CHECKS)
    run.write_json(run.deployed, {"host": "http://127.0.0.1:9", "model": "small"})
    rows = [
        {"prompt": "Who goes there?", "base": "I do.", "tuned": "?"},
        {"prompt": "Why?", "base": "No.", "tuned": "?"},
    ]
    run.write_json(run.answers, rows)
    with serve() as server:
        server.models["small:latest"] = {"template": CHATML}
        result = invoke("evaluate", "--on", "ollama", "--host", server.url, "--gate")
    assert result.exit_code == 0, result.output
    assert "0 of 2" in result.stdout
    assert "1 of 2" in result.stdout
    assert "no tuned: Arr.   ('because' is not in it)" in result.stdout
    assert "held-out" not in result.stdout


def test_a_recipe_that_asks_nothing_has_nothing_for_ollama(invoke: Invoke, trained: Callable[..., RunDir]) -> None:
    run = trained()
    run.write_json(run.deployed, {"host": "http://127.0.0.1:9", "model": "small"})
    result = invoke("evaluate", "--on", "ollama")
    assert result.exit_code == 2
    assert "Ollama tells no losses" in result.stderr
