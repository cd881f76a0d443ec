"""What is made smaller when memory is full, in every phase; what is learnt stays the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.diagnose import Diagnosis
from ax_recipe.errors import RecipeError
from ax_recipe.survive import policy, recovery
from ax_recipe.survive.policy import Policy

KEYS: dict[str, Any] = {"micro_batch_size": 4, "gradient_accumulation_steps": 2, "gradient_checkpointing": False}


def full(cause: str = "cuda-oom", phase: str = "training") -> Diagnosis:
    return Diagnosis(cause, phase, "full")


@pytest.mark.parametrize(
    ("stage", "found", "keys", "changed"),
    [
        ("train", full(), KEYS, {"micro_batch_size": 2, "gradient_accumulation_steps": 4}),
        ("train", full(phase="compiling"), KEYS, {"micro_batch_size": 2, "gradient_accumulation_steps": 4}),
        ("train", full(phase="saving"), KEYS, {"micro_batch_size": 2, "gradient_accumulation_steps": 4}),
        ("train", full(), {**KEYS, "micro_batch_size": 1}, {"gradient_checkpointing": True}),
        ("train", full(phase="evaluating"), KEYS, {"eval_batch_size": 1}),
        ("evaluate", full(phase="evaluating"), KEYS, {"eval_batch_size": 1}),
        ("train", full("host-oom"), KEYS, {"dataloader_num_workers": 0, "dataset_num_proc": 1}),
        ("train", full("shm-full"), KEYS, {"dataloader_num_workers": 0}),
        ("preprocess", full("host-oom", "preparing"), KEYS, {"dataloader_num_workers": 0, "dataset_num_proc": 1}),
    ],
)
def test_each_phase_has_its_answer(stage: str, found: Diagnosis, keys: dict[str, Any], changed: dict[str, Any]) -> None:
    change = recovery.easier(keys, stage, found, on_gpu=True)
    assert change is not None
    assert change.keys == changed
    assert all(f"{key} " in change.words for key in changed)


@pytest.mark.parametrize(
    ("stage", "found", "keys"),
    [
        ("train", full(phase="loading"), KEYS),
        ("train", full(), {"micro_batch_size": 1, "gradient_checkpointing": True}),
        ("evaluate", full(phase="evaluating"), {**KEYS, "eval_batch_size": 1}),
        ("train", full("host-oom"), {**KEYS, "dataloader_num_workers": 0, "dataset_num_proc": 1}),
        ("train", full("shm-full"), {**KEYS, "dataloader_num_workers": 0}),
        ("train", full("nan"), KEYS),
        ("base", full("host-oom"), KEYS),
        ("merge", full("host-oom", "merging"), KEYS),
    ],
)
def test_where_nothing_would_help_nothing_is_tried(stage: str, found: Diagnosis, keys: dict[str, Any]) -> None:
    assert recovery.easier(keys, stage, found, on_gpu=True) is None


def test_a_merge_goes_into_the_machines_memory_once() -> None:
    change = recovery.easier(KEYS, "merge", full(phase="merging"), on_gpu=True)
    assert change is not None
    assert change.on_cpu
    assert recovery.easier(KEYS, "merge", full(phase="merging"), on_gpu=False) is None


def test_on_the_cpu_the_machines_memory_is_what_batches_fill() -> None:
    keys = {**KEYS, "dataloader_num_workers": 0, "dataset_num_proc": 1}
    change = recovery.easier(keys, "train", full("host-oom"), on_gpu=False)
    assert change is not None
    assert change.keys["micro_batch_size"] == 2


@given(st.integers(1, 512), st.integers(1, 64))
def test_the_rows_of_a_step_stay_the_same_down_to_one_row_a_pass(micro: int, accumulation: int) -> None:
    keys: dict[str, Any] = {"micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
    while (change := recovery.easier(keys, "train", full(), on_gpu=True)) and "micro_batch_size" in change.keys:
        assert change.keys["micro_batch_size"] < keys["micro_batch_size"]
        keys |= change.keys
        assert keys["micro_batch_size"] * keys["gradient_accumulation_steps"] == micro * accumulation
    assert keys["micro_batch_size"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("2:00:00", 7200), ("1-00:00", 86400)],
)
def test_times_as_people_and_batch_systems_write_them(text: str, seconds: float) -> None:
    assert policy.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "two hours", "-1h", "2h extra", "1:2:3:4"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="2h"):
        policy.parse_time(text)


def test_what_the_command_line_leaves_open_stays_as_it_was() -> None:
    before = Policy("retry", "restart", 60.0)
    assert before.told(None, None, None) == before
    assert before.told("stop", None, "1h") == Policy("stop", "restart", 3600.0)
