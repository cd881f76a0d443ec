"""What is said of a run at its end."""

from __future__ import annotations

from pathlib import Path

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
