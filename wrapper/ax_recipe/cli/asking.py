"""The six questions of ``ax-recipe new``: what no option has answered is asked, or where nobody can be, decided."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from ax_recipe.errors import RecipeError
from ax_recipe.forecast import hardware
from ax_recipe.verbs import choosing, writing
from ax_recipe.verbs.choosing import Answers


def ask(
    name: str | None, base: str | None, data: str | None, goal: str | None, gpus: str | None, ollama: bool | None
) -> Answers:
    """All answers, the missing ones asked for on a terminal.

    :raises RecipeError: nobody can be asked, and what has no default is missing; names the options.
    """
    can_ask = sys.stdin.isatty()
    if not can_ask and not (base and data):
        missing = " and ".join(option for option, value in (("--base", base), ("--data", data)) if not value)
        raise RecipeError(
            f"this is no terminal to ask at: {missing} missing", "--goal, --gpus and --name have defaults"
        )
    base = base or _prompt("Base model (a folder, or a hub id such as Qwen/Qwen3-4B)", choosing.refuse_base)
    data = data or _prompt("Data (a file or folder of rows, or a hub id)", writing.goal_of)
    usual = goal or writing.goal_of(data)
    machine = str(_machine())
    if not can_ask and not gpus and machine != str(hardware.here()):
        click.echo(f"for {machine}, since this machine has no GPU that is known here: --gpus says another", err=True)
    suggested = writing.suggest(base, data)
    if can_ask:
        goal = goal or str(click.prompt("Goal", default=usual, type=click.Choice(writing.GOALS)))
        gpus = gpus or _prompt("Hardware (4xA100-80GB, a number, 0 for the CPU)", hardware.parse, machine)
        name = name or str(click.prompt("Name of the recipe", default=suggested))
        ollama = click.confirm("Is it to answer in Ollama?", default=True) if ollama is None else ollama
    return Answers(name or suggested, base, data, goal, gpus or machine, ollama is not False)


def _prompt(question: str, look: Callable[[str], object], default: str | None = None) -> str:
    """Ask until ``look`` raises no RecipeError: one wrong answer is not to cost the others."""

    def looked_at(text: str) -> str:
        try:
            look(text)
        except RecipeError as error:
            raise click.UsageError(str(error)) from error
        return text

    return str(click.prompt(question, default=default, value_proc=looked_at))


def given(name: str | None, what: str) -> str:
    """The name.

    :raises RecipeError: there is none.
    """
    if not name:
        raise RecipeError(f"{what} is missing", "ax-recipe new NAME --from RECIPE")
    return name


def _machine() -> hardware.Hardware:
    """The GPUs of this machine by a name that is known, else a usual one to train on elsewhere."""
    found = hardware.here()
    return found if found.kind and found.kind.name in hardware.KINDS else hardware.RECENT
