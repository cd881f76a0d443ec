"""What a recipe's checks call a good answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ax_recipe.errors import ProblemsError
from ax_recipe.recipe import recipe, scoring


@pytest.mark.parametrize(
    ("wanted", "answer", "wrong"),
    [
        ({"matches": r"(?i)\barr\b"}, "Arr, matey.", []),
        ({"matches": r"(?i)\barr\b"}, "An arrow.", [r"nothing matches (?i)\barr\b"]),
        ({"not_matches": "sorry"}, "I am sorry.", ["'sorry' matches sorry"]),
        ({"contains": "web"}, "Spiders spin Webs.", []),
        ({"contains": ["web", "silk"]}, "Webs.", ["'silk' is not in it"]),
        ({"not_contains": ["as an AI", "I cannot"]}, "As an AI, no.", ["'as an AI' is in it"]),
        ({"equals": "42"}, " 42\n", []),
        ({"equals": "42"}, "42.", ["it is not '42'"]),
        ({"json": True}, '{"a": [1, 2]}', []),
        ({"json": True}, "Here: {}", ["it is not JSON"]),
        ({"json": True}, "[" * 100_000, ["it is not JSON"]),
        ({"max_chars": 3}, "four", ["4 characters, wanted at most 3"]),
        ({"min_chars": 5}, "four", ["4 characters, wanted at least 5"]),
        ({"min_chars": 5, "contains": "x"}, "", ["'x' is not in it", "0 characters, wanted at least 5"]),
    ],
)
def test_what_is_wrong_is_said(wanted: dict[str, Any], answer: str, wrong: list[str]) -> None:
    assert scoring.missed(answer, wanted) == wrong


@given(some.text(), some.text(min_size=1))
def test_to_hold_and_not_to_hold_are_opposites(answer: str, text: str) -> None:
    assert bool(scoring.missed(answer, {"contains": text})) != bool(scoring.missed(answer, {"not_contains": text}))


@given(some.recursive(some.none() | some.integers() | some.text(), lambda each: some.lists(each)))
def test_all_that_json_writes_is_json(value: object) -> None:
    assert not scoring.missed(json.dumps(value), {"json": True})


def test_what_stands_beside_the_prompts_is_expected_of_all() -> None:
    block = {"prompts": ["One?", {"ask": "Two?", "contains": "b", "max_chars": 9}], "matches": "a", "max_chars": 5}
    assert scoring.questions(block) == [
        ("One?", {"matches": "a", "max_chars": 5}),
        ("Two?", {"matches": "a", "contains": "b", "max_chars": 9}),
    ]


def test_answers_are_judged_side_by_side_and_a_base_may_be_absent() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "?", "base": "no", "tuned": "arr"},
        {"prompt": "?", "base": None, "tuned": "no"},
    ]
    first, second = scoring.judged(rows, [{"contains": "arr"}] * 2)
    assert (first["base_matches"], first["tuned_matches"]) == (False, True)
    assert second["tuned_missed"] == ["'arr' is not in it"]
    assert "base_matches" not in second


def written(folder: Path, checks: str) -> str:
    (folder / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    path = folder / "mine.yaml"
    path.write_text(f"base: x/y\ndata: [{{path: rows.jsonl, type: alpaca}}]\nchecks:\n{checks}", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("checks", "line", "words"),
    [
        ("  prompts: [One?]\n  matches: '(arr'\n", 4 + 1, "no regular expression"),
        ("  prompts:\n  - {ask: One, matches: '*'}\n", 5, "no regular expression"),
        ("  prompts: [One?]\n", 4, "expects nothing"),
        ("  prompts: [One?]\n  contains: a\n  at_least: 2\n", 6, "more than there are"),
        ("  prompts:\n  - {ask: One, contians: a}\n", 5, "contains"),
        ("  prompts:\n  - {contains: a}\n", 5, "`ask` is missing"),
    ],
)
def test_checks_that_cannot_be_meant_are_refused_with_their_line(
    tmp_path: Path, checks: str, line: int, words: str
) -> None:
    with pytest.raises(ProblemsError) as error:
        recipe.load(written(tmp_path, checks))
    assert words in str(error.value)
    assert f"mine.yaml:{line}:" in str(error.value)


def test_every_bundled_recipe_that_asks_expects_something() -> None:
    asking = [found for path in recipe.bundled() if (found := recipe.load(path.stem)).checks]
    assert len(asking) >= 4
    for found in asking:
        assert all(wanted for _, wanted in scoring.questions(found.document.value["checks"])), found.name
