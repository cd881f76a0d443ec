"""A run kept on S3 by a real server of it, with the libraries that Axolotl brings; and real Axolotl from S3 to S3."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ax_recipe.run import belonging, rundir
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import checkpoints
from conftest import ROOT, Started, installed_axolotl
from storage import Storage, serve
from test_runner import DEADLINE_S, Command, background, newest, states, until

pytestmark = pytest.mark.axolotl
REAL_S = 500.0
SHORT = ("--set", "base.train.max_steps=5", "--set", "train.max_steps=40", "--set", "train.logging_steps=1")
URL = "s3://bucket/runs"


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """A server with an empty bucket, which every program of the test knows."""
    with serve(tmp_path) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        found.make("bucket")
        yield found


@pytest.fixture
def trainer(fake_axolotl: Path) -> Path:
    """A stand-in that trains nothing, in an environment with the real libraries."""
    python = fake_axolotl / "bin" / "python"
    lines = python.read_text(encoding="utf-8").splitlines()[:-1]
    axolotl = installed_axolotl()
    assert axolotl is not None
    python.write_text("\n".join([*lines, f'exec {axolotl.with_name("python")} "$@"\n']), encoding="utf-8")
    return fake_axolotl


def training(recipe: Path, mode: str) -> Started:
    return background(["run", str(recipe), "--until", "evaluate", "--mirror", URL], FAKE_AXOLOTL=mode)


def listed(s3: Storage, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(s3.read(f"bucket/runs/{name}/files.json"))
    return told


def kill(run: RunDir, viewer: subprocess.Popen[bytes]) -> None:
    """The machine vanishes: no process of the run has a last word."""
    holder = run.holder()
    assert holder is not None
    left = [psutil.Process(holder), *psutil.Process(holder).children(recursive=True), *belonging.processes(run)]
    for process in left:
        if process.is_running():
            process.send_signal(signal.SIGKILL)
    viewer.wait(DEADLINE_S)


@pytest.mark.usefixtures("trainer")
def test_a_run_goes_on_from_the_bucket(
    command: Command, small_recipe: Path, s3: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with training(small_recipe, "hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().mirror.read().get("checkpoint") == "checkpoint-2", 60)
        run = newest()
        kill(run, viewer)
    shutil.rmtree(rundir.root())
    monkeypatch.setenv("AX_RECIPE_CACHE", str(tmp_path / "other-cache"))
    assert run.name in command("fetch", URL).stdout
    assert command("fetch", f"{URL}/{run.name}").returncode == 0
    done = command("resume", "--until", "evaluate", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    start = yaml.safe_load(run.config("train", 2).read_text())["resume_from_checkpoint"]
    assert start == str(run.output / "checkpoint-2")
    told = listed(s3, run.name)
    assert told["checkpoint"] == "checkpoint-4"
    names = set(s3.names("bucket"))
    assert {f"runs/{run.name}/{key}" for key in told["files"]} | {f"runs/{run.name}/files.json"} == names


@pytest.mark.usefixtures("trainer")
def test_a_bucket_that_vanishes_ends_no_training(command: Command, small_recipe: Path, s3: Storage) -> None:
    with training(small_recipe, "hang") as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().mirror.read().get("checkpoint") == "checkpoint-2", 60)
        run = newest()
        s3.vanish()
        command("stop")
        assert viewer.wait(60) == 130
    assert "nothing after it: The specified bucket does not exist (make the bucket first" in run.mirror.words()
    told = command("resume", "--until", "evaluate")
    assert told.returncode == 3
    assert f"{URL}: The specified bucket does not exist" in told.stderr
    s3.make("bucket")
    assert command("resume", "--until", "evaluate", FAKE_AXOLOTL="ok").returncode == 0
    assert states(run)["evaluate"] == "done"
    assert listed(s3, run.name)["checkpoint"] == "checkpoint-4"


@pytest.mark.usefixtures("trainer")
def test_an_object_that_is_cut_there_is_left_there(
    command: Command, small_recipe: Path, s3: Storage, tmp_path: Path
) -> None:
    done = command("run", str(small_recipe), "--until", "train", "--mirror", URL)
    assert done.returncode == 0, done.stderr
    name = newest().name
    s3.write(f"bucket/runs/{name}/output/checkpoint-4/optimizer.pt", b"PK")
    told = command("fetch", f"{URL}/{name}", "--runs", str(tmp_path / "second"))
    assert "checkpoint-4 is left there: output/checkpoint-4/optimizer.pt has 2 bytes" in told.stdout
    found = checkpoints.newest(tmp_path / "second" / name / "output")
    assert found is not None
    assert found.step == 3


@pytest.mark.usefixtures("trainer")
def test_a_fetch_that_is_killed_leaves_nothing_at_work_and_the_next_goes_on(
    command: Command, small_recipe: Path, s3: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bucket does not answer when it is killed, so that what brings the files would wait for ever."""
    assert command("run", str(small_recipe), "--until", "train", "--mirror", URL).returncode == 0
    place, server = f"{URL}/{newest().name}", psutil.Process(s3.pid)
    run = RunDir(tmp_path / "second" / newest().name)
    monkeypatch.setenv("AX_RECIPE_RUNS", str(run.path.parent))
    with background(["fetch", place]) as first:
        until(lambda: run.holder() == first.pid)
        server.suspend()
        until(lambda: any(waiting(child) for child in psutil.Process(first.pid).children()), 60)
        (child,) = psutil.Process(first.pid).children()
    try:
        assert not psutil.wait_procs([child], DEADLINE_S)[1]
    finally:
        server.resume()
    told = command("fetch", place)
    assert told.returncode == 0, told.stderr
    assert "not as it was" not in told.stdout
    assert checkpoints.newest(run.output)


def waiting(process: psutil.Process) -> bool:
    """Whether it has asked somebody over the network."""
    return any(each.status == psutil.CONN_ESTABLISHED for each in process.net_connections())


@pytest.mark.usefixtures("trainer")
@pytest.mark.parametrize(
    ("away", "words"),
    [
        ((), "The AWS Access Key Id you provided does not exist in our records"),
        (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "Unable to locate credentials"),
    ],
)
def test_wrong_credentials_are_said_before_anything_starts(
    command: Command, small_recipe: Path, tmp_path: Path, away: tuple[str, ...], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with serve(tmp_path, anonymous=1) as s3:
        s3.make("bucket")
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        for name in away:
            monkeypatch.delenv(name)
        told = command("run", str(small_recipe), "--mirror", URL)
    assert told.returncode == 3
    assert words in told.stderr
    assert "AWS_PROFILE" in told.stderr
    assert "of-nobody" not in told.stderr
    assert not rundir.every(rundir.root())


# --- real Axolotl ---


def losses(run: RunDir) -> dict[int, float]:
    """The loss of each step, with all its digits."""
    told = [json.loads(line) for line in run.events.read_text().splitlines() if line.endswith("}")]
    return {
        each["step"]: each["values"]["loss"] for each in told if each["event"] == "metrics" and "loss" in each["values"]
    }


@pytest.mark.slow
def test_pirate_tiny_goes_on_from_s3_to_the_losses_of_an_unbroken_run(
    command: Command, s3: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data is read from there, too; no folder, base or key of the first machine is left.

    The base comes along: made once more it was another one, with the same seed.
    """
    shutil.copytree(ROOT / "recipes/pirate-tiny", tmp_path / "pirate-tiny")
    s3.write("bucket/data/pirate.jsonl", (tmp_path / "pirate-tiny/pirate.jsonl").read_bytes())
    text = (ROOT / "recipes/pirate-tiny.yaml").read_text()
    local, far = "path: pirate-tiny/pirate.jsonl\n", "path: s3://bucket/data/pirate.jsonl\n    ds_type: json\n"
    assert local in text
    recipe = tmp_path / "far.yaml"
    recipe.write_text(text.replace(local, far))
    monkeypatch.setenv("AX_RECIPE_AXOLOTL", str(installed_axolotl()))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # of S3, too, datasets reads nothing otherwise
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))  # where it keeps what it has read
    whole = command("run", str(recipe), *SHORT, "--until", "train", "--runs", str(tmp_path / "unbroken"))
    assert whole.returncode == 0, whole.stderr
    unbroken = losses(rundir.find(tmp_path / "unbroken", None))
    assert len(unbroken) == 40
    argv = ["run", str(recipe), *SHORT, "--until", "train", "--mirror", URL]
    with background(argv) as viewer:
        until(lambda: rundir.every(rundir.root()) and newest().mirror.read().get("checkpoint"), REAL_S)
        run = newest()
        kill(run, viewer)
    start = run.mirror.read()["checkpoint"]
    before = losses(run)
    shutil.rmtree(rundir.root())
    shutil.rmtree(os.environ["AX_RECIPE_CACHE"])
    monkeypatch.setenv("AX_RECIPE_RUNS", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("AX_RECIPE_CACHE", str(tmp_path / "other-cache"))
    told = command("fetch", f"{URL}/{run.name}")
    assert "not possible" not in told.stdout, told.stdout
    there = RunDir(tmp_path / "elsewhere" / run.name)
    done = command("resume", "--until", "train")
    assert done.returncode == 0, done.stderr
    assert f"goes on from {start}" in there.read_state().stage("train").detail
    assert there.read_state().stage("base").attempt == 1
    assert {**before, **losses(there)} == pytest.approx(unbroken, rel=1e-3)
    assert listed(s3, run.name)["checkpoint"] == "checkpoint-40"
