"""The verbs over runs that are made: list, compare, tell, do once more."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ax_recipe.cli.program import (
    SORTS,
    axolotl_option,
    example,
    for_dry_run,
    json_option,
    keep,
    main,
    mirror_option,
    node_options,
    put,
    ready,
    runs_option,
    tell_others,
    trust_option,
)
from ax_recipe.errors import RecipeError


@main.command("runs", epilog=example("ax-recipe runs", "ax-recipe runs --recipe pirate --sort eval-loss"))
@click.option("--recipe", metavar="NAME", help="Only the runs of this recipe.")
@click.option("--sort", type=click.Choice(SORTS), default="time", show_default=True, help="What comes first.")
@runs_option
@json_option
def runs_(recipe: str | None, sort: str, runs: str | None, as_json: bool) -> None:
    """List the runs: what became of each, and what came out."""
    import time

    from ax_recipe.run import rundir
    from ax_recipe.run import runs as all_runs

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
    from ax_recipe.results import story
    from ax_recipe.run import rundir
    from ax_recipe.run import runs as all_runs
    from ax_recipe.view import runs as view

    found = [story.read(rundir.find(rundir.root(runs), name)) for name in names]
    if len(found) == 1:
        raise RecipeError("compare takes two runs or more", all_runs.others_in_words(found[0].run))
    view.show(found)


@main.command(epilog=example("ax-recipe report", "ax-recipe report pirate-20261122-101500 -o pirate.html"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("-o", "--out", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@runs_option
def report(name: str | None, output: Path | None, runs: str | None) -> None:
    """Write a run (the newest) as one HTML file that loads nothing: verdict, curves, answers, config."""
    from ax_recipe.results import story
    from ax_recipe.run import rundir
    from ax_recipe.view import report as view

    found = story.read(rundir.find(rundir.root(runs), name))
    target = output or found.run.report
    put(target, view.html(found))
    click.echo(f"{target}: written")


@main.command(epilog=example("ax-recipe advise", "ax-recipe advise pirate-20261122-101500 --write pirate-2.yaml"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("--write", "new", metavar="NEW", help="Write the recipe of the next run, with all of it in.")
@runs_option
def advise(name: str | None, new: str | None, runs: str | None) -> None:
    """Say after a run (the newest) what to change in its recipe: at most three things, and why."""
    from ax_recipe.results import advise as advising
    from ax_recipe.results import story
    from ax_recipe.run import rundir

    found = story.read(rundir.find(rundir.root(runs), name))
    advice = advising.advise(found)
    click.echo("\n".join(advising.show(found, advice)))
    if new:
        target = advising.next_recipe(found, advice, new)
        click.echo(f"{target}: written. Next: ax-recipe run {target}")


@main.command(epilog=example("ax-recipe reproduce pirate-20261122-101500 --dry-run"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("--gpus", metavar="N", help="On other GPUs than then.")
@click.option("--dry-run", is_flag=True, help="Say what is different now, and start nothing.")
@trust_option
@mirror_option
@axolotl_option
@runs_option
@json_option
@node_options
def reproduce(
    name: str | None,
    gpus: str | None,
    dry_run: bool,
    trust: bool,
    mirror: str | None,
    axolotl: str | None,
    runs: str | None,
    as_json: bool,
    bandwidth: float | None,
    **nodes: Any,
) -> int:
    """Start a run (the newest) once more from its folder, and say what is different around it.

    On this machine, and kept nowhere else, unless --nodes, --hosts or --launcher, and --mirror, say so.
    """
    from ax_recipe import axolotl as environment
    from ax_recipe.forecast import cluster
    from ax_recipe.launch import runner
    from ax_recipe.run import mirror as mirrors
    from ax_recipe.run import rundir
    from ax_recipe.verbs import attend, reproducing

    found, several, place = rundir.find(rundir.root(runs), name), cluster.asked(**nodes), mirrors.asked(mirror or "")
    its = for_dry_run(axolotl) if dry_run else environment.find(axolotl)
    where = reproducing.Where(rundir.root(runs), gpus, several, bandwidth, alone=not place)
    prepared, differences = reproducing.prepare(found, its, where, trusted=trust)
    click.echo(f"{found.name} once more, as {prepared.run.name}", err=True)
    for line in differences or ["nothing is different"]:
        click.echo(f"  {line}", err=True)
    if dry_run or its is None:
        if as_json:
            click.echo(json.dumps({"run": found.name, "as": prepared.run.name, "differences": differences}, indent=1))
        tell_others(prepared.run, prepared.orders)
        return 0
    keep(prepared, place, its)
    rundir.create(prepared.run, prepared.files)
    ready(prepared.run)
    runner.launch(prepared.run)
    return attend.attend(prepared.run, as_json=as_json)


@main.command(
    epilog=example("ax-recipe fetch s3://bucket/runs", "ax-recipe fetch s3://bucket/runs/pirate-20261122-101500")
)
@click.argument("url")
@click.option("--gpus", type=click.IntRange(min=0), metavar="N", help="Go on with so many GPUs (else as many as then).")
@trust_option
@axolotl_option
@runs_option
@json_option
def fetch(url: str, gpus: int | None, trust: bool, axolotl: str | None, runs: str | None, as_json: bool) -> None:
    """Bring a run back from its mirror, each file held against its digest; of a folder of runs, list them.

    What goes on here is its newest whole checkpoint, planned anew for this machine; what is different is said.
    """
    from ax_recipe import axolotl as environment
    from ax_recipe.run import mirror, rundir
    from ax_recipe.verbs import fetching

    found, place = environment.find(axolotl), mirror.asked(url)
    is_run, there = fetching.look(place, found.python)
    if not as_json:
        click.echo("\n".join(fetching.lines(there)) or f"no runs at {place}", err=is_run)
    elif not is_run:
        click.echo(json.dumps(there, indent=1))
    if is_run:
        fetched = fetching.fetch(place, rundir.root(runs), found, gpus, trusted=trust)
        click.echo(fetching.as_json(fetched) if as_json else "\n".join(fetching.words(fetched)))


@main.command(epilog=example("ax-recipe rm pirate-20261122-101500"))
@click.argument("name", metavar="RUN")
@click.option("--yes", is_flag=True, help="Do not ask.")
@runs_option
def rm(name: str, yes: bool, runs: str | None) -> None:
    """Remove a run, its weights included, after asking; one that is running stays."""
    from ax_recipe.run import rundir
    from ax_recipe.run import runs as all_runs

    found = all_runs.exactly(rundir.root(runs), name)
    all_runs.refuse_running(found)
    if not yes:
        try:
            click.confirm(f"Remove {found.path} ({all_runs.size_gib(found):.2f} GiB, weights included)?", abort=True)
        except click.Abort as abort:
            if sys.stdin.isatty():
                raise
            raise RecipeError("nobody answered, so nothing is removed", "--yes removes it unasked") from abort
    kept = f"; what is kept at {found.mirror.url} stays" if found.mirror.url else ""
    all_runs.remove(found)
    click.echo(f"{found.name}: removed{kept}")
