"""Draws the README's picture, docs/dashboard.svg, from what a real run left behind.

    python docs/picture.py [--until STEP] [--title TEXT] [--target LOW HIGH] [--size COLUMNS LINES] FILE...

A FILE ending in .jsonl holds events (give it before the log of the same run), any other is an Axolotl log. The same
files give the same picture, byte for byte.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "wrapper"))

from rich.console import Console  # noqa: E402 - the package may not be installed
from rich.terminal_theme import TerminalTheme  # noqa: E402

from ax_recipe.observe.events import Event, from_json  # noqa: E402
from ax_recipe.observe.log import LogReader  # noqa: E402
from ax_recipe.observe.state import State, advance  # noqa: E402
from ax_recipe.view.dashboard import view  # noqa: E402

RECORDED = HERE.parent / "tests" / "logs" / "axolotl-0.19.0-4gpu-ok.log"
_GREYS = [(0, 0, 0), (205, 49, 49), (13, 188, 121), (229, 229, 16), (36, 114, 200), (188, 63, 188), (17, 168, 205)]
THEME = TerminalTheme((22, 27, 34), (214, 220, 228), [*_GREYS, (229, 229, 229)])
# Without rich's web fonts: a picture in a README may not load anything, and every run of text has its width set.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px ui-monospace, "DejaVu Sans Mono", Menlo, monospace }}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def events(path: Path) -> Iterator[Event]:
    """What the file tells, oldest first."""
    text = path.read_text("utf-8", "replace").replace("\r", "\n")
    if path.suffix == ".jsonl":
        yield from (event for line in text.splitlines() if (event := from_json(line)))
        return
    reader = LogReader()
    for line in text.splitlines():
        yield from reader.feed(line)
    yield from reader.finish(True)


def fold(paths: list[Path], until: int | None) -> State:
    """The state after all files, or at step ``until`` of the first file that gets there."""
    state = State()
    for path in paths:
        for event in events(path):
            advance(state, event)
            if until is not None and state.step >= until:
                break
    return state


def svg(state: State, size: tuple[int, int], title: str, target: tuple[float, float] | None) -> str:
    """The screen of ``size`` columns and lines as SVG."""
    console = Console(
        width=size[0], height=size[1], file=io.StringIO(), record=True, force_terminal=True, color_system="256"
    )
    console.print(view(state, *size, now=state.now, target_loss=target, title=title), end="")
    text = console.export_svg(title="ax-recipe watch", theme=THEME, unique_id="ax", code_format=FORMAT)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def main() -> None:
    """Write docs/dashboard.svg."""
    parser = argparse.ArgumentParser(description="Draw docs/dashboard.svg from a run's files.")
    parser.add_argument("files", nargs="*", type=Path, default=[RECORDED])
    parser.add_argument("--until", type=int)
    parser.add_argument("--title", default="")
    parser.add_argument("--target", nargs=2, type=float)
    parser.add_argument("--size", nargs=2, type=int, default=(120, 36))
    given = parser.parse_args()
    state = fold(given.files, given.until)
    columns, lines = given.size
    target = (given.target[0], given.target[1]) if given.target else None
    (HERE / "dashboard.svg").write_text(svg(state, (columns, lines), given.title, target), "utf-8")


if __name__ == "__main__":
    main()
