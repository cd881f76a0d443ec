"""What the dashboard costs the training: its speed with `ax-recipe watch` beside it, and without, in blocks by turns.

    python benchmarks/overhead.py [--pairs 10] [--block 20] [--keep FOLDER] RECIPE [OPTIONS OF ax-recipe run]

    python benchmarks/overhead.py pirate --gpus 1 --set train.micro_batch_size=2 --set train.global_batch_size=2
    python benchmarks/overhead.py --pairs 3 pirate-tiny --set train.num_epochs=40

One training, whose runner is on its own. Blocks of steps follow each other as off, on, on, off, off, on: a pair is two
neighbours, and what drifts slowly falls out. On is a real dashboard in a pseudo-terminal of 120 x 40, off is none at
all. The step in which it comes or goes belongs to no block. Times are those that the trainer's plugin wrote down.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pty
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from replay import ROOT

from ax_recipe.results import intervals
from ax_recipe.run.rundir import RunDir

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "TERM": "xterm-256color"}
OURS = [sys.executable, "-m", "ax_recipe"]
PICTURE = 2000  # bytes: no less than one whole picture
FIGURES: dict[str, Callable[[Sequence[float]], float]] = {"medians": median, "means": fmean}
WARM = 5  # steps: kernels are compiled in the first, memory is found in the next


@dataclass(frozen=True, slots=True)
class Step:
    """A step that was done, and when (unix seconds)."""

    number: int
    time: float


class Dashboard:
    """`ax-recipe watch` in a terminal of its own, while there is one."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.painted = 0
        self._there = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def turn(self, *, on: bool) -> None:
        """Start it, and wait for its first picture; or end it."""
        if on == bool(self._process):
            return
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            return
        parent, child = pty.openpty()
        termios.tcsetwinsize(child, (40, 120))
        self._there.clear()
        self._process = subprocess.Popen(
            [*OURS, "watch", str(self.run.path)], stdin=child, stdout=child, stderr=child,
            env=ENVIRONMENT, start_new_session=True,
        )  # fmt: skip
        os.close(child)
        threading.Thread(target=self._read, args=(parent,), daemon=True).start()
        if not self._there.wait(60):
            raise SystemExit("the dashboard painted nothing in a minute")

    def _read(self, terminal: int) -> None:
        painted = 0
        try:
            while data := os.read(terminal, 1 << 16):
                painted += len(data)
                self.painted += len(data)
                if painted > PICTURE:
                    self._there.set()
        except OSError:  # nobody writes to it any more
            os.close(terminal)


def steps(run: RunDir) -> Iterator[Step]:
    """The steps of the training as they come, until it ends."""
    while not run.events.exists():
        _alive(run)
        time.sleep(0.1)
    rest = ""
    with run.events.open(encoding="utf-8") as file:
        while True:
            ended = not run.is_alive()
            *lines, rest = (rest + file.read()).split("\n")
            for event in map(json.loads, lines):
                if event["event"] == "step":
                    yield Step(event["step"], event["time"])
            if ended:
                return
            time.sleep(0.05)


def block(coming: Iterator[Step], length: int) -> list[float]:
    """Seconds of each of ``length`` steps, the first of which began after now."""
    now = time.time()
    before = next(step for step in coming if step.time > now)
    times = []
    for _ in range(length):
        step = next(coming)
        times += [(step.time - before.time) / (step.number - before.number)] * (step.number - before.number)
        before = step
    return times


def measure(run: RunDir, pairs: int, length: int) -> Iterator[tuple[list[float], list[float]]]:
    """The step times of each pair of blocks, without and with the dashboard."""
    coming, dashboard = steps(run), Dashboard(run)
    try:
        for _ in range(WARM):
            next(coming)
        for pair in range(pairs):
            blocks = {}
            for on in (False, True) if pair % 2 == 0 else (True, False):
                dashboard.turn(on=on)
                painted = dashboard.painted
                blocks[on] = block(coming, length)
                if on and dashboard.painted == painted:
                    raise SystemExit("the dashboard stood still")
            yield blocks[False], blocks[True]
    except StopIteration:
        print("the training ended before the last pair")
    finally:
        dashboard.turn(on=False)


def start(words: Sequence[str], folder: Path) -> RunDir:
    """Begin a training; its runner goes on when the command that began it is gone."""
    argv = [*OURS, "run", *words, "--new", "--until", "train", "--runs", str(folder), "--json"]
    with (folder / "run.log").open("wb") as log:
        command = subprocess.Popen(argv, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    while not (found := list(folder.glob("*/state.json"))) or not RunDir(found[0].parent).is_alive():
        if command.poll() is not None:
            raise SystemExit((folder / "run.log").read_text())
        time.sleep(0.1)
    run = RunDir(found[0].parent)
    while not run.events.exists():
        _alive(run)
        time.sleep(0.1)
    command.kill()  # it is a viewer too
    command.wait()
    return run


def _alive(run: RunDir) -> None:
    if not run.is_alive():
        raise SystemExit(f"{run.path} ended before its first step")


def show(run: RunDir, pairs: int, length: int) -> None:
    """Print a row for each pair, and the mean of their ratios; Ctrl-C ends it with those that were measured."""
    head = ("off, median", "on, median", "off/on", "off, mean", "on, mean", "off/on")
    print(f"{'pair':>4}" + "".join(f"{word:>13}" for word in head))
    ratios: dict[str, list[float]] = {name: [] for name in FIGURES}
    try:
        for number, (off, on) in enumerate(measure(run, pairs, length), 1):
            row = [f"{number:>4}"]
            for found, figure in zip(ratios.values(), FIGURES.values(), strict=True):
                found.append(figure(off) / figure(on))
                row += [f"{figure(off):>11.4f} s", f"{figure(on):>11.4f} s", f"{found[-1]:>13.4f}"]
            print("".join(row), flush=True)
    except KeyboardInterrupt:
        print("stopped")
    for name, values in ratios.items():
        if values:
            mean = intervals.mean(values)
            print(f"throughput with it, by {name}: {mean.value:.4f} of without, 95 % {mean.low:.4f} to {mean.high:.4f}")


def main() -> None:
    """Begin a training, measure it, and stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--keep", type=Path, help="a folder for the run")
    told, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = told.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = start(words, folder)
        print(f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}, {' '.join(words)}")
        try:
            show(run, told.pairs, told.block)
        finally:
            subprocess.run([*OURS, "stop", str(run.path)], env=ENVIRONMENT, check=False)
            while run.is_alive():
                time.sleep(0.2)


if __name__ == "__main__":
    main()
