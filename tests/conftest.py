"""What the tests share: the command, a place of their own, and the Axolotl that is installed beside them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner, Result
from hypothesis import settings

import go_checker
from ax_recipe.cli import main
from ax_recipe.run import belonging, rundir

ROOT = Path(__file__).resolve().parents[1]
Invoke = Callable[..., Result]


class Started(subprocess.Popen[bytes]):
    """A program in the background of a test; whatever is left of it is gone at the end, however the test ends."""

    def __exit__(self, *_: object) -> None:
        self.kill()
        super().__exit__(None, None, None)


# How long an example takes says something about the machine, not about the code. New examples are looked for where
# somebody can look at them: in CI a change is judged by the same ones as the change before.
settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
# Of `make quick`: a fifth of the examples, on the way to the whole of `make test`.
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=20)
settings.load_profile("untimed")

# A shell without job control starts what it puts into the background deaf to both, and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs, caches and accounts of the person who tests are neither read nor touched, and no run outlives its test."""
    monkeypatch.setenv("AX_RECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AX_RECIPE_RUNS", str(tmp_path / "runs"))
    for name in ("AX_RECIPE_AXOLOTL", "AX_RECIPE_MIRROR", "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    yield
    for run in rundir.every(rundir.root()):
        if run.holder() is not None:  # the test failed half-way: its trainer would train for ever
            belonging.sweep(run, 0.0)


@pytest.fixture
def invoke() -> Invoke:
    """Run the command in this process: ``invoke("render", "pirate")``."""

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(main, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as a program of its own, as a person does."""

    def run(
        *arguments: str, cwd: Path | None = None, stdout: int | IO[str] = subprocess.PIPE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, *(["-P"] if cwd else []), "-m", "ax_recipe", *arguments]
        path = os.pathsep.join(filter(None, (str(ROOT / "wrapper"), os.environ.get("PYTHONPATH"))))
        variables = {**os.environ, "PYTHONPATH": path, **environment}
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True, env=variables,
            check=False, cwd=cwd,
        )  # fmt: skip

    return run


@pytest.fixture
def no_axolotl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Axolotl, for what is called in this process: its own validation takes seconds."""
    monkeypatch.delenv("AX_RECIPE_AXOLOTL", raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")


@pytest.fixture
def fake_axolotl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose axolotl is tests/bin/axolotl, named by AX_RECIPE_AXOLOTL."""
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "lib/python3.11/site-packages/axolotl-0.19.0.dist-info").mkdir(parents=True)
    program = (ROOT / "tests/bin/axolotl").read_text(encoding="utf-8").split("\n", 1)[1]
    (environment / "bin/axolotl").write_text(f"#!{sys.executable}\n{program}", encoding="utf-8")
    (environment / "bin/axolotl").chmod(0o755)
    # Its Axolotl takes every config.
    valid = """case "$1" in */validate.py) echo '{"errors": [], "warnings": []}'; exit;; esac"""
    (environment / "bin/python").write_text(f'#!/bin/sh\n{valid}\nexec {sys.executable} "$@"\n', encoding="utf-8")
    (environment / "bin/python").chmod(0o755)
    monkeypatch.setenv("AX_RECIPE_AXOLOTL", str(environment))
    return environment


@pytest.fixture(scope="session")
def go_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our checker of Go templates, compiled once; skips where there is no Go."""
    return go_checker.build(tmp_path_factory.mktemp("go"))


@pytest.fixture
def small_recipe(tmp_path: Path) -> Path:
    """A recipe of a few local rows over a local base, for the CPU."""
    (tmp_path / "base").mkdir()
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"model_type": "llama", "vocab_size": 300, **shape}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    row = '{"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Arr."}]}\n'
    (tmp_path / "rows.jsonl").write_text(row * 8, encoding="utf-8")
    data = "[{path: rows.jsonl, type: chat_template}]"
    path = tmp_path / "small.yaml"
    path.write_text(f"base: ./base\ngpus: 0\ndata: {data}\nheld_out: {data}\n", encoding="utf-8")
    return path


def installed_axolotl() -> Path | None:
    """The real Axolotl of this environment, or the one on PATH."""
    beside = Path(sys.executable).with_name("axolotl")
    found = str(beside) if beside.is_file() else shutil.which("axolotl")
    return Path(found) if found else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs real Axolotl where there is none, and say so."""
    if installed_axolotl():
        return
    for item in items:
        if "axolotl" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no axolotl here: pip install -e '.[axolotl]'"))
