"""The alphabet and the joinery of the screen: glyphs, boxes, bars, lines of an exact width."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

from ax_recipe.view.figures import clean
from ax_recipe.view.row import Row, Rows, cut

NOTHING = Row()


@dataclass(frozen=True, slots=True)
class Look:
    """The glyphs of one alphabet."""

    ascii_only: bool
    corners: str
    across: str
    down: str
    rail: str
    head: str
    dot: str
    ellipsis: str
    degree: str
    severity: dict[str, str]
    stage: dict[str, str]

    def say(self, text: str) -> str:
        """Outside text in this alphabet, safe to print."""
        return clean(text, ascii_only=self.ascii_only)


UNICODE = Look(
    ascii_only=False,
    corners="╭╮╰╯",
    across="─",
    down="│",
    rail="━",
    head="╸",
    dot="·",
    ellipsis="…",
    degree="°C",
    severity={"OK": "✓", "WATCH": "!", "ACT": "▲", "STOP": "✗"},
    stage={"waiting": "○", "running": "●", "done": "✓", "skipped": "\u2013", "failed": "✗", "interrupted": "‖"},
)
ASCII = Look(
    ascii_only=True,
    corners="++++",
    across="-",
    down="|",
    rail="=",
    head=">",
    dot="|",
    ellipsis="~",
    degree="C",
    severity={"OK": "+", "WATCH": "!", "ACT": "^", "STOP": "x"},
    stage={"waiting": ".", "running": ">", "done": "+", "skipped": "-", "failed": "x", "interrupted": "="},
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the screen; every line already fits the width it was made for."""

    lines: tuple[Row, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines:
            yield from line.__rich_console__(console, options)
            yield Segment.line()


def fit(row: Row, width: int, look: Look, *, pad: bool = True) -> Row:
    """``row`` in exactly ``width`` cells: cut with an ellipsis, or padded (``pad=False``: at most ``width``)."""
    if row.width > width:
        row = Row(cut(row, width - cell_len(look.ellipsis)), look.ellipsis[:width])
    return Row(row, " " * (width - row.width)) if pad and row.width < width else row


def spread(left: Row, right: Row, width: int, look: Look) -> Row:
    """``left`` and ``right`` at the two ends of a line; ``right`` goes when there is no room for both."""
    if not right or left.width + right.width + 2 > width:
        return fit(left, width, look)
    return Row(fit(left, width - right.width, look), right)


def pair(label: str, figure: str, role: str = "") -> Row:
    """A grey label and its figure; nothing when the figure is unknown."""
    return Row() if figure == "-" else Row((label + " ", "label"), (figure, role))


def rail(share: float | None, width: int, look: Look, role: str) -> Row:
    """A thin bar of ``width`` cells, ``share`` (0 to 1) of it full, in halves of a cell."""
    whole, half = divmod(round(min(1.0, max(0.0, share or 0.0)) * max(0, width) * 2), 2)
    done = look.rail * whole + look.head * half
    return Row((done, role), (look.across * (width - len(done)), "frame"))


def box(
    title: Row, body: Rows, width: int, height: int, look: Look, *, right: Row = NOTHING, foot: Row = NOTHING
) -> Rows:
    """``body`` in a frame of exactly ``width`` by ``height`` with a title, a figure on the right, words below."""
    inner = max(0, height - 2)
    rows = [*body[:inner], *[NOTHING] * (inner - len(body))]
    left, end = Row((f"{look.down} ", "frame")), Row((f" {look.down}", "frame"))
    return [
        _edge(look.corners[:2], title, right, width, look),
        *[Row(left, fit(row, width - 4, look), end) for row in rows],
        _edge(look.corners[2:], NOTHING, foot, width, look),
    ][:height]


def _edge(corners: str, left: Row, right: Row, width: int, look: Look) -> Row:
    """One horizontal border with words in it; the words on the right go first when there is no room."""
    room = width - 4
    left = Row(" ", fit(left, room - 2, look, pad=False), " ") if left else left
    right = Row(" ", right, " ") if right and left.width + right.width + 3 <= room else NOTHING
    fill = look.across * (room - left.width - right.width)
    return Row((corners[0] + look.across, "frame"), left, (fill, "frame"), right, (look.across + corners[1], "frame"))


def beside(left: Rows, right: Rows) -> Rows:
    """Two blocks of the same height next to each other."""
    return [Row(a, b) for a, b in zip(left, right, strict=True)]
