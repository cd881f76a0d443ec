"""The head of the screen: whose run, the verdict in words, the stages, how far it is and how long it takes."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from ax_recipe.observe.alerts import Alert
from ax_recipe.observe.state import State
from ax_recipe.view import figures
from ax_recipe.view.layout import Look, fit, pair, rail, spread
from ax_recipe.view.row import Row, Rows, as_many, joined

_PATH = ("importing", "preparing", "loading", "compiling", "training")
_COLOURS = {"running": "line", "finished": "OK", "failed": "STOP", "interrupted": "WATCH"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What is shown and how: the state and its judgement, the alphabet, the time, the recipe's target losses."""

    state: State
    look: Look
    severity: str = "OK"
    verdict: str = ""
    alerts: tuple[Alert, ...] = ()
    now: float | None = None
    target: tuple[float, float] | None = None
    title: str = ""

    @property
    def elapsed(self) -> float | None:
        """Seconds that it worked, up to now while it runs and to its last event afterwards."""
        state = self.state
        return state.elapsed(self.now if self.now is not None and state.status == "running" else state.now)

    @property
    def share(self) -> float | None:
        """How much of the training is done, 0 to 1; None while the number of steps is unknown."""
        total = self.state.total_steps
        return self.state.step / total if total else None

    @property
    def percent(self) -> str:
        """The same in words, four characters wide; nothing while it is unknown."""
        return "" if self.share is None else f"{self.share:4.0%}"

    @property
    def steps(self) -> str:
        """``812/1,240``."""
        total = f"{self.state.total_steps:,}" if self.state.total_steps else "?"
        return f"{self.state.step:,}/{total}"


def badge(severity: str, look: Look) -> Row:
    """The verdict's word and glyph on its colour."""
    return Row((f" {look.severity[severity]} {severity} ", severity + " badge"))


def headline(scene: Scene, width: int) -> Row:
    """Whose run it is, and for how long it has worked."""
    left = Row(" ", ("ax-recipe", "title"), "  ", scene.look.say(scene.title))
    return spread(left, Row(("elapsed ", "label"), figures.clock(scene.elapsed), " "), width, scene.look)


def verdict(scene: Scene, width: int, rows: int = 1) -> Rows:
    """The badge and the one sentence, wrapped to at most ``rows`` lines."""
    mark = badge(scene.severity, scene.look)
    sentence = scene.look.say(scene.verdict)
    room = max(8, width - mark.width - 4)
    parts = textwrap.wrap(sentence, room) or [""]
    shown = [*parts[: rows - 1], " ".join(parts[rows - 1 :])]
    indent = " " * (mark.width + 3)
    lines = [Row(" ", mark, "  ", (shown[0], "strong")), *[Row((indent + more, "strong")) for more in shown[1:]]]
    return [fit(line, width, scene.look) for line in lines if line.plain.strip()]


def stages(scene: Scene, width: int) -> Row:
    """All stages with their state; when they do not fit, done ones shrink to their glyph, then the rest is cut."""
    marks = [(scene.look.stage[word], name, word) for name, word in scene.state.stages.items()]
    full = joined([_stage(mark, name, word) for mark, name, word in marks], "  ")
    if full.width + 1 <= width:
        return Row(" ", full)
    near = {"running", "failed", "interrupted"}
    short = joined([_stage(mark, name if word in near else "", word) for mark, name, word in marks], " ")
    done = sum(word in ("done", "skipped") for _, _, word in marks)
    return fit(Row(" ", short, (f"   {done} of {len(marks)} done", "label")), width, scene.look)


def _stage(mark: str, name: str, word: str) -> Row:
    style = {"running": "strong", "failed": "STOP", "interrupted": "WATCH"}.get(word, "label")
    colour = {"running": "line", "done": "OK"}.get(word, style)
    return Row((mark, colour), (f" {name}" if name else "", style))


def progress(scene: Scene, width: int) -> Row:
    """The bar with step, percentage and ETA; before the first step, the way there; of a stage without steps a word."""
    state, look = scene.state, scene.look
    if _without_steps(state):
        return fit(brief(scene), width, look)
    if _before_training(state):
        return _way(scene, width)
    left = Row(" ", (_word(state), "strong"), "  ")
    right = joined([Row(f"  {scene.percent}"), pair("step", scene.steps), ending(scene)], "  ")
    room = width - left.width - right.width - 1
    if room < 8:
        return fit(brief(scene), width, look)
    return Row(left, rail(scene.share, room, look, _COLOURS[state.status]), right)


def brief(scene: Scene) -> Row:
    """The same without its bar."""
    word = Row(" ", (_word(scene.state), "strong"))
    if _without_steps(scene.state):
        mark = scene.look.stage[scene.state.status]
        return Row(" ", (mark, _COLOURS[scene.state.status]), word)
    if _before_training(scene.state):
        return word
    return joined([word, Row(scene.percent.strip()), Row(scene.steps), ending(scene)], "  ")


def _without_steps(state: State) -> bool:
    """Whether a stage behind the training is under way or went wrong; where all is done, the bar tells of the run."""
    return state.after_training and state.status != "finished"


def _before_training(state: State) -> bool:
    return state.status == "running" and not state.step and state.phase not in ("training", "evaluating", "saving")


def _word(state: State) -> str:
    return state.phase if state.status == "running" else state.status


def ending(scene: Scene) -> Row:
    """The time left from the recent steps while it runs, the time it took afterwards."""
    if scene.state.status == "running":
        return pair("ETA", figures.duration(scene.state.eta_seconds))
    return pair("took", figures.duration(scene.elapsed))


def _way(scene: Scene, width: int) -> Row:
    """The phases before the first step, the present one marked; only its name where they do not fit."""
    state, look = scene.state, scene.look
    here = _PATH.index(state.phase) if state.phase in _PATH else None
    if here is None:
        return fit(Row(" ", (look.stage["running"], "line"), (f" {state.phase}", "strong")), width, look)
    words = ["done"] * here + ["running"] + ["waiting"] * (len(_PATH) - here - 1)
    full = joined([_stage(look.stage[word], name, word) for name, word in zip(_PATH, words, strict=True)], "  ")
    count = Row((f"  phase {here + 1} of {len(_PATH)}", "label"))
    if full.width + count.width + 1 > width:
        full = _stage(look.stage["running"], state.phase, "running")
    return fit(Row(" ", full, count), width, look)


def facts(scene: Scene, width: int) -> Row:
    """Where it stands in numbers that have no panel of their own, as many as fit."""
    state = scene.state
    parts = [
        pair("epoch", figures.epochs(state.epoch, state.total_epochs)),
        Row(figures.per_step(state.step_seconds)) if state.step_seconds else Row(),
        checkpoint(scene),
        pair("resumed", f"{state.segments - 1}x") if state.segments > 1 else Row(),
        _parameters(scene),
    ]
    return as_many(parts, width, f" {scene.look.dot} ")


def checkpoint(scene: Scene) -> Row:
    """The last checkpoint's step and age."""
    saved = scene.state.checkpoint
    if saved is None:
        return pair("checkpoint", "none yet") if scene.state.step and scene.state.status == "running" else Row()
    at = f"step {saved.step:,}" if saved.step is not None else scene.look.say(str(saved.path))
    known = scene.now is not None and saved.time is not None
    age = f", {figures.duration((scene.now or 0.0) - (saved.time or 0.0))} ago" if known else ""
    return pair("checkpoint", at + age)


def _parameters(scene: Scene) -> Row:
    known = scene.state.parameters
    if known is None or not known.total:
        return Row()
    share = f"{known.trainable / known.total:.2%}"
    return pair("trains", f"{figures.thousands(known.trainable)} of {figures.thousands(known.total)} ({share})")
