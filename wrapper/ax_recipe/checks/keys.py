"""The checks that need no more than the keys: for a config that is to be used on another machine."""

from __future__ import annotations

from ax_recipe.checks import foreign, machine, training
from ax_recipe.checks.subject import Subject
from ax_recipe.errors import Problem

CHECKS = (
    training.ranges, training.exclusive_keys, training.best_model, training.evaluation, training.learning_rate,
    training.warmup, training.adapter_keys, training.quantisation, machine.packing, machine.precision, machine.cpu,
    machine.plugins, foreign.code,
)  # fmt: skip


def examine(subject: Subject) -> list[Problem]:
    """Every finding about the keys alone."""
    return [problem for check in CHECKS for problem in check(subject)]
