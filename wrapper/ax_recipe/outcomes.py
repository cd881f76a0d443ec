"""What each stage must show before it counts as done; the stages that start no program do their work here."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.errors import MissingError, RunFailedError
from ax_recipe.observe import events
from ax_recipe.rundir import RunDir, write
from ax_recipe.ship import merged, modelfile
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.mend import mend
from ax_recipe.ship.ollama import Creation, Ollama, files_of

Orders = dict[str, Any]
_MADE = "made.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage came to, in a sentence; ``skipped`` where there was nothing to do it with."""

    detail: str
    skipped: bool = False


def is_made(base: Path) -> bool:
    """Whether a base that is made here was made whole, and is as it was."""
    proof = base / _MADE
    return proof.is_file() and json.loads(proof.read_text(encoding="utf-8")) == _digests(base)


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file directly in ``folder`` but the proof itself."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != _MADE]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _base(run: RunDir, orders: Orders) -> Outcome:
    detail = _trained(run.base_events)
    base = Path(orders["base"])
    _files(base, "model.safetensors", "config.json", "tokenizer.json")
    write(base / _MADE, json.dumps(_digests(base), indent=1))
    return Outcome(detail)


def _train(run: RunDir, orders: Orders) -> Outcome:
    detail = _trained(run.events)
    _files(run.output, "config.json" if orders["method"] == "full" else "adapter_model.safetensors")
    return Outcome(detail)


def _trained(path: Path) -> str:
    """Read the exact events: the last step must be the planned one, and loss and gradient real numbers.

    :raises RunFailedError: it is not so, although Axolotl ended with exit code 0.
    """
    if not path.exists():
        raise RunFailedError(
            "the trainer did not load our plugin, so nothing proves what it did", "read the stage's log"
        )
    seen = [event for event in map(events.from_json, path.read_text(encoding="utf-8").splitlines()) if event]
    step, total = _last_step(seen)
    if total is None or step < total:
        raise RunFailedError(f"training ended after step {step} of {total}, though with exit code 0")
    last = next(
        (event.values for event in reversed(seen) if isinstance(event, events.Metrics) and "loss" in event.values),
        {},
    )
    loss, gradient = last.get("loss", math.nan), last.get("grad_norm", math.nan)
    if not (math.isfinite(loss) and math.isfinite(gradient)):
        raise RunFailedError(f"training diverged: loss {loss}, gradient norm {gradient}", "halve train.learning_rate")
    if loss == 0 or gradient == 0:
        raise RunFailedError(
            f"nothing was learnt: loss {loss}, gradient norm {gradient}",
            "every label is masked: look at the data's roles",
        )
    return f"{total} steps, loss {loss:.3f}"


def _last_step(seen: list[events.Event]) -> tuple[int, int | None]:
    steps = [event for event in seen if isinstance(event, events.Step)]
    totals = [event.total_steps for event in seen if isinstance(event, events.Began | events.Step) if event.total_steps]
    return (steps[-1].step if steps else 0), (totals[-1] if totals else None)


def _preprocess(_run: RunDir, _orders: Orders) -> Outcome:
    return Outcome("the data is tokenised and cached")


def _evaluate(run: RunDir, _orders: Orders) -> Outcome:
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
    return Outcome(f"held-out loss {before}{loss:.3f}, perplexity {math.exp(loss):.2f}")


def _first_evaluation(path: Path) -> float | None:
    """The held-out loss at step 0, where an untrained adapter leaves the base as it is."""
    for event in map(events.from_json, path.read_text(encoding="utf-8").splitlines()):
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
    checks = mend(merged.Folders(model, trained, base if base.is_dir() else None))
    wrong = [f"{check.name}: {check.detail}" for check in checks if check.verdict == "error"]
    if wrong:
        raise RunFailedError("the merged model is not the trained one: " + "; ".join(wrong))
    words = [f"{check.name} {check.verdict}: {check.detail}" for check in checks if check.verdict != "ok"]
    return Outcome("; ".join([f"{len(checks)} checks", *words]))


def _export(run: RunDir, orders: Orders) -> Outcome:
    ship = orders["ship"]
    wishes = Wishes(ship["system"], ship["num_ctx"], ship["parameters"])
    exported = export(Path(orders["model"]), run.path, wishes)
    wrong = [f"{check.name}: {check.detail}" for check in exported.checks if check.verdict == "error"]
    if wrong:
        raise RunFailedError("Ollama would not run this model as it was trained: " + "; ".join(wrong))
    doubts = [f"{check.name}: {check.detail}" for check in exported.checks if check.verdict == "warning"]
    stops = " ".join(exported.stops)
    return Outcome("; ".join([f"{exported.file}, the TEMPLATE proven equal, stops {stops}", *doubts]))


def _deploy(run: RunDir, orders: Orders) -> Outcome:
    """Make the model in the Ollama that answers here; a model of that name that is there already stays."""
    ship = orders["ship"]
    quantize = f" --quantize {ship['quantize']}" if ship["quantize"] else ""
    elsewhere = f"ollama create {ship['model']}{quantize} -f {run.modelfile}"
    with Ollama() as server:
        try:
            server.require()
        except MissingError as error:
            return Outcome(f"{error.message}. Where Ollama runs: {elsewhere}", skipped=True)
        taken = server.has(ship["model"])
        name = f"{ship['model']}:{run.name.removeprefix(orders['recipe'] + '-')}" if taken else ship["model"]
        value = modelfile.parse(run.modelfile.read_text(encoding="utf-8"))
        source = run.path / value.source
        server.create(Creation(name, files_of(source), fields=value.request(), quantize=ship["quantize"]))
    return Outcome(f"ollama run {name} (to undo it: ollama rm {name})")


def _chat(run: RunDir, orders: Orders) -> Outcome:
    rows = run.read_json(run.answers)
    good = sum(row["tuned_matches"] for row in rows)
    before = sum(row["base_matches"] for row in rows)
    words = f"{good} of {len(rows)} answers as taught, {before} before"
    if good < orders["checks"]["at_least"]:
        raise RunFailedError(f"{words}: the recipe wants {orders['checks']['at_least']}", f"read them in {run.answers}")
    return Outcome(words)


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
