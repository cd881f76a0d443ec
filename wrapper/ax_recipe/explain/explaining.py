"""What ``ax-recipe explain`` is asked: the topic or code that is meant, and the training whose numbers it speaks of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl
from ax_recipe.errors import RecipeError
from ax_recipe.explain.numbers import Training
from ax_recipe.explain.topics import TOPICS
from ax_recipe.forecast import architecture, forecast
from ax_recipe.forecast.hardware import CPU, USUAL_KIND, Hardware, over, parse
from ax_recipe.observe.alerts import as_band
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe.recipe import Scratch
from ax_recipe.results import story
from ax_recipe.run import planning, rundir
from ax_recipe.run.rundir import RunDir

DEFAULT = "pirate"


def code(word: str) -> str | None:
    """A finding's code, where this is meant as one: ``AX012``, ``ax-12``, ``12``."""
    match = re.fullmatch(r"(?i)(?:ax)?[-_ ]?(\d+)", word)
    return None if match is None else f"AX{match[1]:>03}"


def topic(name: str) -> str:
    """The topic's own spelling: any case, spaces or low lines for hyphens, and an American z will do.

    :raises RecipeError: there is no such topic; names the nearest.
    """
    plain = name.lower().replace("_", "-").replace(" ", "-").replace("quantiz", "quantis")
    if plain in TOPICS:
        return plain
    near = [name for name in TOPICS if plain in name] or get_close_matches(plain, TOPICS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"topics: {', '.join(TOPICS)}"
    raise RecipeError(f"no topic is called {name!r}", hint)


def listing() -> str:
    """The topics, each with its line, and how else to ask."""
    width = max(map(len, TOPICS)) + 2
    rows = [f"  {name:<{width}}{title.partition(': ')[2]}" for name, title in TOPICS.items()]
    after = [
        "ax-recipe explain TOPIC          with the numbers of the recipe `pirate`",
        "ax-recipe explain TOPIC NAME     with those of another recipe, YAML or run",
        "ax-recipe explain AX012          what a finding of `check` means, and the fix",
    ]
    return "\n".join(["Topics:", *rows, "", *after])


def find(name: str | None, runs: Path, axolotl: Axolotl | None) -> Training:
    """The training that a recipe's name or file, an Axolotl YAML, or a run stands for; ``pirate`` without a name.

    :raises RecipeError: there is no such recipe or run.
    :raises MissingError: the base's shape is not known here.
    """
    name = name or DEFAULT
    unknown = recipes.unknown(name)
    if not unknown:
        return _foretold(name, axolotl)
    return _run(rundir.find(runs, name, "recipe, no YAML", unknown.hint or ""))


def _foretold(name: str, axolotl: Axolotl | None) -> Training:
    found = planning.of_file(name, None, axolotl)
    if recipes.axolotl_yaml(name):
        return Training(found, int(found.keys.get("sequence_len") or 512), None, None, None, None)
    recipe = recipes.load(name)
    ship, target = recipe.ship, as_band(recipe.targets.loss)
    made = None
    if isinstance(recipe.base, Scratch):
        made = {"rows": [str(row["path"]) for row in recipe.base.data], "epochs": recipe.base.train.num_epochs}
    return Training(found, ship.num_ctx or recipe.train.sequence_len, ship.quantize, target, made, None)


def _run(run: RunDir) -> Training:
    told = story.read(run)
    orders = told.orders
    scratch = orders["scratch"]
    shape = None
    if scratch:
        config = {"model_type": "llama", **scratch["model"], "vocab_size": scratch["vocab_size"]}
        shape = architecture.from_config(config, orders["recipe"])
    hardware = _hardware(orders)
    found = forecast.foretell(run.name, told.config, hardware, Path(orders["recipe_file"]).parent, shape=shape)
    made = {"rows": [Path(row["path"]).name for row in orders["texts"][:1]], "epochs": None} if scratch else None
    ship = orders["ship"]
    return Training(found, ship["num_ctx"], ship["quantize"], told.target, made, told)


def _hardware(orders: Mapping[str, Any]) -> Hardware:
    """That of a run; a GPU that is not listed passes for a usual one, of which no figure here depends."""
    if not orders["gpus"]:
        return CPU
    try:
        told = orders.get("cluster") or {"nodes": 1, "gbit": 0.0}
        return over(parse(orders["hardware"].rpartition(" of ")[2]), told["nodes"], told["gbit"])
    except RecipeError:
        name = str(orders["hardware"]).partition("x")[2]
        return Hardware(orders["gpus"], replace(USUAL_KIND, name=name))
