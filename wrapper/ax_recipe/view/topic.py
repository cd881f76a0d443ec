"""A topic of ``ax-recipe explain`` as text of 80 columns, for the terminal and for docs/explain.md alike."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ax_recipe.explain.numbers import Training, numbers
from ax_recipe.explain.topics import TOPICS
from ax_recipe.view.figures import clean, short_rate

WIDTH = 80
_LABEL = 25  # of a row: what stands before its value
_FOLDER = Path(__file__).parents[1] / "explain" / "topics"


def text(topic: str, training: Training) -> str:
    """The whole topic with the training's numbers, its title first."""
    return f"{TOPICS[topic]}\n\n{body(topic, numbers(training))}\n"


def body(topic: str, names: Mapping[str, Any]) -> str:
    """The topic with these numbers, wrapped. Pure.

    :raises jinja2.UndefinedError: it speaks of a number that there is not: a bug of the topic.
    """
    return wrapped(_environment().get_template(f"{topic}.md.j2").render(**names))


def wrapped(source: str) -> str:
    """Paragraphs filled to ``WIDTH``; a block that is indented stays as it is, and so do the empty lines between."""
    blocks: list[str] = []
    for lines in _blocks(source):
        if lines[0].startswith("    "):
            blocks.append("\n".join(line.rstrip() for line in lines))
        else:
            words = " ".join(" ".join(lines).split())
            blocks.append(textwrap.fill(words, WIDTH, break_long_words=False, break_on_hyphens=False))
    return "\n\n".join(blocks)


def _blocks(source: str) -> list[list[str]]:
    """Runs of lines of one kind: an empty line ends a paragraph, and a line of the other kind ends either."""
    blocks: list[list[str]] = []
    after_gap = True
    for line in source.split("\n"):
        if not line.strip():
            after_gap = True
            continue
        kept = line.startswith("    ")
        same = blocks and blocks[-1][0].startswith("    ") == kept
        if same and (kept or not after_gap):
            blocks[-1].append(line)
        else:
            blocks.append([line])
        after_gap = False
    return blocks


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        finalize=_cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - plain text for a terminal, and `clean` takes what could harm one
    )
    made.filters |= {
        "n": lambda number: f"{number:,}",
        "g": lambda number: f"{number:.4g}",
        "g2": lambda number: f"{number:.2g}",
        "g3": lambda number: f"{number:.3g}",
        "g4": lambda number: f"{number:.4g}",
        "exp": math.exp,
        "rate": short_rate,
        "exact": lambda rate: f"{rate:.2e}",
        "share": lambda part: f"{100 * part:.3g} %",
        "size": size,
        "about": about,
        "rj": lambda value, width: str(value).rjust(width),
        "lj": lambda value, width: str(value).ljust(width),
    }
    made.globals |= {
        "row": row,
        "rate_of_loss": lambda loss: f"{loss:<5.4g}  perplexity {math.exp(loss):,.3g}",
    }
    return made


def _cleaned(value: Any) -> Any:
    """What a file or a run says may hold anything; a row of ours may be of several lines."""
    return "\n".join(map(clean, value.split("\n"))) if isinstance(value, str) else value


def row(label: str, value: str) -> str:
    """A line of a table: what it is, then how much; a value that is too long goes on below itself."""
    lines = textwrap.wrap(value, WIDTH - 4 - _LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    rest = "".join(f"\n{'':<{4 + _LABEL}}{line}" for line in lines[1:])
    return f"    {label:<{_LABEL}}{lines[0]}{rest}"


def size(size_: float) -> str:
    """Three digits of bytes, with the unit that fits: ``640 MiB``, ``4.58 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_ < 999.5 or unit == "GiB":
            break
        size_ /= 1024
    return f"{size_:.3g} {unit}"


def about(number: float) -> str:
    """A large count in words: ``10.5 million``."""
    for limit, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= limit:
            return f"{number / limit:.3g} {word}"
    return f"{number:,.0f}"
