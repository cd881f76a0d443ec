"""From a cause's remedies to what this run should change, each with the exact command."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping
from typing import Any

import yaml

from ax_recipe.diagnose.cause import Case, Cause, Fix, Remedy
from ax_recipe.recipe import recipe

# Decided from the global batch in a recipe; who sets the micro-batch has set them.
_FOLLOW = ("gradient_accumulation_steps",)


def of(cause: Cause, case: Case) -> tuple[Fix, ...]:
    """What helps against ``cause`` in this case, best first."""
    return tuple(fix for remedy in cause.remedies if (fix := _fix(remedy, case)))


def signal_number(name: str) -> int:
    """9 for ``SIGKILL``; 15 for a name that this system does not know."""
    return int(getattr(signal, name, signal.SIGTERM))


def _fix(remedy: Remedy, case: Case) -> Fix | None:
    if remedy.phases and case.phase not in remedy.phases:
        return None
    values = {key: new(case) if callable(new) else new for key, new in remedy.keys.items()}
    values = {key: value for key, value in values.items() if value is not None}
    if (remedy.needs and remedy.needs not in values) or (remedy.keys and not values):
        return None
    why = remedy.why.replace("{what}", case.what)
    return Fix(why, values, _command(remedy.command, values, case))


def _command(template: str, values: Mapping[str, Any], case: Case) -> str:
    file = shlex.quote(case.file)
    verb = "merge-lora" if case.phase == "merging" else "train"
    if case.recipe:
        changes = "".join(f" --set {shlex.quote(change)}" for change in _changes(values, case))
        resume = f"ax-recipe resume {case.run}"
        again = resume if case.phase == "merging" else f"ax-recipe run {shlex.quote(case.recipe)}{changes}"
    else:
        options = "".join(f" {option}" for option in _options(values))
        again = f"axolotl {verb} {file}{options}"
        resume = f"axolotl train {file} --auto-resume-from-checkpoints"
    told = {
        "{again}": again,
        "{resume}": resume,
        "{file}": file,
        "{what}": shlex.quote(case.what) if case.what else "...",
    }
    for name, text in told.items():
        template = template.replace(name, text)
    return template


def _changes(values: Mapping[str, Any], case: Case) -> list[str]:
    new = {_recipe_key(key): _flow(value) for key, value in values.items() if key not in _FOLLOW}
    kept = [change for change in case.changes if change.partition("=")[0] not in new]
    return [*kept, *(f"{key}={value}" for key, value in new.items())]


def _recipe_key(key: str) -> str:
    """Where a recipe holds one of Axolotl's keys."""
    if key in recipe.schema()["$defs"]["Train"]["properties"]:
        return f"train.{key}"
    if key in ("datasets", "val_set_size", "chat_template"):
        return "data" if key == "datasets" else key
    return f"axolotl.{key}"


def _options(values: Mapping[str, Any]) -> list[str]:
    """Axolotl's own options: every scalar key has one (cli/utils/args.py)."""
    plain = {key: value for key, value in values.items() if isinstance(value, int | float | str)}
    return [f"--{key.replace('_', '-')}={_flow(value)}" for key, value in plain.items()]


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...").strip()
