"""Seconds and peak memory of replaying 100 MB of real log, from a cold start: ``python benchmarks/replay.py``."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG = ROOT / "tests" / "logs" / "axolotl-0.19.0-4gpu-ok.log"
MEGABYTES = 100
CHILD = (
    "import sys; from pathlib import Path; from ax_recipe.observe.replay import replay; s = replay(Path(sys.argv[1]));"
)
CHILD += " print(s.status, s.step, s.losses.last)"


def long_log(path: Path) -> int:
    """Write a run of about ``MEGABYTES`` by repeating the steps of a real one with growing numbers; the last step."""
    text = LOG.read_bytes()
    start, end = (match.start() for match in list(re.finditer(rb"\r +\d+%\|[^|]*\| [12]/20 \[", text))[:3:2])
    body = text[start:end]
    copies = MEGABYTES * 1_000_000 // len(body)
    bar = re.compile(rb" 1/20 ")
    epoch = re.compile(rb"'epoch': '[\d.]+'")
    with path.open("wb") as file:
        file.write(text[:start].replace(b"0/20 [", b"0/%d [" % copies))
        for step in range(1, copies + 1):
            file.write(epoch.sub(b"'epoch': '%.4g'" % (step / 500), bar.sub(b" %d/%d " % (step, copies), body)))
    return copies


def main() -> None:
    """Print the figures of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.log"
        steps = long_log(path)
        size = path.stat().st_size / 1e6
        start = time.perf_counter()
        told = subprocess.run(
            [sys.executable, "-c", CHILD, str(path)],
            env={"PYTHONPATH": str(ROOT / "wrapper")},
            check=True,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(
        f"{size:.0f} MB, {steps} steps: {seconds:.2f} s ({cpu:.2f} s of one core), peak {peak:.0f} MiB: {told.stdout}",
        end="",
    )


if __name__ == "__main__":
    main()
