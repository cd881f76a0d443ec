"""What we say of an attempt, in its log: as Axolotl writes its own lines, so that every view finds it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def note(log: Path, words: Iterable[str], level: str = "WARNING") -> None:
    """Put ``words`` at the end of ``log``, a line for each."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f",{int(now % 1 * 1000):03}"
    lines = [f"[{stamp}] [{level}] [ax_recipe.launch.runner] {' '.join(word.split())}\n" for word in words]
    if lines:
        with log.open("a", encoding="utf-8") as file:
            file.writelines(lines)
