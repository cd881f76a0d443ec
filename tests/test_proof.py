"""What a stage has made, and how a difference is found without reading gigabytes each time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ax_recipe.run.rundir import RunDir, StageRecord
from ax_recipe.survive import proof


def run_of(tmp_path: Path, method: str) -> tuple[RunDir, dict[str, object]]:
    run = RunDir(tmp_path)
    merged = run.output if method == "full" else run.output / "merged"
    merged.mkdir(parents=True)
    (run.output / "adapter_model.safetensors").write_bytes(b"adapter")
    (merged / "model.safetensors").write_bytes(b"model")
    (merged / "config.json").write_text("{}")
    orders: dict[str, object] = {"method": method, "model": str(merged), "base": str(tmp_path / "base"), "recipe": "r"}
    run.write_json(run.orders, {**orders, "stages": [{"name": name} for name in ("train", "merge", "check-merge")]})
    return run, orders


def take(run: RunDir, orders: dict[str, object], *stages: str) -> None:
    for stage in stages:
        proof.take(run, orders, StageRecord(stage, "done", attempt=1))


def test_a_large_file_with_its_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    large = tmp_path / "model.safetensors"
    with large.open("wb") as file:
        file.truncate(proof.SMALL + 1)
    mark = proof.mark(large)
    with large.open("r+b") as file:
        file.write(b"x")
    os.utime(large, ns=(mark.mtime_ns, mark.mtime_ns))
    assert proof.difference(large, mark) == ""
    os.utime(large, ns=(1, 1))
    assert proof.difference(large, mark) == f"{large} was changed"


def test_a_small_file_is_read_each_time(tmp_path: Path) -> None:
    small = tmp_path / "adapter_config.json"
    small.write_text('{"r": 8}')
    mark = proof.mark(small)
    small.write_text('{"r": 9}')
    os.utime(small, ns=(mark.mtime_ns, mark.mtime_ns))
    assert "was changed" in proof.difference(small, mark)
    small.write_text('{"r": 16}')
    assert "has 9 bytes instead of 8" in proof.difference(small, mark)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_merge_doctor_may_mend_what_was_made(method: str, tmp_path: Path) -> None:
    run, orders = run_of(tmp_path, method)
    before = "train" if method == "full" else "merge"
    take(run, orders, "train", "merge")
    (Path(str(orders["model"])) / "config.json").write_text('{"eos_token_id": 2}')
    assert proof.flaw(run, before)
    take(run, orders, "check-merge")
    assert [proof.flaw(run, stage) for stage in (before, "check-merge")] == ["", ""]


def test_what_was_made_of_something_else_does_not_hold(tmp_path: Path) -> None:
    run, orders = run_of(tmp_path, "lora")
    take(run, orders, "train", "merge")
    (run.output / "adapter_model.safetensors").write_bytes(b"another")
    take(run, orders, "train")
    assert proof.flaw(run, "train") == ""
    assert proof.flaw(run, "merge") == "train was done again"


def test_a_state_is_told_by_proofs_and_logs_alone(tmp_path: Path) -> None:
    run, orders = run_of(tmp_path, "lora")
    take(run, orders, "train")
    (tmp_path / "logs").mkdir()
    for attempt in (1, 2):
        run.log("merge", attempt).write_text("")
    run.log("check-merge", 1).with_suffix(".node1.log").write_text("")
    states = {stage.name: (stage.state, stage.attempt) for stage in proof.repaired(run).stages}
    assert states == {"train": ("done", 1), "merge": ("waiting", 2), "check-merge": ("waiting", 1)}


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1', '{"files": {}}'])
def test_half_a_proof_is_none(text: str, tmp_path: Path) -> None:
    run, orders = run_of(tmp_path, "lora")
    take(run, orders, "train")
    run.proof("train").write_text(text)
    assert proof.flaw(run, "train") == "nothing proves that it was done"
