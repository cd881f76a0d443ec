"""The stages of a run: what each starts, and why some are left out. Everything is fixed here, before the start."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ax_recipe import assets, process
from ax_recipe.axolotl import Axolotl, telemetry
from ax_recipe.forecast.cluster import Cluster
from ax_recipe.plan import plan as plans
from ax_recipe.plan import render
from ax_recipe.plan.plan import Plan
from ax_recipe.process import path_with
from ax_recipe.recipe.recipe import is_local
from ax_recipe.run.rundir import TITLES, RunDir

# A plugin's path as Axolotl imports it; our folder goes on the training environment's PYTHONPATH.
PLUGIN = "ax_recipe_events.EventsPlugin"
PLUGIN_FOLDER = "plugin"
# Variables that say how machines reach each other.
_NETWORK = ("NCCL_", "GLOO_", "UCX_", "FI_")


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run: the programs it starts in turn, or why it is left out.

    A stage without programs is work of our own (``check-merge``, ``export``, ``deploy``).
    """

    name: str
    argvs: tuple[tuple[str, ...], ...] = ()
    environment: Mapping[str, str] | None = None
    skip: str = ""

    @property
    def title(self) -> str:
        """What a person reads."""
        return TITLES[self.name]


def make(plan: Plan, run: RunDir, axolotl: Axolotl, cluster: Cluster | None = None) -> tuple[Stage, ...]:
    """All the stages of ``plan`` in ``run``, with the exact programs and what is added to their environment.

    Only training is spread over the machines of ``cluster``.
    """
    quiet = _environment(plan, axolotl)
    # One process on one GPU: given several, it spreads the model over them, which Axolotl's LoRA kernels do not bear.
    alone = quiet | {"CUDA_VISIBLE_DEVICES": _devices(min(1, plan.hardware.count))}
    training = quiet | {"AX_RECIPE_EVENTS": str(run.events), "AX_RECIPE_STOP": str(run.stop_file)}
    if cluster:
        training = _far_environment(plan, training)
    command, yaml = str(axolotl.command), str(run.axolotl_yaml)
    full = plan.recipe.method == "full"
    train = (command, "train", yaml, *_launcher(plan.hardware.count))
    if cluster:
        train = _far(cluster, run, axolotl) or train
    prepared_by_train = "" if plan.hardware.ranks > 1 else "one process prepares its own data when it trains"
    if plan.train.values.get("streaming"):
        prepared_by_train = "streamed data is tokenised as it is read"
    python = str(axolotl.python)
    return (
        _base_stage(plan, run, axolotl),
        Stage("preprocess", ((command, "preprocess", yaml),), quiet, prepared_by_train),
        Stage("train", (train,), training),
        _evaluate_stage(plan, run, command, alone),
        Stage(
            "merge",
            ((command, "merge-lora", yaml, "--lora-model-dir", str(run.output)),),
            alone,
            "a full fine-tune is whole already" if full else "",
        ),
        Stage("check-merge"),
        Stage("export"),
        Stage("deploy"),
        Stage(
            "chat",
            ((python, str(assets.probe("answer.py")), str(run.orders), "merged", str(run.answers)),),
            alone,
            "" if plan.recipe.checks else "the recipe has no checks",
        ),
    )


def _evaluate_stage(plan: Plan, run: RunDir, command: str, environment: Mapping[str, str]) -> Stage:
    file = run.alone_yaml if plans.alone(plan.train) else run.axolotl_yaml
    scored = (command, "evaluate", str(file), "--launcher", "python")
    # axolotl evaluate scores the untrained base unless it is told where the adapter is.
    argvs: tuple[tuple[str, ...], ...] = ((*scored, "--lora-model-dir", str(run.output)),)
    if plan.recipe.method == "full":  # no adapter to switch off: its base is loaded and scored first
        argvs = (scored, (*scored, "--base-model", str(run.output)))
    told = {
        "AX_RECIPE_HELD_OUT_ONLY": "1",
        "AX_RECIPE_LOSSES": str(run.losses),
        "AX_RECIPE_GENERAL": str(assets.general()),
    }
    return Stage("evaluate", argvs, {**environment, **told}, _unscored(plan))


def _unscored(plan: Plan) -> str:
    """Why the held-out rows are not scored after training; empty where they are."""
    keys = plan.train.values
    if keys.get("rl"):
        # Of DPO it would be ln 2, always: trl 1.9 copies an adapter that it loads as its own reference.
        return "of pairs of answers, training's own evaluations tell"
    evaluates = "test_datasets" in keys or bool(keys.get("val_set_size"))
    return "" if evaluates else "the recipe keeps no rows for it: set held_out or val_set_size"


def _base_stage(plan: Plan, run: RunDir, axolotl: Axolotl) -> Stage:
    if plan.base is None:
        return Stage("base", skip=f"{plan.recipe.base} comes pre-trained")
    build = (str(axolotl.python), str(assets.probe("tiny_base.py")), str(run.orders))
    train = (str(axolotl.command), "train", str(run.base_yaml), "--launcher", "python")
    # Its events are told from the fine-tuning's by their file.
    environment = _environment(plan, axolotl) | {"AX_RECIPE_EVENTS": str(run.base_events), "CUDA_VISIBLE_DEVICES": ""}
    return Stage("base", (build, train), environment)


def _launcher(gpus: int) -> tuple[str, ...]:
    # accelerate, Axolotl's default, starts 17 s later and leaves the trainer behind when it is signalled.
    if gpus > 1:
        return ("--launcher", "torchrun", "--", "--standalone", f"--nproc_per_node={gpus}")
    return ("--launcher", "python")


def _far(cluster: Cluster, run: RunDir, axolotl: Axolotl) -> tuple[str, ...]:
    """What the head starts to train on several machines; nothing where they are one."""
    if cluster.launcher == "ray":
        return (str(axolotl.python), str(assets.probe("ray_train.py")), str(run.path), str(run.axolotl_yaml))
    if cluster.nodes == 1:
        return ()
    node = (str(axolotl.python), str(assets.probe("node.py")), str(run.path))
    if cluster.launcher == "slurm":  # a task on each machine, with all of its processors
        return ("srun", f"--nodes={cluster.nodes}", "--ntasks-per-node=1", "--cpu-bind=none", *node, "--once")
    return (*node, "0", "--once")


def script(plan: Plan, run: RunDir, cluster: Cluster) -> str:
    """The job that Slurm is given: a readable file that starts the runner on its first machine."""
    words: dict[str, str | list[str] | None] = {
        "title": plan.recipe.name,
        "hardware": str(plan.hardware),
        "name": run.name,
        "nodes": str(cluster.nodes),
        "gpus": str(plan.hardware.count) if plan.hardware.count else None,
        "log": shlex.quote(str(run.runner_log).replace("%", "%%")),  # sbatch (22.05) unquotes it, and fills in %j
        "options": list(cluster.options),
        "path": shlex.quote(process.SOURCE),
        "runner": shlex.join([*process.RUNNER, str(run.path)]),
    }
    return render.script("job.sbatch.j2", words)


def _far_environment(plan: Plan, training: Mapping[str, str]) -> dict[str, str]:
    """The same for several machines: how their network is used is the head's to say, which GPUs is their own."""
    told = {name: value for name, value in os.environ.items() if name.startswith(_NETWORK)}
    if not plan.hardware.count:
        return {**training, **told, "ACCELERATE_USE_CPU": "true"}  # else torch (2.13) is asked for NCCL
    return {name: value for name, value in {**training, **told}.items() if name != "CUDA_VISIBLE_DEVICES"}


def _environment(plan: Plan, axolotl: Axolotl) -> dict[str, str]:
    folder = [str(axolotl.command.parent)] if axolotl.command.is_absolute() else []
    environment = {
        **telemetry(),
        "PYTHONUNBUFFERED": "1",
        # torchrun -m looks for modules in the folder it is started in, where a recipe may have brought a torch.py.
        "PYTHONSAFEPATH": "1",
        # axolotl starts torchrun by its bare name, which is its environment's only where that one is activated.
        "PATH": os.pathsep.join((*folder, os.environ.get("PATH", os.defpath))),
        "PYTHONPATH": path_with(str(assets.probe(PLUGIN_FOLDER))),
        "CUDA_VISIBLE_DEVICES": _devices(plan.hardware.count),
    }
    if not plan.hardware.count:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin while they wait cost tenfold on a busy machine
    if _needs_no_hub(plan) and not _fetches_a_kernel(plan, axolotl):
        environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return environment


def _devices(count: int) -> str:
    """The first ``count`` GPUs of those that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(count)] if visible is None else visible.split(",")
    return ",".join(names[:count])


def _needs_no_hub(plan: Plan) -> bool:
    folder = plan.recipe.file.resolve().parent
    rows = [*plan.recipe.data, *(plan.recipe.held_out or [])]
    base = plan.recipe.base
    return (not isinstance(base, str) or is_local(base, folder)) and all(
        is_local(str(row["path"]), folder) for row in rows
    )


def _fetches_a_kernel(plan: Plan, axolotl: Axolotl) -> bool:
    """Whether attention comes from the hub: by its own name, or in the place of a package that is not installed."""
    wanted = str(plan.train.values.get("attn_implementation") or "")
    return "/" in wanted or (wanted.startswith("flash_attention") and not axolotl.has("flash-attn"))


def orders(
    plan: Plan,
    run: RunDir,
    axolotl: Axolotl,
    base_dir: Path,
    stages: tuple[Stage, ...],
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """plan.json: what the runner and the probes follow, and what ``--dry-run`` shows."""
    recipe = plan.recipe
    scratch = None if isinstance(recipe.base, str) else recipe.base
    return {
        "recipe": recipe.name,
        "about": recipe.about,
        "recipe_file": str(recipe.file.absolute()),
        "changes": list(recipe.changes),
        "hardware": str(plan.hardware),
        "gpus": plan.hardware.count,
        "kind": asdict(plan.hardware.kind) if plan.hardware.kind else None,
        "ranks": plan.hardware.ranks,
        **({"cluster": {**asdict(cluster), **_network(plan)}} if cluster else {}),
        "axolotl": {"command": str(axolotl.command), "python": str(axolotl.python), "version": axolotl.version},
        "method": recipe.method,
        "base": str(base_dir) if scratch else plan.train.values["base_model"],
        "scratch": {"vocab_size": scratch.vocab_size, "model": dict(scratch.model)} if scratch else None,
        "chat_template": plan.train.values.get("chat_template"),
        "texts": [*plan.base.values["datasets"], *plan.train.values["datasets"]] if plan.base else [],
        "output": str(run.output),
        "model": str(run.output if recipe.method == "full" else run.output / "merged"),
        "targets": asdict(recipe.targets),
        "checks": _checks(plan),
        "ship": {
            "model": recipe.ship.model or recipe.name,
            "quantize": recipe.ship.quantize,
            "num_ctx": recipe.ship.num_ctx or recipe.train.sequence_len,
            "system": recipe.ship.system,
            "parameters": dict(recipe.ship.parameters or {}),
        },
        "stages": [
            {
                "name": stage.name,
                "argvs": [list(argv) for argv in stage.argvs],
                "environment": dict(stage.environment or {}),
                "skip": stage.skip,
            }
            for stage in stages
        ],
    }


def _network(plan: Plan) -> dict[str, Any]:
    return {"gbit": plan.hardware.gbit, "gbit_from": plan.hardware.gbit_from}


def _checks(plan: Plan) -> dict[str, Any] | None:
    checks = plan.recipe.checks
    if checks is None:
        return None
    prompts, expects = zip(*checks.questions, strict=True)
    return {"prompts": list(prompts), "expects": list(expects), "at_least": checks.enough}
