"""Being there while a run goes on: the dashboard or plain lines until it ends, then what came of it."""

from __future__ import annotations

import json
import signal
import time
from textwrap import TextWrapper
from types import FrameType
from typing import Any

from rich.console import Console

from ax_recipe.errors import MissingError
from ax_recipe.launch import training
from ax_recipe.observe import events
from ax_recipe.observe.alerts import Band, as_band
from ax_recipe.observe.feed import Feed
from ax_recipe.run import runs
from ax_recipe.run.rundir import TITLES, RunDir, RunState
from ax_recipe.survive import proof
from ax_recipe.view.dashboard import Dashboard, fits
from ax_recipe.view.figures import duration
from ax_recipe.view.keys import Keys
from ax_recipe.view.plain import PlainLines

# How often a run without a screen is looked at (seconds).
POLL_S = 0.2
# How long keys may wait while a long log is read (seconds).
PATIENCE_S = 0.05
MARKS = {"waiting": " ", "running": ">", "done": "x", "skipped": "-", "failed": "!", "interrupted": "!"}
EXIT_CODES = {"finished": 0, "waiting": 0, "running": 0, "failed": 1, "interrupted": 130}


def attend(run: RunDir, *, as_json: bool = False, owns: bool = True) -> int:
    """Show ``run`` until it ends or the person leaves it; give the command's exit code.

    Leaving does not end the run, nor does a closed terminal (SIGHUP); an explicit stop does. So does SIGTERM where the
    command ``owns`` the run: a batch system sends it to that command, and kills what is left when it ends.
    """
    signal.signal(signal.SIGTERM, _terminated)
    console = Console(stderr=True)
    feed = Feed(run, (lambda event: print(events.to_json(event), flush=True)) if as_json else None)  # noqa: T201
    target = target_of(run)
    try:
        if as_json or not fits(console):
            reason = _by_lines(feed, console, target, quiet=as_json)
        else:
            with Dashboard(feed.state, title=run.name, target_loss=target, console=console) as shown:
                reason = shown.run(lambda: feed.poll(PATIENCE_S), behind=lambda: feed.behind)
    except KeyboardInterrupt:  # where there is no terminal whose keys could be read
        reason = "stop"
    except SystemExit:
        if not owns:
            raise
        reason = "stop"
    if reason == "stop":
        _see_off(run, feed, console)
    if reason == "detached":
        words = f"The run goes on. ax-recipe watch {run.word} comes back to it, ax-recipe status shows where it is."
        console.print(words, markup=False, highlight=False, soft_wrap=True)
        return 0
    state = proof.standing(run)
    if not as_json:
        width = console.width if console.is_terminal else None
        console.print(summary(run, state, width), markup=False, highlight=False, soft_wrap=True)
    return EXIT_CODES[state.status]


def _terminated(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _see_off(run: RunDir, feed: Feed, console: Console) -> None:
    """Stop the run and wait until it has; to be asked once more hurries it."""
    console.print(f"{stopping(run)}. Ctrl-C once more does not wait.", markup=False, highlight=False, soft_wrap=True)
    runs.stop(run)
    while True:
        try:
            while feed.poll():
                time.sleep(POLL_S)
        except (KeyboardInterrupt, SystemExit):
            runs.stop(run)
        else:
            return


def stopping(run: RunDir) -> str:
    """What a stop asked for now will do: only a training that has begun has something to save."""
    going = next((stage.name for stage in run.current_state().stages if stage.state == "running"), "")
    if going == "train" and run.stop_file.exists():
        return f"{run.name} was asked before, and no longer waits for its checkpoint"
    if going == "train" and training.begun(run.events):
        return f"{run.name} saves a checkpoint and stops"
    return f"{run.name} stops" + (f"; resume begins {going} anew" if going else "")


def target_of(run: RunDir) -> Band | None:
    """The band in which the recipe wants the training loss to end."""
    return as_band(run.read_json(run.orders)["targets"]["loss"])


def _by_lines(feed: Feed, console: Console, target: Band | None, *, quiet: bool) -> str:
    plain = PlainLines(target=target)
    if console.is_terminal:
        console.print(
            "q detaches, the run goes on; Ctrl-C stops it, a training saves a checkpoint first", highlight=False
        )
    with Keys() as keys:
        while True:
            goes_on = feed.poll()
            for line in [] if quiet else plain.lines(feed.state):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            if not goes_on:
                return "ended"
            pressed = keys.wait(POLL_S)
            if "ctrl-c" in pressed:
                return "stop"
            if "q" in pressed:
                return "detached"
            if "ctrl-z" in pressed:
                keys.suspend()


def found(run: RunDir) -> str:
    """In what way a run that is there already answers a command that asks for this very run."""
    state = proof.standing(run)
    if run.worker:
        return "and is going on: this is it"
    if state.status == "finished":
        return "and has finished: this came out"
    due = next(stage for stage in state.stages if stage.state not in ("done", "skipped"))
    why = f", {due.detail}" if due.state == "waiting" and due.detail else ""
    return f"so it goes on at {due.name}{why}"


def summary(run: RunDir, state: RunState, width: int | None = None) -> str:
    """What a person reads at the end, and from ``status``: every stage, what came of it, and what to do next.

    ``width`` is that of a terminal, in cells; what is written elsewhere has a line to a stage.
    """
    lines = [f"{run.name}: {state.status}", *([str(run.job)] if run.job.number else [])]
    for stage in state.stages:
        seconds = stage.ended - stage.started if stage.started and stage.ended else 0.0
        took = f" ({duration(seconds)})" if seconds >= 1 and stage.state != "waiting" else ""
        head = f"  [{MARKS[stage.state]}] {TITLES[stage.name]:<14}"
        lines.append(_hung(head, (stage.detail or stage.state) + took, width))
    if mirror := run.mirror.words():
        lines.append(_hung("  Kept at ", mirror, width))
    return "\n".join([*lines, *_answers(run, state), *_next(run, state)])


def _hung(head: str, detail: str, width: int | None) -> str:
    """``detail`` behind ``head``, its further lines under its first."""
    lines = detail.split("\n")
    if width:
        cut = TextWrapper(max(20, width - len(head)), break_long_words=False, break_on_hyphens=False)
        lines = [part for line in lines for part in cut.wrap(line)]
    return head + ("\n" + " " * len(head)).join(lines)


def _answers(run: RunDir, state: RunState) -> list[str]:
    if not run.answers.exists() or state.stage("chat").state != "done":
        return []
    try:
        row = next((row for row in run.read_json(run.answers) if row.get("tuned_matches")), None)  # or not judged yet
    except MissingError as error:
        return ["", str(error)]
    return ["", f"  > {row['prompt']}", f"    before: {row['base']}", f"    after:  {row['tuned']}"] if row else []


def _next(run: RunDir, state: RunState) -> list[str]:
    if state.status == "finished":
        return [
            "",
            f"Talk to it: ax-recipe chat {run.word}",
            f"What next:  ax-recipe advise {run.word}",
            f"The run:    {run.path}",
        ]
    if state.status in ("failed", "interrupted", "waiting") and not run.worker:
        return ["", f"The run:    {run.path}", f"Go on with: ax-recipe resume {run.word}"]
    return []


def as_json(run: RunDir, state: RunState) -> str:
    """``status --json``."""
    stages: list[dict[str, Any]] = [
        {"name": stage.name, "title": TITLES[stage.name], "state": stage.state, "detail": stage.detail,
         "started": stage.started, "ended": stage.ended}
        for stage in state.stages
    ]  # fmt: skip
    value: dict[str, Any] = {"run": run.name, "path": str(run.path), "recipe": state.recipe, "status": state.status}
    value["stages"] = stages
    if run.job.number:
        value["job"] = {"id": run.job.number, "state": run.job.state or None}
    if run.mirror.url:
        value["mirror"] = {"url": run.mirror.place, **run.mirror.read()}
    return json.dumps(value, indent=1)
