"""The command line: each verb reads its options, makes one call and prints; imports wait until a verb needs them."""

from __future__ import annotations

# Each adds its verbs, in the order in which a person meets them.
# isort: off
from ax_recipe.cli import recipes as recipes
from ax_recipe.cli import running as running
from ax_recipe.cli import results as results
from ax_recipe.cli import shipping as shipping
from ax_recipe.cli import looking as looking

# isort: on
from ax_recipe.cli import completion
from ax_recipe.cli.program import SORTS, STAGES, main

completion.offer(main)

__all__ = ["SORTS", "STAGES", "main"]
