"""What is told of runs afterwards: lists, comparisons, a report, another run of the same, and the end of one."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import faults
import stories
from ax_recipe.cli import SORTS
from ax_recipe.errors import RecipeError
from ax_recipe.launch import environment, sweep
from ax_recipe.results import story
from ax_recipe.run import rundir, runs
from ax_recipe.run.rundir import StageRecord
from ax_recipe.view import report
from ax_recipe.view import runs as view
from conftest import Invoke

pytestmark = pytest.mark.usefixtures("fake_axolotl")
Command = Callable[..., subprocess.CompletedProcess[str]]


OVER_A_RUN = ("runs", "status", "watch", "watch --explain", "advise", "report", "compare mine mine", "size", "diagnose")


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def test_a_thousand_runs_are_listed_in_less_than_a_second(tmp_path: Path) -> None:
    stories.many(tmp_path / "runs", 1000)

    def listed() -> None:
        assert len(list(view.table(runs.rows(tmp_path / "runs"), time.time()))) == 1001

    assert any(timed(listed) < 1.0 for _ in range(3))  # one may take longer where much else goes on


def test_a_thousand_interrupted_runs_are_listed_as_soon_with_the_step_and_loss_they_came_to(tmp_path: Path) -> None:
    recorded = (faults.LOGS / "axolotl-0.19.0-pirate-tiny.jsonl").read_bytes()
    told = recorded[: recorded.index(b'"step": 151,')] + b'"st'  # a kill leaves half a line
    stories.many(tmp_path / "runs", 1000, told)
    assert any(timed(lambda: runs.rows(tmp_path / "runs")) < 1.0 for _ in range(3))
    row = runs.rows(tmp_path / "runs")[0]
    assert (row.status, row.steps, row.loss) == ("interrupted", 150, 1.954417)


def test_runs_are_filtered_and_sorted(tmp_path: Path) -> None:
    stories.many(tmp_path / "runs", 20)
    (tmp_path / "runs" / "odd-0003" / "state.json").write_text("{", encoding="utf-8")
    found = runs.rows(tmp_path / "runs", "odd", "loss")
    assert [row.recipe for row in found] == ["odd"] * 9
    assert [row.loss for row in found] == sorted(row.loss or 0 for row in found)
    broken = [row for row in runs.rows(tmp_path / "runs", None, "loss") if row.status == runs.UNREADABLE]
    assert [row.name for row in broken] == ["odd-0003"]
    assert runs.rows(tmp_path / "runs", None, "loss")[-1] == broken[0], "what is not known comes last"


def test_the_orders_are_those_of_the_command() -> None:
    assert tuple(runs.SORTS) == SORTS


def test_runs_prints_what_came_out(invoke: Invoke, tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    text = invoke("runs").output
    assert run.name in text
    assert "5.600 -> 2.120" in text
    assert "9 of 10" in text
    assert json.loads(invoke("runs", "--json").output)[0]["loss"] == 1.9
    assert "no runs" in invoke("runs", "--runs", str(tmp_path / "none")).output


def test_a_run_that_ended_early_as_told_says_how_it_goes_on(invoke: Invoke, tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    assert "resume" not in invoke("runs").output
    run.write_state(run.read_state().with_stage(StageRecord("merge")))
    assert "waiting: not all of its stages are done; ax-recipe resume RUN goes on with them" in invoke("runs").output
    scored = sweep.Result(sweep.Trial(()), runs.row_of(run))
    assert scored.state == "scored, waiting", "the word that runs has"


def test_a_run_that_is_removed_as_it_is_listed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stories.many(tmp_path / "runs", 2)
    listed, seen = Path.glob, tmp_path / "runs" / "gone" / "state.json"
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [*listed(folder, pattern), seen])
    assert len(rundir.every(tmp_path / "runs")) == 2


def test_compare_shows_what_differs_and_both_curves(invoke: Invoke, tmp_path: Path) -> None:
    file = stories.written(tmp_path)
    first = stories.made(file)
    second = stories.made(file, faults.flat(400, 3.2), changes=("train.learning_rate=5e-4", "lora.r=64"))
    text = invoke("compare", first.name, second.name).output
    assert "learning_rate" in text
    assert "0.0005" in text
    assert "lora_r" in text
    assert "output_dir" not in text, "every run has its own"
    assert "sequence_len" not in text
    rows = [line for line in text.splitlines() if "│" in line or "┤" in line]
    assert any("A" in row for row in rows)
    assert any("B" in row for row in rows)
    assert "training loss" in text


def test_one_run_is_compared_with_nothing_and_told_with_what_it_could_be(invoke: Invoke, tmp_path: Path) -> None:
    first = stories.made(stories.written(tmp_path))
    alone = invoke("compare", "mine")
    assert alone.exit_code == 2
    assert f"{first.name} is the only run of mine there; ax-recipe report {first.name}" in alone.stderr
    second = stories.made(tmp_path / "mine.yaml")
    told = invoke("compare", second.name)
    assert told.exit_code == 2
    assert told.stderr == f"error: compare takes two runs or more\n    others of mine: {first.name}\n"


class Page(html.parser.HTMLParser):
    """What a page would load, run or leave open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    text = report.html(story.read(run))
    page = Page(text)
    assert page.loads == []
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("figure") >= 5
    for words in ("within its target", "Answers before and after", "a small model bears it", "ax-recipe reproduce"):
        assert words in page.text
    assert len(text) < 200_000


def test_the_report_escapes_what_comes_from_outside(tmp_path: Path) -> None:
    text = stories.RECIPE + "about: <script>alert(1)</script>\n"
    run = stories.made(stories.written(tmp_path, text))
    page = report.html(story.read(run))
    assert "<script>" not in page
    assert "&lt;b&gt;Ahoy?&lt;/b&gt;" in page


def test_the_report_keeps_secrets_to_itself() -> None:
    shown = report.without_secrets(
        {"hub_token": "s3cret", "comet_api_key": "x", "special_tokens": {"pad_token": "<p>"}}
    )
    assert shown == {"hub_token": "...", "comet_api_key": "...", "special_tokens": {"pad_token": "<p>"}}


def test_a_run_that_failed_has_a_report_too(invoke: Invoke, tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path), faults.only(faults.long(), 3), ended="failed")
    assert invoke("report").exit_code == 0
    assert "Failed" in run.report.read_text(encoding="utf-8")
    other = stories.made(stories.written(tmp_path), [], ended="failed")
    assert invoke("report", other.name, "-o", str(tmp_path / "r.html")).exit_code == 0
    assert (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [("plan.json", None), ("plan.json", ""), ("plan.json", "{}"), ("recipe.yaml", None), ("answers.json", "[{"),
     ("answers.json", "[1]"), ("state.json", None), ("state.json", '{"recipe"'), ("state.json", "{}"),
     ("state.json", '{"recipe": "x", "stages": []}'), ("axolotl.yaml", "a: ["), ("job.json", ""),
     ("state.json", '{"recipe": "x", "stages": [{"name": "train", "state": "odd", "started": "a"}]}')],
)  # fmt: skip
def test_a_damaged_run_is_told_of_by_the_file_that_is_wrong(
    invoke: Invoke, tmp_path: Path, name: str, text: str | None
) -> None:
    run = stories.made(stories.written(tmp_path), faults.only(faults.long(), 40))
    (run.path / name).unlink(missing_ok=True)
    if text is not None:
        (run.path / name).write_text(text)
    told = {verb: invoke(*verb.split()) for verb in OVER_A_RUN}  # none ends in a traceback
    how = f"{run.name}: {name} is {'missing' if text is None else 'damaged'}"
    assert {verb: done.output for verb, done in told.items() if done.exit_code and how not in done.output} == {}
    assert told["report"].exit_code
    assert run.name in told["runs"].output


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"set": "held_out", "rows": [[3', '{"foretold": {}, "measured": {}}']
)
def test_figures_that_were_cut_off_are_none(invoke: Invoke, tmp_path: Path, text: str) -> None:
    run = stories.made(stories.written(tmp_path), faults.only(faults.long(), 40))
    run.losses.write_text(text)
    run.measured.write_text(text)
    for verb in ("report", "compare mine mine", "plan pirate-tiny --gpus 0"):
        assert invoke(*verb.split()).exit_code == 0
    run.axolotl_yaml.write_text("")
    assert "axolotl.yaml is damaged: it holds no keys" in invoke("compare", "mine").output


def test_rm_asks_and_takes_a_whole_name_only(invoke: Invoke, tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    assert invoke("rm", "mine", "--yes").exit_code == 2
    unasked = invoke("rm", run.name)
    assert unasked.exit_code == 2, "nobody said yes"
    assert "--yes removes it unasked" in unasked.stderr
    assert run.path.exists()
    assert invoke("rm", run.name, "--yes").exit_code == 0
    assert not run.path.exists()


def test_rm_refuses_a_run_that_goes_on(tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    with run.held(), pytest.raises(RecipeError, match="is running"):
        runs.refuse_running(run)


def test_a_run_that_goes_on_is_not_planned_anew_for_other_machines(invoke: Invoke, tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    with run.held():
        told = invoke("resume", run.name, "--nodes", "1", "--trust")
    assert told.exit_code == 2
    assert f"{run.name} is running (process " in told.stderr


@pytest.mark.slow
def test_a_run_leaves_its_environment_and_is_done_again(command: Command, tmp_path: Path) -> None:
    file = stories.written(tmp_path)
    first = command("run", str(file), "--set", "train.num_epochs=2", "--until", "train")
    assert first.returncode == 0, first.stderr
    run = rundir.find(rundir.root(), None)
    there = run.read_json(run.environment)
    assert there["packages"]["python"]
    assert len(there["files"]) == 1
    file.write_text("base: ./another\ndata: [{path: x.jsonl}]\n", encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("Arr.", "Aye."), encoding="utf-8")
    dry = command("reproduce", run.name, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "rows.jsonl: changed" in dry.stderr
    assert "machines" not in dry.stderr
    run.write_json(run.orders, {**run.read_json(run.orders), "cluster": {"nodes": 2}})
    assert "it trained on 2 machines, and now on one alone" in command("reproduce", run.name, "--dry-run").stderr
    again = command("reproduce", run.name)
    assert "Traceback" not in again.stderr
    second = rundir.find(rundir.root(), None)
    assert second.name != run.name
    assert second.recipe.read_text() == run.recipe.read_text()
    old, new = (story.read(each).config for each in (run, second))
    assert old["num_epochs"] == new["num_epochs"] == 2
    assert view.different([old, new]) == []


def test_differences_name_what_changed() -> None:
    then = {"gpus": "1xA100-80GB", "packages": {"torch": "2.13.0", "peft": "1"}, "files": {"a": "1"}, "git": None}
    now = {"gpus": "the CPU", "packages": {"torch": "2.14.0", "peft": "1"}, "files": {"a": "2"}, "git": None}
    assert list(environment.differences(then, now)) == [
        "files: a: changed",
        "gpus: 1xA100-80GB then, the CPU now",
        "torch: 2.13.0 then, 2.14.0 now",
    ]


def test_the_state_of_training_is_read_whatever_came_after(tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path))
    found = story.read(run)
    assert (found.state.step, found.state.status) == (915, "finished")
    assert found.target == (1.5, 2.5)
    assert replace(found.row, path="").matched == 9
    assert os.fspath(run.path) == found.row.path


def test_a_command_names_a_run_by_its_path_where_its_name_alone_would_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rundir.RunDir(tmp_path / "all runs" / "pirate-20261122-101500")
    assert run.word == f"'{run.path}'"
    monkeypatch.setenv("AX_RECIPE_RUNS", str(tmp_path / "all runs"))
    assert run.word == "pirate-20261122-101500"
