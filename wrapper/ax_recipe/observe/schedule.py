"""The learning rate that a configuration promises at every step, to hold the logged one against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def expected(config: Mapping[str, Any], total_steps: int, step: int) -> float | None:
    """The rate of scheduler position ``step`` (0-based) out of ``total_steps``; None for a schedule not known here.

    The formulas are those of transformers' schedulers and Axolotl's ``utils/schedulers.py``.
    """
    peak = config.get("learning_rate")
    kind = str(config.get("lr_scheduler") or "cosine")
    if not isinstance(peak, int | float) or kind not in _DECAYS or _special(config, kind):
        return None
    warm = warmup_steps(config, total_steps) if kind != "constant" else 0
    if step < warm:
        return peak * step / max(1, warm)
    progress = (step - warm) / max(1, total_steps - warm)
    floor = config.get("cosine_min_lr_ratio") or 0.0 if kind == "cosine" else 0.0
    return float(peak * (floor + (1 - floor) * _DECAYS[kind](progress)))


def warmup_steps(config: Mapping[str, Any], total_steps: int) -> int:
    """How many steps warm up, as Axolotl 0.19 decides it in ``core/builders/base.py``."""
    steps = config.get("warmup_steps")
    if steps is None:
        ratio = config.get("warmup_ratio")
        steps = int(ratio * total_steps) if ratio is not None else min(int(0.03 * total_steps), 100)
    if 0 < steps < 1:
        return math.ceil(steps * total_steps)
    return 2 if steps == 1 else int(steps)


_DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: max(0.0, 0.5 * (1 + math.cos(math.pi * progress))),
    "linear": lambda progress: max(0.0, 1 - progress),
    "constant": lambda _: 1.0,
    "constant_with_warmup": lambda _: 1.0,
}


def _special(config: Mapping[str, Any], kind: str) -> bool:
    odd = ("cosine_constant_lr_ratio", "lr_quadratic_warmup", "jagged_restart_steps", "relora", "lr_scheduler_kwargs")
    return kind != "constant" and any(config.get(key) for key in odd)
