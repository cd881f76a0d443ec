"""Eighty configs with one mistake each: every one is found, with code and line, and nothing in a good one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe import axolotl as environment
from ax_recipe.checks import all as checks
from ax_recipe.checks import checking, planned, rows, unwritten
from ax_recipe.checks.subject import Subject
from ax_recipe.codes import CODES
from ax_recipe.data import marks
from ax_recipe.errors import Problem
from ax_recipe.forecast import hardware
from ax_recipe.forecast.hardware import CPU, parse
from ax_recipe.recipe import recipe
from ax_recipe.recipe.document import Document
from ax_recipe.run import preparing
from conftest import Invoke, installed_axolotl
from wrong_configs import GOOD, WRONG, Wrong, data, lay_out, write

QUICK = {name: wrong for name, wrong in WRONG.items() if not wrong.axolotl}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the configs name, in which the command runs."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "HF_HOME", "HUGGING_FACE_HUB_TOKEN", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    return tmp_path


def test_there_are_more_than_forty() -> None:
    assert len(WRONG) >= 80
    assert {wrong.code for wrong in WRONG.values()} <= set(CODES)


def test_a_good_config_has_no_finding(place: Path) -> None:
    checked = checking.quick(str(write(place, Wrong("", {}))), "1xH100-80GB", None)
    assert [str(problem) for problem in checked.problems] == []


@pytest.mark.parametrize("name", QUICK)
def test_a_mistake_is_found(name: str, place: Path) -> None:
    wrong = QUICK[name]
    checked = checking.quick(str(write(place, wrong)), wrong.gpus, None)
    found = [problem for problem in checked.problems if problem.code == wrong.code]
    assert found, [str(problem) for problem in checked.problems]
    worst = min(found, key=lambda problem: problem.severity)
    assert worst.severity == wrong.severity
    assert worst.file
    assert worst.message
    if wrong.code not in {"AX004", "AX053"}:  # of what is missing there is no line
        assert worst.line, str(worst)


@pytest.mark.parametrize("name", ["misspelt key", "all masked", "broken row", "gated model"])
def test_the_command_answers_in_json(name: str, place: Path, invoke: Invoke) -> None:
    wrong = WRONG[name]
    result = invoke("check", str(write(place, wrong)), "--gpus", wrong.gpus, "--json")
    answer = json.loads(result.stdout)
    assert set(answer) == {"problems"}
    found = next(each for each in answer["problems"] if each["code"] == wrong.code)
    assert set(found) == {"code", "severity", "file", "line", "key", "message", "suggestion"}
    assert result.exit_code == 2


@pytest.mark.usefixtures("no_axolotl")
def test_a_good_config_ends_with_0(place: Path, invoke: Invoke) -> None:
    good = Wrong("", {"attn_implementation": "sdpa"})  # flash-attn may be missing where the tests run, and is told
    result = invoke("check", str(write(place, good)), "--gpus", "1xH100-80GB", "--json")
    assert (json.loads(result.stdout), result.exit_code) == ({"problems": []}, 0)


@pytest.mark.usefixtures("no_axolotl")
def test_warnings_alone_end_with_0(place: Path, invoke: Invoke) -> None:
    result = invoke("check", str(write(place, WRONG["warmup to the end"])), "--gpus", "1xH100-80GB")
    assert result.exit_code == 0
    assert "AX048" in result.stdout
    assert re.search(r"\d warnings?", result.stdout)


def test_all_mistakes_are_named_at_once(place: Path, invoke: Invoke) -> None:
    names = ("misspelt key", "rank 0", "misspelt module", "all masked", "qlora in 16 bit", "two warmups")
    keys = {key: value for name in names for key, value in WRONG[name].keys.items()}
    result = invoke("check", str(write(place, Wrong("", keys))), "--json")
    found = {each["code"] for each in json.loads(result.stdout)["problems"]}
    assert {WRONG[name].code for name in names} <= found


@pytest.mark.parametrize(
    ("text", "code"),
    [("base_model: [", "AX006"), ("", "AX006"), ("- a\n- b\n", "AX006"), ("base_model: x\nbase_model: y\n", "AX005")],
)
def test_a_file_that_is_no_config_is_named(text: str, code: str, tmp_path: Path, invoke: Invoke) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text, encoding="utf-8")
    result = invoke("check", str(path), "--json")
    assert result.exit_code == 2
    assert code in {each["code"] for each in json.loads(result.stdout)["problems"]}


@pytest.mark.parametrize("name", [path.stem for path in recipe.bundled()])
def test_the_bundled_recipes_are_right(name: str) -> None:
    checked = checking.quick(name, None, None)
    assert [str(problem) for problem in checked.problems if problem.severity == "error"] == []


def test_a_recipe_is_spoken_of_in_its_own_keys(small_recipe: Path) -> None:
    (small_recipe.parent / "rows.jsonl").unlink()
    found = checking.quick(str(small_recipe), None, None).problems
    assert {problem.key for problem in found if problem.code == "AX012"} == {"data[0].path", "held_out[0].path"}
    assert all(problem.line for problem in found if problem.code == "AX012")


def test_what_is_wrong_by_itself_is_told_in_one_round_whatever_else_is(small_recipe: Path) -> None:
    (small_recipe.parent / "wrong.yaml").write_text(
        """base: ./base
gpus: 1xFOO
chat_template: llama4x
data: [{path: rows.jsonl, type: chat_templat, messages_field: messages}, {path: no.jsonl, type: chat_template}]
held_out: rows.jsonl
train: {learning_rate: fast, num_epochs: -1, evals_per_epoch: 1}
targets: {loss: [0.8, 0.5]}
ship: {model: Bad Name!, quantize: q9}
checks: {prompts: [Ahoy?], contains: arr, at_least: 2}
""",
        encoding="utf-8",
    )
    found = checking.quick(str(small_recipe.parent / "wrong.yaml"), None, None).problems
    assert [(problem.line, problem.code, problem.key) for problem in found] == [
        (2, "AX010", "gpus"), (3, "AX003", "chat_template"), (4, "AX001", "data[0].messages_field"),
        (4, "AX003", "data[0].type"), (4, "AX012", "data[1].path"), (5, "AX002", "held_out"),
        (6, "AX002", "train.learning_rate"), (6, "AX010", "train.num_epochs"), (7, "AX010", "targets.loss"),
        (8, "AX003", "ship.model"), (8, "AX003", "ship.quantize"), (9, "AX010", "checks.at_least"),
    ]  # fmt: skip
    fixes = {problem.key: problem.suggestion or "" for problem in found}
    assert "`field_messages`" in fixes["data[0].messages_field"]
    assert "`- path: rows.jsonl`" in fixes["held_out"]
    assert "[0.5, 0.8]" in fixes["targets.loss"]


def test_what_a_wrong_type_has_no_part_in_is_told_in_the_same_round(small_recipe: Path) -> None:
    text = small_recipe.read_text(encoding="utf-8").replace("gpus: 0", "gpus: 1xT4-16GB")
    text += "lora: {target_modules: [qproj]}\ntrain: {sequence_len: SEQUENCE}\n"
    text += "axolotl: {bf16: true, plugins: [boats.Plugin], save_steps: 5, saves_per_epoch: 2}\n"

    def found(length: str) -> set[tuple[str, str | None]]:
        small_recipe.write_text(text.replace("SEQUENCE", length), encoding="utf-8")
        return {(each.code, each.key) for each in checking.quick(str(small_recipe), None, None).problems}

    right = found("512")
    assert {code for code, _ in right} >= {"AX029", "AX035", "AX043", "AX056"}
    assert found("x") == right | {("AX002", "train.sequence_len")}


@given(
    st.dictionaries(
        st.sampled_from(
            ["base", "base.x", "data", "train", "train.seed", "ship", "checks", "gpus", "targets", "x", 5, ""]
        ),
        st.recursive(
            st.sampled_from([None, True, -1, 2.5, "x", "a.b", "4xA100-80GB"]),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["path", "seed", "model", "loss", "prompts", "data"]), inner, max_size=3
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_no_recipe_makes_a_check_stumble(tmp_path_factory: pytest.TempPathFactory, keys: dict[Any, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "some.yaml"
    file.write_text(yaml.safe_dump({"base": "o/m", "data": [{"path": "o/d"}], **keys}), encoding="utf-8")
    found = checking.quick(str(file), "0", None).problems
    assert len(found) == len(set(found))


def test_what_is_wrong_with_a_recipe_stands_before_what_is_wrong_with_its_rows(small_recipe: Path) -> None:
    with (small_recipe.parent / "rows.jsonl").open("r+", encoding="utf-8") as file:
        file.write("x")
    text = small_recipe.read_text(encoding="utf-8")
    for more in ("train: {num_epochs: x}", "trian: {}"):
        small_recipe.write_text(f"{text}{more}\n", encoding="utf-8")
        found = checking.quick(str(small_recipe), None, None).problems
        assert [Path(each.file or "").name for each in found] == ["small.yaml", "rows.jsonl"]


def test_what_is_missing_ends_the_round(small_recipe: Path) -> None:
    small_recipe.write_text("data:\n- rows.jsonl\ngpus: 0\n", encoding="utf-8")
    found = checking.quick(str(small_recipe), None, None).problems
    assert [(problem.code, problem.key, problem.suggestion) for problem in found] == [
        ("AX004", None, "Add `base:` (text)."),
        ("AX002", "data[0]", "Write `path: rows.jsonl`."),
    ]


def test_a_field_has_one_name_whoever_finds_fault_with_it(small_recipe: Path) -> None:
    text = small_recipe.read_text(encoding="utf-8").replace("path: rows.jsonl", "path: ./row.jsonl", 1)
    text = text.replace("type: chat_template", "type: chat_templat", 1) + "axolotl: {attn_implementation: flash_attn}\n"
    small_recipe.write_text(text.replace("gpus: 0", "gpus: 1xA100-80GB"), encoding="utf-8")
    found = {(problem.code, problem.key) for problem in checking.quick(str(small_recipe), None, None).problems}
    wanted = {("AX012", "data[0].path"), ("AX003", "data[0].type"), ("AX003", "axolotl.attn_implementation")}
    assert wanted <= found


def test_a_recipe_that_cannot_be_split_is_a_finding(small_recipe: Path) -> None:
    found = checking.quick(str(small_recipe), "5", None).problems
    assert [problem.code for problem in found] == ["AX010"]


A100 = "1xA100-80GB"
SPEAKS = {"AX041", "AX042", "AX043", "AX044"}


def packed(recipe_file: Path, axolotl: str = "", train: str = "") -> list[Problem]:
    """What is told of attention and packages, for the recipe on an A100."""
    text = recipe_file.read_text(encoding="utf-8").partition("\ntrain:")[0].replace("gpus: 0", f"gpus: {A100}")
    recipe_file.write_text(f"{text}\ntrain: {{{train}}}\naxolotl: {{{axolotl}}}\n", encoding="utf-8")
    found = checking.quick(str(recipe_file), None, environment.find()).problems
    return [problem for problem in found if problem.code in SPEAKS]


def offered(problem: Problem) -> list[dict[str, str]]:
    """The settings that a remedy names, each as the blocks of the recipe that it stands in."""
    found = re.findall(r"(train|axolotl): \{([^}]+)\}", problem.suggestion or "")
    return [{room: keys} for room, keys in found]


def installed(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "lib/python3.11/site-packages" / f"{name.replace('-', '_')}-1.0.dist-info").mkdir()


@pytest.mark.parametrize(
    ("here", "offline", "cached", "packages", "attention", "said"),
    [
        (A100, "1", False, ("kernels",), "flex_attention", None),
        (A100, "", False, (), "flex_attention", None),
        (A100, "1", True, ("kernels",), "flash_attention_2", "warning"),
        (A100, "", False, ("kernels",), "flash_attention_2", "warning"),
        (A100, "1", False, ("kernels", "flash-attn"), "flash_attention_2", None),
        ("0", "1", False, (), "flash_attention_2", "warning"),
        ("1xT4-16GB", "1", False, (), "flash_attention_2", "warning"),
    ],
)
def test_attention_is_what_the_machine_that_trains_can_have(
    here: str, offline: str, cached: bool, packages: tuple[str, ...], attention: str, said: str | None,
    small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(hardware, "here", lambda: parse(here))
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_HUB_CACHE", str(small_recipe.parent / "hub"))
    (small_recipe.parent / "hub").mkdir()
    if cached:
        (small_recipe.parent / "hub/kernels--kernels-community--flash-attn2/snapshots/main").mkdir(parents=True)
    installed(fake_axolotl, "liger-kernel", *packages)
    found = packed(small_recipe)
    assert [(problem.code, problem.severity) for problem in found] == ([("AX042", said)] if said else [])
    made = preparing.for_print(recipe.load(str(small_recipe)), None, environment.find()).train
    assert made.values["attn_implementation"] == attention
    assert ("cannot be fetched" in made.origins["attn_implementation"].reason) == (attention == "flex_attention")
    orders = preparing.for_run(recipe.load(str(small_recipe)), parse(A100), environment.find(), Path("runs")).orders
    alone = {"HF_HUB_OFFLINE" in stage["environment"] for stage in orders["stages"] if stage["name"] == "train"}
    assert alone == {said is None}, "a run over local files keeps from the hub, unless it needs a kernel of it"


@pytest.mark.parametrize("here", [A100, "0"])
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("wanted", ["flash_attention_2", "flash_attention_3", "sdpa", "eager", "flex_attention"])
def test_every_remedy_for_attention_leads_to_a_recipe_that_passes(
    wanted: str, packs: bool, here: str, small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "here", lambda: parse(here))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    installed(fake_axolotl, "liger-kernel")
    given = {"axolotl": f"attn_implementation: {wanted}", "train": f"sample_packing: {str(packs).lower()}"}
    found = packed(small_recipe, **given)
    assert bool(found) == (wanted.startswith("flash") or (packs and wanted in {"sdpa", "eager"}))
    for problem in found:
        assert offered(problem), problem
        for change in offered(problem):
            left = [each for each in packed(small_recipe, **{**given, **change}) if each.severity == "error"]
            assert not left, (change, [str(each) for each in left])


def test_a_machine_that_is_not_this_one_may_have_what_is_not_installed_here(
    place: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "here", lambda: parse("1xA100-80GB"))
    plugins = ["axolotl.integrations.liger.LigerPlugin"]
    file = str(write(place, Wrong("", {"plugins": plugins, "liger_rope": True, "attn_implementation": "sdpa"})))
    for gpus, severity in (("1xH100-80GB", "warning"), ("1xA100-80GB", "error"), ("2xA100-80GB", "warning")):
        found = checking.quick(file, gpus, environment.find()).problems
        assert [problem.severity for problem in found if problem.code == "AX042"] == [severity]


@pytest.mark.usefixtures("fake_axolotl")
def test_run_refuses_what_check_finds(small_recipe: Path, invoke: Invoke) -> None:
    text = small_recipe.read_text(encoding="utf-8")
    small_recipe.write_text(f"{text}axolotl: {{lora_r: 0}}\n", encoding="utf-8")
    result = invoke("run", str(small_recipe))
    assert result.exit_code == 2
    assert "AX010" in result.stderr


def test_render_refuses_what_the_keys_alone_show(small_recipe: Path, invoke: Invoke) -> None:
    text = small_recipe.read_text(encoding="utf-8")
    small_recipe.write_text(f"{text}axolotl: {{bf16: true}}\n", encoding="utf-8")
    result = invoke("render", str(small_recipe))
    assert result.exit_code == 2
    assert "AX044" in result.stderr


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "test_datasets", "deepspeed", "plugins", "tokens", "rl"]), values))
def test_no_value_makes_a_check_stumble(keys: dict[str, Any]) -> None:
    for each in (CPU, parse("1xT4-16GB"), parse("4xA100-80GB")):
        for problem in checks.examine(Subject(Document({**GOOD, **keys}), each, Path("/nonexistent"))):
            assert problem.code in CODES


@pytest.mark.parametrize("text", ["x" * 5000, "./" + "y" * 300, "a\0b", "~nobody-here/x", "./\ud800", "/", "."])
def test_no_path_makes_a_check_stumble(text: str, tmp_path: Path) -> None:
    named = {"base_model": text, "tokenizer_config": text, "deepspeed": text, "output_dir": text, **data(path=text)}
    for problem in checks.examine(Subject(Document({**GOOD, **named}), CPU, tmp_path)):
        assert problem.code in CODES


@given(st.lists(st.dictionaries(st.sampled_from(["path", "type", "split", "roles", "roles_to_train"]), values)))
def test_no_dataset_makes_a_check_stumble(datasets: list[dict[str, Any]]) -> None:
    subject = Subject(Document({**GOOD, "datasets": datasets, "test_datasets": datasets}), CPU, Path("/nonexistent"))
    assert all(problem.code in CODES for problem in checks.examine(subject))


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_explained(code: str, invoke: Invoke) -> None:
    result = invoke("explain", code.lower())
    assert result.exit_code == 0
    assert all(word in result.stdout for word in (code, CODES[code].title, "means", "matters", "fix"))


def test_an_unknown_code_names_the_nearest(invoke: Invoke) -> None:
    result = invoke("explain", "AX0012")
    assert result.exit_code == 2
    assert "AX012" in result.stderr


@pytest.mark.axolotl
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, wrong in WRONG.items() if wrong.axolotl])
def test_axolotl_finds_what_is_left(name: str, place: Path, invoke: Invoke) -> None:
    wrong, command = WRONG[name], str(installed_axolotl())
    path = str(write(place, wrong))
    result = invoke("check", path, "--gpus", wrong.gpus, "--axolotl", command, "--json")
    found = [each for each in json.loads(result.stdout)["problems"] if each["code"] == wrong.code]
    assert found, result.stdout
    assert found[0]["severity"] == wrong.severity
    again = invoke("check", path, "--gpus", wrong.gpus, "--axolotl", command, "--json")
    assert again.stdout == result.stdout, "what is remembered is what was said"


@pytest.mark.axolotl
@pytest.mark.slow
def test_axolotl_has_nothing_against_a_good_config(place: Path, invoke: Invoke) -> None:
    command = str(installed_axolotl())
    path = write(place, Wrong("", {}))
    result = invoke("check", str(path), "--gpus", "1xH100-80GB", "--axolotl", command, "--json")
    errors = [each for each in json.loads(result.stdout)["problems"] if each["severity"] == "error"]
    assert errors == []
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == GOOD, "a copy is validated"


def test_a_base_that_was_made_before_is_no_other_run(tmp_path: Path) -> None:
    mine = recipe.load("pirate-tiny")
    made = preparing.base_folder(mine, None)
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"made")
    planned.refuse(preparing.for_print(mine, None, None), None, checks.examine)


def test_a_warning_is_called_one_and_an_error_comes_first_where_a_verb_is_refused(place: Path, invoke: Invoke) -> None:
    keys = {"flash_attention": True, "attn_implementation": None, "lora_rank": 8}
    path = str(write(place, Wrong("", keys)))
    told = invoke("check", path, "--gpus", "1xH100-80GB").stdout
    assert re.search(r":\d+: warning: flash_attention: .*\[AX009\]", told)
    assert re.search(r":\d+: lora_rank: .*\[AX001\]", told)
    refused = invoke("plan", path, "--gpus", "1xH100-80GB").stderr
    assert refused.index("[AX001]") < refused.index("[AX009]")


@pytest.mark.parametrize("key", ["hf_token", "wandb_key", "wandb_api_key"])
def test_a_secret_is_called_one_and_no_other_name_for_it_is_offered(key: str, place: Path) -> None:
    found = checking.quick(str(write(place, Wrong("", {key: "a" * 40}))), None, None).problems
    assert [problem.code for problem in found if problem.key == key] == ["AX057"]


@pytest.mark.parametrize("name", ["rows.jsonl", "config.json"])
def test_a_file_of_rows_is_not_read_as_a_recipe(name: str, place: Path, invoke: Invoke) -> None:
    (place / name).write_text('{"base_model": "x"}\n', encoding="utf-8")
    for verb in ("check", "plan", "render"):
        result = invoke(verb, str(place / name))
        assert (result.exit_code, "a recipe's file ends in .yaml" in result.stderr) == (2, True)


CALL = {"type": "function", "function": {"name": "get", "arguments": "{}"}}
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tool calls": ({}, {"content": None, "tool_calls": [CALL]}),
    "tools": ({"tools": [CALL]}, {"content": "Arr."}),
    "reasoning_content": ({}, {"content": "Arr.", "reasoning_content": "Hm."}),
    "images": ({}, {"content": [{"type": "text", "text": "Arr."}, {"type": "image", "path": "a.png"}]}),
}


@pytest.mark.parametrize("part", PARTS)
def test_what_a_template_has_no_place_for_is_told(part: str, place: Path) -> None:
    (more, turn), knows = PARTS[part], "llama4" if part == "images" else "qwen3"
    row = {"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", **turn}], **more}
    (place / "parts.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = {
        name: [
            problem.message
            for problem in checking.quick(str(write(place, case)), None, None).problems
            if problem.code == "AX058"
        ]
        for name in ("llama3", knows)
        for case in [Wrong("", {"chat_template": name, **data(path="parts.jsonl")})]
    }
    message = f"llama3 writes no {part}, and 1 row has them: Axolotl leaves them out in silence"
    assert found == {"llama3": [message], knows: []}


@pytest.mark.axolotl
def test_what_templates_write_is_what_axolotls_own_have_words_for() -> None:
    command = installed_axolotl()
    assert command is not None
    folder = next(command.parents[1].glob("lib/python*/site-packages/axolotl/utils/chat_templates/templates"))
    words = {"tool calls": "tool_calls", "tools": "tools", "reasoning_content": "reasoning_content", "images": "image"}
    for name, writes in unwritten._WRITES.items():
        text = (folder / f"{name}.jinja").read_text(encoding="utf-8")
        assert {part for part, word in words.items() if word in text} == writes, name


RENDERED = "<|start_header_id|>user<|end_header_id|>\n\nAhoy?<|eot_id|>"
LLAMA3 = "<|start_header_id|>, <|end_header_id|>, <|eot_id|>"
DOUBLED = "and the chat template writes that, too: trained doubled"
SAID = "which chat templates write around turns ({}): trained as text"
MARKED: dict[str, tuple[dict[str, Any], str, str]] = {
    "its own": ({"chat_template": "llama3"}, RENDERED, f"{LLAMA3}, {DOUBLED}"),
    "another's": ({"chat_template": "llama3"}, "[INST] Ahoy?</s>", f"[INST], </s>, {SAID.format('mistral_v1')}"),
    "an end": ({"chat_template": "mistral_v7_tekken"}, "Ahoy?</s>", f"</s>, {DOUBLED}"),
    "own jinja": (
        {"chat_template": "jinja", "chat_template_jinja": "{{ messages }}<start_of_turn>"},
        "<start_of_turn>Ahoy?",
        f"<start_of_turn>, {DOUBLED}",
    ),
}


def marked(found: tuple[Problem, ...], name: str) -> list[tuple[int | None, str]]:
    return [(each.line, each.message) for each in found if each.code == "AX059" and str(each.file).endswith(name)]


@pytest.mark.parametrize("case", MARKED)
def test_text_that_holds_marks_of_chat_templates_is_named_by_its_row(case: str, place: Path, invoke: Invoke) -> None:
    keys, text, message = MARKED[case]
    said = [{"role": "user", "content": text}, {"role": "assistant", "content": "<think>Arr</think> <s>[1] <|x|>"}]
    (place / "marks.jsonl").write_text(CHAT + json.dumps({"messages": said}) + "\n", encoding="utf-8")
    wrong = str(write(place, Wrong("", {**keys, **data(path="marks.jsonl")})))
    wanted = [(2, f"its text holds {message}")]
    assert marked(checking.quick(wrong, None, None).problems, "marks.jsonl") == wanted
    for name in (wrong, "marks.jsonl"):  # with a recipe, and the data alone, where nobody knows its template
        told = json.loads(invoke("data", name, "--json").stdout)["problems"]
        lines = [(each["line"], each["message"]) for each in told if each["code"] == "AX059"]
        assert lines == wanted if name == wrong else [line for line, _ in lines] == [2]


def test_rows_that_all_hold_marks_are_one_finding_with_their_number(place: Path, invoke: Invoke) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": RENDERED}, {"role": "assistant", "content": "Arr."}]})
    (place / "marks.jsonl").write_text(f"{row}\n" * 30, encoding="utf-8")
    wrong = Wrong("", {"chat_template": "llama3", **data(path="marks.jsonl")})
    found = marked(checking.quick(str(write(place, wrong)), None, None).problems, "marks.jsonl")
    assert found == [(1, f"its text holds {LLAMA3}, {DOUBLED}"), (2, "29 more rows like this")]
    made = invoke("new", "mine", "--base", "Qwen/Qwen3-4B", "--data", "marks.jsonl", "--gpus", "0")
    assert made.stderr.count("[AX059]") == 2


def test_marks_are_no_finding_where_the_text_is_meant_to_hold_them(place: Path) -> None:
    (place / "marks.jsonl").write_text(json.dumps({"text": RENDERED}) + "\n", encoding="utf-8")
    wrong = str(write(place, Wrong("", data(path="marks.jsonl", type="completion"))))
    assert not marked(checking.quick(wrong, None, None).problems, "")


@pytest.mark.axolotl
def test_marks_are_those_of_axolotls_own_templates() -> None:
    command = installed_axolotl()
    assert command is not None
    folder = next(command.parents[1].glob("lib/python*/site-packages/axolotl/utils/chat_templates/templates"))
    known = {mark for each in marks.WRITTEN.values() for mark in each}
    for file in folder.glob("*.jinja"):
        text = file.read_text(encoding="utf-8")
        assert {mark for mark in known if mark in text} == set(marks.WRITTEN.get(file.stem, ())), file


CHAT = '{"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Arr."}]}\n'
ALPACA = '{"instruction": "Greet me.", "input": "", "output": "Ahoy!"}\n'


def of_rows(folder: Path, rows: list[str], kind: str = "chat_template") -> str:
    (folder / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "mine.yaml").write_text(
        "base: NousResearch/Meta-Llama-3.1-8B\ngpus: 1xA100-80GB\nchat_template: llama3\n"
        f"data: [{{path: rows.jsonl, type: {kind}}}]\n",
        encoding="utf-8",
    )
    return str(folder / "mine.yaml")


@pytest.mark.usefixtures("no_axolotl")
@pytest.mark.parametrize(
    ("flaw", "kind", "code"),
    [
        ('{"messages": [\n', "chat_template", "AX014"),
        (CHAT.replace('"role": "assistant", ', ""), "chat_template", "AX015"),
        (CHAT.replace('"Arr."', '""').replace('"Ahoy?"', '""'), "chat_template", "AX017"),
        ('{"input": "", "output": "Ahoy!"}\n', "alpaca", "AX013"),
        ('{"instruction": null, "output": "Ahoy!"}\n', "alpaca", "AX013"),
    ],
)
def test_a_flaw_deep_in_a_file_of_ordinary_size_is_found(
    flaw: str, kind: str, code: str, invoke: Invoke, tmp_path: Path
) -> None:
    good = CHAT if kind == "chat_template" else ALPACA
    file = of_rows(tmp_path, [*[good] * 4000, flaw, *[good] * 100], kind)
    problems = json.loads(invoke("check", file, "--json").stdout)["problems"]
    assert [(each["code"], each["line"]) for each in problems if each["code"] == code] == [(code, 4001)]
    assert "rows were looked at" not in invoke("check", file).stdout


def test_many_rows_with_one_flaw_are_counted(invoke: Invoke, tmp_path: Path) -> None:
    file = of_rows(tmp_path, [CHAT, *["no row\n"] * 500])
    found = [each for each in json.loads(invoke("check", file, "--json").stdout)["problems"] if each["code"] == "AX014"]
    assert [each["line"] for each in found] == list(range(2, rows.LISTED + 3))
    assert found[-1]["message"] == "480 more rows like these"
    assert "ax-recipe data" in found[-1]["suggestion"]


@pytest.mark.usefixtures("no_axolotl")
def test_of_more_data_than_can_be_read_in_a_moment_the_first_rows_are_looked_at(invoke: Invoke, tmp_path: Path) -> None:
    large = [*[CHAT] * rows.SAMPLE, "no row\n", CHAT.replace("Arr.", "Arr. " * (rows.WHOLE_BYTES // 5))]
    file = of_rows(tmp_path, large)
    text = invoke("check", file).stdout
    assert "AX014" not in text
    assert f"of {tmp_path}/rows.jsonl only the first {rows.SAMPLE} rows were looked at" in text
    assert f"`ax-recipe data {file}` reads them all" in text
    told = json.loads(invoke("data", file, "--json").stdout)["problems"]
    assert ("AX014", rows.SAMPLE + 1) in [(each["code"], each["line"]) for each in told]
