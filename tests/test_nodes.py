"""Several machines for one training, each a process here: how they meet, what is refused, and what a lost one does."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from ax_recipe.cli import program
from ax_recipe.errors import RecipeError, RunFailedError
from ax_recipe.forecast import bandwidth, cluster
from ax_recipe.forecast.cluster import Cluster
from ax_recipe.launch import gathering
from ax_recipe.launch.gathering import Gathering
from ax_recipe.run import belonging, rundir
from ax_recipe.run.rundir import RunDir, StageRecord
from ax_recipe.verbs import regrouping
from conftest import ROOT, Started
from test_runner import Command, background, newest, states, until
from test_survive import OOM_LOG

DEADLINE_S = 60.0


def two(*options: str) -> list[str]:
    return ["run", "small.yaml", "--until", "train", "--nodes", "2", "--head", "127.0.0.1", *options]


@pytest.fixture
def here(small_recipe: Path, fake_axolotl: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(small_recipe.parent)
    return small_recipe.parent


def by_hand(run: RunDir, **environment: str) -> Started:
    """The command that is printed for node 1, given."""
    (command,) = gathering.commands(run, run.read_json(run.orders))
    return Started(command.split(), stdout=subprocess.DEVNULL, env={**os.environ, **environment})


def trained(*options: str, mode: str = "ok", **environment: str) -> tuple[int, RunDir]:
    """Train on two machines, the second started by hand; give the exit code."""
    with background(two(*options), FAKE_AXOLOTL=mode) as viewer:
        until(lambda: rundir.every(rundir.root()))
        with by_hand(newest(), FAKE_AXOLOTL=mode, **environment):
            return viewer.wait(DEADLINE_S), newest()


@pytest.mark.slow
def test_two_machines_train_one_run(here: Path) -> None:
    code, run = trained()
    assert code == 0, run.log("train", 1).read_text()
    told = run.read_json(run.nodes / "1.json")
    assert (told["state"], told["code"], told["missing"]) == ("ended", 0, [])
    assert "a word from machine 1" in run.node_logs("train", 1)[1].read_text()
    assert run.ranks == (2,)


@pytest.mark.slow
def test_a_run_is_done_again_on_the_machines_that_are_said(command: Command, here: Path) -> None:
    assert command("run", "small.yaml", "--until", "train", cwd=here).returncode == 0
    first, argv = newest(), ["reproduce", "--nodes", "2", "--head", "127.0.0.1"]
    shown = command(*argv, "--dry-run", cwd=here)
    assert shown.returncode == 0, shown.stderr
    assert "it trained on 1 machine, and now on 2 machines" in shown.stderr
    assert "on node 1: " in shown.stderr
    with background(argv) as viewer:
        until(lambda: newest().name != first.name and newest().lock.path.exists())
        with by_hand(newest()):
            viewer.wait(DEADLINE_S)
    assert newest().read_state().stage("train").state == "done"
    assert newest().ranks == (2,)


def test_each_machine_gets_its_exact_command(here: Path) -> None:
    argv = _node().argv("axolotl", {"nodes": 3, "each": 8, "head": "a", "id": "r.1", "yaml": "c.yaml"}, 2, 29500)
    assert " ".join(argv) == (
        "axolotl train c.yaml --launcher torchrun -- --nnodes=3 --node_rank=2 --nproc_per_node=8"
        " --master_addr=a --master_port=29500 --rdzv_id=r.1"
    )


def test_the_batch_of_a_step_is_kept(command: Command, here: Path) -> None:
    def rows(*options: str) -> tuple[int, int]:
        shown = command("run", "small.yaml", "--dry-run", *options, cwd=here)
        keys = dict(line.split(": ", 1) for line in shown.stdout.splitlines() if ": " in line and line[0].isalpha())
        return int(keys["micro_batch_size"]), int(keys["gradient_accumulation_steps"])

    one, several = rows(), rows("--nodes", "4")
    assert one[0] * one[1] == 4 * several[0] * several[1]


@pytest.mark.slow
def test_a_machine_that_does_not_come_is_named(command: Command, here: Path) -> None:
    done = command(*two("--wait-nodes", "1"), cwd=here)
    assert done.returncode == 1
    assert "nothing from node 1" in done.stderr
    assert "node.py" in done.stderr


@pytest.mark.slow
def test_a_machine_that_fails_is_named_and_ends_the_others(here: Path) -> None:
    code, run = trained(mode="lost-node")
    assert code == 1
    detail = run.read_state().stage("train").detail
    assert "node 1 (" in detail
    assert "bad-config (importing, node 1)" in detail
    assert "train.1.node1.log" in detail
    assert not belonging.processes(run)


@pytest.mark.slow
def test_a_machine_stays_for_the_next_attempt(here: Path) -> None:
    rows = ("--set", "train.global_batch_size=8", "--set", "train.micro_batch_size=2", "--on-oom", "retry")
    told = {"FAKE_AXOLOTL": "oom", "FAKE_LOG": str(OOM_LOG)}
    with background([*two(), *rows], **told) as viewer:
        until(lambda: rundir.every(rundir.root()))
        with by_hand(newest(), **told) as node:
            assert viewer.wait(DEADLINE_S) == 0
            assert node.wait(DEADLINE_S) == 0
    assert newest().read_state().stage("train").attempt == 2
    assert newest().node_logs("train", 2)[1].is_file()


@pytest.mark.slow
def test_other_versions_on_a_machine_are_refused(here: Path) -> None:
    other = here / "other/torch-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9\n")
    code, run = trained(PYTHONPATH=str(other.parent))
    assert code == 1
    assert "torch 9.9 where the head has" in run.read_state().stage("train").detail


@pytest.mark.slow
def test_a_port_in_use_is_refused(command: Command, here: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        done = command(*two("--port", str(port)), cwd=here)
    assert done.returncode == 1
    assert f"port {port} is in use" in done.stderr
    assert "--port names another" in done.stderr


@pytest.mark.slow
def test_a_head_that_cannot_be_reached_is_named(here: Path) -> None:
    with background([*two(), "--head", "head.invalid"], FAKE_AXOLOTL="ok") as viewer:
        until(lambda: rundir.every(rundir.root()))
        with by_hand(newest(), FAKE_AXOLOTL="ok"):
            assert viewer.wait(DEADLINE_S) == 1
    detail = newest().read_state().stage("train").detail
    assert "cannot reach the head at head.invalid:" in detail
    assert "--head names it otherwise" in detail


def test_a_machine_without_the_run_folder_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, str(ROOT / "wrapper/ax_recipe/probes/node.py"), str(tmp_path / "away"), "1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "shared file system" in done.stdout


@pytest.mark.slow
def test_a_stop_reaches_all_machines(command: Command, here: Path) -> None:
    with background(two(), FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()))
        with by_hand(newest(), FAKE_AXOLOTL="hang") as node:
            until(lambda: newest().node_logs("train", 1) and newest().events.exists())
            assert command("stop").returncode == 0
            assert viewer.wait(DEADLINE_S) == 130
            assert node.wait(DEADLINE_S) == 0
    assert states(newest())["train"] == "interrupted"


@pytest.mark.slow
def test_a_run_goes_on_with_what_is_left(command: Command, here: Path) -> None:
    with background(two(), FAKE_AXOLOTL="hang") as viewer:
        until(lambda: rundir.every(rundir.root()))
        with by_hand(newest(), FAKE_AXOLOTL="hang"):
            until(lambda: newest().events.exists())
            command("stop")
            assert viewer.wait(DEADLINE_S) == 130
    run = newest()
    rows = _rows(run)
    done = command("resume", "--nodes", "1", "--until", "train", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    assert "resume_from_checkpoint" in run.config("train", 2).read_text()
    assert run.ranks == (1, 2)
    assert states(run)["train"] == "done"
    assert math.prod(_rows(run)) == 2 * math.prod(rows)


@pytest.mark.slow
def test_a_run_goes_on_by_the_network_that_is_said(command: Command, here: Path) -> None:
    assert command(*two("--until", "preprocess"), FAKE_AXOLOTL="ok").returncode == 0
    done = command("resume", "--bandwidth", "25", "--until", "preprocess", FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    told = newest().read_json(newest().orders)["cluster"]
    assert (told["nodes"], told["gbit"], told["gbit_from"]) == (2, 25.0, "as given")


@pytest.mark.slow
@pytest.mark.parametrize("host", ["b", "c"])
def test_ssh_starts_the_others(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    ssh = here / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\n[ "$5" = b ] || { echo "no route to $5"; exit 255; }\nexec sh -c "$6"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}{os.pathsep}{os.environ['PATH']}")
    done = command(*two("--hosts", host), cwd=here, FAKE_AXOLOTL="ok")
    assert done.returncode == (0 if host == "b" else 1), done.stderr
    assert host == "b" or "node 1 (c) did not start, exit code 255: no route to c" in done.stderr


@pytest.fixture
def real_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh that knows a machine called b: this one, by a server of our own with keys of its own."""
    server = shutil.which("sshd", path="/usr/sbin:/sbin")
    client = shutil.which("ssh")
    if not server or not client or os.geteuid():
        pytest.skip("no sshd, or not root: apt-get install openssh-server")
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd insists on being at home
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    port = _free_port()
    known = f"AuthorizedKeysFile {tmp_path}/key.pub\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    (tmp_path / "sshd").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\n{known}"
    )
    ours = f"IdentityFile {tmp_path}/key\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    (tmp_path / "config").write_text(f"Host b\nHostName 127.0.0.1\nPort {port}\nUser root\n{ours}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(f'#!/bin/sh\nexec {client} -F {tmp_path}/config "$@"\n')
    (tmp_path / "bin/ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    with Started([server, "-D", "-f", tmp_path / "sshd"]):
        until(lambda: _answers(port))
        yield


@pytest.mark.slow
def test_a_real_ssh_starts_another_machine(real_ssh: None, command: Command, here: Path) -> None:
    done = command(*two("--hosts", "b"), cwd=here, FAKE_AXOLOTL="ok")
    assert done.returncode == 0, done.stderr
    assert newest().read_json(newest().nodes / "1.json")["code"] == 0
    assert "a word from machine 1" in newest().node_logs("train", 1)[1].read_text()


@pytest.mark.slow
def test_what_a_machine_does_not_see_is_named(command: Command, here: Path) -> None:
    recipe = (
        (here / "small.yaml")
        .read_text()
        .replace("data: [{path: rows.jsonl,", "data: [{path: s3://bucket/rows.jsonl,", 1)
    )
    (here / "small.yaml").write_text(recipe)
    with background(two(), FAKE_AXOLOTL="ok") as viewer:
        until(lambda: rundir.every(rundir.root()))
        with by_hand(newest(), FAKE_AXOLOTL="ok"):
            assert viewer.wait(DEADLINE_S) == 1
    assert "does not see s3://bucket/rows.jsonl (" in newest().read_state().stage("train").detail


def test_a_machine_that_falls_silent_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gathered(tmp_path)
    found.look()
    assert found.run.read_json(found.run.meeting)["go"]
    monkeypatch.setattr(gathering, "LOST_S", -1.0)
    with pytest.raises(RunFailedError, match=r"node 0 \(a\) was lost") as caught:
        found.look(at_once=True)
    assert "--nodes 1 goes on with what is left" in str(caught.value)


def test_a_machine_that_can_tell_nothing_any_more_leaves_nothing_running(tmp_path: Path) -> None:
    stages = [{"name": "train", "environment": {}}]
    (tmp_path / "plan.json").write_text(json.dumps({"axolotl": {"command": "axolotl"}, "stages": stages}))
    with pytest.raises(FileNotFoundError):  # the folder in which it speaks is gone
        _node().Node(tmp_path, 1)._beside(["sleep", "60"], None, {})
    assert belonging.processes(RunDir(tmp_path)) == []


def meeting(found: Gathering) -> dict[str, Any]:
    found.look(at_once=True)
    value: dict[str, Any] = found.run.read_json(found.run.meeting)
    return value


def test_the_network_is_measured_before_they_go_and_kept(tmp_path: Path) -> None:
    found = gathered(tmp_path, measures=True)
    assert (meeting(found)["measure"], meeting(found)["go"]) == (True, False)
    told(found, 0, measured={"backend": "gloo", "ranks": 2, "bytes": 2**26, "seconds": [0.2, 0.1, 0.1]})
    assert not meeting(found)["go"]
    told(found, 1, measured={})
    meeting(found)
    assert meeting(found)["go"]
    kept = bandwidth.kept(found.cluster, 0)
    assert kept
    assert kept.seconds == (0.2, 0.1, 0.1)
    log = found.run.log("train", 2).read_text()
    assert "[INFO] [ax_recipe.launch.runner] the network carries 0.671 GB/s of bus bandwidth (0.336 to 0.671)" in log
    assert "[WARNING] [ax_recipe.launch.runner] 5.37 of 400 Gbit/s were reached (which network is taken: GLOO_" in log


def test_a_network_that_cannot_be_measured_keeps_nobody_from_training(tmp_path: Path) -> None:
    found = gathered(tmp_path, measures=True)
    meeting(found)
    for number in range(2):
        told(found, number, measured={"fault": "ModuleNotFoundError: No module named 'torch'"})
    meeting(found)
    assert meeting(found)["go"]
    assert "No module named 'torch'" in found.fault
    log = found.run.log("train", 2).read_text()
    assert "the network could not be measured" in log
    assert "ModuleNotFoundError" not in log  # diagnose would take it for the training's


@pytest.mark.slow
def test_to_measure_they_come_together_and_leave_nothing(here: Path) -> None:
    """With a torch that cannot be imported: what both say of that comes back."""
    said = here / "said"
    argv = [sys.executable, "-m", "ax_recipe", "plan", "small.yaml", "--nodes", "2", "--head", "127.0.0.1", "--measure"]
    environment = {**os.environ, "PYTHONPATH": f"{broken_torch(here)}{os.pathsep}{ROOT / 'wrapper'}"}
    with said.open("w") as words, Started(argv, env=environment, stdout=words, stderr=words) as head:
        until(lambda: re.search("on node 1: .*\n", said.read_text()))
        other = said.read_text().partition("on node 1: ")[2].splitlines()[0]
        assert subprocess.run(other.split(), env=environment, check=False).returncode == 0
        assert head.wait(DEADLINE_S) == 3, said.read_text()
    assert said.read_text().count("it is broken") == 2
    assert "the network could not be measured: node 0 (" in said.read_text()
    assert not list(rundir.root().iterdir())


def test_a_machine_that_falls_silent_while_it_measures_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gathered(tmp_path, measures=True)
    meeting(found)
    monkeypatch.setattr(gathering, "LOST_S", -1.0)
    with pytest.raises(RunFailedError, match=r"node 0 \(a\) was lost"):
        found.look(at_once=True)


def test_a_head_that_fails_because_a_machine_is_gone_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = gathered(tmp_path)
    found.look()
    monkeypatch.setattr(gathering, "ECHO_S", -1.0)
    with pytest.raises(RunFailedError, match=r"node 1 \(b\) was lost"):
        found.judge()


def test_a_machine_that_is_none_of_the_attempt_does_not_count(tmp_path: Path) -> None:
    found = gathered(tmp_path, attempt=1)
    found.look()
    assert not found.run.read_json(found.run.meeting)["go"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"hosts": "b,b"}, "more than once"),
        ({"hosts": "-oProxyCommand=x"}, "no name of a machine"),
        ({"hosts": "b,c", "nodes": 2}, "names 3"),
        ({"hosts": "b", "launcher": "ray"}, "--hosts is for --launcher torchrun"),
        ({"slurm": "partition=x", "launcher": "torchrun"}, "--slurm is for --launcher slurm"),
        ({"slurm": "partition=x\n#SBATCH --uid=0"}, "no option of sbatch"),
    ],
)
def test_what_contradicts_itself_is_refused(told: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        cluster.asked(**told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "nodes", "hosts"),
    [
        ({"nodes": 1}, 1, None),
        ({"nodes": 2}, 2, ()),
        ({"hosts": "b,d"}, 3, ("b", "d")),
        ({"hosts": "d"}, 2, ("d",)),
        ({"port": 29500}, 3, ("b", "c")),
        ({"launcher": "slurm"}, 3, ()),
    ],
)
def test_who_goes_on_is_said_anew(told: dict[str, Any], nodes: int, hosts: tuple[str, ...] | None) -> None:
    before = {**asdict(Cluster("torchrun", 3, ("b", "c"), "a")), "gbit": 100.0}
    found = cluster.asked(**regrouping.options(before, told))
    assert (found.nodes if found else 1) == nodes
    assert (found.hosts if found else None) == hosts


def test_the_command_knows_every_launcher() -> None:
    assert program.LAUNCHERS == cluster.LAUNCHERS


def test_one_machine_is_the_default() -> None:
    assert cluster.asked() is None
    assert cluster.asked(nodes=1) is None
    assert cluster.asked(hosts="b, c", head="a") == Cluster("torchrun", 3, ("b", "c"), "a")


def broken_torch(folder: Path) -> Path:
    """Where python finds a torch before any other."""
    (folder / "broken/torch").mkdir(parents=True)
    (folder / "broken/torch/__init__.py").write_text("raise ImportError('it is broken')")
    return folder / "broken"


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def gathered(folder: Path, attempt: int = 2, *, measures: bool = False) -> Gathering:
    """The second attempt of a training on two machines, both of which say that they came for ``attempt``."""
    run = RunDir(folder)
    run.axolotl_yaml.write_text("base_model: a/b\ndatasets: []\n")
    nodes = {
        "launcher": "torchrun",
        "nodes": 2,
        "hosts": [],
        "head": "a",
        "port": 0,
        "wait_s": 9,
        "gbit": 400.0,
        "gbit_from": "as given",
    }
    orders = {"cluster": nodes, "gpus": 0, "axolotl": {"python": "python", "command": "axolotl"}}
    (run.path / "logs").mkdir()
    found = Gathering(run, orders, StageRecord("train", "running", attempt=2), "c.yaml", measures=measures)
    found.call()
    for number in range(2):
        told(found, number, attempt=attempt)
    return found


def told(found: Gathering, number: int, **values: object) -> None:
    """What a machine says next."""
    usual = {"attempt": 2, "state": "waits", "port": 9, "missing": [], "gpus": 0, "versions": {}, "code": None}
    words = {**usual, "fault": "", "measured": None, "host": "ab"[number], **values}
    found.run.write_json(found.run.nodes / f"{number}.json", words)


def _rows(run: RunDir) -> tuple[int, int]:
    """Of a step, as each process has them: the micro-batch, and how often."""
    keys = yaml.safe_load(run.axolotl_yaml.read_text())
    return keys["micro_batch_size"], keys["gradient_accumulation_steps"]


def _node() -> Any:
    spec = importlib.util.spec_from_file_location("node", ROOT / "wrapper/ax_recipe/probes/node.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
