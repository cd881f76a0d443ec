"""What was measured of a run's model against its base, read from its folder; and whether the recipe's bar is met."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ax_recipe.results import intervals
from ax_recipe.results.intervals import Interval, Losses, Rows, Verdict
from ax_recipe.run.rundir import RunDir

Form = Literal["adapter", "merged", "ollama"]
"""What was measured: the adapter over its base, the merged model, or what Ollama serves."""
FORMS: tuple[Form, ...] = ("adapter", "merged", "ollama")

ALIKE_LOSS = 0.01  # of the base's loss: a change that is surely smaller is none
ALIKE_SHARE = 0.05  # of the answers, or of a task's score
GENERAL = "general"
HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True)
class Texts:
    """Losses (nats a token) on the same texts; ``tokens`` are those that were scored."""

    rows: int
    tokens: int
    losses: Losses
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Answers:
    """How many answers were good; ``base`` and what follows from it are None where the base was not asked."""

    asked: int
    tuned: int
    tuned_share: Interval
    base: int | None
    base_share: Interval | None
    change: Interval | None
    verdict: Verdict | None
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One metric of one lm-eval task, with its standard error; ``base`` is None where the base was not measured."""

    name: str
    metric: str
    tuned: tuple[float, float]
    base: tuple[float, float] | None
    change: Interval | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that is known of one form of a run's model.

    ``owes`` says that its held-out rows were to be compared with the base's, and were not.
    """

    form: Form
    held_out: Texts | None = None
    general: Texts | None = None
    answers: Answers | None = None
    tasks: tuple[Task, ...] = ()
    owes: bool = False

    @property
    def measured(self) -> bool:
        """Whether anything is."""
        return bool(self.held_out or self.general or self.answers or self.tasks)


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing that the recipe asks of the model, in words; ``found`` is None where it was not measured."""

    name: str
    wanted: str
    found: str | None
    met: bool


def read(run: RunDir, form: Form, orders: Mapping[str, Any]) -> Evaluation:
    """What the run folder holds of ``form``."""
    costs = _costs(run.losses, orders) if form != "ollama" else {}
    held_out, general = _texts(costs, HELD_OUT, form), _texts(costs, GENERAL, form)
    # Rows of preferences have no labels: of them nothing is told, though the general texts are scored beside them.
    keeps = any(stage["name"] == "evaluate" and not stage["skip"] for stage in orders["stages"])
    owes = keeps and held_out is None and ((HELD_OUT, "base") in costs or general is None)
    answers, tasks = _answers(run, answers_file(run, form)), tuple(_tasks(run, form))
    return Evaluation(form, held_out, general, answers, tasks, owes and form != "ollama")


def every(run: RunDir, orders: Mapping[str, Any]) -> list[Evaluation]:
    """Every form of the run's model of which something is known."""
    return [found for form in FORMS if (found := read(run, form, orders)).measured]


def as_json(found: Evaluation, bars: Sequence[Bar]) -> dict[str, Any]:
    """``evaluate --json``: JSON has no infinity, so an end that is not known is null."""
    value: dict[str, Any] = _finite({**asdict(found), "bars": [asdict(bar) for bar in bars]})
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def form_of(orders: Mapping[str, Any]) -> Form:
    """The form that a run's own evaluation scores: a full fine-tune has no adapter."""
    return "merged" if orders["method"] == "full" else "adapter"


def change_in_words(texts: Texts) -> str:
    """``better than the base by 3.107 [2.768, 3.453]``: nats a token, with the interval."""
    gain = intervals.turned(texts.losses.change)
    if math.isinf(gain.low):
        return f"{texts.rows} rows are too few to tell"
    if texts.verdict in ("same", "unclear"):
        word = "the same as the base" if texts.verdict == "same" else "not to be told from the base"
        return f"{word}: {-gain.value:+.3f} [{-gain.high:+.3f}, {-gain.low:+.3f}]"
    size = gain if texts.verdict == "better" else texts.losses.change
    return f"{texts.verdict} than the base by {size.value:.3f} [{size.low:.3f}, {size.high:.3f}]"


def answers_file(run: RunDir, form: Form) -> Path:
    """Where the answers of ``form`` are kept; those of the merged model are the run's own last stage's."""
    return run.answers if form == "merged" else run.answers.with_stem(f"answers-{form}")


def tasks_folder(run: RunDir, who: str) -> Path:
    """Where lm-eval's results of ``base``, ``merged``, ... are kept."""
    return run.path / "tasks" / who


def held_out_costs(run: RunDir) -> list[tuple[int, float]]:
    """The tokens and the nats of each held-out row under the tuned model; none where they were not scored."""
    orders = run.read_json(run.orders)
    return _costs(run.losses, orders).get((HELD_OUT, form_of(orders)), [])


def _costs(path: Path, orders: Mapping[str, Any]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """The rows of each set by (set, whose): the newest of each, for every evaluation appends its own."""
    costs = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError, KeyError, TypeError):  # one that was cut off as it was written tells nothing
            value = json.loads(line)
            rows = [(int(tokens), float(nats)) for tokens, nats in value["rows"]]
            costs[(value["set"], _whose(value, orders))] = rows
    return costs


def _whose(line: Mapping[str, Any], orders: Mapping[str, Any]) -> str:
    if line["adapter"]:
        return "adapter"
    return "merged" if line["model"] == orders["model"] else "base"


def _texts(costs: Mapping[tuple[str, str], list[tuple[int, float]]], which: str, form: Form) -> Texts | None:
    base, tuned = costs.get((which, "base")), costs.get((which, form))
    # A row that one tokenizer cuts otherwise than the other is not the same row.
    if not base or not tuned or [tokens for tokens, _ in base] != [tokens for tokens, _ in tuned]:
        return None
    tokens = [count for count, _ in base]
    found = intervals.losses(Rows(tokens, [nats for _, nats in base], [nats for _, nats in tuned]))
    alike = ALIKE_LOSS * found.base.value
    return Texts(len(base), sum(tokens), found, intervals.verdict(intervals.turned(found.change), alike))


def _answers(run: RunDir, path: Path) -> Answers | None:
    rows = run.read_json(path) if path.exists() else []
    return answers_of(rows) if rows and "tuned_matches" in rows[0] else None


def answers_of(rows: Sequence[Mapping[str, Any]]) -> Answers:
    """What judged answers come to."""
    asked, tuned = len(rows), sum(bool(row["tuned_matches"]) for row in rows)
    share = intervals.share(tuned, asked)
    if any("base_matches" not in row for row in rows):
        return Answers(asked, tuned, share, None, None, None, None, tuple(rows))
    base = sum(bool(row["base_matches"]) for row in rows)
    change = intervals.shares_change(base, tuned, asked)
    verdict = intervals.verdict(change, ALIKE_SHARE)
    return Answers(asked, tuned, share, base, intervals.share(base, asked), change, verdict, tuple(rows))


def _tasks(run: RunDir, form: Form) -> Iterator[Task]:
    base = _scores(tasks_folder(run, "base"))
    for key, tuned in _scores(tasks_folder(run, form)).items():
        before = base.get(key)
        change = intervals.normal(before, tuned) if before else None
        yield Task(*key, tuned, before, change, intervals.verdict(change, ALIKE_SHARE) if change else None)


def _scores(folder: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Each (task, metric) with its score and standard error; of the same task, the newest."""
    scores = {}
    for path in sorted(folder.rglob("results_*.json"), key=lambda path: path.stat().st_mtime):
        for task, values in json.loads(path.read_text(encoding="utf-8"))["results"].items():
            for name, value in values.items():
                metric, _, variant = name.partition(",")
                error = values.get(f"{metric}_stderr,{variant}")
                # lm-eval 0.4 writes "N/A" where a metric has no standard error.
                if isinstance(value, float) and isinstance(error, float) and not metric.endswith("_stderr"):
                    scores[(task, metric if variant == "none" else f"{metric}, {variant}")] = (value, error)
    return scores


def bars(found: Evaluation, orders: Mapping[str, Any], loss: float | None) -> list[Bar]:
    """What the recipe asks of this form, and the one thing that everybody asks: that it beats the base.

    ``loss`` is the training loss at the end. A bar that was not measured is not met. Ollama tells no losses, so that
    nothing but answers is asked of what it serves.
    """
    told = list(_of_answers(found, orders))
    return told if found.form == "ollama" else [*_of_losses(found, orders["targets"], loss), *told]


def _of_losses(found: Evaluation, targets: Mapping[str, Any], loss: float | None) -> Iterator[Bar]:
    held_out, general = found.held_out, found.general
    after = held_out.losses.tuned.value if held_out else None
    rise = general.losses.change.value if general else None
    if held_out:
        change = f"{held_out.verdict}: {_interval(held_out.losses.change)}"
        yield Bar("held-out loss against the base", "better", change, held_out.verdict == "better")
    elif found.owes:
        yield Bar("held-out loss against the base", "better", None, met=False)
    if (most := targets.get("eval_loss")) is not None:
        yield Bar("held-out loss", f"at most {most:g}", _number(after), after is not None and after <= most)
    if (most := targets.get("forgotten")) is not None:
        yield Bar(
            "rise of the loss on general text", f"at most {most:g}", _number(rise), rise is not None and rise <= most
        )
    if band := targets.get("loss"):
        met = loss is not None and band[0] <= loss <= band[1]
        yield Bar("training loss", f"{band[0]:g} to {band[1]:g}", _number(loss), met)


def _of_answers(found: Evaluation, orders: Mapping[str, Any]) -> Iterator[Bar]:
    if checks := orders["checks"]:
        answers, wanted = found.answers, f"at least {checks['at_least']} of {len(checks['prompts'])}"
        told = f"{answers.tuned} of {answers.asked}" if answers else None
        yield Bar("answers as taught", wanted, told, answers is not None and answers.tuned >= checks["at_least"])


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _interval(change: Interval) -> str:
    if math.isinf(change.low):
        return f"{change.value:+.3f}, too few rows to tell"
    return f"{change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
