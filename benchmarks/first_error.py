"""Time to the first useful error: `ax-recipe check` beside bare `axolotl train`, on the same wrong files.

python benchmarks/first_error.py [--axolotl PATH] [--bare] [NAME ...]

The files are those of tests/wrong_configs.py, each with one mistake. A bare training is given two minutes; "never" is
one that ends, or goes on, without naming the mistake. Without --bare only `check` is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from wrong_configs import SHAPE, WRONG, Wrong, lay_out, write  # noqa: E402 - a folder of its own

PATIENCE_S = 120
# Those whose bare training needs neither GPU nor hub to come as far as its mistake.
BARE = (
    "misspelt key", "batch in words", "unknown optimizer", "unknown adapter", "misspelt plugin", "rank 0",
    "negative rate", "missing data", "column of another type", "broken row", "all masked", "misspelt module",
    "no modules", "two warmups",
)  # fmt: skip
ON_A_CPU = {
    "bf16": False, "attn_implementation": None, "lora_mlp_kernel": False, "lora_qkv_kernel": False,
    "lora_o_kernel": False, "max_steps": 2,
}  # fmt: skip


def weigh(folder: Path) -> None:
    """Weights for the base, all zero: a bare training must be able to load it."""
    h, ff, kv, vocab = SHAPE["hidden_size"], SHAPE["intermediate_size"], 64, SHAPE["vocab_size"]
    shapes = {"model.embed_tokens.weight": [vocab, h], "lm_head.weight": [vocab, h], "model.norm.weight": [h]}
    for layer in range(SHAPE["num_hidden_layers"]):
        place = f"model.layers.{layer}"
        shapes |= {f"{place}.self_attn.{name}_proj.weight": [h, h] for name in ("q", "o")}
        shapes |= {f"{place}.self_attn.{name}_proj.weight": [kv, h] for name in ("k", "v")}
        shapes |= {f"{place}.mlp.{name}_proj.weight": [ff, h] for name in ("gate", "up")}
        shapes |= {f"{place}.mlp.down_proj.weight": [h, ff]}
        shapes |= {f"{place}.{name}_layernorm.weight": [h] for name in ("input", "post_attention")}
    header, start = {}, 0
    for name, shape in shapes.items():
        stop = start + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(start))


def checked(path: Path, wrong: Wrong, axolotl: str | None) -> float | None:
    """Seconds until `check` has named the mistake; None where it does not."""
    argv = [sys.executable, "-m", "ax_recipe", "check", str(path), "--gpus", wrong.gpus, "--json"]
    start = time.perf_counter()
    done = subprocess.run(
        [*argv, *(["--axolotl", axolotl] if axolotl else [])], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - start
    found = {problem["code"] for problem in json.loads(done.stdout)["problems"]}
    return seconds if wrong.code in found else None


def trained(path: Path, axolotl: str) -> tuple[float, str]:
    """Seconds until a bare training has ended, and its last line of an error; empty where it ended well."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [axolotl, "train", str(path), "--launcher", "python"],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return PATIENCE_S, ""
    errors = [line for line in done.stderr.splitlines() if "Error" in line and not line.startswith(" ")]
    return time.perf_counter() - start, errors[-1][:70] if done.returncode and errors else ""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--axolotl", help="the axolotl of the training environment")
    parser.add_argument("--bare", action="store_true", help="train with bare Axolotl, too")
    parser.add_argument("names", nargs="*", help="the mistakes to measure")
    options = parser.parse_args()
    os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "wrapper")}
    names = options.names or (
        BARE if options.bare else [name for name in WRONG if options.axolotl or not WRONG[name].axolotl]
    )
    times = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["AX_RECIPE_CACHE"] = str(Path(folder, "cache"))
        lay_out(Path(folder))
        weigh(Path(folder, "base"))
        for name in names:
            seconds = checked(write(Path(folder), WRONG[name]), WRONG[name], options.axolotl)
            times.append(seconds if seconds is not None else float("inf"))
            line = f"{name:<36}{WRONG[name].code}  {'never' if seconds is None else f'{seconds:5.2f} s'}"
            if options.bare:
                bare = Wrong(WRONG[name].code, {**ON_A_CPU, **WRONG[name].keys})
                took, error = trained(write(Path(folder), bare, "bare.yml"), options.axolotl or "axolotl")
                line += f"   {f'{took:5.1f} s' if error else '  never'}  {error}"
            print(line, flush=True)
    print(f"{len(times)} mistakes, median {statistics.median(times):.2f} s, worst {max(times):.2f} s")


if __name__ == "__main__":
    main()
