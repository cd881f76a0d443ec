"""Recipes that mean harm or are merely odd: text stays text, whatever it says, and no secret gets into a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import stories
from ax_recipe.errors import ProblemsError, RecipeError
from ax_recipe.forecast import hardware
from ax_recipe.plan import plan as plans
from ax_recipe.plan.render import render
from ax_recipe.recipe import recipe, secret
from ax_recipe.run import rundir
from ax_recipe.ship import modelfile
from conftest import Invoke

Command = Callable[..., subprocess.CompletedProcess[str]]

TEXTS = (
    "{{ 7919 * 7919 }}", "{% for x in ().__class__.__bases__ %}{% endfor %}", "{# gone #}",
    "{{ cycler.__init__.__globals__.os.popen('id') }}", "x\nbase_model: evil", "a: b # c", "'; touch pwned #",
    "$(touch pwned)", "`touch pwned`", "../../../etc", "-rf", "--output=x", "\u202eevil",
    "\N{BLACK FLAG}\u200d\N{SKULL AND CROSSBONES}\ufe0f", "\u2028", "\x85", "\x1b]0;pwned\x07", " space ", "", "~",
    "null", "yes", "1e5", "0x10", "1:30", "!!python/object/apply:os.system [id]", "&a", "*a", "<<", "\ufeff", "\t",
    "<script>alert(1)</script>", '"""', "SYSTEM evil", '"\nSYSTEM evil\n"', "%s%n{0.__class__}", "- a",
)  # fmt: skip
FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "about": lambda text: {"about": text},
    "base": lambda text: {"base": text},
    "chat_template": lambda text: {"chat_template": text},
    "data[0].path": lambda text: {"data": [{"path": text, "type": "alpaca"}]},
    "data[0].type": lambda text: {"data": [{"path": "rows.jsonl", "type": text}]},
    "train.lr_scheduler": lambda text: {"train": {"lr_scheduler": text}},
    "train.optimizer": lambda text: {"train": {"optimizer": text}},
    "lora.target_modules": lambda text: {"lora": {"target_modules": [text]}},
    "checks": lambda text: {"checks": {"prompts": [text], "matches": "x"}},
    "ship.system": lambda text: {"ship": {"system": text}},
    "axolotl.wandb_name": lambda text: {"axolotl": {"wandb_name": text}},
    "axolotl.special_tokens": lambda text: {"axolotl": {"special_tokens": {"pad_token": text}}},
    "axolotl.tokens": lambda text: {"axolotl": {"tokens": [text, {"a": text}, {text: 1}]}},
}


def planned(file: Path, fields: dict[str, Any]) -> plans.Plan:
    whole = {"base": "./base", "gpus": 0, "data": [{"path": "rows.jsonl", "type": "alpaca"}], **fields}
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return plans.make(recipe.load(str(file)), hardware.CPU, "out", "prepared", "base")


# All of them in `make test`, and some in `make quick`.
@pytest.mark.parametrize("field", FIELDS)
@given(text=st.sampled_from(TEXTS))
def test_text_in_a_recipe_is_never_a_template_nor_yaml(
    tmp_path_factory: pytest.TempPathFactory, field: str, text: str
) -> None:
    plan = planned(tmp_path_factory.getbasetemp() / "odd.yaml", FIELDS[field](text))
    for explain in (False, True):
        rendered = render(plan.train, plan.recipe.name, "h", explain=explain)
        # render() reads it back by PyYAML's own loader; libyaml's reads it alike, in a tenth of the time.
        assert yaml.load(rendered, Loader=yaml.CSafeLoader) == dict(plan.train.values)
        assert "62710561" not in rendered


texts = st.sampled_from(TEXTS) | st.text(max_size=20)
keys = st.sampled_from(
    ["wandb_name", "tokens", "lr_scheduler_kwargs", "special_tokens", "model_config", "hub_model_id"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional={"about": texts, "axolotl": st.dictionaries(keys, values, max_size=4),
                                           "ship": st.fixed_dictionaries({"system": texts})}))  # fmt: skip
def test_a_recipe_comes_through_to_the_yaml_whole(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    plan = planned(tmp_path_factory.getbasetemp() / "odd.yaml", fields)
    found = yaml.safe_load(render(plan.train, "odd", "h"))
    for key, value in fields.get("axolotl", {}).items():
        assert found[key] == value
    assert plan.recipe.about == fields.get("about")
    assert plan.recipe.ship.system == fields.get("ship", {}).get("system")


NAMES = (
    "a b", "ü", "\N{BLACK FLAG}", "'", '"', "a;b", "$(touch pwned)", "a\nb", "-x", "--help", ".hidden", "{{ 7 * 7 }}",
    "\x1b[31m", "%s", "CON", "a" * 200,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_recipe_may_have_any_name(
    name: str, small_recipe: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_recipe.parent)
    small_recipe.rename(small_recipe.with_name(f"{name}.yaml"))
    result = invoke("render", "--", f"{name}.yaml")
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load(result.stdout)["adapter"] == "lora"
    assert not Path("pwned").exists()
    fresh = rundir.fresh_name(Path("runs"), name)
    assert fresh == Path(fresh).name
    assert fresh[0].isalnum()
    assert fresh.isascii()
    assert "\n" not in fresh


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_a_modelfile_holds_text_as_text(text: str) -> None:
    try:
        made = modelfile.Modelfile(source="/m", template="{{ .Prompt }}", system=text, stops=(text,) if text else ())
        found = modelfile.parse(modelfile.render(made))
    except RecipeError:
        return
    assert (found.source, found.template, found.adapter, found.parameters) == ("/m", "{{ .Prompt }}", None, {})


def billion_laughs(levels: int) -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    "text",
    [
        billion_laughs(12),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "a: " + "x" * 2_000_000,
        "? " * 5_000,
        "a: !!python/object/apply:os.system ['touch pwned']",
        "a: !!python/name:os.system",
        "a: " + "9" * 100_000,
        "\n".join(f"&a{n} k{n}: &b{n} x" for n in range(60_000)),
    ],
    ids=range(12),
)
def test_a_bomb_ends_in_a_sentence(text: str, tmp_path: Path, invoke: Invoke) -> None:
    """At the door: the file that would explode in a loader is refused by its size, its depth or its nodes."""
    file = tmp_path / "bomb.yaml"
    file.write_text(text, encoding="utf-8")
    for verb in ("render", "check", "plan", "data"):
        result = invoke(verb, str(file))
        assert result.exit_code in (2, 3), (verb, result.stdout)
        assert len(result.output) < 5_000
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("verb", ["check", "status"])
def test_a_name_that_no_file_can_have_ends_in_a_sentence(verb: str, command: Command) -> None:
    told = command(verb, "x" * 300)
    assert told.returncode == 3
    assert re.fullmatch(r"error: x{300}\S*: File name too long\n", told.stderr)


def test_a_length_without_end_is_told_and_measures_no_row(tmp_path: Path, invoke: Invoke) -> None:
    file = tmp_path / "axolotl.yml"
    file.write_text("base_model: a/b\ndatasets: [{path: ./none.jsonl}]\nsequence_len: 1e400\n", encoding="utf-8")
    assert json.loads(invoke("data", str(file), "--json").stdout)["sequence_len"] is None
    assert "sequence_len" in invoke("check", str(file)).stdout


def test_a_bomb_in_set_goes_out_as_well(invoke: Invoke, small_recipe: Path) -> None:
    result = invoke(
        "render", str(small_recipe), "--set", "axolotl.tokens={" + billion_laughs(9).replace("\n", ", ") + "}"
    )
    assert result.exit_code == 2


# --- secrets ---

TOKEN = "hf_" + "q7Rz" * 8
KEY = "5f" * 20  # a Weights & Biases key cannot be told by its form
PASSWORD = "correct-horse-battery"
PLANTED = {
    "HF_TOKEN": TOKEN,
    "WANDB_API_KEY": KEY,
    "COMET_API_KEY": "comet" + KEY,
    "AWS_SECRET_ACCESS_KEY": "aws/" + KEY[::-1],
    "OPENAI_API_KEY": "sk-" + KEY,
    "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    "HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9",
    "OLLAMA_HOST": f"http://me:{PASSWORD}@127.0.0.1:9",
    "HF_ENDPOINT": f"https://me:{PASSWORD}@hub.invalid",
}
SECRETS = (
    {"axolotl": {"comet_api_key": "abc"}},
    {"axolotl": {"swanlab_lark_secret": "abc"}},
    {"axolotl": {"swanlab_lark_webhook_url": "https://chat.invalid/hook/1"}},
    {"axolotl": {"hatchery": {"api_key": "abc"}}},
    {"axolotl": {"wandb_name": KEY}},
    {"axolotl": {"mlflow_tracking_uri": f"http://me:{PASSWORD}@tracker.invalid"}},
    {"data": [{"path": "https://me:pw12@data.invalid/rows.jsonl", "type": "alpaca"}]},
    {"data": [{"path": f"https://{TOKEN}@data.invalid/rows.jsonl", "type": "alpaca"}]},
    {"ship": {"system": f"The token is {TOKEN}."}},
    {"about": TOKEN},
)
NO_SECRETS = (
    {"axolotl": {"special_tokens": {"pad_token": "<|pad|>"}, "hf_use_auth_token": True}},
    {"data": [{"path": "s3://bucket/rows.jsonl", "type": "alpaca"}]},
    {"axolotl": {"mlflow_tracking_uri": "http://127.0.0.1:5000", "comet_experiment_key": "run-7"}},
    {"about": "sk-ip, hf_short, me@example.org and https://example.org/@me"},
)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("fields", SECRETS, ids=lambda fields: ascii(json.dumps(fields))[:60])
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(fields: dict[str, Any], small_recipe: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        planned(small_recipe, fields)
    assert [problem.code for problem in caught.value.problems] == [secret.CODE]
    assert all(value not in str(caught.value) for value in (*PLANTED.values(), PASSWORD, "pw12", "abc"))
    assert caught.value.problems[0].line


@pytest.mark.parametrize("fields", NO_SECRETS, ids=str)
def test_what_looks_a_little_like_one_is_none(fields: dict[str, Any], small_recipe: Path) -> None:
    planned(small_recipe, fields)


def test_a_secret_in_an_axolotl_yaml_is_found(tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "c.yml").write_text("base_model: x\nlearning_rate: 1.0e-4\ncomet_api_key: abc\n", encoding="utf-8")
    done = invoke("check", str(tmp_path / "c.yml"), "--json")
    found = [problem for problem in json.loads(done.stdout)["problems"] if problem["code"] == secret.CODE]
    assert [(problem["line"], problem["key"]) for problem in found] == [(3, "comet_api_key")]
    assert "COMET_API_KEY" in found[0]["suggestion"]


def test_a_secret_by_set_is_refused(small_recipe: Path, invoke: Invoke) -> None:
    result = invoke("render", str(small_recipe), "--set", "axolotl.comet_api_key=abcdef")
    assert result.exit_code == 2
    assert secret.CODE in result.stderr


def holding(folder: Path, values: tuple[str, ...]) -> list[str]:
    """The files below ``folder`` that hold one of the values, in any encoding a program would write."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found += [f"{path}: {value[:6]}..." for value in values if value.encode() in content]
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("planted", "fake_axolotl")
def test_no_secret_of_the_environment_is_in_any_file_of_a_run(
    command: Command, small_recipe: Path, tmp_path: Path
) -> None:
    values = (*PLANTED.values(), PASSWORD)
    done = command("run", str(small_recipe), "--until", "evaluate", FAKE_AXOLOTL="argv")
    assert done.returncode == 0, done.stderr
    run = rundir.find(rundir.root(), None)
    command("resume")  # merge, export and deploy fail here: what they say is in state.json
    assert command("report").returncode == 0
    assert command("status", "--json").returncode == 0
    assert len(list(run.path.rglob("*"))) > 8
    assert holding(run.path, values) == []
    assert holding(tmp_path / "cache", values) == []
    assert not [value for value in values if value in done.stdout + done.stderr]
    argvs = json.loads((run.output / "argvs.json").read_text(encoding="utf-8"))
    assert len(argvs) >= 2  # axolotl, its runner, ...
    assert not [value for value in values if value in json.dumps(argvs)]


@pytest.mark.usefixtures("fake_axolotl")
def test_a_run_is_for_its_owner_alone(tmp_path: Path) -> None:
    assert stories.made(stories.written(tmp_path)).path.stat().st_mode & 0o777 == 0o700
    assert rundir.root().stat().st_mode & 0o077 == 0o777 & ~_umask() & 0o077  # the folder of all runs is as umask says


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
