"""The panels of the screen, each a pure function from a scene and a size to lines."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from operator import itemgetter
from statistics import fmean

from ax_recipe.observe.alerts import SEVERITIES, Alert
from ax_recipe.observe.curve import Curve
from ax_recipe.observe.events import Gpu
from ax_recipe.view import figures
from ax_recipe.view.curve import Chart, draw, span, spark
from ax_recipe.view.header import Scene
from ax_recipe.view.layout import NOTHING, Look, box, fit, pair, rail
from ax_recipe.view.row import Row, Rows, joined

_STAMP = re.compile(r"\[\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d),\d+\] \[[A-Z]+\] \[[^\]]*\](?: \[PID:\d+\])? ?")
_LEVELS = {"WARNING": "WATCH", "ERROR": "STOP", "CRITICAL": "STOP"}


def loss(scene: Scene, width: int, height: int) -> Rows:
    """The loss: raw dots, smoothed line, target band, evaluations; in words while there is none."""
    state, look = scene.state, scene.look
    title = _title("loss", figures.value(state.loss), "eval", figures.value(state.eval_loss))
    if not state.losses.points:
        return box(title, _waiting(scene, width - 4, height - 2), width, height, look)
    chart = Chart(state.losses.points, state.eval_losses.points, scene.target, label="{:.3g}".format)
    return box(
        title, _chart(chart, width, height, look), width, height, look, right=_legend(scene), foot=_steps(state.losses)
    )


def _legend(scene: Scene) -> Row:
    raw, line, mark, band = ("..", "**", "o", "--") if scene.look.ascii_only else ("⠢⠔", "━", "◆", "┄")
    parts = [("raw", raw, "raw"), ("smoothed", line, "line")]
    parts += [("eval", mark, "mark")] if scene.state.eval_losses.points else []
    parts += [("target", band, "band")] if scene.target else []
    return joined([Row((sign, role), (f" {word}", "label")) for word, sign, role in parts], "  ")


def _waiting(scene: Scene, width: int, height: int) -> Rows:
    """Why there is no curve yet, in the middle of its panel."""
    words = {
        "compiling": "No loss yet: the first step is compiling. Minutes without output are normal here.",
        "training": "No loss yet: the first one comes after the first logged step.",
        "evaluating": "No loss yet: an evaluation comes first.",
        "failed": "It ended before the first loss.",
        "interrupted": "It ended before the first loss.",
        "finished": "It ended without a loss in its log.",
    }
    text = words.get(scene.state.phase, f"No loss yet: {scene.state.phase}.")
    wrapped = textwrap.wrap(text, min(56, max(10, width))) or [""]
    return [Row()] * max(0, (height - len(wrapped)) // 2) + [
        Row((row.center(width).rstrip(), "label")) for row in wrapped
    ]


def gradient(scene: Scene, width: int, height: int) -> Rows:
    """The gradient norm."""
    state = scene.state
    return _small(
        scene, _title("gradient norm", figures.value(state.grad_norm)), Chart(state.grad_norms.points), (width, height)
    )


def learning_rate(scene: Scene, width: int, height: int) -> Rows:
    """The learning rate, and whether it is the schedule's."""
    state = scene.state
    chart = Chart(state.learning_rates.points, smoothed=False, label=figures.short_rate)
    title = _title("learning rate", figures.rate(state.learning_rate))
    return _small(scene, title, chart, (width, height), on_schedule(scene))


def on_schedule(scene: Scene) -> Row:
    """``on schedule``, or the rate that is due where the logged one is more than 2 % of the peak away from it."""
    state = scene.state
    if state.learning_rate is None or state.learning_rate_expected is None:
        return Row()
    peak = max(map(itemgetter(1), state.learning_rates.points), default=state.learning_rate)
    if abs(state.learning_rate - state.learning_rate_expected) <= 0.02 * max(peak, state.learning_rate_expected):
        return Row(("on schedule", "label"))
    return Row((f"due {figures.rate(state.learning_rate_expected)}", "WATCH"))


def throughput(scene: Scene, width: int, height: int) -> Rows:
    """Tokens a second over all GPUs."""
    state = scene.state
    chart = Chart(state.throughputs.points, label=figures.thousands, zero=True)
    return _small(scene, _title("tokens/s", figures.thousands(state.tokens_per_second)), chart, (width, height))


def _small(scene: Scene, title: Row, chart: Chart, size: tuple[int, int], right: Row = NOTHING) -> Rows:
    body = _chart(chart, *size, scene.look) if chart.points else [Row(("nothing yet", "label"))]
    return box(title, body, *size, scene.look, right=right)


def _chart(chart: Chart, width: int, height: int, look: Look) -> Rows:
    if width < 16 or height < 3:
        return []
    return [Row(*runs) for runs in draw(chart, width - 4, height - 2, ascii_only=look.ascii_only)]


def _title(*words: str) -> Row:
    """Label, figure, label, figure: labels grey, figures bold; a later label without a figure is left out."""
    first, *others = zip(words[::2], words[1::2], strict=True)
    name, figure = first
    head = Row((name, "label"), (f" {figure}" if figure != "-" else "", "strong"))
    return joined([head, *[pair(name, figure, "strong") for name, figure in others]], "  ")


def _steps(curve: Curve) -> Row:
    first, last = span(curve.points)
    return Row((f"steps {first:,.0f} to {last:,.0f}", "label"))


def numbers(scene: Scene, width: int) -> Rows:
    """Every measure on a row of its own: name, figure, and how it went."""
    state = scene.state
    rows = [
        ("loss", figures.value(state.loss), state.losses),
        ("eval loss", figures.value(state.eval_loss), state.eval_losses),
        ("grad norm", figures.value(state.grad_norm), state.grad_norms),
        ("learn rate", figures.rate(state.learning_rate), state.learning_rates),
        ("tokens/s", figures.thousands(state.tokens_per_second), state.throughputs),
        ("active", figures.gib(state.active_gib or None), state.actives),
        ("allocated", figures.gib(state.allocated_gib or None), None),
        ("reserved", figures.gib(state.reserved_gib or None), None),
    ]
    return [_number(name, figure, curve, width, scene.look) for name, figure, curve in rows if figure != "-"]


def _number(name: str, figure: str, curve: Curve | None, width: int, look: Look) -> Row:
    history = [y for _, y in curve.points] if curve else []
    drawn = spark(history, width - 24, ascii_only=look.ascii_only) if len(history) > 1 else ""
    return Row((f"{name:<10}", "label"), f"{figure:>12}  ", (drawn, "line"))


def memory(scene: Scene, width: int) -> Rows:
    """Active, allocated and reserved memory of the fullest GPU against the card; on a CPU each is 0, and none shown."""
    state, look = scene.state, scene.look
    card = max((gpu.memory_total_gib or 0.0 for gpu in state.gpus), default=0.0)
    rows = [("active", state.active_gib), ("allocated", state.allocated_gib), ("reserved", state.reserved_gib)]
    known = [(name, size) for name, size in rows if size]
    return [_memory_row(name, size, card, width, look) for name, size in known]


def _memory_row(name: str, size: float, card: float, width: int, look: Look) -> Row:
    text = Row((f"{name:<10}", "label"), f"{figures.gib(size):>11}")
    if not card or width < 40:
        return text
    share = size / card
    style = "STOP" if share > 0.97 else "WATCH" if share > 0.92 else "line"
    return Row(text, "  ", rail(share, width - 29, look, style), f" {share:4.0%}")


def gpus(scene: Scene, width: int, rows: int) -> Rows:
    """One row to a GPU in aligned columns; those beyond ``rows`` share the last row."""
    every = scene.state.gpus
    if rows < 1 or not every:
        return []
    split = len(every) if len(every) <= rows else rows - 1
    labelled = [(f"GPU {gpu.index}", gpu) for gpu in every[:split]]
    if split < len(every):
        labelled.append((f"GPU {every[split].index}-{every[-1].index}", _together(every[split:])))
    column = max(len(label) for label, _ in labelled)
    return [_gpu(label.ljust(column), gpu, width, scene.look) for label, gpu in labelled]


def _together(group: Sequence[Gpu]) -> Gpu:
    """Several GPUs as one: the least busy, the fullest, the hottest, and the mean power."""

    def over(pick: Callable[[list[float]], float], name: str) -> float | None:
        known = [getattr(gpu, name) for gpu in group if getattr(gpu, name) is not None]
        return pick(known) if known else None

    return Gpu(
        group[0].index,
        group[0].name,
        over(min, "utilisation"),
        over(max, "memory_used_gib"),
        over(max, "memory_total_gib"),
        over(max, "temperature_c"),
        over(fmean, "power_w"),
        over(fmean, "power_limit_w"),
    )


def _gpu(label: str, gpu: Gpu, width: int, look: Look) -> Row:
    name = look.say(gpu.name).removeprefix("NVIDIA ")
    cells = [
        Row(f"{gpu.memory_used_gib:5.1f}/{gpu.memory_total_gib or 0:.0f} GiB")
        if gpu.memory_used_gib is not None
        else Row(),
        Row(f"{gpu.temperature_c:3.0f}{look.degree}") if gpu.temperature_c is not None else Row(),
        Row(f"{gpu.power_w:4.0f}/{gpu.power_limit_w or 0:.0f} W") if gpu.power_w is not None else Row(),
    ]
    space = 22 - len(label) - 1  # so that all bars of the panel begin in one column
    left = Row((f"{label} ", "label"), f"{name[:space]:<{space}} " if width >= 64 else "")
    while len(cells) > 1 and left.width + joined(cells, "  ").width + 6 > width:
        cells.pop()
    right = joined(cells, "  ")
    room = width - left.width - right.width - 7
    busy = "   -" if gpu.utilisation is None else f"{gpu.utilisation:4.0%}"
    load = rail(gpu.utilisation, room, look, "line") if room >= 4 else Row()
    return Row(left, load, " " if load else "", busy, "  ", right)


def alerts(scene: Scene, width: int, rows: int) -> Rows:
    """The worst first, then the latest, wrapped under their word; what ``rows`` cannot hold is left out."""
    lines: Rows = []
    for alert in sorted(
        scene.alerts, key=lambda alert: (SEVERITIES.index(alert.severity), alert.step or 0), reverse=True
    ):
        lines += _alert(alert, width, scene.look)
        if len(lines) >= rows:
            break
    return lines[:rows] or [Row(("none so far", "label"))]


def _alert(alert: Alert, width: int, look: Look) -> Rows:
    word = f"{look.severity[alert.severity]} {alert.severity:<5} "
    known = alert.step is None or f"step {alert.step}" in alert.message
    where = "" if known else f"step {alert.step:,}: "
    first, *rest = textwrap.wrap(look.say(where + alert.message), max(12, width - len(word))) or [""]
    return [Row((word, alert.severity), first), *[Row(" " * len(word) + row) for row in rest]]


def log(scene: Scene, width: int, rows: int, offset: int = 0) -> Rows:
    """The last lines of the log, ``offset`` lines up from its end."""
    lines = [line for line in scene.state.lines if line.strip()]
    end = len(lines) - min(offset, max(0, len(lines) - rows))
    return [fit(_log_line(line, scene.look), width, scene.look, pad=False) for line in lines[max(0, end - rows) : end]]


def _log_line(line: str, look: Look) -> Row:
    """Time and message; date, level and module are left to the log itself, a warning's level comes as a word."""
    text = look.say(line)
    if found := _STAMP.match(text):
        return Row((f"{found[1]} ", "label"), text[found.end() :])
    level, _, rest = text.partition(" ")
    if level in _LEVELS:
        return Row((f"{level} ", _LEVELS[level]), rest)
    return Row((text, "label"))
