"""A model is timed in each of its forms, and the table says which is which."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ax_recipe.ship import bench, deploy
from ax_recipe.ship.bench import Order, Result, Row
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.ollama import Ollama
from ax_recipe.view.bench import picture
from fake_ollama import serve
from ship_folders import CHAT, write_model, write_tokenizer

ORDER = Order(("Who goes there?", "Why?"), rounds=2)


def exported(folder: Path) -> deploy.Exported:
    write_model(folder / "model")
    write_tokenizer(folder / "model", chat=CHAT)
    export(folder / "model", folder / "out", Wishes(system="Arr."))
    return deploy.read(folder / "out")


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
