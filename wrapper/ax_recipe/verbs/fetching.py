"""A run comes back from its mirror: all its paths are made this machine's, and it is planned anew for it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe import assets
from ax_recipe.axolotl import Axolotl
from ax_recipe.errors import AxRecipeError, MissingError, RecipeError
from ax_recipe.launch import mirroring
from ax_recipe.run import mirror, rundir, runs, seal
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import proof
from ax_recipe.verbs import regrouping, reproducing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A run that is here now; ``brought`` is what the list there said of it and what was wrong with its files.

    ``obstacle`` is why it cannot go on here; ``differences`` are those of the machines.
    """

    run: RunDir
    brought: Mapping[str, Any]
    obstacle: AxRecipeError | None
    differences: tuple[str, ...]


def look(url: str, python: Path) -> tuple[bool, dict[str, dict[str, Any]]]:
    """The runs at ``url``, by name: whether it is one itself, and that one or those below it.

    :raises MissingError: it cannot be read; names the runs beside it, if there are any.
    """
    try:
        told = mirroring.ask(python, "list", url)
    except MissingError as error:
        raise MissingError(error.message, _beside(url, python) or error.hint) from error
    return bool(told["run"]), told["runs"]


def _beside(url: str, python: Path) -> str:
    """The runs in the folder that ``url`` would be in, in words; empty where none are to be seen."""
    folder = url.rpartition("/")[0]
    try:
        told = mirroring.ask(python, "list", folder)
    except MissingError:
        return ""
    names = ", ".join(told["runs"])
    return f"{folder} is a run itself" if told["run"] else f"runs at {folder}: {names}" if names else ""


def lines(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One line to each run."""
    wide = max(map(len, found), default=0)
    for name, told in found.items():
        if told.get("error"):
            yield f"{name:<{wide}}  {told['error']}"
            continue
        newest = told["checkpoint"] or "no checkpoint"
        size, at = f"{told['bytes'] / 2**20:,.1f} MiB", mirror.when(told["time"])
        yield f"{name:<{wide}}  {told['status']:<11}  {newest:<15}  {size:>12}  as of {at}, {told['host']}"


def fetch(url: str, root: Path, found: Axolotl, gpus: int | None, *, trusted: bool) -> Fetched:
    """Bring the run at ``url`` into ``root``; a fetch that was broken off goes on.

    :raises MissingError: the place cannot be read, or somebody brings it already.
    :raises RecipeError: a run of that name is here.
    """
    name = url.rpartition("/")[2]
    run = RunDir(root / name)
    if not _NAME.fullmatch(name):
        raise RecipeError(f"{url}: {name!r} is no name of a run", "ax-recipe fetch URL lists the runs there")
    with _alone(run):
        return _brought(run, url, found, gpus, trusted=trusted)


@contextmanager
def _alone(run: RunDir) -> Iterator[None]:
    """Keep others from the folder meanwhile, under the lock that its runner would have; an empty one does not stay.

    :raises MissingError: somebody is at work in it, or it cannot be made.
    :raises RecipeError: it is a run of this account.
    """
    try:
        run.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MissingError(
            f"{run.path}: cannot be made: {error.strerror}", "name another place with --runs DIR"
        ) from error
    if who := run.worker:
        hint = "wait for its end, or end it: the same command then goes on where it was"
        raise MissingError(f"{run.path}: {who} brings it here already, or goes on with it", hint)
    with run.held():
        if seal.holds(run.path):
            raise RecipeError(f"{run.path} is here already", f"ax-recipe resume {run.word} goes on with it")
        try:
            yield
        finally:
            if list(run.path.iterdir()) == [run.lock.path]:
                shutil.rmtree(run.path)


def _brought(run: RunDir, url: str, found: Axolotl, gpus: int | None, *, trusted: bool) -> Fetched:
    brought = mirroring.ask(found.python, "get", url, str(run.path))
    _move(run, found, gpus)
    rundir.write(run.mirror.path, mirror.wanted(url.removesuffix(f"/{run.name}"), brought["writer"]))
    obstacle = None
    try:
        _refuse_missing(run)
        regrouping.regroup(run, {}, trusted=trusted)
    except AxRecipeError as error:
        obstacle = error
    return Fetched(run, brought, obstacle, () if obstacle else tuple(reproducing.different(run)))


def _move(run: RunDir, found: Axolotl, gpus: int | None) -> None:
    """Every path in the run's own files as this machine has it; the recipe and what it learnt stay as they are."""
    orders = _orders(run)
    then = Path(orders["recipe_file"])
    here = _recipe_file(then, run.recipe.read_text(encoding="utf-8"))
    places = {str(rundir.made_at(orders)): str(run.path), str(then.parent): str(here.parent)}
    if orders["scratch"] and run.base.is_dir():
        places[orders["base"]] = str(run.base)
    names = (run.orders.name, run.state.name, "axolotl*.yaml", "alone.yaml", "base.yaml", run.environment.name)
    for path in (path for name in names for path in run.path.glob(name)):
        spelt = _in_json(places) if path.suffix == ".json" else places
        rundir.write(path, _moved(path.read_text(encoding="utf-8"), spelt))
    proof.move(run, lambda text: _moved(text, _in_json(places)))
    orders = run.read_json(run.orders)
    orders |= {"recipe_file": str(here), "gpus": orders["gpus"] if gpus is None else gpus}
    orders["axolotl"] |= {"command": str(found.command), "python": str(found.python)}
    run.write_json(run.orders, orders)


def _orders(run: RunDir) -> dict[str, Any]:
    try:
        orders: dict[str, Any] = run.read_json(run.orders)
    except MissingError as error:
        hint = "nothing can go on without it; its checkpoints are whole all the same"
        raise MissingError(f"{run.orders} did not come whole: {error.message}", hint) from error
    return orders


def _in_json(places: Mapping[str, str]) -> dict[str, str]:
    """The places as JSON spells them: letters beyond ASCII are numbers there."""
    return {json.dumps(old)[1:-1]: json.dumps(new)[1:-1] for old, new in places.items()}


def _moved(text: str, places: Mapping[str, str]) -> str:
    """``text`` with each old place, the longest first, replaced by the new one, where the name ends there."""
    old = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    return re.sub(rf"(?<![\w.-])({old})(?![\w.-])", lambda found: places[found[1]], text)


def _recipe_file(then: Path, text: str) -> Path:
    """Where the recipe's relative paths begin here: where they did, beside the same bundled recipe, or where we are.

    A bundled recipe is trusted, so it must be that one to the letter.
    """
    bundled = assets.recipes().resolve()
    for path in (then, bundled / then.name, Path.cwd() / then.name):
        if path.is_file() and (path.read_text(encoding="utf-8") == text or bundled not in path.resolve().parents):
            return path
    return Path.cwd() / then.name


def _refuse_missing(run: RunDir) -> None:
    """Stop where a file that the recipe names, on the machine where it was made, is not here.

    :raises MissingError: with all of them.
    """
    then = run.read_json(run.environment).get("files", {}) if run.environment.is_file() else {}
    missing = [path for path in then if not Path(path).exists()]
    if missing:
        name = Path(run.read_json(run.orders)["recipe_file"]).name
        hint = f"put it there, or give this command where {name} and its data are; then: the same command again"
        raise MissingError(f"the run reads {', '.join(missing)}: not on this machine", hint)


def as_json(fetched: Fetched) -> str:
    """``fetch --json``."""
    told = {name: fetched.brought[name] for name in ("checkpoint", "status", "time", "files", "bytes", "wrong")}
    obstacle = str(fetched.obstacle) if fetched.obstacle else None
    place = {"run": fetched.run.name, "path": str(fetched.run.path)}
    return json.dumps({**place, **told, "differences": fetched.differences, "obstacle": obstacle}, indent=1)


def words(fetched: Fetched) -> Iterator[str]:
    """What came, what did not, what is different here, and what to do next."""
    run, told = fetched.run, fetched.brought
    newest = f", {told['checkpoint']}" if told["checkpoint"] else ", no checkpoint"
    size = f"{told['bytes'] / 2**20:,.1f} MiB"
    yield f"{run.path}: {told['files']} files, {size}{newest}, as of {mirror.when(told['time'])}"
    yield from (f"  not as it was: {flaw}" for flaw in told["wrong"])
    yield from (f"  different here: {line}" for line in fetched.differences)
    if fetched.obstacle:
        yield f"it can be looked at; to go on with it here is not possible yet: {fetched.obstacle}"
    elif runs.row_of(run).status != "finished":
        yield f"Go on with: ax-recipe resume {run.word}"
