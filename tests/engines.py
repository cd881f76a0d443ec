"""One model asked in two engines: as trained in transformers, and as shipped in llama.cpp, which Ollama runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.ship import convert
from ax_recipe.ship.convert import Converter
from ax_recipe.ship.export import Export, Wishes, export
from ax_recipe.ship.gotemplate import Message

_PROGRAMS = Path(__file__).parent / "engine"


@dataclass(frozen=True)
class Asked:
    """An export with a GGUF, and what both engines said to the same conversations."""

    export: Export
    trained: list[dict[str, Any]]
    shipped: list[dict[str, Any]]


def converter_with(python: Path) -> Converter:
    """llama.cpp's converter, told how pirate-tiny splits text; skips the test where something for it is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("no llama.cpp engine here: pip install xllamacpp")
    place = Path(os.environ.setdefault("LLAMA_CPP_DIR", str(Path(sys.prefix) / "llama.cpp")))
    if not (place / convert.SCRIPT).is_file():
        pytest.skip(f"no converter in {place}: `make test` puts one there, or set LLAMA_CPP_DIR")
    return Converter(_PROGRAMS / convert.SCRIPT, python)


def ask_both(model: Path, place: Path, python: Path, conversations: Sequence[Sequence[Message]]) -> Asked:
    """Export ``model`` with llama.cpp's converter and ask both; skips the test where something for it is missing."""
    converter = converter_with(python)
    made = export(model, place / "out", Wishes(converter=converter))
    assert made.source.suffix == ".gguf", made.checks
    questions = place / "questions.json"
    questions.write_text(json.dumps([list(each) for each in conversations]), encoding="utf-8")
    trained = _asked(python, "transformers_.py", model, questions)
    return Asked(made, trained, _asked(Path(sys.executable), "llama.py", made.source, questions))


def _asked(python: Path, program: str, *arguments: Path) -> list[dict[str, Any]]:
    argv = [str(python), str(_PROGRAMS / program), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return rows
