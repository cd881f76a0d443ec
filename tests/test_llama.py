"""llama.cpp's server is found, started for one GGUF, asked, and ended; what goes wrong with it is told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import psutil
import pytest

from ax_recipe.errors import MissingError, RunFailedError
from ax_recipe.ship import convert, llama
from ax_recipe.ship.llama import Engine
from conftest import ROOT

QUESTION = [{"role": "user", "content": "Who goes there?"}]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of llama.cpp with a built server."""
    program = (ROOT / "tests/bin/llama-server").read_text(encoding="utf-8").split("\n", 1)[1]
    path = tmp_path / "llama.cpp/build/bin/llama-server"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!{sys.executable}\n{program}", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv(convert.VARIABLE, str(tmp_path / "llama.cpp"))
    return path


def gguf(folder: Path, how: str = "well") -> Path:
    path = folder / "model.gguf"
    path.write_text(f"GGUF:{how}", encoding="utf-8")
    return path


def test_a_built_server_is_preferred_and_asked(server: Path, tmp_path: Path) -> None:
    engine = llama.find()
    assert engine == Engine("llama-server", server)
    with llama.serve(engine, gguf(tmp_path), 256) as served:
        reply = served.chat(QUESTION, 16)
        assert served.memory() > 1 << 20
        child = served.child
    assert (reply.text, reply.ended, reply.prompt_tokens, reply.answer_tokens) == ("Arr.", "stop", 7, 3)
    assert 0 < reply.first_s <= reply.all_s
    assert not psutil.pid_exists(child.pid)


def test_an_adapter_goes_with_it(server: Path, tmp_path: Path) -> None:
    with llama.serve(llama.find(), gguf(tmp_path), 256, tmp_path / "adapter.gguf") as served:
        assert served.chat(QUESTION, 16).text == "Arr. With adapter."


def test_a_model_that_cannot_be_loaded_is_told(server: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(RunFailedError, match="ended with 1: error: failed to load"),
        llama.serve(llama.find(), gguf(tmp_path, "unloadable"), 256),
    ):
        pass


def test_the_first_error_is_the_cause(server: Path, tmp_path: Path) -> None:
    """So llama-server 0.7.0 of Debian ends where its libraries are not where it looks."""
    server.write_text(
        "#!/bin/sh\n"
        "echo '0.00.011.861 I srv    load_model: loading model'\n"
        "echo '0.00.011.934 E llama_model_load_from_file_impl: no backends are loaded.'\n"
        "echo '0.00.012.618 E srv  llama_server: exiting due to model loading error'\n"
        "exit 1\n",
        encoding="utf-8",
    )
    with (
        pytest.raises(RunFailedError, match=r"ended with 1: llama_model_load\w+: no backends are loaded\.$"),
        llama.serve(llama.find(), gguf(tmp_path), 256),
    ):
        pass


@pytest.mark.parametrize(("how", "said"), [("breaking", "broke off after 'Arr.'"), ("refusing", "answers 500")])
def test_an_answer_that_is_none_is_told(server: Path, tmp_path: Path, how: str, said: str) -> None:
    with llama.serve(llama.find(), gguf(tmp_path, how), 256) as served, pytest.raises(RunFailedError, match=said):
        served.chat(QUESTION, 16)


def test_without_any_engine_it_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(convert.VARIABLE, raising=False)
    if importlib.util.find_spec("xllamacpp"):
        assert llama.find() == Engine("xllamacpp")
    else:
        with pytest.raises(MissingError, match=r"no llama\.cpp engine"):
            llama.find()


@pytest.mark.slow
def test_the_real_server_says_what_it_cannot_load(tmp_path: Path) -> None:
    program = convert.program("llama-server")
    if program is None:
        pytest.skip("no llama-server on PATH or in LLAMA_CPP_DIR")
    with (
        pytest.raises(RunFailedError, match=r"llama\.cpp ended with 1: .*(gguf|GGUF)"),
        llama.serve(Engine("llama-server", program), gguf(tmp_path), 256),
    ):
        pass


@pytest.mark.slow
def test_the_packaged_engine_says_what_it_cannot_load(tmp_path: Path) -> None:
    if not importlib.util.find_spec("xllamacpp"):
        pytest.skip("no llama.cpp engine here: pip install xllamacpp")
    with (
        pytest.raises(RunFailedError, match=r"llama\.cpp ended with"),
        llama.serve(Engine("xllamacpp"), gguf(tmp_path), 256),
    ):
        pass
