"""The screen as literal text: set AX_RECIPE_WRITE_EXPECTED=1 to write the golden files anew, then read the diff."""

from __future__ import annotations

import io
import math
import os
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

import histories
from ax_recipe.observe.events import (
    Crashed,
    Evaluation,
    Event,
    Gpu,
    GpuSample,
    Line,
    Metrics,
    StageEnded,
    StageStarted,
    Step,
    Warned,
)
from ax_recipe.observe.folding import advance
from ax_recipe.observe.state import State
from ax_recipe.view.dashboard import fits, view
from ax_recipe.view.screen import help_view, log_view
from conftest import ROOT

EXPECTED = Path(__file__).parent / "expected"
CASES: dict[str, Callable[[], State]] = {
    "starting": histories.starting,
    "compiling": histories.compiling,
    "training": histories.training,
    "failed": histories.failed,
    "finished": histories.finished,
    "cpu": histories.on_the_cpu,
}
SIZES = {60: 20, 80: 24, 120: 36, 200: 50}
TINY = [(120, 16), (80, 10), (60, 6), (40, 4), (40, 3), (40, 2), (40, 1)]


def shown(state: State, width: int, height: int, *, ascii_only: bool = False, notice: str | None = None) -> str:
    """The picture as text, five seconds after the last event."""
    now = None if state.now is None else state.now + 5
    title = "pirate-20261122 · Llama-3.1-8B · qlora"
    frame = view(
        state, width, height, now=now, target_loss=(0.5, 0.8), ascii_only=ascii_only, title=title, notice=notice
    )
    return printed(frame, width)


def printed(frame: object, width: int) -> str:
    """What a terminal without colour receives."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(frame, end="", soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def compare(name: str, text: str) -> None:
    """Hold ``text`` against its golden file, or write that."""
    path = EXPECTED / f"{name}.txt"
    if os.environ.get("AX_RECIPE_WRITE_EXPECTED"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def assert_fits(text: str, width: int, height: int) -> None:
    lines = text.splitlines()
    assert len(lines) <= height
    assert max(map(cell_len, lines), default=0) <= width


@pytest.mark.parametrize("width", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_the_screen_looks_as_agreed(case: str, width: int) -> None:
    text = shown(CASES[case](), width, SIZES[width])
    assert_fits(text, width, SIZES[width])
    compare(f"dashboard-{case}-{width}", text)


@pytest.mark.parametrize(("width", "height"), TINY)
def test_a_tiny_window_still_says_how_it_goes(width: int, height: int) -> None:
    text = shown(histories.training(), width, height)
    assert_fits(text, width, height)
    assert "OK" in text
    compare(f"dashboard-training-{width}x{height}", text)


@pytest.mark.parametrize("width", [60, 120])
def test_ascii_has_no_other_character(width: int) -> None:
    text = shown(histories.training(), width, SIZES[width], ascii_only=True)
    assert text.isascii()
    compare(f"dashboard-ascii-{width}", text)


@pytest.mark.parametrize("height", [1, 2, 3, 8, 24])
def test_a_notice_is_never_cut_off_by_the_rest(height: int) -> None:
    assert "Stop the run?" in shown(histories.training(), 80, height, notice="Stop the run?  y  n")


def test_a_cause_is_on_the_screen_in_words_and_glyphs() -> None:
    text = shown(histories.failed(), 120, 36)
    assert "✗ STOP" in text
    assert "OutOfMemoryError" in text
    assert "halve micro_batch_size" in text


def test_help_and_log_fill_the_screen() -> None:
    state = histories.finished()
    for width, height in ((120, 36), (60, 20), (30, 5)):
        for frame in (
            help_view(width, height),
            log_view(state, width, height),
            log_view(state, width, height, offset=999),
        ):
            assert_fits(printed(frame, width), width, height)
    assert "detach" in printed(help_view(80, 24), 80)
    assert printed(log_view(state, 120, 36), 120) != printed(log_view(state, 120, 36, offset=20), 120)


def test_outside_text_moves_neither_cursor_nor_markup() -> None:
    state = State()
    advance(state, Line("\x1b[2J[bold red]evil\x07\tbell[/] \u202ereversed \x9b31m"))
    text = shown(state, 120, 36)
    assert "[bold red]evil" in text
    assert not set("\x1b\x07\t\u202e\x9b") & set(text)


def test_a_schedule_that_is_left_is_named() -> None:
    state = histories.training()
    assert "on schedule" in shown(state, 120, 36)
    advance(state, Metrics({"loss": 0.6, "learning_rate": 1e-4}, 813, exact=True))
    assert "due 5.8" in shown(state, 120, 36)


def test_a_stage_without_steps_shows_none_of_the_training() -> None:
    state, phases = histories.finished(), set()
    for event in [StageStarted("evaluate"), *histories.recorded("axolotl-0.19.0-evaluate.log", 230)]:
        advance(state, event)
        if state.phase not in phases:
            phases.add(state.phase)
            for width, height in ((120, 36), (80, 24), (60, 10), (40, 1)):
                text = shown(state, width, height)
                assert f"● {state.phase}" in text
                assert not any(words in text for words in ("100%", "ETA", f"{state.step}/{state.total_steps}"))
    assert phases == {"starting", "importing", "preparing", "loading", "evaluating"}
    advance(state, StageEnded("evaluate", 1))
    assert "✗ failed" in shown(state, 120, 36)
    assert "100%" not in shown(state, 120, 36)


def test_without_a_gpu_its_room_is_the_logs_and_the_alerts() -> None:
    state = histories.on_the_cpu()
    for width, height in ((200, 50), (120, 36), (80, 24), (70, 40), (80, 10), (40, 4)):
        assert "GiB" not in (text := shown(state, width, height))
        assert "memory and GPUs" not in text
    assert shown(state, 80, 24).split("─ log ─")[1].count("│") / 2 >= 6, "lines of the log"
    advance(state, Metrics({"loss": math.nan}, 181, exact=True))
    text = shown(state, 80, 24)
    assert "alerts 1" in text
    assert "STOP" in text.split("alerts 1")[1]


def test_more_gpus_than_rows_share_the_last_row() -> None:
    state = histories.fold(iter([*histories.prepared(), *histories.trained(50, gpus=16)]))
    text = shown(state, 120, 36)
    assert "GPU 0 " in text
    assert "-15" in text
    assert "54%" not in text


def test_only_a_real_terminal_gets_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    assert fits(Console(force_terminal=True, _environ={"TERM": "xterm"}))
    assert not fits(Console(force_terminal=True, _environ={"TERM": "dumb"}))
    assert not fits(Console(file=io.StringIO()))
    monkeypatch.setenv("CI", "true")
    assert not fits(Console(force_terminal=True, _environ={"TERM": "xterm"}))


def test_the_picture_for_the_readme_is_what_its_script_draws() -> None:
    """`python docs/picture.py` writes it anew; the diff of the picture is read in review."""
    picture = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    drawn = picture["svg"](picture["state_at"](picture["STEP"]))
    assert drawn == (ROOT / "docs" / "dashboard.svg").read_text(encoding="utf-8")


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
values = st.dictionaries(
    st.sampled_from(
        ["loss", "grad_norm", "learning_rate", "epoch", "active_gib", "reserved_gib", "tokens_per_second_per_gpu"]
    ),
    numbers,
)
steps = st.integers(0, 10**7)
share = st.none() | st.floats(0, 1)
figure = st.none() | st.floats(0, 1000)
gpu = st.builds(Gpu, st.integers(0, 99), st.text(max_size=30), share, figure, figure, figure, figure, figure)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Metrics, values, steps, st.none() | st.floats(0, 2e9)),
    st.builds(Step, steps, st.none() | steps),
    st.builds(Evaluation, st.fixed_dictionaries({"eval_loss": numbers}), steps),
    st.builds(GpuSample, st.lists(gpu, max_size=12).map(tuple)),
    st.builds(Line, st.text(max_size=200)),
    st.builds(Warned, st.text(max_size=200)),
    st.builds(Crashed, st.text(max_size=200)),
)


@example([Metrics({"loss": 0.0, "epoch": math.inf}, 0)], 80, 24, False, False)
@given(st.lists(events, max_size=30), st.integers(1, 210), st.integers(1, 60), st.booleans(), st.booleans())
def test_nothing_breaks_the_screen(
    history: list[Event], width: int, height: int, ascii_only: bool, target: bool
) -> None:
    state = State()
    for event in history:
        advance(state, event)
    frame = view(state, width, height, now=1e9, target_loss=(0.5, 0.8) if target else None, ascii_only=ascii_only)
    text = printed(frame, width)
    assert_fits(text, width, height)
    assert text.isascii() or not ascii_only
    assert all(char.isprintable() or char == "\n" for char in text)
