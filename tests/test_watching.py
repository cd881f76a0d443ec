"""The runner's eye on a training: when it hangs, when it only is slow, and how long saving takes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.launch.attempts import Call
from ax_recipe.survive.watching import SAVE_S, SPARE_S, Watch


def told(path: Path, *events: dict[str, Any]) -> Path:
    """Write events whose times are counted from now."""
    now = time.time()
    with path.open("a", encoding="utf-8") as file:
        for event in events:
            file.write(json.dumps({"exact": True, **event, "time": now + event["time"]}) + "\n")
    return path


def steps(ago: float, count: int = 5, pace: float = 1.0) -> list[dict[str, Any]]:
    """Steps of which the last was ``ago`` seconds before now."""
    return [
        {"event": "step", "step": n, "total_steps": 99, "time": (n - count) * pace - ago} for n in range(1, count + 1)
    ]


def test_a_training_hangs_when_nothing_comes_for_three_minutes_and_ten_steps(tmp_path: Path) -> None:
    log = tmp_path / "train.1.log"
    watch = Watch(tmp_path / "e.jsonl", log)
    told(tmp_path / "e.jsonl", *steps(ago=200))
    assert "at step 5, where a step takes 1 s" in watch.look()


@pytest.mark.parametrize(
    "events",
    [
        steps(ago=170),
        steps(ago=200, pace=30.0),
        [*steps(ago=200), {"event": "phase", "name": "evaluating", "time": -199}],
        [*steps(ago=200), {"event": "phase", "name": "saving", "time": -199}],
        [{"event": "registered", "pid": 1, "versions": {}, "time": -2000}],
        [{"event": "step", "step": 0, "total_steps": 9, "time": -2000}],
    ],
    ids=["not long enough", "slow steps", "evaluating", "saving", "before the first step", "compiling"],
)
def test_what_only_takes_long_is_no_hang(events: list[dict[str, Any]], tmp_path: Path) -> None:
    watch = Watch(tmp_path / "e.jsonl", tmp_path / "train.1.log")
    told(tmp_path / "e.jsonl", *events)
    assert watch.look() == ""


def test_a_log_that_grows_is_a_sign_of_life(tmp_path: Path) -> None:
    (tmp_path / "train.1.log").write_text("[WARNING] retrying\n")
    watch = Watch(tmp_path / "e.jsonl", tmp_path / "train.1.log")
    told(tmp_path / "e.jsonl", *steps(ago=200))
    assert watch.look() == ""


def test_the_pace_of_an_attempt_before_says_nothing_of_this_one(tmp_path: Path) -> None:
    exact = told(tmp_path / "e.jsonl", *steps(ago=2000))
    watch = Watch(exact, tmp_path / "train.2.log")
    told(exact, {"event": "step", "step": 5, "total_steps": 99, "time": -600})
    assert watch.look() == ""


def test_a_clock_that_is_set_or_a_machine_that_slept_is_no_silence(tmp_path: Path) -> None:
    offset = 0.0
    watch = Watch(tmp_path / "e.jsonl", tmp_path / "train.1.log", clock=lambda: time.time() + offset)
    told(tmp_path / "e.jsonl", *steps(ago=1))
    offset = 7200.0
    assert watch.look() == ""


def test_the_time_to_save_is_learnt_from_the_checkpoints_that_were_seen(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "e.jsonl", tmp_path / "train.1.log")
    assert watch.needs_s == SPARE_S + SAVE_S
    saved = [
        {"event": "phase", "name": "saving", "time": 10.0},
        {"event": "saved", "path": "c", "step": 5, "time": 17.5},
    ]
    told(tmp_path / "e.jsonl", *steps(ago=1, pace=2.0), *saved)
    watch.look()
    assert watch.needs_s == pytest.approx(SPARE_S + 2 * 2.0 + 2 * 7.5)
    assert Watch(tmp_path / "e.jsonl", tmp_path / "train.2.log").needs_s == pytest.approx(SPARE_S + 2 * 7.5)


def test_a_deadline_is_heard_in_time_and_in_earnest_when_it_is_over() -> None:
    call = Call()
    assert call.reason() == ""
    call.until(100.0)
    assert call.reason(needs_s=20.0) == ""
    assert call.reason(needs_s=1000.0) == ""  # half of the time is for training
    call.until(0.0)
    assert call.reason(needs_s=20.0) == "its time limit of 0 s came"
    assert call.hurried()
