"""A run folder read in one go, in sips, or while it grows: the same state."""

from __future__ import annotations

import shutil
from pathlib import Path

from ax_recipe.observe.events import Event
from ax_recipe.observe.feed import Feed
from ax_recipe.observe.state import summary
from ax_recipe.run.rundir import RunDir, RunState, StageRecord

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


def test_the_words_of_other_machines_name_them_and_their_figures_do_not_count(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.log("train", 1).parent.mkdir(parents=True)
    run.nodes.mkdir()
    run.write_state(RunState("small", (StageRecord("train", "running", attempt=1, started=1.0),)))
    run.log("train", 1).write_text("{'loss': '2.5', 'epoch': '0.1'}\n")
    other = run.log("train", 1).with_suffix(".node3.log")
    other.write_text("a word\n{'loss': '9.5', 'epoch': '0.1'}\nValueError: no such thing\n")
    feed = Feed(run)
    feed.poll()
    assert feed.state.loss == 2.5
    assert "node 3: a word" in list(feed.state.lines)


def test_a_viewer_that_comes_late_says_when_the_run_began(tmp_path: Path) -> None:
    run = ended_run(tmp_path / "run")
    with run.held():  # it goes on, so the first thing to come is the time of day
        feed = Feed(run)
        feed.poll()
    assert feed.state.started == 1.0


def test_the_last_line_is_read_though_the_run_ends_as_it_is_looked_at(tmp_path: Path) -> None:
    class Ending(RunDir):
        def is_alive(self) -> bool:
            """It writes and ends right when it is asked: the hardest moment."""
            with self.log("train", 1).open("a") as file:
                file.write("the last word")
            return False

    run = ended_run(tmp_path / "run")
    feed = Feed(Ending(run.path))
    assert not feed.poll()
    assert feed.state.lines[-1] == "the last word"
