"""Whose programs may run: a recipe of somebody else starts nothing that came with it, unless the person says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ax_recipe import assets
from ax_recipe.checks import foreign
from ax_recipe.errors import Problem, ProblemsError
from ax_recipe.recipe.recipe import Recipe


def refuse(recipe: Recipe, found: Sequence[Problem], *, trusted: bool) -> None:
    """Stop where the findings hold code that did not come with Axolotl (AX056).

    ``trusted`` is the person's word for it; a recipe that ships with ax-recipe, unchanged, needs none.

    :raises ProblemsError: with each key that would run some.
    """
    ours = recipe.file.resolve().is_relative_to(assets.recipes().resolve()) and not recipe.changes
    wanting = [replace(problem, severity="error") for problem in found if problem.code == foreign.CODE]
    if wanting and not ours and not trusted:
        raise ProblemsError(wanting)
