"""The whole screen as a pure picture of a state, for every size from one line to a wall."""

from __future__ import annotations

from collections.abc import Sequence

from ax_recipe.observe import rules
from ax_recipe.observe.state import State
from ax_recipe.view import figures, header, panels
from ax_recipe.view.header import Scene
from ax_recipe.view.layout import ASCII, UNICODE, Frame, Look, beside, box, fit, pair
from ax_recipe.view.row import Row, Rows, as_many, joined

_KEYS = (("q", "detach"), ("s", "stop"), ("l", "log"), ("?", "help"))
_HELP = """\
q  detach: this screen closes, the training goes on
s  stop: asks first, then Axolotl saves a checkpoint and ends
l  the log on the full screen; arrows and page keys move in it
?  this page
Ctrl-C stops it, too, and does not ask; once more does not wait for the checkpoint

OK     nothing to do
WATCH  worth a look, nothing to do yet
ACT    change something, in this run or in the next
STOP   going on wastes time

The verdict is the worst alert that still holds.
The dots are the logged losses, the line is their running average,
the dashed rules are the band this recipe calls converged.
ETA counts the median of the last 50 steps.\
"""


def view(
    state: State,
    width: int,
    height: int,
    *,
    now: float | None = None,
    target_loss: tuple[float, float] | None = None,
    ascii_only: bool = False,
    title: str = "",
    notice: str | None = None,
) -> Frame:
    """The picture of ``state`` in at most ``width`` by ``height`` cells; reads no clock, terminal, disk or GPU.

    ``now`` (unix seconds) counts the elapsed time on between events; ``notice`` takes the place of the key hints.
    """
    look = ASCII if ascii_only else UNICODE
    found = rules.judge(state, target_loss, now)
    # How the run ended is the verdict's own sentence; said twice it would push the advice out of the alerts.
    alerts = tuple(alert for alert in found.alerts if alert.rule != state.status)
    scene = Scene(state, look, found.severity, found.verdict, alerts, now, target_loss, title)
    if width < 60 or height < 16:
        lines = _tiny(scene, width, height, notice)
    elif width < 80:
        lines = _narrow(scene, width, height, notice)
    else:
        lines = _boxed(scene, width, height, notice)
    return Frame(tuple(fit(line, width, look, pad=False) for line in lines[:height]))


def log_view(state: State, width: int, height: int, *, offset: int = 0, ascii_only: bool = False) -> Frame:
    """The log alone, ``offset`` lines up from its end."""
    look = ASCII if ascii_only else UNICODE
    rows = panels.log(Scene(state, look), max(1, width - 4), max(0, height - 3), offset)
    lines = box(Row(("log", "title")), rows, width, height - 1, look, right=Row(("newest last", "label")))
    return _page(lines, (("l", "back"), ("up down page-up page-down", "move")), width, height, look)


def help_view(width: int, height: int, *, ascii_only: bool = False) -> Frame:
    """What the keys and the words mean."""
    look = ASCII if ascii_only else UNICODE
    rows = [Row(row) for row in _HELP.splitlines()]
    lines = box(Row(("help", "title")), rows, width, height - 1, look)
    return _page(lines, (("any key", "back"),), width, height, look)


def _page(lines: Rows, keys: Sequence[tuple[str, str]], width: int, height: int, look: Look) -> Frame:
    rows = [*lines, Row(" ", _hints(keys))]
    return Frame(tuple(fit(line, width, look, pad=False) for line in rows[:height]))


def _tiny(scene: Scene, width: int, height: int, notice: str | None) -> Rows:
    """Down to three lines, then two, then one: verdict, progress, numbers, and whatever else finds room."""
    if height == 1:
        one = Row(header.badge(scene.severity, scene.look), header.brief(scene))
        return [_footer(scene, notice) if notice else Row(one, " ", _numbers_line(scene, width - one.width - 1))]
    lines = [*header.verdict(scene, width), header.progress(scene, width), _numbers_line(scene, width)][:height]
    extra = [header.facts(scene, width), header.stages(scene, width)]
    lines += [line for line in extra if line.plain.strip()][: max(0, height - 4)]
    if scene.alerts and len(lines) + 2 <= height:
        lines += [Row(" ", line) for line in panels.alerts(scene, width - 2, min(2, height - len(lines) - 1))]
    if (spare := height - len(lines) - 1) > 0:
        lines += [Row(" ", line) for line in panels.log(scene, width - 2, spare)]
    return [*lines[: height - 1], _footer(scene, notice)] if notice or len(lines) < height else lines


def _numbers_line(scene: Scene, width: int) -> Row:
    state = scene.state
    parts = [
        pair("loss", figures.value(state.loss), "strong"),
        pair("eval", figures.value(state.eval_loss)),
        pair("grad", figures.value(state.grad_norm)),
        pair("lr", figures.rate(state.learning_rate)),
        pair("tok/s", figures.thousands(state.tokens_per_second)),
        pair("active", figures.gib(state.active_gib or None)),
    ]
    return as_many(parts, width, "  ")


def _narrow(scene: Scene, width: int, height: int, notice: str | None) -> Rows:
    """One column without boxes but the curve's, which comes when there is room for it."""
    lines = _head(scene, width, height)
    if height >= 28:
        lines += panels.loss(scene, width, height - 20)
    sections = [("numbers", panels.numbers(scene, width - 2)), ("GPUs", panels.gpus(scene, width - 2, 4))]
    if scene.alerts:
        sections.append(("alerts", panels.alerts(scene, width - 2, 4)))
    for name, rows in sections:
        if rows and len(lines) + len(rows) + 2 <= height:
            lines += [_rule(name, width, scene.look), *[Row(" ", row) for row in rows]]
    if (spare := height - len(lines) - 2) > 0:
        lines += [
            _rule("log", width, scene.look),
            *[Row(" ", row) for row in panels.log(scene, width - 2, spare)],
        ]
    lines += [Row()] * (height - 1 - len(lines))
    return [*lines[: height - 1], _footer(scene, notice)]


def _rule(name: str, width: int, look: Look) -> Row:
    return Row((look.across, "frame"), f" {name} ", (look.across * (width - len(name) - 3), "frame"))


def _boxed(scene: Scene, width: int, height: int, notice: str | None) -> Rows:
    """Curves over memory and alerts over the log, in two columns of the same split."""
    lines = _head(scene, width, height)
    body = height - len(lines) - 1
    left = round(width * 0.6)
    curves = min(24, max(8, round(body * (0.34 if scene.state.status == "failed" else 0.48))))
    if body - curves < 8:
        curves = body - 3
    lines += beside(panels.loss(scene, left, curves), _measures(scene, width - left, curves))
    if body - curves >= 8:
        lines += _info(scene, left, width - left, body - curves - 3)
    rest = height - len(lines) - 1
    lines += box(Row(("log", "label")), panels.log(scene, width - 4, rest - 2), width, rest, scene.look)
    return [*lines, _footer(scene, notice)]


def _info(scene: Scene, left: int, right: int, limit: int) -> Rows:
    """Memory and GPUs beside the alerts, as high as they need, at most ``limit``; nothing where there is neither."""
    memory = panels.memory(scene, left - 4)
    if not memory and not scene.state.gpus:
        needed = len(panels.alerts(scene, left + right - 4, 6)) + 2
        return _alerts(scene, left + right, max(3, min(needed, limit))) if scene.alerts else []
    machine = len(memory) + min(8, len(scene.state.gpus))
    height = max(3, min(max(machine, len(panels.alerts(scene, right - 4, 6))) + 2, limit))
    rows = [*memory, *panels.gpus(scene, left - 4, height - 2 - len(memory))]
    return beside(_machine(scene, rows, left, height), _alerts(scene, right, height))


def _measures(scene: Scene, width: int, height: int) -> Rows:
    """Three small curves where there is room for them, else a table with one-row curves."""
    if width < 40 or height < 12:
        rows = panels.numbers(scene, width - 4) or [Row(("nothing yet", "label"))]
        return box(Row(("numbers", "label")), rows, width, height, scene.look)
    third, extra = divmod(height, 3)
    return [
        *panels.gradient(scene, width, third + (extra > 0)),
        *panels.learning_rate(scene, width, third + (extra > 1)),
        *panels.throughput(scene, width, third),
    ]


def _machine(scene: Scene, rows: Rows, width: int, height: int) -> Rows:
    totals = [gpu.memory_total_gib for gpu in scene.state.gpus if gpu.memory_total_gib]
    card = pair("card", figures.gib(max(totals))) if totals else Row()
    return box(Row(("memory and GPUs", "label")), rows, width, height, scene.look, right=card)


def _alerts(scene: Scene, width: int, height: int) -> Rows:
    count = len(scene.alerts)
    title = pair("alerts", str(count), "strong") if count else Row(("alerts", "label"))
    return box(title, panels.alerts(scene, width - 4, height - 2), width, height, scene.look)


def _head(scene: Scene, width: int, height: int) -> Rows:
    rows = 1 if height < 20 else 2 if height < 30 and scene.state.status == "running" else 3
    lines = [header.headline(scene, width), *header.verdict(scene, width, rows)]
    lines += [header.stages(scene, width)] if scene.state.stages else []
    return [*lines, header.progress(scene, width), header.facts(scene, width)]


def _footer(scene: Scene, notice: str | None) -> Row:
    if notice:
        return Row((f" {scene.look.say(notice)} ", "notice"))
    return Row(" ", _hints(_KEYS))


def _hints(keys: Sequence[tuple[str, str]]) -> Row:
    return joined([Row((key, "strong"), (f" {word}", "label")) for key, word in keys], "   ")
