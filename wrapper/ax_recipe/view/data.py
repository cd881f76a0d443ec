"""A survey of data for a person: figures for each dataset, three rows with what is trained of them, and the flaws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ax_recipe.checks.survey import Part, Survey, figures
from ax_recipe.data.rows import Row
from ax_recipe.data.samples import Sample, Segment
from ax_recipe.errors import Problem
from ax_recipe.view.figures import counted

_LISTED = 5  # findings of one code that are printed; --json has them all
_LONGEST = 600  # characters of a row that is shown


def show(survey: Survey) -> None:
    """Print the survey on this terminal."""
    console = Console(highlight=False)
    marks = "" if console.is_terminal else "«»"
    try:
        marks.encode(console.encoding)
    except UnicodeEncodeError:
        marks = "<>"
    console.print(view(survey, marks), soft_wrap=True)


def view(survey: Survey, marks: str) -> RenderableType:
    """The whole picture; ``marks`` stand around what is trained, where colours do not tell it."""
    parts: list[RenderableType] = []
    for part in survey.parts:
        parts += [Text(f"{part.path}  {_form(part)}", style="bold"), _table(survey, part)]
        for row, sample in part.measured.shown:
            parts += [Text(f"\n{row}", style="cyan"), _shown(sample, marks)]
        parts.append(Text())
    if any(part.measured.shown for part in survey.parts):
        parts.append(Text.assemble(("trained".join(marks or ("", "")), "green"), ("  masked", "dim")))
    parts += [Text(f"note: {note}", style="yellow") for note in survey.notes]
    listed = list(_listed(survey.problems))
    for problem in listed:
        parts.append(Text(str(problem), style="red" if problem.severity == "error" else "yellow"))
    if more := len(survey.problems) - len(listed):
        parts.append(Text(f"and {counted(more, 'more finding')}: --json lists them"))
    return Group(*parts)


def _listed(problems: Sequence[Problem]) -> Iterator[Problem]:
    """The first findings of each code: the hundredth doubled row says nothing that the third did not."""
    seen: Counter[str] = Counter()
    for problem in problems:
        seen[problem.code] += 1
        if seen[problem.code] <= _LISTED:
            yield problem


def _form(part: Part) -> str:
    form = part.measured.form
    if form is None:
        return "no rows"
    missing = f", nearest; it has no {', '.join(form.missing)}" if form.missing else ""
    return f"({form.name}{missing}" + (f", read as {part.type})" if part.type else ")")


def _table(survey: Survey, part: Part) -> Table:
    found = figures([part.measured], survey.sequence_len)
    about = "" if survey.exact else "about "
    lengths = found["lengths"]
    table = Table.grid(padding=(0, 2))
    table.add_row("rows", f"{found['rows']:,}" + (f", {found['broken']:,} cannot be read" if found["broken"] else ""))
    table.add_row("tokens", f"{about}{found['tokens']:,} an epoch, {found['trained_share']:.1%} of them trained")
    words = (f"{name} {lengths[name]:,}" for name in ("min", "median", "p95", "max"))
    table.add_row("a row", f"{about}{', '.join(words)}")
    if survey.sequence_len:
        table.add_row("too long", f"{found['truncated']:,} of more than {survey.sequence_len:,} (sequence_len)")
    if found["packing_efficiency"] is not None:
        table.add_row("packing", f"fills {found['packing_efficiency']:.1%} of each {survey.sequence_len:,}")
    table.add_row("duplicates", f"{found['duplicates']:,}")
    if part.room == "test_datasets":
        table.add_row("overlap", f"{found['overlap']:,} rows are trained on as well")
    return table


def _shown(sample: Sample, marks: str) -> Text:
    """A row as far as there is room: what is trained is in sight, however much stands before it."""
    text = Text()
    for segment in sample.segments:
        left = _LONGEST - len(text)
        room = left if segment.trained else left // 2
        begin = max(0, min((start for start, _ in segment.trained), default=0) - room // 2)
        text.append("... " if begin else "")
        text.append_text(_coloured(_cut(segment, begin, room), marks))
        if len(segment.text) > begin + room:
            text.append(" ...")
        if len(text) >= _LONGEST:
            break
    return text


def _cut(segment: Segment, begin: int, room: int) -> Segment:
    """As much of it as is shown: to lay out a row of megabytes takes seconds."""
    end = begin + room
    spans = tuple((start - begin, min(stop, end) - begin) for start, stop in segment.trained if start < end)
    return Segment(segment.text[begin:end], spans, segment.special)


def _coloured(segment: Segment, marks: str) -> Text:
    text, place = Text(), 0
    for start, stop in segment.trained:
        text.append(segment.text[place:start], style="dim")
        text.append(segment.text[start:stop].join(marks or ("", "")), style="green")
        place = stop
    text.append(segment.text[place:], style="dim")
    return text


@contextmanager
def bar() -> Iterator[Callable[[str, int], Callable[[Row], None]]]:
    """A progress bar on stderr: by rows, since a compressed or remote file tells no size that means anything."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} rows"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def dataset(name: str, _: int) -> Callable[[Row], None]:
            task = progress.add_task(name, total=None)
            return lambda _: progress.advance(task)

        yield dataset
