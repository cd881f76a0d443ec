"""A run's folder kept in another place: copied while it trains, held against digests, and brought back elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ax_recipe import assets, axolotl
from ax_recipe.errors import RecipeError
from ax_recipe.forecast.hardware import CPU
from ax_recipe.launch import mirroring
from ax_recipe.launch import training as training_of
from ax_recipe.launch.attempts import Call
from ax_recipe.observe import rules
from ax_recipe.observe.feed import Feed
from ax_recipe.recipe import recipe
from ax_recipe.run import belonging, mirror, preparing, rundir, seal
from ax_recipe.run.rundir import RunDir, StageRecord
from ax_recipe.survive import checkpoints, proof
from conftest import Invoke, Started
from test_runner import DEADLINE_S, Command, background, newest, states, until

# The training environment has it; the tests' stand-in for one is this very python.
pytest.importorskip("fsspec", reason="no fsspec here: it comes with Axolotl")
pytestmark = [pytest.mark.usefixtures("fake_axolotl"), pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mirror")


@pytest.fixture
def tmp_path(place: Path) -> Path:
    """One and the same folder for all tests here, empty at the start of each: a run has its own place in its files."""
    shutil.rmtree(place / "test", ignore_errors=True)
    (place / "test").mkdir()
    return place / "test"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder of runs on the other side."""
    return tmp_path / "bucket" / "runs"


def url(there: Path) -> str:
    return f"file://{there}"


def listed(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "files.json").read_text())
    return told


@pytest.fixture
def done(command: Command, small_recipe: Path, there: Path, tmp_path: Path, place: Path) -> RunDir:
    """A run that is trained, evaluated and kept there; made once, then put back as it was."""
    kept = place / "kept"
    if kept.exists():
        shutil.rmtree(tmp_path)
        shutil.copytree(kept, tmp_path)
        return newest()
    told = command("run", str(small_recipe), "--until", "evaluate", "--mirror", url(there))
    assert told.returncode == 0, told.stderr
    assert f"Kept at {url(there)}/{newest().name}: all of" in told.stderr
    shutil.copytree(tmp_path, kept)
    return newest()


def on_another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No run, no cache and no key of this account any more."""
    shutil.rmtree(rundir.root())
    monkeypatch.setenv("AX_RECIPE_RUNS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("AX_RECIPE_CACHE", str(tmp_path / "other-cache"))
    return tmp_path / "elsewhere"


def test_the_run_is_there_with_the_digest_of_each_file(done: RunDir, there: Path) -> None:
    copy = there / done.name
    told = listed(copy)
    assert told["checkpoint"] == "checkpoint-4"
    for key, mark in told["files"].items():
        assert (copy / key).stat().st_size == mark["size"], key
    for name in ("recipe.yaml", "plan.json", "state.json", "proofs/train.json", "output/adapter_model.safetensors"):
        assert (copy / name).read_bytes() == (done.path / name).read_bytes(), name
    assert not {"seal", "lock", "mirror.json", "mirrored.json"} & {path.name for path in copy.iterdir()}
    assert copy.stat().st_mode & 0o077 == 0


def test_status_says_where_it_is(invoke: Invoke, done: RunDir, there: Path) -> None:
    assert f"Kept at {url(there)}/{done.name}: all of" in invoke("status").stdout
    assert json.loads(invoke("status", "--json").stdout)["mirror"]["checkpoint"] == "checkpoint-4"


def test_a_checkpoint_is_there_while_the_training_goes_on(command: Command, small_recipe: Path, there: Path) -> None:
    with training(small_recipe, there, "hang") as viewer:
        until(lambda: list(there.glob("*/output/checkpoint-2/trainer_state.json")))
        assert states(newest())["train"] == "running"
        command("stop")
        assert viewer.wait(DEADLINE_S) == 130
    told = listed(there / newest().name)
    assert told["status"] == "interrupted"
    assert told["checkpoint"] == "checkpoint-2"


def training(recipe: Path, there: Path, mode: str, *options: str) -> Started:
    argv = ["run", str(recipe), "--until", "evaluate", "--mirror", url(there), *options]
    return background(argv, FAKE_AXOLOTL=mode)


def killed(recipe: Path, there: Path) -> str:
    """A machine that vanishes at step 2: nothing of it can be asked any more. Gives the run's name."""
    with training(recipe, there, "hang") as viewer:
        until(lambda: list(there.glob("*/output/checkpoint-2/trainer_state.json")))
        until(lambda: list(there.glob("*/files.json")) and listed(there / newest().name)["checkpoint"])
        run, holder = newest(), newest().holder()
        assert holder is not None
        for process in [*psutil.Process(holder).children(recursive=True), *belonging.processes(run)]:
            with contextlib.suppress(psutil.NoSuchProcess):  # the one before it was its parent
                process.kill()
        os.kill(holder, signal.SIGKILL)
        viewer.wait(DEADLINE_S)
    return run.name


def test_a_run_of_a_machine_that_vanished_goes_on_elsewhere(
    command: Command, small_recipe: Path, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = killed(small_recipe, there)
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    told = command("fetch", f"{url(there)}/{name}")
    assert told.returncode == 0, told.stderr
    assert f"Go on with: ax-recipe resume {name}" in told.stdout
    run = RunDir(elsewhere / name)
    assert command("resume", "--until", "evaluate", FAKE_AXOLOTL="ok").returncode == 0
    assert states(run)["evaluate"] == "done"
    start = yaml.safe_load(run.config("train", 2).read_text())["resume_from_checkpoint"]
    assert start == str(run.output / "checkpoint-2")
    again = listed(there / name)
    assert (again["status"], again["checkpoint"]) == ("waiting", "checkpoint-4")
    assert (there / name / "output/adapter_model.safetensors").read_bytes() == b"weights"


def test_what_a_stage_made_is_told_of_where_it_is_now(
    command: Command, small_recipe: Path, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("run", str(small_recipe), "--until", "merge", "--mirror", url(there))
    run = newest()
    assert f"{run.output}/merged" in command("status").stdout
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    assert command("fetch", f"{url(there)}/{run.name}").returncode == 0
    told = command("status").stdout
    assert str(run.path) not in told
    assert f"{elsewhere / run.name}/output/merged" in told


def test_what_is_not_there_is_told_with_what_is(command: Command, done: RunDir, there: Path) -> None:
    wrong = command("fetch", f"{url(there)}/nosuch")
    assert wrong.returncode == 3
    assert f"{url(there)}/nosuch: " in wrong.stderr
    assert wrong.stderr.endswith(f"\n    runs at {url(there)}: {done.name}\n")
    part = command("fetch", f"{url(there)}/{done.name}/nosuch")
    assert part.stderr.endswith(f"\n    {url(there)}/{done.name} is a run itself\n")
    nowhere = command("fetch", f"{url(there)}/nosuch/{done.name}")
    assert nowhere.returncode == 3
    assert nowhere.stderr.endswith("\n    mount it, or mend its name\n")


def test_what_is_proven_there_is_not_done_again_here(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    assert command("fetch", f"{url(there)}/{done.name}").returncode == 0
    assert command("resume", "--until", "evaluate").returncode == 0
    assert {stage.attempt for stage in RunDir(elsewhere / done.name).read_state().stages if stage.attempt} == {1}


def test_places_have_spaces_and_letters_of_any_script(
    command: Command, small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, there, second = (tmp_path / name for name in ("Jürgens Läufe", "später & mehr/runs 1", "другое место"))
    monkeypatch.setenv("AX_RECIPE_RUNS", str(first))
    told = command("run", str(small_recipe), "--until", "evaluate", "--mirror", str(there))
    assert told.returncode == 0, told.stderr
    name = newest().name
    shutil.rmtree(first)
    monkeypatch.setenv("AX_RECIPE_RUNS", str(second))
    told = command("fetch", f"{there}/{name}")
    assert "not as it was" not in told.stdout
    assert f"Go on with: ax-recipe resume {name}" in told.stdout
    told = command("resume", "--until", "evaluate")
    assert told.returncode == 0, told.stderr
    run = RunDir(second / name)
    assert {stage.attempt for stage in run.read_state().stages if stage.attempt} == {1}, "nothing was done again"
    assert str(second) in run.axolotl_yaml.read_text()


def test_a_recipe_that_lies_elsewhere_is_found_where_the_command_is_given(
    command: Command, done: RunDir, there: Path, small_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_another_machine(monkeypatch, tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    for name in ("small.yaml", "rows.jsonl", "base"):
        (tmp_path / name).rename(project / name)
    lost = command("fetch", f"{url(there)}/{done.name}")
    assert lost.returncode == 0
    assert "it can be looked at; to go on with it here is not possible yet" in lost.stdout
    assert "rows.jsonl" in lost.stdout
    assert "small.yaml and its data are" in lost.stdout
    found = command("fetch", f"{url(there)}/{done.name}", cwd=project)
    assert "Go on with" not in found.stdout.splitlines()[0]
    assert "not possible" not in found.stdout, found.stdout
    assert command("resume", "--until", "evaluate", cwd=project).returncode == 0
    run = newest()
    assert {stage.attempt for stage in run.read_state().stages if stage.attempt} == {1}
    assert str(project / "rows.jsonl") in run.axolotl_yaml.read_text()


def test_a_base_that_was_made_for_the_run_comes_along(
    command: Command, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made anew, and not to the last bit the same, on another machine: the adapter would not fit."""
    found = axolotl.find()
    prepared = preparing.for_run(recipe.load("pirate-tiny"), CPU, found, rundir.root(), alone=False)
    run, orders = prepared.run, prepared.orders
    rundir.create(run, {**prepared.files, "mirror.json": mirror.wanted(url(there))})
    base = Path(orders["base"])
    base.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (base / name).write_text(name)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in base.iterdir()}
    (base / "made.json").write_text(json.dumps(digests))
    assert training_of.is_made(base)
    done = StageRecord("base", "done", attempt=1)
    proof.take(run, orders, done)
    run.write_state(run.read_state().with_stage(done))
    assert not copy(run)["error"]
    elsewhere = RunDir(on_another_machine(monkeypatch, tmp_path) / run.name)
    told = command("fetch", f"{url(there)}/{run.name}")
    assert f"Go on with: ax-recipe resume {run.name}" in told.stdout, told.stdout
    assert training_of.is_made(elsewhere.base)
    assert elsewhere.read_json(elsewhere.orders)["base"] == str(elsewhere.base)
    assert yaml.safe_load(elsewhere.axolotl_yaml.read_text())["base_model"] == str(elsewhere.base)
    assert not proof.flaw(elsewhere, "base")


def test_what_is_no_address_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    for told in ("s3:/bucket/runs", "foo:bar"):
        with pytest.raises(RecipeError, match="neither an address nor plainly a folder"):
            mirror.asked(told)
    assert mirror.asked(f"{tmp_path}/at:noon") == f"{tmp_path}/at:noon"


def test_a_run_is_the_same_wherever_else_it_is_kept(
    command: Command, done: RunDir, small_recipe: Path, tmp_path: Path
) -> None:
    for told in ((), ("--mirror", str(tmp_path / "another"))):
        again = command("run", str(small_recipe), "--until", "train", *told)
        assert f"{done.name} is this very run" in again.stderr
    assert len(list(done.path.parent.iterdir())) == 1


def test_runs_there_are_listed(command: Command, done: RunDir, there: Path) -> None:
    (there / "notes.txt").write_text("no run", encoding="utf-8")
    told = command("fetch", url(there))
    assert not told.stderr
    assert told.stdout.split()[:3] == [done.name, "waiting", "checkpoint-4"]
    assert list(json.loads(command("fetch", str(there), "--json").stdout)) == [done.name]


def test_a_run_that_is_here_stays_as_it_is(command: Command, done: RunDir, there: Path) -> None:
    told = command("fetch", f"{url(there)}/{done.name}")
    assert told.returncode == 2
    assert f"ax-recipe resume {done.name} goes on with it" in told.stderr


def test_a_run_is_brought_by_one_at_a_time_and_by_the_next_when_that_was_killed(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{url(there)}/{done.name}"
    run = RunDir(on_another_machine(monkeypatch, tmp_path) / done.name)
    with background(["fetch", place]) as first:
        until(lambda: run.holder() == first.pid)
        first.send_signal(signal.SIGSTOP)
        second = command("fetch", place)
        assert second.returncode == 3
        assert f"{run.path}: process {first.pid} brings it here already" in second.stderr
        assert command("resume", str(run.path)).returncode, "half of it is here"
    assert first.returncode == -signal.SIGKILL
    third = command("fetch", place)
    assert third.returncode == 0, third.stderr
    assert seal.holds(run.path)
    assert run.worker == ""


def test_a_run_that_is_copied_anew_while_it_is_brought_comes_as_it_is_then(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains on: the checkpoint of the list is deleted behind the back of who brings it."""
    output, name = done.output, "checkpoint-4"
    os.truncate(output / name / "optimizer.pt", 2**27)  # so large that it takes a moment
    assert not copy(done, name)["error"]
    run = RunDir(tmp_path / "second" / done.name)
    with background(["fetch", f"{url(there)}/{done.name}", "--runs", str(run.path.parent)]) as fetching:
        until(lambda: (run.output / name / "optimizer.pt").exists())
        (child,) = psutil.Process(fetching.pid).children()
        child.suspend()
        (output / name).rename(output / "checkpoint-6")
        (output / "checkpoint-6/trainer_state.json").write_text('{"global_step": 6}')
        assert copy(done, "checkpoint-6")["checkpoint"] == "checkpoint-6"
        child.resume()
        assert fetching.wait(DEADLINE_S) == 0
    assert [path.name for path in run.output.glob("checkpoint-*")] == ["checkpoint-6"]
    assert seal.holds(run.path)


def test_what_brings_the_files_ends_with_who_asked_for_them(tmp_path: Path) -> None:
    """Else it would write over what the next has made its own."""
    probe = "import os, sys, time; sys.path.insert(0, sys.argv[1]); import mirror, threading\n"
    probe += "threading.Thread(target=mirror.end_with, args=(os.getppid(),)).start(); print(flush=True)"
    asks = "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])\n"
    asks += "print(child.pid, flush=True); time.sleep(100)"
    argv = [sys.executable, "-c", asks, probe, str(assets.probe("mirror.py").parent)]
    with Started(argv, stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None
        child = psutil.Process(int(asking.stdout.readline()))
        asking.stdout.readline()
        assert child.is_running()
    assert not psutil.wait_procs([child], DEADLINE_S)[1]


def test_a_place_for_runs_that_is_none_is_told_of(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    elsewhere.touch()
    told = command("fetch", f"{url(there)}/{done.name}")
    assert told.returncode == 3
    assert f"{elsewhere / done.name}: cannot be made: " in told.stderr


@pytest.mark.parametrize("how", ["cut", "changed", "gone"])
def test_a_checkpoint_that_is_torn_there_is_left_there(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    file = there / done.name / "output/checkpoint-4/optimizer.pt"
    size = file.stat().st_size
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(size if how == "changed" else size - 1))
    told = command("fetch", f"{url(there)}/{done.name}")
    assert "not as it was: checkpoint-4 is left there: output/checkpoint-4/optimizer.pt" in told.stdout
    found = checkpoints.newest(elsewhere / done.name / "output")
    assert found is not None
    assert found.step == 3
    assert not (elsewhere / done.name / "output/checkpoint-4").exists()


def test_a_file_that_is_cut_there_is_said_and_its_stage_done_again(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    os.truncate(there / done.name / "output/adapter_model.safetensors", 3)
    told = command("fetch", f"{url(there)}/{done.name}")
    assert "not as it was: output/adapter_model.safetensors has 3 bytes instead of 7" in told.stdout
    assert command("resume", "--until", "evaluate").returncode == 0
    assert RunDir(elsewhere / done.name).read_state().stage("train").attempt == 2


def test_a_log_that_grew_after_the_list_is_cut_back_to_it(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = done.events.read_bytes()
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    with (there / done.name / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "ste')
    assert "not as it was" not in command("fetch", f"{url(there)}/{done.name}").stdout
    assert (elsewhere / done.name / "events.jsonl").read_bytes() == text


@pytest.mark.parametrize("here", ["a file", "what a file is the same as"])
def test_a_list_that_names_a_file_outside_of_the_run_is_refused(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str
) -> None:
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    (elsewhere.parent / "own").write_text("of somebody here")
    told = listed(there / done.name)
    added = {"../../own": told["files"]["recipe.yaml"]} if here == "a file" else {"notes": {"same": "../../own"}}
    told["files"] |= added
    (there / done.name / "files.json").write_text(json.dumps(told))
    refused = command("fetch", f"{url(there)}/{done.name}")
    assert refused.returncode == 3
    assert "names a file outside of the run: ../../own" in refused.stderr
    assert not (elsewhere / done.name).exists()


def test_what_came_with_it_runs_only_when_trusted(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write there must not be able to start anything here."""
    elsewhere = on_another_machine(monkeypatch, tmp_path)
    copy = there / done.name
    recipe = (copy / "recipe.yaml").read_text() + "axolotl: {trust_remote_code: true}\n"
    plan = (copy / "plan.json").read_text().replace("--lora-model-dir", "--pwned")
    told = listed(copy)
    for name, text in (("recipe.yaml", recipe), ("plan.json", plan)):
        (copy / name).write_text(text)
        told["files"].pop(name)
        told["files"][name] = mark(copy / name)
    (copy / "files.json").write_text(json.dumps(told))
    assert "AX056" in command("fetch", f"{url(there)}/{done.name}").stdout
    run = RunDir(elsewhere / done.name)
    assert not seal.holds(run.path)
    assert command("resume").returncode == 2
    assert command("fetch", f"{url(there)}/{done.name}", "--trust").returncode == 0
    assert seal.holds(run.path)
    assert "--pwned" not in run.orders.read_text()


def mark(path: Path) -> dict[str, Any]:
    status = path.stat()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": digest}


# --- what goes wrong ---


def test_a_place_that_cannot_be_written_to_stops_before_anything_starts(
    command: Command, small_recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    told = command("run", str(small_recipe), "--mirror", f"file://{tmp_path / 'file'}/runs")
    assert told.returncode == 3
    assert "Not a directory" in told.stderr
    assert "mount it, or mend its rights" in told.stderr
    assert not rundir.every(rundir.root())


@pytest.mark.parametrize(
    ("where", "words"),
    [("nowhere://bucket/runs", "are known, and what else fsspec has"), ("s3://bucket/runs", "beside Axolotl")],
)
def test_a_storage_without_its_library_says_what_to_install(
    command: Command, small_recipe: Path, where: str, words: str
) -> None:
    if where.startswith("s3") and importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is here")
    told = command("run", str(small_recipe), "--mirror", where)
    assert told.returncode == 3
    assert words in told.stderr


@pytest.mark.parametrize(
    "where",
    [
        *("s3://key:secret@bucket/runs", "az://box/runs?sig=abc", "sftp://me:word@host/x"),
        *("simplecache::s3://key:secret@bucket/runs", f"https://{'a' * 40}@host/runs"),
    ],
)
def test_a_secret_in_the_address_is_refused(where: str) -> None:
    with pytest.raises(RecipeError, match="a secret in it would lie open") as refused:
        mirror.asked(where)
    assert "@" not in str(refused.value)


def test_a_folder_may_be_called_as_no_address_is(tmp_path: Path) -> None:
    assert mirror.asked(f"{tmp_path}/what?") == f"{tmp_path}/what?"


def test_a_place_that_vanishes_ends_no_training_and_is_made_good_when_it_is_back(
    command: Command, small_recipe: Path, there: Path
) -> None:
    with training(small_recipe, there, "hang") as viewer:
        until(lambda: list(there.glob("*/files.json")))
        run = newest()
        until(lambda: run.mirror.read().get("checkpoint") == "checkpoint-2")
        there.rename(there.with_name("away"))
        there.touch()  # nothing can be made there
        command("stop")
        assert viewer.wait(DEADLINE_S) == 130
    assert run.read_state().stage("train").detail.startswith("stopped as asked; checkpoint-2 is whole")
    assert "nothing after it: " in run.mirror.words()
    assert "mirror: " in run.runner_log.read_text()
    refused = command("resume", "--until", "evaluate", FAKE_AXOLOTL="ok")
    assert refused.returncode == 3
    there.unlink()
    there.with_name("away").rename(there)
    done = command("resume", "--until", "evaluate", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    assert listed(there / run.name)["checkpoint"] == "checkpoint-4"
    assert not run.mirror.read()["error"]


def test_who_watches_is_told_that_it_is_no_longer_kept_and_that_it_is_again(done: RunDir) -> None:
    told = done.mirror.read()
    with done.held():
        feed = Feed(done)
        feed.poll()
        assert f"mirror: {done.mirror.words()}" in feed.state.lines
        done.write_json(done.mirror.told, {**told, "error": "no route to host", "hint": "see"})
        feed.poll()
        (alert,) = (alert for alert in feed.state.alerts if alert.rule == "mirror")
        assert alert.message.startswith("The run is no longer kept elsewhere: no route to host.")
        done.write_json(done.mirror.told, told)
        feed.poll()
        rules.ask(feed.state, "sample", time.time() + 30)  # as it does whenever it looks at the disk
        assert "mirror" not in {alert.rule for alert in feed.state.alerts}


def test_what_could_not_be_copied_is_tried_again_by_itself(
    done: RunDir, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "LOOK_S", 0.05)
    monkeypatch.setattr(mirroring, "RETRY_S", 0.05)
    said: list[str] = []
    there.rename(there.with_name("away"))
    there.touch()
    with mirroring.Mirroring(done, done.read_json(done.orders), Call(), said.append):
        until(lambda: said)
        there.unlink()
        until(lambda: len(said) == 2)
    assert "nothing after it: " in said[0]
    assert said[1] == "mirror: it works again"
    assert listed(there / done.name)["checkpoint"] == "checkpoint-4"


def test_a_run_that_is_kept_somewhere_else_from_now_on(command: Command, done: RunDir, tmp_path: Path) -> None:
    told = command("resume", "--until", "evaluate", "--mirror", str(tmp_path / "share"))
    assert told.returncode == 0, told.stderr
    assert f"Kept at {tmp_path / 'share'}/{done.name}: all of" in told.stderr
    assert listed(tmp_path / "share" / done.name)["checkpoint"] == "checkpoint-4"
    assert seal.holds(done.path)
    done.write_json(done.mirror.path, {**done.read_json(done.mirror.path), "url": "nowhere://x"})
    assert "nothing is there, nothing after it" in (copy(done) and done.mirror.words())


def test_who_is_in_a_hurry_does_not_wait_for_a_copy(done: RunDir) -> None:
    """A copy that waits for ever: another has its lock."""
    said: list[str] = []
    with (done.path / "mirror.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with mirroring.Mirroring(done, done.read_json(done.orders), Call(asked=2), said.append):
            pass
    assert "its copy ended with -" in said[0]


def test_a_run_is_not_kept_in_its_own_place(command: Command, small_recipe: Path, done: RunDir, tmp_path: Path) -> None:
    """Each copy would change what it copies, and delete the checkpoint that is being written."""
    (tmp_path / "link").symlink_to(rundir.root())
    for place in (str(rundir.root()), url(rundir.root()), str(tmp_path / "link")):
        told = command("run", str(small_recipe), "--new", "--mirror", place)
        assert told.returncode == 3
        assert f"{place}: the run itself is there" in told.stderr
    assert len(rundir.every(rundir.root())) == 1
    assert command("resume", "--mirror", str(done.path / "logs")).returncode == 3


def test_a_full_disk_here_does_not_end_the_copying(done: RunDir, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "LOOK_S", 0.05)
    monkeypatch.setattr(mirroring, "RETRY_S", 0.05)
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        Path("/dev/full").write_text(text)

    there.rename(there.with_name("away"))
    there.touch()
    with mirroring.Mirroring(done, done.read_json(done.orders), Call(), say):
        until(lambda: said)
        there.unlink()
        until(lambda: len(said) == 2)
    assert said[1] == "mirror: it works again"
    assert said[-1].startswith(f"mirror: {url(there)}/{done.name}: all of ")


def test_a_run_that_is_done_again_is_kept_elsewhere_where_that_is_said(
    command: Command, done: RunDir, there: Path, tmp_path: Path
) -> None:
    command("reproduce", done.name)
    assert newest().name != done.name
    assert not newest().mirror.url, "where the first one is kept is no matter of the second"
    (tmp_path / "file").touch()
    refused = command("reproduce", done.name, "--mirror", f"{tmp_path / 'file'}/runs")
    assert refused.returncode == 3
    assert len(rundir.every(rundir.root())) == 2
    command("reproduce", done.name, "--mirror", url(there))
    assert newest().prepared == Path(yaml.safe_load(newest().axolotl_yaml.read_text())["dataset_prepared_path"])
    assert listed(there / newest().name)["checkpoint"] == "checkpoint-4"


def test_removing_a_run_leaves_what_is_kept_elsewhere(invoke: Invoke, done: RunDir, there: Path) -> None:
    assert f"what is kept at {url(there)} stays" in invoke("rm", done.name, "--yes").stdout
    assert listed(there / done.name)["checkpoint"] == "checkpoint-4"


def test_a_run_can_go_on_without_its_mirror(command: Command, done: RunDir, there: Path) -> None:
    shutil.rmtree(there)
    assert command("resume", "--until", "evaluate", "--mirror", "none").returncode == 0
    assert not done.mirror.words()
    assert not there.exists()


def test_a_run_comes_back_to_a_mirror_that_it_had(invoke: Invoke, done: RunDir, there: Path) -> None:
    """What is there is its own, and not of another machine that went on with it."""
    mirroring.settle(done, str(there.with_name("share")))
    assert json.loads(invoke("status", "--json").stdout)["mirror"] == {"url": f"{there.with_name('share')}/{done.name}"}
    mirroring.settle(done, "none")
    mirroring.settle(done, url(there))
    assert not copy(done, "checkpoint-4")["error"]


def test_two_machines_do_not_write_over_each_other(command: Command, done: RunDir, there: Path, tmp_path: Path) -> None:
    """The first machine comes back when another has gone on with its run."""
    fetched = tmp_path / "second"
    runs = ("--runs", str(fetched))
    assert command("fetch", f"{url(there)}/{done.name}", *runs).returncode == 0
    assert command("resume", *runs, "--until", "evaluate").returncode == 0
    (done.output / "eval_summary.csv").unlink()
    told = command("resume", str(done.path), "--until", "evaluate")
    assert told.returncode == 0
    assert "a run of this name is kept there by" in told.stderr
    second = json.loads((fetched / done.name / "mirror.json").read_text())
    assert listed(there / done.name)["writer"] == second["writer"]


# --- one copy ---

TIMELESS = (
    '{"run": "", "recipe": "", "status": "", "host": "", "writer": "", "checkpoint": null, "files": {}, "time": "noon"}'
)


def copy(run: RunDir, *arguments: str, **environment: str) -> dict[str, Any]:
    """Copy a run as its runner does."""
    argv = [sys.executable, str(assets.probe("mirror.py")), "put", str(run.path), *arguments]
    subprocess.run(argv, check=False, env={**os.environ, **environment})
    return run.mirror.read()


def test_what_is_there_already_is_not_sent_again(done: RunDir) -> None:
    whole = [f"checkpoint-{number}" for number in (4, 3, 2, 1)]
    assert copy(done, *whole)["sent"] < 20_000  # the runner's own log has grown
    os.truncate(Path(done.mirror.url.removeprefix("file://")) / done.name / "output/checkpoint-4/optimizer.pt", 5)
    copy(done, *whole)
    there = Path(done.mirror.url.removeprefix("file://")) / done.name / "output/checkpoint-4/optimizer.pt"
    assert there.read_bytes() == (done.output / "checkpoint-4/optimizer.pt").read_bytes()


def test_a_checkpoint_that_is_deleted_here_goes_there_but_never_the_last(done: RunDir, there: Path) -> None:
    for number in (1, 2, 3):
        shutil.rmtree(done.output / f"checkpoint-{number}")
    copy(done, "checkpoint-4")
    assert [path.name for path in (there / done.name / "output").glob("checkpoint-*")] == ["checkpoint-4"]
    shutil.rmtree(done.output / "checkpoint-4")
    assert copy(done)["checkpoint"] == "checkpoint-4"
    assert copy(done, "checkpoint-4")["checkpoint"] == "checkpoint-4"  # it was whole when it was seen


def test_the_marker_of_a_checkpoint_comes_last(done: RunDir, there: Path) -> None:
    """A copy that is killed, at any moment, leaves no torn checkpoint that looks whole."""
    shutil.rmtree(there / done.name)
    (done.output / "checkpoint-4/rng_state.pth").chmod(0)
    (done.output / "checkpoint-4/rng_state.pth").unlink()
    (done.output / "checkpoint-4/rng_state.pth").mkdir()  # cannot be sent
    (done.output / "checkpoint-4/zzz").symlink_to("/proc/self/mem")
    copy(done, "checkpoint-4")
    assert not (there / done.name / "output/checkpoint-4/trainer_state.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 3}', '{"url": "URL", "time": "noon", "bytes": 1}', b"\xff"])
def test_what_the_last_copy_said_may_be_damaged(done: RunDir, invoke: Invoke, text: str | bytes) -> None:
    place = f"{done.mirror.url}/{done.name}"
    done.mirror.told.write_bytes(text if isinstance(text, bytes) else text.replace("URL", place).encode())
    assert f"Kept at {place}: nothing is" in invoke("status").stdout
    assert copy(done, "checkpoint-4")["checkpoint"] == "checkpoint-4"
    done.mirror.path.write_bytes(b"\xff")
    assert invoke("status").exit_code == 0


def limited(run: RunDir) -> None:
    """Copy a run where no file may have more than 64 kB."""
    argv = [sys.executable, str(assets.probe("mirror.py")), "put", str(run.path), "checkpoint-4"]
    subprocess.run(["sh", "-c", 'ulimit -f 128; exec "$@"', "sh", *argv], check=False)


@pytest.mark.parametrize("size", [100_000, 2**24 + 1])
def test_a_copy_that_fails_or_was_killed_leaves_no_half_files(done: RunDir, there: Path, size: int) -> None:
    (done.output / "adapter_model.safetensors").write_bytes(bytes(size))
    limited(done)
    assert "File too large" in done.mirror.read()["error"]
    assert not list(there.rglob("*.part"))
    for name in ("output/adapter_model.safetensors.part", "output/checkpoint-4/gone.pt.part", "notes.part"):
        (there / done.name / name).write_bytes(b"half")
    assert not copy(done, "checkpoint-4")["error"]
    assert [path.name for path in there.rglob("*.part")] == ["notes.part"], "it is of somebody else"
    assert (there / done.name / "output/adapter_model.safetensors").stat().st_size == size


def test_a_folder_that_vanishes_while_it_is_walked_has_no_files(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("mirror_probe", assets.probe("mirror.py"))
    assert spec is not None
    assert spec.loader is not None
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    for number in (1, 2, 3):
        (tmp_path / "output" / f"checkpoint-{number}").mkdir(parents=True)
        (tmp_path / "output" / f"checkpoint-{number}" / "file").touch()
    found = []
    for path in probe.walked(tmp_path / "output"):
        found.append(path)
        for other in (tmp_path / "output").iterdir():  # the training deletes its old checkpoints
            if other != path.parent:
                shutil.rmtree(other)
    assert len(found) == 1
    assert found[0].is_file()


def test_a_folder_of_the_run_that_lies_on_another_disk_is_copied(done: RunDir, there: Path, tmp_path: Path) -> None:
    done.output.rename(tmp_path / "large")
    done.output.symlink_to(tmp_path / "large")
    (done.path / "round").symlink_to(done.path)
    (done.path / "up").symlink_to(done.path.parent)
    before = listed(there / done.name)["files"]
    assert not copy(done, "checkpoint-4")["error"]
    assert {key for key in before if "checkpoint-" not in key or "checkpoint-4" in key} == set(
        listed(there / done.name)["files"]
    )


def test_links_of_a_run_come_back_as_links_or_copies(
    command: Command, done: RunDir, there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (done.path / "model").mkdir()
    os.link(done.output / "adapter_model.safetensors", done.path / "model" / "weights.gguf")
    (done.path / "model" / "soft").symlink_to(done.output / "adapter_model.safetensors")
    (done.path / "model" / "nowhere").symlink_to("gone")
    (done.path / "model" / "round").symlink_to(done.path)
    assert not copy(done, "checkpoint-4")["error"]
    elsewhere = on_another_machine(monkeypatch, tmp_path) / done.name
    assert command("fetch", f"{url(there)}/{done.name}").returncode == 0
    made = elsewhere / "output/adapter_model.safetensors"
    assert sorted(path.name for path in (elsewhere / "model").iterdir()) == ["soft", "weights.gguf"]
    assert made.samefile(elsewhere / "model/weights.gguf")
    assert (elsewhere / "model/soft").read_bytes() == made.read_bytes()


@pytest.mark.parametrize("text", ["{", "[]", '{"files": {}}', TIMELESS])
def test_a_list_that_is_damaged_there_is_told_of_and_the_others_are_listed(
    command: Command, done: RunDir, there: Path, text: str
) -> None:
    (there / "other-20261122-101500").mkdir()
    (there / "other-20261122-101500" / "files.json").write_text(text)
    told = command("fetch", url(there))
    assert told.returncode == 0
    assert "checkpoint-4" in told.stdout
    assert f"files.json of {url(there)}/other-20261122-101500 is damaged: " in told.stdout
    (there / done.name / "files.json").write_text(text)
    said = copy(done, "checkpoint-4")
    assert f"files.json of {url(there)}/{done.name} is damaged: " in said["error"]
    assert "remove files.json there" in said["hint"]
    (there / done.name / "files.json").unlink()
    assert not copy(done, "checkpoint-4")["error"]


def test_a_full_disk_is_told_of_as_such(done: RunDir, there: Path) -> None:
    (there / done.name / "files.json.part").symlink_to("/dev/full")
    told = copy(done, "checkpoint-4")
    assert "No space left on device" in told["error"]
    assert told["hint"] == "make some space"


def test_half_written_results_are_not_copied(done: RunDir, there: Path) -> None:
    adapter = there / done.name / "output/adapter_model.safetensors"
    (done.output / "adapter_model.safetensors").write_bytes(b"half")
    copy(done, "--but=output/", "checkpoint-4")
    assert adapter.read_bytes() == b"weights"
    copy(done, "checkpoint-4")
    assert adapter.read_bytes() == b"half"


def test_a_job_of_this_cluster_is_none_of_another(done: RunDir, there: Path) -> None:
    """Its number may be anybody's there: the run would look as if it went on, and a stop would end that job."""
    done.job.path.write_text('{"id": "17"}')
    assert not copy(done, "checkpoint-4")["error"]
    assert "job.json" not in listed(there / done.name)["files"]
    assert not (there / done.name / "job.json").exists()


def test_files_of_others_in_that_folder_stay(done: RunDir, there: Path) -> None:
    (there / done.name / "notes.txt").write_text("mine")
    copy(done, "checkpoint-4")
    assert (there / done.name / "notes.txt").read_text() == "mine"


def test_a_run_that_is_gone_here_takes_nothing_with_it(done: RunDir, there: Path) -> None:
    done.orders.unlink()
    assert "is no run any more" in copy(done)["error"]
    assert (there / done.name / "plan.json").is_file()


def test_no_secret_is_in_what_is_said(done: RunDir) -> None:
    told = done.read_json(done.mirror.path)
    done.write_json(done.mirror.path, {**told, "url": "nowhere://sesame-1234/runs"})
    assert copy(done, AWS_SECRET_ACCESS_KEY="nowhere-12345")["error"]
    assert "sesame-1234" not in json.dumps(copy(done, AWS_SECRET_ACCESS_KEY="sesame-1234")["error"])
