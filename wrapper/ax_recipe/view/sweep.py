"""What ``ax-recipe sweep`` ends with: its trials in order, the best first, their curves, and one page of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from ax_recipe import assets
from ax_recipe.launch import sweep
from ax_recipe.launch.sweep import Result, Sweep
from ax_recipe.observe import feed
from ax_recipe.results.intervals import Interval
from ax_recipe.view import figures
from ax_recipe.view.curve import LETTERS, LINES, Point, bounds, finite, overlay, smooth, span, thin, ticks
from ax_recipe.view.evaluation import within
from ax_recipe.view.report import HEIGHT, WIDTH
from ax_recipe.view.row import Row

MOST_CURVES = 6  # more on one plot cannot be told apart


@dataclass(frozen=True, slots=True)
class Line:
    """One trial's curve as an SVG path, in units of ``WIDTH`` by ``HEIGHT``; ``colour`` counts from 0."""

    letter: str
    path: str
    colour: int
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Plot:
    """Several curves on one scale; places in per cent of the box."""

    lines: tuple[Line, ...]
    rows: tuple[tuple[float, str], ...]
    first: str
    last: str


def show(found: Sweep, console: Console | None = None) -> None:
    """Print the sweep as it is now."""
    console = console or Console(highlight=False)
    results = found.results()
    plain = not console.encoding.lower().startswith("utf")
    curves = [points for points in curves_of(found, results) if len(points) > 1]
    if curves:
        lines = overlay(curves, max(40, console.width), 12, ascii_only=plain)
        for row in (Row(("training loss of the best, smoothed", "title")), *(Row(*runs) for runs in lines)):
            console.print(row, soft_wrap=True, end="")
            console.line()
    for line in table(found, results):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def table(found: Sweep, results: Sequence[Result]) -> Iterator[str]:
    """A line to each trial, the best first, and a word on how sure the first place is."""
    lines = [heads(found), *(cells(found, results, number) for number in range(len(results)))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
    yield from _closing(found, results)


def heads(found: Sweep) -> list[str]:
    """The head of each column."""
    return ["", *(key.rpartition(".")[2] for key in found.varied), "held-out", "loss", "took", "run", "state"]


def cells(found: Sweep, results: Sequence[Result], number: int) -> list[str]:
    """One trial in cells: its letter on the plot, what it changes, and what came out."""
    result = results[number]
    row, changed = result.row, sweep.values(result.trial)
    letter = LETTERS[number] if number < MOST_CURVES and math.isfinite(result.eval_loss) else ""
    loss, seconds = (row.loss, row.seconds) if row else (None, None)
    told = [figures.value(row.eval_loss if row else None), figures.value(loss), figures.duration(seconds)]
    return [letter, *(str(changed[key]) for key in found.varied), *told, result.trial.run or "-", result.state]


def _closing(found: Sweep, results: Sequence[Result]) -> Iterator[str]:
    best = results[0]
    run = found.run_of(best.trial)
    if run is None or not math.isfinite(best.eval_loss):
        yield "no trial has a held-out loss yet"
        return
    yield sure(sweep.lead(found, results))
    yield f"Take the best further: ax-recipe resume {run.word}"


def sure(lead: Interval | None) -> str:
    """Whether the first is beyond doubt better than the second."""
    if lead is None:
        return "How sure the first place is was not measured: no two trials scored the same rows."
    beyond = "beyond doubt" if lead.low > 0 else "not beyond doubt: the rows cannot tell them apart"
    return f"The best is better than the second by {within(lead)} nats a token, 95 % interval: {beyond}."


def curves_of(found: Sweep, results: Sequence[Result]) -> list[Sequence[Point]]:
    """The training losses of the best few."""
    runs = [found.run_of(each.trial) for each in results[:MOST_CURVES] if math.isfinite(each.eval_loss)]
    return [feed.trained(run).losses.points for run in runs if run]


def plot(curves: Sequence[Sequence[Point]]) -> Plot | None:
    """The smoothed curves on one scale; None where there is nothing to draw."""
    thinned = [thin(finite(points), 400) for points in curves if len(finite(points)) > 1]
    if not thinned:
        return None
    ranges = [bounds(buckets) for buckets in thinned]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    x0, x1 = span([(bucket.x, bucket.low) for buckets in thinned for bucket in buckets])

    def at(point: Point) -> tuple[float, float]:
        return (point[0] - x0) / (x1 - x0), min(1.0, max(0.0, (high - point[1]) / (high - low)))

    lines = []
    for number, buckets in enumerate(thinned):
        places = [at(point) for point in smooth(buckets)]
        path = "M" + "L".join(f"{x * WIDTH:.1f} {y * HEIGHT:.1f}" for x, y in places)
        lines.append(Line(LETTERS[number], path, number % len(LINES), (100 * places[-1][0], 100 * places[-1][1])))
    rows = tuple((100 * at((x0, y))[1], f"{y:.3g}") for y in ticks(low, high, 4))
    return Plot(tuple(lines), rows, f"{x0:,.0f}", f"step {x1:,.0f}")


def html(found: Sweep) -> str:
    """The sweep as one page that loads nothing; every value in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(assets.templates()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    results = found.results()
    return environment.get_template("sweep.html.j2").render(
        name=found.folder.name,
        heads=heads(found),
        rows=[cells(found, results, number) for number in range(len(results))],
        sure=sure(sweep.lead(found, results)),
        plot=plot(curves_of(found, results)),
    )
