"""The disk is counted before a run starts, and refused with what each thing takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.errors import MissingError
from ax_recipe.forecast import architecture, disk, settings
from ax_recipe.forecast.disk import Need
from ax_recipe.forecast.hardware import parse
from conftest import Invoke

LLAMA = "NousResearch/Meta-Llama-3.1-8B"
KEYS: dict[str, Any] = {
    "base_model": LLAMA, "adapter": "qlora", "load_in_4bit": True, "lora_r": 64, "lora_target_linear": True,
    "bf16": True, "num_epochs": 2, "saves_per_epoch": 2, "save_total_limit": 2, "optimizer": "adamw_torch_fused",
}  # fmt: skip
FULL = {key: value for key, value in KEYS.items() if key not in {"adapter", "load_in_4bit", "lora_r"}}
STAGES = ("train", "merge", "deploy")
VAST = (
    '{"model_type": "llama", "hidden_size": 1048576, "intermediate_size": 4194304, "num_hidden_layers": 9999, '
    '"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}'
)


def gib(keys: dict[str, Any], gpus: str = "1xA100-80GB", stages: tuple[str, ...] = STAGES) -> dict[str, float]:
    found = disk.needs(keys, architecture.find(LLAMA), parse(gpus), stages, Path("/runs/x/output"), "q4_K_M")
    return {need.what: need.size / disk.GIB for need in found}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_a_lora_of_an_8b_model() -> None:
    """Rank 64 on every linear layer: 167.8 million parameters, 0.625 GiB in 4 bytes; Adam's moments are twice that."""
    found = gib(KEYS)
    assert found["3 checkpoints of 1.9 GiB, one of them before the oldest goes"] == pytest.approx(3 * 1.893, rel=0.01)
    assert found["the adapter"] == pytest.approx(0.644, rel=0.01)
    assert found["the merged model"] == pytest.approx(15.0, rel=0.01)
    assert found["the base, from the hub"] == pytest.approx(15.0, rel=0.01)
    assert found["the GGUF"] == pytest.approx(15.0, rel=0.01)
    assert found["the GGUF in q4_K_M"] == found["Ollama's copy of it"] == pytest.approx(7.5, rel=0.01)


def test_a_full_fine_tune_is_not_merged() -> None:
    found = gib(FULL)
    assert "the merged model" not in found
    assert found["the model"] == pytest.approx(15.0, rel=0.01)
    assert found["3 checkpoints of 44.9 GiB, one of them before the oldest goes"] == pytest.approx(134.8, rel=0.01)


def test_a_checkpoint_of_fsdp_holds_the_weights_twice() -> None:
    """Measured on two H200 (Axolotl 0.19.0, accelerate 1.13.0): 64.24 GB, of them 32.12 the optimizer's."""
    keys = {**FULL, "fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}
    found = gib(keys, "2xH200-141GB")
    measured = (2 * 16_060_556_616 + 32_121_306_415) / disk.GIB
    assert found[f"3 checkpoints of {measured:.1f} GiB, one of them before the oldest goes"] == pytest.approx(
        3 * measured, rel=0.001
    )
    assert gib({**keys, "save_only_model": True}, "2xH200-141GB").keys() & {
        "3 checkpoints of 15.0 GiB, one of them before the oldest goes"
    }


def test_what_is_not_done_needs_no_room() -> None:
    assert set(gib(KEYS, stages=("train",))) == {
        "the base, from the hub", "3 checkpoints of 1.9 GiB, one of them before the oldest goes", "the adapter",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({"save_strategy": "no"}, 0),
        ({"saves_per_epoch": 1, "num_epochs": 1, "save_total_limit": 2}, 1),
        ({"saves_per_epoch": 4, "num_epochs": 3, "save_total_limit": 2}, 3),
        ({"saves_per_epoch": 4, "num_epochs": 3, "save_total_limit": 2, "load_best_model_at_end": True}, 4),
        ({"saves_per_epoch": 4, "num_epochs": 3}, 12),
        ({"save_steps": 10, "num_epochs": 1, "save_total_limit": 1}, 2),
    ],
)
def test_how_many_checkpoints_lie_there_at_once(keys: dict[str, Any], count: int) -> None:
    assert disk.kept(keys) == count


@pytest.mark.parametrize(("optimizer", "state"), [("adamw_torch_fused", 8), ("paged_adamw_8bit", 2.03), ("sgd", 0)])
def test_the_optimizer_is_counted_as_it_is_saved(optimizer: str, state: float) -> None:
    shape = architecture.find(LLAMA)
    keys = {**KEYS, "optimizer": optimizer}
    weights, kept = disk.checkpoint(keys, shape, settings.resolve(keys, parse("1xA100-80GB"), shape))
    assert kept == pytest.approx(weights / 4 * state)


def test_a_base_that_is_here_is_not_fetched_again(models: Path) -> None:
    folder = models / "hub" / f"models--{LLAMA.replace('/', '--')}" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "model-00001-of-00004.safetensors").touch()
    assert "the base, from the hub" not in gib(KEYS)


@pytest.mark.parametrize(("host", "ours"), [("", True), ("0.0.0.0:11434", True), ("http://gpu-box:11434", False)])
def test_the_disk_of_another_machines_ollama_is_not_ours(
    host: str, ours: bool, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert disk.ollama_models() == (models if ours else None)


def test_a_full_disk_is_refused_with_the_breakdown(tmp_path: Path) -> None:
    with pytest.raises(MissingError) as caught:
        disk.refuse(
            [Need("3 checkpoints", tmp_path / "not yet" / "there", 2.0**60), Need("the adapter", tmp_path, 1.0)]
        )
    assert "1073741824.0 GiB  3 checkpoints" in caught.value.message
    assert "0.0 GiB  the adapter" in caught.value.message
    assert "--force" in str(caught.value)
    disk.refuse([Need("the adapter", tmp_path, 1.0)])


@pytest.mark.usefixtures("fake_axolotl")
def test_the_command_refuses_before_anything_starts(invoke: Invoke, small_recipe: Path) -> None:
    (small_recipe.parent / "base" / "config.json").write_text(VAST, encoding="utf-8")
    done = invoke("run", str(small_recipe), "--until", "train")
    assert done.exit_code == 3
    assert "GiB free, and needs" in done.stderr
    assert "the adapter" in done.stderr
    assert not (small_recipe.parent / "runs").exists()


def test_what_is_there_already_is_not_to_be_written(tmp_path: Path) -> None:
    def sizes() -> dict[str, float]:
        found = disk.needs(KEYS, architecture.find(LLAMA), parse("1xA100-80GB"), STAGES, tmp_path / "output", None)
        return {need.what.split()[-1]: need.size for need in found}

    fresh = sizes()
    for name, size in (("checkpoint-8/adapter_model.safetensors", 2**30), ("merged/model.safetensors", 2**40)):
        path = tmp_path / "output" / name
        path.parent.mkdir(parents=True)
        path.touch()
        os.truncate(path, size)  # no room is taken by what was never written
    then = sizes()
    assert fresh["goes"] - then["goes"] == 2**30
    assert then["adapter"] == fresh["adapter"]
    assert then["model"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
def test_a_run_that_goes_on_counts_what_is_still_to_be_written(
    command: Callable[..., subprocess.CompletedProcess[str]], small_recipe: Path
) -> None:
    """Its training is done by force; what it wrote is not counted again, the merge that is to come is."""
    (small_recipe.parent / "base" / "config.json").write_text(VAST, encoding="utf-8")
    small_recipe.write_text(small_recipe.read_text(encoding="utf-8") + "targets: {loss: [0, 9]}\n", encoding="utf-8")
    assert command("run", str(small_recipe), "--until", "train", "--force").returncode == 0
    done = command("resume", "--until", "train")
    assert done.returncode == 0, done.stderr  # nothing of it is to be written any more
    for again in (("resume",), ("run", str(small_recipe))):
        done = command(*again)
        assert done.returncode == 3
        assert "GiB free, and needs" in done.stderr
        assert "the merged model" in done.stderr
        assert "the adapter" not in done.stderr
        assert "--runs" not in done.stderr  # it lies where it lies
    for forced in (("resume", "--force"), ("run", str(small_recipe), "--force")):
        assert "GiB free" not in command(*forced).stderr


@pytest.mark.slow
@pytest.mark.usefixtures("fake_axolotl")
@pytest.mark.parametrize("name", ["recipe.yaml", "axolotl.yaml", "state.json"])
def test_a_torn_file_of_a_run_is_not_the_disks_affair(
    name: str, command: Callable[..., subprocess.CompletedProcess[str]], small_recipe: Path, tmp_path: Path
) -> None:
    assert command("run", str(small_recipe), "--until", "train").returncode == 0
    torn = next((tmp_path / "runs").iterdir()) / name
    torn.write_bytes(torn.read_bytes()[:-40] + b"{[")
    done = command("resume", "--until", "train", "--trust")
    assert "Traceback" not in done.stderr
    assert "GiB" not in done.stderr
