"""The report of a run: one HTML file that loads nothing, for a screen of any width and for paper."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ax_recipe import assets
from ax_recipe.observe.alerts import SEVERITIES, Band
from ax_recipe.recipe import secret
from ax_recipe.results import evaluation
from ax_recipe.results.evaluation import Bar
from ax_recipe.results.story import Story, best_evaluation
from ax_recipe.run.rundir import TITLES
from ax_recipe.view import evaluation as evaluations
from ax_recipe.view import figures
from ax_recipe.view.curve import Point, bounds, finite, smooth, span, thin, ticks

WIDTH, HEIGHT = 1000, 300  # of a drawing, in units of its own: the page stretches it


@dataclass(frozen=True, slots=True)
class Drawing:
    """One curve as SVG: paths in units of ``WIDTH`` by ``HEIGHT``, marks and labels in per cent of its box."""

    title: str
    now: str
    raw: str
    line: str
    marks: tuple[tuple[float, float, str], ...]
    band: tuple[float, float] | None
    rows: tuple[tuple[float, str], ...]
    first: str
    last: str


def html(story: Story, command: str = "ax-recipe") -> str:
    """The whole page; every value in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(assets.templates()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        story=story,
        about=story.orders.get("about") or "",
        alerts=sorted(story.judgement.alerts, key=lambda alert: -SEVERITIES.index(alert.severity)),
        past=story.state.past,
        facts=_facts(story),
        drawings=_drawings(story),
        evaluations=_evaluations(story),
        stages=_stages(story),
        config=_yaml(story.config),
        recipe=story.run.read_text(story.run.recipe),
        environment=_environment(story),
        reproduce=_reproduce(story, command),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def _facts(story: Story) -> list[tuple[str, str]]:
    state, row = story.state, story.row
    best = best_evaluation(state)
    trains = state.parameters
    active = max((y for _, y in state.actives.points), default=0.0)
    before, after = row.eval_loss_before, row.eval_loss if row.eval_loss is not None else state.eval_loss
    before = state.first_eval_loss if before is None else before
    facts = [
        ("training loss", figures.value(row.loss if row.loss is not None else state.loss)),
        ("held-out loss", f"{figures.value(before)} → {figures.value(after)}" if after is not None else "-"),
        ("best held-out loss", f"{best[1]:.4g} at step {best[0]:,.0f}" if best else "-"),
        ("answers as taught", f"{row.matched} of {row.asked}" if row.asked else "-"),
        ("steps", f"{state.step:,} of {state.total_steps:,}" if state.total_steps else f"{state.step:,}"),
        ("epochs", figures.epochs(state.epoch, state.total_epochs)),
        ("tokens a second", figures.thousands(state.tokens_per_second)),
        ("a step", figures.per_step(state.step_seconds)),
        ("active memory, peak", figures.gib(active or None)),
        ("reserved memory", figures.gib(state.reserved_gib or None)),
        ("trained", f"{figures.thousands(trains.trainable)} of {figures.thousands(trains.total)}" if trains else "-"),
        ("took", figures.duration(row.seconds)),
        ("on", str(story.orders["hardware"])),
    ]
    return [(name, value) for name, value in facts if value != "-"]


def _evaluations(story: Story) -> list[tuple[str, list[evaluations.Line], list[Bar]]]:
    """Each form of the model that was measured: its name, base and tuned side by side, and the recipe's bar."""
    shown = []
    for found in evaluation.every(story.run, story.orders):
        bars = evaluation.bars(found, story.orders, story.row.loss)
        measured = [bar for bar in bars if bar.found is not None]
        shown.append((evaluations.TITLES[found.form], evaluations.table(found), measured))
    return shown


def _drawings(story: Story) -> list[Drawing]:
    state = story.state
    marks = finite(state.eval_losses.points)
    rates, speeds = state.learning_rates.points, state.throughputs.points
    drawn = [
        drawing("loss", figures.value(state.loss), state.losses.points, marks, story.target),
        drawing("gradient norm", figures.value(state.grad_norm), state.grad_norms.points),
        drawing("learning rate", figures.rate(state.learning_rate), rates, label=figures.short_rate, smoothed=False),
        drawing("tokens a second", figures.thousands(state.tokens_per_second), speeds, label=figures.thousands),
    ]
    if any(y for _, y in state.actives.points):
        drawn.append(drawing("active memory, GiB", figures.gib(state.active_gib), state.actives.points))
    return [each for each in drawn if each is not None]


def drawing(
    title: str,
    now: str,
    points: Sequence[Point],
    marks: Sequence[Point] = (),
    band: Band | None = None,
    label: Callable[[float], str] = "{:.3g}".format,
    *,
    smoothed: bool = True,
) -> Drawing | None:
    """The curve of ``points``; None where there are fewer than two. At most 800 points are drawn."""
    known = finite(points)
    if len(known) < 2:
        return None
    buckets = thin(known, 400)
    low, high = bounds(buckets, [*(band or ()), *(y for _, y in marks)])
    x0, x1 = span([*known, *marks])

    def across(x: float) -> float:
        return (x - x0) / (x1 - x0)

    def down(y: float) -> float:
        return min(1.0, max(0.0, (high - y) / (high - low)))

    def path(line: Sequence[Point]) -> str:
        return "M" + "L".join(f"{across(x) * WIDTH:.1f} {down(y) * HEIGHT:.1f}" for x, y in line)

    raw = [point for each in buckets for point in {(each.x, each.low): 0, (each.x, each.high): 0}]
    return Drawing(
        title,
        now,
        path(raw) if smoothed else "",
        path(smooth(buckets) if smoothed else raw),
        tuple((100 * across(x), 100 * down(y), f"step {x:,.0f}: {label(y)}") for x, y in marks),
        (100 * down(band[1]), 100 * down(band[0])) if band else None,
        tuple((100 * down(y), label(y)) for y in ticks(low, high, 4)),
        f"{x0:,.0f}",
        f"step {x1:,.0f}",
    )


def _stages(story: Story) -> list[tuple[str, str, str, str]]:
    return [
        (
            TITLES[stage.name],
            stage.state,
            stage.detail,
            figures.duration(stage.ended - stage.started) if stage.started and stage.ended else "",
        )
        for stage in story.stages.stages
    ]


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(without_secrets(config), sort_keys=False, allow_unicode=True, width=10**6)


def without_secrets(value: Any) -> Any:
    """The same value with ``...`` for whatever its key calls a secret."""
    if isinstance(value, Mapping):
        return {
            key: "..." if secret.is_named(str(key)) and inner else without_secrets(inner)
            for key, inner in value.items()
        }
    return [without_secrets(inner) for inner in value] if isinstance(value, list | tuple) else value


def _environment(story: Story) -> list[tuple[str, str]]:
    axolotl = story.orders["axolotl"]["version"]
    if story.environment is None:
        return [("axolotl", str(axolotl)), ("hardware", str(story.orders["hardware"]))]
    flat: list[tuple[str, str]] = []
    for name, value in story.environment.items():
        if isinstance(value, Mapping):
            flat += [(str(inner), str(text)) for inner, text in value.items()]
        elif value is not None:
            flat.append((name, str(value)))
    return flat


def _reproduce(story: Story, command: str) -> list[str]:
    changes = [part for change in story.orders.get("changes", ()) for part in ("--set", str(change))]
    gpus = ["--gpus", str(story.orders["gpus"])]
    return [
        f"{command} reproduce {story.run.word}",
        shlex.join([command, "run", "recipe.yaml", *gpus, *changes]),
    ]
