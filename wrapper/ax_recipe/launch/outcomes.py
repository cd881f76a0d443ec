"""What a stage must show before it counts as done; those behind the training do their own work here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ax_recipe import assets, process
from ax_recipe.errors import MissingError, RunFailedError
from ax_recipe.launch import training
from ax_recipe.launch.training import Orders, Outcome, files, is_made
from ax_recipe.recipe import scoring
from ax_recipe.results import evaluation
from ax_recipe.run.rundir import RunDir, write
from ax_recipe.ship import convert, live, merged, prompter, source
from ax_recipe.ship import deploy as deploying
from ax_recipe.ship import exported as exports
from ax_recipe.ship.convert import Converter
from ax_recipe.ship.deploy import Deployed, Wanted
from ax_recipe.ship.export import Export, Wishes, export
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.mend import mend
from ax_recipe.ship.ollama import Ollama, Report


def _merge(_run: RunDir, orders: Orders) -> Outcome:
    files(Path(orders["model"]), "config.json")
    return Outcome(orders["model"])


def _check_merge(run: RunDir, orders: Orders) -> Outcome:
    """Make the merged folder whole, and see that the base is as it was."""
    base = Path(orders["base"])
    if orders["scratch"] and not is_made(base):
        raise RunFailedError(f"{base} is not as it was made", "something wrote to it: remove the folder and run again")
    model = Path(orders["model"])
    trained = run.output if model != run.output else None
    checks = mend(merged.Folders(model, trained, source.base(orders["base"])))
    wrong = [f"{check.name}: {check.detail}" for check in checks if check.verdict == "error"]
    if wrong:
        raise RunFailedError("the merged model is not the trained one: " + "; ".join(wrong))
    words = [f"{check.name} {check.verdict}: {check.detail}" for check in checks if check.verdict != "ok"]
    return Outcome("; ".join([f"{len(checks)} checks", *words]))


def wishes(run: RunDir, orders: Orders) -> Wishes:
    """What the recipe wants of the model in Ollama, and how its data was written where that was no chat."""
    ship, python = orders["ship"], Path(orders["axolotl"]["python"])
    jinja = prompter.of_config(run.read_yaml(run.axolotl_yaml))
    script = convert.find()
    converter = Converter(script, python) if script else None
    return Wishes(ship["system"], ship["num_ctx"], ship["parameters"], jinja=jinja, converter=converter)


def exported(result: Export) -> Outcome:
    """What an export came to.

    :raises RunFailedError: Ollama would not run the model as it was trained.
    """
    wrong = [f"{check.name}: {check.detail}" for check in result.checks if check.verdict == "error"]
    if wrong:
        raise RunFailedError("Ollama would not run this model as it was trained: " + "; ".join(wrong))
    doubts = [f"{check.name}: {check.detail}" for check in result.checks if check.verdict == "warning"]
    stops = " ".join(result.stops)
    return Outcome("; ".join([f"{result.file}, the TEMPLATE proven equal, stops {stops}", *doubts]))


def _export(run: RunDir, orders: Orders) -> Outcome:
    return exported(export(Path(orders["model"]), run.path, wishes(run, orders)))


def wanted(run: RunDir, orders: Orders, url: str) -> Wanted:
    """How the recipe wants the model in the Ollama at ``url``; a model of that name stays, if it is not the run's."""
    before = run.read_json(run.deployed) if run.deployed.is_file() else {}
    name, beside = orders["ship"]["model"], run.name.removeprefix(orders["recipe"] + "-")
    python = Path(orders["axolotl"]["python"])
    return Wanted(
        name,
        orders["ship"]["quantize"],
        own=(before.get("host"), before.get("model")) == (url, name),
        beside=beside,
        proof=live.Proof(
            orders["checks"]["prompts"][0] if orders["checks"] else live.QUESTION,
            counter(python) if python.is_file() else None,
        ),
    )


def counter(python: Path) -> live.Count:
    """How many tokens a tokenizer makes of a conversation, asked of the training environment."""

    def count(folder: Path, messages: Sequence[Message]) -> int:
        value = process.probe(python, assets.probe("prompt_tokens.py"), str(folder), json.dumps(messages))
        return int(value["tokens"])

    return count


def deploy(run: RunDir, server: Ollama, order: Wanted, report: Report) -> Deployed:
    """Make and prove the run's model in Ollama, and note where it is."""
    result = deploying.deploy(server, exports.read(run.path), order, report)
    if result.kept:
        run.write_json(run.deployed, result.as_json())
    return result


def deployed(result: Deployed) -> Outcome:
    """What a deployment came to.

    :raises RunFailedError: in Ollama, the model is not asked or does not answer as it was trained.
    """
    if not result.kept:
        raise RunFailedError(f"{result.name} is not as trained: {'; '.join(result.wrong)}", result.in_words())
    doubts = [f"{check.name}: {check.detail}" for check in result.checks if check.verdict == "warning"]
    proof = f"{len(result.checks)} checks on the live model" + "".join(f"; {doubt}" for doubt in doubts)
    return Outcome(f"{result.run} (undo: {result.undo}); {proof}")


def _deploy(run: RunDir, orders: Orders) -> Outcome:
    """Make the model in the Ollama that answers here; a model of that name that is there already stays."""
    ship = orders["ship"]
    elsewhere = f"ollama create {ship['model']} -f {run.modelfile}"
    with Ollama() as server:
        try:
            server.require()
        except MissingError as error:
            return Outcome(f"{error.message}. Where Ollama runs: {elsewhere}", skipped=True)
        try:
            deploying.quantiser(server, exports.read(run.path), ship["quantize"])
        except MissingError as error:
            return Outcome(f"{error.message}: {error.hint}; then ax-recipe deploy {run.word}", skipped=True)
        return deployed(deploy(run, server, wanted(run, orders, server.url), lambda _: None))


def _chat(run: RunDir, orders: Orders) -> Outcome:
    found = judge_answers(run.answers, orders)
    words = f"{found.tuned} of {found.asked} answers as taught, {found.base} before"
    if found.tuned < orders["checks"]["at_least"]:
        raise RunFailedError(f"{words}: the recipe wants {orders['checks']['at_least']}", f"read them in {run.answers}")
    return Outcome(words, figures={"matched": found.tuned, "asked": found.asked, "matched_before": found.base or 0})


def judge_answers(path: Path, orders: Orders) -> evaluation.Answers:
    """Note at each answer of the file what is wrong with it, by the recipe's checks."""
    rows = scoring.judged(json.loads(path.read_text(encoding="utf-8")), orders["checks"]["expects"])
    write(path, json.dumps(rows, indent=1, ensure_ascii=False))
    return evaluation.answers_of(rows)


OF: dict[str, Callable[[RunDir, Orders], Outcome]] = {
    **training.OF,
    "merge": _merge,
    "check-merge": _check_merge,
    "export": _export,
    "deploy": _deploy,
    "chat": _chat,
}
