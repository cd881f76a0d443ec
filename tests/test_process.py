"""Programs on this very terminal."""

from __future__ import annotations

import sys

import pytest

from ax_recipe.process import attached


def test_a_quiet_program_is_heard_only_when_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    words = "import sys; print('answer'); print('warning', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    assert attached([sys.executable, "-c", words, "0"], {}, quiet=True) == 0
    assert capfd.readouterr() == ("answer\n", "")
    assert attached([sys.executable, "-c", words, "1"], {}, quiet=True) == 1
    assert capfd.readouterr() == ("answer\n", "warning\n")
