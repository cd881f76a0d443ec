"""Measure a run's model once more, in the form that a person names: its losses, its answers, and lm-eval's tasks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ax_recipe import assets, diagnose, process
from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.launch import outcomes, runner
from ax_recipe.results import evaluation
from ax_recipe.results.evaluation import Bar, Evaluation, Form
from ax_recipe.run import runs
from ax_recipe.run.rundir import RunDir, refuse_foreign, write
from ax_recipe.ship.ollama import Ollama
from ax_recipe.survive import footing

Orders = dict[str, Any]
Say = Callable[[str], None]
POLL_S = 0.2
LONGEST_ANSWER_TOKENS = 256  # as probes/answer.py has it
# The beginnings of the keys that a whole model has no use for.
_ADAPTER_KEYS = ("adapter", "lora", "peft", "load_in_", "merge_method")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to measure: the form (None is the run's own), lm-eval's tasks, and the Ollama where the model is."""

    form: Form | None = None
    tasks: Sequence[str] = ()
    host: str | None = None


def evaluate(run: RunDir, wishes: Wishes, say: Say) -> tuple[Evaluation, list[Bar]]:
    """Measure ``run``'s model, and hold it against the recipe's bar; ``say`` hears what is being done.

    :raises RecipeError: the run has no model of that form, or the wishes contradict each other.
    :raises MissingError: a program or server that it takes is not there.
    :raises RunFailedError: one of them failed.
    """
    refuse_foreign(run)
    orders = run.read_json(run.orders)
    form = wishes.form or ("merged" if wishes.tasks else evaluation.form_of(orders))
    _refuse(run, orders, form, wishes.tasks)
    if wishes.tasks:
        _refuse_without_lm_eval(orders)
    if form == "ollama":
        _ask_ollama(run, orders, wishes.host, say)
    else:
        _score(run, orders, form, say)
        _ask(run, orders, form, say)
    for who, model in (("base", orders["base"]), (form, orders["model"])) if wishes.tasks else ():
        _run_tasks(run, orders, (who, model), wishes.tasks, say)
    found = evaluation.read(run, form, orders)
    return found, evaluation.bars(found, orders, runs.row_of(run).loss)


def _refuse(run: RunDir, orders: Orders, form: Form, tasks: Sequence[str]) -> None:
    if form == "adapter" and orders["method"] == "full":
        raise RecipeError("a full fine-tune has no adapter", "--on merged scores the trained model")
    if tasks and form != "merged":
        raise RecipeError(f"lm-eval measures whole models, not --on {form}", "--on merged")
    needed = {"merged": Path(orders["model"]) / "config.json", "ollama": run.deployed}
    if form in needed and not needed[form].is_file():
        hint = f"ax-recipe {'deploy' if form == 'ollama' else 'resume'} {run.word}"
        raise RecipeError(f"{run.name} has nothing to score: {needed[form]} is not there", hint)
    if form == "adapter" or (form == "merged" and _scores_own(run, orders, form)):
        footing.refuse_without_adapter(run, orders)


def _scores_own(run: RunDir, orders: Orders, form: Form) -> bool:
    """Whether the run's own form is to be scored: the base is scored together with it."""
    return not _held_out(orders)["skip"] and (form == evaluation.form_of(orders) or not run.losses.exists())


def _held_out(orders: Orders) -> dict[str, Any]:
    return next(stage for stage in orders["stages"] if stage["name"] == "evaluate")


def _score(run: RunDir, orders: Orders, form: Form, say: Say) -> None:
    """Have Axolotl score the held-out rows, and our plugin beside it each of them and the general texts."""
    stage = _held_out(orders)
    if stage["skip"]:
        say(f"no held-out loss: {stage['skip']}")
        return
    own = evaluation.form_of(orders)
    if _scores_own(run, orders, form):
        say(f"scoring the {own} and its base on the same rows")
        _stage_again(run, "evaluate")
    if form != own:
        say("scoring the merged model")
        _program(_merged_argv(run, orders, stage["argvs"][-1]), stage["environment"], _log(run, "evaluate-merged"))


def _stage_again(run: RunDir, name: str) -> None:
    runner.launch(run, (name,))
    try:
        while run.holder() is not None:
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        runs.stop(run)
        raise
    record = run.read_state().stage(name)
    if record.state != "done":
        raise RunFailedError(f"{name} {record.state}: {record.detail}", f"its log: {run.log(name, record.attempt)}")


def _merged_argv(run: RunDir, orders: Orders, argv: Sequence[str]) -> list[str]:
    """The command that scores the merged model as a base of its own, by a config of its own."""
    config = run.read_yaml(Path(argv[2]))
    config = {key: value for key, value in config.items() if not key.startswith(_ADAPTER_KEYS)}
    config |= {"base_model": orders["model"], "output_dir": str(run.path / "scored")}
    file = run.path / "evaluate.merged.yaml"
    write(file, yaml.safe_dump(config, sort_keys=False))
    return [argv[0], "evaluate", str(file), "--launcher", "python"]


def _ask(run: RunDir, orders: Orders, form: Form, say: Say) -> None:
    """Put the recipe's questions to the base and to ``form``."""
    if not orders["checks"]:
        say("no answers: the recipe has no checks")
        return
    say(f"asking the base and the {form} {len(orders['checks']['prompts'])} questions")
    file = evaluation.answers_file(run, form)
    stage = next(stage for stage in orders["stages"] if stage["name"] == "chat")
    argv = [orders["axolotl"]["python"], str(assets.probe("answer.py")), str(run.orders), form, str(file)]
    _program(argv, stage["environment"], _log(run, f"answers-{form}"))
    outcomes.judge_answers(file, orders)


def _ask_ollama(run: RunDir, orders: Orders, host: str | None, say: Say) -> None:
    """Put the questions to the model as it is served: quantised, with its own template and system prompt."""
    if not orders["checks"]:
        raise RecipeError("Ollama tells no losses, and the recipe has no checks", "add `checks:` to the recipe")
    there = run.read_json(run.deployed)
    before = _base_answers(run)
    with Ollama(host or there["host"]) as server:
        server.require()
        say(f"asking {there['model']} at {server.url}")
        rows = [
            {"prompt": prompt, "base": before.get(prompt), "tuned": _reply(server, there["model"], prompt)}
            for prompt in orders["checks"]["prompts"]
        ]
    file = evaluation.answers_file(run, "ollama")
    write(file, json.dumps(rows, indent=1))
    outcomes.judge_answers(file, orders)


def _reply(server: Ollama, model: str, prompt: str) -> str:
    options = {"temperature": 0, "num_predict": LONGEST_ANSWER_TOKENS}
    return server.chat(model, [{"role": "user", "content": prompt}], options).text


def _base_answers(run: RunDir) -> dict[str, str]:
    """What the base answered when the merged model or the adapter was asked, by question."""
    files = [evaluation.answers_file(run, form) for form in ("adapter", "merged")]
    rows = [row for file in files if file.exists() for row in run.read_json(file)]
    return {row["prompt"]: row["base"] for row in rows if row.get("base") is not None}


def _refuse_without_lm_eval(orders: Orders) -> None:
    python = orders["axolotl"]["python"]
    if "lm-eval" not in process.probe(Path(python), assets.probe("versions.py")):
        raise MissingError("lm-eval is not installed beside this Axolotl", f"{python} -m pip install lm-eval")


def _run_tasks(run: RunDir, orders: Orders, model: tuple[str, str], tasks: Sequence[str], say: Say) -> None:
    """Let ``axolotl lm-eval`` measure one model."""
    who, path = model
    say(f"lm-eval of {', '.join(tasks)} on the {who}")
    config = run.read_yaml(run.axolotl_yaml)
    folder = evaluation.tasks_folder(run, who)
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"lm_eval_tasks": list(tasks), "lm_eval_model": path, "lm_eval_batch_size": 8, "output_dir": str(folder)}
    file = folder / "lm-eval.yaml"
    write(file, yaml.safe_dump({"base_model": path, "bf16": config.get("bf16", False), **keys}, sort_keys=False))
    stage = _held_out(orders)
    # The tasks' own data comes from the hub, whatever the recipe's does.
    hub = {name: os.environ.get(name, "0") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    argv = [orders["axolotl"]["command"], "lm-eval", str(file)]
    _program(argv, {**stage["environment"], **hub}, _log(run, f"lm-eval-{who}"))


def _log(run: RunDir, name: str) -> Path:
    return run.path / "logs" / f"{name}.log"


def _program(argv: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    log.unlink(missing_ok=True)
    child = process.start(argv, environment, log)
    try:
        while (code := child.wait(POLL_S)) is None:
            continue
    except KeyboardInterrupt:
        child.stop()
        raise
    if code:
        why = diagnose.diagnose(log, code).message
        raise RunFailedError(f"{Path(argv[0]).name} {Path(argv[1]).name} failed: {why}", f"its log: {log}")
