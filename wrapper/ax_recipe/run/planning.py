"""What ``ax-recipe plan`` foretells of a recipe or of a raw Axolotl YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ax_recipe.axolotl import Axolotl
from ax_recipe.axolotl import schema as axolotl_schema
from ax_recipe.forecast import forecast
from ax_recipe.forecast.cluster import Cluster, spread
from ax_recipe.forecast.forecast import Forecast
from ax_recipe.forecast.hardware import target
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe import schema
from ax_recipe.run import preparing


def of_file(
    name: str,
    gpus: str | None,
    axolotl: Axolotl | None,
    changes: Sequence[str] = (),
    sequence_len: int | None = None,
    price: float | None = None,
    several: Cluster | None = None,
    gbit: float | None = None,
) -> Forecast:
    """Foretell a recipe (by name or file) or a raw Axolotl YAML.

    :param gpus: ``4xH200-141GB``, a number, ``auto`` for this machine's, or None for those of the recipe.
    :param several: such machines, between which ``gbit`` Gbit/s go.
    :raises RecipeError: the file, the hardware or the model's config.json is wrong.
    :raises MissingError: the model's shape is not known here.
    """
    if document := recipes.axolotl_yaml(name, changes):
        known = axolotl_schema(axolotl)["schema"]
        preparing.refuse_problems(schema.check(document, known))
        keys = schema.taken(document.value, known, known) | ({"sequence_len": sequence_len} if sequence_len else {})
        hardware = spread(target(gpus), several, gbit)
        path = Path(name).expanduser()
        return forecast.foretell(path.stem, keys, hardware, path.parent, price=price)
    longer = [f"train.sequence_len={sequence_len}"] if sequence_len else []
    plan = preparing.for_print(recipes.load(name, (*changes, *longer)), gpus, axolotl, several, gbit)
    return preparing.foretold(plan, price)
