"""Before a run starts, Axolotl's own validation is asked about its config: once, and never about a bundled recipe."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Invoke

Command = Callable[..., subprocess.CompletedProcess[str]]
REFUSAL = {"errors": [{"loc": ["optimizer"], "message": "no such optimizer"}], "warnings": ["be careful"]}


def answering(environment: Path, answer: object) -> Path:
    """Let the environment's python answer so when it is asked to validate; the file that counts how often it was."""
    asked = environment / "asked"
    python = environment / "bin/python"
    text = python.read_text(encoding="utf-8")
    first, *rest = text.splitlines()
    said = f"""case "$1" in */validate.py) echo >> {asked}; echo '{json.dumps(answer)}'; exit;; esac"""
    python.write_text("\n".join((first, said, *rest)) + "\n", encoding="utf-8")
    return asked


def test_what_axolotl_refuses_is_not_started(invoke: Invoke, fake_axolotl: Path, small_recipe: Path) -> None:
    answering(fake_axolotl, REFUSAL)
    done = invoke("run", str(small_recipe))
    assert done.exit_code == 2
    assert "no such optimizer" in done.stderr
    assert "AX050" in done.stderr
    assert "careful" not in done.stderr, "a warning stops nothing"
    assert not (small_recipe.parent / "runs").exists()


@pytest.mark.slow
def test_each_config_is_asked_about_once(command: Command, fake_axolotl: Path, small_recipe: Path) -> None:
    asked = answering(fake_axolotl, {"errors": [], "warnings": []})
    first = command("run", str(small_recipe), "--until", "train")
    assert first.returncode == 0, first.stderr
    assert "asking Axolotl" in first.stderr
    again = command("run", str(small_recipe), "--until", "train")
    assert "asking Axolotl" not in again.stderr, "where a run writes makes it no other config"
    assert len(asked.read_text(encoding="utf-8")) == 1
    command("run", str(small_recipe), "--until", "train", "--set", "train.learning_rate=1.0e-5")
    assert len(asked.read_text(encoding="utf-8")) == 2


@pytest.mark.slow
def test_a_bundled_recipe_as_it_came_is_not_asked_about(command: Command, fake_axolotl: Path) -> None:
    asked = answering(fake_axolotl, REFUSAL)
    done = command("run", "pirate-tiny", "--until", "train")
    assert "asking Axolotl" not in done.stderr
    assert "no such optimizer" not in done.stderr
    assert not asked.exists()
