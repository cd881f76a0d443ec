"""A recipe's plan as what the checks look at, and the refusal of one that has errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ax_recipe.axolotl import Axolotl
from ax_recipe.checks.subject import Subject
from ax_recipe.errors import Problem
from ax_recipe.forecast.hardware import CPU
from ax_recipe.plan.plan import Plan
from ax_recipe.recipe.recipe import Scratch
from ax_recipe.run import preparing


def subjects(plan: Plan, axolotl: Axolotl | None) -> Iterator[Subject]:
    """The plan's configs, the fine-tune last; their findings speak in the recipe's keys and lines."""
    folder = plan.recipe.file.resolve().parent
    scratch = isinstance(plan.recipe.base, Scratch)
    for config, hardware in ((plan.base, CPU), (plan.train, plan.hardware)):
        if config:
            yield Subject(preparing.in_recipe_lines(plan, config), hardware, folder, axolotl, scratch)


def refuse(plan: Plan, axolotl: Axolotl | None, examine: Callable[[Subject], list[Problem]]) -> list[Problem]:
    """Stop where a check finds an error; give the warnings.

    :raises ProblemsError: with all that it finds.
    """
    found = list(dict.fromkeys(problem for subject in subjects(plan, axolotl) for problem in examine(subject)))
    preparing.refuse_problems(found)
    return found
