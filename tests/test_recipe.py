"""The recipe file: found, checked, read; every mistake named with its place."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from ax_recipe.errors import MissingError, ProblemsError, RecipeError
from ax_recipe.recipe import recipe
from ax_recipe.recipe.recipe import Scratch
from ax_recipe.ship import ollama, size
from conftest import Invoke

SMALLEST = "base: ./base\ndata:\n  - path: rows.jsonl\n    type: chat_template\n"


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(folder: Path, text: str) -> list[tuple[str, int | None, str | None]]:
    with pytest.raises(ProblemsError) as caught:
        recipe.load(write(folder, text))
    return [(problem.code, problem.line, problem.key) for problem in caught.value.problems]


def test_all_bundled_recipes_load() -> None:
    names = [path.stem for path in recipe.bundled()]
    assert {"pirate", "pirate-lora", "pirate-small", "pirate-tiny"} < set(names)
    assert names == sorted(names)
    assert all(recipe.load(name).about for name in names)


def test_pirate_is_the_run_it_was_made_after() -> None:
    pirate = recipe.load("pirate")
    assert (pirate.method, pirate.lora.r, pirate.lora.alpha, pirate.lora.dropout) == ("qlora", 64, 32, 0.05)
    assert (pirate.train.num_epochs, pirate.train.learning_rate, pirate.train.lr_scheduler) == (2, 2e-4, "cosine")
    assert pirate.gpus == "4xA100-80GB"
    assert pirate.targets.loss == [0.5, 0.8]


def test_what_is_left_out_has_the_schemas_default(tmp_path: Path) -> None:
    smallest = recipe.load(write(tmp_path, SMALLEST))
    assert (smallest.method, smallest.train.num_epochs, smallest.lora.r, smallest.checks) == ("lora", 1, 32, None)


def test_a_base_may_be_pretrained_here() -> None:
    base = recipe.load("pirate-tiny").base
    assert isinstance(base, Scratch)
    assert base.train.learning_rate > 0


def test_yaml_1_1_reads_2e_4_as_text_and_it_still_is_a_number(tmp_path: Path) -> None:
    assert recipe.load(write(tmp_path, SMALLEST + "train: {learning_rate: 2e-4}\n")).train.learning_rate == 2e-4


def test_what_is_taken_for_a_number_or_a_truth_is_one(tmp_path: Path) -> None:
    train = 'train: {global_batch_size: "16", micro_batch_size: 2.0, sample_packing: "no", weight_decay: "0.1"}\n'
    checks = 'checks: {prompts: [Hello?, {ask: Who?, min_chars: "3"}], at_least: "2", contains: [me], json: "off"}\n'
    found = recipe.load(write(tmp_path, f'{SMALLEST}gpus: 4.0\ntargets: {{loss: ["5e-1", 1]}}\n{train}{checks}'))
    assert repr((found.gpus, found.targets.loss)) == "(4, [0.5, 1])"
    taken = (found.train.global_batch_size, found.train.micro_batch_size, found.train.sample_packing)
    assert (repr(taken), found.train.weight_decay) == ("(16, 2, False)", 0.1)
    assert found.checks is not None
    assert found.checks.questions[1] == ("Who?", {"contains": ["me"], "json": False, "min_chars": 3})
    assert found.checks.enough == 2
    assert ("AX010", 5, "checks.at_least") in problems(
        tmp_path, SMALLEST + 'checks: {prompts: [a], at_least: "2.0", json: true}\n'
    )


def test_set_changes_one_key() -> None:
    assert recipe.load("pirate", ["lora.r=8", "train.learning_rate=1e-4"]).lora.r == 8
    assert recipe.load("pirate", ["axolotl.weight_decay=0.1"]).axolotl["weight_decay"] == 0.1


@pytest.mark.parametrize("change", ["lora.r", "lora..r=3", "=3", "base.x=1", "lora.r=[", "lora.q=3"])
def test_set_refuses_what_is_no_change(change: str) -> None:
    with pytest.raises(RecipeError):
        recipe.load("pirate", [change])


def test_a_missing_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="pirate-small"):
        recipe.find("pirate-smal")


def test_a_missing_file_is_not_taken_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        recipe.find(str(tmp_path / "pirate.yaml"))


def test_a_file_beside_is_named_when_its_suffix_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(RecipeError) as caught:
        recipe.find("mine")
    assert "say mine.yaml" in str(caught.value)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError):
        recipe.load(str(tmp_path))


def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.symlink_to(path)
    with pytest.raises((MissingError, RecipeError)):
        recipe.load(str(path))


def test_an_unknown_field_is_named_with_its_line_and_its_neighbour(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        recipe.load(write(tmp_path, SMALLEST + "chat_templat: llama3\n"))
    problem = caught.value.problems[0]
    assert (problem.line, problem.key) == (5, "chat_templat")
    assert "chat_template" in str(problem)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = SMALLEST + "method: qlorra\nlora: {r: many}\ntrain:\n  num_epoch: 2\n"
    assert problems(tmp_path, text) == [
        ("AX003", 5, "method"),
        ("AX002", 6, "lora.r"),
        ("AX001", 8, "train.num_epoch"),
    ]


def test_broken_yaml_names_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"mine.yaml:2.*column"):
        recipe.load(write(tmp_path, "base: x\ndata: [}\n"))


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("owner/name", False),
        ("name", False),
        ("./owner/name", True),
        ("a/b/c", True),
        ("/x", True),
        ("rows.jsonl", True),
    ],
)
def test_a_hub_id_is_told_from_a_file(text: str, local: bool, tmp_path: Path) -> None:
    assert recipe.is_local(text, tmp_path) is local


def test_a_folder_beside_the_recipe_is_local_even_if_it_looks_like_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert recipe.resolve("owner/name", tmp_path) == str((tmp_path / "owner" / "name").resolve())


@pytest.mark.parametrize(
    ("wanted", "meant"), [("q4_K_X", "q4_K_S"), ("Q5KM", "q5_K_M"), ("int8", None), ("IQ2_XS", "iq4_XS"), ("4", None)]
)
def test_a_quantisation_that_nothing_makes_is_named_before_anything_starts(
    wanted: str, meant: str | None, tmp_path: Path, invoke: Invoke
) -> None:
    file = write(tmp_path, SMALLEST + f'ship:\n  model: mine\n  quantize: "{wanted}"\n')
    done = invoke("check", file, "--json")
    assert done.exit_code == 2
    found = next(each for each in json.loads(done.stdout)["problems"] if each["key"] == "ship.quantize")
    assert (found["code"], found["line"]) == ("AX003", 7)
    assert f"'{wanted}'" in found["message"]
    assert found["suggestion"].startswith(f"Did you mean {meant}? Usual are q4_K_M" if meant else "Usual are q4_K_M")


@pytest.mark.parametrize(
    ("name", "fits"),
    [("pirate", True), ("me/pirate:v2", True), ("Bad Name!", False), (":v2", False), ("a" * 81, False), ("-x", False)],
)
def test_a_name_that_ollama_refuses_is_told_before_anything_starts(name: str, fits: bool, tmp_path: Path) -> None:
    text = f"base: o/m\ndata: [{{path: o/d}}]\nship: {{model: '{name}'}}\n"
    if fits:
        assert recipe.load(write(tmp_path, text)).ship.model == name
    else:
        assert problems(tmp_path, text) == [("AX003", 3, "ship.model")]
    pattern = recipe.schema()["$defs"]["Ship"]["properties"]["model"]["pattern"]
    assert bool(re.search(pattern, name)) == fits
    with nullcontext() if fits else pytest.raises(RecipeError):
        ollama.model_name(name)


@pytest.mark.parametrize("wanted", [*ollama.QUANTISATIONS, *(each.name for each in size.PRECISIONS), "Q4_K", "iq4_xs"])
def test_every_quantisation_that_is_made_is_taken_in_any_case(wanted: str, tmp_path: Path) -> None:
    for spelt in (wanted, wanted.lower(), wanted.upper()):
        file = write(tmp_path, SMALLEST + f"ship: {{quantize: {spelt}}}\n")
        assert recipe.load(file).ship.quantize == spelt
