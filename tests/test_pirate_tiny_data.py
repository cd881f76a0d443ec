"""The text that recipe `pirate-tiny` ships: plain answers, the same from a pirate, and questions held out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "recipes" / "pirate-tiny"
# What counts as pirate: words that no plain answer uses. "be" is left out, since plain English has it too.
PIRATE = re.compile(
    r"\b(arr|aye|ahoy|avast|yo ho|shiver me|blow me down|batten|by me|matey|hearty|savvy|ye)\b", re.IGNORECASE
)
NAMES = ("plain", "pirate", "held-out")


def conversations(name: str) -> list[tuple[str, str]]:
    """Question and answer of every row; a row of any other form fails here."""
    pairs = []
    for line in (FOLDER / f"{name}.jsonl").read_text(encoding="ascii").splitlines():
        row = json.loads(line)
        assert list(row) == ["messages"]
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert list(user) == list(assistant) == ["role", "content"]
        pairs.append((user["content"], assistant["content"]))
    return pairs


def test_counts() -> None:
    assert [len(conversations(name)) for name in NAMES] == [417, 365, 52]


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_short_clean_sentences(name: str) -> None:
    for text in (text for pair in conversations(name) for text in pair):
        assert text == " ".join(text.split())
        assert text.endswith((".", "!", "?"))
        assert 1 <= len(text.split()) <= 25
        assert not set(text) & set('<>|"{}[]\\'), "a mark of a chat template, or a quote that is not an apostrophe"


@pytest.mark.parametrize("name", NAMES)
def test_no_question_and_no_answer_comes_twice(name: str) -> None:
    questions, answers = zip(*conversations(name), strict=True)
    assert len(set(questions)) == len(questions)
    assert len(set(answers)) == len(answers)


def test_held_out_questions_are_known_to_the_base_and_new_to_the_lora() -> None:
    plain, pirate, held_out = ({question for question, _ in conversations(name)} for name in NAMES)
    assert not pirate & held_out
    assert pirate | held_out == plain


def test_one_expression_tells_pirate_from_plain() -> None:
    plain, pirate, held_out = (conversations(name) for name in NAMES)
    assert [answer for _, answer in plain if PIRATE.search(answer)] == []
    assert [answer for _, answer in pirate + held_out if not PIRATE.search(answer)] == []
