"""How much CPU time the commands cost that must feel instant, in one table of medians.

python benchmarks/startup.py [REPEATS]
"""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("ax-recipe")
GOALS_S = {"--help": 0.2, "render pirate": 0.3, "list": 0.3, "status --help": 0.2}


def cpu_seconds(argv: list[str]) -> float:
    """User and system time of one run of ``argv``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def main() -> None:
    """Measure each command, interleaved, so that a slow moment of the machine meets them all."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times: dict[str, list[float]] = {name: [] for name in ("python", *GOALS_S)}
    for _ in range(repeats + 1):
        times["python"].append(cpu_seconds([sys.executable, "-c", "pass"]))
        for name in GOALS_S:
            times[name].append(cpu_seconds([str(COMMAND), *name.split()]))
    print(f"{platform.machine()}, python {platform.python_version()}, median of {repeats}, CPU seconds")
    for name, seconds in times.items():
        warm = seconds[1:]
        goal = f"  goal {GOALS_S[name]:.1f}" if name in GOALS_S else ""
        print(f"{name:<16}{statistics.median(warm):.3f}  (min {min(warm):.3f}, max {max(warm):.3f}){goal}")


if __name__ == "__main__":
    main()
