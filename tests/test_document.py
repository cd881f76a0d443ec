"""What is read is what PyYAML reads, with a line for every key, and nothing a file holds can break the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.errors import AxRecipeError, MissingError, Problem, ProblemsError
from ax_recipe.recipe.document import MAX_BYTES, Document, dotted, parse, read

CONFIG = """\
base_model: x   # a comment
datasets:
  - path: a
    type: chat_template
  - path: b

lora_target_modules: [q_proj,
  k_proj]
trl: {beta: 1e-2}
"""

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)
# Pieces that make YAML interesting, glued together at random.
PIECES = [
    "a",
    "b",
    ": ",
    ":",
    "- ",
    "\n",
    "\n  ",
    "\t",
    "&x ",
    "*x",
    "<<: ",
    "!!int ",
    "!!bool ",
    "!!timestamp ",
    "{",
    "}",
]
PIECES += [
    "[",
    "]",
    ", ",
    "'",
    '"',
    "# ",
    "---\n",
    "...",
    "? ",
    "| ",
    "> ",
    "!!set ",
    "!!omap ",
    "!!binary ",
    "é",
    "\x00",
]
PIECES += ["2024-13-01", "1:99", "0x", ".inf", "=", "%YAML 1.1\n", "!!python/object:os.system ", "\ufeff", "1" * 5000]


def refusal(text: str | bytes) -> Problem:
    with pytest.raises(ProblemsError) as caught:
        parse(text, "c.yml")
    (problem,) = caught.value.problems
    assert (problem.code, problem.severity, problem.file) == ("AX006", "error", "c.yml")
    assert problem.suggestion
    return problem


def test_every_key_and_list_item_has_its_line() -> None:
    document = parse(CONFIG)
    assert document.value == yaml.safe_load(CONFIG)
    assert {dotted(path): line for path, line in document.lines.items()} == {
        "base_model": 1,
        "datasets": 2,
        "datasets[0]": 3,
        "datasets[0].path": 3,
        "datasets[0].type": 4,
        "datasets[1]": 5,
        "datasets[1].path": 5,
        "lora_target_modules": 7,
        "lora_target_modules[0]": 7,
        "lora_target_modules[1]": 8,
        "trl": 9,
        "trl.beta": 9,
    }


def test_a_path_without_a_line_has_that_of_what_is_around_it() -> None:
    assert parse(CONFIG).line(("datasets", 1, "type")) == 5
    assert parse(CONFIG).line(("nowhere",)) is None
    assert Document({"a": 1}).line(("a",)) is None


def test_a_key_given_twice_is_a_problem_that_names_both_lines() -> None:
    document = parse("a: 1\nb:\n- c: 1\n  d: 2\n  c: 3\n'a': 4\na: 5\n", "c.yml")
    assert document.value == {"a": 5, "b": [{"c": 3, "d": 2}]}
    assert [(each.code, each.line, each.key, each.suggestion) for each in document.problems] == [
        ("AX005", 6, "a", "Remove line 1 or line 6."),
        ("AX005", 7, "a", "Remove line 1 or line 7."),
        ("AX005", 5, "b[0].c", "Remove line 3 or line 5."),
    ]


def test_a_merge_key_is_no_duplicate_and_keeps_the_line_it_was_written_on() -> None:
    text = "base: &base\n  path: a\n  type: alpaca\ndatasets:\n- <<: *base\n  path: b\n- <<: *base\n"
    document = parse(text)
    assert document.value == yaml.safe_load(text)
    assert document.problems == ()
    assert document.lines["datasets", 0, "path"] == 6
    assert document.lines["datasets", 1, "type"] == 3


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: [1,\nb: 2\nc: 3\n", 3, "for what begins in line 1"),
        ("a: 1\nb:\n\tc: 1\n", 3, "column 1"),
        ("a: b: c\n", 1, "column 5"),
        ("a: 'open\n", 2, "column"),
        ("a: 1\nb: 2024-13-01\n", 2, "month must be in 1..12"),
        ("a: !!bool maybe\n", 1, "column 4"),
        ("a: *nobody\n", 1, "alias"),
        ("a: !!python/object:os.system ls\n", 1, "could not determine a constructor"),
        ("? [1]\n: 2\n", 1, "unhashable"),
        ("a: 1\n---\nb: 2\n", 3, "second YAML document"),
        ("- a\n- b\n", 1, "the top level is a list"),
        ("just text\n", 1, "the top level is text"),
        ("null\n", 1, "the top level is nothing"),
        ("a: " + "[" * 10_000, None, "levels deep"),
        ("a: &a [*a]\n", 1, "expand without end"),
        (b"a: 1\nb: \xff\n", 2, "byte 0xff is not UTF-8"),
        ("", None, "empty"),
        ("# only words\n", None, "empty"),
        ("a: \x00", None, "control characters"),
        ("a" * (MAX_BYTES + 1), None, "longer than"),
    ],
)
def test_what_cannot_be_a_config_is_refused_with_its_line(text: str | bytes, line: int | None, words: str) -> None:
    problem = refusal(text)
    assert problem.line == line
    assert words in problem.message


def test_a_tab_is_called_a_tab() -> None:
    assert "tabs" in (refusal("a:\n\tb: 1\n").suggestion or "")
    assert "tabs" not in (refusal("a: [1").suggestion or "")


def test_a_bomb_of_aliases_goes_out() -> None:
    """Expanded, it would be ten billion values: this test would not end."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "expand without end" in refusal("\n".join(lines)).message


def test_a_byte_order_mark_and_windows_line_ends_are_nothing() -> None:
    document = parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert document.value == {"a": 1, "b": 2}
    assert document.lines["b",] == 2


def test_a_file_is_read_and_one_that_cannot_be_says_why(tmp_path: Path) -> None:
    path = tmp_path / "c.yml"
    path.write_text(CONFIG)
    assert read(path) == Document(parse(CONFIG).value, parse(CONFIG).lines, str(path))
    with pytest.raises(MissingError, match="No such file"):
        read(tmp_path / "absent.yml")
    with pytest.raises(MissingError, match="directory"):
        read(tmp_path)


@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=5), st.booleans())
def test_any_value_comes_back_as_pyyaml_reads_it(value: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(value, allow_unicode=True, default_flow_style=flow)
    document = parse(text)
    assert document.value == yaml.safe_load(text)
    assert document.problems == ()
    assert set(document.lines) >= {(key,) for key in document.value}


@given(st.binary() | st.text() | st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_no_bytes_raise_anything_but_our_errors(data: str | bytes) -> None:
    try:
        document = parse(data)
    except AxRecipeError:
        return
    if isinstance(data, bytes):
        data = data.decode("utf-8-sig")
    assert document.value == yaml.load(data.removeprefix("\ufeff"), Loader=yaml.CSafeLoader)
