"""Make GGUFs with llama.cpp's own programs, where they are at hand: its converters, and its llama-quantize.

``axolotl export`` (0.20 and later) runs the same converter under the same python and wants the same LLAMA_CPP_DIR, so
it is not asked.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ax_recipe import process
from ax_recipe.axolotl import QUIET
from ax_recipe.errors import MissingError, RunFailedError
from ax_recipe.ship import weights

SCRIPT = "convert_hf_to_gguf.py"
LORA_SCRIPT = "convert_lora_to_gguf.py"
VARIABLE = "LLAMA_CPP_DIR"
_QUIET = {**QUIET, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
_BUILT = (".", "bin", "build/bin")
"""Where a checkout of llama.cpp has its programs."""


@dataclass(frozen=True, slots=True)
class Converter:
    """llama.cpp's convert_hf_to_gguf.py, and a python that has torch and transformers."""

    script: Path
    python: Path


def find(named: Path | None = None) -> Path | None:
    """The converter's script: in ``named`` (``--llama-cpp``), in LLAMA_CPP_DIR, else on PATH, else None.

    :raises MissingError: a folder is named, and it is not in there.
    """
    told = os.environ.get(VARIABLE)
    source = "--llama-cpp" if named else VARIABLE
    folder = named or (Path(told).expanduser() if told else None)
    if folder is not None:
        script = folder if folder.name == SCRIPT else folder / SCRIPT
        if not script.is_file():
            raise MissingError(f"{source} {folder}: no {SCRIPT} there", "name a checkout of llama.cpp")
        return script
    places = (Path(place) / SCRIPT for place in os.get_exec_path())
    return next((path for path in places if path.is_file()), None)


def program(name: str) -> Path | None:
    """A built program of llama.cpp (``llama-quantize``): in LLAMA_CPP_DIR, else on PATH, else None."""
    told = os.environ.get(VARIABLE)
    folders = [str(Path(told).expanduser() / place) for place in _BUILT] if told else []
    found = shutil.which(name, path=os.pathsep.join([*folders, *os.get_exec_path()]))
    return Path(found) if found else None


def convert(staged: Path, target: Path, converter: Converter) -> Path:
    """Write the GGUF of ``staged`` to ``target`` in the precision of its weights, F16 for those of 32 bits.

    :raises RunFailedError: the converter does not take this model; the message ends with its last line.
    """
    kinds = {tensor.dtype for tensor in weights.of_folder(staged).values() if len(tensor.shape) > 1}
    outtype = "bf16" if kinds == {"BF16"} else "f16"
    part = _part(target)
    argv = (converter.python, converter.script, staged, "--outfile", part, "--outtype", outtype)
    return _made(target, part, SCRIPT, argv)


def convert_lora(adapter: Path, base: Path, target: Path, converter: Converter) -> Path:
    """Write the GGUF of a PEFT adapter, in 32 bits; of ``base`` only the config is read.

    :raises MissingError: there is no converter of adapters beside the one of models.
    :raises RunFailedError: it does not take this adapter.
    """
    script = converter.script.with_name(LORA_SCRIPT)
    if not script.is_file():
        raise MissingError(f"no {LORA_SCRIPT} beside {converter.script}", "name a checkout of llama.cpp")
    part = _part(target)
    argv = (converter.python, script, adapter, "--base", base, "--outfile", part, "--outtype", "f32")
    return _made(target, part, LORA_SCRIPT, argv)


def quantise(source: Path, target: Path, kind: str, tool: Path) -> Path:
    """Have llama-quantize make ``kind`` (``Q5_K_M``) of a GGUF of 16 or 32 bits.

    :raises RunFailedError: it does not know it, or needs an importance matrix for it.
    """
    part = _part(target)
    return _made(target, part, tool.name, (tool, source, part, kind))


def _cause(log: str) -> str:
    """Why a program failed: the last line; llama-quantize (0.5 to 0.7) says it in the line before."""
    told = re.search(r"failed to quantize: (.+)", log)
    if told and "iostream error" in told[1]:
        return "its file could not be written: is the disk full?"
    return told[1] if told else (log.strip().splitlines() or ["no output"])[-1]


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _made(target: Path, part: Path, name: str, argv: Sequence[str | Path]) -> Path:
    """Run the program that writes ``part``, and put that in the place of ``target`` when it is whole."""
    log = target.with_suffix(".log")
    log.unlink(missing_ok=True)
    child = process.start([str(word) for word in argv], _QUIET, log)
    try:
        while (code := child.wait(60.0)) is None:
            continue
    finally:
        if child.exit_code() is None:
            child.stop()
    if code or not part.is_file():
        part.unlink(missing_ok=True)
        raise RunFailedError(
            f"{name} ended with {code}: {_cause(log.read_text(encoding='utf-8', errors='replace'))}", f"its log: {log}"
        )
    part.replace(target)
    log.unlink()
    return target
