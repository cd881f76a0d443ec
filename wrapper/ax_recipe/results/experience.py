"""What the runs here have measured, held against what was foretold of them: how good the next forecast is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ax_recipe.forecast.forecast import Experience, Forecast, card, fingerprint
from ax_recipe.observe import events
from ax_recipe.run.rundir import RunDir

_LEAST_STEPS = 3  # the first step compiles, and one alone says little


def note(run: RunDir, orders: Mapping[str, Any]) -> None:
    """Write measured.json after a training: what was foretold of it, and what it took."""
    foretold = orders.get("foretold")
    if foretold and run.events.is_file():
        lines = run.events.read_text(encoding="utf-8", errors="replace").splitlines()
        took = measured([event for event in map(events.from_json, lines) if event])
        run.write_json(run.measured, {"foretold": foretold, "measured": took})


def measured(seen: Iterable[events.Event]) -> dict[str, float | None]:
    """The peaks (GiB) and the usual time of a step (seconds) of a training; None for what its events do not tell."""
    seen = list(seen)
    logged = [event.values for event in seen if isinstance(event, events.Metrics | events.Evaluation)]
    steps = [event for event in seen if isinstance(event, events.Step)]
    paces = [
        (after.time - before.time) / (after.step - before.step)
        for before, after in pairwise(steps)
        if before.time and after.time and after.step > before.step
    ]
    return {
        "active_gib": max((values.get("active_gib", 0.0) for values in logged), default=0.0) or None,
        "reserved_gib": max((values.get("reserved_gib", 0.0) for values in logged), default=0.0) or None,
        "step_seconds": median(paces) if len(paces) >= _LEAST_STEPS else None,
    }


def of(forecast: Forecast, runs: Path) -> Experience | None:
    """How good forecasts have been on this kind of card in ``runs``, and what the same plan measured; None without."""
    notes = [(path, note) for path, note in _notes(runs) if note["foretold"].get("card") == card(forecast)]
    if not notes:
        return None
    mine = fingerprint(forecast)
    same = [
        (path, seconds)
        for path, note in notes
        if note["foretold"].get("fingerprint") == mine and (seconds := note["measured"].get("step_seconds"))
    ]
    newest, seconds = max(same, key=lambda found: found[0].stat().st_mtime, default=(None, None))
    found = [note for _, note in notes]
    return Experience(
        runs=len(found),
        active_off=_off(found, "active_gib"),
        step_off=_off(found, "step_seconds"),
        run=newest.parent.name if newest else None,
        step_seconds=seconds,
    )


def _notes(runs: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(runs.glob("*/measured.json")):
        with suppress(OSError, ValueError):  # half of a copied folder says nothing
            value = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("foretold", "measured")):
                yield path, value


def _off(notes: Iterable[Mapping[str, Any]], figure: str) -> float | None:
    """The median of foretold over measured, less one."""
    pairs = [(note["foretold"].get(figure), note["measured"].get(figure)) for note in notes]
    ratios = [foretold / took - 1 for foretold, took in pairs if foretold and took]
    return median(ratios) if ratios else None
