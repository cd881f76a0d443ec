"""The command line: each verb reads its options, makes one call and prints; imports wait until a verb needs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ax_recipe import __version__
from ax_recipe.errors import AxRecipeError

if TYPE_CHECKING:
    from ax_recipe.ship.merged import Check

Verb = TypeVar("Verb", bound=Callable[..., Any])

INTERRUPTED = 130
# The orders of runs.SORTS, which need not be imported for --help.
SORTS = ("time", "name", "recipe", "status", "loss", "eval-loss", "duration")
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
    from ax_recipe.checks import keys, planned
    from ax_recipe.render import render as text_of

    known = environment.find_if_any(axolotl)
    plan = preparing.for_print(recipe.load(name, changes), gpus, known)
    planned.refuse(plan, known, keys.examine)
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
    from ax_recipe import checking

    checked = checking.quick(name, gpus, environment.find_if_any(axolotl), changes)
    say = (lambda _: None) if as_json else click.echo
    for problem in checked.problems:
        say(str(problem))
    found = list(checked.problems)
    if notice := checking.waits(checked, everything=everything):
        say(notice)
    if checking.asks(checked, everything=everything):
        later = checking.slow(checked)
        for problem in later:
            say(str(problem))
        found += later
    click.echo(json.dumps(checking.as_json(found), indent=1) if as_json else f"{name}: {checking.summary(found)}")
    return 2 if checking.has_error(found) else 0


@main.command(epilog=example("ax-recipe explain AX012"))
@click.argument("code")
def explain(code: str) -> None:
    """Say what a finding's code means, why it matters, and the fix."""
    from ax_recipe import codes

    click.echo(codes.explain(code))


@main.command(epilog=example("ax-recipe data pirate-tiny", "ax-recipe data axolotl.yml --json"))
@click.argument("name", metavar="NAME|FILE")
@json_option
@recipe_options
def data(name: str, as_json: bool, gpus: str | None, changes: tuple[str, ...], axolotl: str | None) -> int:
    """Read all the rows of a recipe, an Axolotl YAML or a data file: their form, tokens, masks and flaws."""
    from ax_recipe import axolotl as environment
    from ax_recipe import survey

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
    from ax_recipe.checks import all as checks
    from ax_recipe.checks import planned

    wanted = recipe.load(name, changes)
    lent = hardware.lend(gpus, hardware.here(), preparing.wanted_hardware(wanted))
    found = environment.find(axolotl)
    prepared = preparing.for_run(wanted, lent, found, rundir.root(runs))
    planned.refuse(prepared.plan, found, checks.examine)
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


explain_option = click.option("--explain", is_flag=True, help="Show every rule of the verdict, with its numbers.")


@main.command(epilog=example("ax-recipe watch", "ax-recipe watch pirate-20261122-101500 --explain"))
@click.argument("name", required=False, metavar="[RUN]")
@explain_option
@runs_option
@json_option
def watch(name: str | None, explain: bool, runs: str | None, as_json: bool) -> int:
    """Show a run (the newest) that goes on, or replay one that has ended."""
    from ax_recipe import attend, rundir

    found = rundir.find(rundir.root(runs), name)
    if not explain:
        return attend.attend(found, as_json=as_json)
    from ax_recipe import feed
    from ax_recipe.view import explain as view

    click.echo("\n".join(view.lines(feed.trained(found), attend.target_of(found))))
    return 0


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


@main.command("runs", epilog=example("ax-recipe runs", "ax-recipe runs --recipe pirate --sort eval-loss"))
@click.option("--recipe", metavar="NAME", help="Only the runs of this recipe.")
@click.option("--sort", type=click.Choice(SORTS), default="time", show_default=True, help="What comes first.")
@runs_option
@json_option
def runs_(recipe: str | None, sort: str, runs: str | None, as_json: bool) -> None:
    """List the runs: what became of each, and what came out."""
    import time

    from ax_recipe import rundir
    from ax_recipe import runs as all_runs

    found = all_runs.rows(rundir.root(runs), recipe, sort)
    if as_json:
        click.echo(all_runs.as_json(found))
        return
    from ax_recipe.view import runs as view

    click.echo("\n".join(view.table(found, time.time())) if found else f"no runs in {rundir.root(runs)}")


@main.command(epilog=example("ax-recipe compare pirate-20261122-101500 pirate-20261122-160000"))
@click.argument("names", nargs=-1, required=True, metavar="RUN RUN...")
@runs_option
def compare(names: tuple[str, ...], runs: str | None) -> None:
    """Put runs side by side: what differs in their configs, their curves, what came out."""
    from ax_recipe import rundir, story
    from ax_recipe.view import runs as view

    view.show([story.read(rundir.find(rundir.root(runs), name)) for name in names])


@main.command(epilog=example("ax-recipe report", "ax-recipe report pirate-20261122-101500 -o pirate.html"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@runs_option
def report(name: str | None, output: Path | None, runs: str | None) -> None:
    """Write a run (the newest) as one HTML file that loads nothing: verdict, curves, answers, config."""
    from ax_recipe import rundir, story
    from ax_recipe.view import report as view

    found = story.read(rundir.find(rundir.root(runs), name))
    target = output or found.run.report
    rundir.write(target, view.html(found))
    click.echo(f"{target}: written")


@main.command(epilog=example("ax-recipe advise", "ax-recipe advise pirate-20261122-101500 --write pirate-2.yaml"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("--write", "new", metavar="NEW", help="Write the recipe of the next run, with all of it in.")
@runs_option
def advise(name: str | None, new: str | None, runs: str | None) -> None:
    """Say after a run (the newest) what to change in its recipe: at most three things, and why."""
    from ax_recipe import advise as advising
    from ax_recipe import rundir, story

    found = story.read(rundir.find(rundir.root(runs), name))
    advice = advising.advise(found)
    click.echo("\n".join(advising.show(found, advice)))
    if new:
        click.echo(f"{advising.next_recipe(found, advice, new)}: written. Next: ax-recipe run {new}")


@main.command(epilog=example("ax-recipe reproduce pirate-20261122-101500 --dry-run"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("--gpus", metavar="N", help="On other GPUs than then.")
@click.option("--dry-run", is_flag=True, help="Say what is different now, and start nothing.")
@axolotl_option
@runs_option
@json_option
def reproduce(
    name: str | None, gpus: str | None, dry_run: bool, axolotl: str | None, runs: str | None, as_json: bool
) -> int:
    """Start a run (the newest) once more from its folder, and say what is different around it."""
    from ax_recipe import attend, reproducing, rundir, runner

    found = rundir.find(rundir.root(runs), name)
    prepared, differences = reproducing.prepare(found, gpus, axolotl, rundir.root(runs))
    click.echo(f"{found.name} once more, as {prepared.run.name}", err=True)
    for line in differences or ["nothing is different"]:
        click.echo(f"  {line}", err=True)
    if dry_run:
        return 0
    rundir.create(prepared.run, prepared.files)
    runner.launch(prepared.run)
    return attend.attend(prepared.run, as_json=as_json)


@main.command(epilog=example("ax-recipe rm pirate-20261122-101500"))
@click.argument("name", metavar="RUN")
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
def rm(name: str, yes: bool, runs: str | None) -> None:
    """Remove a run, its weights included, after asking; one that is running stays."""
    from ax_recipe import rundir
    from ax_recipe import runs as all_runs

    found = all_runs.exactly(rundir.root(runs), name)
    all_runs.refuse_running(found)
    if not yes:
        click.confirm(f"Remove {found.path} ({all_runs.size_gib(found):.1f} GiB, weights included)?", abort=True)
    all_runs.remove(found)
    click.echo(f"{found.name}: removed")


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


@main.command(epilog=example("ax-recipe merge", "ax-recipe merge ./outputs/pirate --check"))
@click.argument("name", required=False, metavar="[RUN|FOLDER]")
@click.option("--check", "look", is_flag=True, help="Only look, and change nothing (of a folder).")
@runs_option
@json_option
def merge(name: str | None, look: bool, runs: str | None, as_json: bool) -> int:
    """Merge a run's adapter (the newest run) once more, or examine and mend the merge in an Axolotl folder."""
    from ax_recipe import rundir, shipping

    found = shipping.find(rundir.root(runs), name)
    if isinstance(found, Path):
        return _show_checks(shipping.make_whole(found, change=not look), as_json)
    return _again(str(found.path), runs, ("merge", "check-merge"), as_json)


@main.command(epilog=example("ax-recipe export", "ax-recipe export ./outputs/pirate/merged --out ./pirate --json"))
@click.argument("name", required=False, metavar="[RUN|FOLDER]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write into this folder.")
@click.option("--system", metavar="TEXT", help="The system prompt to ship it with; empty for none.")
@click.option("--num-ctx", type=click.IntRange(min=1), metavar="N", help="The context to reserve, in tokens.")
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A ready GGUF of it to run.")
@click.option("--llama-cpp", type=click.Path(path_type=Path), help="A llama.cpp to make a GGUF with (LLAMA_CPP_DIR).")
@click.option(
    "--format", "kind", metavar="TYPE", help="The type of its data, e.g. alpaca, where it has no chat template."
)
@runs_option
@json_option
def export(name: str | None, out: Path | None, runs: str | None, as_json: bool, **told: Any) -> int:
    """Write the Modelfile and weights for Ollama, of a run (the newest) or of any folder with a model."""
    from ax_recipe import rundir, shipping

    result = shipping.export(shipping.find(rundir.root(runs), name), out, shipping.ExportTold(**told))
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=1, ensure_ascii=False))
    return _show_checks(result.checks, quiet=as_json, after=f"{result.file}: written. Next: ax-recipe deploy")


@main.command(epilog=example("ax-recipe deploy", "ax-recipe deploy pirate-20261122-101500 --host box:11434 --tag v2"))
@click.argument("name", required=False, metavar="[RUN|FOLDER]")
@click.option("--host", metavar="URL", help="The Ollama to deploy to (else OLLAMA_HOST, else this machine's).")
@click.option("--model", metavar="NAME", help="The model's name in Ollama (else the recipe's, or the folder's).")
@click.option("--quantize", metavar="TYPE", help="What Ollama is to quantise it to: q4_K_M, q4_K_S, q8_0, ...")
@click.option("--keep", "taken", flag_value="keep", help="A model of that name stays, ours gets a tag (as it is).")
@click.option("--replace", "taken", flag_value="replace", help="A model of that name is replaced.")
@click.option("--tag", metavar="TAG", help="Deploy it under this tag.")
@runs_option
@json_option
def deploy(name: str | None, host: str | None, taken: str | None, runs: str | None, as_json: bool, **told: Any) -> int:
    """Bring a run's model (the newest run's) or an exported folder into Ollama, and prove it on the live server."""
    from ax_recipe import rundir, shipping

    told["replaces"] = taken == "replace"
    result = shipping.deploy(shipping.find(rundir.root(runs), name), host, shipping.DeployTold(**told))
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=1, ensure_ascii=False))
    return _show_checks(result.checks, quiet=as_json, after=f"Talk to it:  {result.run}\nTo undo it:  {result.undo}")


def _show_checks(checks: Sequence[Check], as_json: bool = False, *, quiet: bool = False, after: str = "") -> int:
    """Print what was checked and what came of it; the exit code says whether all may be used."""
    if as_json:
        click.echo(
            json.dumps(
                [{"name": check.name, "verdict": check.verdict, "detail": check.detail} for check in checks],
                indent=1,
                ensure_ascii=False,
            )
        )
    elif not quiet:
        colours = {"ok": "green", "mended": "cyan", "warning": "yellow", "error": "red"}
        for check in checks:
            verdict = click.style(f"{check.verdict:<9}", fg=colours[check.verdict])
            click.echo(verdict + f"{check.name:<20}" + check.detail.replace("\n", "\n" + " " * 29))
        if after:
            click.echo(after)
    return 1 if any(check.verdict == "error" for check in checks) else 0


def _again(name: str | None, runs: str | None, stages: tuple[str, ...], as_json: bool) -> int:
    from ax_recipe import attend, rundir, runner

    found = rundir.find(rundir.root(runs), name)
    runner.launch(found, stages)
    return attend.attend(found, as_json=as_json)


@main.command(epilog=example("ax-recipe bench", "ax-recipe bench pirate-20261122-101500 --rounds 5"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, metavar="N", help="How often each question is asked: 3."
)
@click.option("--host", metavar="URL", help="The Ollama to measure in (else OLLAMA_HOST, else this machine's).")
@runs_option
@json_option
def bench(name: str | None, rounds: int, host: str | None, runs: str | None, as_json: bool) -> None:
    """Time a run's model (the newest run's) as adapter, merged and quantised, in each engine at hand."""
    from dataclasses import asdict

    from ax_recipe import rundir, shipping

    results = shipping.measure(rundir.find(rundir.root(runs), name), host, rounds)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
        return
    from ax_recipe.view import bench as view

    view.show(results)


@main.command(epilog=example("ax-recipe size pirate --memory 24", "ax-recipe size Qwen/Qwen3-4B --ctx 32768"))
@click.argument("name", required=False, metavar="[NAME|RUN|FOLDER]")
@click.option("--ctx", "context", type=click.IntRange(min=1), metavar="N", help="The context to plan for, in tokens.")
@click.option(
    "--memory", type=click.FloatRange(min=0, min_open=True), metavar="GIB", help="For a machine with this much."
)
@axolotl_option
@runs_option
@json_option
def size(
    name: str | None, context: int | None, memory: float | None, axolotl: str | None, runs: str | None, as_json: bool
) -> None:
    """Show a model's size in each precision, what contexts cost, and what fits a machine (this one)."""
    from ax_recipe import axolotl as environment
    from ax_recipe import rundir
    from ax_recipe.ship import sizing

    found = sizing.sized(name, rundir.root(runs), environment.find_if_any(axolotl), context, memory)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=1))
        return
    from ax_recipe.view import size as view

    view.show(found)


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
@click.option("--target", type=(float, float), metavar="LOW HIGH", help="The band in which the loss should end.")
@explain_option
@json_option
def replay(log: Path, exit_code: int | None, target: tuple[float, float] | None, explain: bool, as_json: bool) -> None:
    """Show the state that any Axolotl log ends in, ours or not."""
    from ax_recipe.observe import replay as replays
    from ax_recipe.observe.state import summary

    state = replays.replay(log, exit_code)
    if explain:
        from ax_recipe.view import explain as view

        click.echo("\n".join(view.lines(state, target)))
        return
    value = summary(state, target)
    if as_json:
        click.echo(json.dumps(value, indent=1))
        return
    for name, figure in value.items():
        if name != "alerts" and figure is not None:
            click.echo(f"{name:<26}{figure}")
    for alert in value["alerts"]:
        click.echo(f"{alert['severity']:<26}{alert['message']}")


@main.command(epilog=example("ax-recipe doctor", "ax-recipe doctor pirate"))
@click.argument("name", required=False, metavar="[RECIPE]")
@runs_option
@axolotl_option
@json_option
def doctor(name: str | None, runs: str | None, axolotl: str | None, as_json: bool) -> int:
    """Look at what this machine has for a run, and for the accounts that a recipe logs to."""
    from ax_recipe import doctor as doctors
    from ax_recipe import rundir

    findings = doctors.examine(axolotl, rundir.root(runs), name)
    if as_json:
        click.echo(json.dumps([{"name": f.name, "state": f.state, "detail": f.detail} for f in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{finding.state:<9}{finding.name:<14}{finding.detail}")
    return 3 if any(finding.state == "missing" for finding in findings) else 0
