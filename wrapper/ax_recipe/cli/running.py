"""The verbs of a run that goes on: start, go on, watch, stop."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ax_recipe.cli.program import (
    STAGES,
    again,
    events_option,
    example,
    explain_option,
    for_dry_run,
    json_option,
    keep,
    main,
    mirror_option,
    node_options,
    policy_options,
    ready,
    recipe_options,
    runs_option,
    tell_others,
    trust_option,
    until_option,
)
from ax_recipe.errors import MissingError, RecipeError

if TYPE_CHECKING:
    from ax_recipe.forecast.cluster import Cluster
    from ax_recipe.forecast.hardware import Hardware
    from ax_recipe.recipe.recipe import Recipe
    from ax_recipe.run.rundir import RunDir


@main.command(epilog=example("ax-recipe run pirate-tiny", "ax-recipe run pirate --gpus 4"))
@click.argument("name")
@until_option
@click.option("--dry-run", is_flag=True, help="Show what would be started, and start nothing.")
@click.option("--new", is_flag=True, help="Start another run, even where this very one is there.")
@policy_options
@trust_option
@click.option("--force", is_flag=True, help="Start even where the disk or the memory will not do.")
@mirror_option
@runs_option
@events_option
@node_options
@recipe_options
def run(
    name: str,
    until: str | None,
    dry_run: bool,
    new: bool,
    on_oom: str | None,
    on_hang: str | None,
    time_limit: str | None,
    trust: bool,
    force: bool,
    mirror: str | None,
    runs: str | None,
    as_json: bool,
    gpus: str | None,
    changes: tuple[str, ...],
    axolotl: str | None,
    bandwidth: float | None,
    **nodes: Any,
) -> int:
    """Train, evaluate, merge, check, export and try a recipe, and watch it; or go on where this very run ended."""
    from ax_recipe import axolotl as environment
    from ax_recipe.checks import all as checks
    from ax_recipe.checks import checking, planned
    from ax_recipe.checks import trust as trusting
    from ax_recipe.forecast import cluster, disk, forecast
    from ax_recipe.launch import earlier
    from ax_recipe.recipe import recipe
    from ax_recipe.run import mirror as mirrors
    from ax_recipe.run import preparing, rundir
    from ax_recipe.verbs import attend

    wanted, several = recipe.load(name, changes), cluster.asked(**nodes)
    lent = _lent(wanted, several, gpus, bandwidth, dry_run=dry_run)
    found = for_dry_run(axolotl) if dry_run else environment.find(axolotl)
    place = mirrors.asked(mirror or "")
    prepared = preparing.for_run(wanted, lent, found, rundir.root(runs), cluster=several, alone=not place)
    warnings = planned.refuse(prepared.plan, found, checks.examine)
    if dry_run or found is None:
        click.echo(json.dumps(prepared.orders, indent=1) if as_json else preparing.shown(prepared))
        tell_others(prepared.run, prepared.orders)
        return 0
    trusting.refuse(wanted, warnings, trusted=trust)
    before = None if new else earlier.find(prepared)
    if before:
        return _go_on(before, runs, until, trust, force, (on_oom, on_hang, time_limit), mirror, as_json=as_json)
    only = STAGES[: STAGES.index(until) + 1] if until else ()
    if prepared.forecast and not as_json:
        from ax_recipe.view import plan as view

        view.brief(prepared.forecast)
    if not force:
        forecast.refuse(prepared.forecast)
        disk.refuse(preparing.writes(prepared, only))
    checking.ask_before(prepared.plan, found, lambda words: click.echo(words, err=True))
    from ax_recipe.launch import runner
    from ax_recipe.survive import policy

    told = policy.Policy().told(on_oom, on_hang, time_limit)
    keep(prepared, place, found)
    rundir.create(prepared.run, prepared.files)
    ready(prepared.run)
    runner.launch(prepared.run, (), told, until)
    return attend.attend(prepared.run, as_json=as_json)


def _lent(
    wanted: Recipe, several: Cluster | None, gpus: str | None, bandwidth: float | None, *, dry_run: bool
) -> Hardware:
    """What the run gets; to be only looked at, also what this machine has not."""
    from ax_recipe.forecast import cluster
    from ax_recipe.run import preparing

    try:
        return cluster.lent(several, gpus, preparing.wanted_hardware(wanted), bandwidth)
    except MissingError as error:
        if not dry_run:
            raise
        click.echo(f"{error.message}: shown all the same; a run needs it", err=True)
        return preparing.hardware_for(wanted, gpus, several, bandwidth)


def _go_on(
    before: RunDir, runs: str | None, until: str | None, trust: bool, force: bool, told: Sequence[str | None],
    mirror: str | None, *, as_json: bool,
) -> int:  # fmt: skip
    """Watch the run that the same command made before, or let it go on."""
    from ax_recipe.forecast import disk
    from ax_recipe.run import preparing
    from ax_recipe.verbs import attend

    click.echo(f"{before.name} is this very run, {attend.found(before)} (--new starts another)", err=True)
    if before.worker:
        if until or any(told):
            click.echo("how far it goes and what it may do stay as it was started with", err=True)
        return attend.attend(before, as_json=as_json, owns=False)
    if not force:
        disk.refuse(preparing.left(before, until), ways="")
    return again(str(before.path), runs, (), as_json, trust, told, until, mirror)


@main.command(epilog=example("ax-recipe resume pirate-20261122-101500"))
@click.argument("name", required=False, metavar="[RUN]")
@until_option
@policy_options
@node_options
@trust_option
@click.option("--force", is_flag=True, help="Go on even where the disk will not do.")
@mirror_option
@runs_option
@events_option
def resume(
    name: str | None,
    until: str | None,
    on_oom: str | None,
    on_hang: str | None,
    time_limit: str | None,
    trust: bool,
    force: bool,
    mirror: str | None,
    runs: str | None,
    as_json: bool,
    bandwidth: float | None,
    **nodes: Any,
) -> int:
    """Go on with a run (the newest) where proofs end: at its newest whole checkpoint, or the stage after the last.

    --nodes or --hosts let it go on with other machines than before; the rows of a step stay as many.
    """
    from ax_recipe.forecast import disk
    from ax_recipe.run import preparing, rundir

    found = rundir.find(rundir.root(runs), name)
    if not trust:
        rundir.refuse_foreign(found)
    if any(value is not None for value in (bandwidth, *nodes.values())):
        from ax_recipe.run import runs as all_runs
        from ax_recipe.verbs import regrouping

        all_runs.refuse_running(found)
        regrouping.regroup(found, nodes, bandwidth)
    if not force and not found.worker:
        disk.refuse(preparing.left(found, until), ways="")
    return again(name, runs, (), as_json, trust, (on_oom, on_hang, time_limit), until, mirror)


@main.command(epilog=example("ax-recipe watch", "ax-recipe watch pirate-20261122-101500 --explain"))
@click.argument("name", required=False, metavar="[RUN]")
@explain_option
@runs_option
@events_option
def watch(name: str | None, explain: bool, runs: str | None, as_json: bool) -> int:
    """Show a run (the newest) that goes on, or what came of one that has ended."""
    from ax_recipe.run import rundir
    from ax_recipe.verbs import attend

    found = rundir.find(rundir.root(runs), name)
    if not explain:
        return attend.attend(found, as_json=as_json, owns=False)
    from ax_recipe.observe import feed
    from ax_recipe.view import explain as view

    state, target = feed.trained(found), attend.target_of(found)
    click.echo(view.as_json(state, target) if as_json else "\n".join(view.lines(state, target)))
    return 0


@main.command(epilog=example("ax-recipe status --json"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
@json_option
def status(name: str | None, runs: str | None, as_json: bool) -> None:
    """Show how far a run (the newest) has come: pre-trained, fine-tuned, merged, deployed."""
    from ax_recipe.run import rundir
    from ax_recipe.survive import proof
    from ax_recipe.verbs import attend

    found = rundir.find(rundir.root(runs), name)
    state = proof.standing(found)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(attend.as_json(found, state) if as_json else attend.summary(found, state, width))


@main.command(epilog=example("ax-recipe stop"))
@click.argument("name", required=False, metavar="[RUN]")
@runs_option
def stop(name: str | None, runs: str | None) -> int:
    """Stop a run (the newest); a training saves a whole checkpoint first, asked a second time it does not."""
    from ax_recipe.run import rundir
    from ax_recipe.run import runs as all_runs
    from ax_recipe.verbs import attend

    found = rundir.find(rundir.root(runs), name)
    words = attend.stopping(found)
    if all_runs.stop(found):
        click.echo(words)
    else:
        click.echo(f"{found.name} does not run", err=True)
    return 0


@main.command(
    epilog=example(
        "ax-recipe sweep pirate-tiny --set train.learning_rate=3e-4,1e-3,3e-3 --set lora.r=8,16",
        "ax-recipe sweep pirate --set lora.r=16,64 --gpus-each 1 --stop-hopeless",
    )
)
@click.argument("name")
@click.option("--max", "most", type=click.IntRange(min=1), metavar="N", help="At most so many trials.")
@click.option("--random", "sampled", is_flag=True, help="A sample of the grid, not its beginning.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Which sample.")
@click.option("--gpus-each", type=click.IntRange(min=1), metavar="N", help="Trials side by side, each on so many GPUs.")
@click.option("--stop-hopeless", is_flag=True, help="Stop a trial as soon as its verdict is STOP.")
@click.option("--dry-run", is_flag=True, help="Show the trials as they are, and start nothing.")
@trust_option
@mirror_option
@runs_option
@json_option
@recipe_options
def sweep(
    name: str,
    dry_run: bool,
    trust: bool,
    runs: str | None,
    as_json: bool,
    gpus: str | None,
    axolotl: str | None,
    **told: Any,
) -> int:
    """Try values against each other (--set KEY=VALUE,VALUE): a run for each, ranked by held-out loss.

    The same command goes on where it was. A list is one value: --set lora.target_modules=[q_proj,v_proj],[k_proj].

    --mirror keeps the run of each trial; which runs the trials are is kept here alone.
    """
    from ax_recipe import axolotl as environment
    from ax_recipe.forecast import hardware
    from ax_recipe.launch import sweep as sweeps
    from ax_recipe.recipe import recipe
    from ax_recipe.run import preparing, rundir
    from ax_recipe.view import sweep as view

    wishes, machine = sweeps.Wishes(**told, trusted=trust), hardware.here()
    lent = hardware.lend(wishes.gpus_each or gpus, machine, preparing.wanted_hardware(recipe.load(name)))
    offered = hardware.lend(gpus, machine, machine) if wishes.gpus_each else lent
    its = for_dry_run(axolotl) if dry_run else environment.find(axolotl)
    place = sweeps.Place(rundir.root(runs), its, lent, sweeps.device_sets(offered, lent.count))
    found = sweeps.Sweep(name, wishes, place)
    if not found.varied:
        raise RecipeError("nothing to try: no --set gives a key two values", "for example --set lora.r=16,64")
    found.check()
    if not dry_run:
        try:
            found.go(lambda words: click.echo(words, err=True))
        finally:
            if found.folder.is_dir():
                rundir.write(found.folder / "report.html", view.html(found))
    results = found.results()
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=1))
    else:
        view.show(found)
    return 0 if dry_run or any(result.row and result.row.eval_loss for result in results) else 1
