"""Every check of our own, one after the other."""

from __future__ import annotations

from ax_recipe.checks import foreign, machine, model, named, rows, training
from ax_recipe.checks.subject import Subject
from ax_recipe.errors import Problem

CHECKS = (*training.CHECKS, *model.CHECKS, *machine.CHECKS, *rows.CHECKS, *named.CHECKS, foreign.code)


def examine(subject: Subject) -> list[Problem]:
    """Every finding, in the order of the file; a schema's own are not among them."""
    found = [problem for check in CHECKS for problem in check(subject)]
    return sorted(found, key=lambda each: (each.file != subject.document.file, each.file or "", each.line or 0))
