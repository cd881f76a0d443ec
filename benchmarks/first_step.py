"""Where a run spends its time before its first step: `ax-recipe run pirate-tiny` beside bare `axolotl train`.

    python benchmarks/first_step.py [REPEATS]

Both train the same YAML with tokenised data at hand; bare Axolotl starts as it does by default, through accelerate.
Its telemetry is off here too: on a machine without internet it would not end.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

BIN = Path(sys.executable).parent
OURS = [str(BIN / "ax-recipe"), "run", "pirate-tiny", "--new", "--until", "train", "--json"]


def seconds_to(argv: list[str], is_first_step: Callable[[str], bool], environment: dict[str, str]) -> float:
    """Start ``argv`` and wait for the line that tells of the first step; then end the whole tree."""
    started = time.monotonic()
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    if child.stdout is None:
        raise SystemExit("no output to read")
    for line in child.stdout:
        if is_first_step(line):
            break
    else:
        raise SystemExit(f"{argv[0]} ended before its first step")
    taken = time.monotonic() - started
    for process in psutil.Process(child.pid).children(recursive=True):
        process.send_signal(signal.SIGKILL)
    child.kill()
    child.wait()
    return taken


class FineTuningStep:
    """Tells our event line of the first step of the fine-tuning from those of other stages."""

    def __init__(self) -> None:
        self.stage = ""

    def __call__(self, line: str) -> bool:
        """Whether ``line`` is that event."""
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "stage_started":
            self.stage = event["stage"]
        return self.stage == "train" and event.get("event") == "step" and event["step"] >= 1


def main() -> None:
    """Measure both in turn and print medians and their ratio."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as folder:
        path = os.pathsep.join((str(BIN), os.environ["PATH"]))  # bare axolotl starts accelerate by its bare name
        environment = {"PATH": path, "AX_RECIPE_RUNS": folder, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        subprocess.run(OURS, check=True, capture_output=True, env={**os.environ, **environment})  # makes the base
        config = max(Path(folder).glob("*/axolotl.yaml"))
        bare_yaml = Path(folder) / "bare.yaml"
        keys = yaml.safe_load(config.read_text(encoding="utf-8"))
        del keys["plugins"]  # ours
        bare_yaml.write_text(yaml.safe_dump(keys | {"output_dir": f"{folder}/bare"}), encoding="utf-8")
        ours: list[float] = []
        bare: list[float] = []
        for _ in range(repeats):
            ours.append(seconds_to(OURS, FineTuningStep(), environment))
            subprocess.run([str(BIN / "ax-recipe"), "stop"], check=True, env={**os.environ, **environment})
            argv = [str(BIN / "axolotl"), "train", str(bare_yaml)]
            bare.append(seconds_to(argv, lambda line: "'loss'" in line, environment))
    for name, values in (("ax-recipe run", ours), ("axolotl train", bare)):
        print(
            f"{name:<14}{statistics.median(values):6.1f} s to the first step  ({min(values):.1f} to {max(values):.1f})"
        )
    print(f"ratio         {statistics.median(ours) / statistics.median(bare):6.2f}")


if __name__ == "__main__":
    main()
