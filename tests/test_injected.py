"""Every fault of the table holds: no run lost, no process left, no wrong result called done."""

from __future__ import annotations

from pathlib import Path

import pytest

import injected

DOCUMENT = injected.ROOT / "docs" / "faults.md"


def test_there_are_more_than_twenty_five() -> None:
    assert len(injected.FAULTS) >= 40


def marks(name: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow, *([pytest.mark.axolotl] if name.startswith("real-") else [])]


CASES = [pytest.param(name, marks=marks(name)) for name in injected.FAULTS]


@pytest.mark.parametrize("name", CASES)
def test_it_holds(name: str, tmp_path: Path) -> None:
    try:
        assert injected.inject(injected.FAULTS[name], tmp_path)
    except injected.NotHereError as error:
        pytest.skip(str(error))


def test_the_table_is_of_these_faults() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert all(fault.done in text and fault.must in text for fault in injected.FAULTS.values())
    assert "did not hold**" not in text
