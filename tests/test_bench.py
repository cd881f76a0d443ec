"""A model is timed in each of its forms, and the table says which is which."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ax_recipe.ship import bench, llama
from ax_recipe.ship.bench import Form, Order, Result, Row
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.exported import Exported, read
from ax_recipe.ship.ollama import Ollama
from ax_recipe.view.bench import picture
from conftest import ROOT
from fake_ollama import serve
from ship_folders import CHAT, gguf_keys, write_gguf, write_model, write_tokenizer

ORDER = Order(("Who goes there?", "Why?"), rounds=2)


def exported(folder: Path, gguf: Path | None = None) -> Exported:
    write_model(folder / "model")
    write_tokenizer(folder / "model", chat=CHAT)
    export(folder / "model", folder / "out", Wishes(system="Arr.", gguf=gguf))
    return read(folder / "out")


def test_each_quantisation_is_asked_and_taken_away_again(tmp_path: Path) -> None:
    with serve() as server, Ollama(server.url) as ollama:
        results = list(bench.in_ollama(ORDER, ollama, exported(tmp_path), "pirate:v1", lambda _: None))
        assert server.models == {}
        made = server.asked.count(("POST", "/api/create"))
    assert [result.form for result in results] == ["as trained", "Q8_0", "Q4_K_M"]
    assert made == 3
    for result in results:
        assert [row.answer for row in result.rows] == ["Arr."] * 4  # two questions in two rounds; the first warms up
        assert result.memory == 5 << 20
        assert all(0 < row.first <= row.seconds for row in result.rows)


def test_a_form_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    with serve(failure="crash") as server, Ollama(server.url) as ollama:
        results = list(bench.in_ollama(ORDER, ollama, exported(tmp_path), "pirate", lambda _: None))
        assert server.models == {}
    assert len(results) == 3
    assert all("runner process has terminated" in result.problem for result in results)


QUANTIZE = '#!/bin/sh\n/bin/cp "$1" "$2"\n'


def test_llama_cpp_is_asked_in_each_form_that_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "ready.gguf", gguf_keys())
    merge = exported(tmp_path, gguf=tmp_path / "ready.gguf")
    adapter = replace(merge, adapter=tmp_path / "adapter.gguf")
    programs = {"llama-server": (ROOT / "tests/bin/llama-server").read_text()}
    programs["llama-server"] = programs["llama-server"].replace("/usr/bin/env python3", sys.executable)
    for name, text in {**programs, "llama-quantize": QUANTIZE}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    forms = bench.forms([merge, adapter, replace(merge, source=merge.tokenizer)], tmp_path, lambda _: None)
    results = list(bench.in_llama_cpp(ORDER, llama.find(), forms))
    assert [result.form for result in results] == ["as trained", "Q8_0", "Q4_K_M", "adapter"]
    assert [result.rows[0].answer for result in results] == ["Arr."] * 3 + ["Arr. With adapter."]
    assert all(len(result.rows) == 4 and result.memory for result in results)


def test_an_ollama_that_quantises_nothing_gets_each_form_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "ready.gguf", gguf_keys())
    folder = exported(tmp_path, gguf=tmp_path / "ready.gguf")
    (tmp_path / "llama-quantize").write_text(QUANTIZE)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")  # where a real one may be
    with serve(version="0.40.2") as server, Ollama(server.url) as ollama:
        lacking = list(bench.in_ollama(ORDER, ollama, folder, "pirate", lambda _: None))
        (tmp_path / "llama-quantize").chmod(0o755)
        whole = list(bench.in_ollama(ORDER, ollama, folder, "pirate", lambda _: None))
        assert server.models == {}
    assert [bool(result.rows) for result in lacking] == [True, False, False]
    assert "there is no llama-quantize here" in lacking[-1].problem
    assert [(result.form, len(result.rows)) for result in whole] == [("as trained", 4), ("Q8_0", 4), ("Q4_K_M", 4)]


def test_a_gguf_that_does_not_load_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama-server").write_text("#!/bin/sh\necho no room\nexit 3\n")
    (tmp_path / "llama-server").chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    (result,) = bench.in_llama_cpp(ORDER, llama.find(), [Form("Q8_0", tmp_path / "model.gguf")])
    assert result.problem == "llama.cpp ended with 3: no room"


@pytest.mark.parametrize("adapter", [True, False])
def test_transformers_are_asked_in_processes_of_their_own(tmp_path: Path, adapter: bool) -> None:
    python = tmp_path / "python"
    row = '{"first": 0.1, "seconds": 0.5, "tokens": 5, "answer": "Arr."}'
    python.write_text(f'#!/bin/sh\necho \'{{"device": "cpu", "memory": 7, "rows": [{row}]}}\'\n', encoding="utf-8")
    python.chmod(0o755)
    output = tmp_path if adapter else None
    results = list(bench.in_transformers(ORDER, python, tmp_path, output, "base"))
    assert [result.form for result in results] == (["merged", "adapter"] if adapter else ["merged"])
    assert results[0].rows[0].pace == pytest.approx(10)
    python.write_text("#!/bin/sh\necho out of memory >&2\nexit 1\n", encoding="utf-8")
    failed = list(bench.in_transformers(ORDER, python, tmp_path, output, "base"))
    assert "out of memory" in failed[0].problem


def test_the_table_compares_with_the_merged_model() -> None:
    rows = tuple(Row(first, 1.0, 11, "Arr, aye.") for first in (0.1, 0.2, 0.3))
    other = tuple(Row(0.4, 1.4, 21, "Aye.") for _ in range(3))
    results = [
        Result("merged", "transformers, cpu", rows, 3 << 30),
        Result("Q4_K_M", "Ollama", other, 1 << 30),
        Result("Q8_0", "Ollama", problem="no space left"),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(picture(results))
    lines = console.export_text().splitlines()
    assert "200 (100 to 300)" in lines[1]
    assert lines[1].endswith("100%")
    assert "20 (20 to 20)" in lines[2]
    assert 0 < float(lines[2].split()[-1].rstrip("%")) < 100
    assert lines[3] == "Q8_0 in Ollama: no space left"
