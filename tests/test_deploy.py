"""A model is brought into Ollama and proven there; whatever is wrong with it or with the server is told."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.launch import outcomes
from ax_recipe.run import seal
from ax_recipe.run.rundir import TITLES, RunDir, RunState, StageRecord
from ax_recipe.ship import deploy, modelfile
from ax_recipe.ship.deploy import Deployed, Wanted
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.exported import read
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.hf_jinja import HfTemplate
from ax_recipe.ship.live import Proof
from ax_recipe.ship.ollama import Creation, Ollama, Progress, files_of
from ax_recipe.view.transfer import Transfer
from conftest import Invoke
from fake_ollama import Server, serve
from ship_folders import CHAT, gguf_keys, write_gguf, write_model, write_tokenizer

FAMILY = "Say 👨\u200d👩\u200d👧."


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        yield state


def words(folder: Path, messages: Sequence[Message]) -> int:
    """The fake server's tokens: a word each."""
    text = HfTemplate((folder / "chat_template.jinja").read_text(encoding="utf-8"), {}).render(messages)
    return len(text.split())


def exported(folder: Path, **wishes: object) -> Path:
    """A model of our own, exported."""
    write_model(folder / "model", architectures=wishes.pop("architectures", ["LlamaForCausalLM"]))
    write_tokenizer(folder / "model", chat=CHAT)
    export(folder / "model", folder / "export", Wishes(**wishes))  # type: ignore[arg-type]
    return folder / "export"


def deployed(server: Server, folder: Path, **wanted: object) -> Deployed:
    with Ollama(server.url, delays_s=(0.0, 0.0)) as ollama:
        order = Wanted(**{"name": "pirate", "proof": Proof(count=words), **wanted})  # type: ignore[arg-type]
        return deploy.deploy(ollama, read(folder), order, lambda _: None)


def verdicts(result: Deployed) -> dict[str, str]:
    return {check.name: check.verdict for check in result.checks}


def test_a_model_is_deployed_and_proven(server: Server, tmp_path: Path) -> None:
    result = deployed(server, exported(tmp_path, system=FAMILY), quantize="q4_K_M")
    assert verdicts(result) == {"prompt": "ok", "prompt tokens": "ok", "answer": "ok"}
    assert "12 rendered" in result.checks[0].detail
    assert "'Arr.'" in result.checks[-1].detail
    assert result.run == f"OLLAMA_HOST={server.url} ollama run pirate"
    assert result.undo == f"OLLAMA_HOST={server.url} ollama rm pirate"
    made = server.models["pirate:latest"]
    assert (made["system"], made["quantize"]) == (FAMILY, "Q4_K_M")
    assert [path for _, path in server.asked[-3:]] == ["/api/generate", "/api/copy", "/api/delete"]
    assert list(server.models) == ["pirate:latest"]  # what it was proven as is gone


def test_what_the_modelfile_cannot_carry_reaches_the_server_and_edits_do_too(server: Server, tmp_path: Path) -> None:
    folder = exported(tmp_path, system=FAMILY)
    assert "SYSTEM is left out" in (folder / "Modelfile").read_text(encoding="utf-8")
    with (folder / "Modelfile").open("a", encoding="utf-8") as file:
        file.write("PARAMETER temperature 0.5\n")
    deployed(server, folder)
    assert server.models["pirate:latest"]["system"] == FAMILY
    assert server.models["pirate:latest"]["parameters"]["temperature"] == 0.5
    export(tmp_path / "model", folder, Wishes(system="Arr."))
    assert not (folder / modelfile.REST).exists()


@pytest.mark.parametrize(
    ("failure", "name", "verdict", "said"),
    [
        ("chatml", "prompt", "error", "<|im_start|>"),
        ("hidden", "prompt", "warning", "does not show"),
        ("double bos", "prompt tokens", "error", "<s> twice?"),
        ("endless", "answer", "error", "goes on after 512 tokens"),
        ("mute", "answer", "error", "nothing was answered"),
        ("crash", "answer", "error", "runner process has terminated"),
    ],
)
def test_a_live_model_that_is_not_as_trained_is_told(
    server: Server, tmp_path: Path, failure: str, name: str, verdict: str, said: str
) -> None:
    folder = exported(tmp_path)
    server.failure = failure
    result = deployed(server, folder)
    found = {check.name: check for check in result.checks}
    assert found[name].verdict == verdict
    assert said in found[name].detail
    assert list(server.models) == (["pirate:latest"] if result.kept else [])
    assert result.kept is (verdict == "warning")


def test_what_fails_the_proof_takes_no_name_and_leaves_what_was_there(server: Server, tmp_path: Path) -> None:
    folder = exported(tmp_path)
    deployed(server, folder)
    before = server.models["pirate:latest"]
    server.failure = "mute"
    result = deployed(server, exported(tmp_path / "other", system="Be a parrot."), own=True)
    assert not result.kept
    assert "pirate is as it was before" in result.in_words()
    assert server.models == {"pirate:latest": before}


def test_a_small_context_is_asked_what_fits(server: Server, tmp_path: Path) -> None:
    """Ollama drops the first messages of what does not fit: such a prompt is no proof of anything."""
    found = {check.name: check for check in deployed(server, exported(tmp_path, num_ctx=100)).checks}
    assert (found["prompt"].verdict, found["prompt"].detail[:10]) == ("ok", "5 rendered")
    none = {check.name: check for check in deployed(server, exported(tmp_path, num_ctx=8)).checks}
    assert none["prompt"].verdict == "warning"


@pytest.mark.parametrize("failure", ["dies", "dies on blob"])
def test_a_server_that_dies_in_the_middle_is_gone_on_with(server: Server, tmp_path: Path, failure: str) -> None:
    """Of what it holds already nothing is sent again, nothing is read again, and the waiting has an end."""
    server.failure, server.times = failure, 2
    seen: list[str] = []
    folder = exported(tmp_path)
    with Ollama(server.url, delays_s=(0.0, 0.0)) as ollama:
        result = deploy.deploy(ollama, read(folder), Wanted("pirate"), lambda step: seen.append(step.what))
    assert result.kept
    assert sum("once more in 0 s" in what for what in seen) == 2
    sent = [path for method, path in server.asked if method == "POST" and path.startswith("/api/blobs/")]
    assert len(sent) == len(set(sent)) + (2 if failure == "dies on blob" else 0)
    assert seen.count("reading model.safetensors") == 1


@pytest.mark.parametrize("failure", ["late error", "no success", "dies", "dies on blob"])
def test_a_creation_that_fails_leaves_no_model(server: Server, tmp_path: Path, failure: str) -> None:
    server.failure = failure
    with pytest.raises((RunFailedError, MissingError)):
        deployed(server, exported(tmp_path))
    assert server.models == {}


def test_without_a_training_environment_the_tokens_are_not_claimed(server: Server, tmp_path: Path) -> None:
    result = deployed(server, exported(tmp_path), proof=Proof())
    assert verdicts(result)["prompt tokens"] == "warning"


@pytest.mark.parametrize(
    ("there", "wanted", "name"),
    [
        ([], {}, "pirate"),
        (["pirate:latest"], {}, "pirate:1015"),
        (["pirate:latest"], {"replace": True}, "pirate"),
        (["pirate:latest"], {"own": True}, "pirate"),
        (["pirate:latest"], {"tag": "v2"}, "pirate:v2"),
        (["pirate:v1"], {"name": "pirate:v1"}, "pirate:1015"),
        (["me/pirate:latest"], {"name": "me/pirate"}, "me/pirate:1015"),
        (["pirate:v2"], {"tag": "v2", "replace": True}, "pirate:v2"),
    ],
)
def test_a_name_that_is_taken(server: Server, there: list[str], wanted: dict[str, object], name: str) -> None:
    server.models |= {each: {"template": ""} for each in there}
    order = Wanted(**{"name": "pirate", "beside": "1015", **wanted})  # type: ignore[arg-type]
    with Ollama(server.url) as ollama:
        assert deploy.choose_name(ollama, order) == name


@pytest.mark.parametrize(("tag", "said"), [("v2", "there already"), ("a b", "no name")])
def test_a_tag_that_cannot_be(server: Server, tag: str, said: str) -> None:
    server.models["pirate:v2"] = {"template": ""}
    with Ollama(server.url) as ollama, pytest.raises(RecipeError, match=said):
        deploy.choose_name(ollama, Wanted("pirate", tag=tag))


def test_an_architecture_that_ollama_cannot_import_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    folder = exported(tmp_path, architectures=["MistralForCausalLM"])
    with pytest.raises(RecipeError, match="cannot import MistralForCausalLM"):
        read(folder)


@pytest.mark.parametrize(("kind", "asked"), [(0, "Q8_0"), (12, None)])
def test_a_quantised_gguf_is_not_quantised_again(server: Server, tmp_path: Path, kind: int, asked: str | None) -> None:
    write_gguf(tmp_path / "ready.gguf", gguf_keys(), {"token_embd.weight": (kind, 256)})
    folder = exported(tmp_path, gguf=tmp_path / "ready.gguf", architectures=["MistralForCausalLM"])
    deployed(server, folder, quantize="q8_0")
    assert server.models["pirate:latest"].get("quantize") == asked
    assert list(server.models["pirate:latest"]["files"]) == ["ready.gguf"]


QUANTIZE = '#!/bin/sh\nhead -c 4 "$1" | grep -q GGUF && cp "$1" "$2" && printf "$3" >> "$2"\n'


@pytest.fixture
def plain() -> Iterator[Server]:
    """An Ollama since 0.34.1: it quantises nothing, converts nothing, and takes no adapter."""
    with serve(version="0.40.2") as state:
        yield state


def ready(folder: Path) -> Path:
    """A model of our own, exported as a GGUF of 32 bits."""
    folder.mkdir(exist_ok=True)
    write_gguf(folder / "ready.gguf", gguf_keys(), {"token_embd.weight": (0, 256)})
    return exported(folder, gguf=folder / "ready.gguf")


@pytest.mark.parametrize(("wanted", "sent"), [(None, "ready.gguf"), ("f32", "ready.gguf"), ("q6_K", "model-Q6_K.gguf")])
def test_an_ollama_of_today_gets_the_gguf_that_it_is_to_run(
    plain: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | None, sent: str
) -> None:
    folder = ready(tmp_path)
    (tmp_path / "llama-quantize").write_text(QUANTIZE)
    (tmp_path / "llama-quantize").chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert deployed(plain, folder, quantize=wanted).kept
    made = plain.models["pirate:latest"]
    assert (list(made["files"]), made.get("quantize")) == ([sent], None)


def test_what_an_ollama_of_today_does_not_make_is_told_before_anything_is_sent(
    plain: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    with pytest.raises(MissingError, match=r"0\.40\.2 .* does not quantise") as caught:
        deployed(plain, ready(tmp_path / "gguf"), quantize="q4_K_M")
    assert "--quantize F32" in str(caught.value.hint)
    with pytest.raises(MissingError, match=r"takes a GGUF, and safetensors were exported"):
        deployed(plain, exported(tmp_path / "weights"))
    assert (plain.models, plain.blobs) == ({}, {})


def test_without_what_it_takes_the_stage_says_so_and_what_to_do(
    plain: Server, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", plain.url)
    outcome = outcomes.OF["deploy"](run, run.read_json(run.orders))
    assert outcome.skipped
    assert "--llama-cpp" in outcome.detail
    assert outcome.detail.endswith(f"then ax-recipe deploy {run.name}")


def test_what_such_an_ollama_says_of_it_is_passed_on(plain: Server, tmp_path: Path) -> None:
    folder = read(exported(tmp_path / "weights"))
    files = files_of(folder.source)
    gguf = {"ready.gguf": ready(tmp_path / "gguf") / "ready.gguf"}
    with Ollama(plain.url) as ollama:
        with pytest.raises(RunFailedError, match="unsupported MLX architecture"):
            ollama.create(Creation("pirate", files))
        with pytest.raises(RunFailedError, match="only supported for safetensors"):
            ollama.create(Creation("pirate", gguf, quantize="Q4_K_M"))
        with pytest.raises(RunFailedError, match="no longer supported"):
            ollama.create(Creation("pirate", gguf, adapters=gguf))


def test_nothing_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds nothing exported"):
        read(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run's folder, as the export stage leaves it, with a training environment that counts 2 tokens."""
    run = RunDir(tmp_path / "runs" / "pirate-20261122-101500")
    run.path.mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho '{\"tokens\": 2}'\n", encoding="utf-8")
    python.chmod(0o755)
    ship: dict[str, object] = {"model": "pirate", "quantize": None, "num_ctx": 64, "system": None, "parameters": {}}
    orders = {
        "recipe": "pirate",
        "output": str(run.output),
        "model": str(tmp_path / "model"),
        "ship": ship,
        "axolotl": {"python": str(python), "version": "0.19.0"},
        "stages": [],
        "targets": {},
        "gpus": 0,
    }
    orders |= {"base": str(tmp_path / "base"), "method": "lora"}
    run.write_json(run.orders, orders | {"checks": {"prompts": ["Who goes there?"]}})
    run.write_state(RunState("pirate", tuple(StageRecord(name, "done") for name in TITLES)))
    run.axolotl_yaml.write_text("datasets: [{path: x, type: chat_template}]\n", encoding="utf-8")
    write_model(tmp_path / "model")
    write_tokenizer(tmp_path / "model", chat=CHAT)
    outcomes.OF["export"](run, run.read_json(run.orders))
    seal.put(run.path)
    return run


def test_the_verb_proves_and_the_run_remembers(server: Server, run: RunDir, invoke: Invoke) -> None:
    done = invoke("deploy", run.name, "--host", server.url, "--json")
    value = json.loads(done.stdout)
    assert (done.exit_code, value["model"]) == (1, "pirate")  # 2 tokens are not what the server counts
    assert [check["name"] for check in value["checks"] if check["verdict"] == "error"] == ["prompt tokens"]
    failed = run.read_state().stage("deploy")
    assert (failed.state, failed.attempt) == ("failed", 1)
    assert "taken away again" in failed.detail
    assert server.models == {}
    (run.path.parent.parent / "python").write_text("#!/bin/sh\necho '{\"tokens\": 3}'\n", encoding="utf-8")
    done = invoke("deploy", run.name, "--host", server.url)
    assert done.exit_code == 0, done.output
    assert "ollama run pirate\n" in done.stdout
    assert list(server.models) == ["pirate:latest"]
    invoke("deploy", run.name, "--host", server.url)
    assert list(server.models) == ["pirate:latest"]  # its own from before is replaced
    assert "[x] Deployed" in invoke("status", run.name).stdout
    assert "sending model.safetensors" in done.stderr or "is there already" in done.stderr
    assert run.read_json(run.deployed)["host"] == server.url


def test_a_model_of_another_stays(server: Server, run: RunDir, invoke: Invoke) -> None:
    server.models["pirate:latest"] = {"template": ""}
    (run.path.parent.parent / "python").write_text("#!/bin/sh\necho '{\"tokens\": 3}'\n", encoding="utf-8")
    invoke("deploy", run.name, "--host", server.url)
    assert sorted(server.models) == ["pirate:20261122-101500", "pirate:latest"]
    assert server.models["pirate:latest"] == {"template": ""}


def test_without_a_server_the_run_stays_as_it_is(run: RunDir, invoke: Invoke) -> None:
    before = run.state.read_bytes()
    done = invoke("deploy", run.name, "--host", "127.0.0.1:9")
    assert (done.exit_code, run.state.read_bytes()) == (3, before)
    assert "no Ollama at http://127.0.0.1:9" in done.stderr


def test_the_stage_uses_the_same_proof(server: Server, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    orders = run.read_json(run.orders)
    with pytest.raises(RunFailedError, match="prompt tokens: 3 in Ollama, 2 by the tokenizer"):
        outcomes.OF["deploy"](run, orders)
    (run.path.parent.parent / "python").write_text("#!/bin/sh\necho '{\"tokens\": 3}'\n", encoding="utf-8")
    outcome = outcomes.OF["deploy"](run, orders)
    assert outcome.detail.startswith("ollama run pirate (undo: ollama rm pirate)")
    assert "3 checks" in outcome.detail
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    assert outcomes.OF["deploy"](run, orders).skipped


def test_a_run_is_exported_again_with_other_wishes(run: RunDir, invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("export", run.name, "--num-ctx", "32")
    assert done.exit_code == 0, done.output
    assert "ok       template" in done.stdout
    assert modelfile.read(run.modelfile).parameters["num_ctx"] == 32
    assert run.read_state().stage("export").attempt == 1
    invoke("export", run.name, "--out", str(tmp_path / "elsewhere"), "--json")
    assert modelfile.read(tmp_path / "elsewhere/Modelfile").parameters["num_ctx"] == 64
    assert run.read_state().stage("export").attempt == 1
    run.axolotl_yaml.write_text("datasets: [{path: x, type: alpaca}]\n", encoding="utf-8")
    seal.put(run.path)
    done = invoke("export", run.name, "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert "### Instruction:" in value["template"]  # trained so, whatever template the tokenizer was saved with


def test_a_merge_is_measured_against_the_base_with_the_adapter(run: RunDir, invoke: Invoke, tmp_path: Path) -> None:
    python = tmp_path / "python"
    measured = '{"tokens": 9, "max_abs_diff": 0.1, "mean_kl": 0.002, "top1_agreement": 1.0, "adapter_kl": 0.4, '
    measured += '"dtype": "float32"}'
    python.write_text(f"#!/bin/sh\ncp \"$9\" {tmp_path}/asked.json\necho '{measured}'\n", encoding="utf-8")
    run.write_json(run.orders, run.read_json(run.orders) | {"method": "qlora"})
    run.write_json(run.answers, [{"prompt": "Who goes there?", "tuned": "Arr."}])
    run.output.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (run.output / name).touch()
    seal.put(run.path)
    before = run.state.read_bytes()
    done = invoke("merge", run.name, "--logits")
    assert done.exit_code == 0, done.output
    assert "ok       logits              against the base in 4 bit with the adapter, at 9 tokens" in done.stdout
    assert run.state.read_bytes() == before
    asked = json.loads((tmp_path / "asked.json").read_text(encoding="utf-8"))
    assert [[turn["content"] for turn in each] for each in asked] == [["Who goes there?", "Arr."]]
    run.write_json(run.orders, run.read_json(run.orders) | {"method": "full"})
    for told in (["merge", run.name, "--logits"], ["export", run.name, "--adapter"]):
        assert "was not made by this account" in invoke(*told).stderr
    seal.put(run.path)
    for told in (["merge", run.name, "--logits"], ["export", run.name, "--adapter"]):
        assert "is a full fine-tune" in invoke(*told).stderr


def test_of_an_adapter_that_is_gone_bench_says_so_and_measures_the_rest(
    run: RunDir, invoke: Invoke, tmp_path: Path
) -> None:
    measured = '{"rows": [], "device": "cpu", "memory": 0}'
    (tmp_path / "python").write_text(f"#!/bin/sh\necho '{measured}'\n", encoding="utf-8")
    rows = json.loads(invoke("bench", run.name, "--host", "127.0.0.1:9", "--json").stdout)
    found = {row["form"]: row["problem"] for row in rows if row["engine"] == "transformers"}
    assert found["adapter"].startswith(f"{run.name} has no adapter: {run.output / 'adapter_model.safetensors'} is not")
    assert found["adapter"].endswith(f"ax-recipe resume {run.name} trains it")
    assert "merged" not in found
    assert "transformers, cpu" in {row["engine"] for row in rows}


def test_looking_at_a_merge_changes_nothing(run: RunDir, invoke: Invoke, tmp_path: Path) -> None:
    before = run.state.read_bytes()
    looked = invoke("merge", run.name, "--check")
    assert "tokenizer" in looked.stdout
    assert run.state.read_bytes() == before
    shutil.rmtree(tmp_path / "model")
    assert "has no merged model yet" in invoke("merge", run.name, "--check").stderr


def test_a_run_that_is_worked_on_is_left_alone(run: RunDir, invoke: Invoke, server: Server) -> None:
    with run.held():
        done = invoke("deploy", run.name, "--host", server.url)
    assert done.exit_code == 3
    assert server.models == {}


def test_the_terminal_shows_a_bar_for_bytes_and_words_for_steps() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True, _environ={"TERM": "xterm"})
    with Transfer(console) as shown:
        shown.report(Progress("sending model.gguf", 1 << 20, 4 << 20))
        shown._bars.refresh()
        assert "1.0/4.2 MB" in console.export_text()
        shown.report(Progress("verifying conversion"))
        shown._bars.refresh()
        assert "verifying conversion" in console.export_text()


def test_progress_is_told_in_steps(server: Server, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with Ollama(server.url) as ollama:
        deploy.deploy(ollama, read(exported(tmp_path)), Wanted("pirate"), seen.append)
    assert seen[-1].what == "success"
