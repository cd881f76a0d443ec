"""The verbs that look at what is there: a log of any run, this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ax_recipe.cli.completion import SHELLS
from ax_recipe.cli.program import axolotl_option, example, explain_option, json_option, main, runs_option


def _band(_context: click.Context, _option: click.Parameter, value: tuple[float, float] | None) -> Any:
    if value and not value[0] < value[1]:
        raise click.BadParameter(f"LOW is less than HIGH, and {value[0]:g} is not less than {value[1]:g}")
    return value


@main.command(epilog=example("ax-recipe replay axolotl.log --json"))
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--exit-code", type=int, help="How the process ended, where it is known: a log alone cannot tell a kill.")
@click.option(
    "--target", type=(float, float), metavar="LOW HIGH", callback=_band, help="The band in which the loss should end."
)
@explain_option
@json_option
def replay(log: Path, exit_code: int | None, target: tuple[float, float] | None, explain: bool, as_json: bool) -> None:
    """Show the state that any Axolotl log ends in, ours or not."""
    from ax_recipe.observe import replay as replays
    from ax_recipe.observe.state import summary

    state, is_training = replays.read(log, exit_code)
    if as_json and not explain:  # whoever reads it gets its keys of any file; the exit code says the rest
        click.echo(json.dumps(summary(state, target), indent=1))
    if not is_training:
        replays.refuse(log)
    if explain:
        from ax_recipe.view import explain as view

        click.echo(view.as_json(state, target) if as_json else "\n".join(view.lines(state, target)))
    if explain or as_json:
        return
    value = summary(state, target)
    for name, figure in value.items():
        if name != "alerts" and figure is not None:
            click.echo(f"{name:<26}{figure}")
    for alert in value["alerts"]:
        click.echo(f"{alert['severity']:<26}{alert['message']}")


@main.command(epilog=example("ax-recipe diagnose", "ax-recipe diagnose axolotl.log --exit-code 137"))
@click.argument("name", required=False, metavar="[RUN|LOG]")
@click.option("--exit-code", type=int, help="How the process of a LOG ended, where it is known.")
@click.option("--list", "listing", is_flag=True, help="Print every cause there is.")
@runs_option
@json_option
def diagnose(name: str | None, exit_code: int | None, listing: bool, runs: str | None, as_json: bool) -> None:
    """Say why a run (the newest), or that of any Axolotl log, ended, and what to change."""
    from ax_recipe import diagnose as diagnoses
    from ax_recipe.observe import replay as replays
    from ax_recipe.run import rundir
    from ax_recipe.view import diagnose as view

    if listing:
        causes = view.causes()
        rows = "\n".join(f"{name:<24}{sentence}" for name, sentence in causes.items())
        click.echo(json.dumps(causes, indent=1) if as_json else rows)
        return
    log = Path(name) if name and Path(name).is_file() else None
    root = rundir.root(runs)
    found = diagnoses.diagnose(log, exit_code) if log else diagnoses.of_run(rundir.find(root, name, "file"))
    told = found.cause != "none" or found.phase not in replays.BEFORE
    strange = log and not told and not replays.read(log)[1]
    if as_json or not strange:
        click.echo(json.dumps(found.as_json(), indent=1) if as_json else "\n".join(view.lines(found)))
    if log and strange:
        replays.refuse(log)


@main.command(epilog=example("ax-recipe doctor", "ax-recipe doctor pirate"))
@click.argument("name", required=False, metavar="[RECIPE]")
@runs_option
@axolotl_option
@json_option
def doctor(name: str | None, runs: str | None, axolotl: str | None, as_json: bool) -> int:
    """Look at what this machine has for a run; of a recipe, also its GPUs and the accounts that it logs to."""
    from ax_recipe.run import rundir
    from ax_recipe.verbs import doctor as doctors

    findings = doctors.examine(axolotl, rundir.root(runs), name)
    if as_json:
        click.echo(json.dumps([{"name": f.name, "state": f.state, "detail": f.detail} for f in findings], indent=1))
    else:
        for finding in findings:
            click.echo(f"{finding.state:<9}{finding.name:<14}{finding.detail}")
    return 3 if any(finding.state == "missing" for finding in findings) else 0


@main.command(epilog=example('eval "$(ax-recipe completion bash)"', "ax-recipe completion fish"))
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete verbs, options, recipes, runs and stages; its first line says where it goes."""
    from ax_recipe.cli import completion as offered

    click.echo(offered.script(shell, main), nl=False)
