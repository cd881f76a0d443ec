"""ax-recipe data: what the rows are, how long, what of them is trained, and which of them are no good."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ax_recipe.checks import checking, survey
from ax_recipe.checks import rows as row_checks
from ax_recipe.data import formats, measure, rows, turns
from ax_recipe.data.samples import Sample, Segment, reader
from ax_recipe.data.seen import Seen
from ax_recipe.data.turns import PLAIN, Template, Turn
from ax_recipe.errors import MissingError
from ax_recipe.process import Partner
from ax_recipe.view import data as view
from conftest import ROOT, Invoke, installed_axolotl
from wrong_configs import CHAT, GOOD, lay_out, lines

LLAMA3 = (
    "{% for m in messages %}{{ bos_token if loop.first }}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
)
TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    return tmp_path


def config(place: Path, **keys: Any) -> str:
    path = place / "axolotl.yml"
    path.write_text(yaml.safe_dump({**GOOD, **keys}), encoding="utf-8")
    return str(path)


def answer(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(invoke("data", *arguments, "--json").stdout)
    return value


def test_a_recipes_data_is_measured(invoke: Invoke) -> None:
    found = answer(invoke, "pirate-tiny")
    assert (found["rows"], found["problems"]) == (365, [])
    assert found["datasets"][0]["format"] == "chat"
    assert found["held_out"][0]["rows"] == 52
    assert 0.3 < found["trained_share"] < 0.8
    assert found["lengths"]["min"] <= found["lengths"]["median"] <= found["lengths"]["p95"] <= found["lengths"]["max"]


def test_a_data_file_needs_no_config(place: Path, invoke: Invoke) -> None:
    found = answer(invoke, "rows.jsonl")
    assert (found["rows"], found["truncated"], found["sequence_len"]) == (40, 0, None)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": CHAT}, "chat"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "chat"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"question": "a", "answer": "b"}, "alpaca"),
        ({"text": "a"}, "completion"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference"),
        ({"prompt": "a", "completion": "b", "label": True}, "rated"),
        ({"input_ids": [1], "labels": [1]}, "tokens"),
    ],
)
def test_a_form_is_recognised(row: dict[str, Any], name: str) -> None:
    assert formats.recognise(row) == formats.Form(name, (), formats.recognise(row).field)


def test_the_nearest_form_says_what_is_missing() -> None:
    assert formats.recognise({"instruction": "a"}) == formats.Form("alpaca", ("output",))
    assert formats.recognise({"chosen": "a", "id": 1}) == formats.Form("preference", ("rejected",))
    assert formats.recognise({"id": 1}) == formats.Form("completion", ("text",))


def test_bad_rows_are_named_with_file_and_line(place: Path, invoke: Invoke) -> None:
    good = json.dumps({"messages": CHAT})
    bad = ['{"messages": [', "[1]", '{"messages": []}', '{"messages": [{"content": "x"}]}', '{"id": 1}']
    (place / "mixed.jsonl").write_text(
        "\n".join([good, *bad, "", good, '{"messages": [{"role": "user", "content": "?"}]}']) + "\n"
    )
    result = invoke("data", config(place, datasets=[{"path": "mixed.jsonl", "type": "chat_template"}]), "--json")
    found = json.loads(result.stdout)
    by_line = {each["line"]: each["code"] for each in found["problems"]}
    assert by_line == {2: "AX014", 3: "AX014", 4: "AX015", 5: "AX015", 6: "AX013", 8: "AX018", 9: "AX017"}
    assert all(each["file"].endswith("mixed.jsonl") for each in found["problems"])
    assert (found["rows"], found["broken"], found["duplicates"], result.exit_code) == (8, 5, 1, 2)


ASKED, TOLD = CHAT
SAID = [
    None, [], 5, "x", {"role": "user"}, [ASKED], [TOLD], ["x", TOLD], [ASKED, {"role": "tool", "content": "x"}],
    *([ASKED, {"role": "assistant", **turn}] for turn in ({"content": ""}, {"content": None}, {}, {"content": 5})),
    [ASKED, {"content": "x"}], [{**ASKED, "content": ""}, {**TOLD, "content": "  "}], [{**ASKED, "content": " "}, TOLD],
    [{"role": "system", "content": "S"}], [{"role": "system", "content": "S"}, ASKED], [ASKED, {**TOLD, "role": "bot"}],
]  # fmt: skip
INSTRUCTED = [
    {"instruction": "a"}, {"output": "b"}, {"instruction": "", "output": "b"}, {"instruction": "", "output": ""},
    *({"instruction": "a", "output": answer} for answer in (None, "", "  ", 5)),
]  # fmt: skip


@pytest.mark.parametrize("first", [True, False], ids=["good first", "bad first"])
@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("chat_template", {"messages": CHAT}, [*({"messages": value} for value in SAID), {}, {"id": 1}]),
        ("alpaca", {"instruction": "a", "output": "b"}, [*INSTRUCTED, {}]),
        ("completion", {"text": "abc"}, [{"text": value} for value in ("", "  ", None, 5)]),
    ],
)
def test_check_names_the_rows_that_data_names(
    kind: str, good: dict[str, Any], bad: list[Any], first: bool, place: Path, invoke: Invoke
) -> None:
    values = [*bad, "text", [1], None]
    values = [good, *values] if first else [*values, good]
    (place / "rows.jsonl").write_text("".join(f"{json.dumps(value)}\n" for value in values))
    file = config(place, datasets=[{"path": "rows.jsonl", "type": kind}])

    def named(verb: str) -> list[tuple[int, str, str]]:
        found = json.loads(invoke(verb, file, "--json").stdout)["problems"]
        of_rows = [each for each in found if (each["file"] or "").endswith("rows.jsonl") and each["code"] != "AX018"]
        return sorted((each["line"], each["code"], each["message"]) for each in of_rows)

    assert named("check") == named("data")
    assert len(named("check")) >= 3


@pytest.mark.parametrize("readable", [True, False])
def test_however_many_rows_are_bad_check_and_new_name_as_many_as_data(
    readable: bool, place: Path, invoke: Invoke, no_axolotl: None
) -> None:
    values: list[Any] = [{"messages": [ASKED, {"role": "assistant"}], "id": number} for number in range(60)]
    values += [{"messages": CHAT}] * readable
    (place / "rows.jsonl").write_text("".join(f"{json.dumps(value)}\n" for value in values))
    told = invoke("data", config(place, datasets=[{"path": "rows.jsonl", "type": "chat_template"}]), "--json")
    assert json.loads(told.stdout)["broken"] == 60
    checked = invoke("check", "axolotl.yml").stdout
    made = invoke("new", "mine", "--base", "o/m", "--data", "rows.jsonl", "--goal", "chat", "--gpus", "0").stderr
    for words in (checked, made):
        single, more = words.count("`messages[1]` has no `content`"), re.search(r"(\d+) more rows like th", words)
        assert single + int(more[1] if more else 0) == 60, words
        assert single == (20 if readable else 1)


def test_new_says_of_large_data_that_only_its_beginning_was_looked_at(
    place: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, no_axolotl: None
) -> None:
    monkeypatch.setattr(row_checks, "WHOLE_BYTES", 100)
    (place / "rows.jsonl").write_text(f"{json.dumps({'messages': CHAT})}\n" * 9)
    made = invoke("new", "mine", "--base", "o/m", "--data", "rows.jsonl", "--goal", "chat", "--gpus", "0")
    assert "rows.jsonl only the first 200 rows were looked at: `ax-recipe data mine.yaml` reads them all" in made.stderr


@pytest.mark.parametrize(
    ("name", "data", "line", "words"),
    [
        ("torn.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 3, mtime=0)[:-9], 1, "no whole gzip file"),
        ("plain.jsonl.gz", b'{"text": "a"}\n', 1, "no whole gzip file"),
        ("latin.jsonl", '{"text": "a"}\n{"text": "caf\u00e9"}\n'.encode("latin-1"), 2, "no UTF-8, column 14"),
        ("latin.json", '[{"text": "a"},\n{"text": "caf\u00e9"}]'.encode("latin-1"), 2, "no UTF-8"),
        ("latin.txt", "a\ncaf\u00e9\n".encode("latin-1"), 2, "no UTF-8, column 4"),
        ("latin.csv", "text\na\ncaf\u00e9\n".encode("latin-1"), 3, "no UTF-8"),
        ("wide.csv", b"text\na\nb,c\n", 3, "2 cells where the head has 1"),
        ("null.jsonl", b'{"messages": null}\n', 1, "`messages` holds no turns"),
        ("none.jsonl", b'{"messages": [null]}\n', 1, "`messages` holds no turns"),
        ("cut.jsonl", b'{"messages": [\n', 1, "no JSON: Expecting value, column 15"),
        ("half.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', 2, "no Unicode: \\ud800 is one half of a character"),
        ("half.json", b'[{"text": "\\ud83d\\ude00"}, {"text": "\\udc00 b"}]', 1, "row 2, no Unicode: \\udc00"),
        ("nil.jsonl", b'{"instruction": "a", "output": null}\n', 1, "has `output` empty (null)"),
        ("mixed.jsonl", b'{"text": "a"}\n{"instruction": "a", "output": "b"}\n', 2, "has the form alpaca"),
    ],
)
def test_what_is_no_row_is_named_and_never_a_traceback(
    name: str, data: bytes, line: int, words: str, place: Path, invoke: Invoke
) -> None:
    (place / name).write_bytes(data)
    found = answer(invoke, name)["problems"]
    assert [(problem["severity"], problem["line"]) for problem in found] == [("error", line)]
    assert words in found[0]["message"]


@pytest.mark.parametrize(
    ("row", "share"),
    [
        ({"prompt": "abcdabc", "completion": "c", "label": True}, 0.5),
        ({"segments": [{"label": False, "text": "abcd" * 3}, {"label": True, "text": "efgh"}]}, 0.25),
    ],
)
def test_short_answers_and_segments_are_trained_without_a_type(
    row: dict[str, Any], share: float, place: Path, invoke: Invoke
) -> None:
    (place / "some.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = answer(invoke, "some.jsonl")
    assert (found["problems"], found["trained_share"]) == ([], share)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("rows.tsv", b"instruction\toutput\na\tb\n", "is separated by tabs"),
        ("rows.csv", b"instruction;output\na, b;c\n", "semicolons between its columns"),
        ("rows.csv.gz", gzip.compress(b"instruction\toutput\na\tb\n", mtime=0), "tabs between its columns"),
        ("wide.csv", "instruction,output\na,b\n".encode("utf-16"), "wide.csv is UTF-16"),
        ("wide.jsonl", '{"text": "a"}\n'.encode("utf-16"), "wide.jsonl is UTF-16"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_one_finding(
    name: str, data: bytes, words: str, place: Path, invoke: Invoke
) -> None:
    (place / name).write_bytes(data)
    config(place, datasets=[{"path": name, "type": "alpaca"}], chat_template=None)
    for asked in (name, "axolotl.yml"):
        (problem,) = [each for each in answer(invoke, asked)["problems"] if each["severity"] == "error"]
        assert (problem["code"], problem["key"]) == ("AX014", "datasets[0].path")
        assert words in problem["message"]
    told = [each for each in checking.quick("axolotl.yml", "0", None).problems if each.code == "AX014"]
    assert [words in each.message for each in told] == [True]
    made = invoke("new", "mine", "--base", "o/m", "--data", name)
    assert (made.exit_code, words in made.stderr) == (2, True)


def test_a_folder_is_rows_of_one_kind_or_a_finding(place: Path, invoke: Invoke) -> None:
    (place / "both").mkdir()
    (place / "empty").mkdir()
    (place / "both/a.jsonl").write_text('{"text": "a"}\n')
    (place / "both/b.csv").write_text("text\nb\n")
    os.mkfifo(place / "fifo.jsonl")
    wrong = {"both": "holds .csv and .jsonl", "empty": "no file of rows", "fifo.jsonl": "neither a file nor a folder"}
    for name, words in wrong.items():
        (problem,) = answer(invoke, name)["problems"]
        assert words in problem["message"]
        made = invoke("new", "mine", "--base", "o/m", "--data", name)
        assert (made.exit_code, words in made.stderr) == (2, True)
    (place / "both/b.csv").unlink()
    assert answer(invoke, "both")["rows"] == 1


def test_an_answer_of_nothing_is_told_whatever_the_form(place: Path, invoke: Invoke) -> None:
    chat = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": ""}]}
    for row in (chat, {"instruction": "Why?", "output": ""}):
        (place / "rows.jsonl").write_text(json.dumps(row) + "\n")
        (problem,) = [each for each in answer(invoke, "rows.jsonl")["problems"] if each["severity"] == "warning"]
        assert (problem["code"], problem["message"]) == ("AX017", "nothing in it is trained: no answer")
        config(place, datasets=[{"path": "rows.jsonl", "type": "alpaca" if "output" in row else "chat_template"}])
        assert "AX017" in [each.code for each in checking.quick("axolotl.yml", "0", None).problems]


def test_rows_of_an_array_on_one_line_are_told_apart(place: Path, invoke: Invoke) -> None:
    (place / "rows.json").write_text(json.dumps([{"text": "a"}, {"text": "b"}, {"text": "a"}]))
    (problem,) = answer(invoke, "rows.json")["problems"]
    assert problem["message"] == f"row 3, the same as {place}/rows.json:1, row 1"


def test_a_row_that_no_line_tells_is_named_by_its_number(place: Path, invoke: Invoke) -> None:
    """As a finding, as a sample, and by whoever names it; one with a line of its own has that line alone."""
    values = [{"messages": CHAT}, {"messages": 5}, {"messages": [{"role": "user", "content": "?"}]}]
    (place / "rows.json").write_text(json.dumps(values))
    file = config(place, datasets=[{"path": "rows.json", "type": "chat_template"}])
    shown = invoke("data", file).stdout
    for told in (shown, invoke("check", file).stdout):
        assert "rows.json:1: row 2, `messages` holds no list of turns [AX015]" in told
        assert "rows.json:1: warning: row 3, nothing in it is trained: no answer [AX017]" in told
    assert "\nrows.json:1, row 1\n" in shown
    remote = rows.Row("org/rows", None, {}, item=3)
    assert str(remote) == "org/rows, row 3"
    assert str(remote.problem("AX017", "warning", "is empty", None)) == "org/rows: warning: row 3, is empty [AX017]"
    (place / "rows.jsonl").write_text("".join(f"{json.dumps(value)}\n" for value in values))
    shown = invoke("data", config(place, datasets=[{"path": "rows.jsonl", "type": "chat_template"}])).stdout
    assert "\nrows.jsonl:1\n" in shown
    assert "rows.jsonl:2: `messages`" in shown


def test_a_terminal_without_the_letters_is_no_traceback(
    place: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (place / "rows.jsonl").write_text('{"instruction": "caf\\u00e9", "output": "ahoy"}\n')
    done = command("data", "rows.jsonl", cwd=place, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "\n")
    assert "caf\\xe9<ahoy>" in done.stdout


def test_no_more_of_a_row_is_laid_out_than_is_shown() -> None:
    row, end = "x" * 20_000_000, Segment("</s>", ((0, 4),))
    shown = view._shown(Sample((Segment("Why? "), Segment(row, ((0, len(row)),)), end)), "«»")
    assert len(shown) < 700
    assert shown.plain.endswith("x» ...")


def test_what_is_trained_is_shown_however_much_stands_before_it() -> None:
    before = "tools " * 1000
    one = Sample((Segment(f"{before}Arr!", ((len(before), len(before) + 4),)),))
    two = Sample((Segment(before), Segment("Arr!", ((0, 4),))))
    for sample in (one, two):
        shown = view._shown(sample, "«»").plain
        assert shown.endswith("«Arr!»")
        assert "..." in shown
        assert len(shown) < 620


def test_keys_that_are_wrong_are_said_beside_the_figures(place: Path, invoke: Invoke) -> None:
    (place / "rows.jsonl").write_text('{"text": "a"}\n')
    config(place, datasets=[{"path": "rows.jsonl", "type": "completion", "typ": 1}], sequence_length=3)
    found = answer(invoke, "axolotl.yml")
    assert found["rows"] == 1
    assert any(note.startswith("its keys have 2 errors") and "check axolotl.yml" in note for note in found["notes"])


def test_all_masked_data_is_an_error(place: Path, invoke: Invoke) -> None:
    path = config(place, datasets=[{"path": "rows.jsonl", "type": "chat_template", "roles_to_train": ["system"]}])
    result = invoke("data", path, "--json")
    found = json.loads(result.stdout)
    assert (found["trained_share"], result.exit_code) == (0.0, 2)
    assert "AX016" in {each["code"] for each in found["problems"]}


def test_too_long_rows_are_counted(place: Path, invoke: Invoke) -> None:
    found = answer(invoke, config(place, sequence_len=64, datasets=[{"path": "long.jsonl", "type": "chat_template"}]))
    assert found["truncated"] == 1
    assert "every row is longer" in " ".join(each["message"] for each in found["problems"])


def test_completions_are_cut_into_rows_rather_than_dropped(place: Path, invoke: Invoke) -> None:
    lines(place / "text.jsonl", [{"text": "x" * 4000}])
    found = answer(invoke, config(place, datasets=[{"path": "text.jsonl", "type": "completion"}]))
    assert (found["truncated"], found["trained_share"], found["lengths"]["max"]) == (0, 1.0, 512)


def test_held_out_rows_that_are_trained_on_are_named(place: Path, invoke: Invoke) -> None:
    row = (place / "rows.jsonl").read_text(encoding="utf-8").splitlines()[4]
    (place / "held.jsonl").write_text(f"{json.dumps({'messages': CHAT})}\n{row}\n", encoding="utf-8")
    held = [{"path": "held.jsonl", "type": "chat_template", "split": "train"}]
    found = answer(invoke, config(place, val_set_size=0, test_datasets=held))
    assert found["overlap"] == 1
    overlap = next(each for each in found["problems"] if each["code"] == "AX019")
    assert (overlap["line"], Path(overlap["file"]).name) == (2, "held.jsonl")
    assert "rows.jsonl:5" in overlap["message"]


def test_the_picture_shows_three_rows_and_what_is_trained_of_them(place: Path) -> None:
    found = survey.of_file(config(place), None, None)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view.view(found, "«»"))
    text = console.export_text()
    assert text.count("«Arr, honey, matey!»") == 3
    assert "rows        40" in text
    assert "bytes / 4" in text
    assert "marks of no model stand for its own" in text.replace("\n", " ")


def sources(folder: Path, values: list[dict[str, Any]]) -> Iterator[Path]:
    text = "".join(json.dumps(value) + "\n" for value in values)
    for name, content in (
        ("lines.jsonl", text),
        ("array.json", json.dumps(values)),
        ("pretty.json", json.dumps(values, indent=2)),
    ):
        (folder / name).write_text(content, encoding="utf-8")
        yield folder / name
    with gzip.open(folder / "packed.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    yield folder / "packed.jsonl.gz"


def test_every_kind_of_json_gives_the_same_rows(tmp_path: Path) -> None:
    values = [{"text": "a\nb, ]", "n": i, "x": {"y": [1, {"z": "é\u2028"}]}} for i in range(300)]
    for path in sources(tmp_path, values):
        found = list(rows.read(rows.locate(path)))
        assert [row.value for row in found] == values, path
        places = [row.line or 0 for row in found]
        assert places == sorted(places)
        items = [row.item for row in found]
        assert items == (list(range(1, 301)) if str(found[0]).endswith("row 1") else [0] * 300)


@pytest.mark.parametrize(("text", "flaw", "whole"), [
    ('[{"a": 1}, {"a": 2},\n]', "a comma before the end", 2), ('[{"a": 1}\n{"a": 2}]', "no comma before", 1),
    ('[{"a": 1},, {"a": 2}]', "breaks off", 1), ("[]", None, 0), ('[ {"a": 1} , {"a": 2} ]', None, 2),
])  # fmt: skip
@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_an_array_has_a_comma_between_items_and_nowhere_else(
    text: str, flaw: str | None, whole: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_CHUNK", chunk)
    found = list(rows._array(io.StringIO(text), "x"))
    assert [row.value for row in found if row.value] == [{"a": number + 1} for number in range(whole)]
    told = [str(row.broken) for row in found[whole:]]
    assert [flaw in words for words in told] == [True] if flaw else not told


def test_the_lines_of_a_pretty_array_are_those_of_its_items(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[\n {"a": 1},\n\n {"a":\n  2}\n,\n 3\n]\n', encoding="utf-8")
    found = list(rows.read(rows.locate(tmp_path / "rows.json")))
    assert [(row.line, row.value) for row in found] == [(2, {"a": 1}), (4, {"a": 2}), (7, None)]


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=2000), max_size=3), max_size=20), st.integers(1, 70)
)
def test_an_array_is_read_whatever_the_size_of_a_chunk(values: list[dict[str, Any]], chunk: int) -> None:
    before, rows._CHUNK = rows._CHUNK, chunk
    try:
        found = [row.value for row in rows._array(io.StringIO(json.dumps(values, indent=1)), "x")]
    finally:
        rows._CHUNK = before
    assert found == values


def test_csv_and_text_are_rows_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('instruction,output\n"a\nb",c\nd,e\n', encoding="utf-8")
    found = [(row.line, row.value) for row in rows.read(rows.locate(tmp_path / "rows.csv"))]
    assert found == [(2, {"instruction": "a\nb", "output": "c"}), (4, {"instruction": "d", "output": "e"})]
    (tmp_path / "rows.txt").write_text("a\nb\n", encoding="utf-8")
    assert [row.value for row in rows.read(rows.locate(tmp_path / "rows.txt"))] == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [(None, 10), ("train", 10), ("train[:3]", 3), ("train[8:]", 2), ("train[:50%]", 5), ("train[-2:]", 2)],
)
def test_a_part_of_a_split_is_read(split: str | None, wanted: int, tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl", [{"n": i} for i in range(10)])
    assert len(list(rows.read(rows.locate(tmp_path / "rows.jsonl", None, split)))) == wanted


def test_a_folder_is_read_by_its_split(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [{"a": 1}] * 3)
    lines(tmp_path / "test.jsonl", [{"a": 1}])
    assert len(list(rows.read(rows.locate(tmp_path)))) == 3
    assert len(list(rows.read(rows.locate(tmp_path, None, "test")))) == 1


def laid(messages: list[tuple[str, str]], template: str = LLAMA3, ends: str = "turn") -> list[str]:
    made = Template(template, TOKENS, ["<|eot_id|>"], ends)
    text, spans = made.lay_out([Turn(role, content, role == "assistant") for role, content in messages])
    return [text[start:stop] for start, stop in spans]


def test_answers_and_their_ends_are_trained() -> None:
    assert laid([("user", "Hi"), ("assistant", " Arr! ")]) == ["Arr!", "<|eot_id|>"]
    assert laid([("user", "Hi"), ("assistant", "a"), ("user", "b"), ("assistant", "c")], ends="last") == [
        "a",
        "c",
        "<|eot_id|>",
    ]
    assert laid([("user", "Hi"), ("assistant", "a")], ends="none") == ["a"]
    assert laid([("user", "Hi"), ("assistant", "a")], ends="all") == ["<|eot_id|>", "a", "<|eot_id|>"]


# In the manner of Qwen3's: the tools stand in the system's turn, a call and a thought in the assistant's.
CALLS = """\
{%- if tools %}<|im_start|>system
{{ tools[0].function.name }}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% elif loop.last and m.role == "assistant" %}<think>

</think>

{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}"""
CALL = {"type": "function", "function": {"name": "get"}}


def test_a_call_is_trained_and_the_tools_are_counted() -> None:
    """Axolotl 0.19 with its qwen3 template trains of such a row: the call, and the answer behind it."""
    dataset = {"type": "chat_template"}
    made = Template(CALLS, {"eos_token": "<|im_end|>"}, ["<|im_end|>"])
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "late"},
        {"role": "assistant", "content": "Arr!"},
    ]
    (segment,) = reader(dataset, {}, made, "<|im_end|>")({"messages": messages, "tools": [CALL]}).segments
    assert segment.text.startswith("<|im_start|>system\nget<|im_end|>")
    trained = [segment.text[start:stop] for start, stop in segment.trained]
    assert trained == ["<tool_call>get</tool_call>", "<|im_end|>", "Arr!", "<|im_end|>"]


def test_a_thought_is_trained_with_the_answer_behind_it() -> None:
    made = Template(CALLS, {"eos_token": "<|im_end|>"}, ["<|im_end|>"])
    turn = Turn("assistant", "Arr!", True, {"reasoning_content": "Hm."})
    text, spans = made.lay_out([Turn("user", "Hi", False), turn])
    assert [text[start:stop] for start, stop in spans] == ["Hm.\n</think>\n\nArr!", "<|im_end|>"]


def test_a_call_that_the_template_does_not_write_trains_nothing() -> None:
    calling = Turn("assistant", "", True, {"tool_calls": [CALL]})
    text, spans = Template(LLAMA3, TOKENS, ["<|eot_id|>"]).lay_out([Turn("user", "Hi", False), calling])
    assert spans == []
    assert "get" not in text


def test_a_text_that_stands_in_the_marks_as_well_is_found_where_it_is_meant() -> None:
    made = Template(PLAIN, {"eos_token": "</s>"}, ["</s>"])
    text, spans = made.lay_out([Turn("user", "assistant", False), Turn("assistant", "user", True)])
    assert [text[: spans[0][0]].endswith("<|assistant|>\n"), text[slice(*spans[0])]] == [True, "user"]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text(alphabet="ab <|>u", max_size=9)), min_size=1))
def test_trained_text_is_what_the_assistant_said(messages: list[tuple[str, str]]) -> None:
    said = [content.strip() for role, content in messages if role == "assistant" and content.strip()]
    assert [text for text in laid(messages, ends="none") if text] == said


def test_the_packing_of_even_halves_is_full() -> None:
    assert measure.packing({50: 10}, 100) == 1.0
    assert measure.packing({60: 4}, 100) == 0.6
    assert measure.packing({}, 100) is None


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60))
def test_packs_hold_what_was_put_in(lengths: list[int]) -> None:
    """Against first-fit decreasing as one writes it down."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [index for index, room in enumerate(free) if room >= length]
        best = min(fits, key=lambda index: free[index], default=None)
        if best is None:
            free.append(100 - length)
        else:
            free[best] -= length
    assert measure.packing(Tally(lengths), 100) == sum(lengths) / (100 * len(free))


@given(st.lists(st.integers(1, 50), min_size=1))
def test_the_median_is_a_length_that_half_do_not_exceed(lengths: list[int]) -> None:
    middle = measure.quantile(Tally(lengths), 0.5)
    assert middle == sorted(lengths)[(len(lengths) - 1) // 2]


def test_a_row_is_seen_again_in_whatever_order_its_columns_stand() -> None:
    seen = Seen()
    seen.remember({"a": 1, "b": 2}, "x:7")
    assert seen.before({"b": 2, "a": 1}) == "x:7"
    assert seen.before({"a": 1}) is None
    seen.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process its own peak")
def test_memory_stays_flat(tmp_path: Path) -> None:
    """A file ten times as large takes no more: 3 MB and 30 MB of rows."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom ax_recipe.checks import survey\n"
        "survey.of_file(sys.argv[1], None, None)\n"
        "print(next(w for w in Path('/proc/self/status').read_text().splitlines() if w.startswith('VmHWM')).split()[1])"
    )
    peaks = []
    for count in (1_000, 10_000):
        path = tmp_path / f"{count}.jsonl"
        turn = {"role": "assistant", "content": "Arr! " * 580}
        lines(path, [{"messages": [{"role": "user", "content": f"{i}?"}, turn]} for i in range(count)])
        argv = [sys.executable, "-c", program, str(path)]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "wrapper")}
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 4, peaks


@pytest.mark.axolotl
@pytest.mark.slow
def test_the_tokenizer_itself_counts_where_it_is_here(place: Path, invoke: Invoke) -> None:
    """The base's tokenizer has a token for each byte and each mark, so what comes out can be counted by hand."""
    command = installed_axolotl()
    found = answer(invoke, config(place), "--axolotl", str(command))
    row = json.loads((place / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    said = [len(turn["content"].encode()) for turn in row["messages"]]
    # BOS; for each turn two marks of a header, its role, two line ends, and the end mark.
    expected = 1 + sum(said) + len("user") + len("assistant") + 2 * (2 + 2 + 1)
    assert found["exact"] is True
    assert found["lengths"]["min"] == expected
    assert found["trained_share"] == pytest.approx((said[1] + 1) / expected, abs=0.02)


def test_a_reader_is_there_for_every_type() -> None:
    template = Template(PLAIN, {"eos_token": "</s>"}, ["</s>"])
    examples: dict[str, dict[str, Any]] = {
        "alpaca": {"instruction": "a", "input": "b", "output": "c"},
        "alpaca_chat.load_qa": {"question": "a", "answer": "c"},
        "gpteacher": {"instruction": "a", "response": "c"},
        "input_output": {"segments": [{"label": False, "text": "a"}, {"label": True, "text": "c"}]},
        "completion": {"text": "c"},
        "alpaca_w_system.load_open_orca": {"system_prompt": "s", "question": "a", "response": "c"},
    }
    for kind, row in examples.items():
        sample = reader({"type": kind}, {}, template, "</s>")(row)
        trained = "".join(s.text[a:b] for s in sample.segments for a, b in s.trained)
        assert trained.removesuffix("</s>") == "c", kind


def test_the_turns_of_sharegpt_are_read_when_they_are_mapped() -> None:
    dataset = {"field_messages": "conversations", "message_property_mappings": {"role": "from", "content": "value"}}
    row = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Arr!"}]}
    read = turns.read(row, turns.settings(dataset, {}))
    assert [(turn.role, turn.trained) for turn in read] == [("user", False), ("assistant", True)]


ECHO = "import json, sys\nfor line in sys.stdin:\n    print(json.dumps([json.loads(line)]), flush=True)\n"


def partner(folder: Path, text: str) -> Partner:
    (folder / "probe.py").write_text(text, encoding="utf-8")
    return Partner(Path(sys.executable), folder / "probe.py")


def test_a_partner_answers_line_by_line(tmp_path: Path) -> None:
    with partner(tmp_path, ECHO) as asked:
        for value in ({"a": "é\n"}, [1], None):
            asked.tell(value)
            assert asked.hear() == [value]


def test_a_partner_that_ends_says_why(tmp_path: Path) -> None:
    with partner(tmp_path, "raise SystemExit('no tokenizer here')") as asked:
        asked.tell(1)
        with pytest.raises(MissingError, match="no tokenizer here"):
            asked.hear()


def test_a_partner_that_fails_halfway_is_no_end_of_the_rows(tmp_path: Path) -> None:
    text = "print(1, flush=True)\nraise ValueError('torn')"
    with partner(tmp_path, text) as asked, pytest.raises(MissingError, match="torn"):
        assert list(asked.all()) == [1]


def test_one_flaw_of_many_rows_is_not_said_of_each(place: Path, invoke: Invoke) -> None:
    row = json.dumps({"messages": CHAT}) + "\n"
    (place / "doubled.jsonl").write_text(row * 40 + "{broken\n", encoding="utf-8")
    said = invoke("data", "doubled.jsonl").stdout
    assert said.count("[AX018]") == 5
    assert "doubled.jsonl:41" in said
    assert "and 34 more findings" in said
