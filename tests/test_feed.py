"""A run folder read in one go, in sips, or while it grows: the same state."""

from __future__ import annotations

import shutil
from pathlib import Path

from ax_recipe.feed import Feed
from ax_recipe.observe.events import Event
from ax_recipe.observe.state import summary
from ax_recipe.rundir import RunDir, RunState, StageRecord

LOGS = Path(__file__).parent / "logs"
LOG, EXACT = LOGS / "axolotl-0.19.0-2gpu-pirate.log", LOGS / "axolotl-0.19.0-2gpu-pirate.jsonl"


def ended_run(folder: Path) -> RunDir:
    run = RunDir(folder)
    run.log("train", 1).parent.mkdir(parents=True)
    shutil.copyfile(LOG, run.log("train", 1))
    shutil.copyfile(EXACT, run.events)
    run.write_state(RunState("pirate", (StageRecord("train", "done", attempt=1, started=1.0, ended=900.0),)))
    return run


def test_a_poll_without_patience_comes_back_soon_and_loses_nothing(tmp_path: Path) -> None:
    run = ended_run(tmp_path / "run")
    whole: list[Event] = []
    sips: list[Event] = []
    at_once, slow = Feed(run, whole.append), Feed(run, sips.append)
    assert not at_once.poll()
    assert not at_once.behind
    assert slow.poll(0)
    assert slow.behind
    assert 0 < len(sips) < len(whole) / 4
    while slow.poll(0):
        assert slow.behind
    assert sips == whole
    assert summary(slow.state) == summary(at_once.state)
    assert slow.state.step == 110
    assert slow.state.status == "finished"
