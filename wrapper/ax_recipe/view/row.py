"""One line of the screen: runs of characters with a role each; what a role looks like is decided here alone."""

from __future__ import annotations

from functools import cache

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

Run = tuple[str, str]

# Mid-tones of the 256-colour cube: at least 3.3 to 1 against black and against white, so one palette serves light
# and dark terminals. Meaning is never in the colour alone: every state also has a word and a glyph.
STYLES = {
    "": "none",
    "space": "none",
    "title": "bold",
    "strong": "bold",
    "notice": "bold reverse",
    "label": "color(244)",
    "frame": "color(242)",
    "axis": "color(244)",
    "band": "color(29)",
    "raw": "color(67)",
    "line": "color(33)",
    "mark": "bold color(166)",
    "bad": "bold color(196)",
    "OK": "bold color(29)",
    "WATCH": "bold color(136)",
    "ACT": "bold color(166)",
    "STOP": "bold color(196)",
}
STYLES |= {f"{word} badge": f"{STYLES[word]} reverse" for word in ("OK", "WATCH", "ACT", "STOP")}


@cache
def style(role: str) -> Style:
    """The look of a role."""
    return Style.parse(STYLES[role])


class Row:
    """Strings, (string, role) runs and other rows in a line; ``width`` in cells. Nothing changes it once made.

    A tenth of the cost of rich's ``Text``, which parses, nests and sorts its styles again at every repaint.
    """

    __slots__ = ("runs", "width")

    def __init__(self, *parts: str | Run | Row) -> None:
        self.runs: list[Run] = []
        self.width = 0
        for part in parts:
            if isinstance(part, Row):
                self.runs += part.runs
                self.width += part.width
                continue
            run = (part, "") if isinstance(part, str) else part
            if run[0]:
                self.runs.append(run)
                self.width += cell_len(run[0])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.runs == other.runs

    __hash__ = None  # type: ignore[assignment]  # equal by content, and nobody needs it in a set

    def __bool__(self) -> bool:
        return self.width > 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for text, role in self.runs:
            yield Segment(text, style(role))

    @property
    def plain(self) -> str:
        """The characters alone."""
        return "".join(text for text, _ in self.runs)


Rows = list[Row]


def cut(row: Row, width: int) -> Row:
    """The first ``width`` cells; half of a wide character becomes a space."""
    kept: list[Run] = []
    for text, role in row.runs:
        size = cell_len(text)
        kept.append((text, role) if size <= width else (set_cell_size(text, width), role))
        width -= size
        if width <= 0:
            break
    return Row(*kept)


def joined(parts: Rows, gap: str) -> Row:
    """``parts`` with ``gap`` between them; empty parts leave no gap."""
    kept = [part for part in parts if part]
    return Row(*[piece for part in kept for piece in (gap, part)][1:])


def as_many(parts: Rows, width: int, gap: str) -> Row:
    """As many of ``parts`` as fit, in their order, after a space; one that is too long is left out, not cut."""
    line = Row()
    for part in parts:
        longer = Row(line, (gap, "label") if line else " ", part)
        line = longer if part and longer.width <= width else line
    return line
