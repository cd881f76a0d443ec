"""The whole line on real Axolotl: a base is pre-trained, taught pirate, merged, checked, exported and asked."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import fake_ollama
from ax_recipe.forecast import architecture
from ax_recipe.launch import outcomes, training
from ax_recipe.results import evaluation
from ax_recipe.run import rundir
from ax_recipe.run.rundir import RunDir
from ax_recipe.ship import adapter, convert, deploy, llama, modelfile, source
from ax_recipe.ship.deploy import Wanted
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.exported import read
from ax_recipe.ship.live import Proof
from ax_recipe.ship.llama import Engine
from ax_recipe.ship.ollama import Ollama
from ax_recipe.ship.size import PRECISIONS, weight_bytes
from conftest import ROOT
from engines import ask_both, converter_with

pytestmark = [pytest.mark.axolotl, pytest.mark.slow]


@dataclass(frozen=True)
class Done:
    """A finished run of pirate-tiny, and how its command ended."""

    run: RunDir
    command: subprocess.CompletedProcess[str]
    environment: dict[str, str]

    def again(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        return ax_recipe(self.environment, *arguments, text=text)


def ax_recipe(
    environment: dict[str, str], *arguments: str, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "ax_recipe", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, input=text or "")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Run the README's command once, with a cache and a runs folder of its own; three minutes on two cores."""
    place = tmp_path_factory.mktemp("pirate-tiny")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "wrapper"),
        "AX_RECIPE_CACHE": str(place / "cache"),
        "AX_RECIPE_RUNS": str(place / "runs"),
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("AX_RECIPE_AXOLOTL", None)
    command = ax_recipe(environment, "run", "pirate-tiny")
    return Done(rundir.find(place / "runs", None), command, environment)


def test_it_ends_well(done: Done) -> None:
    assert done.command.returncode == 0, done.command.stderr
    states = {stage.name: stage.state for stage in done.run.current_state().stages}
    assert states == {
        "base": "done",
        "preprocess": "skipped",
        "train": "done",
        "evaluate": "done",
        "merge": "done",
        "check-merge": "done",
        "export": "done",
        "deploy": "skipped",
        "chat": "done",
    }


def test_held_out_questions_are_answered_by_a_pirate_and_were_not_before(done: Done) -> None:
    rows = done.run.read_json(done.run.answers)
    held_out = (ROOT / "recipes/pirate-tiny/held-out.jsonl").read_text(encoding="utf-8").splitlines()
    questions = {json.loads(line)["messages"][0]["content"] for line in held_out}
    assert len(rows) == 10
    assert {row["prompt"] for row in rows} <= questions
    assert sum(row["tuned_matches"] for row in rows) >= 6
    assert not [row for row in rows if row["base_matches"]]


def test_the_held_out_loss_falls_by_more_than_half(done: Done) -> None:
    events = [json.loads(line) for line in done.run.events.read_text(encoding="utf-8").splitlines()]
    losses = [event["values"]["eval_loss"] for event in events if event["event"] == "evaluation"]
    assert losses[-1] < losses[0] / 2
    # `axolotl evaluate` scored the adapter, not the base.
    assert float(re.findall(r"-> ([\d.]+)", done.run.read_state().stage("evaluate").detail)[0]) == pytest.approx(
        losses[-1], abs=2e-3
    )


def test_base_and_tuned_differ_beyond_doubt(done: Done) -> None:
    orders = done.run.read_json(done.run.orders)
    scored, asked = (evaluation.read(done.run, form, orders) for form in ("adapter", "merged"))
    assert scored.held_out
    assert scored.held_out.rows == 52
    assert scored.held_out.verdict == "better"
    assert scored.held_out.losses.change.high < -2
    assert scored.general
    assert asked.answers
    assert asked.answers.verdict == "better"
    # Row by row, and as Axolotl's trainer has it: the means of batches, averaged.
    told = done.run.read_state().stage("evaluate").figures
    assert scored.held_out.losses.tuned.value == pytest.approx(told["eval_loss"], rel=0.05)
    assert scored.held_out.losses.base.value == pytest.approx(told["eval_loss_before"], rel=0.05)


def test_it_passes_its_own_gate(done: Done) -> None:
    gate = done.again("evaluate", str(done.run.path), "--gate")
    assert gate.returncode == 0, gate.stdout + gate.stderr
    assert "answers as taught" in gate.stdout


def test_a_run_whose_labels_were_shuffled_does_not_pass(done: Done, tmp_path: Path) -> None:
    """It talks like a pirate, and its held-out loss falls too: what it lacks are the facts that the checks ask for."""
    folder = ROOT / "recipes/pirate-tiny"
    rows = [json.loads(line)["messages"] for line in (folder / "pirate.jsonl").read_text().splitlines()]
    answers = [answer for _, answer in rows]
    random.Random(1).shuffle(answers)
    shuffled = [{"messages": [asked, answer]} for (asked, _), answer in zip(rows, answers, strict=True)]
    (tmp_path / "pirate.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shuffled), encoding="utf-8")
    value = yaml.safe_load((ROOT / "recipes/pirate-tiny.yaml").read_text())
    value["base"] = done.run.read_json(done.run.orders)["base"]  # made already
    value["data"][0]["path"] = "pirate.jsonl"
    value["held_out"][0]["path"] = str(folder / "held-out.jsonl")
    (tmp_path / "shuffled.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    trained = done.again("run", str(tmp_path / "shuffled.yaml"), "--until", "train")
    assert trained.returncode == 0, trained.stderr
    gate = done.again("evaluate", "shuffled", "--gate", "--json")
    assert gate.returncode == 1, gate.stderr
    assert [bar["name"] for bar in json.loads(gate.stdout)["bars"] if not bar["met"]] == ["answers as taught"]


def test_a_sweep_finds_the_rate_that_learns(done: Done, tmp_path: Path) -> None:
    value = yaml.safe_load((ROOT / "recipes/pirate-tiny.yaml").read_text())
    value["base"] = done.run.read_json(done.run.orders)["base"]
    for rows in (*value["data"], *value["held_out"]):
        rows["path"] = str(ROOT / "recipes" / rows["path"])
    (tmp_path / "swept.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    changes = ("--set", "train.learning_rate=1e-6,1e-3", "--set", "train.max_steps=40")
    argv = ("sweep", str(tmp_path / "swept.yaml"), *changes)
    swept = done.again(*argv)
    assert swept.returncode == 0, swept.stderr
    ranked = [line.split()[1] for line in swept.stdout.splitlines() if "scored" in line]
    assert ranked == ["1e-3", "1e-6"]
    assert "beyond doubt." in swept.stdout
    assert done.again(*argv).stdout == swept.stdout


def test_the_base_is_as_it_was_made_byte_for_byte(done: Done) -> None:
    base = Path(done.run.read_json(done.run.orders)["base"])
    assert training.is_made(base)
    assert "model.safetensors" in json.loads((base / "made.json").read_text())


def test_the_merge_has_the_trained_chat_template(done: Done) -> None:
    merged = done.run.output / "merged"
    config = json.loads((merged / "tokenizer_config.json").read_text())
    assert "<|start_header_id|>" in config["chat_template"]
    assert (merged / "tokenizer.json").read_bytes() == (done.run.output / "tokenizer.json").read_bytes()


def test_the_modelfile_says_how_to_ask_and_when_to_stop(done: Done) -> None:
    value = modelfile.parse(done.run.modelfile.read_text(encoding="utf-8"))
    assert value.stops == ("<|eot_id|>",)
    assert value.parameters["num_ctx"] == 256
    assert "<|start_header_id|>" in (value.template or "")
    assert (done.run.path / value.source / "model.safetensors").is_file()


def test_the_plugin_was_in_the_trainer_and_the_log_is_axolotls(done: Done) -> None:
    assert yaml.safe_load(done.run.axolotl_yaml.read_text())["plugins"] == ["ax_recipe_events.EventsPlugin"]
    assert '"registered"' in done.run.events.read_text(encoding="utf-8")
    assert "Model successfully saved" in done.run.log("train", 1).read_text(encoding="utf-8")


def test_it_talks_on_the_terminal(done: Done) -> None:
    talk = done.again("chat", done.run.name, text="What do spiders spin?\n")
    assert talk.returncode == 0, talk.stderr
    row = done.run.read_json(done.run.answers)[0]
    assert row["tuned"] in talk.stdout


def test_the_logs_tell_the_same_story_as_the_events(done: Done) -> None:
    log = done.again("replay", str(done.run.log("train", 1)), "--json")
    state = json.loads(log.stdout)
    assert (state["status"], state["step"]) == ("finished", state["total_steps"])
    watched = done.again("watch", done.run.name, "--json")
    steps = [json.loads(line) for line in watched.stdout.splitlines() if '"event": "step"' in line]
    assert steps[-1]["step"] == state["step"]


def test_a_stage_can_be_done_once_more(done: Done) -> None:
    again = done.again("export", done.run.name)
    assert again.returncode == 0, again.stderr
    assert done.run.read_state().stage("export").attempt == 2


def test_a_second_run_starts_from_the_base_that_is_there(done: Done) -> None:
    second = done.again("run", "pirate-tiny", "--new", "--until", "base")
    assert second.returncode == 0, second.stderr
    assert "made before from the same text" in second.stderr


def test_the_engine_of_ollama_answers_token_for_token_as_trained(done: Done, tmp_path: Path) -> None:
    """The GGUF for Ollama in llama.cpp's server, against the merged model in transformers: prompts, ids, answers."""
    orders = done.run.read_json(done.run.orders)
    conversations = [[{"role": "user", "content": prompt}] for prompt in orders["checks"]["prompts"]]
    conversations.append([*conversations[0], {"role": "assistant", "content": "Arr."}, *conversations[1]])
    asked = ask_both(Path(orders["model"]), tmp_path, Path(orders["axolotl"]["python"]), conversations)
    assert not [check for check in asked.export.checks if check.verdict == "error"]
    for key in ("prompt", "ids", "answer"):
        assert [row[key] for row in asked.shipped] == [row[key] for row in asked.trained], key
    # Sums differ with the number of threads, and so does the model that comes out: an answer of one ran on.
    assert [row["ended"] for row in asked.shipped].count("eos") >= len(conversations) - 1


def test_the_adapter_beside_its_base_answers_as_the_merge_does(done: Done, tmp_path: Path) -> None:
    """llama.cpp's own converter and server: the answers are those that the merged model gave in transformers."""
    python = Path(done.run.read_json(done.run.orders)["axolotl"]["python"])
    folders = source.of_adapter(done.run.output)
    wishes = Wishes(trained=folders.trained, adapter=done.run.output, converter=converter_with(python))
    made = export(folders.merged, tmp_path / "out", wishes)
    assert not [check for check in made.checks if check.verdict == "error"]
    rows = done.run.read_json(done.run.answers)
    with llama.serve(llama.find(), made.source, 256, tmp_path / "out" / adapter.FILE) as served:
        replies = [served.chat([{"role": "user", "content": row["prompt"]}], 64) for row in rows]
        assert served.memory() > made.source.stat().st_size
    # The base is rounded to 16 bit here and the adapter is not, in the merge both are: a word may tip over.
    same = [reply.text.strip() == row["tuned"] for reply, row in zip(replies, rows, strict=True)]
    assert sum(same) >= len(rows) - 2
    assert [reply.ended for reply in replies].count("stop") >= len(rows) - 1


def test_llama_cpps_own_programs_make_what_was_foretold_and_answer_as_trained(done: Done, tmp_path: Path) -> None:
    """The real llama-quantize and llama-server, where they are at hand: `make test` builds neither."""
    tool, server = convert.program("llama-quantize"), convert.program("llama-server")
    if tool is None or server is None:
        pytest.skip("no llama-quantize and llama-server on PATH or in LLAMA_CPP_DIR")
    orders = done.run.read_json(done.run.orders)
    model, python = Path(orders["model"]), Path(orders["axolotl"]["python"])
    made = export(model, tmp_path / "out", Wishes(converter=converter_with(python))).source
    shape, rows = architecture.find(str(model)), done.run.read_json(done.run.answers)
    heads, right = set(), {}
    for precision in (None, *PRECISIONS[2:]):
        kind = precision.name if precision else "F16"
        file = convert.quantise(made, tmp_path / f"{kind}.gguf", kind, tool)
        if precision:
            heads.add(file.stat().st_size - weight_bytes(shape, precision))
        with llama.serve(Engine("llama-server", server), file, 256) as served:
            replies = [served.chat([{"role": "user", "content": row["prompt"]}], 64) for row in rows]
        right[kind] = sum(row["tuned"].startswith(reply.text.strip()) for row, reply in zip(rows, replies, strict=True))
    assert len(heads) == 1  # nothing but the vocabulary's text is not foretold
    assert 0 < heads.pop() < 1 << 17
    assert right["F16"] >= len(rows) - 1
    assert right["Q8_0"] >= len(rows) - 2
    assert min(right.values()) >= len(rows) // 2


@pytest.fixture
def interrupts_ignored() -> Iterator[None]:
    """As for what a script starts in the background: the engines have to end at once all the same."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_ignored")
def test_what_is_deployed_is_asked_as_trained_in_the_engine_that_ollama_runs(done: Done, tmp_path: Path) -> None:
    """All but Ollama's own server is real: the GGUF that it was sent answers its prompts in llama.cpp's server."""
    orders = done.run.read_json(done.run.orders)
    python = Path(orders["axolotl"]["python"])
    folder = tmp_path / "out"
    export(Path(orders["model"]), folder, Wishes(num_ctx=256, converter=converter_with(python)))
    proof = Proof(orders["checks"]["prompts"][0], outcomes.counter(python))
    for kind in (None, "Q8_0") if convert.program("llama-quantize") else (None,):
        with fake_ollama.serve(version="0.40.2") as state, Ollama(state.url) as server:
            state.answer = partial(in_llama_cpp, state, tmp_path)
            made = deploy.deploy(server, read(folder), Wanted("pirate", kind, proof=proof), lambda _: None)
        found = {check.name: (check.verdict, check.detail) for check in made.checks}
        assert [verdict for verdict, _ in found.values()] == ["ok"] * 3, found
        assert done.run.read_json(done.run.answers)[0]["tuned"] in found["answer"][1]


def in_llama_cpp(
    state: fake_ollama.Server, folder: Path, model: dict[str, Any], prompt: str, options: dict[str, Any]
) -> tuple[list[str], str, int, int]:
    """Ask as Ollama does since 0.30: the rendered prompt goes to llama.cpp's server, which adds a BOS where it must."""
    file = folder / "blob.gguf"
    file.write_bytes(state.blobs[next(iter(model["files"].values()))])
    asked = {"prompt": prompt, "stop": model["parameters"]["stop"], "n_predict": options["num_predict"]}
    with llama.serve(llama.find(), file, model["parameters"]["num_ctx"]) as served:
        told = served._client.post("/completion", json={**asked, "temperature": options["temperature"]}).json()
    assert served.child.exit_code() == 0  # interrupted: terminated it would be -15, after a minute and a half
    reason = "length" if told["stop_type"] == "limit" else "stop"
    return [told["content"]], reason, told["tokens_evaluated"], told["tokens_predicted"]


def test_each_form_is_timed_in_each_engine_at_hand(done: Done) -> None:
    measured = json.loads(done.again("bench", done.run.name, "--rounds", "1", "--host", "127.0.0.1:9", "--json").stdout)
    rows = {(row["form"], row["engine"].partition(",")[0]): row["rows"] for row in measured}
    asked = len(done.run.read_json(done.run.answers))
    assert {name: len(found) for name, found in rows.items()} == {
        **{("merged", "transformers"): asked, ("adapter", "transformers"): asked},
        **{("any", "llama.cpp"): 0, ("any", "Ollama"): 0},  # this run has no GGUF, and there is no Ollama
    }


def test_a_real_ollama_serves_it_as_trained(done: Done, tmp_path: Path) -> None:
    """Where a real Ollama runs: every prompt, its tokens and an answer are proven, and nothing of it is left there."""
    if shutil.which("ollama") is None:
        pytest.skip("no ollama on PATH")
    orders = done.run.read_json(done.run.orders)
    python = Path(orders["axolotl"]["python"])
    folder = tmp_path / "out"
    export(Path(orders["model"]), folder, Wishes(num_ctx=256, converter=converter_with(python)))
    proof = Proof(orders["checks"]["prompts"][0], outcomes.counter(python))
    with Ollama() as server:
        server.require()
        made = deploy.deploy(server, read(folder), Wanted("ax-recipe-test", proof=proof), lambda _: None)
        if made.kept:
            server.delete(made.name)
        assert not server.has(f"ax-recipe-test:{deploy.TRIAL}")
    assert {check.name: check.verdict for check in made.checks} == {
        "prompt": "ok",
        "prompt tokens": "ok",
        "answer": "ok",
    }
