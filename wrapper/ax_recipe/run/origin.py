"""What a run was made of: its recipe, as its folder has it."""

from __future__ import annotations

from dataclasses import replace

from ax_recipe.recipe import recipe
from ax_recipe.recipe.recipe import Recipe
from ax_recipe.run.rundir import RunDir


def recipe_of(run: RunDir) -> Recipe:
    """The recipe of a run as its folder has it, with the changes it was started with.

    Its relative paths start where they did: at the folder of the file that it was read from.
    """
    orders = run.read_json(run.orders)
    run.read_text(run.recipe)  # it is the run's own, and not one that the person named
    found = recipe.load(str(run.recipe), orders.get("changes", ()))
    return replace(found, name=orders["recipe"], document=replace(found.document, file=orders["recipe_file"]))
