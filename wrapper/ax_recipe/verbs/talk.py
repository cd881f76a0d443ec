"""Talking to the model of a run on this terminal: in Ollama when it is deployed there, else with transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

from ax_recipe import assets, process
from ax_recipe.axolotl import QUIET
from ax_recipe.errors import RecipeError
from ax_recipe.run.rundir import RunDir, refuse_foreign


def talk(run: RunDir) -> int:
    """Run the conversation and give its exit code.

    :raises RecipeError: the run has no model yet.
    """
    refuse_foreign(run)
    orders = run.read_json(run.orders)
    if run.current_state().stage("deploy").state == "done" and run.deployed.is_file() and shutil.which("ollama"):
        there = run.read_json(run.deployed)
        return process.attached(["ollama", "run", there["model"]], {"OLLAMA_HOST": there["host"]})
    model = Path(orders["model"])
    if not (model / "config.json").is_file():
        raise RecipeError(f"{run.name} has no model yet: {model} is not there", f"ax-recipe resume {run.word}")
    argv = [orders["axolotl"]["python"], str(assets.probe("answer.py")), "--chat", str(model)]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return process.attached([*argv, orders["ship"]["system"] or ""], {**QUIET, **offline}, quiet=True)
