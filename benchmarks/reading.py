"""What `ax-recipe data` takes of one core and of memory on a large file: `python benchmarks/reading.py [GIGABYTES]`."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from replay import ROOT

WORDS = ("arr", "matey", "ahoy", "treasure", "island", "map", "rum", "barrel", "ship", "sail", "mast", "anchor", "sea")


def chat(number: int, draw: random.Random) -> str:
    """A line of a question of 30 words and an answer of 120, unlike any other."""
    asked, answered = (" ".join(draw.choices(WORDS, k=count)) for count in (30, 120))
    turns = [("user", f"{asked} {number}?"), ("assistant", f"{answered}.")]
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n"


def main() -> None:
    """Write the file, 5 GB of it unless told otherwise, and print what reading it took."""
    size = float(sys.argv[1] if len(sys.argv) > 1 else 5) * 1e9
    with tempfile.TemporaryDirectory() as folder:
        path, draw, written, number = Path(folder) / "big.jsonl", random.Random(1), 0, 0
        with path.open("w", encoding="utf-8") as file:
            while written < size:
                written += file.write(chat(number, draw))
                number += 1
        argv = [sys.executable, "-m", "ax_recipe", "data", str(path), "--json"]
        environment = {"PYTHONPATH": str(ROOT / "wrapper")}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    print(f"{size / 1e9:g} GB, {json.loads(done.stdout)['rows']:,} rows: {cpu:.0f} s of one core, peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
