"""`ax-recipe export` and `merge` work on any folder with a model and its tokenizer, ours or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ax_recipe.ship import modelfile, source
from ax_recipe.ship.files import read_json
from conftest import Invoke
from ship_folders import CHAT, gguf_keys, write_gguf, write_model, write_run, write_tokenizer

CONVERTER = """
import pathlib, sys
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
print("loading", sys.argv[1], arguments["--outtype"])
if {fails}:
    sys.exit("BPE pre-tokenizer was not recognized")
source = pathlib.Path(__file__).with_name("ready.gguf")
pathlib.Path(arguments["--outfile"]).write_bytes(source.read_bytes())
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    write_tokenizer(tmp_path / "model", chat=CHAT)
    return tmp_path / "model"


def llama_cpp(folder: Path, *, fails: bool = False, **keys: object) -> Path:
    """A checkout whose converter writes a GGUF made here, or fails as the real one does."""
    folder.mkdir()
    (folder / "convert_hf_to_gguf.py").write_text(CONVERTER.replace("{fails}", str(fails)), encoding="utf-8")
    write_gguf(folder / "ready.gguf", gguf_keys(**keys))
    return folder


def checks(text: str) -> dict[str, tuple[str, str]]:
    return {check["name"]: (check["verdict"], check["detail"]) for check in json.loads(text)["checks"]}


def test_a_folder_of_others_is_exported(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in model.iterdir()}
    done = invoke("export", str(model), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert set(value) == {"template", "stops", "modelfile", "checks"}
    assert value["stops"] == ["<|end|>", "</s>"]
    assert value["modelfile"] == (tmp_path / "out/Modelfile").read_text(encoding="utf-8")
    assert {"name", "verdict", "detail"} == set(value["checks"][0])
    assert checks(done.stdout)["template"][0] == "ok"
    assert {path: path.read_bytes() for path in model.iterdir()} == before


def test_an_output_dir_is_exported_as_trained(invoke: Invoke, tmp_path: Path) -> None:
    _, trained, merged = write_run(tmp_path)
    for folder in (trained, merged):
        done = invoke("export", str(folder), "--out", str(tmp_path / "made" / folder.name), "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["stops"] == ["<|end|>"]
        assert checks(done.stdout)["tokenizer"][0] == "mended"
    assert read_json(merged / "tokenizer_config.json").get("chat_template") is None


def test_wishes_are_heeded(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("export", str(model), "--out", str(out), "--system", "Arr.", "--num-ctx", "99")
    value = modelfile.read(out / "Modelfile")
    assert (value.system, value.parameters["num_ctx"], value.source) == ("Arr.", 99, "./model")


def test_data_without_a_chat_template_is_named(invoke: Invoke, tmp_path: Path) -> None:
    write_model(tmp_path / "plain")
    write_tokenizer(tmp_path / "plain")
    refused = invoke("export", str(tmp_path / "plain"))
    assert refused.exit_code == 2
    assert "--format" in refused.stderr
    done = invoke("export", str(tmp_path / "plain"), "--out", str(tmp_path / "out"), "--format", "alpaca", "--json")
    assert done.exit_code == 0, done.output
    assert "### Instruction:" in json.loads(done.stdout)["template"]


def test_templates_for_other_ends_alone_are_no_guess(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": CHAT}, {"name": "rag", "template": CHAT}]
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "chat_template": named}))
    done = invoke("export", str(model), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert "for tool_use, rag, and none called default" in done.stderr


def test_a_template_and_a_tokenizer_without_weights_are_told_as_such(
    invoke: Invoke, model: Path, tmp_path: Path
) -> None:
    (model / "model.safetensors").unlink()
    done = invoke("export", str(model), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["stops"] == ["<|end|>", "</s>"]
    assert checks(done.stdout)["weights"][0] == "error"


@pytest.mark.parametrize(("name", "check"), [("tokenizer.json", "vocabulary"), ("config.json", "architecture")])
def test_weights_without_what_tells_how_to_read_them_are_an_error(
    invoke: Invoke, model: Path, tmp_path: Path, name: str, check: str
) -> None:
    (model / name).unlink()
    done = invoke("export", str(model), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 1
    verdict, detail = checks(done.stdout)[check]
    assert (verdict, name in detail) == ("error", True)


def test_a_ready_gguf_is_held_against_the_model(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "good.gguf", gguf_keys())
    write_gguf(tmp_path / "bad.gguf", gguf_keys(tokenizer__ggml__eos_token_id=0))
    good = invoke("export", str(model), "--out", str(tmp_path / "out"), "--gguf", str(tmp_path / "good.gguf"), "--json")
    assert good.exit_code == 0, good.output
    assert "FROM ./good.gguf" in json.loads(good.stdout)["modelfile"]
    assert not (tmp_path / "out/model/model.safetensors").exists()
    bad = invoke("export", str(model), "--out", str(tmp_path / "out"), "--gguf", str(tmp_path / "bad.gguf"), "--json")
    assert bad.exit_code == 1
    assert checks(bad.stdout)["gguf end"][0] == "error"


def test_a_folder_whose_model_is_a_gguf_is_taken_as_it_is(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    write_gguf(model / "parrot.gguf", gguf_keys())
    write_gguf(model / "mmproj-parrot.gguf", gguf_keys())
    done = invoke("export", str(model), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    assert "FROM ./parrot.gguf" in json.loads(done.stdout)["modelfile"]


@pytest.mark.usefixtures("fake_axolotl")
def test_a_converter_makes_a_gguf(invoke: Invoke, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_DIR", str(llama_cpp(tmp_path / "llama.cpp")))
    out = tmp_path / "out"
    done = invoke("export", str(model), "--out", str(out), "--json")
    assert done.exit_code == 0, done.output
    assert modelfile.read(out / "Modelfile").source == "./model.gguf"
    assert (out / "model.gguf").read_bytes() == (tmp_path / "llama.cpp/ready.gguf").read_bytes()
    assert {verdict for name, (verdict, _) in checks(done.stdout).items() if name.startswith("gguf")} == {"ok"}
    assert not list(out.glob("model/*.safetensors"))
    assert not list(out.glob(".*.part"))


@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.parametrize(("architecture", "verdict", "code"), [("Llama", "warning", 0), ("Mistral", "error", 1)])
def test_a_converter_that_fails_is_told_and_the_weights_stay_the_way(
    invoke: Invoke, model: Path, tmp_path: Path, architecture: str, verdict: str, code: int
) -> None:
    write_model(model, architectures=[f"{architecture}ForCausalLM"])
    place = llama_cpp(tmp_path / "llama.cpp", fails=True)
    out = tmp_path / "out"
    done = invoke("export", str(model), "--out", str(out), "--llama-cpp", str(place), "--json")
    assert done.exit_code == code, done.output
    found, said = checks(done.stdout)["gguf"]
    assert found == verdict
    assert "BPE pre-tokenizer was not recognized" in said
    assert modelfile.read(out / "Modelfile").source == "./model"
    assert (out / "model/model.safetensors").is_file()


def test_a_llama_cpp_that_is_none_is_told(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    done = invoke("export", str(model), "--llama-cpp", str(tmp_path))
    assert done.exit_code == 3
    assert "convert_hf_to_gguf.py" in done.stderr


@pytest.mark.parametrize(("name", "said"), [("./none", "no folder"), (".", "no tokenizer")])
def test_what_cannot_be_exported_is_told(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("export", name)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("rope", "old"),
    [
        ({"rope_theta": 1e6, "rope_type": "default"}, {"rope_theta": 1e6}),
        (
            {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        ),
        (
            {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
        ),
    ],
)
def test_the_rope_of_transformers_5_is_said_in_the_old_words_too(
    invoke: Invoke, model: Path, tmp_path: Path, rope: dict[str, object], old: dict[str, object]
) -> None:
    config = {"architectures": ["Gemma3ForCausalLM"], "vocab_size": 4, "eos_token_id": 1, "rope_parameters": rope}
    (model / "config.json").write_text(json.dumps(config))
    done = invoke("export", str(model), "--out", str(tmp_path / "out"), "--json")
    assert checks(done.stdout)["rope"][0] == "mended"
    assert read_json(tmp_path / "out/model/config.json") == {**config, **old}


def test_a_missing_shard_is_a_finding(invoke: Invoke, model: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    done = invoke("export", str(model), "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 1
    assert checks(done.stdout)["weights"][0] == "error"


def test_merge_mends_a_folder_and_says_so(invoke: Invoke, tmp_path: Path) -> None:
    base, trained, merged = write_run(tmp_path)
    (trained / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    looked = invoke("merge", str(trained), "--check", "--json")
    assert looked.exit_code == 1
    assert {row["name"] for row in json.loads(looked.stdout) if row["verdict"] == "error"} == {
        *("tokenizer", "chat template", "end of text"),
    }
    mended = invoke("merge", str(trained))
    assert mended.exit_code == 0, mended.output
    assert "mended   tokenizer" in mended.stdout
    assert "2 weights differ from the base" in mended.stdout
    assert (merged / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    assert "mended" not in invoke("merge", str(merged)).stdout


def test_an_adapter_alone_is_to_be_merged_first(invoke: Invoke, tmp_path: Path) -> None:
    _, trained, merged = write_run(tmp_path)
    shutil.rmtree(merged)
    for verb in ("merge", "export"):
        done = invoke(verb, str(trained))
        assert done.exit_code == 2
        assert "axolotl merge-lora" in done.stderr


def test_a_base_is_found_in_the_hubs_cache_where_all_of_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshots = tmp_path / "hub/models--a--b/snapshots"
    write_model(snapshots / "1")
    write_model(snapshots / "0")
    (snapshots / "0/model.safetensors").unlink()
    assert source.base("a/b") == snapshots / "1"
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (snapshots / "1/model.safetensors.index.json").write_text(json.dumps(index))
    assert source.base("a/b") is None
