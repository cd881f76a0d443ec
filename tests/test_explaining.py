"""The topics of ``ax-recipe explain``: short, with the right numbers, for every recipe, YAML and run."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import struct
from pathlib import Path
from types import ModuleType

import pytest

import stories
from ax_recipe.explain import explaining, numbers
from ax_recipe.explain.families import SHOWN
from ax_recipe.explain.numbers import Training
from ax_recipe.explain.topics import TOPICS
from ax_recipe.recipe import recipe
from ax_recipe.ship.hf_jinja import HfTemplate
from ax_recipe.view import topic
from conftest import ROOT, Invoke, installed_axolotl

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FEEDFORWARD, VOCAB = 4096, 32, 32, 8, 128, 14336, 128256


def of(name: str) -> Training:
    return explaining.find(name, Path("runs"), None)


@pytest.fixture(scope="module")
def pirate() -> dict[str, str]:
    training = of("pirate")
    return {name: topic.text(name, training) for name in TOPICS}


def flat(text: str) -> str:
    return " ".join(text.split())


def test_every_topic_of_the_table_has_its_text_and_none_is_left_over() -> None:
    files = {path.name for path in (ROOT / "wrapper/ax_recipe/explain/topics").glob("*.j2")}
    assert files == {f"{name}.md.j2" for name in TOPICS}
    assert len(TOPICS) == 13


@pytest.mark.parametrize("name", [path.stem for path in recipe.bundled()])
def test_every_topic_fits_25_lines_of_80_columns_for_every_recipe(name: str) -> None:
    training = of(name)
    for each in TOPICS:
        lines = topic.text(each, training).rstrip("\n").split("\n")
        assert len(lines) <= 25, (each, len(lines))
        assert max(map(len, lines)) <= 80, (each, max(lines, key=len))
        assert not re.search(r"None|undefined|\{\{|\{%", "\n".join(lines)), each


def test_the_adapter_of_llama_8b_by_hand(pirate: dict[str, str]) -> None:
    q, kv = HEADS * HEAD, KV_HEADS * HEAD
    widths = 2 * (HIDDEN + q) + 2 * (HIDDEN + kv) + 3 * (HIDDEN + FEEDFORWARD)
    trained = 64 * LAYERS * widths
    layer = 2 * HIDDEN * q + 2 * HIDDEN * kv + 3 * HIDDEN * FEEDFORWARD + 2 * HIDDEN
    total = LAYERS * layer + 2 * VOCAB * HIDDEN + HIDDEN
    assert (trained, total) == (167_772_160, 8_030_261_248)
    text = flat(pirate["lora"])
    assert f"{trained:,}, {100 * trained / total:.2f} % of {total:,}" in text
    assert f"64 x (4,096 + 4,096) = {64 * 8192:,} numbers" in text
    assert f"adapter file {trained * 4 / 2**20:.0f} MiB in 32 bits; the base has {total * 2 / 2**30:.3g} GiB" in text
    assert f"Axolotl logs {100 * trained / (total + trained):.2f} %" in text
    assert f"{12 * trained / 2**30:.3g} GiB here, {12 * total / 2**30:.3g} GiB if all" in text
    assert "here 32 / 64 = 0.5" in text
    assert f"has one number for each of {trained:,} trained" in flat(pirate["grad-norm"])


def test_the_four_bits_of_a_qlora_by_hand(pirate: dict[str, str]) -> None:
    linear = LAYERS * (2 * HIDDEN * HEADS * HEAD + 2 * HIDDEN * KV_HEADS * HEAD + 3 * HIDDEN * FEEDFORWARD)
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    four, rest = linear * bits / 8, 2 * (8_030_261_248 - linear)
    text = flat(pirate["qlora"])
    assert f"{bits:.4g} bits in all" in text
    assert f"{(four + rest) / 2**30:.3g} GiB = {four / 2**30:.3g} GiB NF4 + {rest / 2**30:.3g} GiB left" in text
    assert f"{16 * 167_772_160 / 2**30:.3g} GiB either way" in text


def test_the_cache_counts_the_kv_heads(pirate: dict[str, str]) -> None:
    token = 2 * LAYERS * KV_HEADS * HEAD * 2
    text = flat(pirate["kv-cache"])
    assert "2 x layers x KV heads x head size x tokens x bytes a number" in text
    assert f"2 x 32 x 8 x 128 x 2 = {token:,} bytes = {token // 1024} KiB" in text
    assert f"8,192 tokens = {8192 * token / 2**30:g} GiB" in text
    assert f"leave them out, and the result is {KV_HEADS} times too small" in text
    assert f"131,072 {131072 * token / 2**30:g} GiB {131072 * token / 2**30 * 34 / 64:g} GiB" in text


def test_a_window_is_told_and_what_it_saves() -> None:
    text = flat(topic.text("kv-cache", of("gemma3-1b-chat")))
    assert re.search(r"4 layers keep every token, 22 only the last 512", text)


def test_the_batch_and_its_steps(pirate: dict[str, str]) -> None:
    text = flat(pirate["gradient-accumulation"])
    assert "2 sequences at a time on each GPU" in text
    assert "x 4 passes" in text
    assert f"= 32 sequences, {2 * 4 * 4 * 4096:,} tokens" in text
    assert "with 16 passes" in text
    rows, mean, full = 10_000, 500, 0.96
    packs = int(rows * mean / full / (2 * 4096))  # a pass that does not fill a step is dropped, as Axolotl does
    assert f"steps, packed {2 * (packs // (4 * 4))} for 2 epochs" in flat(pirate["packing"])
    assert f"steps, not packed {math.ceil(2 * rows / 32)}" in flat(pirate["packing"])
    assert f"about {round(32 * 4096 / 500)} rows of data" in flat(pirate["packing"])


def test_the_learning_rate_is_the_schedulers(pirate: dict[str, str]) -> None:
    text = flat(pirate["learning-rate"])
    assert "peak 2e-4, 2 of 78 steps warming up" in text
    half = 2e-4 * 0.5 * (1 + math.cos(math.pi * (39 - 2) / (78 - 2)))
    assert f"step 39 {half:.2e}" in text


def test_the_loss_of_guessing_and_the_target(pirate: dict[str, str]) -> None:
    text = flat(pirate["loss"])
    assert f"blind guessing {math.log(VOCAB):.2f}" in text
    assert f"0.5 to 0.8: perplexity {math.exp(0.5):.3g} to {math.exp(0.8):.3g}" in text


def test_a_full_fine_tune_is_told_what_lora_would_be() -> None:
    training = of("pirate")
    full = explaining.find("llama-8b-full", Path("runs"), None)
    assert "trains every weight instead" in topic.text("lora", full)
    assert "nothing to merge" in topic.text("merge", full)
    assert f"{32 * LAYERS * 81920:,}" in topic.text("lora", full)
    assert "a full fine-tune. As a QLoRA" in flat(topic.text("qlora", full))
    assert numbers.numbers(training)["adapter"]["used"]


def test_an_axolotl_yaml_has_its_numbers_too(tmp_path: Path) -> None:
    path = tmp_path / "axolotl.yml"
    path.write_text(
        "'base_model': NousResearch/Meta-Llama-3.1-8B\nadapter: lora\nlora_r: 16\nlora_alpha: 32\n"
        "lora_target_linear: true\nlearning_rate: 2e-4\nsequence_len: 2048\nbf16: true\n"
        "datasets: [{path: someone/rows, type: chat_template}]\n",
        encoding="utf-8",
    )
    training = of(str(path))
    assert f"{167_772_160 // 4:,}, 0.522 %" in topic.text("lora", training)
    assert "peak 2e-4" in topic.text("learning-rate", training)


def test_a_run_shows_what_was_measured(tmp_path: Path, fake_axolotl: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    rank, blob = 16, b""
    shape = [rank, 64]
    blob = b"\0" * (4 * rank * 64)
    head = json.dumps({"a.lora_A.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, len(blob)]}}).encode()
    run.output.mkdir(exist_ok=True)
    (run.output / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + blob)
    training = explaining.find(run.name, run.path.parent, None)
    found = numbers.numbers(training)
    state = training.story.state if training.story else None
    assert state is not None
    texts = {name: topic.text(name, training) for name in TOPICS}
    for name, text in texts.items():
        lines = text.rstrip("\n").split("\n")
        assert len(lines) <= 25, (name, len(lines))
        assert max(map(len, lines)) <= 80, name
    assert "adapter file             4 KiB, measured" in texts["lora"]
    assert f"{state.step} steps, measured" in texts["gradient-accumulation"]
    norms = sorted(value for _, value in state.grad_norms.points)
    assert f"between {norms[0]:.3g} and {norms[-1]:.3g}" in texts["grad-norm"]
    assert f"to {state.loss:.4g}" in texts["loss"]
    assert found["run"]["steps"] == state.step


def test_the_command_lists_explains_and_corrects(invoke: Invoke) -> None:
    listed = invoke("explain")
    assert all(name in listed.stdout for name in TOPICS)
    assert "what a finding of `check` means" in listed.stdout
    assert invoke("explain", "kv-cache").stdout == topic.text("kv-cache", of("pirate"))
    assert invoke("explain", "KV_cache", "pirate-tiny").stdout.startswith("KV cache")
    assert invoke("explain", "quantization").stdout.startswith("Quantisation")
    assert invoke("explain", "ax12").stdout.startswith("AX012")
    wrong = invoke("explain", "laro")
    assert wrong.exit_code == 2
    assert "lora" in wrong.stderr
    nobody = invoke("explain", "lora", "pirat")
    assert nobody.exit_code == 2
    assert "did you mean pirate" in nobody.stderr


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("explain_docs", ROOT / "docs/explain.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current() -> None:
    written = (ROOT / "docs/explain.md").read_text(encoding="utf-8")
    assert written == script().page(), "python docs/explain.py writes it anew"


def test_paragraphs_are_filled_and_tables_left_alone() -> None:
    assert topic.wrapped("a\nb\n\n    x   y\n\n    z\nc\n") == "a b\n\n    x   y\n    z\n\nc"


@pytest.mark.axolotl
@pytest.mark.parametrize("name", SHOWN)
def test_the_templates_shown_are_axolotls(name: str) -> None:
    found = installed_axolotl()
    assert found
    folder = "lib/python*/site-packages/axolotl/utils/chat_templates/templates"
    text = next(found.parents[1].glob(f"{folder}/{name}.jinja")).read_text(encoding="utf-8")
    begin = {"llama3": "<|begin_of_text|>", "gemma": "<bos>", "gemma3": "<bos>"}.get(name, "<s>")
    turns = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A pirate."}]
    rendered = HfTemplate(text, {"bos_token": begin, "eos_token": "</s>"}).render(turns, prompt=False)
    assert rendered == SHOWN[name]
