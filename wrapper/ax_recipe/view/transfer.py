"""What a person sees while a model goes into Ollama: a bar for what is counted in bytes, a line for each step else."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from ax_recipe.ship.ollama import Progress as Step
from ax_recipe.view.figures import clean


class Transfer:
    """Shows steps as they are reported, on stderr; use it in a ``with`` statement. Off a terminal: a line a step."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._bars = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task = self._bars.add_task("", total=None, visible=False)
        self._step = ""

    def __enter__(self) -> Transfer:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def report(self, step: Step) -> None:
        """Show one step, or how far it is."""
        words = clean(step.what)
        if self._console.is_terminal:
            if words != self._step:
                self._bars.reset(self._task, total=None, visible=True)
            self._bars.update(self._task, description=words, completed=step.done or 0, total=step.total)
        elif words != self._step:
            self._console.print(words, markup=False, soft_wrap=True)
        self._step = words
