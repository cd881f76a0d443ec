"""What this machine has for a run: one finding a line, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ax_recipe import __version__, axolotl
from ax_recipe.checks.accounts import has_hub_token, has_wandb_key
from ax_recipe.errors import MissingError
from ax_recipe.forecast import disk, hardware
from ax_recipe.forecast.disk import GIB, Need
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe.recipe import Recipe
from ax_recipe.run import preparing
from ax_recipe.ship import convert

ENOUGH_DISK_GIB = 60  # an 8B base, its adapter, its merge and its GGUF side by side


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``missing`` stops every run, ``absent`` only what needs it."""

    name: str
    state: Literal["ok", "absent", "missing"]
    detail: str


def examine(named_axolotl: str | None, runs: Path, recipe: str | None = None) -> list[Finding]:
    """Look at everything that a run may need; of ``recipe``, also its GPUs and the services that it logs to."""
    findings = [Finding("ax-recipe", "ok", f"{__version__}, python {platform.python_version()}")]
    findings += _axolotl(named_axolotl)
    wanted = recipes.load(recipe) if recipe else None
    findings.append(_gpus(wanted))
    findings += _disk(runs, _needs(wanted, runs) if wanted else [])
    return [*findings, *_accounts(), _ollama(), _llama_cpp(), *(_loggers(wanted) if wanted else ())]


def _gpus(recipe: Recipe | None) -> Finding:
    machine = hardware.here()
    if recipe:
        try:
            hardware.lend(None, machine, preparing.wanted_hardware(recipe))
        except MissingError as error:
            return Finding("GPUs", "missing", f"{error.message}; {error.hint}")
    none = "none: pirate-tiny and pirate-small train on the CPU"
    return Finding("GPUs", "ok" if machine.count else "absent", str(machine) if machine.count else none)


def _axolotl(named: str | None) -> Iterator[Finding]:
    try:
        found = axolotl.find(named)
        versions = found.versions()
    except MissingError as error:
        yield Finding("axolotl", "missing", f"{error.message}; {error.hint}")
        return
    beside = ", ".join(
        f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "peft") if name in versions
    )
    yield Finding("axolotl", "ok", f"{found.version} at {found.command} ({beside})")
    for name, use in (
        ("bitsandbytes", "QLoRA"),
        ("liger-kernel", "fused loss on GPUs"),
        ("flash-attn", "packing in bfloat16 on A100 and older"),
        ("deepspeed", "models larger than a GPU"),
    ):
        yield Finding(name, "ok" if name in versions else "absent", f"{versions.get(name, 'not installed')}: for {use}")


def _needs(recipe: Recipe, runs: Path) -> list[Need]:
    """What a run of the recipe, on what it is made for, would write to this machine's disks; empty if nobody knows."""
    return preparing.writes(preparing.for_run(recipe, preparing.wanted_hardware(recipe), None, runs))


def _disk(runs: Path, needs: Sequence[Need]) -> Iterator[Finding]:
    """The places that every run writes to, and of a recipe the others; where it is not known what it writes, a guess.

    A run is refused where its disks will not do, so that is ``missing``, too.
    """
    places = {"runs": runs, "cache": axolotl.cache_folder()}
    groups = {disk.file_system(group[0].place): group for group in disk.by_file_system(needs)}
    for name, folder in places.items():
        group = groups.pop(disk.file_system(folder), ())
        yield _room(name, folder, group, ENOUGH_DISK_GIB if not needs else 0)
    yield from (_room("disk", group[0].place, group, 0) for group in groups.values())


def _room(name: str, folder: Path, needs: Sequence[Need], usual_gib: float) -> Finding:
    existing = disk.nearest(folder)
    free_gib = shutil.disk_usage(existing).free / GIB
    writable = os.access(existing, os.W_OK)
    takes_gib = disk.total(needs) / GIB
    words = f"{folder}: {free_gib:.0f} GiB free" + ("" if writable else ", not writable")
    if needs:
        words += f"; a run of this recipe takes {takes_gib:.1f} of it"
    elif free_gib < usual_gib:
        words += f"; an 8B model with all that is made of it takes {usual_gib}"
    if not writable or takes_gib > free_gib:
        return Finding(name, "missing", words)
    return Finding(name, "absent" if free_gib < usual_gib else "ok", words)


def _accounts() -> Iterator[Finding]:
    token = has_hub_token()
    yield Finding(
        "hub token", "ok" if token else "absent", "there" if token else "none: only gated models need one (HF_TOKEN)"
    )


@dataclass(frozen=True, slots=True)
class _Logger:
    """A service that Axolotl can log to: the keys that switch it on, and whether, by all keys, a login is known."""

    name: str
    keys: tuple[str, ...]
    is_known: Callable[[Mapping[str, Any]], bool]
    login: str


def _knows_comet(_: Mapping[str, Any]) -> bool:
    return bool(os.environ.get("COMET_API_KEY")) or (Path.home() / ".comet.config").is_file()


_LOGGERS = (
    _Logger("wandb", ("use_wandb", "wandb_project", "wandb_name", "wandb_run_id"), lambda _: has_wandb_key(),
            "wandb login, or WANDB_API_KEY"),
    _Logger("mlflow", ("use_mlflow", "mlflow_experiment_name", "mlflow_tracking_uri"),
            lambda keys: bool(keys.get("mlflow_tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")),
            "mlflow_tracking_uri, or MLFLOW_TRACKING_URI; without it the runs stay in ./mlruns"),
    _Logger("comet", ("use_comet", "comet_project_name", "comet_workspace"), _knows_comet,
            "comet login, or COMET_API_KEY"),
    _Logger("trackio", ("trackio_space_id",), lambda _: has_hub_token(),
            "hf auth login, or HF_TOKEN: a Space is written to with the hub's account"),
)  # fmt: skip


def _loggers(recipe: Recipe) -> Iterator[Finding]:
    """The services that a recipe logs to, and whether an account is logged in to each; asks no network."""
    config = recipe.axolotl
    for logger in _LOGGERS:
        used = [key for key in logger.keys if config.get(key) not in (None, False, "")]
        if not used or (config.get("wandb_mode") in ("offline", "disabled") and logger.name == "wandb"):
            continue
        known = logger.is_known(config)
        words = "logged in" if known else f"{used[0]} is set, and no account is logged in: {logger.login}"
        yield Finding(logger.name, "ok" if known else "absent", words)


def _ollama() -> Finding:
    command = shutil.which("ollama")
    detail = command or "not on PATH: `run` ends with a Modelfile and the command to use it elsewhere"
    return Finding("ollama", "ok" if command else "absent", detail)


def _llama_cpp() -> Finding:
    need = "Ollama since 0.34.1 makes no GGUF and quantises none: its converter and llama-quantize do"
    try:
        script, tool = convert.find(), convert.program("llama-quantize")
    except MissingError as error:
        return Finding("llama.cpp", "absent", f"{error.message}; {error.hint}")
    if script is None:
        hint = f"git clone https://github.com/ggml-org/llama.cpp, and set {convert.VARIABLE} to it"
        return Finding("llama.cpp", "absent", f"no converter: {need}; {hint}")
    build = "llama-quantize is not built: cmake -B build, then cmake --build build --target llama-quantize"
    return Finding("llama.cpp", "ok", f"{script}, {tool or build}")
