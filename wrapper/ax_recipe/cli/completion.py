"""What the shell offers for TAB: recipes, runs, topics and codes, by what each verb's argument says it takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from ax_recipe import assets
from ax_recipe.run import rundir

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_AX_RECIPE_COMPLETE"
_INSTALL = {
    "bash": 'eval "$(ax-recipe completion bash)"  in ~/.bashrc',
    "zsh": 'eval "$(ax-recipe completion zsh)"  in ~/.zshrc, behind compinit',
    "fish": "ax-recipe completion fish > ~/.config/fish/completions/ax-recipe.fish",
}


if TYPE_CHECKING:
    _Type = click.ParamType[str]
else:  # generic since click 8.5 only
    _Type = click.ParamType


class Name(_Type):
    """A name that the shell can complete; which ones, ``kinds`` says: recipe, run, topic, file."""

    name = "text"

    def __init__(self, kinds: frozenset[str]) -> None:
        self.kinds = kinds

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """The names that begin so; files by the shell's own rules where nothing of ours does."""
        names = (name for name in _names(self.kinds, ctx) if name.startswith(incomplete))
        found = [CompletionItem(name) for name in dict.fromkeys(names)]
        if found or "file" not in self.kinds:
            return found
        return [CompletionItem(incomplete, type="file")]


def _names(kinds: frozenset[str], ctx: click.Context) -> Iterator[str]:
    if "topic" in kinds:
        from ax_recipe.codes import CODES
        from ax_recipe.explain.topics import TOPICS

        yield from (*TOPICS, *CODES)
    if "recipe" in kinds:
        yield from sorted(path.stem for path in assets.recipes().glob("*.yaml"))
        yield from sorted(str(path) for path in Path().glob("*.yaml"))
    if "run" in kinds:
        yield from (run.name for run in rundir.every(rundir.root(ctx.params.get("runs"))))


def offer(main: click.Group) -> None:
    """Give each verb's text arguments the names that their metavar (or else their own name) speaks of."""
    for verb in main.commands.values():
        for parameter in verb.params:
            kinds = _kinds(parameter)
            if kinds:
                parameter.type = Name(kinds)


def _kinds(parameter: click.Parameter) -> frozenset[str]:
    if parameter.type is not click.STRING:
        return frozenset()
    if isinstance(parameter, click.Argument):
        words = (parameter.metavar or parameter.human_readable_name).upper()
    else:
        words = (parameter.metavar or "").upper() if parameter.name in {"source", "recipe"} else ""
    if parameter.name in {"base", "data"}:
        return frozenset({"file"})
    found = {word for word in ("recipe", "run", "topic", "file") if word.upper() in words}
    return frozenset(found | ({"recipe", "file"} if "NAME" in words or "recipe" in found else set()))


def script(shell: str, main: click.Group) -> str:
    """The lines that a shell evaluates to complete ``ax-recipe``, and above them where they go."""
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - narrows the type; click knows all of SHELLS
    return f"# {_INSTALL[shell]}\n{made(main, {}, 'ax-recipe', _VARIABLE).source()}"
