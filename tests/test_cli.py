"""The command as a person types it: what they get wrong is named with its place and its fix, and no traceback."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ax_recipe.cli import STAGES, main
from ax_recipe.cli.program import GROUPS
from ax_recipe.forecast import hardware
from ax_recipe.run.rundir import TITLES
from conftest import Invoke

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_every_verb_has_a_sentence_and_an_example(invoke: Invoke) -> None:
    for verb in main.commands:
        text = invoke(verb, "--help").output
        assert "Example:" in text, verb
        assert f"ax-recipe {verb}" in text.split("Example:")[1], verb


def test_the_stages_are_those_of_the_plan() -> None:
    assert list(STAGES) == list(TITLES)


def test_list_names_the_bundled_recipes(invoke: Invoke) -> None:
    assert "pirate-tiny" in invoke("list").output
    rows = {row["name"]: row for row in json.loads(invoke("list", "--json").output)}
    assert len(rows) >= 20
    assert rows["pirate"]["base"] == "NousResearch/Meta-Llama-3.1-8B"
    assert rows["pirate-tiny"]["base"] is None


def test_show_prints_the_file_or_its_values(invoke: Invoke) -> None:
    assert "# Llama 3.1 8B learns" in invoke("show", "pirate").output
    assert json.loads(invoke("show", "pirate", "--json").output)["method"] == "qlora"


def test_new_makes_a_recipe_that_renders(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("new", "mine", "--from", "pirate-tiny").exit_code == 0
    assert invoke("render", "mine.yaml").exit_code == 0


def test_render_prints_the_yaml_alone(invoke: Invoke) -> None:
    result = invoke("render", "pirate", "--gpus", "4")
    assert yaml.safe_load(result.stdout)["base_model"] == "NousResearch/Meta-Llama-3.1-8B"
    assert result.stderr == ""


def test_render_takes_a_recipe_anywhere(invoke: Invoke, small_recipe: Path) -> None:
    config = yaml.safe_load(invoke("render", str(small_recipe)).stdout)
    assert config["datasets"][0]["path"] == str(small_recipe.parent / "rows.jsonl")


def test_render_writes_the_file_it_is_told(invoke: Invoke, tmp_path: Path) -> None:
    target = tmp_path / "pirate.yml"
    result = invoke("render", "pirate", "-o", str(target), "--set", "lora.r=8")
    assert result.stdout == ""
    assert yaml.safe_load(target.read_text())["lora_r"] == 8


def mistakes(folder: Path) -> dict[str, tuple[str, int, list[str]]]:
    """Name: the recipe's text, the exit code, and words that the message must hold."""
    data = "data: [{path: rows.jsonl, type: chat_template}]\n"
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "base").mkdir()
    return {
        "broken": ("base: [\n", 2, ["broken.yaml:2", "column"]),
        "field": (f"base: ./base\n{data}epochs: 3\n", 2, ["field.yaml:3", "epochs", "num_epochs"]),
        "raw-key": (f"base: ./base\n{data}axolotl:\n  micro_batchsize: 3\n", 2, ["raw-key.yaml:4", "micro_batch_size"]),
        "in-data": (
            "base: ./base\ndata:\n  - path: rows.jsonl\n    type: chat_template\n    field_mesages: x\n",
            2,
            ["in-data.yaml:5", "field_mesages", "field_messages"],
        ),
        "in-plugin": (
            f"base: ./base\n{data}axolotl:\n  plugins: [axolotl.integrations.liger.LigerPlugin]\n  liger_ropes: true\n",
            2,
            ["in-plugin.yaml:5", "liger_rope"],
        ),
        "type": (
            f"base: ./base\n{data}axolotl: {{micro_batch_size: two}}\n",
            2,
            ["type.yaml:3", "whole number", "two"],
        ),
        "value": (f"base: ./base\n{data}chat_template: lama3\n", 2, ["value.yaml:3", "llama3"]),
        "optimizer": (f"base: ./base\n{data}train: {{optimizer: adamw_8bits}}\n", 2, ["optimizer.yaml:3", "adamw_"]),
    }


@pytest.mark.parametrize("name", ["broken", "field", "raw-key", "in-data", "in-plugin", "type", "value", "optimizer"])
def test_a_mistake_in_a_recipe_is_named_with_its_place(name: str, invoke: Invoke, tmp_path: Path) -> None:
    text, code, words = mistakes(tmp_path)[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    done = invoke("render", str(path), "-o", str(tmp_path / "out.yml"))
    assert done.exit_code == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "out.yml").exists()


def test_a_missing_recipe_names_the_nearest(invoke: Invoke) -> None:
    done = invoke("render", "pirat")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "did you mean pirate" in done.stderr


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.parametrize(("missing", "key"), [("rows.jsonl", "data[0].path"), ("base", "base")])
def test_a_missing_file_is_named_with_the_line_that_asks_for_it(
    missing: str, key: str, invoke: Invoke, small_recipe: Path
) -> None:
    (small_recipe.parent / missing).rename(small_recipe.parent / "elsewhere")
    done = invoke("run", str(small_recipe))
    assert done.exit_code == 2, done.stderr
    assert key in done.stderr
    assert str(small_recipe.parent / missing) in done.stderr
    assert not (small_recipe.parent / "runs").exists()


@pytest.mark.usefixtures("fake_axolotl")
def test_more_gpus_than_the_machine_has_are_refused(invoke: Invoke) -> None:
    done = invoke("run", "pirate", "--gpus", "64")
    assert done.exit_code == 3
    assert "this machine has" in done.stderr


def test_a_machine_without_axolotl_says_how_to_get_it(command: Command, tmp_path: Path) -> None:
    done = command("run", "pirate-tiny", AX_RECIPE_AXOLOTL=str(tmp_path))
    assert done.returncode == 3
    assert "no axolotl there" in done.stderr


def test_a_folder_that_cannot_be_written_to_leaves_nothing(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("render", "pirate", "-o", str(tmp_path / "no" / "such" / "folder.yml"))
    assert done.exit_code == 3
    assert "cannot be written" in done.stderr


@pytest.mark.usefixtures("fake_axolotl")
def test_telemetry_is_off_unless_the_person_has_turned_it_on(
    invoke: Invoke, small_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AXOLOTL_DO_NOT_TRACK", raising=False)
    assert "#   AXOLOTL_DO_NOT_TRACK=1\n" in invoke("run", str(small_recipe), "--dry-run").stdout
    monkeypatch.setenv("AXOLOTL_DO_NOT_TRACK", "0")
    assert "#   AXOLOTL_DO_NOT_TRACK=0\n" in invoke("run", str(small_recipe), "--dry-run").stdout


def test_a_full_disk_is_named(invoke: Invoke) -> None:
    done = invoke("render", "pirate", "-o", "/dev/full")
    assert done.exit_code == 3
    assert "No space left on device" in done.stderr


def test_a_disk_that_fills_up_midway_leaves_nothing_half_written(tmp_path: Path) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        "from ax_recipe.cli import main; main(sys.argv[1:])"
    )
    argv = [sys.executable, "-B", "-c", program, "render", "pirate", "-o", str(tmp_path / "out.yml")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "wrapper")}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 3, done.stderr
    assert "cannot be written" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("fake_axolotl")
def test_a_dry_run_shows_the_commands_and_starts_nothing(invoke: Invoke, small_recipe: Path) -> None:
    done = invoke("run", str(small_recipe), "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "--lora-model-dir" in done.stdout
    assert "--launcher python" in done.stdout
    assert "# export: by ax-recipe itself" in done.stdout
    assert not (small_recipe.parent / "runs").exists()
    orders = json.loads(invoke("run", str(small_recipe), "--dry-run", "--json").stdout)
    assert [stage["name"] for stage in orders["stages"]] == list(STAGES)


def test_dry_runs_need_no_axolotl(
    command: Command, invoke: Invoke, small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", str(small_recipe), "--until", "preprocess").returncode == 0
    monkeypatch.delenv("AX_RECIPE_AXOLOTL")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")  # else this environment's own is found
    several = ("--set", "lora.r=8,16")
    for verb in (("run", str(small_recipe)), ("sweep", str(small_recipe), *several), ("reproduce",)):
        done = invoke(*verb)
        assert done.exit_code == 3, done.stderr
        assert "no axolotl in this environment" in done.stderr
        done = invoke(*verb, "--dry-run")
        assert done.exit_code == 0, done.stderr
        assert "no axolotl is installed here" in done.stderr
    shown = invoke("run", str(small_recipe), "--dry-run").stdout
    assert "\naxolotl train /" in shown
    assert "#   PATH=/usr/bin:/bin\n" in shown
    assert invoke("sweep", str(small_recipe), *several, "--dry-run").stdout.count("waiting") == 2
    assert invoke("run", str(small_recipe), "--dry-run", "--set", "lora.q=1").exit_code == 2
    assert len(list((small_recipe.parent / "runs").iterdir())) == 1, "and nothing was started"


@pytest.mark.usefixtures("fake_axolotl")
def test_doctor_says_what_is_here(invoke: Invoke) -> None:
    findings = {row["name"]: row for row in json.loads(invoke("doctor", "--json").stdout)}
    assert {"ax-recipe", "axolotl", "GPUs", "runs", "ollama"} <= set(findings)


def test_doctor_ends_with_3_where_axolotl_is_missing(command: Command, tmp_path: Path) -> None:
    done = command("doctor", AX_RECIPE_AXOLOTL=str(tmp_path))
    assert done.returncode == 3
    assert "no axolotl there" in done.stdout


@pytest.mark.parametrize("verb", [("show", "pirate"), ("list",), ("render", "pirate", "--gpus", "0")], ids=" ".join)
def test_a_closed_pipe_is_no_error(command: Command, verb: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = command(*verb, stdout=writer)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_that_takes_nothing_more_is_named(command: Command) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = command("show", "pirate", stdout=full)
    assert (done.returncode, done.stderr) == (3, "error: the output: No space left on device\n")


def test_an_output_goes_over_its_own_kind_alone(invoke: Invoke, small_recipe: Path) -> None:
    text = small_recipe.read_text(encoding="utf-8")
    for verb in (("render", str(small_recipe), "--gpus", "0"), ("schema",)):
        refused = invoke(*verb, "-o", str(small_recipe))
        assert refused.exit_code == 2
        assert "was not written by this command" in refused.stderr
        for _ in range(2):
            assert invoke(*verb, "-o", str(small_recipe.parent / verb[0])).exit_code == 0
    assert small_recipe.read_text(encoding="utf-8") == text


@pytest.mark.usefixtures("fake_axolotl")
def test_a_folder_that_takes_nothing_is_named(command: Command) -> None:
    for verb in (
        ("new", "/sys/mine", "--from", "pirate"),
        ("sweep", "pirate-tiny", "--set", "lora.r=4,8", "--runs", "/sys/x"),
    ):
        done = command(*verb)
        assert done.returncode == 3, done.stderr
        assert "/sys/" in done.stderr
        assert "Traceback" not in done.stderr


def test_of_a_copy_that_the_disk_refuses_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(1000))
    program = (
        "import resource, sys, pathlib; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500));"
        "from ax_recipe.ship.files import copy; copy(*map(pathlib.Path, sys.argv[1:]))"
    )
    argv = [sys.executable, "-B", "-c", program, str(tmp_path / "weights"), str(tmp_path / "copy")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "wrapper")}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_replay_explains_its_verdict_by_every_rule(invoke: Invoke) -> None:
    log = str(Path(__file__).parent / "logs" / "axolotl-0.19.0-4gpu-ok.log")
    text = invoke("replay", log, "--explain", "--target", "0.5", "0.8").output
    assert text.startswith("OK: Finished: all steps done")
    assert "against" in text
    assert "hang" in text


def test_help_shows_every_verb_once_in_a_line(invoke: Invoke) -> None:
    shown = [verb for verbs in GROUPS.values() for verb in verbs]
    assert sorted(shown) == sorted(main.commands)
    lines = invoke("--help").stdout.splitlines()
    for name, words in [each for verbs in GROUPS.values() for each in verbs.items()]:
        assert f"  {name:<10}  {words}" in lines


@pytest.mark.usefixtures("fake_axolotl")
def test_a_sweep_of_one_value_is_no_sweep(invoke: Invoke, small_recipe: Path) -> None:
    alone = invoke("sweep", str(small_recipe), "--set", "lora.r=8", "--dry-run")
    assert alone.exit_code == 2
    assert "--set lora.r=16,64" in alone.stderr


@pytest.mark.parametrize("verb", ["check", "plan", "run"])
def test_what_has_a_key_of_recipes_is_one(verb: str, invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "mixed.yaml"
    file.write_text("base_model: x\ndata: [{path: rows.jsonl}]\n", encoding="utf-8")
    done = invoke(verb, str(file))
    assert done.exit_code == 2
    assert "mixed.yaml:1: base_model: unknown key [AX001]\n    A recipe calls it `base`." in done.output


@pytest.mark.parametrize("verb", ["run", "render", "show", "doctor"])
def test_an_axolotl_yaml_is_told_from_a_recipe(verb: str, invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yml"
    file.write_text("base_model: x\ndatasets: [{path: rows.jsonl, type: alpaca}]\nwandb_projct: y\n", encoding="utf-8")
    done = invoke(verb, str(file))
    assert done.exit_code == 2
    assert "is an Axolotl YAML, and this wants a recipe" in done.stderr
    assert "unknown key" not in done.stderr


def test_doctor_misses_the_gpus_that_a_recipe_is_made_for(invoke: Invoke) -> None:
    if hardware.here().count:
        pytest.skip("this machine has GPUs")
    assert '"absent"' in invoke("doctor", "--json").stdout
    done = invoke("doctor", "pirate", "--json")
    assert done.exit_code == 3
    assert {row["state"] for row in json.loads(done.stdout) if row["name"] == "GPUs"} == {"missing"}


def test_what_is_for_reading_is_for_programs_as_well(invoke: Invoke) -> None:
    log = str(Path(__file__).parent / "logs" / "axolotl-0.19.0-4gpu-ok.log")
    told = json.loads(invoke("replay", log, "--explain", "--json").stdout)
    assert told["severity"] == "OK"
    assert "hang" in {rule["rule"] for rule in told["rules"]}
    assert "cuda-oom" in json.loads(invoke("diagnose", "--list", "--json").stdout)


def test_a_copy_takes_no_answers(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("new", str(tmp_path / "mine"), "--from", "pirate", "--base", "x")
    assert done.exit_code == 2
    assert "--from copies a recipe as it is" in done.stderr
    assert not list(tmp_path.iterdir())


def test_colours_are_left_where_nobody_wants_them(tmp_path: Path) -> None:
    script = shlex.join([sys.executable, "-m", "ax_recipe", "show", "nothing"])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "wrapper")}
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        argv = ["script", "--quiet", "--command", script, str(tmp_path / "typescript")]
        shown = subprocess.run(argv, capture_output=True, env=environment | variables, check=False).stdout
        assert b"error:" in shown
        assert (b"\x1b[31m" in shown) == coloured


def test_a_dry_run_shows_what_other_hardware_would_get(invoke: Invoke) -> None:
    done = invoke("run", "pirate", "--gpus", "4xA100-80GB", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "this machine has" in done.stderr
    assert "--launcher torchrun" in done.stdout


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        (("size", "pirat"), ["recipe", "YAML", "folder with a config.json", "ORGANISATION/NAME of the hub", "run"]),
        (("explain", "loss", "pirat"), ["recipe", "YAML", "run"]),
        (("data", "pirat"), ["recipe", "file or folder of rows"]),
        (("diagnose", "pirat"), ["file", "run"]),
        (("merge", "pirat"), ["folder", "run"]),
        (("export", "./pirat"), ["folder", "run"]),
        (("deploy", "pirat"), ["folder", "run"]),
    ],
)
def test_what_a_verb_cannot_find_is_called_none_of_all_that_it_takes(
    asked: tuple[str, ...], kinds: list[str], invoke: Invoke
) -> None:
    told = invoke(*asked)
    assert told.exit_code == 2
    said, hint = told.stderr.strip().split("\n")
    named = re.sub(r"( in /\S+)$", "", said.partition(" is ")[2])
    assert [kind.removeprefix("no ") for kind in re.split(r",? and |, ", named)] == kinds
    assert said.startswith(f"error: {asked[-1]} is no ")
    assert ("did you mean pirate" in hint) == ("recipe" in kinds)


def test_part_of_a_topics_name_finds_it(invoke: Invoke) -> None:
    assert "did you mean kv-cache?" in invoke("explain", "kv").stderr
