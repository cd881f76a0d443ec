"""What else failures say: one message after another, as frameworks word them, and the cause that each names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ax_recipe.diagnose import diagnose
from failures import FAILURES

WORDS = [json.loads(line) for line in (FAILURES / "words.jsonl").read_text(encoding="utf-8").splitlines()]
GOES_ON = (
    "[2026-11-22 11:26:40,008] [WARNING] [torchao] Failed to load libx.so: Could not load this library",
    "[2026-11-22 11:26:40,008] [WARNING] [py.warnings] UserWarning: CUDA is not available, out of memory checks off",
    "Exception ignored in: <function Pool.__del__>\nTraceback (most recent call last):\n"
    '  File "pool.py", line 268, in __del__\n    self._change_notifier.put(None)\n'
    "OSError: [Errno 28] No space left on device",
    "The following values were not passed to `accelerate launch` and had defaults used instead:",
    "flash_attn is not installed; falling back to sdpa",
    "wandb: Tracking run with wandb version 0.22.1",
)


@pytest.mark.parametrize("said", WORDS, ids=lambda said: said["text"][-40:])
def test_what_is_said_names_its_cause(said: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(said["text"] + "\n", encoding="utf-8")
    assert diagnose(log, 1).cause == said["cause"]


@pytest.mark.parametrize("text", GOES_ON)
def test_what_a_run_says_that_goes_on_is_no_failure(text: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{text}\n 10%|#         | 1/10 [00:01<00:10,  1.00s/it]\r", encoding="utf-8")
    assert diagnose(log).cause == "none"
