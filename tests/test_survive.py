"""Nothing is lost and nothing is left behind, with real processes: proofs, stops, retries, hangs, killed runners."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from ax_recipe.errors import RunFailedError
from ax_recipe.launch import noting
from ax_recipe.launch import training as trainings
from ax_recipe.launch.training import Outcome
from ax_recipe.observe.events import Crashed, StageStarted
from ax_recipe.observe.folding import advance
from ax_recipe.observe.state import State
from ax_recipe.run import belonging, rundir
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import policy
from ax_recipe.survive.policy import Policy
from conftest import ROOT, Started
from test_runner import DEADLINE_S, background, newest, states, until

Command = Callable[..., subprocess.CompletedProcess[str]]
OOM_LOG = ROOT / "tests/logs/axolotl-0.19.0-1gpu-out-of-memory.log"
FOUR_ROWS = ("--set", "train.global_batch_size=4", "--set", "train.micro_batch_size=4")

pytestmark = [pytest.mark.usefixtures("fake_axolotl"), pytest.mark.slow]


def attempts(run: RunDir) -> dict[str, int]:
    return {stage.name: stage.attempt for stage in run.current_state().stages if stage.attempt}


def begun(run: RunDir, step: int = 2) -> bool:
    return run.events.exists() and f'"step": {step}' in run.events.read_text(encoding="utf-8")


def training(recipe: Path, mode: str, *options: str) -> Started:
    return background(["run", str(recipe), "--until", "evaluate", *options], FAKE_AXOLOTL=mode)


@pytest.fixture
def done(command: Command, small_recipe: Path) -> RunDir:
    """A run that is trained and evaluated."""
    told = command("run", str(small_recipe), "--until", "evaluate")
    assert told.returncode == 0, told.stderr
    return newest()


def test_what_is_proven_is_not_done_again(command: Command, done: RunDir) -> None:
    for _ in range(2):
        command("resume", "--until", "evaluate")
    assert attempts(done) == {"train": 1, "evaluate": 1}


def test_the_same_command_again_trains_nothing_again(command: Command, done: RunDir, small_recipe: Path) -> None:
    again = command("run", str(small_recipe), "--until", "evaluate")
    assert again.returncode == 0
    assert f"{done.name} is this very run" in again.stderr
    assert attempts(done) == {"train": 1, "evaluate": 1}
    assert len(rundir.every(rundir.root())) == 1


def test_the_same_command_goes_on_with_what_was_interrupted(command: Command, small_recipe: Path) -> None:
    with training(small_recipe, "hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        command("stop")
        viewer.wait(DEADLINE_S)
    command("run", str(small_recipe), "--until", "evaluate", FAKE_AXOLOTL="ok")
    assert len(rundir.every(rundir.root())) == 1
    assert attempts(newest()) == {"train": 2, "evaluate": 1}


def test_the_same_command_watches_what_goes_on(command: Command, small_recipe: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    argv = [sys.executable, "-m", "ax_recipe", "run", str(small_recipe)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper")}
    with training(small_recipe, "hang") as first, words.open("w") as file:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        with Started(argv, env=variables, stderr=file) as second:
            until(lambda: "train: training" in words.read_text())
            command("stop")
            assert (first.wait(DEADLINE_S), second.wait(DEADLINE_S)) == (130, 130)
    assert f"{newest().name} is this very run, and is going on: this is it (--new starts another)" in words.read_text()
    assert attempts(newest()) == {"train": 1}


def test_a_run_that_goes_on_is_told_of_as_it_is_so_far(command: Command, small_recipe: Path) -> None:
    with training(small_recipe, "hang"):
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        (row,) = json.loads(command("runs", "--json").stdout)
        assert (row["status"], row["steps"], row["seconds"] > 0) == ("running", 2, True)
        log = newest().log("train", 1)
        with log.open("a") as file:  # what Axolotl says when it has trained, and its stage has not ended yet
            file.write("[2026-11-22 11:26:40,008] [INFO] [axolotl.train] Training completed! Saving trained model\n")
        told = command("diagnose").stdout
        assert f"Nothing failed so far: {newest().name} goes on, at train." in told
        command("stop")
        until(lambda: newest().holder() is None)
    (row,) = json.loads(command("runs", "--json").stdout)
    assert (row["status"], row["steps"], row["loss"]) == ("interrupted", 2, 2.0), "as far as it came"


def test_what_is_no_more_there_is_not_called_done(command: Command, done: RunDir, small_recipe: Path) -> None:
    assert "[x] Fine-tuned" in command("status").stdout
    shutil.rmtree(done.output)
    there = command("status").stdout
    assert f"{done.name}: waiting" in there
    assert "[ ] Fine-tuned    to be done again: " in there
    assert "[ ] Evaluated     to be done again: " in there
    assert f"Go on with: ax-recipe resume {done.name}" in there
    assert command("watch").stderr.count("to be done again") == 2
    again = command("run", str(small_recipe), "--until", "evaluate")
    assert f"{done.name} is this very run, so it goes on at train, to be done again: {done.output}" in again.stderr
    assert attempts(done) == {"train": 2, "evaluate": 2}
    assert "[x] Fine-tuned" in command("status").stdout


def test_an_export_that_finds_no_model_says_what_makes_it_and_changes_nothing(command: Command, done: RunDir) -> None:
    before = done.state.read_bytes()
    told = command("export")
    assert told.returncode == 2
    assert f"{done.name} has no merged model yet\n    ax-recipe resume {done.name}" in told.stderr
    assert command("bench").stderr == told.stderr
    assert done.state.read_bytes() == before


def test_what_fails_by_hand_undoes_nothing_that_still_holds(done: RunDir) -> None:
    def fail() -> Outcome:
        raise RunFailedError("no")

    before = done.read_state()
    with pytest.raises(RunFailedError):
        noting.by_hand(done, "evaluate", fail)
    assert done.read_state() == before
    (done.output / "eval_summary.csv").unlink()
    with pytest.raises(RunFailedError):
        noting.by_hand(done, "evaluate", fail)
    assert states(done)["evaluate"] == "failed"


@pytest.mark.parametrize("change", ["recipe", "data", "--set", "--new"])
def test_another_run_is_another_run(command: Command, done: RunDir, small_recipe: Path, change: str) -> None:
    options: tuple[str, ...] = ()
    if change == "recipe":
        small_recipe.write_text(small_recipe.read_text() + "lora: {r: 4}\n")
    elif change == "data":
        rows = small_recipe.parent / "rows.jsonl"
        rows.write_text(rows.read_text() * 2)
    else:
        options = (change, "train.seed=7") if change == "--set" else (change,)
    assert command("run", str(small_recipe), "--until", "train", *options).returncode == 0
    assert len(rundir.every(rundir.root())) == 2


@pytest.mark.parametrize(
    ("name", "words", "again"),
    [
        ("output/adapter_model.safetensors", "is gone", {"train": 2, "evaluate": 1}),
        ("output/eval_summary.csv", "is gone", {"train": 1, "evaluate": 2}),
        ("proofs/train.json", "nothing proves that it was done", {"train": 2, "evaluate": 1}),
    ],
)
def test_a_stage_whose_work_is_gone_is_done_again_and_says_so(
    command: Command, done: RunDir, name: str, words: str, again: dict[str, int]
) -> None:
    (done.path / name).unlink()
    assert f"done again: {words}" in command("resume", "--until", "evaluate").stderr.replace(f"{done.path}/{name} ", "")
    assert attempts(done) == again


def test_a_changed_adapter_is_trained_again_from_its_checkpoint(command: Command, done: RunDir) -> None:
    adapter = done.output / "adapter_model.safetensors"
    adapter.write_bytes(b"weighed")
    assert f"done again: {adapter} was changed" in command("resume", "--until", "train").stderr
    assert adapter.read_bytes() == b"weights"
    assert yaml.safe_load(done.config("train", 2).read_text())["resume_from_checkpoint"].endswith("checkpoint-4")


def test_the_same_bytes_with_another_time_are_the_same(command: Command, done: RunDir) -> None:
    os.utime(done.output / "adapter_model.safetensors", (1, 1))
    command("resume", "--until", "evaluate")
    assert attempts(done) == {"train": 1, "evaluate": 1}


def test_a_base_that_changed_after_training_stops_before_the_adapter_meets_it(
    command: Command, done: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "base" / "config.json").write_text('{"model_type": "qwen3"}')
    (done.output / "eval_summary.csv").unlink()
    told = command("resume", "--until", "evaluate")
    assert told.returncode == 1
    assert "the base model is not the one that was trained on" in told.stderr


def test_another_axolotl_between_two_stages_is_told_of(command: Command, done: RunDir, fake_axolotl: Path) -> None:
    (installed,) = fake_axolotl.glob("lib/*/*/axolotl-*")
    installed.rename(installed.with_name("axolotl-0.20.0.dist-info"))
    (done.output / "eval_summary.csv").unlink()
    told = command("resume", "--until", "evaluate")
    assert told.returncode == 0
    assert "Axolotl was 0.19.0 when this run was planned, and is 0.20.0" in told.stderr


def test_the_state_of_a_last_checkpoint_that_is_cut_short_is_told_of(command: Command, small_recipe: Path) -> None:
    told = command("run", str(small_recipe), "--until", "train", FAKE_AXOLOTL="torn")
    assert told.returncode == 1
    assert "output/checkpoint-4/trainer_state.json is damaged: " in told.stderr
    assert "resume sets it aside" in told.stderr
    assert "Traceback" not in newest().runner_log.read_text()
    assert command("resume", "--until", "train", FAKE_AXOLOTL="ok").returncode == 0
    assert (newest().output / "torn-checkpoint-4").is_dir()
    assert states(newest())["train"] == "done"


@pytest.mark.parametrize("text", [b"", b'{"config.json": "', b"[]", b"\xff"])
def test_a_damaged_proof_of_a_base_proves_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    proof = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    (tmp_path / "made.json").write_text(json.dumps(proof))
    assert trainings.is_made(tmp_path)
    (tmp_path / "made.json").write_bytes(text)
    assert not trainings.is_made(tmp_path)


def test_a_torn_state_is_written_anew_from_the_proofs(command: Command, done: RunDir) -> None:
    done.state.write_text('{"recipe": "sma')
    command("resume", "--until", "evaluate")
    assert states(done)["evaluate"] == "done"
    assert attempts(done) == {"train": 1, "evaluate": 1}


def test_a_trainer_whose_runner_was_killed_saves_and_is_gone_before_another_begins(
    command: Command, small_recipe: Path
) -> None:
    with training(small_recipe, "hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        run, holder = newest(), newest().holder()
        assert holder is not None
        os.kill(holder, signal.SIGKILL)
        viewer.wait(DEADLINE_S)
    (orphan,) = belonging.processes(run)
    command("resume", "--until", "evaluate", FAKE_AXOLOTL="ok")
    assert not orphan.is_running()
    assert states(run)["evaluate"] == "done"
    assert yaml.safe_load(run.config("train", 2).read_text())["resume_from_checkpoint"].endswith("checkpoint-2")


def test_a_second_interrupt_hurries_and_no_worker_stays(small_recipe: Path) -> None:
    with training(small_recipe, "stubborn") as viewer:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        run = newest()
        until(lambda: len(belonging.processes(run)) == 2)
        left = belonging.processes(run)
        viewer.send_signal(signal.SIGINT)
        until(lambda: run.stop_file.exists())
        viewer.send_signal(signal.SIGINT)
        assert viewer.wait(DEADLINE_S) == 130
    assert not [process for process in left if process.is_running()]
    assert states(run)["train"] == "interrupted"


@pytest.mark.parametrize("mode", ["hang", "freeze"])
def test_a_batch_systems_sigterm_to_the_command_stops_the_run(mode: str, small_recipe: Path) -> None:
    with training(small_recipe, mode) as viewer:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        viewer.terminate()
        if mode == "freeze":
            until(lambda: newest().stop_file.exists())
            viewer.terminate()
        assert viewer.wait(DEADLINE_S) == 130
    assert newest().holder() is None
    assert newest().current_state().stage("train").detail.endswith("checkpoint-2 is whole")


def test_a_closed_terminal_ends_only_the_viewer(command: Command, small_recipe: Path) -> None:
    with training(small_recipe, "hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        viewer.send_signal(signal.SIGHUP)
        viewer.wait(DEADLINE_S)
        holder = newest().holder()
        assert holder is not None
        os.kill(holder, signal.SIGHUP)
        assert newest().holder() == holder
        command("stop")
        until(lambda: newest().holder() is None)


def test_a_time_limit_ends_in_a_checkpoint_before_it(command: Command, small_recipe: Path) -> None:
    done = command("run", str(small_recipe), "--until", "train", "--time-limit", "12s", FAKE_AXOLOTL="hang")
    assert done.returncode == 130
    record = newest().current_state().stage("train")
    assert record.detail == "its time limit of 12 s came; checkpoint-2 is whole"
    assert record.started is not None
    assert record.ended is not None
    assert record.ended - record.started < 12


def test_out_of_memory_stops_and_says_what_a_retry_would_change(command: Command, small_recipe: Path) -> None:
    done = command("run", str(small_recipe), *FOUR_ROWS, FAKE_AXOLOTL="oom", FAKE_LOG=str(OOM_LOG))
    assert done.returncode == 1
    assert "cuda-oom" in done.stderr
    assert f"ax-recipe resume {newest().name} --on-oom retry would go on with micro_batch_size 4 -> 2" in done.stderr
    assert attempts(newest()) == {"train": 1}


def test_out_of_memory_is_tried_again_with_smaller_batches_and_the_same_rows_a_step(
    command: Command, small_recipe: Path
) -> None:
    oom = {"FAKE_AXOLOTL": "oom", "FAKE_LOG": str(OOM_LOG)}
    done = command("run", str(small_recipe), *FOUR_ROWS, "--until", "evaluate", "--on-oom", "retry", **oom)
    run = newest()
    assert done.returncode == 0, done.stderr
    assert attempts(run) == {"train": 3, "evaluate": 1}
    sizes = [
        (keys["micro_batch_size"], keys["gradient_accumulation_steps"])
        for path in (run.axolotl_yaml, run.config("train", 2), run.config("train", 3), run.config("evaluate", 1))
        for keys in [yaml.safe_load(path.read_text())]
    ]
    assert sizes == [(4, 1), (2, 2), (1, 4), (1, 4)]
    assert "OutOfMemoryError" in run.log("train", 1).read_text()
    assert "micro_batch_size 4 -> 2, gradient_accumulation_steps 1 -> 2" in run.log("train", 2).read_text()
    assert "micro_batch_size 2 -> 1" in done.stderr


def test_what_was_wrong_with_an_attempt_is_over_when_the_next_begins() -> None:
    state = State()
    advance(state, StageStarted("train", 1))
    advance(state, Crashed("torch.OutOfMemoryError: CUDA out of memory."))
    raised = list(state.alerts)
    advance(state, StageStarted("train", 2))
    assert raised
    assert (state.alerts, state.past) == ([], raised)


def test_after_an_out_of_memory_resume_begins_with_the_change(command: Command, small_recipe: Path) -> None:
    oom = {"FAKE_AXOLOTL": "oom", "FAKE_LOG": str(OOM_LOG)}
    command("run", str(small_recipe), "--until", "train", "--set", "train.global_batch_size=2", *FOUR_ROWS[2:], **oom)
    assert command("resume", "--until", "train", "--on-oom", "retry", **oom).returncode == 0
    assert attempts(newest()) == {"train": 2}
    assert policy.read(newest()) == Policy(on_oom="retry")


def test_a_hung_training_is_dumped_stopped_and_started_once_more(command: Command, small_recipe: Path) -> None:
    command("run", str(small_recipe), "--until", "train", FAKE_AXOLOTL="fail")
    run = newest()
    policy.write(run, Policy(on_hang="restart", hang_s=2.0))
    done = command("resume", "--until", "train", FAKE_AXOLOTL="freeze")
    assert done.returncode == 0, done.stderr
    assert attempts(run) == {"train": 3}
    assert re.search(r"most recent call first\):\n  File .* in stay\n", run.stacks(2).read_text())
    assert "it hung" in done.stderr
    assert not belonging.processes(run)


def test_two_runners_the_second_is_told_who_holds_the_run(command: Command, small_recipe: Path) -> None:
    with training(small_recipe, "hang"):
        until(lambda: rundir.every(rundir.root()) and begun(newest()))
        holder = newest().holder()
        source = {"PYTHONPATH": str(ROOT / "wrapper"), **os.environ}
        argv = [sys.executable, "-m", "ax_recipe.launch.runner", str(newest().path), "--until="]
        second = subprocess.run(argv, capture_output=True, text=True, env=source, check=False)
        assert second.returncode
        assert f"{holder} works on this run already" in second.stderr
        command("stop")
        until(lambda: newest().holder() is None)
    assert attempts(newest()) == {"train": 1}


def test_a_failed_stage_names_the_cause_and_the_next_command(command: Command, small_recipe: Path) -> None:
    done = command("run", str(small_recipe), FAKE_AXOLOTL="fail")
    assert "ended with exit code 1" in done.stderr
    assert f"ax-recipe diagnose {newest().name}" in done.stderr
    assert f"ax-recipe resume {newest().name}" in done.stderr


def test_marks_find_the_processes_of_a_run_and_no_others(tmp_path: Path) -> None:
    one, other = RunDir(tmp_path / "one"), RunDir(tmp_path / "other")
    argv = [sys.executable, "-c", "import time; time.sleep(600)"]
    children = [
        subprocess.Popen(argv, env={**os.environ, **belonging.environment(run)}, start_new_session=True)
        for run in (one, other)
    ]
    try:
        assert [process.pid for process in belonging.processes(one)] == [children[0].pid]
        belonging.sweep(one, 0.0)
        assert not belonging.processes(one)
        assert psutil.Process(children[1].pid).is_running()
    finally:
        for child in children:
            child.kill()
            child.wait()


def test_a_runs_policy_is_kept_as_it_was_told(done: RunDir) -> None:
    assert json.loads(done.policy.read_text())["on_oom"] == "stop"
