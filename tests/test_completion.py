"""TAB in bash, zsh and fish: real shells, with the script that ``ax-recipe completion`` prints."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ax_recipe.cli import main
from ax_recipe.codes import CODES
from ax_recipe.explain.topics import TOPICS
from ax_recipe.recipe import recipe
from ax_recipe.run.rundir import RunDir, RunState
from conftest import ROOT, Invoke


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an ``ax-recipe`` on PATH, a run, and a recipe of one's own."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ax-recipe"
    # As pip writes a command: its name in argv[0], which click's completion goes by.
    program.write_text(f"#!{sys.executable}\nfrom ax_recipe.__main__ import main\n\nmain()\n", encoding="utf-8")
    program.chmod(0o755)
    run = RunDir(tmp_path / "runs" / "pirate-tiny-20261122-101500")
    run.path.mkdir(parents=True)
    run.state.write_text(RunState("pirate-tiny", ()).to_json(), encoding="utf-8")
    (tmp_path / "own.yaml").write_text("base: x/y\n", encoding="utf-8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "wrapper"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(words: str) -> list[str]:
    """What the command answers when bash asks, the word to complete being the last."""
    environment = {
        "_AX_RECIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"ax-recipe {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    answer = CliRunner().invoke(main, env=environment, prog_name="ax-recipe", catch_exceptions=False)
    return [line.partition(",")[2] for line in answer.stdout.splitlines()]


def test_recipes_runs_stages_topics_codes_and_verbs(shell: Path) -> None:
    names = [path.stem for path in recipe.bundled()]
    assert offered("run pirate") == [name for name in names if name.startswith("pirate")]
    assert offered("render ow") == ["own.yaml"]
    assert offered("watch ") == ["pirate-tiny-20261122-101500"]
    assert offered("explain loss pirate-tiny-") == ["pirate-tiny-20261122-101500"]
    assert offered("run pirate --until me") == ["merge"]
    assert offered("explain k") == ["kv-cache"]
    assert offered("explain AX01") == [code for code in CODES if code.startswith("AX01")]
    assert offered("new --from pirate-t") == ["pirate-tiny"]
    assert offered("runs --recipe pirate-t") == ["pirate-tiny"]
    assert offered("repl") == ["replay"]
    assert set(offered("explain ")) == {*TOPICS, *CODES}


def test_runs_of_another_folder(shell: Path) -> None:
    elsewhere = RunDir(shell / "other" / "mine-20261122-120000")
    elsewhere.path.mkdir(parents=True)
    elsewhere.state.write_text(RunState("mine", ()).to_json(), encoding="utf-8")
    assert offered(f"status --runs {shell / 'other'} ") == ["mine-20261122-120000"]


def test_completing_is_quick_and_imports_little(shell: Path) -> None:
    environment = {
        **os.environ,
        "_AX_RECIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": "ax-recipe run p",
        "COMP_CWORD": "2",
    }
    code = (
        "import sys; sys.argv = ['ax-recipe']\nfrom ax_recipe.cli import main\n"
        "try: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    modules = set(told.stderr.split())
    assert "ax_recipe.cli.completion" in modules
    assert not modules & {"rich", "httpx", "jinja2", "ax_recipe.plan.plan", "ax_recipe.recipe.recipe", "yaml", "psutil"}


def needs(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"no {name} here")
    return found


def ran(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout


def test_bash_completes(shell: Path) -> None:
    script = (
        'eval "$(ax-recipe completion bash)"\n'
        "COMP_WORDS=(ax-recipe run pirate-t); COMP_CWORD=2\n"
        "spec=$(complete -p ax-recipe); function=${spec#*-F }; function=${function%% *}\n"
        '$function ax-recipe pirate-t run\nprintf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert ran(needs("bash"), "--norc", "-c", script).split() == ["pirate-tiny"]


def test_fish_completes(shell: Path) -> None:
    script = 'ax-recipe completion fish | source; complete --do-complete "ax-recipe run pirate-t"'
    assert ran(needs("fish"), "--no-config", "-c", script).split() == ["pirate-tiny"]


def test_zsh_completes(shell: Path) -> None:
    """A zsh inside a terminal of zsh's own (zpty), where TAB is really pressed."""
    zsh = needs("zsh")
    inner = "PS1='> '; autoload -Uz compinit; compinit -u -D; eval \"$(ax-recipe completion zsh)\"; "
    script = f"""
zmodload zsh/zpty
zpty inner {zsh} -f -i
zpty -w inner {_quoted(inner + "echo re'ady'")}
zpty -r -m inner seen '*ready*'
zpty -n -w inner $'ax-recipe watch pirate-tiny-2\\t'
zpty -r -m inner seen '*-101500*' && print -r -- "$seen"
"""
    answer = subprocess.run([zsh, "-f", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "pirate-tiny-20261122-101500" in answer.stdout, answer


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def test_the_script_says_where_it_goes(invoke: Invoke) -> None:
    for name, place in (("bash", "~/.bashrc"), ("zsh", "~/.zshrc"), ("fish", "~/.config/fish")):
        first = invoke("completion", name).stdout.splitlines()[0]
        assert first.startswith("# ")
        assert place in first
    assert invoke("completion", "tcsh").exit_code == 2
