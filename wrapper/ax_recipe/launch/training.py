"""What the stages up to the evaluation must show before they count as done."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ax_recipe.errors import RunFailedError, StoppedError
from ax_recipe.observe import events
from ax_recipe.results import evaluation, experience
from ax_recipe.run.rundir import RunDir, read, write
from ax_recipe.survive import checkpoints

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
    """Whether a base that is made here was made whole, and is as it was; a damaged proof proves nothing."""
    try:
        return bool(json.loads((base / _MADE).read_text(encoding="utf-8")) == _digests(base))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file directly in ``folder`` but the proof itself."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != _MADE]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def _base(run: RunDir, orders: Orders) -> Outcome:
    base = Path(orders["base"])
    outcome = _trained(run.base_events, base)
    files(base, "model.safetensors", "config.json", "tokenizer.json")
    write(base / _MADE, json.dumps(_digests(base), indent=1))
    return outcome


def _train(run: RunDir, orders: Orders) -> Outcome:
    outcome = _trained(run.events, run.output)
    experience.note(run, orders)
    files(run.output, "config.json" if orders["method"] == "full" else "adapter_model.safetensors")
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
    """The last metrics that transformers keeps in a checkpoint.

    :raises RunFailedError: what it keeps there is damaged.
    """
    path = checkpoint / checkpoints.STATE
    if not path.is_file():
        return None
    try:
        history = json.loads(read(path)).get("log_history", [])
        return next((row for row in reversed(history) if "loss" in row), None)
    except (ValueError, TypeError, AttributeError) as error:
        hint = "ax-recipe resume sets it aside, and does those steps again"
        raise RunFailedError(f"{path} is damaged: {error}", hint) from error


def begin_attempt(path: Path, number: int) -> None:
    """Tell the exact events of another attempt from those before it, which prove nothing of this one."""
    if path.exists():
        with path.open("a", encoding="utf-8") as file:
            file.write(f'\n{_ATTEMPT}, "number": {number}}}\n')  # a kill may have left half a line


def begun(path: Path) -> bool:
    """Whether the newest attempt trains, so that it has something to save."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return any(isinstance(event, events.Began) for event in _events(text.rpartition(_ATTEMPT)[2]))


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
    files(run.output, path.name)
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


def files(folder: Path, *names: str) -> None:
    """See that each of ``names`` was written to ``folder``, and holds something."""
    for name in names:
        if not (folder / name).is_file() or not (folder / name).stat().st_size:
            raise RunFailedError(f"{folder / name} was not written", "read the stage's log")


OF: dict[str, Callable[[RunDir, Orders], Outcome]] = {
    "base": _base,
    "preprocess": _preprocess,
    "train": _train,
    "evaluate": _evaluate,
}
