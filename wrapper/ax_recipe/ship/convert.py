"""Make a GGUF of a staged model with llama.cpp's own converter, where one is at hand.

``axolotl export`` (0.20 and later) runs the same program under the same python and wants the same LLAMA_CPP_DIR, so
it is not asked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ax_recipe import process
from ax_recipe.axolotl import QUIET
from ax_recipe.errors import MissingError, RunFailedError
from ax_recipe.ship import weights

SCRIPT = "convert_hf_to_gguf.py"
VARIABLE = "LLAMA_CPP_DIR"
_QUIET = {**QUIET, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


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


def convert(staged: Path, target: Path, converter: Converter) -> Path:
    """Write the GGUF of ``staged`` to ``target`` in the precision of its weights, F16 for those of 32 bits.

    :raises RunFailedError: the converter does not take this model; the message ends with its last line.
    """
    kinds = {tensor.dtype for tensor in weights.of_folder(staged).values() if len(tensor.shape) > 1}
    outtype = "bf16" if kinds == {"BF16"} else "f16"
    part, log = target.with_name(f".{target.name}.part"), target.with_suffix(".log")
    argv = [converter.python, converter.script, staged, "--outfile", part, "--outtype", outtype]
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
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise RunFailedError(f"{SCRIPT} ended with {code}: {(lines or ['no output'])[-1]}", f"its log: {log}")
    part.replace(target)
    log.unlink()
    return target
