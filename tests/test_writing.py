"""``ax-recipe new``: a few answers become a recipe that passes, for every form of data and kind of model."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import stories
from ax_recipe.checks import checking, survey
from ax_recipe.cli import recipes as verbs
from ax_recipe.data import glance, turns
from ax_recipe.errors import RecipeError
from ax_recipe.explain import families
from ax_recipe.forecast import by_bytes, hardware
from ax_recipe.plan import plan
from ax_recipe.recipe import recipe
from ax_recipe.run import preparing
from ax_recipe.ship import prompter
from ax_recipe.verbs import writing
from ax_recipe.verbs.choosing import Answers
from conftest import ROOT, Invoke, Started

CHAT = {"messages": [{"role": "user", "content": "Why is it so?"}, {"role": "assistant", "content": "Arr. " * 100}]}
PAIR = {
    side: [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": side}]
    for side in ("chosen", "rejected")
}
ROWS: Mapping[str, Mapping[str, Any]] = {
    "chat": CHAT,
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ahoy"}]},
    "roles": {"dialog": [{"role": "customer", "content": "Hi"}, {"role": "agent", "content": "Ahoy"}]},
    "alpaca": {"instruction": "Say ahoy", "input": "", "output": "Ahoy"},
    "qa": {"question": "Who are you?", "answer": "A pirate"},
    "text": {"text": "Once upon a time there was a pirate. " * 40},
    "content": {"content": "Once upon a time there was a pirate."},
    "preference": PAIR,
}
BASES = ("NousResearch/Meta-Llama-3.1-8B", "Qwen/Qwen3-4B", "unsloth/gemma-3-1b-it", "HuggingFaceTB/SmolLM2-360M")
HARDWARE = ("1xRTX4090-24GB", "4xA100-80GB", "0")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def data(name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def made(base: str, rows: Mapping[str, Any], count: int = 300, goal: str | None = None, gpus: str = "0") -> Path:
    file = data("rows.jsonl", [rows] * count)
    return writing.write(Answers("mine", base, file, goal, gpus, True)).file


def value(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("gpus", HARDWARE)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("form", ROWS)
def test_what_is_written_passes_the_checks_and_fits(form: str, base: str, gpus: str) -> None:
    path = made(base, ROWS[form], 40, gpus=gpus)
    checked = checking.quick(str(path), None, None)
    assert not checked.wrong, [str(problem) for problem in checked.problems]
    found = recipe.load(str(path))
    planned = plan.make(found, preparing.wanted_hardware(found), "out", "prepared", "base")
    assert preparing.foretold(planned).verdict in {"fits", "tight", "unknown"}
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=ax-recipe.schema.json\n")
    assert all(len(line) <= 120 for line in path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (1, ("# 1 row, ", "# 1 row is few: each is seen 4 times", "about 1 step an epoch")),
        (10, ("# 10 rows, ", "# 10 rows are few", "about 2 steps an epoch", "# 1 of 10 rows is kept apart")),
        (40, ("# 40 rows, ", "about 10 steps an epoch", "# 4 of 40 rows are kept apart")),
    ],
)
def test_one_of_a_thing_is_not_called_several(rows: int, words: tuple[str, ...]) -> None:
    text = made(BASES[0], CHAT, rows).read_text(encoding="utf-8")
    assert [word for word in words if word not in text] == [], text


def test_the_schema_lies_beside_and_is_ours() -> None:
    made(BASES[0], CHAT)
    assert json.loads(Path("ax-recipe.schema.json").read_text(encoding="utf-8")) == recipe.schema()


def test_the_columns_and_roles_of_the_data_are_mapped() -> None:
    row = value(made(BASES[0], ROWS["sharegpt"]))["data"][0]
    assert row == {
        "path": "./rows.jsonl",
        "type": "chat_template",
        "field_messages": "conversations",
        "message_property_mappings": {"role": "from", "content": "value"},
    }
    Path("mine.yaml").unlink()
    row = value(made(BASES[0], ROWS["roles"]))["data"][0]
    assert row["roles"] == {"user": ["customer"], "assistant": ["agent"]}
    Path("mine.yaml").unlink()
    row = value(made(BASES[0], ROWS["content"]))["data"][0]
    assert (row["type"], row["field"]) == ("completion", "content")


def said(*names: str) -> dict[str, Any]:
    return {"messages": [{"role": name, "content": f"words of {name}"} for name in names]}


@pytest.mark.parametrize(
    ("rows", "roles"),
    [
        (
            [*[said("user", "assistant")] * 50, said("human", "bot"), said("user", "assistant", "user")],
            {"user": ["user", "human"], "assistant": ["assistant", "bot"]},
        ),
        ([said("user", "model", "user")] * 50, {"user": ["user"], "assistant": ["model"]}),
        ([said("system", "user", "model")] * 50, {"system": ["system"], "user": ["user"], "assistant": ["model"]}),
        ([said("caller", "gpt"), said("user")], {"user": ["caller", "user"], "assistant": ["gpt"]}),
        ([*[said("q", "a", "q", "a")] * 9, said("q", "a", "q")], {"user": ["q"], "assistant": ["a"]}),
        ([said("User", "Assistant")] * 50, {"user": ["User"], "assistant": ["Assistant"]}),
        ([said("developer", "user", "assistant")] * 50, None),
        ([said("user", "assistant", "user")] * 50, None),
    ],
)  # fmt: skip
def test_known_names_keep_their_roles_and_the_others_are_told_by_whom_they_answer(
    rows: list[dict[str, Any]], roles: dict[str, list[str]] | None
) -> None:
    found = glance.chat_keys(rows).get("roles")
    assert found == roles
    guessed = {name for names in (found or {}).values() for name in names} - {*turns.ROLES, "User", "Assistant"}
    assert all(name in glance.guesses({"roles": found}) for name in guessed)
    assert bool(glance.guesses({"roles": found})) == bool(guessed)


def test_a_role_that_was_guessed_is_said_and_stands_in_the_recipe() -> None:
    file = data(
        "rows.jsonl", [*[said("user", "assistant")] * 50, said("human", "bot"), said("user", "assistant", "user")]
    )
    written = writing.write(Answers("mine", BASES[0], file, None, "1xRTX4090-24GB", True))
    assert any("trained: bot as assistant" in note for note in written.notes)
    assert "# guessed: bot as assistant" in written.file.read_text(encoding="utf-8")
    shown = survey.of_file(str(written.file), None, None).parts[0].measured.shown
    text = "".join(
        seg.text[start:stop] for _, sample in shown for seg in sample.segments for start, stop in seg.trained
    )
    assert "words of assistant" in text
    assert "words of user" not in text


def test_columns_that_no_type_names_get_a_prompt_that_can_be_shipped() -> None:
    row = value(made(BASES[0], ROWS["qa"]))["data"][0]
    assert row["type"]["field_instruction"] == "question"
    assert row["type"]["field_output"] == "answer"
    jinja = prompter.of_config({"datasets": [row]})
    assert jinja
    assert "### Instruction:" in jinja


@pytest.mark.parametrize(
    ("base", "template", "eos"),
    [
        ("NousResearch/Meta-Llama-3.1-8B", "llama3", "<|eot_id|>"),
        ("Qwen/Qwen3-4B-Base", "chatml", "<|im_end|>"),
        ("Qwen/Qwen3-4B", "qwen3", "<|im_end|>"),
        ("unsloth/gemma-3-1b-it", "gemma3", "<end_of_turn>"),
        ("microsoft/phi-4", "tokenizer_default", None),
        ("someone/unheard-of-7b", "alpaca", None),
        ("someone/unheard-of-7b-chat", "tokenizer_default", None),
    ],
)
def test_the_template_is_that_of_the_models_family(base: str, template: str, eos: str | None) -> None:
    found = value(made(base, CHAT))
    assert found["chat_template"] == template
    assert found.get("axolotl", {}).get("special_tokens", {}).get("eos_token") == eos


def local(template: str | None, tokens: Iterable[str]) -> str:
    folder = Path("model")
    folder.mkdir()
    shape = {**stories.SHAPE, "max_position_embeddings": 512}
    (folder / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    named = ["<s>", "</s>", *tokens]
    added = [{"id": number, "content": name, "special": True} for number, name in enumerate(named)]
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": added}), encoding="utf-8"
    )
    config = {"bos_token": "<s>", "eos_token": "</s>"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return "./model"


def test_a_local_models_own_template_is_taken() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    path = made(local(template, []), CHAT)
    assert value(path)["chat_template"] == "tokenizer_default"
    assert value(path)["base"] == "./model"
    assert value(path)["train"]["sequence_len"] <= 512
    assert not checking.quick(str(path), None, None).wrong


def test_a_local_base_gets_a_template_whose_marks_it_has() -> None:
    path = made(local(None, ["<|im_start|>", "<|im_end|>"]), CHAT)
    assert value(path)["chat_template"] == "chatml"
    assert not checking.quick(str(path), None, None).wrong


def test_a_local_base_without_marks_gets_plain_words() -> None:
    assert value(made(local(None, []), CHAT))["chat_template"] == "alpaca"


def test_length_epochs_and_batch_follow_the_rows() -> None:
    few = value(made(BASES[0], CHAT, 300, gpus="1xH100-80GB"))["train"]
    Path("mine.yaml").unlink()
    many = value(made(BASES[0], CHAT, 30_000, gpus="1xH100-80GB"))["train"]
    assert (few["num_epochs"], many["num_epochs"]) == (4, 1)
    assert few["sample_packing"] is False
    assert "sample_packing" not in many
    assert few["global_batch_size"] < many["global_batch_size"]
    assert few["sequence_len"] == many["sequence_len"] == 1024
    tokens = by_bytes.tokens(CHAT)
    assert 30_000 * tokens / many["sequence_len"] / many["global_batch_size"] >= 50


def test_the_batch_can_be_split_over_the_gpus() -> None:
    assert value(made(BASES[0], CHAT, gpus="8xH100-80GB"))["train"]["global_batch_size"] % 8 == 0


def test_the_method_is_the_least_that_fits() -> None:
    assert value(made("NousResearch/Meta-Llama-3.1-70B", CHAT, gpus="1xA100-80GB"))["method"] == "qlora"
    Path("mine.yaml").unlink()
    assert value(made(BASES[0], CHAT, gpus="1xH100-80GB"))["method"] == "lora"
    Path("mine.yaml").unlink()
    assert value(made("Qwen/Qwen3-0.6B-Base", CHAT, 6000, gpus="1xH100-80GB"))["method"] == "full"


def test_what_fits_nowhere_is_said() -> None:
    file = data("rows.jsonl", [CHAT] * 50)
    written = writing.write(Answers("mine", "NousResearch/Meta-Llama-3.1-70B", file, None, "1xRTX4090-24GB", True))
    assert "even qlora will not fit 1xRTX4090-24GB" in written.notes[0]


def test_rows_of_chinese_get_the_length_that_they_need() -> None:
    said = "您的订单明天发货" * 150  # 1,200 signs, and about as many tokens
    turns = [{"role": "user", "content": "什么时候发货"}, {"role": "assistant", "content": said}]
    assert value(made(BASES[0], {"messages": turns}, gpus="1xRTX4090-24GB"))["train"]["sequence_len"] == 2048


def test_turns_written_as_json_are_turns() -> None:
    turns = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    path = made(BASES[0], {"conversations": json.dumps(turns)})
    assert value(path)["data"][0]["message_property_mappings"] == {"role": "from", "content": "value"}
    assert not checking.quick(str(path), None, None).problems


@pytest.mark.parametrize("turns", ["x", "[1]", [], None])
def test_a_column_of_turns_that_holds_none_is_told(turns: object) -> None:
    with pytest.raises(RecipeError, match="`conversations` holds no turns"):
        made(BASES[0], {"conversations": turns})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps({"data": [{"text": "x"}]}, indent=1), "one JSON object over many lines"),
        (f"{ {'text': 'x'} }\n", "single quotes"),
        ('{"frage": "x", "antwort": "y"}\n', "instruction and output, or question and answer"),
    ],
)
def test_data_of_a_form_that_nobody_reads_is_told_as_a_whole(text: str, told: str) -> None:
    Path("rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as told_of:
        writing.write(Answers("mine", BASES[0], "rows.jsonl", None, "0", True))
    assert told in str(told_of.value)


def test_preferences_go_by_what_the_model_can() -> None:
    assert value(made("Qwen/Qwen3-4B", PAIR))["rl"] == "dpo"
    Path("mine.yaml").unlink()
    assert value(made("Qwen/Qwen3-4B-Base", PAIR))["rl"] == "orpo"
    Path("mine.yaml").unlink()
    text = {"prompt": "x", "chosen": "a", "rejected": "b"}
    assert value(made("Qwen/Qwen3-4B-Base", text))["rl"] == "dpo"  # orpo reads no text
    Path("mine.yaml").unlink()
    with pytest.raises(RecipeError, match="cannot be read with rl: dpo"):
        made("Qwen/Qwen3-4B", {**text, "system": "y"})


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"prompt": "x", "chosen": "a", "rejected": "b"}, "prompt"),
        ({"question": "x", "chosen": "a", "rejected": "b"}, "question"),
        ({"prompt": PAIR["chosen"][:1], **{side: turns[1:] for side, turns in PAIR.items()}}, "prompt"),
    ],
)
def test_an_answer_of_text_or_one_turn_is_read_with_the_column_it_answers(row: dict[str, Any], asked: str) -> None:
    path = made("Qwen/Qwen3-4B", row)
    (read,) = value(path)["data"]
    assert (read["type"], read["field_messages"]) == ("chat_template.default", asked)
    assert not checking.quick(str(path), None, None).problems
    text = path.read_text(encoding="utf-8").replace(".default", "").replace(f"    field_messages: {asked}\n", "")
    path.write_text(text, encoding="utf-8")
    (problem,) = checking.quick(str(path), None, None).problems
    assert problem.suggestion == f"The rows are preferences: type: chat_template.default, field_messages: {asked}."


def test_rows_beside_the_data_are_held_out() -> None:
    data("held-out.jsonl", [CHAT])
    found = value(made(BASES[0], CHAT))
    assert found["held_out"][0]["path"] == "./held-out.jsonl"
    assert "val_set_size" not in found


def test_without_ollama_nothing_is_shipped() -> None:
    file = data("rows.jsonl", [CHAT] * 20)
    text = writing.write(Answers("mine", BASES[1], file, None, "0", False)).file.read_text(encoding="utf-8")
    assert "\nship:" not in text
    assert "--until check-merge" in text


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(RecipeError, match="holds completion rows"):
        made(BASES[0], ROWS["text"], goal="chat")
    with pytest.raises(RecipeError, match="no such file"):
        writing.write(Answers("mine", BASES[0], "nowhere.jsonl", None, "0", True))
    with pytest.raises(RecipeError, match="its columns are a, b"):
        made(BASES[0], {"a": 1, "b": 2})
    assert not Path("mine.yaml").exists()


def test_the_command_by_options_alone(invoke: Invoke) -> None:
    file = data("rows.jsonl", [CHAT] * 300)
    result = invoke("new", "--base", "Qwen/Qwen3-4B", "--data", file, "--gpus", "1xRTX4090-24GB")
    assert result.exit_code == 0, result.stderr
    assert Path("qwen3-4b-rows.yaml").is_file()
    assert "qwen3-4b-rows.yaml: yours now" in result.stdout
    again = invoke("new", "--base", "Qwen/Qwen3-4B", "--data", file)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_what_is_written_ends_well_and_says_what_is_to_be_mended_first(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "here", lambda: hardware.CPU)
    file = data("rows.jsonl", [CHAT] * 30)
    with Path(file).open("a", encoding="utf-8") as rows:
        rows.write("{broken\n")
    result = invoke("new", "mine", "--base", "Qwen/Qwen3-4B", "--data", file)
    assert result.exit_code == 0
    assert "1 error. Next: mend that, then ax-recipe check mine.yaml" in result.stdout
    assert "rows.jsonl:31: no JSON" in result.stderr
    assert "for 1xH100-80GB, since this machine has no GPU" in result.stderr
    assert value(Path("mine.yaml"))["gpus"] == "1xH100-80GB"
    said = invoke("new", "other", "--base", "Qwen/Qwen3-4B", "--data", file, "--gpus", "0").stderr
    assert "this machine has no GPU" not in said


def test_rows_that_only_the_training_environment_reads_are_not_called_absent() -> None:
    Path("rows.parquet").write_bytes(b"PAR1")
    notes = writing.write(Answers("mine", BASES[1], "rows.parquet", None, "0", True)).notes
    assert any(note.startswith("rows.parquet can be read by the training environment alone") for note in notes)


def test_where_nobody_can_be_asked_the_options_are_named(invoke: Invoke) -> None:
    result = invoke("new", "mine")
    assert result.exit_code == 2
    assert "--base and --data missing" in result.stderr
    assert "--goal, --gpus and --name" in result.stderr


def test_a_copy_names_the_schema_too(invoke: Invoke) -> None:
    assert invoke("new", "copied", "--from", "pirate-tiny").exit_code == 0
    text = Path("copied.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=ax-recipe.schema.json\n# A Llama")
    assert Path("pirate-tiny/pirate.jsonl").is_file()
    nameless = invoke("new", "--from", "pirate")
    assert nameless.exit_code == 2
    assert "a name for the copy is missing" in nameless.stderr


def test_a_copy_has_its_data_and_leaves_what_is_there() -> None:
    first = recipe.load(str(writing.copy("pirate-tiny", "mine").file))
    data = [path for _, path in recipe.local_files(first)]
    assert data
    assert all(path.is_relative_to(Path.cwd()) and path.is_file() for path in data)
    with pytest.raises(RecipeError, match=r"mine\.yaml is there already"):
        writing.copy("pirate-tiny", "mine")
    second = recipe.load(str(writing.copy("./mine.yaml", "second").file))
    assert [path for _, path in recipe.local_files(second)] == data
    data[0].write_text("what its owner made of it\n")
    with pytest.raises(RecipeError, match="is there already, and is not that of pirate-tiny"):
        writing.copy("pirate-tiny", "third")
    assert data[0].read_text() == "what its owner made of it\n"
    assert not Path("third.yaml").exists()


def test_six_questions_on_a_terminal_and_a_wrong_answer_is_asked_again() -> None:
    data("rows.jsonl", [CHAT] * 30)
    answers = ["base.txt", "Qwen/Qwen3-4B", "row.jsonl", "rows.jsonl", "", "1xFOO", "1xRTX4090-24GB", "asked", "n"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "NO_COLOR": "1"}
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "ax_recipe", "new"]
    with Started(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        said, deadline = "", time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    said += os.read(ours, 4096).decode()
                except OSError:  # the other end was closed
                    break
                if answers and re.search(r"(\]|\)|Name of the recipe \[\S+\])?: $", said.rsplit("\n", 1)[-1]):
                    os.write(ours, (answers.pop(0) + "\n").encode())
        assert child.wait(10) == 0, said
    os.close(ours)
    assert not answers
    assert said.count("Goal") == 1
    assert all(words in said for words in ("no such folder", "no such file", "unknown kind of GPU"))
    assert "[chat]" in said
    found = value(Path("asked.yaml"))
    assert (found["base"], found["gpus"]) == ("Qwen/Qwen3-4B", "1xRTX4090-24GB")
    assert "ship" not in found


def test_the_goals_of_the_option_are_those_of_the_writer() -> None:
    assert verbs.GOALS == writing.GOALS


def test_the_schema_is_printed_and_written(invoke: Invoke) -> None:
    printed = invoke("schema")
    assert json.loads(printed.stdout) == recipe.schema()
    assert invoke("schema", "--out", "s.json").exit_code == 0
    assert Path("s.json").read_text(encoding="utf-8") == printed.stdout


def test_every_key_of_a_recipe_says_what_it_is() -> None:
    found = recipe.schema()
    rooms = {"": found, **found["$defs"]}
    keys = [(room, key, node) for room, each in rooms.items() for key, node in each.get("properties", {}).items()]
    assert len(keys) > 60
    assert not [f"{room}.{key}" for room, key, node in keys if not node.get("description")]


def test_families_by_name() -> None:
    named = {base: families.of(base) for base in ("meta-llama/Llama-3.2-1B", "google/gemma-2-9b", "x/falcon-7b")}
    assert [family.name if family else None for family in named.values()] == ["Llama 3", "Gemma", None]
    assert families.is_taught("unsloth/gemma-3-1b-it")
    assert not families.is_taught("Qwen/Qwen3-4B-Base")


@pytest.mark.axolotl
@pytest.mark.slow
@pytest.mark.parametrize("form", ROWS)
def test_axolotl_takes_what_is_written(form: str, invoke: Invoke) -> None:
    path = made("NousResearch/Meta-Llama-3.1-8B", ROWS[form], gpus="1xH100-80GB")
    result = invoke("check", str(path))
    assert result.exit_code == 0, result.stdout
