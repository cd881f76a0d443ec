"""What `ax-recipe watch` takes of one core, of a run that steps every second: `python benchmarks/watching.py`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import psutil
from replay import ROOT

from ax_recipe.observe.events import Began, Metrics, Step, to_json
from ax_recipe.run.rundir import RunDir, RunState, StageRecord

SECONDS = 40.0
WARM_S = 8.0  # imports and the first picture are not what a run of hours pays for


def write_a_step(run: RunDir, step: int) -> None:
    """What a training of one step a second leaves in a second."""
    now = time.time()
    values = {"loss": 2.0 / step, "grad_norm": 0.5, "learning_rate": 1e-4, "epoch": step / 500, "active_gib": 20.0}
    with run.events.open("a") as events:
        for event in (Step(step, 1000, time=now, exact=True), Metrics(values, step, now, exact=True)):
            events.write(to_json(event) + "\n")
    with run.log("train", 1).open("a") as log:
        log.write(f" {step}%|#         | {step}/1000 [00:{step % 60:02}<16:00,  1.00s/it]\r{values}\n")


def measure(run: RunDir) -> float:
    """The share of one core, as the kernel counts it, once the first picture is up."""
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (40, 120))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "TERM": "xterm-256color"}
    watcher = subprocess.Popen(
        [sys.executable, "-m", "ax_recipe", "watch", str(run.path)],
        stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True,
    )  # fmt: skip
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(parent, 1 << 16), b"")], daemon=True).start()
    process, used, step = psutil.Process(watcher.pid), 0.0, 0
    began = time.monotonic()
    while (passed := time.monotonic() - began) < WARM_S + SECONDS:
        step += 1
        write_a_step(run, step)
        time.sleep(1)
        if passed < WARM_S:
            used = sum(process.cpu_times()[:2])
            since = time.monotonic()
    share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - since)
    watcher.kill()
    watcher.wait()
    return share


def main() -> None:
    """Print the share for a run in a terminal of 120 columns and 40 lines."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder) / "pirate-20261122-101500")
        run.log("train", 1).parent.mkdir(parents=True)
        run.events.write_text(to_json(Began(1000, 1, 2, 4, 2.0, time.time(), exact=True)) + "\n")
        run.orders.write_text(json.dumps({"targets": {"loss": [0.5, 0.8]}, "stages": [], "gpus": 1}))
        run.write_state(RunState("pirate", (StageRecord("train", "running", attempt=1, started=time.time()),)))
        with run.held():
            print(f"{100 * measure(run):.2f} % of one core")


if __name__ == "__main__":
    main()
