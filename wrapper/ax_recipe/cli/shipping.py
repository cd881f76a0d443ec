"""The verbs that bring a model out: score, merge, export, deploy, measure, talk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ax_recipe.cli.program import (
    FORMS,
    again,
    axolotl_option,
    example,
    json_option,
    main,
    runs_option,
    trust_option,
    trusted,
)
from ax_recipe.errors import RecipeError

if TYPE_CHECKING:
    from ax_recipe.ship.merged import Check


@main.command(epilog=example("ax-recipe evaluate --gate", "ax-recipe evaluate --on merged --task hellaswag"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option("--on", "form", type=click.Choice(FORMS), help="What to measure: as trained, merged, or as served.")
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="Measure this task of lm-eval too (on merged).")
@click.option("--host", metavar="URL", help="The Ollama to ask (else the one it was deployed to).")
@click.option("--gate", is_flag=True, help="Exit with 1 when the recipe's bar is missed.")
@trust_option
@runs_option
@json_option
def evaluate(name: str | None, trust: bool, runs: str | None, as_json: bool, gate: bool, **told: Any) -> int:
    """Measure a run's model (the newest run's) against its base, and hold it against the recipe's bar."""
    from ax_recipe.results import evaluation
    from ax_recipe.run import rundir
    from ax_recipe.verbs import evaluating

    wishes = evaluating.Wishes(**told)
    found, bars = evaluating.evaluate(
        trusted(rundir.find(rundir.root(runs), name), trust), wishes, lambda words: click.echo(f"{words} ...", err=True)
    )
    if as_json:
        click.echo(json.dumps(evaluation.as_json(found, bars), indent=1, ensure_ascii=False))
    else:
        from ax_recipe.view import evaluation as view

        click.echo("\n".join(view.lines(found, bars)))
    if gate and not bars:
        raise RecipeError("nothing was measured that a bar could be held against", "give the recipe held_out or checks")
    return 1 if gate and not all(bar.met for bar in bars) else 0


@main.command(epilog=example("ax-recipe merge", "ax-recipe merge ./outputs/pirate --check"))
@click.argument("name", required=False, metavar="[RUN|FOLDER]")
@click.option("--check", "look", is_flag=True, help="Only look, and change nothing.")
@click.option("--logits", is_flag=True, help="Only measure a run's merge against its base with the adapter on it.")
@trust_option
@runs_option
@json_option
def merge(name: str | None, look: bool, logits: bool, trust: bool, runs: str | None, as_json: bool) -> int:
    """Merge a run's adapter (the newest run) once more, or examine and mend the merge in an Axolotl folder."""
    from ax_recipe.run import rundir
    from ax_recipe.verbs import shipping

    found = trusted(shipping.find(rundir.root(runs), name), trust)
    if isinstance(found, Path):
        return _show_checks(shipping.make_whole(found, change=not look), as_json)
    if logits:
        return _show_checks([shipping.compare(found)], as_json)
    if look:
        return _show_checks(shipping.make_whole(shipping.model_of(found), change=False), as_json)
    shipping.refuse_unmergeable(found)
    return again(str(found.path), runs, ("merge", "check-merge"), as_json)


@main.command(epilog=example("ax-recipe export", "ax-recipe export ./outputs/pirate/merged --out ./pirate --json"))
@click.argument("name", required=False, metavar="[RUN|FOLDER]")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Write into this folder.")
@click.option("--system", metavar="TEXT", help="The system prompt to ship it with; empty for none.")
@click.option("--num-ctx", type=click.IntRange(min=1), metavar="N", help="The context to reserve, in tokens.")
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A ready GGUF of it to run.")
@click.option("--adapter", is_flag=True, help="The base with the adapter beside it, unmerged (needs llama.cpp).")
@click.option("--llama-cpp", type=click.Path(path_type=Path), help="A llama.cpp to make a GGUF with (LLAMA_CPP_DIR).")
@click.option(
    "--format", "kind", metavar="TYPE", help="The type of its data, e.g. alpaca, where it has no chat template."
)
@trust_option
@runs_option
@json_option
def export(name: str | None, out: Path | None, trust: bool, runs: str | None, as_json: bool, **told: Any) -> int:
    """Write the Modelfile and weights for Ollama, of a run (the newest) or of any folder with a model."""
    from ax_recipe.run import rundir
    from ax_recipe.verbs import shipping

    result = shipping.export(trusted(shipping.find(rundir.root(runs), name), trust), out, shipping.ExportTold(**told))
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=1, ensure_ascii=False))
    deploy = " ".join(["ax-recipe deploy", *([str(result.file.parent)] if out or name else [])])
    return _show_checks(result.checks, quiet=as_json, after=f"{result.file}: written. Next: {deploy}")


@main.command(epilog=example("ax-recipe deploy", "ax-recipe deploy pirate-20261122-101500 --host box:11434 --tag v2"))
@click.argument("name", required=False, metavar="[RUN|FOLDER]")
@click.option("--host", metavar="URL", help="The Ollama to deploy to (else OLLAMA_HOST, else this machine's).")
@click.option("--model", metavar="NAME", help="The model's name in Ollama (else the recipe's, or the folder's).")
@click.option("--quantize", metavar="TYPE", help="Quantise it: q4_K_M, q4_K_S, q8_0, ...")
@click.option("--keep", "taken", flag_value="keep", help="A model of that name stays, ours gets a tag (as it is).")
@click.option("--replace", "taken", flag_value="replace", help="A model of that name is replaced.")
@click.option("--tag", metavar="TAG", help="Deploy it under this tag.")
@trust_option
@runs_option
@json_option
def deploy(
    name: str | None, host: str | None, taken: str | None, trust: bool, runs: str | None, as_json: bool, **told: Any
) -> int:
    """Bring a run's model (the newest run's) or an exported folder into Ollama, and prove it on the live server."""
    from ax_recipe.run import rundir
    from ax_recipe.verbs import shipping

    told["replaces"] = taken == "replace"
    result = shipping.deploy(trusted(shipping.find(rundir.root(runs), name), trust), host, shipping.DeployTold(**told))
    if as_json:
        click.echo(json.dumps(result.as_json(), indent=1, ensure_ascii=False))
    return _show_checks(result.checks, quiet=as_json, after=result.in_words())


def _show_checks(checks: Sequence[Check], as_json: bool = False, *, quiet: bool = False, after: str = "") -> int:
    """Print what was checked and what came of it; the exit code says whether all may be used."""
    if as_json:
        click.echo(json.dumps([check.as_json() for check in checks], indent=1, ensure_ascii=False))
    elif not quiet:
        colours = {"ok": "green", "mended": "cyan", "warning": "yellow", "error": "red"}
        for check in checks:
            verdict = click.style(f"{check.verdict:<9}", fg=colours[check.verdict])
            click.echo(verdict + f"{check.name:<20}" + check.detail.replace("\n", "\n" + " " * 29))
        if after:
            click.echo(after)
    return 1 if any(check.verdict == "error" for check in checks) else 0


@main.command(epilog=example("ax-recipe bench", "ax-recipe bench pirate-20261122-101500 --rounds 5"))
@click.argument("name", required=False, metavar="[RUN]")
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, metavar="N", help="How often each question is asked: 3."
)
@click.option("--host", metavar="URL", help="The Ollama to measure in (else OLLAMA_HOST, else this machine's).")
@trust_option
@runs_option
@json_option
def bench(name: str | None, rounds: int, host: str | None, trust: bool, runs: str | None, as_json: bool) -> None:
    """Time a run's model (the newest run's) as adapter, merged and quantised, in each engine at hand."""
    from dataclasses import asdict

    from ax_recipe.run import rundir
    from ax_recipe.verbs import shipping

    results = shipping.measure(trusted(rundir.find(rundir.root(runs), name), trust), host, rounds)
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
    from ax_recipe.run import rundir
    from ax_recipe.ship import sizing

    found = sizing.sized(name, rundir.root(runs), environment.find_if_any(axolotl), context, memory)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=1))
        return
    from ax_recipe.view import size as view

    view.show(found)


@main.command(epilog=example("ax-recipe chat", "ax-recipe chat pirate-20261122-101500"))
@click.argument("name", required=False, metavar="[RUN]")
@trust_option
@runs_option
def chat(name: str | None, trust: bool, runs: str | None) -> int:
    """Talk to the model of a run (the newest): in Ollama when it is there, else with transformers."""
    from ax_recipe.run import rundir
    from ax_recipe.verbs import talk

    return talk.talk(trusted(rundir.find(rundir.root(runs), name), trust))
