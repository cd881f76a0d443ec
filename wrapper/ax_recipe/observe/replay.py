"""A recorded log, or the log of a run that goes on, folded into a state from its first byte."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ax_recipe.errors import RecipeError
from ax_recipe.observe.folding import advance, end
from ax_recipe.observe.follow import CHUNK, Splitter, opened
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.state import State

BEFORE = ("starting", "importing")  # phases of a log in which nothing has been read yet as more than text


def replay(path: Path, exit_code: int | None = None) -> State:
    """The state that a live reader would have reached after all lines of ``path``.

    A log alone cannot tell a run that was killed from one that still computes: without ``exit_code`` such a run
    stays ``running``. Raises OSError if ``path`` cannot be read.
    """
    return read(path, exit_code)[0]


def read(path: Path, exit_code: int | None = None) -> tuple[State, bool]:
    """The state as ``replay`` has it, and whether anything in ``path`` is a training's: once is all a pipe is read."""
    splitter, reader, state = Splitter(), LogReader(), State()
    with opened(path) as file:
        while data := file.read(CHUNK):
            fold(splitter.split(data), reader, state)
    fold(splitter.rest(), reader, state)
    for event in reader.finish(splitter.closed):
        advance(state, event)
    end(state, exit_code)
    return state, is_training(reader, state)


def is_training(reader: LogReader, state: State) -> bool:
    """Whether anything that ``reader`` has read into ``state`` is a training's.

    What says how it ended, or was read as more than text, is; so is what only a training prints while it imports.
    """
    return reader.signed or state.status != "running" or state.phase not in BEFORE


def refuse(path: Path) -> None:
    """Say that ``path`` is no log of a training.

    To call it one that runs would be wrong of a file that was given by mistake, and nobody can judge it either.

    :raises RecipeError: always, with what was looked for and what to give.
    """
    raise RecipeError(
        f"no line of {path} is a training's: no step, loss or phase, no stamp of Axolotl's, torch's or transformers' "
        "loggers, no warning of what they import",
        "give what `axolotl train ... > axolotl.log 2>&1` has printed, or of a run of ax-recipe a file of its logs "
        "folder; where the training has only just been started, ask again",
    )


def fold(lines: Iterable[str], reader: LogReader, state: State) -> None:
    """Read ``lines`` with ``reader`` and fold what they tell into ``state``."""
    for event in reader.read(lines):
        advance(state, event)
