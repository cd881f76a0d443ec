"""What ``ax-recipe bench`` shows: one line for each form of the model in each engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ax_recipe.ship.bench import Result
from ax_recipe.view.figures import clean
from ax_recipe.view.row import style
from ax_recipe.view.size import bytes_


def show(results: Sequence[Result], console: Console | None = None) -> None:
    """Print the table."""
    (console or Console(highlight=False)).print(picture(results))


def picture(results: Sequence[Result]) -> RenderableType:
    """The results as a table: medians, with the least and the most. Pure."""
    table = Table(box=None, pad_edge=False, header_style=style("label"))
    for heading in ("model", "engine", "first, ms", "tokens/s", "memory", "as merged"):
        words = heading in ("model", "engine")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words)
    reference = next((result for result in results if result.form == "merged" and result.rows), None)
    for result in results:
        if result.rows:
            table.add_row(*_cells(result, reference))
    failed = [Text(clean(f"{each.form} in {each.engine}: {each.problem}")) for each in results if not each.rows]
    return Group(
        table,
        *failed,
        Text("median (least to most); first: to the first token; as merged: how alike the answers are", style("label")),
    )


def _cells(result: Result, reference: Result | None) -> Iterator[str]:
    yield result.form
    yield clean(result.engine)
    for figure in (lambda row: 1000 * row.first, lambda row: row.pace):
        middle, least, most = result.spread(figure)
        yield f"{middle:.0f} ({least:.0f} to {most:.0f})"
    yield bytes_(result.memory) if result.memory else ""
    yield f"{result.agreement(reference):.0%}" if reference else ""
