"""How well `ax-recipe plan` foretells: its memory and speed beside measured runs, fitted and held-out rows apart.

    python benchmarks/calibrate.py [MORE.json ...]

Reads benchmarks/measured.json and any further lists of {"yaml", "gpus", "active_gib", "reserved_gib",
"tokens_per_second"}. `gpus` is a number (of H200) or 4xH200-141GB. `model` names a shipped shape; without it the yaml's
`base_model` is taken, and an 8B Llama where that folder is not here. `longest` and `mean` are row lengths in tokens.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from ax_recipe.errors import MissingError
from ax_recipe.forecast import architecture, memory, settings, timing
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware, parse

TABLE = Path(__file__).with_name("measured.json")
PACKED = 180  # tokens of the rows that were packed
USUAL = "NousResearch/Meta-Llama-3.1-8B"
FIGURES = ("active_gib", "reserved_gib", "tokens_per_second")


def rows(path: Path) -> list[dict[str, Any]]:
    """The measured runs of a table, or of a bare list."""
    value = json.loads(path.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = value["rows"] if isinstance(value, dict) else value
    return found


def shape(row: Mapping[str, Any]) -> Shape:
    """The model that the row was measured with."""
    if isinstance(row.get("config"), dict):
        return architecture.from_config(row["config"], "measured")
    try:
        return architecture.find(str(row.get("model") or row["yaml"]["base_model"]))
    except MissingError:
        return architecture.find(USUAL)


def hardware_of(row: Mapping[str, Any]) -> Hardware:
    """The GPUs that the row was measured on."""
    gpus = str(row.get("gpus", 1))
    return parse(gpus if "x" in gpus else f"{gpus}xH200-141GB")


def foretold(row: Mapping[str, Any]) -> dict[str, float]:
    """What plan says of the row's run."""
    hardware = hardware_of(row)
    model, keys = shape(row), row["yaml"]
    of_it = settings.resolve(keys, hardware, model, row.get("longest"))
    needed = memory.estimate(model, of_it)
    longest = row.get("longest", PACKED)
    mean = row.get("mean", longest)
    data = timing.Data(10_000, mean, mean, longest, "measured")
    speed = timing.estimate(model, of_it, hardware, keys, data).tokens_per_second
    return {"active_gib": needed.active_gib, "reserved_gib": needed.reserved_gib, "tokens_per_second": speed}


def group(row: Mapping[str, Any]) -> str:
    """Whether the row was looked at for the constants, held out, or lies outside the validated model."""
    if settings.resolve(row["yaml"], hardware_of(row), shape(row)).outside:
        return "outside"
    return "fitted" if row.get("fitted") else "held out"


def errors(row: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Each figure that was measured: its name, what was foretold, and by how much that is off."""
    said = foretold(row)
    for figure in FIGURES:
        if row.get(figure):
            yield figure, said[figure], said[figure] / row[figure] - 1


def main() -> None:
    """Print each row, then the median and worst error of each figure."""
    found: dict[tuple[str, str], list[float]] = {}
    for path in (TABLE, *map(Path, sys.argv[1:])):
        for number, row in enumerate(rows(path)):
            print(f"{path.name}[{number}] {row.get('name', '')} ({row.get('gpus', 1)})")
            for figure, said, off in errors(row):
                print(f"    {figure:<18} measured {row[figure]:>9.2f}  foretold {said:>9.2f}  {off:+.1%}")
                found.setdefault((figure, group(row)), []).append(abs(off))
    for (figure, kind), all_off in sorted(found.items()):
        print(f"{figure:<18} {kind:<9} {len(all_off):>3} rows  median {median(all_off):.1%}  worst {max(all_off):.1%}")


if __name__ == "__main__":
    main()
