"""Write docs/explain.md: every topic of ``ax-recipe explain`` with the numbers of its default recipe.

Run it from a checkout: ``python docs/explain.py``; a test holds the file to what it writes.
"""

from __future__ import annotations

from pathlib import Path

from ax_recipe.explain import explaining, numbers
from ax_recipe.explain.topics import TOPICS
from ax_recipe.view import topic

TARGET = Path(__file__).with_suffix(".md")
HEAD = f"""\
# What the words mean

Notes on what happens in a fine-tune, with the numbers of the recipe `{explaining.DEFAULT}`.
`ax-recipe explain TOPIC NAME` shows each with those of your own recipe, Axolotl YAML or run.
Written by `python docs/explain.py`.
"""


def page() -> str:
    """The whole file."""
    training = explaining.find(explaining.DEFAULT, Path("runs"), None)
    names = numbers.numbers(training)
    sections = [
        f"## {title}\n\n`ax-recipe explain {name}`\n\n{topic.body(name, names)}" for name, title in TOPICS.items()
    ]
    return "\n\n".join([HEAD.rstrip(), *sections]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
