"""What ``ax-recipe plan`` shows: the verdict, a bar of one GPU's memory, what frees most, steps, time and cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ax_recipe.forecast.choose import Choice
from ax_recipe.forecast.forecast import Forecast
from ax_recipe.forecast.memory import FITS, TIGHT, WILL_NOT_FIT, Parts
from ax_recipe.forecast.timing import START_S, Timing
from ax_recipe.view.figures import clean, counted, duration, parameters
from ax_recipe.view.row import style

_BADGES = {FITS: "OK", TIGHT: "WATCH", WILL_NOT_FIT: "STOP"}
_WAYS = 7  # shown beside the best
_WORDS = {"buckets": "communication", "cached": "allocator", "context": "CUDA"}


def show(forecast: Forecast, console: Console | None = None) -> None:
    """Print the forecast."""
    console = console or Console(highlight=False)
    console.print(picture(forecast, console.width, ascii_only=not console.encoding.lower().startswith("utf")))


def brief(forecast: Forecast, console: Console | None = None) -> None:
    """Print what a run will take, in a few lines: its verdict, the memory of one GPU, its time."""
    console = console or Console(highlight=False, stderr=True)
    ascii_only = not console.encoding.lower().startswith("utf")
    lines: list[RenderableType] = [_headline(forecast)]
    if forecast.hardware.kind:
        lines.append(_bars(forecast, console.width, ascii_only))
    console.print(Group(*lines, next(_times(forecast)), *_notes(forecast)))


def explained(forecast: Forecast, console: Console | None = None) -> None:
    """Print why each open key is as it is, and the ways to train that came next."""
    console = console or Console(highlight=False)
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    for key, reason in forecast.reasons.items():
        value = forecast.keys.get(key)
        short = "" if isinstance(value, dict | list) else f": {json.dumps(value)}"
        table.add_row(clean(f"{key}{short}"), Text(reason, style("label")))
    console.print(Group(Text(), Text("decided by the hardware", style("title")), table))
    if forecast.choice:
        console.print(Group(Text(), Text("ways to train, best first", style("title")), _ways(forecast.choice)))


def _ways(choice: Choice) -> Table:
    table = Table.grid(padding=(0, 1))
    for each in (choice.best, *choice.others[:_WAYS]):
        badge = (each.verdict, style(_BADGES.get(each.verdict, "strong")))
        speed = Text(f"{each.tokens_per_second:,.0f} tokens/s", justify="right")
        table.add_row(speed, Text(f"{each.memory.card_gib:.1f} GiB", justify="right"), Text.assemble(badge), str(each))
    return table


def _notes(forecast: Forecast) -> Iterator[Text]:
    if forecast.memory.outside and forecast.hardware.kind:
        yield Text(f"outside the validated model: {', '.join(forecast.memory.outside)}", style("WATCH"))
    found = forecast.experience
    if found:
        said = [
            f"{share:+.1%} in {word}"
            for word, share in (("active memory", found.active_off), ("step time", found.step_off))
            if share is not None
        ]
        off = f"the forecast was off by {', '.join(said)}" if said else "nothing was measured"
        card = "the same kind of GPU" if forecast.card_gib else "the CPU"
        yield Text(f"{counted(found.runs, 'earlier run')} here on {card}: {off}")


def picture(forecast: Forecast, width: int, *, ascii_only: bool = False) -> RenderableType:
    """The forecast as lines of at most ``width`` cells. Pure."""
    blocks: list[RenderableType] = [_headline(forecast), _about(forecast), Text(), _bars(forecast, width, ascii_only)]
    if forecast.levers:
        blocks += [Text(), _levers(forecast)]
    blocks += [Text(), *_times(forecast), *_notes(forecast)]
    return Group(*blocks)


def _headline(forecast: Forecast) -> Text:
    needed, card = forecast.memory.card_gib, forecast.card_gib
    begins = Text.assemble((clean(forecast.name), style("title")), f" on {forecast.hardware}: ")
    if not card:  # how much of a machine's memory is free for a run, nobody knows beforehand
        return begins.append(f"about {needed:.1f} GiB of memory")
    words = {"unknown": "no verdict"}.get(forecast.verdict, forecast.verdict)
    return Text.assemble(begins, (words, style(_BADGES.get(forecast.verdict, "strong"))), f" ({forecast.size})")


def _about(forecast: Forecast) -> Text:
    shape, s = forecast.shape, forecast.settings
    gpus = f" x {counted(s.gpus, 'GPU')}" if forecast.card_gib else ""
    at_least = "at least " if shape.outside else ""
    words = (
        f"{clean(shape.name)}, {at_least}{parameters(shape.parameters)} parameters, {s.method}, {s.layout}; "
        f"{s.micro_batch} x {s.slots // s.micro_batch} tokens x {counted(s.accumulation, 'pass', 'es')}{gpus} a step"
    )
    return Text(words, style("label"))


def _sizes(forecast: Forecast) -> Iterator[tuple[str, float]]:
    for field in fields(Parts):
        yield field.name, getattr(forecast.memory.parts, field.name)
    yield "cached", forecast.memory.cached_gib
    yield "context", forecast.memory.context_gib


def _bars(forecast: Forecast, width: int, ascii_only: bool) -> Table:
    """A bar for each part where it begins and ends within the card: together they are the GPU's memory."""
    table = Table.grid(padding=(0, 1))
    whole = max(forecast.card_gib or 0.0, forecast.memory.card_gib)
    cells = max(8, width - 28)
    full, empty = ("#", ".") if ascii_only else ("█", "·")
    start = 0.0
    for name, size in _sizes(forecast):
        if size < 0.005:
            continue
        first, last = round(start / whole * cells), round((start + size) / whole * cells)
        last = max(last, min(first + 1, cells))
        bar = Text.assemble(
            (empty * first, style("frame")), (full * (last - first), style("line")), (empty * (cells - last), "dim")
        )
        table.add_row(_WORDS.get(name, name), Text(f"{size:.2f} GiB", justify="right"), bar)
        start += size
    peak = f"fullest at the {forecast.memory.moment}"
    table.add_row("logged", Text(f"{forecast.memory.active_gib:.2f} GiB", justify="right"), Text(peak, style("label")))
    return table


def _levers(forecast: Forecast) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_row(Text("frees most", style("title")))
    for lever in forecast.levers:
        table.add_row(Text(f"-{lever.frees_gib:.2f} GiB", justify="right"), clean(lever.change))
    return table


def _times(forecast: Forecast) -> Iterator[Text]:
    t = forecast.timing
    cost = "" if t.cost is None else f", costs {t.cost:,.2f} at {forecast.price:.2f} an hour a GPU"
    steps = f"{t.steps:,} steps of {t.tokens_per_step:,} tokens, {t.tokens_per_second:,.0f} tokens/s"
    training = f"{t.step_seconds:.3g} s a step: {duration(t.steps * t.step_seconds)}"
    yield Text(f"{steps}, {training}, with {START_S:.0f} s to start {duration(t.seconds)} ({t.assumed[0]}){cost}")
    if forecast.base:
        yield Text(f"before it the base is made, unless it is there: {_in_short(forecast.base)}")
    yield from _between(forecast)
    yield Text(f"assumed: {'; '.join(t.assumed[1:])}", style("label"))


def _in_short(t: Timing) -> str:
    return f"{t.steps:,} steps of {t.tokens_per_step:,} tokens, {duration(t.seconds)}"


def _between(forecast: Forecast) -> Iterator[Text]:
    """What several machines send each other, and what that leaves of so many times one."""
    hardware, t = forecast.hardware, forecast.timing
    if hardware.nodes == 1:
        return
    found, step_s = forecast.traffic, t.step_seconds
    yield Text(
        f"each machine sends {found.sent / 1e9:.3g} GB a step, at {hardware.gbit:.3g} Gbit/s {found.seconds:.2g} of "
        f"{step_s:.2g} s: {1 - found.seconds / step_s:.0%} of {hardware.nodes} times one machine"
    )
    yield Text(f"its rate: {hardware.gbit_from}", style("label"))
