"""Real engines over several machines, all of them on this one: torchrun on loopback, a Slurm, a Ray cluster.

Each part is skipped with its reason where the machine has not what it takes; ``make far`` says what that is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

import slurm_cluster
from ax_recipe import assets
from ax_recipe.axolotl import Axolotl
from ax_recipe.launch import gathering
from ax_recipe.run import rundir
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import checkpoints
from conftest import ROOT, Started, installed_axolotl
from test_runner import Command, background, newest, until

pytestmark = pytest.mark.slow
DEADLINE_S = 400.0  # Axolotl is imported more than once, and asked about the config before there is a run
MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
STEPS = 3
RECIPE = """
base: ./base
gpus: 0
method: lora
chat_template: llama3
data: [{path: rows.jsonl, type: chat_template}]
val_set_size: 0
lora: {r: 4, alpha: 8, dropout: 0}
train: {max_steps: 3, global_batch_size: 4, sequence_len: 64, learning_rate: 1e-2, sample_packing: false, seed: 42}
axolotl: {reinit_weights: true}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its rows, and an untrained base of a few thousand weights."""
    folder = tmp_path_factory.mktemp("far")
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "aye " * (n % 7 + 1)}]}
        for n in range(40)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "tiny.yaml").write_text(RECIPE)
    scratch = {"vocab_size": 300, "model": {**MODEL, "num_key_value_heads": 2, "max_position_embeddings": 128}}
    plan = {"base": str(folder), "scratch": scratch, "texts": [{"path": str(folder / "rows.jsonl")}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    found = installed_axolotl()
    if found:
        subprocess.run([found.with_name("python"), assets.probe("tiny_base.py"), folder / "plan.json"], check=True)
        (folder / "untrained").rename(folder / "base")
    return folder


def started(place: Path, *options: str, **environment: str) -> Started:
    argv = ["run", str(place / "tiny.yaml"), "--new", "--until", "train", *options]
    return background(argv, AX_RECIPE_AXOLOTL=str(installed_axolotl()), HF_HUB_OFFLINE="1", **environment)


def losses(run: RunDir) -> list[float]:
    """The training loss of each step, with all its digits."""
    told = [json.loads(line) for line in run.events.read_text().splitlines() if line]
    return [each["values"]["loss"] for each in told if each["event"] == "metrics"]


def world(run: RunDir) -> int:
    told: list[dict[str, Any]] = [json.loads(line) for line in run.events.read_text().splitlines() if line]
    return next(int(each["world_size"]) for each in told if each["event"] == "began")


def ended(run: RunDir) -> str:
    return f"{run.read_state().stage('train').detail}\n{run.log('train', 1).read_text(errors='replace')[-4000:]}"


@pytest.fixture
def alone(place: Path) -> RunDir:
    """The same training on one machine."""
    with started(place) as viewer:
        assert viewer.wait(DEADLINE_S) == 0, ended(newest())
    return newest()


@pytest.mark.axolotl
def test_two_machines_of_torchrun_learn_what_one_does(place: Path, alone: RunDir) -> None:
    with started(place, "--nodes", "2", "--head", "127.0.0.1") as viewer:
        until(lambda: len(rundir.every(rundir.root())) == 2, DEADLINE_S)
        run = newest()
        (command,) = gathering.commands(run, run.read_json(run.orders))
        with Started(command.split(), env={**os.environ, "HF_HUB_OFFLINE": "1"}) as other:
            assert viewer.wait(DEADLINE_S) == 0, ended(run)
            assert other.wait(60) == 0
    assert world(run) == 2
    assert len(losses(run)) == STEPS
    assert losses(run) == pytest.approx(losses(alone), rel=1e-4)
    assert "the network carries " in run.log("train", 1).read_text()


@pytest.mark.axolotl
def test_the_network_between_two_machines_is_measured_and_planned_by(
    command: Command, place: Path, tmp_path: Path
) -> None:
    verb = [
        "plan",
        str(place / "tiny.yaml"),
        "--nodes",
        "2",
        "--head",
        "127.0.0.1",
        "--axolotl",
        str(installed_axolotl()),
    ]
    argv, said = [sys.executable, "-m", "ax_recipe", *verb, "--measure"], tmp_path / "said"
    told = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "HF_HUB_OFFLINE": "1"}
    with said.open("w") as words, Started(argv, env=told, stdout=words, stderr=words) as head:
        until(lambda: re.search("on node 1: .*\n", said.read_text()), DEADLINE_S)
        other = said.read_text().partition("on node 1: ")[2].splitlines()[0]
        assert subprocess.run(other.split(), env=told, check=False).returncode == 0
        assert head.wait(DEADLINE_S) == 0, said.read_text()
    assert "GB/s of bus bandwidth (" in said.read_text()
    assert not list(rundir.root().iterdir())
    network = json.loads(command(*verb, "--json").stdout)["network"]
    assert network["gbit_from"].startswith("by ")
    assert "over 2 processes, gloo)" in network["gbit_from"]
    assert network["gbit"] > 0


@pytest.mark.axolotl
def test_what_is_left_of_two_machines_goes_on_to_the_same_loss(command: Command, place: Path) -> None:
    with started(place, "--nodes", "2", "--head", "127.0.0.1", "--set", "train.saves_per_epoch=10") as viewer:
        until(lambda: rundir.every(rundir.root()), DEADLINE_S)
        run = newest()
        (other,) = gathering.commands(run, run.read_json(run.orders))
        with Started(other.split(), env={**os.environ, "HF_HUB_OFFLINE": "1"}):
            assert viewer.wait(DEADLINE_S) == 0, ended(run)
    whole = losses(run)
    shutil.rmtree(run.output / "checkpoint-3")
    (run.output / "adapter_model.safetensors").unlink()
    done = command("resume", "--nodes", "1", "--until", "train", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(losses(run)) == STEPS + 1
    assert losses(run)[-1] == pytest.approx(whole[-1], rel=1e-4)


@pytest.fixture
def ray() -> Iterator[str]:
    """The address of a Ray cluster of two machines with one CPU each."""
    found = installed_axolotl()
    if not found or not Axolotl(found, found.with_name("python"), "").has("ray"):
        pytest.skip("no Ray beside Axolotl: pip install -e '.[ray]'")
    argv = [str(found.with_name("python")), str(ROOT / "tests/bin/ray_cluster")]
    with Started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cluster:
        assert cluster.stdin
        assert cluster.stdout
        yield next(line.decode().strip() for line in cluster.stdout if line[:1].isdigit())
        cluster.stdin.close()
        cluster.wait(60)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Slurm of two nodes."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    (tmp_path / "slurm").mkdir()
    with slurm_cluster.slurm(tmp_path / "slurm") as config:
        monkeypatch.setenv("SLURM_CONF", str(config))
        yield


@pytest.mark.axolotl
def test_two_machines_of_ray_learn_what_one_does(place: Path, ray: str, alone: RunDir) -> None:
    with started(place, "--nodes", "2", "--ray-address", ray) as viewer:
        assert viewer.wait(DEADLINE_S) == 0, ended(newest())
    run = newest()
    assert run.path != alone.path
    assert world(run) == 2
    assert len(losses(run)) == STEPS
    assert losses(run) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.axolotl
def test_a_ray_cluster_that_is_too_small_says_what_it_has(command: Command, place: Path, ray: str) -> None:
    axolotl = str(installed_axolotl())
    options = ("--new", "--axolotl", axolotl, "--ray-address", ray, "--force")
    done = command("run", str(place / "tiny.yaml"), *options, "--nodes", "4")
    assert done.returncode == 3
    assert "has 2 CPUs in all, and 4 are wanted" in done.stderr


@pytest.mark.axolotl
def test_a_ray_head_that_does_not_answer_is_named(command: Command, place: Path, ray: str) -> None:
    axolotl = str(installed_axolotl())
    done = command("run", str(place / "tiny.yaml"), "--new", "--axolotl", axolotl, "--ray-address", "127.0.0.1:9")
    assert done.returncode == 3
    assert "127.0.0.1:9 does not answer" in done.stderr


def test_ray_that_is_not_installed_names_the_extra(command: Command, small_recipe: Path, fake_axolotl: Path) -> None:
    done = command("run", str(small_recipe), "--nodes", "2", "--launcher", "ray")
    assert done.returncode == 3
    assert "pip install 'axolotl[ray]>=0.19'" in done.stderr


@pytest.mark.axolotl
@pytest.mark.parametrize("launcher", ["torchrun", "ray"])
def test_a_stop_ends_in_a_whole_checkpoint_of_all_machines(
    command: Command, place: Path, launcher: str, request: pytest.FixtureRequest
) -> None:
    where = ("--head", "127.0.0.1") if launcher == "torchrun" else ("--ray-address", request.getfixturevalue("ray"))
    with started(place, "--nodes", "2", *where, "--set", "train.max_steps=100000") as viewer:
        until(lambda: rundir.every(rundir.root()), DEADLINE_S)
        run = newest()
        with ExitStack() as starting:
            others = [
                starting.enter_context(Started(each.split(), env={**os.environ, "HF_HUB_OFFLINE": "1"}))
                for each in gathering.commands(run, run.read_json(run.orders))
            ]
            until(lambda: run.events.is_file() and '"metrics"' in run.events.read_text(), DEADLINE_S)
            assert command("stop").returncode == 0
            assert viewer.wait(DEADLINE_S) == 130
            assert [other.wait(60) for other in others] == [0] * len(others)
    assert "is whole" in run.read_state().stage("train").detail
    assert checkpoints.newest(run.output, 2)


@pytest.mark.axolotl
def test_a_slurm_job_of_two_nodes_learns_what_one_machine_does(place: Path, slurm: None, alone: RunDir) -> None:
    with started(place, "--nodes", "2", "--launcher", "slurm") as viewer:
        assert viewer.wait(DEADLINE_S) == 0, ended(newest())
    run = newest()
    assert run.job.number
    assert world(run) == 2
    assert losses(run) == pytest.approx(losses(alone), rel=1e-4)


@pytest.mark.axolotl
def test_a_machine_that_vanishes_is_named(place: Path) -> None:
    with started(place, "--nodes", "2", "--head", "127.0.0.1", "--set", "train.max_steps=100000") as viewer:
        until(lambda: rundir.every(rundir.root()), DEADLINE_S)
        run = newest()
        (command,) = gathering.commands(run, run.read_json(run.orders))
        with Started(command.split(), env={**os.environ, "HF_HUB_OFFLINE": "1"}) as other:
            until(lambda: run.events.is_file() and '"metrics"' in run.events.read_text(), DEADLINE_S)
            tree = [psutil.Process(other.pid), *psutil.Process(other.pid).children(recursive=True)]
            assert len(tree) >= 3  # torchrun and its process
            for process in tree:
                process.kill()
        assert viewer.wait(DEADLINE_S) == 1
    assert "node 1 (" in run.read_state().stage("train").detail
    assert "was lost" in run.read_state().stage("train").detail
