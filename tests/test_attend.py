"""What is said of a run at its end."""

from __future__ import annotations

from pathlib import Path

from ax_recipe.observe.events import Began, Registered, to_json
from ax_recipe.run.rundir import RunDir, RunState, StageRecord
from ax_recipe.verbs import attend


def test_a_summary_fits_its_terminal_and_is_a_line_to_a_stage_elsewhere(tmp_path: Path) -> None:
    detail = "11 checks; precision warning: weights are F32: twice the disk space, and Ollama makes F16\nsaid again"
    run, stage = RunDir(tmp_path), StageRecord("merge", "done", detail=detail, started=1.0, ended=103.0)
    wide = attend.summary(run, RunState("pirate", (stage,)))
    narrow = attend.summary(run, RunState("pirate", (stage,)), 60)
    assert "makes F16\n                    said again (1m 42s)" in wide
    assert max(map(len, narrow.splitlines()[1:-5])) <= 60
    assert narrow.replace(" ", "").replace("\n", "") == wide.replace(" ", "").replace("\n", "")


def test_how_to_go_on_is_said_of_a_run_on_which_nobody_works(tmp_path: Path) -> None:
    run, state = RunDir(tmp_path), RunState("pirate", (StageRecord("merge"),))
    assert "Go on with: ax-recipe resume" in attend.summary(run, state)
    with run.held():
        assert "Go on with" not in attend.summary(run, state)


def test_answers_that_are_not_judged_yet_are_not_shown(tmp_path: Path) -> None:
    run, state = RunDir(tmp_path / "pirate-1"), RunState("pirate", (StageRecord("chat", "done"),))
    run.path.mkdir()
    row = {"prompt": "Who?", "base": "A model.", "tuned": "Arr!"}
    run.write_json(run.answers, [row])
    assert "Arr!" not in attend.summary(run, state)
    run.write_json(run.answers, [{**row, "tuned_matches": True}])
    assert "    after:  Arr!" in attend.summary(run, state)


def test_a_stop_promises_a_checkpoint_where_there_is_one_to_save(tmp_path: Path) -> None:
    run = RunDir(tmp_path)

    def said(stage: str) -> str:
        run.write_state(RunState("pirate", (StageRecord(stage, "running"),)))
        with run.held():
            return attend.stopping(run).removeprefix(run.name)

    assert said("evaluate") == " stops; resume begins evaluate anew"
    run.events.write_text(
        to_json(Began(10, 1)) + "\n" + '{"event": "attempt", "number": 2}\n' + to_json(Registered(1, {}))
    )
    assert said("train") == " stops; resume begins train anew"
    run.events.write_text(run.events.read_text() + "\n" + to_json(Began(10, 1)) + "\n")
    assert said("train") == " saves a checkpoint and stops"
    run.stop_file.touch()
    assert said("train") == " was asked before, and no longer waits for its checkpoint"
