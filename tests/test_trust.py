"""What comes with a recipe or a run folder of somebody else runs only when the person says so; looking runs none."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ax_recipe.checks import checking, foreign
from ax_recipe.checks.subject import Subject
from ax_recipe.errors import RecipeError
from ax_recipe.forecast.hardware import CPU
from ax_recipe.recipe.document import Document
from ax_recipe.run import rundir, seal
from conftest import Invoke, installed_axolotl
from test_runner import newest

Command = Callable[..., subprocess.CompletedProcess[str]]

RUNS_CODE: dict[str, dict[str, Any]] = {
    "trust_remote_code": {"trust_remote_code": True},
    "trust_remote_code, in YAML's other words": {"trust_remote_code": "yes"},
    "datasets[0].trust_remote_code": {"datasets": [{"path": "a/b", "type": "alpaca", "trust_remote_code": True}]},
    "overrides_of_model_kwargs.trust_remote_code": {"overrides_of_model_kwargs": {"trust_remote_code": True}},
    "overrides_of_model_kwargs.weights_only": {"overrides_of_model_kwargs": {"weights_only": False}},
    "use_kernels": {"use_kernels": True},
    "attn_implementation": {"attn_implementation": "somebody/fast-attention"},
    "plugins[0]": {"plugins": ["evil.Plugin"]},
    "plugins[1]": {"plugins": ["axolotl.integrations.liger.LigerPlugin", "liger.LigerPlugin"]},
    "datasets[0].type": {"datasets": [{"path": "a.jsonl", "type": "evil.load"}]},
    "datasets[0].type, by way of os": {"datasets": [{"path": "a.jsonl", "type": "chatml.os.system"}]},
    "test_datasets[0].ds_type": {"test_datasets": [{"path": "a.pkl", "type": "alpaca", "ds_type": "pandas"}]},
    "datasets[0].path": {"datasets": [{"path": "pandas", "type": "alpaca", "data_files": "a.pkl"}]},
    "trl.reward_funcs": {"rl": "grpo", "trl": {"reward_funcs": ["rewards.score"]}},
    "trl.rollout_func": {"rl": "grpo", "trl": {"rollout_func": "rollouts.play"}},
    "trainer_cls": {"trainer_cls": "evil.Trainer"},
    "cls_model_config": {"cls_model_config": "evil.Config"},
    "torchdistx_path": {"optimizer": "adamw_anyprecision", "torchdistx_path": "./x"},
    "hatchery.reward_funcs": {"hatchery": {"reward_funcs": ["rewards.score"]}},
    "vllm.serve_module": {"vllm": {"serve_module": "evil"}},
    "export.llama_cpp_dir": {"export": {"llama_cpp_dir": "./llama.cpp"}},
    "nemo_gym_enabled": {"nemo_gym_enabled": True},
    "lm_eval_tasks[0]": {"lm_eval_tasks": ["./tasks/evil.yaml"]},
}
RUNS_NONE: tuple[dict[str, Any], ...] = (
    {"trust_remote_code": False},
    {"plugins": ["axolotl.integrations.liger.LigerPlugin", "ax_recipe_events.EventsPlugin"]},
    {"datasets": [{"path": "a.jsonl", "type": "alpaca_w_system.load_open_orca_chatml", "ds_type": "json"}]},
    {"datasets": [{"path": "a.parquet", "type": "chat_template.argilla", "ds_type": "parquet"}], "rl": "dpo"},
    {"attn_implementation": "kernels-community/flash-attn2", "cls_model_config": "LlamaConfig"},
    {"lm_eval_tasks": ["hellaswag"], "overrides_of_model_kwargs": {"weights_only": True}},
)


def found(keys: dict[str, Any]) -> list[str | None]:
    return [problem.key for problem in foreign.code(Subject(Document(keys), CPU, Path("/nonexistent")))]


@pytest.mark.parametrize("name", RUNS_CODE)
def test_every_key_by_which_axolotl_runs_code_is_known(name: str) -> None:
    assert name.partition(",")[0] in found(RUNS_CODE[name])


@pytest.mark.parametrize("keys", RUNS_NONE, ids=str)
def test_what_is_axolotls_own_needs_no_word(keys: dict[str, Any]) -> None:
    assert found(keys) == []


def with_keys(recipe: Path, **keys: Any) -> Path:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text("utf-8")), "axolotl": keys}), encoding="utf-8")
    return recipe


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
def test_a_run_with_code_of_its_own_starts_only_with_trust(command: Command, small_recipe: Path) -> None:
    argv = ("run", str(with_keys(small_recipe, trust_remote_code=True)), "--until", "train")
    refused = command(*argv)
    assert refused.returncode == 2
    assert "axolotl.trust_remote_code" in refused.stderr
    assert "AX056" in refused.stderr
    assert "--trust" in refused.stderr
    assert rundir.every(rundir.root()) == []
    assert command(*argv, "--trust").returncode == 0
    again = command("reproduce")
    assert again.returncode == 2
    assert "AX056" in again.stderr


def test_rendering_it_warns_and_renders(invoke: Invoke, small_recipe: Path) -> None:
    done = invoke("render", str(with_keys(small_recipe, trust_remote_code=True)))
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["trust_remote_code"] is True
    assert "AX056" in done.stderr


def test_planning_it_warns_and_plans(invoke: Invoke, small_recipe: Path, tmp_path: Path) -> None:
    path = with_keys(small_recipe, trust_remote_code=True)
    raw = tmp_path / "raw.yaml"
    raw.write_text(invoke("render", str(path)).stdout, encoding="utf-8")
    for given in (path, raw):
        done = invoke("plan", str(given), "--gpus", "1xA100-80GB", "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["hardware"]
        assert "trust_remote_code" in done.stderr
        assert "[AX056]" in done.stderr
    assert "AX056" not in invoke("plan", "pirate").stderr


@pytest.mark.usefixtures("no_axolotl")
def test_a_check_warns_of_it(invoke: Invoke, small_recipe: Path) -> None:
    done = invoke("check", str(with_keys(small_recipe, trust_remote_code=True)), "--json")
    codes = {problem["code"]: problem["severity"] for problem in json.loads(done.stdout)["problems"]}
    assert codes["AX056"] == "warning"


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
def test_a_run_works_where_it_was_made(command: Command, small_recipe: Path, tmp_path: Path) -> None:
    assert command("run", str(small_recipe), "--until", "train").returncode == 0
    run = newest().path
    shutil.copytree(run, tmp_path / "copy" / run.name)
    copied = command("resume", str(tmp_path / "copy" / run.name))
    assert copied.returncode == 2, copied.stderr
    assert f"is a copy of {run}" in copied.stderr
    run.rename(tmp_path / "moved")
    moved = command("merge", str(tmp_path / "moved"), "--trust")
    assert moved.returncode == 2, moved.stderr
    assert f"mv {tmp_path}/moved {run}" in moved.stderr
    (tmp_path / "moved").rename(run)
    assert command("resume", str(run), "--until", "evaluate").returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.parametrize("name", seal.SEALED[:2])
def test_a_run_folder_that_was_changed_or_sent_starts_nothing(name: str, command: Command, small_recipe: Path) -> None:
    assert command("run", str(small_recipe), "--until", "train").returncode == 0
    run = rundir.find(rundir.root(), None)
    marker = run.path.parent / "marker"
    text = (run.path / name).read_text(encoding="utf-8")
    if name == "plan.json":
        orders = json.loads(text)
        orders["stages"][3]["argvs"] = [["touch", str(marker)]]
        text = json.dumps(orders)
    (run.path / name).write_text(text + "\n", encoding="utf-8")
    for verb in ("resume", "evaluate", "chat", "export", "bench"):
        done = command(verb, *([run.name] if verb != "resume" else []))
        assert done.returncode == 2, (verb, done.stderr)
        assert "--trust" in done.stderr
        assert not marker.exists()
    assert command("status").returncode == 0  # looking is free
    command("resume", "--trust")
    assert seal.holds(run.path)
    assert marker.exists() == (name == "plan.json")


def test_the_key_is_this_accounts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan.json").write_text('{"recipe": "x", "stages": []}', encoding="utf-8")
    seal.put(tmp_path)
    assert seal.holds(tmp_path)
    assert (tmp_path / "cache" / "key").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("AX_RECIPE_CACHE", str(tmp_path / "other account"))
    assert not seal.holds(tmp_path)


def test_a_folder_without_a_seal_is_foreign(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"recipe": "x", "stages": []}', encoding="utf-8")
    with pytest.raises(RecipeError, match="not made by this account"):
        rundir.refuse_foreign(rundir.RunDir(tmp_path))


PLANTED = "import pathlib, os\npathlib.Path(os.environ['MARKER']).write_text(__name__)\nraise SystemExit(9)\n"


@pytest.mark.usefixtures("fake_axolotl")
def test_modules_that_lie_beside_a_recipe_are_not_imported(
    command: Command, small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "downloaded"
    place.mkdir()
    for module in ("torch", "yaml", "psutil", "ax_recipe_events", "sitecustomize", "json"):
        (place / f"{module}.py").write_text(PLANTED, encoding="utf-8")
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    assert command("run", str(small_recipe), "--until", "evaluate", cwd=place).returncode == 0
    assert not (tmp_path / "marker").exists()


def test_a_pickle_is_not_read_to_be_looked_at(
    fake_axolotl: Path, invoke: Invoke, small_recipe: Path, tmp_path: Path
) -> None:
    """`datasets` reads ds_type: pandas by unpickling; the training environment's python is not even asked."""
    asked = tmp_path / "asked"
    (fake_axolotl / "bin" / "python").write_text(f"#!/bin/sh\ntouch {asked}\n", encoding="utf-8")
    (tmp_path / "rows.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    keys = {"datasets": [{"path": str(tmp_path / "rows.pkl"), "type": "alpaca", "ds_type": "pandas"}]}
    done = invoke("data", str(with_keys(small_recipe, **keys)))
    assert "can hold a program" in done.stdout + done.stderr
    assert not asked.exists()


def test_a_check_imports_no_plugin_but_axolotls(tmp_path: Path) -> None:
    keys = {"base_model": "x", "plugins": ["evil.Plugin", "axolotl.integrations.liger.LigerPlugin"]}
    assert foreign.without_plugins(keys)["plugins"] == ["axolotl.integrations.liger.LigerPlugin"]
    assert "plugins" not in foreign.without_plugins({"plugins": ["evil.Plugin"]})


@pytest.mark.axolotl
@pytest.mark.slow
def test_real_axolotl_imports_none_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(PLANTED, encoding="utf-8")
    (tmp_path / "c.yml").write_text("base_model: x\nlearning_rate: 1.0e-4\nplugins: [evil.Plugin]\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARKER", str(tmp_path / "marker"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    from ax_recipe import axolotl

    named = installed_axolotl()
    checking.slow(checking.quick("c.yml", "0", axolotl.find(str(named))))
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.parametrize("verb", ["evaluate", "merge", "export", "bench", "chat"])
def test_what_is_done_with_a_model_that_somebody_sent_takes_trust_as_well(
    verb: str, command: Command, small_recipe: Path
) -> None:
    assert command("run", str(small_recipe), "--until", "train").returncode == 0
    run = rundir.find(rundir.root(), None)
    (run.path / seal.NAME).unlink()
    refused = command(verb, run.name)
    assert f"read what it would start ({run.orders}), then give the same command with --trust" in refused.stderr
    trusted = command(verb, run.name, "--trust")
    assert "was not made by this account" not in trusted.stderr
    assert seal.holds(run.path)
