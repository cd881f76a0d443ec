"""How well the verdicts judge: ``python benchmarks/verdicts.py`` writes docs/verdicts.md.

Recorded runs that went well must never be told to act or to stop; faults that are put into real records must be caught.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "wrapper")]

import faults  # noqa: E402 - lies in tests/
from ax_recipe.observe import rules  # noqa: E402
from ax_recipe.observe.alerts import SEVERITIES  # noqa: E402
from ax_recipe.observe.folding import advance  # noqa: E402
from ax_recipe.observe.state import State  # noqa: E402
from ax_recipe.observe.table import RULES  # noqa: E402

INTRODUCTION = """\
# How well the verdicts judge

Written by `python benchmarks/verdicts.py`; the same cases are tests (`tests/test_rules.py`). A verdict is asked for
after every event of a run, so an alert that came and went would be seen. `long` is pirate-tiny's run at five times its
length: its curves, its noise, and the memory of a real run on four GPUs.
"""


def well() -> Iterator[str]:
    """One row to a run that went well: the worst that was said at any moment, and what."""
    for name in (*faults.WELL, "long"):
        state, worst, said = State(), "OK", set()
        for event in faults.good(name):
            advance(state, event)
            found = rules.judge(state)
            worst = max(worst, found.severity, key=SEVERITIES.index)
            said |= {alert.rule for alert in found.alerts}
        yield f"| {name} | {state.windows.logs} | {worst} | {', '.join(sorted(said)) or 'nothing'} |"


def caught() -> Iterator[tuple[bool, str]]:
    """One row to a fault: whether its rule said so, with which word, and after how many logs."""
    for fault in faults.FAULTS:
        found = faults.first(fault)
        state = faults.fold(fault.make())
        others = sorted({alert.rule for alert in rules.judge(state, fault.target).alerts} - {fault.rule})
        hit = found is not None and found[0].severity == fault.severity
        when = "missed" if found is None else f"{max(0, found[1] - fault.begin)} steps" if fault.begin else "at once"
        yield hit, f"| {fault.what} | {fault.rule} | {fault.severity} | {when} | {', '.join(others) or ''} |"


def table() -> Iterator[str]:
    """One row to a rule."""
    for rule in RULES:
        if rule.severity != "OK":
            yield f"| {rule.name} | {rule.severity} | {rule.definition or 'words in the log'} | {rule.source} |"


def main() -> None:
    """Write the tables and print what they come to."""
    good, faulty = list(well()), list(caught())
    quiet = sum("| ACT |" not in row and "| STOP |" not in row for row in good)
    hits = sum(hit for hit, _ in faulty)
    words = f"{quiet} of {len(good)} good runs without ACT or STOP, {hits} of {len(faulty)} faults caught"
    lines = [INTRODUCTION, f"**{words}.**", "", "## Runs that went well", ""]
    lines += ["| run | logs | worst word | rules that spoke |", "|---|---|---|---|", *good]
    lines += ["", "## Faults", "", "| fault, in a real record | rule | word | told after | said at the end besides |"]
    lines += ["|---|---|---|---|---|", *(row for _, row in faulty)]
    lines += ["", "## The rules", "", "`ax-recipe watch --explain` shows them with the numbers of a run.", ""]
    lines += ["| rule | word | asks for | source |", "|---|---|---|---|", *table()]
    (ROOT / "docs" / "verdicts.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(words)


if __name__ == "__main__":
    main()
