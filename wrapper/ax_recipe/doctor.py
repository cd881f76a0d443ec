"""What this machine has for a run: one finding a line, each with what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ax_recipe import __version__, axolotl, hardware
from ax_recipe.errors import MissingError

ENOUGH_DISK_GIB = 60  # an 8B base, its adapter, its merge and its GGUF side by side


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``missing`` stops every run, ``absent`` only what needs it."""

    name: str
    state: Literal["ok", "absent", "missing"]
    detail: str


def examine(named_axolotl: str | None, runs: Path) -> list[Finding]:
    """Look at everything that a run may need."""
    findings = [Finding("ax-recipe", "ok", f"{__version__}, python {platform.python_version()}")]
    findings += _axolotl(named_axolotl)
    machine = hardware.here()
    none = "none: pirate-tiny and pirate-small train on the CPU"
    findings.append(Finding("GPUs", "ok" if machine.count else "absent", str(machine) if machine.count else none))
    return [*findings, *_disk(runs), *_accounts(), _ollama()]


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


def _disk(runs: Path) -> Iterator[Finding]:
    for name, folder in (("runs", runs), ("cache", axolotl.cache_folder())):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free_gib = shutil.disk_usage(existing).free / 2**30
        writable = os.access(existing, os.W_OK)
        words = f"{folder}: {free_gib:.0f} GiB free" + ("" if writable else ", not writable")
        state: Literal["ok", "absent", "missing"] = "missing" if not writable else "ok"
        yield Finding(name, "absent" if writable and free_gib < ENOUGH_DISK_GIB else state, words)


def _accounts() -> Iterator[Finding]:
    token = os.environ.get("HF_TOKEN") or (Path.home() / ".cache/huggingface/token").is_file()
    yield Finding(
        "hub token", "ok" if token else "absent", "there" if token else "none: only gated models need one (HF_TOKEN)"
    )


def _ollama() -> Finding:
    command = shutil.which("ollama")
    detail = command or "not on PATH: `run` ends with a Modelfile and the command to use it elsewhere"
    return Finding("ollama", "ok" if command else "absent", detail)
