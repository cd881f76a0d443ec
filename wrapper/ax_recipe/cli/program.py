"""What the verbs share: the group itself, its boundary for errors, and the options that several take."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ax_recipe import __version__
from ax_recipe.errors import AxRecipeError, MissingError, RecipeError

if TYPE_CHECKING:
    from pathlib import Path

    from ax_recipe.axolotl import Axolotl
    from ax_recipe.run.preparing import Prepared
    from ax_recipe.run.rundir import RunDir

Verb = TypeVar("Verb", bound=Callable[..., Any])
Found = TypeVar("Found")

INTERRUPTED = 130
ERROR = click.style("error:", fg="red", bold=True)
# What a disk says to whoever may not, or cannot, or names what no file can be called.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
# The orders of runs.SORTS, which need not be imported for --help.
SORTS = ("time", "name", "recipe", "status", "loss", "eval-loss", "duration")
# Those of evaluation.FORMS, for the same reason.
FORMS = ("adapter", "merged", "ollama")
# The names of rundir.TITLES; a test holds them together.
STAGES = ("base", "preprocess", "train", "evaluate", "merge", "check-merge", "export", "deploy", "chat")
# Those of cluster.LAUNCHERS, likewise.
LAUNCHERS = ("torchrun", "slurm", "ray")
# What `ax-recipe --help` shows: every verb once, in a line.
GROUPS = {
    "Before a run": {
        "list": "the bundled recipes",
        "show": "a recipe as its file has it",
        "new": "a recipe of your own, by at most six questions",
        "check": "all that is wrong with a recipe or an Axolotl YAML",
        "explain": "LoRA, packing, loss, ... in plain words, or a finding",
        "data": "every row of the data: tokens, masks, flaws",
        "plan": "memory, time and cost, foretold",
        "render": "the Axolotl YAML, and where each key came from",
    },
    "A run": {
        "run": "train, evaluate, merge, export and try a recipe",
        "watch": "the dashboard of a run that goes on",
        "status": "how far a run has come",
        "stop": "stop with a whole checkpoint",
        "resume": "go on where a run was stopped or failed",
        "fetch": "bring a run back from its mirror, to go on with it here",
        "sweep": "a run for each combination of values, ranked",
    },
    "After a run": {
        "runs": "all runs, and what came out",
        "compare": "runs side by side",
        "report": "a run as one HTML file",
        "advise": "what to change for the next run",
        "evaluate": "the tuned model against its base",
        "diagnose": "why a run, or that of any Axolotl log, ended",
        "reproduce": "the same run again",
        "rm": "remove a run",
    },
    "The model": {
        "merge": "merge an adapter, examine and mend the merge",
        "export": "Modelfile and weights for Ollama",
        "deploy": "bring it into Ollama, and prove it there",
        "chat": "talk to it",
        "bench": "its speed as adapter, merged and quantised",
        "size": "its size in each precision, and what contexts cost",
    },
    "Besides": {
        "doctor": "what this machine has for a run",
        "replay": "the state that any Axolotl log ends in",
        "schema": "the JSON Schema of recipes, for editors",
        "completion": "TAB for bash, zsh and fish",
    },
}


class Verbs(click.Group):
    """The one boundary where an error that a person can cause becomes text and an exit code; bugs pass through."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks so
        """Keep the verbs in the order in which a person meets them."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Show the verbs by what they are for; a list of thirty is not read."""
        for title, verbs in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<10}", words) for name, words in verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader of its output that has left, as ``| head`` does, only ends the showing."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _forget_output()
            return 0

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a verb and leave with its exit code."""
        for stream in (sys.stdout, sys.stderr):  # a terminal may lack the letters of a person's data
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        color = False if os.environ.get("NO_COLOR") else None  # no-color.org; click knows it not
        try:
            code = super().main(*args, **{"color": color, **extra, "standalone_mode": False})
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except AxRecipeError as error:
            click.echo(f"{ERROR} {error}", err=True, color=color)
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            _forget_output()
            click.echo(f"{ERROR} {error.filename or 'the output'}: {error.strerror}", err=True, color=color)
            code = MissingError.exit_code
        sys.exit(code if isinstance(code, int) else 0)


def put(file: Path, text: str) -> None:
    """Write what a verb has made where ``--out`` says, over an older one of its kind.

    :raises RecipeError: another file is there, a recipe say, which begins otherwise.
    :raises MissingError: it cannot be written.
    """
    from ax_recipe.run import rundir

    if file.is_file() and file.stat().st_size:
        with file.open("rb") as old:
            beginning = text[:16].encode()
            if old.read(len(beginning)) != beginning:
                raise RecipeError(f"{file} is there, and was not written by this command", "name another file")
    rundir.write(file, text)


def _forget_output() -> None:
    """What could not be written is not tried again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def example(*lines: str) -> str:
    """The end of a verb's help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


bandwidth_option = click.option(
    "--bandwidth", type=click.FloatRange(min=0, min_open=True), metavar="GBIT",
    help="Gbit/s between them (else as measured, or 100).",
)  # fmt: skip


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


def node_options(verb: Verb) -> Verb:
    """How several machines train one run; `ax_recipe.forecast.cluster.asked` reads them."""
    options = [
        click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="Train on N machines, each with --gpus."),
        click.option("--launcher", type=click.Choice(LAUNCHERS), help="What starts them (else torchrun)."),
        click.option("--hosts", metavar="B,C", help="Start the others by ssh, all but this one."),
        click.option("--head", metavar="ADDRESS", help="How the others reach this machine (else its name)."),
        click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="At which port (else any free one)."),
        click.option(
            "--wait-nodes", type=click.FloatRange(min=0), metavar="SECONDS", help="How long the others may take."
        ),
        click.option("--slurm", metavar="KEY=VALUE,...", help="Options for sbatch: partition=gpu,time=04:00:00."),
        click.option("--ray-address", metavar="HOST:PORT", help="The head of the Ray cluster (else RAY_ADDRESS)."),
        bandwidth_option,
    ]
    for option in reversed(options):
        verb = option(verb)
    return verb


def policy_options(verb: Verb) -> Verb:
    """What a run may do by itself: kept in its folder, so that `resume` need not be told again."""
    options = [
        click.option("--on-oom", type=click.Choice(("stop", "retry")), help="Out of memory: stop, or try smaller."),
        click.option("--on-hang", type=click.Choice(("wait", "restart")), help="It hangs: wait, or start it anew."),
        click.option("--time-limit", metavar="TIME", help="Save a checkpoint and stop before TIME is over: 45m, 2h."),
    ]
    for option in reversed(options):
        verb = option(verb)
    return verb


mirror_option = click.option(
    "--mirror", envvar="AX_RECIPE_MIRROR", metavar="URL",
    help="Keep the run there, too: s3://, gs://, az://, a shared folder; none ends it (else AX_RECIPE_MIRROR).",
)  # fmt: skip
axolotl_option = click.option(
    "--axolotl", metavar="PATH", help="The axolotl to use (else AX_RECIPE_AXOLOTL, else here)."
)
until_option = click.option(
    "--until", type=click.Choice(STAGES), metavar="STAGE", help=f"Stop after this stage: {', '.join(STAGES)}."
)
runs_option = click.option("--runs", metavar="DIR", help="The folder of all runs (else AX_RECIPE_RUNS, else ./runs).")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
events_option = click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
trust_option = click.option(
    "--trust", is_flag=True, help="Let it run what came with it: plugins, remote code, a run folder's programs."
)
explain_option = click.option("--explain", is_flag=True, help="Show every rule of the verdict, with its numbers.")


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nStart here, with no GPU and no downloads:\n  ax-recipe run pirate-tiny\n\n"
    "`ax-recipe COMMAND --help` has the options of each, and an example.",
)
@click.version_option(__version__, prog_name="ax-recipe")
def main() -> None:
    """A recipe goes in, a fine-tuned model answering in Ollama comes out. Axolotl trains."""


def for_dry_run(named: str | None) -> Axolotl | None:
    """The Axolotl that a run would be given; None, and a word about it, where none is installed."""
    from ax_recipe import axolotl

    found = axolotl.find_if_any(named)
    if found is None:
        version = axolotl.assumed().version
        click.echo(f"no axolotl is installed here: shown as for {version}, on PATH; a run needs it", err=True)
    return found


def keep(prepared: Prepared, place: str, axolotl: Axolotl) -> None:
    """Have the run that is about to be made kept at ``place``, too; nowhere else where that is empty.

    :raises MissingError: it cannot be written to.
    """
    from ax_recipe.launch import mirroring
    from ax_recipe.run import mirror

    if place:
        click.echo(f"looking whether {place} can be written to ...", err=True)
        mirroring.refuse(place, prepared.run, axolotl.python)
        prepared.files[prepared.run.mirror.path.name] = mirror.wanted(place)


def ready(run: RunDir) -> None:
    """Before a run starts: ask Ray whether it can train it; say what the other machines are to be given."""
    from ax_recipe.launch import ray_cluster

    orders = run.read_json(run.orders)
    if (orders.get("cluster") or {}).get("launcher") == "ray":
        ray_cluster.refuse(run, orders)
    tell_others(run, orders)


def tell_others(run: RunDir, orders: Mapping[str, Any]) -> None:
    """Print what the other machines are to be given, where a person does that."""
    from ax_recipe.launch import gathering

    for number, command in enumerate(gathering.commands(run, orders), 1):
        click.echo(f"on node {number}: {command}", err=True)


def trusted(found: Found, trust: bool) -> Found:
    """``found``, where it is a run and ``trust`` says so sealed as it is now: what it names may be started."""
    from ax_recipe.run import seal
    from ax_recipe.run.rundir import RunDir

    if trust and isinstance(found, RunDir):
        seal.put(found.path)
    return found


def again(
    name: str | None, runs: str | None, stages: tuple[str, ...], as_json: bool, trust: bool = False,
    told: Sequence[str | None] = (None, None, None), until: str | None = None, mirror: str | None = None,
) -> int:  # fmt: skip
    """Let a run (the newest) go on at its first stage that is not done, or do ``stages`` once more, and watch it.

    ``told`` is what the policy options say, ``until`` the last stage to do, ``mirror`` where else it is kept.
    """
    from ax_recipe.launch import mirroring, runner
    from ax_recipe.run import rundir
    from ax_recipe.survive import policy
    from ax_recipe.verbs import attend

    found = trusted(rundir.find(rundir.root(runs), name), trust)
    rundir.refuse_foreign(found)
    mirroring.settle(found, mirror)
    ready(found)
    runner.launch(found, stages, policy.read(found).told(*told), until)
    return attend.attend(found, as_json=as_json)
