"""The command line: each verb reads its options, makes one call and prints; imports wait until a verb needs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ax_recipe import __version__
from ax_recipe.errors import AxRecipeError

Verb = TypeVar("Verb", bound=Callable[..., Any])

INTERRUPTED = 130
# The names of stages.TITLES, which costs too much to import for --help; a test holds them together.
STAGES = ("base", "preprocess", "train", "evaluate", "merge", "check-merge", "export", "deploy", "chat")


class Verbs(click.Group):
    """The one boundary where an error that a person can cause becomes text and an exit code; bugs pass through."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """Keep the verbs in the order in which a person meets them."""
        return list(self.commands)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a verb and leave with its exit code."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except AxRecipeError as error:
            click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except BrokenPipeError:  # the reader of our output has left, as `| head` does
            sys.stderr.close()
            code = 0
        sys.exit(code if isinstance(code, int) else 0)


def example(*lines: str) -> str:
    """The end of a verb's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


def recipe_options(verb: Verb) -> Verb:
    """What every verb takes that reads a recipe."""
    options = [
        click.option("--gpus", metavar="N", help="How many GPUs: 4, or 4xA100-80GB; 0 is the CPU."),
        click.option(
            "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a recipe's key, e.g. lora.r=16."
        ),
        axolotl_option,
    ]
    for option in reversed(options):
        verb = option(verb)
    return verb


axolotl_option = click.option(
    "--axolotl", metavar="PATH", help="The axolotl to use (else AX_RECIPE_AXOLOTL, else here)."
)
runs_option = click.option("--runs", metavar="DIR", help="The folder of all runs (else AX_RECIPE_RUNS, else ./runs).")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ax-recipe")
def main() -> None:
    r"""A recipe goes in, a fine-tuned model answering in Ollama comes out. Axolotl trains.

    \b
    Start here, with no GPU and no downloads:
      ax-recipe run pirate-tiny
    """


@main.command("list", epilog=example("ax-recipe list"))
@json_option
def list_(as_json: bool) -> None:
    """Show the bundled recipes."""
    from ax_recipe import recipe

    recipes = [recipe.load(path.stem) for path in recipe.bundled()]
    rows = [{"name": each.name, "about": each.about, "method": each.method, "gpus": each.gpus} for each in recipes]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(f"{row['name']:<14}{row['gpus'] or 'CPU':<14}{row['about']}")


@main.command(epilog=example("ax-recipe show pirate"))
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show a recipe as its file has it."""
    from ax_recipe import recipe

    found = recipe.load(name)
    click.echo(
        json.dumps(found.document.value, indent=1) if as_json else found.file.read_text(encoding="utf-8"), nl=as_json
    )


@main.command(epilog=example("ax-recipe new mine --from pirate"))
@click.argument("name")
@click.option("--from", "source", required=True, metavar="RECIPE", help="The recipe to start from.")
def new(name: str, source: str) -> None:
    """Make a recipe of your own: a copy that you change."""
    from ax_recipe import recipe

    target = recipe.own(source, name)
    click.echo(f"{target}: yours now. Next: ax-recipe render {target}")


@main.command(epilog=example("ax-recipe render pirate --gpus 1 --set lora.r=16", "ax-recipe render pirate --explain"))
@click.argument("name")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the YAML to this file.")
@click.option("--explain", is_flag=True, help="Say at each key where its value came from.")
@recipe_options
def render(
    name: str, output: Path | None, explain: bool, gpus: str | None, changes: tuple[str, ...], axolotl: str | None
) -> None:
    """Print the Axolotl YAML of a recipe, every key checked."""
    from ax_recipe import axolotl as environment
    from ax_recipe import preparing, recipe, rundir
    from ax_recipe.render import render as text_of

    plan = preparing.for_print(recipe.load(name, changes), gpus, environment.find_if_any(axolotl))
    text = text_of(plan.train, plan.recipe.name, str(plan.hardware), explain=explain)
    if output:
        rundir.write(output, text)
        click.echo(f"{output}: written", err=True)
    else:
        click.echo(text, nl=False)


@main.command(epilog=example("ax-recipe plan pirate --gpus 4xA100-80GB", "ax-recipe plan axolotl.yml --price 2.50"))
@click.argument("name", metavar="NAME|FILE")
@click.option("--seq", "sequence_len", type=click.IntRange(min=1), metavar="N", help="Another sequence_len, in tokens.")
@click.option("--price", type=click.FloatRange(min=0), metavar="X", help="What one GPU costs an hour, for the cost.")
@json_option
@recipe_options
def plan(
    name: str,
    sequence_len: int | None,
    price: float | None,
    as_json: bool,
    gpus: str | None,
    changes: tuple[str, ...],
    axolotl: str | None,
) -> None:
    """Foretell memory, time and cost of a recipe or an Axolotl YAML; --gpus auto is this machine."""
    from ax_recipe import axolotl as environment
    from ax_recipe import forecast

    found = forecast.of_file(name, gpus, environment.find_if_any(axolotl), changes, sequence_len, price)
    if as_json:
        click.echo(json.dumps(forecast.as_json(found), indent=1))
        return
    from ax_recipe.view import plan as view

    view.show(found)


@main.command(epilog=example("ax-recipe run pirate-tiny", "ax-recipe run pirate --gpus 4"))
@click.argument("name")
@click.option(
    "--until", type=click.Choice(STAGES), metavar="STAGE", help=f"Stop after this stage: {', '.join(STAGES)}."
)
@click.option("--dry-run", is_flag=True, help="Show what would be started, and start nothing.")
@runs_option
@json_option
@recipe_options
def run(
    name: str,
    until: str | None,
    dry_run: bool,
    runs: str | None,
    as_json: bool,
    gpus: str | None,
    changes: tuple[str, ...],
    axolotl: str | None,
) -> int:
    """Train, evaluate, merge, check, export and try a recipe, and watch it."""
    from ax_recipe import axolotl as environment
    from ax_recipe import hardware, preparing, recipe, rundir

    wanted = recipe.load(name, changes)
    lent = hardware.lend(gpus, hardware.here(), preparing.wanted_hardware(wanted))
    prepared = preparing.for_run(wanted, lent, environment.find(axolotl), rundir.root(runs))
    if dry_run:
        click.echo(json.dumps(prepared.orders, indent=1) if as_json else preparing.shown(prepared))
        return 0
    from ax_recipe import attend, runner

    rundir.create(prepared.run, prepared.files)
    runner.launch(prepared.run, STAGES[: STAGES.index(until) + 1] if until else ())
    return attend.attend(prepared.run, as_json=as_json)


@main.command(epilog=example("ax-recipe resume pirate-20261122-101500"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
@json_option
def resume(name: str | None, runs: str | None, as_json: bool) -> int:
    """Go on with a run (the newest) at its first stage that is not done."""
    return _again(name, runs, (), as_json)


@main.command(epilog=example("ax-recipe watch", "ax-recipe watch pirate-20261122-101500"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
@json_option
def watch(name: str | None, runs: str | None, as_json: bool) -> int:
    """Show a run (the newest) that goes on, or replay one that has ended."""
    from ax_recipe import attend, rundir

    return attend.attend(rundir.find(rundir.root(runs), name), as_json=as_json)


@main.command(epilog=example("ax-recipe status --json"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
@json_option
def status(name: str | None, runs: str | None, as_json: bool) -> None:
    """Show how far a run (the newest) has come: pre-trained, fine-tuned, merged, deployed."""
    from ax_recipe import attend, rundir

    found = rundir.find(rundir.root(runs), name)
    state = found.current_state()
    click.echo(attend.as_json(found, state) if as_json else attend.summary(found, state))


@main.command(epilog=example("ax-recipe stop"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
def stop(name: str | None, runs: str | None) -> int:
    """Stop a run (the newest) after it has saved a whole checkpoint."""
    from ax_recipe import attend, rundir

    found = rundir.find(rundir.root(runs), name)
    if not attend.stop(found):
        click.echo(f"{found.name} does not run", err=True)
        return 0
    click.echo(f"{found.name} saves a checkpoint and stops")
    return 0


def _stage_verb(verb: str, stages: tuple[str, ...], text: str) -> None:
    @main.command(verb, help=text, epilog=example(f"ax-recipe {verb}", f"ax-recipe {verb} pirate-20261122-101500"))
    @click.argument("name", required=False, metavar="[RUN]")
    @runs_option
    @json_option
    def again(name: str | None, runs: str | None, as_json: bool) -> int:
        return _again(name, runs, stages, as_json)


_stage_verb("evaluate", ("evaluate",), "Score a run's adapter on its held-out rows, once more.")
_stage_verb("merge", ("merge", "check-merge"), "Merge a run's adapter into its base, and make the merge whole.")
_stage_verb("export", ("export",), "Write a run's Modelfile from the chat template it was trained with.")


def _again(name: str | None, runs: str | None, stages: tuple[str, ...], as_json: bool) -> int:
    from ax_recipe import attend, rundir, runner

    found = rundir.find(rundir.root(runs), name)
    runner.launch(found, stages)
    return attend.attend(found, as_json=as_json)


@main.command(epilog=example("ax-recipe chat", "ax-recipe chat pirate-20261122-101500"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
def chat(name: str | None, runs: str | None) -> int:
    """Talk to the model of a run (the newest): in Ollama when it is there, else with transformers."""
    from ax_recipe import rundir, talk

    return talk.talk(rundir.find(rundir.root(runs), name))


@main.command(epilog=example("ax-recipe replay axolotl.log --json"))
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--exit-code", type=int, help="How the process ended, where it is known: a log alone cannot tell a kill.")
@json_option
def replay(log: Path, exit_code: int | None, as_json: bool) -> None:
    """Show the state that any Axolotl log ends in, ours or not."""
    from ax_recipe.observe import replay as replays
    from ax_recipe.observe.state import summary

    value = summary(replays.replay(log, exit_code))
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return
    for name, figure in value.items():
        if name != "alerts" and figure is not None:
            click.echo(f"{name:<26}{figure}")
    for alert in value["alerts"]:
        click.echo(f"{alert['severity']:<26}{alert['message']}")


@main.command(epilog=example("ax-recipe doctor"))
@runs_option
@axolotl_option
@json_option
def doctor(runs: str | None, axolotl: str | None, as_json: bool) -> int:
    """Look at what this machine has for a run."""
    from ax_recipe import doctor as doctors
    from ax_recipe import rundir

    findings = doctors.examine(axolotl, rundir.root(runs))
    if as_json:
        click.echo(json.dumps([{"name": f.name, "state": f.state, "detail": f.detail} for f in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{finding.state:<9}{finding.name:<14}{finding.detail}")
    return 3 if any(finding.state == "missing" for finding in findings) else 0
