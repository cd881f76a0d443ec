"""What each stage must show before it counts as done; the stages that start no program do their work here."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ax_recipe import assets, process
from ax_recipe.errors import MissingError, RunFailedError, StoppedError
from ax_recipe.observe import events
from ax_recipe.recipe import scoring
from ax_recipe.results import evaluation, experience
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

Orders = dict[str, Any]
_MADE = "made.json"
_ATTEMPT = '{"event": "attempt"'  # no event that a view knows: they skip it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage came to, in a sentence and in ``figures``; ``skipped`` where there was nothing to do it with."""

    detail: str
    skipped: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)


def is_made(base: Path) -> bool:
    """Whether a base that is made here was made whole, and is as it was."""
    proof = base / _MADE
    return proof.is_file() and json.loads(proof.read_text(encoding="utf-8")) == _digests(base)


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file directly in ``folder`` but the proof itself."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != _MADE]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _base(run: RunDir, orders: Orders) -> Outcome:
    base = Path(orders["base"])
    outcome = _trained(run.base_events, base)
    _files(base, "model.safetensors", "config.json", "tokenizer.json")
    write(base / _MADE, json.dumps(_digests(base), indent=1))
    return outcome


def _train(run: RunDir, orders: Orders) -> Outcome:
    outcome = _trained(run.events, run.output)
    experience.note(run, orders)
    _files(run.output, "config.json" if orders["method"] == "full" else "adapter_model.safetensors")
    return outcome


def _trained(path: Path, output: Path) -> Outcome:
    """Read the exact events: the last step must be the planned one, and loss and gradient real numbers.

    Where the training went on at its last step, it has no metrics to tell: they are those of its last checkpoint.

    :raises RunFailedError: it is not so, although Axolotl ended with exit code 0.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    seen = _events(text.rpartition(_ATTEMPT)[2])
    if not seen:
        raise RunFailedError(
            "the trainer did not load our plugin, so nothing proves what it did", "read the stage's log"
        )
    step, total = _last_step(seen)
    _refuse_interrupted(seen, step, total)
    if total is None or step < total:
        raise RunFailedError(f"training ended after step {step} of {total}, though with exit code 0")
    last = _last_metrics(seen) or _last_metrics(_events(text)) or _saved_metrics(output / f"checkpoint-{total}")
    if last is None:
        raise RunFailedError("training logged no loss", "set train.logging_steps to less than its steps")
    loss, gradient = last["loss"], last.get("grad_norm", math.nan)
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        raise RunFailedError(f"training diverged: loss {loss}, gradient norm {gradient}", "halve train.learning_rate")
    if loss == 0 or gradient == 0:
        raise RunFailedError(
            f"nothing was learnt: loss {loss}, gradient norm {gradient}",
            "every label is masked: look at the data's roles",
        )
    return Outcome(f"{total} steps, loss {loss:.3f}", figures={"steps": total, "loss": loss})


def _saved_metrics(checkpoint: Path) -> Mapping[str, float] | None:
    """The last metrics that transformers keeps in a checkpoint."""
    path = checkpoint / "trainer_state.json"
    history = json.loads(path.read_text(encoding="utf-8")).get("log_history", []) if path.is_file() else []
    return next((row for row in reversed(history) if "loss" in row), None)


def begin_attempt(path: Path, number: int) -> None:
    """Tell the exact events of another attempt from those before it, which prove nothing of this one."""
    if path.exists():
        with path.open("a", encoding="utf-8") as file:
            file.write(f'\n{_ATTEMPT}, "number": {number}}}\n')  # a kill may have left half a line


def _events(text: str) -> list[events.Event]:
    return [event for event in map(events.from_json, text.splitlines()) if event]


def _last_metrics(seen: list[events.Event]) -> Mapping[str, float] | None:
    found = (event.values for event in reversed(seen) if isinstance(event, events.Metrics) and "loss" in event.values)
    return next(found, None)


def _refuse_interrupted(seen: list[events.Event], step: int, total: int | None) -> None:
    """A trainer that somebody else asked to stop ends with exit code 0, too."""
    for event in seen:
        if isinstance(event, events.Interrupted):
            raise StoppedError(f"the trainer was asked to stop by {event.reason} at step {step} of {total}")


def _last_step(seen: list[events.Event]) -> tuple[int, int | None]:
    steps = [event for event in seen if isinstance(event, events.Step)]
    totals = [event.total_steps for event in seen if isinstance(event, events.Began | events.Step) if event.total_steps]
    return (steps[-1].step if steps else 0), (totals[-1] if totals else None)


def _preprocess(_run: RunDir, _orders: Orders) -> Outcome:
    return Outcome("the data is tokenised and cached")


def _evaluate(run: RunDir, orders: Orders) -> Outcome:
    path = run.output / "eval_summary.csv"
    _files(run.output, path.name)
    with path.open(encoding="utf-8", newline="") as file:
        rows = {row["metric"]: row["validation"] for row in csv.DictReader(file)}
    text = rows.get("loss") or "nan"
    loss = float(text)
    if not math.isfinite(loss):
        raise RunFailedError(
            f"{path}: no held-out loss in it", "keep more rows: val_set_size, or eval_sample_packing: false"
        )
    first = _first_evaluation(run.events)
    before = f"{first:.3f} -> " if first is not None else ""
    figures = {"eval_loss": loss} | ({} if first is None else {"eval_loss_before": first})
    words = [f"held-out loss {before}{loss:.3f}, perplexity {math.exp(loss):.2f}"]
    found = evaluation.read(run, evaluation.form_of(orders), orders)
    if texts := found.held_out:
        words.append(f"row by row {evaluation.change_in_words(texts)}")
    if texts := found.general:
        words.append(f"on general text {evaluation.change_in_words(texts)}")
    return Outcome("; ".join(words), figures=figures)


def _first_evaluation(path: Path) -> float | None:
    """The held-out loss at step 0, where an untrained adapter leaves the base as it is."""
    for event in map(events.from_json, path.read_text(encoding="utf-8", errors="replace").splitlines()):
        if isinstance(event, events.Evaluation) and not event.step:
            return event.values.get("eval_loss")
    return None


def _merge(_run: RunDir, orders: Orders) -> Outcome:
    _files(Path(orders["model"]), "config.json")
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
    jinja = prompter.of_config(yaml.safe_load(run.axolotl_yaml.read_text(encoding="utf-8")))
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


def _files(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            raise RunFailedError(f"{folder / name} was not written", "read the stage's log")


OF: dict[str, Callable[[RunDir, Orders], Outcome]] = {
    "base": _base,
    "preprocess": _preprocess,
    "train": _train,
    "evaluate": _evaluate,
    "merge": _merge,
    "check-merge": _check_merge,
    "export": _export,
    "deploy": _deploy,
    "chat": _chat,
}
