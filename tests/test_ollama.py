"""A model gets into Ollama, and every way in which it may not is told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.ollama import Creation, Ollama, Progress, address, files_of, model_name
from fake_ollama import Server, serve
from ship_folders import CHAT, write_model, write_tokenizer

ASK = [{"role": "user", "content": "Explain gravity"}]


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        yield state


def creation(folder: Path, **more: object) -> Creation:
    """A model of our own, exported to be created."""
    write_model(folder / "model")
    write_tokenizer(folder / "model", chat=CHAT)
    result = export(folder / "model", folder / "export", Wishes(system="Say 👨\u200d👩\u200d👧.", num_ctx=2048))
    return Creation("pirate", files_of(result.source), result.value.request(), **more)  # type: ignore[arg-type]


def test_a_model_is_created_and_proven(server: Server, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with Ollama(server.url) as ollama:
        assert ollama.require() == "0.33.0"
        assert not ollama.has("pirate")
        ollama.create(creation(tmp_path, quantize="q4_k"), seen.append)
        assert ollama.has("pirate")
        assert ollama.rendered("pirate", ASK) == (
            "<|system|>Say 👨\u200d👩\u200d👧.<|end|><|user|>Explain gravity<|end|><|assistant|>"
        )
        reply = ollama.chat("pirate", ASK)
        assert (reply.text, reply.ended, reply.answer_tokens) == ("Arr.", "stop", 2)
        told = [line.split(maxsplit=1) for line in ollama.show("pirate")["parameters"].splitlines()]
        assert told == [["num_ctx", "2048"], ["stop", '"<|end|>"'], ["stop", '"</s>"']]
        assert ollama.memory("pirate") == 5 << 20
        ollama.unload("pirate")
        assert ollama.memory("pirate") is None
        ollama.delete("pirate")
        assert not ollama.has("pirate")
    assert Progress("quantizing F16 model to Q4_K_M", 5, 10) in seen
    size = (tmp_path / "model/model.safetensors").stat().st_size
    assert Progress("sending model.safetensors", size, size) in seen
    assert seen[-1] == Progress("success")


def test_what_the_server_has_is_not_sent_again(server: Server, tmp_path: Path) -> None:
    with Ollama(server.url) as ollama:
        ollama.create(creation(tmp_path))
        sent = sum(path.startswith("/api/blobs") for method, path in server.asked if method == "POST")
        assert sent == len(server.blobs) >= 4
        server.asked.clear()
        ollama.create(Creation("again", files_of(tmp_path / "export/model")))
    assert not any(path.startswith("/api/blobs") for method, path in server.asked if method == "POST")


def test_a_file_of_several_chunks_arrives_whole(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(b"GGUF" * 700_000)
    seen: list[Progress] = []
    with Ollama(server.url) as ollama:
        digest = ollama.send_file(path, seen.append)
    assert server.blobs[digest] == path.read_bytes()
    assert [progress.done for progress in seen if progress.what == "sending big.gguf"] == [1 << 20, 1 << 21, 2_800_000]


@pytest.mark.parametrize(
    ("failure", "error", "said"),
    [
        ("late error", RunFailedError, "unsupported architecture"),
        ("no success", RunFailedError, "without success"),
        ("dies", MissingError, "broke"),
        ("dies on blob", MissingError, "try again"),
    ],
)
def test_a_creation_that_fails_says_how(
    server: Server, tmp_path: Path, failure: str, error: type[Exception], said: str
) -> None:
    server.failure = failure
    with Ollama(server.url, delays_s=()) as ollama, pytest.raises(error, match=said):
        ollama.create(creation(tmp_path))


def test_after_a_break_the_next_try_goes_on(server: Server, tmp_path: Path) -> None:
    wanted = creation(tmp_path)
    with Ollama(server.url, delays_s=()) as ollama:
        server.failure = "dies"
        with pytest.raises(MissingError):
            ollama.create(wanted)
        server.failure = ""
        server.asked.clear()
        ollama.create(wanted)
        assert ollama.has("pirate:latest")
    assert ("POST", "/api/create") in server.asked
    assert not any(method == "POST" and "blobs" in path for method, path in server.asked)


def test_an_answer_that_breaks_off_is_told(server: Server, tmp_path: Path) -> None:
    with Ollama(server.url) as ollama:
        ollama.create(creation(tmp_path))
        server.failure = "no success"
        with pytest.raises(RunFailedError, match="broke off"):
            ollama.chat("pirate", ASK)


def test_a_bad_template_is_refused_by_the_server(server: Server, tmp_path: Path) -> None:
    bad = Creation("bad", files_of(creation(tmp_path).files["config.json"]), {"template": "{{ .System "})
    with Ollama(server.url) as ollama, pytest.raises(RunFailedError, match="template error"):
        ollama.create(bad)


def test_no_server_is_told_with_what_to_do() -> None:
    with Ollama("127.0.0.1:9") as ollama, pytest.raises(MissingError) as caught:
        ollama.version()
    assert "no Ollama at http://127.0.0.1:9" in str(caught.value)
    assert "ollama serve" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "fits"), [("0.29.9", False), ("0.30.0", True), ("0.33.0-rc2", True), ("0.0.0", True)]
)
def test_a_server_too_old_is_refused(version: str, fits: bool) -> None:
    with serve(version=version) as server, Ollama(server.url) as ollama:
        if fits:
            assert ollama.require() == version
        else:
            with pytest.raises(MissingError, match="older than"):
                ollama.require()


def test_a_missing_model_is_told(server: Server) -> None:
    with Ollama(server.url) as ollama, pytest.raises(RunFailedError, match="404: model 'none' not found"):
        ollama.chat("none", ASK)


@pytest.mark.parametrize(
    ("name", "fits"), [("pirate", True), ("me/pirate:1b-q4", True), ("a b", False), ("-x", False), ("x" * 81, False)]
)
def test_model_names_are_ollamas(name: str, fits: bool) -> None:
    if fits:
        assert model_name(name) == name
    else:
        with pytest.raises(RecipeError, match="no name"):
            model_name(name)


def test_a_quantisation_it_cannot_make_is_refused(server: Server, tmp_path: Path) -> None:
    with Ollama(server.url) as ollama, pytest.raises(RecipeError, match="Q5_K_M"):
        ollama.create(creation(tmp_path, quantize="Q5_K_M"))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:1234", "http://box:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),  # noqa: S104 - what a server may have been told
        ("https://box", "https://box:443"),
        ("https://box/ollama/", "https://box:443/ollama"),
        ("[::1]:99", "http://[::1]:99"),
        ('"box"', "http://box:11434"),
    ],
)
def test_the_address_is_completed_as_ollama_does(monkeypatch: pytest.MonkeyPatch, given: str | None, url: str) -> None:
    assert address(given) == url
    monkeypatch.setenv("OLLAMA_HOST", given or "")
    assert address() == url
