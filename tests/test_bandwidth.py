"""The rate of a network as it was measured: the formulas, what is kept, and what a plan makes of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.forecast import bandwidth, cluster, hardware, network
from ax_recipe.forecast.bandwidth import Measured
from ax_recipe.forecast.cluster import Cluster
from ax_recipe.forecast.hardware import USUAL_GBIT
from ax_recipe.forecast.settings import resolve
from ax_recipe.launch import earlier
from ax_recipe.plan import plan
from ax_recipe.recipe import recipe
from ax_recipe.run.rundir import RunDir
from conftest import Invoke

TWO = asdict(Cluster("torchrun", 2, ("b",), "a"))
TOLD = {"backend": "nccl", "ranks": 16, "bytes": 2**28, "seconds": [0.03, 0.02, 0.01]}
ADAPTER_BYTES = 167_772_160 * 4  # of r = 64 on every linear layer of Llama 3.1 8B


def measured(**otherwise: object) -> Measured:
    found = bandwidth.read(TWO, {**TOLD, **otherwise})
    bandwidth.keep(TWO, 8, found)
    return found


def test_a_ring_of_two_sends_each_byte_once() -> None:
    found = Measured("gloo", 2, 2, 10**9, (2.0,), 0.0, "a, b")
    assert found.bus(2.0) == pytest.approx(0.5)
    assert found.gbit == pytest.approx(4.0)


def test_a_ring_counts_all_its_processes() -> None:
    assert Measured("nccl", 2, 16, 10**9, (1.0,), 0.0, "a, b").bus(1.0) == pytest.approx(2 * 15 / 16)


@pytest.mark.parametrize(("nodes", "ranks"), [(2, 2), (2, 16), (64, 512)])
def test_what_took_so_long_is_foretold_to_take_so_long(nodes: int, ranks: int) -> None:
    shape = plan.shape_of(recipe.load("pirate"))
    assert shape
    found = Measured("nccl", nodes, ranks, ADAPTER_BYTES, (0.4, 0.1, 0.2), 0.0, "a, b")
    machines = hardware.over(hardware.parse(f"{ranks // nodes}xH200"), nodes, found.gbit, f"by {found}")
    settings = resolve({"adapter": "qlora", "lora_r": 64, "lora_target_linear": True}, machines, shape)
    assert network.traffic(shape, settings, machines).seconds == pytest.approx(0.2)
    guessed = replace(machines, gbit_from="as given")
    assert network.traffic(shape, settings, guessed).seconds == pytest.approx(0.2 / network.USABLE)


def test_what_was_measured_last_is_what_is_known() -> None:
    assert bandwidth.known(TWO, 8, None) == (USUAL_GBIT, "a guess: --bandwidth or --measure")
    measured(seconds=[1.0])
    found = measured()
    assert bandwidth.known(TWO, 8, None) == (found.gbit, f"by {found}")
    assert "25.2 GB/s of bus bandwidth (16.8 to 50.3) between a, b, measured 20" in str(found)
    assert "(3 all-reduces of 256 MiB over 16 processes, nccl)" in str(found)


@pytest.mark.parametrize("other", [{"hosts": ("c",)}, {"hosts": (), "nodes": 3}, {"launcher": "slurm"}])
def test_it_holds_for_these_machines_alone(other: dict[str, Any]) -> None:
    measured()
    assert bandwidth.kept({**TWO, **other}, 8) is None
    assert bandwidth.kept(TWO, 0) is None
    assert bandwidth.kept({**TWO, "port": 9, "wait_s": 1.0}, 8)


def test_machines_are_named_as_far_as_they_are_known() -> None:
    named = [
        Cluster("torchrun", 3, ("b", "c"), "a"),
        Cluster("torchrun", 3, (), "a"),
        Cluster("slurm", 2, options=("time=1:00", "partition=gpu")),
        Cluster("ray", 2, address="a:6379"),
    ]
    assert [bandwidth.between(asdict(each)) for each in named] == [
        "a, b, c",
        "a and 2 beside it",
        "2 machines of Slurm with partition=gpu",
        "2 machines of Ray a:6379",
    ]


def test_what_is_given_counts_and_is_doubted_where_little_of_it_was_reached() -> None:
    measured()  # 201 Gbit/s on the wire
    assert bandwidth.known(TWO, 8, 400) == (400, "as given")
    gbit, words = bandwidth.known(TWO, 8, 3200)
    assert gbit == 3200
    assert words.startswith("as given; 201 of 3200 Gbit/s were reached (which network is taken: NCCL_")


def test_a_torn_note_is_none(tmp_path: Path) -> None:
    measured()
    (tmp_path / "cache/networks.json").write_text("{")
    assert bandwidth.kept(TWO, 8) is None
    measured()
    assert bandwidth.kept(TWO, 8)


def test_a_note_of_another_version_is_none(tmp_path: Path) -> None:
    measured()
    file = tmp_path / "cache" / "networks.json"
    (key,) = notes = json.loads(file.read_text())
    for value in ({**notes[key], "hops": 3}, {"backend": "nccl"}, 7):
        file.write_text(json.dumps({key: value}))
        assert bandwidth.kept(TWO, 8) is None


def test_a_plan_says_that_it_was_measured(invoke: Invoke) -> None:
    measured()
    argv = ("plan", "pirate", "--gpus", "8xH200", "--hosts", "b", "--head", "a")
    told = json.loads(invoke(*argv, "--json").output)["network"]
    assert told["gbit"] == pytest.approx(2**28 / 0.02 * 8 / 1e9)
    assert told["gbit_from"].startswith("by 25.2 GB/s")
    assert "its rate: by 25.2 GB/s of bus bandwidth" in " ".join(invoke(*argv).output.split())


@pytest.mark.parametrize("options", [(), ("--nodes", "1"), ("--nodes", "2", "--launcher", "ray")])
def test_where_nothing_can_be_measured_it_is_said(invoke: Invoke, fake_axolotl: Path, options: tuple[str, ...]) -> None:
    done = invoke("plan", "pirate-tiny", "--measure", *options)
    assert done.exit_code == 2
    assert "--measure is for several machines, of torchrun or Slurm" in done.output


def test_a_measurement_makes_no_other_run_of_the_same_command(tmp_path: Path) -> None:
    def orders(gbit: float, source: str, step: float) -> str:
        told = {**TWO, "gbit": gbit, "gbit_from": source}
        return json.dumps({"cluster": told, "foretold": {"step_seconds": step}, "stages": []})

    run = RunDir(tmp_path)
    before, after = (earlier._bare("plan.json", text, run) for text in (orders(100, "", 2), orders(90, "by", 3)))
    assert before == after


def test_one_machine_has_no_network() -> None:
    assert cluster.spread(hardware.CPU, None) == hardware.CPU
