"""Write the table of all recipes into recipes/README.md: what each trains, for what, and what that is foretold to take.

Run it from a checkout: ``python docs/recipes.py``; a test holds the file to what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ax_recipe.forecast.forecast import Forecast
from ax_recipe.recipe import recipe
from ax_recipe.recipe.recipe import Recipe, Scratch
from ax_recipe.run import planning
from ax_recipe.view import library

TARGET = Path(__file__).resolve().parents[1] / "recipes" / "README.md"
BEGIN, END = "<!-- written by python docs/recipes.py -->", "<!-- to here -->"
HEAD = ("recipe", "base", "method", "data", "for", "active / reserved GiB", "tokens/s")


def table() -> str:
    """The table, a row to a recipe, in the order of ``ax-recipe list``."""
    rows = [" | ".join(HEAD), "|".join(["---"] * len(HEAD)), *map(" | ".join, map(cells, recipes()))]
    return "\n".join(f"| {row} |" if "---" not in row else f"|{row}|" for row in rows)


def recipes() -> Iterator[Recipe]:
    """The bundled recipes."""
    for family in library.ordered([recipe.load(path.stem) for path in recipe.bundled()]):
        yield from family


def cells(each: Recipe) -> Iterator[str]:
    """What a row says of one recipe."""
    found = planning.of_file(each.name, None, None)
    base = "made by itself" if isinstance(each.base, Scratch) else str(each.base)
    yield f"`{each.name}`"
    yield base
    yield ", ".join(filter(None, (each.method, each.rl)))
    yield "; ".join(map(data, each.data))
    yield str(found.hardware)
    yield from foretold(found)


def data(row: Mapping[str, Any]) -> str:
    """A data set and how it is read: ``mlabonne/FineTome-100k (chat)``."""
    kind, _, preferred = str(row["type"]).partition(".")
    words = "pairs" if preferred else "chat" if kind == "chat_template" else kind
    return f"{row['path']} ({words})"


def foretold(found: Forecast) -> Iterator[str]:
    """Memory and speed; none for the CPU, where neither model has been measured."""
    if found.hardware.kind is None:
        yield from ("", "")
        return
    yield f"{found.memory.active_gib:.1f} / {found.memory.reserved_gib:.1f}"
    yield f"{float(f'{found.timing.tokens_per_second:.2g}'):,.0f}"


def page(text: str) -> str:
    """The README with its table written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
