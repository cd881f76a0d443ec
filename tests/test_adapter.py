"""A LoRA goes beside its base where a GGUF can carry it, and is refused before anything is made where it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.ship import adapter, convert, deploy, modelfile
from ax_recipe.ship.convert import Converter
from ax_recipe.ship.deploy import Wanted
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.exported import read
from ax_recipe.ship.files import read_json
from ax_recipe.ship.ollama import Ollama
from conftest import Invoke
from fake_ollama import serve
from ship_folders import CHAT, floats, gguf_keys, write_gguf, write_model, write_safetensors, write_tokenizer

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "alpha_pattern": {}, "rank_pattern": {}}
PAIRS = {
    f"base_model.model.model.layers.0.{name}.lora_{part}.weight": floats(*shape, 1.0)
    for name in "qk"
    for part, shape in (("A", (1, 2)), ("B", (2, 1)))
}
PROGRAM = """#!/bin/sh
here=$(dirname "$0")
while [ "$1" != "--outfile" ]; do shift; done
cp "$here/$(basename "$0" .py).gguf" "$2"
"""


@pytest.fixture(autouse=True)
def no_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """None but the stand-ins of a test: a real checkout may be named where the tests run."""
    monkeypatch.delenv(convert.VARIABLE, raising=False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output_dir with an adapter, its base beside it."""
    write_model(tmp_path / "base")
    write_tokenizer(tmp_path / "base")
    folder = tmp_path / "out"
    folder.mkdir()
    write_tokenizer(folder, chat=CHAT)
    write_safetensors(folder / adapter.WEIGHTS, PAIRS)
    told = {**LORA, "base_model_name_or_path": str(tmp_path / "base")}
    (folder / adapter.CONFIG).write_text(json.dumps(told))
    return folder


def llama_cpp(folder: Path, alpha: float = 8.0) -> Path:
    """A checkout whose converters write what was made here."""
    folder.mkdir()
    for name in ("convert_hf_to_gguf", "convert_lora_to_gguf"):
        (folder / f"{name}.py").write_text(PROGRAM)
    write_gguf(folder / "convert_hf_to_gguf.gguf", gguf_keys())
    tensors = {f"blk.0.attn_{name}.weight.lora_{part}": (0, 4) for name in "qk" for part in "ab"}
    keys = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    write_gguf(folder / "convert_lora_to_gguf.gguf", keys, tensors)
    return folder


def exported(output: Path, place: Path, alpha: float = 8.0, **wishes: object) -> Path:
    converter = Converter(llama_cpp(place / "llama.cpp", alpha) / convert.SCRIPT, Path("/bin/sh"))
    more = Wishes(trained=output, adapter=output, converter=converter, **wishes)  # type: ignore[arg-type]
    result = export(output.parent / "base", place / "export", more)
    assert {check.name for check in result.checks if check.verdict == "error"} == (set() if alpha == 8 else {"adapter"})
    return place / "export"


def test_the_base_and_the_adapter_are_brought_into_ollama(output: Path, tmp_path: Path) -> None:
    folder = exported(output, tmp_path)
    text = (folder / "Modelfile").read_text(encoding="utf-8")
    assert "FROM ./model.gguf\nADAPTER ./adapter.gguf\n" in text
    assert modelfile.read(folder / "Modelfile").stops == ("<|end|>", "</s>")
    with serve() as server, Ollama(server.url) as ollama:
        made = deploy.deploy(ollama, read(folder), Wanted("pirate"), lambda _: None)
        assert made.kept
        assert list(server.models["pirate:latest"]["adapters"]) == ["adapter.gguf"]
        (folder / "adapter.gguf").unlink()
        with pytest.raises(RecipeError, match="ADAPTER"):
            read(folder)


def test_a_scale_that_is_lost_is_an_error(output: Path, tmp_path: Path) -> None:
    exported(output, tmp_path, alpha=16.0)


def test_the_doubt_of_a_four_bit_base_is_told(output: Path, tmp_path: Path) -> None:
    converter = Converter(llama_cpp(tmp_path / "llama.cpp") / convert.SCRIPT, Path("/bin/sh"))
    wishes = Wishes(trained=output, adapter=output, converter=converter, four_bit=True)
    found = {check.name: check for check in export(tmp_path / "base", tmp_path / "export", wishes).checks}
    assert found["adapter"].detail == "2 of 2 pairs, alpha 8"
    assert (found["adapter base"].verdict, "merge is nearer" in found["adapter base"].detail) == ("warning", True)


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"use_dora": True}, "DoRA"),
    ({"alpha_pattern": {"q": 4}}, "alpha_pattern"),
    ({"use_rslora": True, "rank_pattern": {"q": 2}}, "rsLoRA with a rank_pattern"),
    ({"bias": "all"}, "biases"),
    ({"lora_bias": True}, "biases"),
    ({"peft_type": "VERA"}, "no LoRA but VERA"),
]


@pytest.mark.parametrize(("told", "said"), REFUSED)
def test_what_a_gguf_has_no_place_for_is_refused_first(
    output: Path, tmp_path: Path, told: dict[str, object], said: str
) -> None:
    (output / adapter.CONFIG).write_text(json.dumps({**read_json(output / adapter.CONFIG), **told}))
    with pytest.raises(RecipeError, match=said):
        export(tmp_path / "base", tmp_path / "export", Wishes(trained=output, adapter=output))
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("base_model.model.lm_head.weight", "trained whole"),
        ("base_model.model.model.embed_tokens.lora_A.weight", "trained whole"),
        ("base_model.model.lm_head.lora_A.weight", "ties to its embeddings"),
        ("base_model.model.model.layers.0.q.lora_magnitude_vector", "trained whole"),
    ],
)
def test_tensors_beside_the_pairs_are_refused_first(output: Path, tmp_path: Path, name: str, said: str) -> None:
    write_model(tmp_path / "base", tie_word_embeddings=True)
    write_safetensors(output / adapter.WEIGHTS, {**PAIRS, name: floats(1, 2, 1.0)})
    with pytest.raises(RecipeError, match=said):
        export(tmp_path / "base", tmp_path / "export", Wishes(trained=output, adapter=output))


def test_rank_stabilised_scales_are_told_in_plain_ones(output: Path, tmp_path: Path) -> None:
    told = {**read_json(output / adapter.CONFIG), "use_rslora": True}
    (output / adapter.CONFIG).write_text(json.dumps(told))
    staged = read_json(adapter.stage(output, tmp_path / "staged") / adapter.CONFIG)
    assert (staged["lora_alpha"], staged["use_rslora"]) == (16.0, False)
    assert read_json(output / adapter.CONFIG) == told


def test_without_a_converter_ollamas_own_is_not_asked(output: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="mixes up"):
        export(tmp_path / "base", tmp_path / "export", Wishes(trained=output, adapter=output))
    place = llama_cpp(tmp_path / "llama.cpp")
    (place / convert.LORA_SCRIPT).unlink()
    wishes = Wishes(trained=output, adapter=output, converter=Converter(place / convert.SCRIPT, Path("/bin/sh")))
    with pytest.raises(MissingError, match="convert_lora_to_gguf"):
        export(tmp_path / "base", tmp_path / "export", wishes)


@pytest.mark.usefixtures("fake_axolotl")
def test_the_verb_finds_the_base_and_says_where_it_is_not(invoke: Invoke, output: Path, tmp_path: Path) -> None:
    place = tmp_path / "exported"
    refused = invoke("export", str(output), "--adapter", "--out", str(place))
    assert refused.exit_code == 3
    assert "LLAMA_CPP_DIR" in refused.stderr
    told = read_json(output / adapter.CONFIG)
    (output / adapter.CONFIG).write_text(json.dumps({**told, "base_model_name_or_path": "none/such"}))
    gone = invoke("export", str(output), "--adapter", "--out", str(place))
    assert gone.exit_code == 2
    assert "none/such" in gone.stderr
    assert invoke("export", str(tmp_path / "base"), "--adapter").exit_code == 2


@pytest.mark.usefixtures("fake_axolotl")
def test_the_verb_takes_a_ready_base(invoke: Invoke, output: Path, tmp_path: Path) -> None:
    """Of the environment it runs no more than our stand-in for the converter, which is a shell script here."""
    checkout = llama_cpp(tmp_path / "llama.cpp")
    (tmp_path / "environment/bin/python").write_text('#!/bin/sh\nexec /bin/sh "$@"\n', encoding="utf-8")
    ready = checkout / "convert_hf_to_gguf.gguf"
    told = ("--adapter", "--gguf", str(ready), "--llama-cpp", str(checkout), "--out", str(tmp_path / "made"), "--json")
    done = invoke("export", str(output), *told)
    assert done.exit_code == 0, done.output
    assert f"FROM ./{ready.name}\nADAPTER ./adapter.gguf" in json.loads(done.stdout)["modelfile"]


def test_an_ollama_of_today_takes_no_adapter(output: Path, tmp_path: Path) -> None:
    folder = read(exported(output, tmp_path))
    with (
        serve(version="0.40.2") as server,
        Ollama(server.url) as ollama,
        pytest.raises(MissingError, match=r"takes no adapters: none does since 0\.34\.1"),
    ):
        deploy.deploy(ollama, folder, Wanted("pirate"), lambda _: None)
    assert server.blobs == {}


QUANTIZE = '#!/bin/sh\n[ "$3" = Q5_K_M ] || { echo "invalid ftype $3"; exit 1; }\n/bin/cp "$1" "$2"; echo >> "$2"\n'


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("failed to quantize: this quantization requires an imatrix!", "requires an imatrix!"),
        ("failed to quantize: basic_ios::clear: iostream error", "is the disk full?"),
    ],
)
def test_the_reason_of_a_quantiser_is_told(tmp_path: Path, said: str, told: str) -> None:
    """So llama-quantize 0.7.0 ends; the second on a full disk."""
    tool = tmp_path / "llama-quantize"
    tool.write_text(f"#!/bin/sh\necho '{said}' >&2\necho \"failed to quantize model from '$1'\" >&2\nexit 1\n")
    tool.chmod(0o755)
    with pytest.raises(RunFailedError, match=rf"llama-quantize ended with 1: .*{told.replace('?', '.')}\n"):
        convert.quantise(tmp_path / "a.gguf", tmp_path / "b.gguf", "IQ2_XXS", tool)
    assert not (tmp_path / ".b.gguf.part").exists()


def test_what_ollama_does_not_quantise_to_llama_cpp_does(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(output, tmp_path)
    monkeypatch.setenv("PATH", "")  # where a real one may be
    with serve() as server, Ollama(server.url) as ollama:

        def made(kind: str) -> object:
            wanted = Wanted("pirate", quantize=kind, own=True)
            return deploy.deploy(ollama, read(folder), wanted, lambda _: None)

        with pytest.raises(RecipeError, match="cannot quantise to q5_k_m"):
            made("q5_k_m")
        tool = tmp_path / "llama.cpp/build/bin/llama-quantize"
        tool.parent.mkdir(parents=True)
        tool.write_text(QUANTIZE)
        tool.chmod(0o755)
        monkeypatch.setenv(convert.VARIABLE, str(tmp_path / "llama.cpp"))
        made("q5_k_m")
        model = server.models["pirate:latest"]
        assert (list(model["files"]), model.get("quantize")) == (["model-Q5_K_M.gguf"], None)
        with pytest.raises(Exception, match="invalid ftype IQ9_X"):
            made("iq9_x")
        made("q8_0")
        assert server.models["pirate:latest"]["quantize"] == "Q8_0"
