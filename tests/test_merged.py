"""The merge doctor finds what is wrong with a merge, and mends what files can mend."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ax_recipe import assets
from ax_recipe.errors import RunFailedError
from ax_recipe.plan.render import render
from ax_recipe.recipe import recipe
from ax_recipe.run import preparing
from ax_recipe.ship import stage, tokenizer, weights
from ax_recipe.ship.export import Wishes, export
from ax_recipe.ship.mend import mend
from ax_recipe.ship.merged import Check, Folders, drift, examine
from conftest import installed_axolotl
from ship_folders import CHAT, WORDS, floats, write_model, write_run, write_safetensors, write_tokenizer


def verdicts(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.verdict for check in checks}


def test_the_default_merge_is_mended(tmp_path: Path) -> None:
    base, trained, merged = write_run(tmp_path)
    folders = Folders(merged, trained, base)
    found = verdicts(examine(folders))
    assert {name for name, verdict in found.items() if verdict == "error"} == {
        "tokenizer",
        "chat template",
        "end of text",
    }
    mended = mend(folders)
    assert {check.name for check in mended if check.verdict == "mended"} == {
        "tokenizer",
        "chat template",
        "end of text",
    }
    assert {check.verdict for check in examine(folders)} == {"ok", "warning"}  # F32 alone
    assert tokenizer.load(merged).tokens.eos == "<|end|>"
    assert json.loads((merged / "tokenizer_config.json").read_text())["chat_template"] == CHAT
    assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"] == [4, 1]
    assert mend(folders) == examine(folders)


def test_lora_that_was_not_applied_is_found(tmp_path: Path) -> None:
    base, trained, merged = write_run(tmp_path)
    write_model(merged, rows=5, weight=1.0)
    found = {check.name: check for check in examine(Folders(merged, trained, base))}
    assert found["lora pairs"].verdict == "error"
    assert "2 of 2 weights equal the base's" in found["lora pairs"].detail


def test_a_pair_without_its_weight_is_found(tmp_path: Path) -> None:
    _, trained, merged = write_run(tmp_path)
    pair = {f"base_model.model.model.layers.7.q.lora_{part}.weight": floats(1, 2, 1.0) for part in "AB"}
    write_safetensors(trained / "adapter_model.safetensors", pair)
    assert verdicts(examine(Folders(merged, trained)))["lora pairs"] == "error"


def test_a_lost_head_is_put_back(tmp_path: Path) -> None:
    head = floats(5, 2, 9.0)
    base, trained, merged = write_run(tmp_path, **{"base_model.model.lm_head.weight": head})
    folders = Folders(merged, trained, base)
    assert verdicts(examine(folders))["trained in full"] == "error"
    assert verdicts(mend(folders))["trained in full"] == "mended"
    found = weights.of_folder(merged)
    assert weights.sample(found["lm_head.weight"])[:2] == [9.0, 9.0]
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is False
    assert json.loads((merged / weights.INDEX).read_text())["weight_map"]["lm_head.weight"] == weights.HEAD
    assert verdicts(examine(folders))["trained in full"] == "ok"


def test_a_tied_head_that_equals_the_embeddings_is_no_loss(tmp_path: Path) -> None:
    _, trained, merged = write_run(tmp_path, **{"base_model.model.lm_head.weight": floats(5, 2, 0.5)})
    assert verdicts(examine(Folders(merged, trained)))["trained in full"] == "ok"


def test_stale_files_are_put_aside(tmp_path: Path) -> None:
    _, _, merged = write_run(tmp_path)
    for name in ("model-00001-of-00002.safetensors", "checkpoint-8/model.safetensors"):
        (merged / name).parent.mkdir(exist_ok=True)
        shutil.copy(merged / "model.safetensors", merged / name)
    assert verdicts(examine(Folders(merged)))["stale files"] == "warning"
    assert verdicts(mend(Folders(merged)))["stale files"] == "mended"
    assert (merged / "checkpoint-8/model.safetensors.stale").is_file()
    assert weights.strays(merged) == []


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        ({"vocab_size": 9}, "vocabulary", "disagree"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "precision", "bitsandbytes"),
        ({"architectures": ["MistralForCausalLM"]}, "architecture", "GGUF"),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": 1e6}}, "rope", "ignores"),
        ({"eos_token_id": 3}, "end of text", "not among"),
    ],
)
def test_a_config_that_misleads_is_found(tmp_path: Path, change: dict[str, object], name: str, said: str) -> None:
    write_model(tmp_path)
    write_tokenizer(tmp_path)
    config = {**json.loads((tmp_path / "config.json").read_text()), **change}
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    found = {check.name: check for check in examine(Folders(tmp_path))}[name]
    assert found.verdict in ("error", "warning")
    assert said in found.detail


@pytest.mark.parametrize("keep", [4, 200, -1])
def test_a_file_cut_short_is_found(tmp_path: Path, keep: int) -> None:
    write_model(tmp_path)
    write_tokenizer(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RunFailedError):
        weights.tensors(file)
    assert verdicts(examine(Folders(tmp_path)))["weights"] == "error"


def test_bfloat16_is_read(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"x": ((2,), b"\x80\x3f\x00\xc0")}, "BF16")
    assert weights.sample(weights.tensors(tmp_path / "x.safetensors")["x"]) == [1.0, -2.0]


def test_the_staged_folder_leaves_the_model_alone(tmp_path: Path) -> None:
    base, trained, merged = write_run(tmp_path)
    rope = {"rope_theta": 1e6, "rope_type": "llama3", "factor": 8.0}
    config = json.loads((merged / "config.json").read_text())
    del config["rope_theta"]
    (merged / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    before = {path: path.read_bytes() for path in sorted(merged.iterdir())}
    result = export(merged, tmp_path / "export", Wishes(system="Arr.", trained=trained, base=base))
    assert {path: path.read_bytes() for path in sorted(merged.iterdir())} == before
    staged = json.loads((result.source / "config.json").read_text())
    assert (staged["rope_theta"], staged["rope_scaling"]) == (1e6, {"rope_type": "llama3", "factor": 8.0})
    assert (result.source / "model.safetensors").stat().st_nlink == 2
    assert {check.verdict for check in result.checks} == {"ok", "mended", "warning"}
    assert result.file.read_text() == result.modelfile
    assert result.as_json()["stops"] == ["<|end|>"]
    assert export(merged, tmp_path / "export", Wishes(system="Arr.", trained=trained, base=base)) == result
    with pytest.raises(RunFailedError, match="the model itself"):
        stage.stage(merged, merged)


def test_a_bos_that_training_never_saw_is_switched_off(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    write_tokenizer(tmp_path / "m", chat=CHAT)
    path = tmp_path / "m/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": True}))
    result = export(tmp_path / "m", tmp_path / "out")
    assert verdicts(result.checks)["begin of text"] == "mended"
    assert json.loads((result.source / "tokenizer_config.json").read_text())["add_bos_token"] is False


def test_a_bos_is_known_from_the_post_processor(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    assert tokenizer.load(tmp_path).adds_bos is False
    model = json.loads((tmp_path / "tokenizer.json").read_text())
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    model["post_processor"] = {"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": single}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(model))
    assert tokenizer.load(tmp_path).adds_bos is True


BASE = """
import json, sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>"]
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
tokenizer.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet))
torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
sizes |= {"num_key_value_heads": 2, "vocab_size": tokenizer.get_vocab_size()}
config = LlamaConfig(tie_word_embeddings=True, eos_token_id=4, **sizes)
LlamaForCausalLM(config).save_pretrained(folder)
tokenizer.save(str(folder / "tokenizer.json"))
names = {"bos_token": special[0], "eos_token": special[4], "pad_token": special[5]}
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
"""
LORA = {
    **{"base_model": "./base", "adapter": "lora", "lora_r": 4, "lora_alpha": 8, "output_dir": "./out", "max_steps": 4},
    **{"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
    **{"lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False, "bf16": False, "fp16": False},
    **{"tf32": False, "datasets": [{"path": "rows.jsonl", "ds_type": "json", "type": "chat_template"}]},
    **{"chat_template": "llama3", "sequence_len": 128, "micro_batch_size": 2, "learning_rate": 0.01},
    **{"optimizer": "adamw_torch", "dataset_prepared_path": "./prepared"},
}
NEW_TOKENS = {
    "chat_template": "chatml",
    "tokens": ["<|im_start|>"],
    "special_tokens": {"eos_token": "<|im_end|>"},
    "lora_modules_to_save": ["embed_tokens", "lm_head"],
}


# How far, relatively, a merged matrix is from the one that the base is trained on in 4 bit, with its adapter.
OFF = """
import json, sys, torch
from pathlib import Path
from bitsandbytes import functional
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
base, out = map(Path, sys.argv[1:])
nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=nf4)
name = "model.layers.0.mlp.up_proj"
packed = model.get_submodule(name).weight
adapter = load_file(out / "adapter_model.safetensors")
a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
config = json.loads((out / "adapter_config.json").read_text())
wanted = functional.dequantize_4bit(packed.data, packed.quant_state) + config["lora_alpha"] / config["r"] * b @ a
merged = {}
for shard in (out / "merged").glob("*.safetensors"):
    merged |= load_file(shard)
print(float((merged[name + ".weight"] - wanted).norm() / wanted.norm()))
"""


def compared(python: Path, merged: Path, folder: Path, *more: str) -> dict[str, float]:
    """What the probe finds between a merge and its base with the adapter."""
    argv = [python, assets.probe("compare_logits.py"), "--base", folder / "base", "--adapter", folder / "out"]
    prompts = folder / "prompts.json"
    prompts.write_text(json.dumps(["Ahoy there", "<|eot_id|>What is 3 plus 4?"]), encoding="utf-8")
    argv += ["--merged", merged, *more, prompts]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def with_embedding(merged: Path, value: float) -> None:
    """Write the merge once more, with another embedding."""
    names = {name: floats(tensor.shape[0], tensor.shape[1], 2.0) for name, tensor in weights.of_folder(merged).items()}
    embedding = {"model.embed_tokens.weight": floats(len(WORDS) + 1, 2, value)}
    write_safetensors(merged / "model.safetensors", names | embedding)


@pytest.mark.parametrize(
    ("value", "before", "after"), [(0.5, None, None), (0.55, "warning", "mended"), (0.9, "error", "error")]
)
def test_embeddings_that_only_the_merge_rounded_are_put_back(
    tmp_path: Path, value: float, before: str | None, after: str | None
) -> None:
    base, output, merged = write_run(tmp_path)
    with_embedding(merged, value)
    (tmp_path / "linked").hardlink_to(merged / "model.safetensors")
    linked = (tmp_path / "linked").read_bytes()
    folders = Folders(merged, output, base)
    assert verdicts(examine(folders)).get("embeddings") == before
    assert verdicts(mend(folders)).get("embeddings") == after
    found, wanted = (weights.of_folder(each)["model.embed_tokens.weight"] for each in (merged, base))
    assert weights.same(found, wanted) is (value != 0.9)
    assert (tmp_path / "linked").read_bytes() == linked


def test_embeddings_that_were_trained_stay_as_they_are(tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.weight"
    base, output, merged = write_run(tmp_path, **{name: floats(len(WORDS) + 1, 2, 0.55)})
    with_embedding(merged, 0.55)
    found = verdicts(mend(Folders(merged, output, base)))
    assert (found.get("embeddings"), found["trained in full"]) == (None, "ok")


@pytest.mark.parametrize(
    ("agreement", "moved", "verdict"),
    [(1.0, 0.01, "ok"), (0.95, 0.01, "warning"), (0.5, 0.01, "error"), (0.5, 2.0, "warning")],
)
def test_what_was_measured_between_merge_and_adapter_is_judged(agreement: float, moved: float, verdict: str) -> None:
    measured = {"tokens": 40, "max_abs_diff": 0.03, "mean_kl": 0.08, "adapter_kl": moved, "top1_agreement": agreement}
    found = drift({**measured, "dtype": "float32"}, four_bit=True)
    assert found.verdict == verdict
    assert "against the base in 4 bit with the adapter, at 40 tokens in float32" in found.detail


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]) -> tuple[Path, Path]:
    """Train and merge a small Llama with real Axolotl in ``folder``: its python, and the merge."""
    axolotl = installed_axolotl()
    assert axolotl
    python = axolotl.with_name("python")
    monkeypatch.chdir(folder)
    for name in ("AXOLOTL_DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "1")
    row = {"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Arr, matey."}]}
    (folder / "rows.jsonl").write_text("\n".join([json.dumps(row)] * 16))
    (folder / "run.yml").write_text(json.dumps({**LORA, **more}))
    (folder / "base").mkdir()
    for argv in (
        [python, "-c", BASE, "base"],
        [axolotl, "train", "run.yml", "--launcher", "python"],
        [axolotl, "merge-lora", "run.yml", "--lora-model-dir", "./out"],
    ):
        done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return python, folder / "out/merged"


@pytest.mark.axolotl
@pytest.mark.slow
@pytest.mark.parametrize(("more", "whole"), [({}, True), (NEW_TOKENS, False)], ids=["plain", "new tokens, tied head"])
def test_a_real_merge_is_the_trained_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object], whole: bool
) -> None:
    """Real Axolotl trains and merges; after mending, the logits are those of the base with the adapter."""
    python, merged = trained(tmp_path, monkeypatch, more)
    before = compared(python, merged, tmp_path)
    assert (before["max_abs_diff"] < 1e-4) is whole
    result = export(merged, tmp_path / "export", Wishes(trained=tmp_path / "out", base=tmp_path / "base"))
    after = compared(python, result.source, tmp_path)
    assert after["max_abs_diff"] < 1e-4
    assert after["top1_agreement"] == 1.0
    found = verdicts(result.checks)
    assert found["lora pairs"] == "ok"
    assert found["chat template"] == "mended"
    assert found.get("trained in full") == (None if whole else "mended")
    assert found["tokenizer"] == ("ok" if whole else "mended")


@pytest.mark.axolotl
@pytest.mark.slow
def test_a_real_qlora_merge_is_the_base_in_four_bit_with_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Axolotl takes every matrix through 4 bit when it merges; training left the embeddings as they are."""
    keys = yaml.safe_load(render(preparing.for_print(recipe.load("pirate"), None, None).train, "pirate", "a GPU"))
    four_bit = {key: keys[key] for key in ("adapter", "load_in_4bit", "bnb_config_kwargs")}
    python, merged = trained(tmp_path, monkeypatch, four_bit)
    done = subprocess.run([str(python), "-c", OFF, "base", "out"], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-6, "the matrices that it was trained on, scales in 8 bit, and the adapter"
    before, whole = compared(python, merged, tmp_path, "--four-bit"), compared(python, merged, tmp_path)
    result = export(merged, tmp_path / "export", Wishes(trained=tmp_path / "out", base=tmp_path / "base"))
    after = compared(python, result.source, tmp_path, "--four-bit")
    assert verdicts(result.checks)["embeddings"] == "mended"
    assert after["mean_kl"] < before["mean_kl"] / 10
    assert after["mean_kl"] < whole["mean_kl"] / 10
    assert drift(after, four_bit=True).verdict != "error"  # likeliest tokens of an untrained model are near ties
