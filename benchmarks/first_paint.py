"""Seconds until `watch` paints a run with 100 MB of log, and until all is read: `python benchmarks/first_paint.py`."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from replay import ROOT, long_log

READING = b"Reading what the run has written"


def run_folder(folder: Path) -> Path:
    """An ended run whose training wrote the long log."""
    run = folder / "pirate-20261122-101500"
    (run / "logs").mkdir(parents=True)
    long_log(run / "logs" / "train.1.log")
    now = time.time()
    stages = [{"name": "train", "state": "interrupted", "attempt": 1, "started": now - 900, "ended": now}]
    (run / "state.json").write_text(json.dumps({"recipe": "pirate", "created": now, "stages": stages}))
    (run / "plan.json").write_text(json.dumps({"targets": {"loss": None}, "stages": [], "gpus": 1}))
    return run


def main() -> None:
    """Print both times of one run in a terminal of 120 columns."""
    with tempfile.TemporaryDirectory() as folder:
        run = run_folder(Path(folder))
        parent, child = pty.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "wrapper"), "TERM": "xterm-256color"}
        environment |= {"COLUMNS": "120", "LINES": "40"}
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "ax_recipe", "watch", str(run)],
            stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(child)
        shown, first = b"", None
        while process.poll() is None:
            try:
                shown += os.read(parent, 1 << 16)
            except OSError:
                break
            if first is None and (READING in shown or b"pirate-2026" in shown):
                first = time.perf_counter() - start
        read = time.perf_counter() - start
        size = (run / "logs" / "train.1.log").stat().st_size / 1e6
        print(f"{size:.0f} MB: first picture after {first:.2f} s, read and over after {read:.2f} s")


if __name__ == "__main__":
    main()
