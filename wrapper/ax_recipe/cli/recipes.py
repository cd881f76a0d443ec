"""The verbs before a run: what a recipe is, says, needs and takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from ax_recipe.cli.program import (
    axolotl_option,
    example,
    json_option,
    main,
    node_options,
    put,
    recipe_options,
    runs_option,
    tell_others,
)
from ax_recipe.errors import RecipeError

# Those of writing.GOALS, which costs too much to import for --help; a test holds them together.
GOALS = ("chat", "instruct", "completion", "pretrain", "preference")
NEW_EXAMPLE = "--base Qwen/Qwen3-4B --data rows.jsonl --gpus 1xRTX4090-24GB"


@main.command("list", epilog=example("ax-recipe list"))
@json_option
def list_(as_json: bool) -> None:
    """Show the bundled recipes."""
    from ax_recipe.recipe import recipe
    from ax_recipe.view import library

    recipes = [recipe.load(path.stem) for path in recipe.bundled()]
    if as_json:
        click.echo(json.dumps([library.row(each) for family in library.ordered(recipes) for each in family], indent=1))
        return
    for line in library.lines(recipes, shutil.get_terminal_size().columns):
        click.echo(line)


@main.command(epilog=example("ax-recipe show pirate"))
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a recipe as its file has it."""
    from ax_recipe.recipe import recipe

    found = recipe.load(name)
    click.echo(
        json.dumps(found.document.value, indent=1) if as_json else found.file.read_text(encoding="utf-8"), nl=as_json
    )


@main.command(epilog=example("ax-recipe new", f"ax-recipe new mine {NEW_EXAMPLE}", "ax-recipe new mine --from pirate"))
@click.argument("name", required=False, metavar="[NEW]")
@click.option("--from", "source", metavar="RECIPE", help="Copy this recipe, and ask nothing.")
@click.option("--base", metavar="MODEL", help="The model to start from: a folder, or a hub id.")
@click.option("--data", metavar="DATA", help="What to learn from: a file or folder of rows, or a hub id.")
@click.option("--goal", type=click.Choice(GOALS), help="What for; by the data's form when left out.")
@click.option("--gpus", metavar="N", help="4xA100-80GB, 1, or 0 for the CPU (else this machine's, or 1xH100-80GB).")
@click.option("--name", "named", metavar="NEW", help="The new recipe's name, as the argument says it, too.")
@click.option("--ollama/--no-ollama", default=None, help="Whether the model is to answer in Ollama (it is).")
@axolotl_option
def new(
    name: str | None,
    source: str | None,
    base: str | None,
    data: str | None,
    goal: str | None,
    gpus: str | None,
    named: str | None,
    ollama: bool | None,
    axolotl: str | None,
) -> None:
    """Make a recipe of your own: by at most six questions, each also an option, or by a copy."""
    from ax_recipe import axolotl as environment
    from ax_recipe.checks import checking
    from ax_recipe.cli import asking
    from ax_recipe.verbs import writing

    if source:
        if any(told is not None for told in (base, data, goal, gpus, ollama)):
            raise RecipeError("--from copies a recipe as it is, and asks nothing", "leave --from, or change the copy")
        written = writing.copy(source, asking.given(name or named, "a name for the copy"))
    else:
        answers = asking.ask(name or named, base, data, goal, gpus, ollama)
        written = writing.write(answers)
    checked = checking.quick(str(written.file), None, environment.find_if_any(axolotl))
    for line in (*checked.problems, checking.unread(checked), *written.notes):
        if line:
            click.echo(str(line), err=True)
    following = f"mend that, then ax-recipe check {written.file}" if checked.wrong else f"ax-recipe plan {written.file}"
    click.echo(f"{written.file}: yours now, {checking.summary(checked.problems)}. Next: {following}")


@main.command(epilog=example("ax-recipe schema", "ax-recipe schema --out recipe.schema.json"))
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
def schema(out: Path | None) -> None:
    """Print the JSON Schema of recipes: what an editor needs to complete and check them."""
    from ax_recipe.recipe import recipe

    if out:
        put(out, recipe.schema_text())
        click.echo(f"{out}: written; a recipe's first line names it: # yaml-language-server: $schema={out}", err=True)
    else:
        click.echo(recipe.schema_text(), nl=False)


@main.command(epilog=example("ax-recipe check pirate --gpus 4xA100-80GB", "ax-recipe check axolotl.yml --json"))
@click.argument("name", metavar="NAME|FILE")
@click.option("--all", "everything", is_flag=True, help="Ask Axolotl's own validation even where errors are known.")
@json_option
@recipe_options
def check(
    name: str, everything: bool, as_json: bool, gpus: str | None, changes: tuple[str, ...], axolotl: str | None
) -> int:
    """Look for all that is wrong with a recipe or an Axolotl YAML; 2 when something is."""
    from ax_recipe import axolotl as environment
    from ax_recipe.checks import checking

    checked = checking.quick(name, gpus, environment.find_if_any(axolotl), changes)
    say = (lambda _: None) if as_json else click.echo
    for problem in checked.problems:
        say(str(problem))
    found = list(checked.problems)
    if notice := checking.unread(checked):
        say(notice)
    if notice := checking.waits(checked, everything=everything):
        say(notice)
    if checking.asks(checked, everything=everything):
        later = checking.slow(checked)
        for problem in later:
            say(str(problem))
        found += later
    click.echo(json.dumps(checking.as_json(found), indent=1) if as_json else f"{name}: {checking.summary(found)}")
    return 2 if checking.has_error(found) else 0


@main.command(epilog=example("ax-recipe explain", "ax-recipe explain kv-cache pirate-tiny", "ax-recipe explain AX012"))
@click.argument("topic", required=False, metavar="[TOPIC|CODE]")
@click.argument("name", required=False, metavar="[NAME|RUN]")
@axolotl_option
@runs_option
def explain(topic: str | None, name: str | None, axolotl: str | None, runs: str | None) -> None:
    """Explain a topic with the numbers of a recipe or a run, or what a finding's code means; no word lists them."""
    from ax_recipe import axolotl as environment
    from ax_recipe import codes
    from ax_recipe.explain import explaining
    from ax_recipe.run import rundir

    if topic is None:
        click.echo(explaining.listing())
    elif code := explaining.code(topic):
        click.echo(codes.explain(code))
    else:
        from ax_recipe.view import topic as view

        title = explaining.topic(topic)
        found = explaining.find(name, rundir.root(runs), environment.find_if_any(axolotl))
        click.echo(view.text(title, found), nl=False)


@main.command(epilog=example("ax-recipe data pirate-tiny", "ax-recipe data axolotl.yml --json"))
@click.argument("name", metavar="NAME|FILE")
@json_option
@recipe_options
def data(name: str, as_json: bool, gpus: str | None, changes: tuple[str, ...], axolotl: str | None) -> int:
    """Read all the rows of a recipe, an Axolotl YAML or a data file: their form, tokens, masks and flaws."""
    from ax_recipe import axolotl as environment
    from ax_recipe.checks import survey

    known = environment.find_if_any(axolotl)
    if as_json:
        found = survey.of_file(name, gpus, known, changes)
        click.echo(json.dumps(survey.as_json(found), indent=1))
    else:
        from ax_recipe.view import data as view

        with view.bar() as progress:
            found = survey.of_file(name, gpus, known, changes, progress)
        view.show(found)
    return 2 if survey.has_error(found) else 0


@main.command(epilog=example("ax-recipe plan pirate --gpus 4xA100-80GB", "ax-recipe plan axolotl.yml --price 2.50"))
@click.argument("name", metavar="NAME|FILE")
@click.option("--seq", "sequence_len", type=click.IntRange(min=1), metavar="N", help="Another sequence_len, in tokens.")
@click.option("--price", type=click.FloatRange(min=0), metavar="X", help="What one GPU costs an hour, for the cost.")
@click.option("--explain", is_flag=True, help="Say why each open key is as it is, and what came next.")
@click.option("--measure", is_flag=True, help="Measure the network between the machines, and plan by that.")
@runs_option
@json_option
@node_options
@recipe_options
def plan(
    name: str,
    sequence_len: int | None,
    price: float | None,
    explain: bool,
    measure: bool,
    runs: str | None,
    as_json: bool,
    gpus: str | None,
    changes: tuple[str, ...],
    axolotl: str | None,
    bandwidth: float | None,
    **nodes: Any,
) -> None:
    """Foretell memory, time and cost of a recipe or an Axolotl YAML; --gpus auto is this machine."""
    from ax_recipe import axolotl as environment
    from ax_recipe.checks import checking
    from ax_recipe.forecast import cluster, forecast
    from ax_recipe.results import experience
    from ax_recipe.run import planning, rundir

    known, several = environment.find_if_any(axolotl), cluster.asked(**nodes)
    if measure:
        from ax_recipe.verbs import measuring

        there = measuring.There(environment.find(axolotl), rundir.root(runs), tell_others)
        click.echo(measuring.measure(name, changes, gpus, several, there), err=True)
    found = planning.of_file(name, gpus, known, changes, sequence_len, price, several, bandwidth)
    for warning in checking.foreign_code(name, gpus, known, changes):
        click.echo(str(warning), err=True)
    found = forecast.with_experience(found, experience.of(found, rundir.root(runs)))
    if as_json:
        click.echo(json.dumps(forecast.as_json(found), indent=1))
        return
    from ax_recipe.view import plan as view

    view.show(found)
    if explain:
        view.explained(found)


@main.command(epilog=example("ax-recipe render pirate --gpus 1 --set lora.r=16", "ax-recipe render pirate --explain"))
@click.argument("name")
@click.option("-o", "--out", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file.")
@click.option("--explain", is_flag=True, help="Say at each key where its value came from.")
@recipe_options
def render(
    name: str, output: Path | None, explain: bool, gpus: str | None, changes: tuple[str, ...], axolotl: str | None
) -> None:
    """Print the Axolotl YAML of a recipe, every key checked."""
    from ax_recipe import axolotl as environment
    from ax_recipe.checks import foreign, keys, planned
    from ax_recipe.plan.render import render as text_of
    from ax_recipe.recipe import recipe
    from ax_recipe.run import preparing

    known = environment.find_if_any(axolotl)
    plan = preparing.for_print(recipe.load(name, changes), gpus, known)
    for warning in planned.refuse(plan, known, keys.examine):
        if warning.code == foreign.CODE:  # the rest is for `check`
            click.echo(str(warning), err=True)
    text = text_of(plan.train, plan.recipe.name, str(plan.hardware), explain=explain)
    if output:
        put(output, text)
        click.echo(f"{output}: written", err=True)
    else:
        click.echo(text, nl=False)
