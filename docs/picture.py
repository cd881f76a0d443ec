"""Draws the README's picture, docs/dashboard.svg, from a recorded run: the same picture every time, byte for byte.

python docs/picture.py
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "wrapper"))

from rich.console import Console  # noqa: E402 - the package may not be installed
from rich.terminal_theme import TerminalTheme  # noqa: E402

from ax_recipe.observe.events import Event, Step, from_json  # noqa: E402
from ax_recipe.observe.folding import advance  # noqa: E402
from ax_recipe.observe.log import LogReader  # noqa: E402
from ax_recipe.observe.state import State  # noqa: E402
from ax_recipe.view.dashboard import view  # noqa: E402

# `pirate` on two H200 with Axolotl 0.19.0, over random weights: memory and speed are the real ones, the loss is not.
RUN = HERE.parent / "tests" / "logs" / "axolotl-0.19.0-2gpu-pirate"
STEP = 78
SIZE = (120, 38)
TARGET = (0.5, 0.8)
STAGES = {
    "preprocess": "done",
    "train": "running",
    **dict.fromkeys(("evaluate", "merge", "check-merge", "export", "deploy", "chat"), "waiting"),
}
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
    """What an events file or a log tells, oldest first."""
    if path.suffix == ".jsonl":
        yield from (event for line in path.read_text("utf-8").splitlines() if (event := from_json(line)))
        return
    reader = LogReader()
    for line in path.read_text("utf-8").replace("\r", "\n").splitlines():
        yield from reader.feed(line)


def state_at(step: int) -> State:
    """The run's state when it had done ``step`` steps."""
    state = State(stages=dict(STAGES))
    for path in (RUN.with_name(f"{RUN.name}.jsonl"), RUN.with_name(f"{RUN.name}.log")):
        for event in events(path):
            if isinstance(event, Step) and event.step > step:
                break
            advance(state, event)
    return state


def svg(state: State) -> str:
    """The screen as SVG."""
    console = Console(
        width=SIZE[0], height=SIZE[1], file=io.StringIO(), record=True, force_terminal=True, color_system="256"
    )
    console.print(view(state, *SIZE, now=state.now, target_loss=TARGET, title="pirate-20261122-150014"), end="")
    text = console.export_svg(title="ax-recipe run pirate --gpus 2", theme=THEME, unique_id="ax", code_format=FORMAT)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


if __name__ == "__main__":
    (HERE / "dashboard.svg").write_text(svg(state_at(STEP)), "utf-8")
