"""From a recipe to what can be started: its plan, checked key by key, and the run folder that holds it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl, assumed, cache_folder
from ax_recipe.axolotl import schema as axolotl_schema
from ax_recipe.errors import AxRecipeError, MissingError, Problem, ProblemsError
from ax_recipe.forecast import architecture, disk, forecast
from ax_recipe.forecast.cluster import Cluster, spread
from ax_recipe.forecast.disk import Need
from ax_recipe.forecast.forecast import Forecast
from ax_recipe.forecast.hardware import GpuKind, Hardware, here, is_here, parse
from ax_recipe.plan import decide
from ax_recipe.plan import plan as plans
from ax_recipe.plan.plan import Config, Plan
from ax_recipe.plan.render import render
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe import schema
from ax_recipe.recipe.document import Document, Keys
from ax_recipe.recipe.recipe import Recipe, Scratch
from ax_recipe.run import rundir, stages
from ax_recipe.run.origin import recipe_of
from ax_recipe.run.rundir import RunDir, RunState, StageRecord


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that could start: the files of its folder, among them plan.json (``orders``).

    ``forecast`` is what its fine-tune will take, None where its base's shape is not known here.
    """

    run: RunDir
    files: dict[str, str]
    orders: dict[str, Any]
    plan: Plan
    forecast: Forecast | None


def wanted_hardware(recipe: Recipe) -> Hardware:
    """The hardware that the recipe is made for; one usual GPU where it does not say."""
    return parse(1 if recipe.gpus is None else recipe.gpus)


def hardware_for(
    recipe: Recipe, gpus: str | None, several: Cluster | None = None, gbit: float | None = None
) -> Hardware:
    """What a recipe is looked at for: ``gpus`` as asked, ``auto`` for this machine, else what it is made for.

    A bare number means this machine's kind of GPU, as it does for a run, and the recipe's where this one has none.
    ``several`` such machines, between which ``gbit`` Gbit/s go.
    """
    return spread(_one_for(recipe, gpus), several, gbit)


def _one_for(recipe: Recipe, gpus: str | None) -> Hardware:
    wanted = wanted_hardware(recipe)
    if gpus == "auto":
        return here()
    return parse(gpus, here().kind or wanted.kind) if gpus else wanted


def missing(axolotl: Axolotl | None, hardware: Hardware) -> frozenset[str]:
    """The packages that would change a plan and that the training environment, where one is here, does not have.

    So with the hub's kernel for flash attention where this very machine is to train; another may reach the hub.
    """
    lacks = frozenset(name for name in decide.OPTIONAL if axolotl and not axolotl.has(name))
    if axolotl and "flash-attn" in lacks and is_here(hardware) and not _has_kernel(axolotl):
        return lacks | {decide.KERNEL}
    return lacks


def _has_kernel(axolotl: Axolotl) -> bool:
    """Whether transformers 5 can take flash attention from the hub, or did so before."""
    told = (os.environ.get(name, "").upper() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    offline = any(word in {"1", "ON", "YES", "TRUE"} for word in told)
    folders = architecture.hub_cache(), Path(os.environ.get("KERNELS_CACHE") or architecture.hub_cache())
    cached = any(True for each in folders for _ in each.glob("*--kernels-community--flash-attn2/snapshots/*"))
    return axolotl.has("kernels") and (cached or not offline)


def foretold(plan: Plan, price: float | None = None) -> Forecast:
    """What the plan's fine-tune will take, and the making of its base before it.

    :raises MissingError: the base's shape is not known here.
    """
    recipe, shape = plan.recipe, plans.shape_of(plan.recipe)
    folder = recipe.file.resolve().parent

    def of(keys: Mapping[str, Any]) -> Forecast:
        return forecast.foretell(recipe.name, keys, plan.hardware, folder, shape=shape, price=price)

    reasons = {key: origin.reason for key, origin in plan.train.origins.items() if origin.source == "hardware"}
    base = of(plan.base.values).timing if plan.base else None
    return replace(of(plan.train.values), choice=plan.choice, reasons=reasons, base=base)


def _foretold_if_known(plan: Plan) -> Forecast | None:
    try:
        return foretold(plan)
    except MissingError:
        return None


def for_print(
    recipe: Recipe,
    gpus: str | None,
    axolotl: Axolotl | None,
    several: Cluster | None = None,
    gbit: float | None = None,
) -> Plan:
    """The plan whose YAML a person reads or trains by hand: for the given GPUs, which need not be here.

    :raises ProblemsError: a key or value that Axolotl does not know.
    """
    hardware = hardware_for(recipe, gpus, several, gbit)
    base = base_folder(recipe, axolotl)
    places = (f"./outputs/{recipe.name}", "last_run_prepared", str(base))
    plan = plans.make(recipe, hardware, *places, missing(axolotl, hardware))
    refuse_problems(problems(plan, axolotl))
    return plan


def for_run(
    recipe: Recipe,
    hardware: Hardware,
    axolotl: Axolotl | None,
    runs: Path,
    text: str | None = None,
    cluster: Cluster | None = None,
    run: RunDir | None = None,
    *,
    alone: bool = True,
) -> Prepared:
    """Everything of a run but its existence on disk; ``text`` is the recipe's, where its file is no longer what it was.

    ``cluster`` are the machines that ``hardware`` is of, where they are several or not this one. ``run`` is there where
    a run that exists is planned anew; its tokenised data is kept, for its order is part of what was learnt so far, and
    so is a base that came with it. One that is not ``alone`` on this machine has its tokenised data in its own folder.

    Without an ``axolotl`` it can only be looked at: its commands are those of one that is on PATH.

    :raises ProblemsError: a key or value that Axolotl does not know; what else is wrong, `checks.planned` finds.
    """
    run = run or RunDir(runs / rundir.fresh_name(runs, recipe.name))
    base = run.base if run.base.is_dir() else base_folder(recipe, axolotl)
    own = run.prepared  # the other machines may not see this one's cache
    prepared = own if cluster or not alone or own.is_dir() else shared_data()
    plan = plans.make(recipe, hardware, str(run.output), str(prepared), str(base), missing(axolotl, hardware))
    plan = plans.with_plugin(plan, stages.PLUGIN)
    refuse_problems(problems(plan, axolotl))
    used = axolotl or assumed()
    its_stages = stages.make(plan, run, used, cluster)
    orders = stages.orders(plan, run, used, base, its_stages, cluster)
    found = _foretold_if_known(plan)
    orders["foretold"] = forecast.record(found) if found else None
    state = RunState(recipe.name, tuple(StageRecord(stage.name) for stage in its_stages))
    files = {
        run.recipe.name: recipe.file.read_text(encoding="utf-8") if text is None else text,
        run.axolotl_yaml.name: render(plan.train, recipe.name, str(hardware)),
        run.orders.name: json.dumps(orders, indent=1),
        run.state.name: state.to_json(),
    }
    if single := plans.alone(plan.train):
        files[run.alone_yaml.name] = render(single, recipe.name, "one process")
    if cluster and cluster.launcher == "slurm":
        files[run.script.name] = stages.script(plan, run, cluster)
    if plan.base:
        files[run.base_yaml.name] = render(plan.base, f"{recipe.name}'s base", "the CPU")
    return Prepared(run, files, orders, plan, found)


def shared_data() -> Path:
    """Where the tokenised data of all runs of this machine lies."""
    return cache_folder() / "prepared"


def base_folder(recipe: Recipe, axolotl: Axolotl | None) -> Path:
    """Where a base that is made here is kept: named by all that goes into it, so that it is made once."""
    if not isinstance(recipe.base, Scratch):
        return Path()
    folder = recipe.file.resolve().parent
    texts = [Path(recipes.resolve(str(row["path"]), folder)) for row in (*recipe.base.data, *recipe.data)]
    content = {
        "base": asdict(recipe.base),
        "texts": [hashlib.sha256(path.read_bytes()).hexdigest() for path in texts if path.is_file()],
        "chat_template": recipe.chat_template,
        "axolotl": axolotl.version if axolotl else None,
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "bases" / digest[:16]


def problems(plan: Plan, axolotl: Axolotl | None) -> list[Problem]:
    """What is wrong with the planned keys, by the schema of the Axolotl in use; lines are the recipe's."""
    known = axolotl_schema(axolotl)["schema"]
    documents = [in_recipe_lines(plan, config) for config in (plan.base, plan.train) if config]
    return [each for found in documents for each in schema.check(found, known, known_plugins=[stages.PLUGIN])]


def in_recipe_lines(plan: Plan, config: Config) -> Document:
    """One of the plan's configs as a document whose every key lies where the recipe says it, under the same name."""
    recipe, raw = plan.recipe, ("base", "axolotl") if config is plan.base else ("axolotl",)
    lines: dict[Keys, int] = {}
    for key, origin in config.origins.items():
        room = origin.recipe_key
        if room is None:
            continue
        for path, line in recipe.document.lines.items():
            if path[: len(room)] == room:
                lines[(key, *path[len(room) :])] = line
    ours = {key: origin.recipe_key for key, origin in config.origins.items() if origin.recipe_key}
    return Document(config.values, lines, recipe.document.file, ours=ours, room=raw)


def writes(prepared: Prepared, only: Collection[str] = ()) -> list[Need]:
    """What the stages of a run (``only`` some, or all) will write to disk; nothing where the base is not known here."""
    plan, orders = prepared.plan, prepared.orders
    shape = plans.shape_of(plan.recipe)
    going = [stage["name"] for stage in orders["stages"] if not stage["skip"] and (not only or stage["name"] in only)]
    if shape is None:
        return []
    return disk.needs(plan.train.values, shape, plan.hardware, going, prepared.run.output, orders["ship"]["quantize"])


def left(run: RunDir, until: str | None = None) -> list[Need]:
    """What is still to be written to disk where ``run`` goes on up to the stage ``until``: of stages not done yet.

    Nothing where the base is not known here, or a file of the run cannot be read: who needs that one says so.
    """
    orders, done = run.read_json(run.orders), set[str]()
    with suppress(MissingError):  # a torn state.json is made anew as the run goes on: till then nothing counts as done
        done = {stage.name for stage in run.current_state().stages if stage.state == "done"}
    names = [stage["name"] for stage in orders["stages"] if not stage["skip"]]
    names = names[: names.index(until) + 1] if until in names else names
    shape, keys = None, dict[str, Any]()
    with suppress(AxRecipeError):
        keys = run.read_yaml(run.axolotl_yaml)
        shape = plans.shape_of(recipe_of(run))
    if shape is None:
        return []
    hardware = Hardware(orders["gpus"], GpuKind(**orders["kind"]) if orders["kind"] else None)
    going = [name for name in names if name not in done]
    return disk.needs(keys, shape, hardware, going, run.output, orders["ship"]["quantize"])


def refuse_problems(found: Sequence[Problem]) -> None:
    """Stop where one of the problems is an error.

    :raises ProblemsError: with all of them.
    """
    if any(problem.severity == "error" for problem in found):
        raise ProblemsError(found)


def shown(prepared: Prepared) -> str:
    """What ``run --dry-run`` prints: the YAML that Axolotl would get, and each command, ready to paste."""
    lines = [prepared.files[prepared.run.axolotl_yaml.name]]
    if told := prepared.orders.get("cluster"):
        words = " ".join(f"{name}={value!r}" for name, value in told.items() if value)
        lines.append(f"# trains on several machines: {words}")
    for stage in prepared.orders["stages"]:
        how = f": left out, {stage['skip']}" if stage["skip"] else "" if stage["argvs"] else ": by ax-recipe itself"
        lines.append(f"# {stage['name']}{how}")
        if not stage["skip"]:
            lines += [shlex.join(argv) for argv in stage["argvs"]]
    if script := prepared.files.get(prepared.run.script.name):
        lines.append(script)
    environment = next(stage["environment"] for stage in prepared.orders["stages"] if stage["environment"])
    lines.append("# each with")
    lines += [f"#   {name}={shlex.quote(value)}" for name, value in environment.items()]
    return "\n".join(lines)
