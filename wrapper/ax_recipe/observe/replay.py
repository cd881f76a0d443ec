"""A recorded log, or the log of a run that goes on, folded into a state from its first byte."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ax_recipe.observe.follow import CHUNK, Splitter
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.state import State, advance, end


def replay(path: Path, exit_code: int | None = None) -> State:
    """The state that a live reader would have reached after all lines of ``path``.

    A log alone cannot tell a run that was killed from one that still computes: without ``exit_code`` such a run
    stays ``running``. Raises OSError if ``path`` cannot be read.
    """
    splitter, reader, state = Splitter(), LogReader(), State()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            fold(splitter.split(data), reader, state)
    fold(splitter.rest(), reader, state)
    for event in reader.finish(splitter.closed):
        advance(state, event)
    end(state, exit_code)
    return state


def fold(lines: Iterable[str], reader: LogReader, state: State) -> None:
    """Read ``lines`` with ``reader`` and fold what they tell into ``state``."""
    for event in reader.read(lines):
        advance(state, event)
