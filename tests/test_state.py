"""Events fold into one state: the same for a live log and a recorded one, and never counted twice."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.observe import events
from ax_recipe.observe.curve import POINTS, Curve
from ax_recipe.observe.events import (
    Began,
    Config,
    Crashed,
    Evaluation,
    Event,
    Gpu,
    GpuSample,
    Interrupted,
    Metrics,
    Phase,
    Registered,
    StageEnded,
    StageStarted,
    Step,
    Warned,
)
from ax_recipe.observe.folding import advance, end
from ax_recipe.observe.follow import Follower
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.replay import fold, replay
from ax_recipe.observe.schedule import expected, warmup_steps
from ax_recipe.observe.state import State, summary

LOGS = Path(__file__).parent / "logs"
TRAINING = {"loss": 1.5, "grad_norm": 0.5, "learning_rate": 1e-4}


def path(name: str) -> Path:
    return LOGS / f"axolotl-0.19.0-{name}.log"


def after(*told: Event) -> State:
    state = State()
    for event in told:
        advance(state, event)
    return state


def steps(first: int, last: int, total: int, *, exact: bool = False, **values: float) -> list[Event]:
    told: list[Event] = []
    for step in range(first, last + 1):
        told += [Step(step, total, 1.0, exact=exact), Metrics({**TRAINING, **values}, step, exact=exact)]
    return told


# What each recorded run has to give: status, phase, step, of, last training loss, last evaluation loss.
RUNS = {
    "2gpu-pirate": ("finished", "finished", 110, 110, 4.097, 4.115),
    "1gpu-out-of-memory": ("failed", "failed", 0, 6, None, None),
    "1gpu-ok": ("finished", "finished", 12, 12, 10.14, None),
    "1gpu-flex-liger": ("finished", "finished", 12, 12, 10.13, None),
    "1gpu-killed-while-compiling": ("running", "compiling", 0, 12, None, None),
    "4gpu-ok": ("finished", "finished", 20, 20, 4.839, 4.824),
    "ok": ("finished", "finished", 12, 12, 1.607, 1.62),
    "2ranks-ok": ("finished", "finished", 12, 12, 1.627, 1.617),
    "2ranks-tee-ok": ("finished", "finished", 12, 12, 1.626, 1.616),
    "2ranks-independent": ("finished", "finished", 12, 12, 1.605, 1.619),
    "2ranks-interrupted": ("interrupted", "interrupted", 5, 200, 1.662, 1.651),
    "2ranks-killed-rank": ("failed", "failed", 5, 200, 1.661, 1.651),
    "2ranks-missing-dataset": ("failed", "failed", 0, None, None, None),
    "2ranks-plugin-stopped": ("interrupted", "interrupted", 8, 200, 1.635, 1.639),
    "2ranks-plugin-terminated": ("interrupted", "interrupted", 7, 200, 1.628, 1.638),
    "evaluate": ("finished", "finished", 0, None, None, 1.6203413009643555),
    "interrupted": ("interrupted", "interrupted", 7, 200, 1.658, 1.64),
    "killed": ("running", "evaluating", 10, 200, 1.633, 1.638),
    "masked": ("finished", "finished", 12, 12, 0.0, None),
    "merge-lora": ("finished", "finished", 0, None, None, None),
    "min-lr-killed": ("running", "training", 47, 90, 1.49, 1.472),
    "missing-dataset": ("failed", "failed", 0, None, None, None),
    "nan": ("finished", "finished", 12, 12, 0.0, math.nan),
    "packed-eval-without-loss": ("finished", "finished", 12, 12, 1.614, None),
    "plugin-not-importable": ("finished", "finished", 4, 4, 1.668, 1.644),
    "plugin-ok": ("finished", "finished", 12, 12, 1.605, 1.619),
    "plugin-stopped": ("interrupted", "interrupted", 8, 200, 1.592, 1.639),
    "preprocess-missing-dataset": ("failed", "failed", 0, None, None, None),
    "resumed": ("finished", "finished", 14, 14, 1.616, 1.605),
    "terminated": ("running", "training", 7, 200, 1.656, 1.638),
}


def test_every_recorded_log_has_its_expectation() -> None:
    found = {log.stem.removeprefix("axolotl-0.19.0-") for log in LOGS.glob("*.log")}
    assert found == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_recorded_run_gives_its_state(name: str) -> None:
    state = replay(path(name))
    status, phase, step, total, loss, eval_loss = RUNS[name]
    assert (state.status, state.phase, state.step, state.total_steps) == (status, phase, step, total)
    assert state.loss == loss
    assert state.eval_loss == pytest.approx(eval_loss, nan_ok=True)
    assert state.segments == 1
    json.dumps(summary(state), allow_nan=False)


@pytest.mark.parametrize("name", ["4gpu-ok", "2ranks-tee-ok", "nan", "interrupted", "2ranks-missing-dataset"])
@pytest.mark.parametrize("size", [61, 4099])
def test_a_live_log_gives_the_same_state_as_its_replay(name: str, size: int, tmp_path: Path) -> None:
    data = path(name).read_bytes()
    growing, live, reader = tmp_path / "log", State(), LogReader()
    follower = Follower(growing)
    with growing.open("wb") as file:
        for start in range(0, len(data), size):
            file.write(data[start : start + size])
            file.flush()
            fold(follower.poll(), reader, live)
    fold(follower.drain(), reader, live)
    for event in reader.finish(follower.closed):
        advance(live, event)
    end(live, None)
    recorded = replay(path(name))
    assert summary(live) == summary(recorded)
    assert repr(live.losses.points) == repr(recorded.losses.points)
    assert list(live.lines) == list(recorded.lines)


def older(text: str, version: str) -> str:
    """What ``version`` would have printed where 0.19 printed ``text``: its stamps, key names and numbers."""
    stamp = r"\1.function:99] [PID:4711] [RANK:0]" if version < "0.13" else r"\1]"
    text = re.sub(r"(\] \[(?:INFO|WARNING)\] \[axolotl[\w.]*)\]", stamp, text)
    silent = r"\[[^\n\r\]]*\] \[INFO\] \[axolotl[^\n\r]*Running evaluation step[^\n]*" if version < "0.13" else "^$"
    text = re.sub(silent, "", text)
    text = re.sub(r"'(-?[\d.]+(?:e[+-]?\d+)?|nan)'", r"\1", text) if version < "0.14" else text
    memory = r"'memory/(max|device)_(active|allocated|reserved) \(GiB\)'"
    spelling = {"0.12": r"'memory/\1_mem_\2(gib)'", "0.12-dev": r"'memory/\1_memory_\2(gib)'"}
    if version == "0.11":
        text = re.sub(memory + r": [^,}]*, ", "", text)
        return re.sub(r"'(?:tokens/|ppl|eval_ppl|num_input|train_tokens)[^,}]*, ", "", text)
    text = re.sub(memory, spelling[version], text) if version in spelling else text
    rate = {"0.13": "tokens_per_second_per_gpu", "0.12": "", "0.12-dev": ""}.get(
        version, "tokens/train_per_sec_per_gpu"
    )
    return text.replace("tokens/train_per_sec_per_gpu", rate) if rate else re.sub(r"'tokens/[^,}]*, ", "", text)


@pytest.mark.parametrize("version", ["0.11", "0.12-dev", "0.12", "0.13", "0.18"])
@pytest.mark.parametrize("name", ["4gpu-ok", "ok", "nan", "2ranks-killed-rank"])
def test_older_dialects_give_the_same_state(name: str, version: str, tmp_path: Path) -> None:
    old = tmp_path / "old.log"
    old.write_text(older(path(name).read_bytes().decode(), version), newline="")
    told, now = summary(replay(old)), summary(replay(path(name)))
    without = {"0.11": {"active_gib", "allocated_gib", "reserved_gib"}}.get(version, set())
    if version < "0.13":
        without |= {"tokens_per_second", "tokens_per_second_per_gpu"}
    assert without or version >= "0.13"
    for key in told.keys() - without - {"verdict"}:
        assert told[key] == now[key], key


def test_the_closing_summary_does_not_overwrite_what_training_told() -> None:
    state = replay(path("1gpu-ok"))
    assert (state.loss, state.active_gib, state.reserved_gib) == (10.14, 19.9, 22.44)
    assert state.summary["train_loss"] == 11.77
    assert replay(path("4gpu-ok")).active_gib == 20.53


def test_tokens_a_second_are_those_of_all_gpus() -> None:
    state = replay(path("4gpu-ok"))
    assert (state.tokens_per_second_per_gpu, state.tokens_per_second) == (5849, 4 * 5849)
    assert replay(path("1gpu-ok")).tokens_per_second == 6195


def test_a_log_alone_cannot_tell_a_killed_run_from_a_running_one_but_its_exit_code_can() -> None:
    name = path("1gpu-killed-while-compiling")
    assert replay(name).status == "running"
    assert replay(name, -9).status == "failed"
    assert replay(path("terminated"), -15).status == "interrupted"
    assert replay(path("killed"), 0).status == "interrupted"
    assert replay(path("ok"), 0).status == "finished"


def test_success_is_the_last_step_not_exit_code_0() -> None:
    ended: list[Event] = [Phase("finished"), StageEnded("train", 0)]
    assert after(StageStarted("train"), *steps(1, 5, 10), *ended).status == "interrupted"
    assert after(StageStarted("train"), *steps(1, 10, 10), *ended).status == "finished"
    assert after(StageStarted("merge"), StageEnded("merge", 0)).stages == {"merge": "done"}
    assert after(StageStarted("train"), *steps(1, 10, 10), StageEnded("train", 0)).status == "finished"


def test_the_trainers_summary_is_the_end_of_a_log_that_tells_no_total(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("{'loss': 1.2, 'grad_norm': 0.5, 'epoch': 1.0}\n", encoding="utf-8")
    assert replay(log).status == "running"
    with log.open("a", encoding="utf-8") as file:
        file.write("{'train_runtime': 20.1, 'train_loss': 1.51, 'epoch': 1.0}\n")
    assert replay(log).status == "finished"


def test_the_first_cause_outlives_the_noise_after_it() -> None:
    cause = Crashed("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.", 3)
    noise = Crashed("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", None)
    state = after(*steps(1, 5, 10), cause, noise, StageEnded("train", 1))
    assert state.status == "failed"
    assert state.failure == cause.text
    assert "out_of_memory" in [alert.rule for alert in state.alerts]


def test_a_crash_after_the_model_was_saved_is_worth_a_word_only() -> None:
    state = after(*steps(1, 9, 9), Phase("finished"), Crashed("RuntimeError: NCCL"))
    assert (state.status, [alert.rule for alert in state.alerts]) == ("finished", ["crashed_late"])


def test_a_resumed_run_is_a_new_segment() -> None:
    state = after(*steps(1, 9, 20), Crashed("ValueError: x"), Phase("compiling"), *steps(7, 20, 20), Phase("finished"))
    assert (state.segments, state.status, state.step) == (2, "finished", 20)
    assert len(state.losses.points) == 9 + 14


def recorded(name: str) -> list[Event]:
    lines = path(name).with_suffix(".jsonl").read_text().splitlines()
    return [event for event in map(events.from_json, lines) if event]


def test_a_training_that_begins_anew_is_not_judged_by_the_one_before() -> None:
    once = recorded("pirate-tiny")
    alone, again = after(*once), after(*once, *once)
    assert (again.segments, alone.segments) == (2, 1)
    assert {**summary(again), "segments": 1} == summary(alone)
    assert again.alerts == []
    assert (again.losses.points, again.eval_losses.points) == (alone.losses.points, alone.eval_losses.points)
    assert again.first_eval_loss == alone.first_eval_loss


def test_what_was_wrong_with_a_training_is_over_when_it_begins_anew() -> None:
    wild = [Step(step, 9) for step in range(3)] + [Metrics({**TRAINING, "grad_norm": math.nan}, 2)]
    state = after(*wild, Warned("Plugin x could not be imported"), *steps(0, 3, 9))
    assert "not_finite" not in [alert.rule for alert in state.alerts]
    assert "not_finite" in [alert.rule for alert in state.past]


def test_the_time_of_a_step_is_that_between_steps_however_often_metrics_come() -> None:
    told = recorded("pirate-tiny")
    stepped = [event for event in told if isinstance(event, Step) and event.time is not None]
    paces = [
        (late.time - early.time) / (late.step - early.step)
        for early, late in itertools.pairwise(stepped)
        if early.time and late.time and late.step > early.step
    ]
    assert after(*told).step_seconds == pytest.approx(median(paces[-50:]))


def test_two_runs_in_one_log_are_two_segments(tmp_path: Path) -> None:
    both = tmp_path / "both.log"
    both.write_bytes(path("killed").read_bytes() + b"\n" + path("resumed").read_bytes())
    state = replay(both)
    assert (state.segments, state.status, state.step, state.total_steps) == (2, "finished", 14, 14)


def test_another_ranks_crash_after_an_interrupt_stays_an_interrupt() -> None:
    state = after(*steps(1, 5, 10), Crashed("KeyboardInterrupt", 0), Crashed("RuntimeError: Connection closed", 1))
    assert state.status == "interrupted"


def test_a_plugins_events_are_counted_once_whatever_the_log_says() -> None:
    told: list[Event] = [StageStarted("train"), Registered(7, {"axolotl": "0.19.0"}), Began(10, 2, exact=True)]
    for step in range(1, 11):
        value = 1 / step
        told += [Step(step, 10, exact=True, time=float(step)), Metrics({**TRAINING, "loss": value}, step, exact=True)]
        told += [
            Step(step, 10, 9.9),
            Metrics({**TRAINING, "loss": round(value, 2)}, step),
            Evaluation({"eval_loss": 9.0}, step),
        ]
    state = after(*told, Warned("a warning only the log has"), Config({"learning_rate": 1e-4}))
    assert state.losses.points == [(step, 1 / step) for step in range(1, 11)]
    assert state.eval_loss is None
    assert (state.repeats, state.world_size, state.step_seconds) == (0, 2, 1.0)
    assert state.lines[-1] == "WARNING a warning only the log has"
    assert state.config == {"learning_rate": 1e-4}


def test_a_recorded_run_with_plugin_is_the_same_from_both_sources() -> None:
    state = State()
    for line in path("plugin-ok").with_suffix(".jsonl").read_text().splitlines():
        event = events.from_json(line)
        assert event is not None
        advance(state, event)
    fold(Follower(path("plugin-ok")).drain(), LogReader(), state)
    alone = replay(path("plugin-ok"))
    assert state.exact
    assert [x for x, _ in state.losses.points] == [x for x, _ in alone.losses.points] == list(range(1, 13))
    assert [y for _, y in state.losses.points] == pytest.approx([y for _, y in alone.losses.points], rel=1e-3)
    assert (state.status, state.step, state.total_steps) == (alone.status, alone.step, alone.total_steps)
    assert [x for x, _ in state.eval_losses.points] == [x for x, _ in alone.eval_losses.points] == [0, 5, 10, 12]
    assert state.checkpoint is not None
    assert state.checkpoint.path == "./out/checkpoint-12"


def test_an_attempt_whose_plugin_failed_is_read_from_its_log() -> None:
    first = [StageStarted("train", 1), Registered(7, {}), *steps(1, 5, 10, exact=True), StageEnded("train", -9)]
    second = [StageStarted("train", 2), *steps(4, 10, 10), Phase("finished"), StageEnded("train", 0)]
    state = after(*first, *second)
    assert (state.status, state.segments, len(state.losses.points)) == ("finished", 2, 5 + 7)


def test_a_later_stage_that_trains_begins_anew() -> None:
    base = [StageStarted("base"), *steps(1, 5, 5), Phase("finished"), StageEnded("base", 0)]
    state = after(*base, StageStarted("train"), Step(0, 9), *steps(1, 2, 9))
    assert (state.segments, state.step, len(state.losses.points), state.status) == (1, 2, 2, "running")
    assert state.stages == {"base": "done", "train": "running"}


@pytest.mark.parametrize(
    ("name", "rule", "severity"),
    [
        ("nan", "not_finite", "STOP"),
        ("masked", "zero_loss", "STOP"),
        ("2ranks-independent", "ranks_alone", "STOP"),
        ("plugin-not-importable", "plugin_failed", "ACT"),
        ("packed-eval-without-loss", "no_eval_loss", "WATCH"),
        ("2ranks-killed-rank", "killed", "STOP"),
        ("interrupted", "interrupted", "ACT"),
        ("missing-dataset", "failed", "STOP"),
    ],
)
def test_what_is_wrong_is_said(name: str, rule: str, severity: str) -> None:
    told = summary(replay(path(name)))
    assert [alert for alert in told["alerts"] if alert["rule"] == rule]
    assert told["severity"] == severity


@pytest.mark.parametrize(
    "name", ["1gpu-ok", "1gpu-flex-liger", "4gpu-ok", "ok", "2ranks-ok", "2ranks-tee-ok", "resumed"]
)
def test_a_good_run_is_not_alarmed_about(name: str) -> None:
    told = summary(replay(path(name)))
    unseen = name.startswith("1gpu")  # those two keep no rows for an evaluation, which is worth a word
    assert [alert["rule"] for alert in told["alerts"]] == (["no_held_out"] if unseen else [])
    assert told["severity"] == ("WATCH" if unseen else "OK")


def test_the_verdict_says_the_four_things_in_words() -> None:
    assert replay(path("4gpu-ok")).verdict == (
        "Finished: all steps done, the loss falls (12.54 to 4.942), the gradient norm is stable around 0.626, "
        "the learning rate follows its cosine schedule, memory is flat at 20.53 GiB."
    )


def test_ranks_that_repeat_each_others_steps_are_alarmed_about_without_their_warning() -> None:
    told = [event for step in range(1, 6) for event in [*steps(step, step, 9), Metrics(TRAINING, step)]]
    assert "ranks_alone" in [alert.rule for alert in after(*told).alerts]


@pytest.mark.parametrize("name", ["ok", "4gpu-ok", "1gpu-ok", "resumed", "2ranks-ok", "min-lr-killed"])
def test_the_configured_schedule_is_the_logged_one(name: str) -> None:
    state = replay(path(name))
    assert state.config is not None
    assert state.total_steps is not None
    peak = state.config["learning_rate"]
    rates = state.learning_rates.points[1:]  # a resumed run logs its first rate before the schedule is restored
    due = [expected(state.config, state.total_steps, int(step) - 1) for step, _ in rates]
    assert [rate for _, rate in rates] == pytest.approx(due, rel=2e-3, abs=1e-4 * peak)


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"warmup_steps": 5}, 5),
        ({"warmup_ratio": 0.1}, 9),
        ({"warmup_ratio": 0.01}, 0),
        ({}, 2),
        ({"warmup_steps": 1}, 2),
        ({"warmup_steps": 0}, 0),
    ],
)
def test_warm_up_is_decided_as_axolotl_does(config: dict[str, float], steps: int) -> None:
    assert warmup_steps(config, 90) == steps


def test_a_curve_keeps_extremes_order_and_bounds() -> None:
    curve = Curve()
    for x in range(100_000):
        curve.add(x, 50.0 if x == 77_777 else -50.0 if x == 3 else (x % 7) / 7)
    points = curve.points
    assert len(points) < 2 * POINTS
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert {(77_777, 50.0), (3, -50.0)} <= set(points)
    assert curve.last == (99_999 % 7) / 7


def test_a_curve_keeps_what_is_not_a_number() -> None:
    curve = Curve()
    for x in range(20_000):
        curve.add(x, math.nan if x == 12_345 else 1.0)
    assert [x for x, y in curve.points if math.isnan(y)] == [12_345]


FLOATS = st.floats(allow_nan=True, allow_infinity=True)
TOLD = st.one_of(
    st.builds(Metrics, st.dictionaries(st.sampled_from(sorted(TRAINING)), FLOATS), st.none() | st.integers(0, 50)),
    st.builds(Step, st.integers(0, 50), st.none() | st.integers(1, 50), exact=st.booleans()),
    st.builds(Evaluation, st.dictionaries(st.sampled_from(["eval_loss", "eval_runtime"]), FLOATS)),
    st.builds(Phase, st.sampled_from(events.PHASES)),
    st.builds(Crashed, st.text(max_size=20)),
    st.builds(Interrupted, st.text(max_size=20)),
    st.builds(StageStarted, st.sampled_from(["train", "merge"])),
    st.builds(StageEnded, st.sampled_from(["train", "merge"]), st.none() | st.integers(-20, 143)),
    st.builds(Config, st.dictionaries(st.sampled_from(["learning_rate", "warmup_steps"]), st.floats(0, 1))),
)


@given(st.lists(TOLD, max_size=60))
def test_any_history_has_a_state_and_a_verdict(told: list[Event]) -> None:
    state = after(*told)
    assert state.status in ("running", "finished", "failed", "interrupted")
    assert state.verdict
    json.dumps(summary(state), allow_nan=False)


EVENTS: list[Event] = [
    Step(3, 9, 1.5, True, 12.0, exact=True),
    Metrics({"loss": math.inf, "grad_norm": -math.inf}, 3, 1.0),
    Config({"a": [1, None, {"b": "ü\n"}]}),
    GpuSample((Gpu(0, "H200", 0.5, 1.0, 140.0, 40.0, 300.0, 700.0),), 5.0),
    Registered(7, {"axolotl": "0.19.0"}),
    StageEnded("train", -15, 3.0),
]


@pytest.mark.parametrize("event", EVENTS)
def test_events_survive_their_json_line(event: Event) -> None:
    line = events.to_json(event)
    assert "\n" not in line
    assert events.from_json(line) == event


def test_nan_survives_its_json_line() -> None:
    found = events.from_json(events.to_json(Metrics({"loss": math.nan})))
    assert isinstance(found, Metrics)
    assert math.isnan(found.values["loss"])


def test_metrics_of_the_plugin_are_read_under_our_names() -> None:
    found = events.from_json(
        '{"event": "metrics", "values": {"memory/max_active (GiB)": 1.5, "ppl": "nan"}, "step": 1}'
    )
    assert isinstance(found, Metrics)
    assert set(found.values) == {"active_gib", "perplexity"}


@given(st.text(max_size=60) | st.binary(max_size=40).map(lambda data: data.decode("latin-1")))
def test_foreign_lines_are_no_events(line: str) -> None:
    assert events.from_json(line) is None


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "step"}',
        '{"event": "metrics", "values": 3}',
        '{"event": "gpu_sample", "gpus": [1]}',
        '{"event": []}',
        "[1]",
    ],
)
def test_broken_events_are_none(line: str) -> None:
    assert events.from_json(line) is None


def test_a_gpu_that_ran_out_of_memory_is_named_with_what_to_do() -> None:
    state = replay(LOGS / "axolotl-0.19.0-1gpu-out-of-memory.log")
    assert (state.status, state.step) == ("failed", 0)
    assert "CUDA out of memory" in (state.failure or "")
    assert "halve micro_batch_size" in state.verdict


def test_a_run_on_two_gpus_finishes_well() -> None:
    state = replay(LOGS / "axolotl-0.19.0-2gpu-pirate.log")
    assert (state.status, state.step, state.total_steps) == ("finished", 110, 110)
    assert state.active_gib == pytest.approx(12.2)
