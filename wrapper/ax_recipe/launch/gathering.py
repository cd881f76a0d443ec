"""The machines of one training: called together before it starts, looked after while it goes on, then dismissed."""

from __future__ import annotations

import contextlib
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ax_recipe import assets, process
from ax_recipe.errors import MissingError, ProgramFailedError, RunFailedError
from ax_recipe.forecast import bandwidth
from ax_recipe.forecast.bandwidth import Measured
from ax_recipe.launch.saying import note
from ax_recipe.recipe.recipe import is_local
from ax_recipe.run.rundir import RunDir, StageRecord

# A machine that says nothing for so long is lost (seconds); it says something every second while a disk is not full.
LOST_S = 60.0
# How long after one machine's failure the others may go on until they are ended: they have something to say, too.
ECHO_S = 10.0
# How long the others may take to save and leave once the head has.
LEAVE_S = 60.0
LOOK_S = 0.5
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15")


@dataclass(slots=True)
class _Node:
    """One machine as the head knows it; ``heard`` is when (monotonic) it last said something new."""

    number: int
    told: Mapping[str, Any] = field(default_factory=dict)
    heard: float = field(default_factory=time.monotonic)
    failed: float | None = None

    @property
    def code(self) -> int:
        """Its exit code; 0 while it has none."""
        return int(self.told.get("code") or 0)

    def __str__(self) -> str:
        host = self.told.get("host")
        return f"node {self.number} ({host})" if host else f"node {self.number}"


class Gathering:
    """The machines of one attempt at a training."""

    def __init__(
        self, run: RunDir, orders: Mapping[str, Any], record: StageRecord, yaml: str, *, measures: bool | None = None
    ) -> None:
        """Of the run's cluster; ``measures`` its network where it is left out and nothing is kept of that."""
        self.run, self.cluster, self._log = run, orders["cluster"], run.log(record.name, record.attempt)
        self._python = orders["axolotl"]["python"]
        self._each = max(1, int(orders["gpus"]))
        self._gpus = int(orders["gpus"])
        self._nodes = [_Node(number) for number in range(self.cluster["nodes"])]
        self._children: dict[int, process.Child] = {}
        self._gone, self._looked = False, 0.0
        self.network: Measured | None = None
        self.fault = ""  # why there is none
        self._measures = not bandwidth.kept(self.cluster, self._gpus) if measures is None else measures
        self._until = time.monotonic() + self.cluster["wait_s"]
        self._meeting = {
            "attempt": record.attempt,
            "id": f"{run.name}.{record.attempt}",
            "nodes": len(self._nodes),
            "each": self._each,
            "head": self.cluster["head"] or socket.gethostname(),
            "port": self.cluster["port"],
            "yaml": yaml,
            "log": str(self._log),
            "paths": paths(run, orders),
            "measure": False,
            "go": False,
            "over": False,
            "dismissed": False,
        }

    def call(self) -> None:
        """Say where and for what to meet; start the others where ssh does."""
        self.run.nodes.mkdir(exist_ok=True)
        for path in self.run.nodes.glob("[0-9]*.json"):
            path.unlink()
        self._say()
        if self.cluster["launcher"] != "torchrun":
            return
        for number, host in enumerate(self.cluster["hosts"], 1):
            command = shlex.join([*by_hand(self.run, self._python, number), "--once"])
            log = self._log.with_suffix(f".node{number}.log")
            self._children[number] = process.start([*_SSH, host, command], {}, log)

    def look(self, *, at_once: bool = False) -> None:
        """See how they are, once in a while or ``at_once``: let them go when all have come.

        :raises MissingError: they cannot train together.
        :raises ProgramFailedError: one has failed.
        :raises RunFailedError: one was lost.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_S and not at_once:
            return
        self._looked = now
        for node in self._nodes:
            self._hear(node, now)
        if self._gone:
            self._look_after(now)
            return
        self._refuse_faults()
        if all(node.told for node in self._nodes) and all(node.told["port"] for node in self._nodes):
            self._refuse_differences()
            if not self._measures:
                self._gone = True
                self._say(go=True)
            elif not self._meeting["measure"]:
                self._say(measure=True)
            else:
                self._hear_measured(now)
        elif now > self._until:
            raise MissingError(*self._missing())

    def judge(self) -> None:
        """The head's program has ended with an error: name the machine that is gone, if that is why.

        :raises RunFailedError: one of the others is.
        """
        self.look(at_once=True)
        deadline, said = time.monotonic() + ECHO_S, {node.number: node.told for node in self._nodes}
        while self._gone and (silent := [each for each in self._at_work() if each.told == said[each.number]]):
            if time.monotonic() > deadline:
                raise RunFailedError(*self._lost(silent[0], ECHO_S))
            time.sleep(LOOK_S)
            for node in self._nodes:
                self._hear(node, time.monotonic())

    def dismiss(self, code: int | None) -> None:
        """End the attempt, where the head's program ended with ``code``: the others may save and leave first."""
        deadline = time.monotonic() + (LEAVE_S if code == 0 else ECHO_S)
        while self._gone and time.monotonic() < deadline and list(self._at_work()):
            time.sleep(LOOK_S)
            for node in self._nodes:
                self._hear(node, time.monotonic())
        self._say(over=True)
        for child in self._children.values():
            if child.wait(LOOK_S * 4) is None:
                child.stop(lambda: True)

    def leave(self) -> None:
        """Send all home before anything trains, and wait until they have heard it."""
        self._say(over=True, dismissed=True)
        deadline = time.monotonic() + ECHO_S
        while any(node.told.get("state") != "ended" for node in self._nodes) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
            for node in self._nodes:
                self._hear(node, time.monotonic())
        for child in self._children.values():
            child.stop(lambda: True)

    def _at_work(self) -> Iterator[_Node]:
        now = time.monotonic()
        return (n for n in self._nodes[1:] if n.told.get("state") != "ended" and now - n.heard < LOST_S)

    def _say(self, **values: bool) -> None:
        self._meeting |= values
        self.run.write_json(self.run.meeting, self._meeting)

    def _hear(self, node: _Node, now: float) -> None:
        with contextlib.suppress(MissingError):  # it has not come yet, or is being written
            told = self.run.read_json(self.run.nodes / f"{node.number}.json")
            if told.get("attempt") == self._meeting["attempt"] and told != node.told:
                node.told, node.heard = told, now

    def _refuse_faults(self) -> None:
        for node in self._nodes:
            if fault := node.told.get("fault"):
                hint = "--port names another" if "in use" in fault else "--head names it otherwise, --port opens one"
                raise MissingError(f"{node}: {fault}", hint)
        for number, child in self._children.items():
            if (code := child.exit_code()) is not None and not self._nodes[number].told:
                host = self.cluster["hosts"][number - 1]
                words = _last_line(self._log.with_suffix(f".node{number}.log"))
                hint = f"ssh -o BatchMode=yes {host} true must work without a password"
                raise MissingError(f"node {number} ({host}) did not start, exit code {code}: {words}", hint)

    def _refuse_differences(self) -> None:
        head = self._nodes[0]
        for node in self._nodes:
            if unseen := node.told["missing"]:
                hint = "what a recipe names must lie on a file system that every machine has, or on the hub"
                raise MissingError(f"{node} does not see {', '.join(unseen)}", hint)
            if node.told["gpus"] < self._gpus:
                raise MissingError(f"{node} has {node.told['gpus']} GPUs, not {self._gpus}", "--gpus N is for each")
            if differs := list(differing(head.told["versions"], node.told["versions"])):
                hint = "install the same versions on all: pip freeze on one, pip install -r on the others"
                raise MissingError(f"{node} has {', '.join(differs)}", hint)

    def _hear_measured(self, now: float) -> None:
        """Keep what was measured; that it could not be ends nothing, for training says more of that."""
        self._refuse_silent(now)
        told = [node.told["measured"] for node in self._nodes]
        if None in told:
            return
        self._measures = False
        faults = [f"{node}: {each['fault']}" for node, each in zip(self._nodes, told, strict=True) if "fault" in each]
        if faults:
            self.fault = f"the network could not be measured: {'; '.join(faults)}"
            # Not in torch's words: `diagnose` would take them for the training's.
            note(self._log, [f"the network could not be measured: {self.run.nodes}/network.0.log and the like say why"])
            return
        found = self.network = bandwidth.read(self.cluster, told[0])
        given = self.cluster["gbit"] if self.cluster["gbit_from"].startswith("as given") else 0.0
        note(self._log, [f"the network carries {found}"], "INFO")
        note(self._log, filter(None, [bandwidth.compared(found, given)]))
        try:
            bandwidth.keep(self.cluster, self._gpus, found)
        except OSError as error:
            note(self._log, [f"that is not kept for the next plan: {error}"])

    def _missing(self) -> tuple[str, str]:
        away = [node for node in self._nodes if not node.told.get("port")]
        names = ", ".join(map(str, away))
        hint = f"on each: {shlex.join(by_hand(self.run, self._python, away[0].number))}"
        waited = f"{self.cluster['wait_s']:.0f} s"
        return f"after {waited} there is nothing from {names}, or it does not see {self.run.path}", hint

    def _look_after(self, now: float) -> None:
        """A machine that is gone is named before the others wait for it for half an hour, as NCCL does."""
        for node in self._nodes:
            if node.code and node.failed is None:
                node.failed = now
            if node.failed is not None and now - node.failed > ECHO_S:
                log = self.run.node_logs("train", self._meeting["attempt"]).get(node.number, self._log)
                raise ProgramFailedError(f"{node} ended with exit code {node.code}", f"its log: {log}", node.code)
        self._refuse_silent(now)

    def _refuse_silent(self, now: float) -> None:
        for node in self._nodes:
            if node.told["state"] != "ended" and now - node.heard > LOST_S:
                raise RunFailedError(*self._lost(node, LOST_S))

    def _lost(self, node: _Node, seconds: float) -> tuple[str, str]:
        left = len(self._nodes) - 1
        hint = f"ax-recipe resume {self.run.word} waits for it, and --nodes {left} goes on with what is left"
        return f"{node} was lost: nothing was heard of it for {seconds:.0f} s", hint


def by_hand(run: RunDir, python: str, number: int) -> list[str]:
    """What is to be started on the machine of that number."""
    return [python, str(assets.probe("node.py")), str(run.path), str(number)]


def commands(run: RunDir, orders: Mapping[str, Any]) -> list[str]:
    """What a person starts on the other machines, one command each; nothing where we do it."""
    cluster = orders.get("cluster")
    if not cluster or cluster["launcher"] != "torchrun" or cluster["hosts"]:
        return []
    return [shlex.join(by_hand(run, orders["axolotl"]["python"], n)) for n in range(1, cluster["nodes"])]


def dismissed(run: RunDir) -> None:
    """Tell those that stay that there is no other attempt."""
    if run.meeting.is_file():
        run.write_json(run.meeting, {**run.read_json(run.meeting), "over": True, "dismissed": True})


def paths(run: RunDir, orders: Mapping[str, Any]) -> list[str]:
    """What every machine has to see: base and data where they are no hub ids, and the programs."""
    keys = run.read_yaml(run.axolotl_yaml)
    named = [keys["base_model"], *(row["path"] for key in ("datasets", "test_datasets") for row in keys.get(key) or [])]
    seen = [str(each) for each in named if is_local(str(each), Path()) or "://" in str(each)]
    return [*seen, orders["axolotl"]["command"], str(assets.probe("plugin"))]


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[str]:
    """What of the head's versions another machine has otherwise, in words."""
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            yield f"{name} {theirs.get(name, 'missing')} where the head has {ours.get(name, 'none')}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it says nothing"
