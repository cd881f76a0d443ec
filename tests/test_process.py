"""Programs on this very terminal, and programs of their own that are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ax_recipe.process import attached
from conftest import ROOT

IN_THE_BACKGROUND = """
import signal, sys
from pathlib import Path
from ax_recipe import process
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
child = process.start(["sleep", "100"], {}, Path(sys.argv[1]))
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
print(child.stop())
"""


def test_a_quiet_program_is_heard_only_when_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    words = "import sys; print('answer'); print('warning', file=sys.stderr); sys.exit(int(sys.argv[1]))"
    assert attached([sys.executable, "-c", words, "0"], {}, quiet=True) == 0
    assert capfd.readouterr() == ("answer\n", "")
    assert attached([sys.executable, "-c", words, "1"], {}, quiet=True) == 1
    assert capfd.readouterr() == ("answer\n", "warning\n")


def test_what_is_started_in_the_background_of_a_script_hears_an_interrupt(tmp_path: Path) -> None:
    """A shell without job control starts it deaf to SIGINT: each stop would wait until the next, harder signal."""
    script = 'trap "" INT; cd "$1" && exec "$2" -c "$3" log'
    argv = ["sh", "-c", script, "sh", str(tmp_path), sys.executable, IN_THE_BACKGROUND]
    path = {"PYTHONPATH": str(ROOT / "wrapper")}
    told = subprocess.run(argv, env={**os.environ, **path}, capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == str(-signal.SIGINT)
