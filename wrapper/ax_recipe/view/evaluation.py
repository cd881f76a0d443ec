"""What ``ax-recipe evaluate`` shows: base and tuned side by side, what may be said of it, and the recipe's bar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ax_recipe.results import intervals
from ax_recipe.results.evaluation import Answers, Bar, Evaluation, Task, Texts
from ax_recipe.results.intervals import Interval
from ax_recipe.view import figures

TITLES = {"adapter": "adapter", "merged": "merged model", "ollama": "model in Ollama"}
Line = tuple[str, str, str, str, str]
HEAD: Line = ("", "base", "tuned", "change", "")


def lines(found: Evaluation, bars: Sequence[Bar]) -> Iterator[str]:
    """The whole evaluation as text, every interval at 95 %."""
    yield f"The {TITLES[found.form]} against its base, with 95 % intervals:"
    shown = [HEAD, *table(found)]
    widths = [max(len(line[column]) for line in shown) for column in range(4)]
    for line in shown:
        cells = (f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False))
        yield f"  {'  '.join(cells)}  {line[4]}".rstrip()
    yield from _answers(found.answers)
    if bars:
        yield "The recipe's bar:"
        for bar in bars:
            word, told = "met   " if bar.met else "MISSED", bar.found or "not measured"
            yield f"  {word}  {bar.name}: wanted {bar.wanted}, found {told}"


def table(found: Evaluation) -> list[Line]:
    """Each thing that was measured: its name, base, tuned, the change between them, and the verdict in words."""
    rows: list[Line] = []
    for name, texts in (("held-out", found.held_out), ("general text", found.general)):
        if texts:
            rows += _texts(name, texts)
    if found.answers:
        rows.append(_counts(found.answers))
    return [*rows, *map(_task, found.tasks)]


def _texts(name: str, texts: Texts) -> Iterator[Line]:
    losses = texts.losses
    word = f"{texts.verdict} ({texts.rows} rows, {texts.tokens:,} tokens)"
    yield (f"{name} loss", within(losses.base), within(losses.tuned), within(losses.change, "{:+.3f}"), word)
    before, after = (intervals.perplexity(each) for each in (losses.base, losses.tuned))
    yield (f"{name} perplexity", within(before, "{:.4g}"), within(after, "{:.4g}"), "", "")


def _counts(answers: Answers) -> Line:
    def told(count: int | None, share: Interval | None) -> str:
        return "not asked" if share is None else f"{count} of {answers.asked} {within(share, '{:.0%}', bare=True)}"

    change = within(answers.change, "{:+.0%}") if answers.change else ""
    base, tuned = told(answers.base, answers.base_share), told(answers.tuned, answers.tuned_share)
    return ("answers as taught", base, tuned, change, answers.verdict or "")


def _task(task: Task) -> Line:
    base, tuned = (f"{each[0]:.3f} ± {each[1]:.3f}" if each else "not measured" for each in (task.base, task.tuned))
    change = within(task.change, "{:+.3f}") if task.change else ""
    return (f"{task.name}: {task.metric}", base, tuned, change, task.verdict or "")


def within(figure: Interval, form: str = "{:.3f}", *, bare: bool = False) -> str:
    """A figure with its interval; ``bare`` leaves the figure out."""
    value = "" if bare else form.format(figure.value) + " "
    if math.isinf(figure.low) or math.isinf(figure.high):
        return f"{value}[too few rows]"
    return f"{value}[{form.format(figure.low)}, {form.format(figure.high)}]"


def _answers(answers: Answers | None) -> Iterator[str]:
    for row in answers.rows if answers else ():
        yield f"> {figures.clean(row['prompt'])}"
        for who in ("base", "tuned"):
            if row.get(who) is not None:
                wrong = figures.clean("; ".join(row[f"{who}_missed"]))
                word, why = ("no", f"   ({wrong})") if wrong else ("ok", "")
                yield f"  {word} {who + ':':<7}{figures.clean(row[who])}{why}"
