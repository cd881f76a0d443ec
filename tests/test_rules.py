"""The rules: silent on runs that went well, loud on every fault that is put into one, and quiet again afterwards."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

import faults
from ax_recipe.observe import rules
from ax_recipe.observe.alerts import SEVERITIES
from ax_recipe.observe.events import (
    Config,
    Crashed,
    DiskSample,
    Evaluation,
    GpuSample,
    Metrics,
    Phase,
    StageStarted,
    Step,
    Tick,
)
from ax_recipe.observe.folding import advance
from ax_recipe.observe.state import State
from ax_recipe.observe.table import RULES
from ax_recipe.view import explain


@pytest.mark.parametrize("name", [*faults.WELL, "long"])
def test_a_run_that_went_well_is_never_told_to_act_or_stop(name: str) -> None:
    state = State()
    for event in faults.good(name):
        advance(state, event)
        assert rules.judge(state).severity in ("OK", "WATCH"), rules.judge(state).verdict
    assert not [alert for alert in state.past if alert.severity in ("ACT", "STOP")]


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.what)
def test_a_fault_is_caught(fault: faults.Fault) -> None:
    found = faults.first(fault)
    assert found is not None
    assert found[0].severity == fault.severity
    assert "{" not in found[0].message
    assert found[0].step is not None
    assert found[0].step <= found[1]
    assert found[1] >= fault.begin - 1, "it was told before it began"


def test_every_rule_that_measures_has_a_fault_that_shows_it() -> None:
    shown = {fault.rule for fault in faults.FAULTS}
    asked = {rule.name for rule in RULES if rule.measure and rule.severity != "OK"}
    assert asked <= shown


def test_the_table_is_whole() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.severity in SEVERITIES
        assert rule.sentence
        assert rule.source
        assert rule.definition or rule.asked == "words"
        assert rule.measure or rule.asked == "words"


def test_a_spike_is_cleared_when_the_loss_has_been_calm_for_two_windows_and_stays_known() -> None:
    fault = next(fault for fault in faults.FAULTS if fault.rule == "spike")
    state = faults.fold([event for event in fault.make() if (getattr(event, "step", 0) or 0) <= 600])
    assert [alert.rule for alert in state.alerts] == ["spike"]
    state = faults.fold(fault.make())
    assert state.alerts == []
    assert [(alert.rule, alert.step) for alert in state.past] == [("spike", 500)]


def test_an_alert_keeps_the_step_where_it_began() -> None:
    fault = next(fault for fault in faults.FAULTS if fault.rule == "memory")
    state = State()
    steps = set()
    for event in fault.make():
        advance(state, event)
        steps |= {alert.step for alert in rules.judge(state).alerts if alert.rule == "memory"}
    assert len(steps) == 1


def silent(seconds: float, phase: str = "training") -> State:
    events = faults.only(faults.long(), 300)
    last = 1_000_000.0 + 600
    return faults.fold([*events, Phase(phase, last, True), Tick(last + seconds)])


@pytest.mark.parametrize(
    ("seconds", "phase", "hangs"),
    [(179, "training", False), (181, "training", True), (3600, "evaluating", False), (3600, "saving", False)],
)
def test_a_hang_is_a_silence_while_it_should_train(seconds: float, phase: str, hangs: bool) -> None:
    assert ("hang" in [alert.rule for alert in rules.judge(silent(seconds, phase)).alerts]) is hangs


def test_a_first_step_that_compiles_is_no_hang() -> None:
    state = faults.fold([Step(0, 100, time=1.0, exact=True), Phase("compiling", 2.0, True), Tick(900.0)])
    assert rules.judge(state).alerts == ()


def test_slow_steps_make_a_hang_later() -> None:
    steps = [Step(step, 100, None, False, 100.0 * step, True) for step in range(1, 12)]
    assert rules.judge(faults.fold([*steps, Tick(1100.0 + 900)])).alerts == ()
    assert [a.rule for a in rules.judge(faults.fold([*steps, Tick(1100.0 + 1100)])).alerts] == ["hang"]


def test_a_step_ends_a_hang() -> None:
    state = silent(400)
    assert rules.judge(state).severity == "ACT"
    advance(state, Step(301, 915, None, False, 1_001_000.0, True))
    assert rules.judge(state).severity == "OK"


def test_gpus_busy_at_low_power_name_the_stuck_collective() -> None:
    state = silent(400)
    idle = tuple(replace(gpu, utilisation=1.0, power_w=100.0) for gpu in state.gpus)
    advance(state, GpuSample(idle, 1_001_000.0))
    assert "collective" in rules.judge(state).verdict


def test_a_gpu_that_the_run_does_not_use_does_not_lag() -> None:
    events = [
        replace(
            event, gpus=(*event.gpus, replace(event.gpus[0], index=7, memory_used_gib=0.3, power_w=60, utilisation=0))
        )
        if isinstance(event, GpuSample)
        else event
        for event in faults.long()
    ]
    assert "imbalance" not in [alert.rule for alert in rules.judge(faults.fold(events)).alerts]


def test_the_target_belongs_to_the_fine_tuning_alone() -> None:
    fault = next(fault for fault in faults.FAULTS if fault.rule == "above_target")
    base = faults.fold([StageStarted("base"), *fault.make()])
    assert "above_target" not in [alert.rule for alert in rules.judge(base, faults.BAND).alerts]
    assert "above_target" not in [alert.rule for alert in rules.judge(faults.fold(fault.make())).alerts]


def test_a_disk_that_holds_no_other_checkpoint_is_no_matter_after_the_last() -> None:
    state = faults.fold(faults.long())
    advance(state, DiskSample(3.0, 2.0, state.now))
    assert "disk" not in [alert.rule for alert in state.alerts]


def test_a_loss_in_its_band_is_said() -> None:
    assert "within its target of 1.5 to 2.5" in rules.judge(faults.fold(faults.long()), faults.BAND).verdict


def test_better_evaluations_end_the_word_on_overfitting() -> None:
    state = faults.fold(faults.scores(3.0, 2.4, 2.2, 2.3, 2.5, 2.9))
    assert [alert.rule for alert in state.alerts] == ["overfit"]
    for step, loss in ((920, 1.9), (940, 1.8), (960, 1.7)):
        advance(state, Evaluation({"eval_loss": loss}, step, exact=True))
    assert state.alerts == []


def test_a_million_logs_are_looked_at_seldom() -> None:
    state = State()
    looks = 0
    for step in range(1, 20_001):
        before = state.windows.next_look
        advance(state, Metrics({"loss": 1.0 + step % 7 / 50, "grad_norm": 0.5}, step))
        looks += state.windows.next_look != before
    assert looks < 400


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1, 0.2])
def test_noise_alone_is_never_told_to_act_or_stop(noise: float) -> None:
    chance, state = random.Random(7), State()
    advance(state, Config(faults.CONFIG))
    for step in range(1, 601):
        values = {
            "loss": (0.6 + 1.6 * math.exp(-step / 120)) * math.exp(chance.gauss(0, noise)),
            "grad_norm": 0.5 * math.exp(chance.gauss(0, 0.3)),
            "active_gib": 20.5 + 0.2 * chance.random(),
            "tokens_per_second_per_gpu": 7000 * math.exp(chance.gauss(0, 0.05)),
        }
        advance(state, Metrics(values, step))
        assert not {alert.severity for alert in state.alerts} & {"ACT", "STOP"}


def test_the_quality_table_is_that_of_these_cases() -> None:
    text = (Path(__file__).parents[1] / "docs" / "verdicts.md").read_text(encoding="utf-8")
    assert all(f"| {fault.what} | {fault.rule} | {fault.severity} |" in text for fault in faults.FAULTS)
    assert all(f"| {rule.name} | {rule.severity} |" in text for rule in RULES if rule.severity != "OK")
    assert f"{len(faults.WELL) + 1} of {len(faults.WELL) + 1} good runs" in text
    assert f"{len(faults.FAULTS)} of {len(faults.FAULTS)} faults caught" in text


def test_a_long_reason_leaves_room_for_the_advice() -> None:
    reason = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. " + "GPU 0 has a lot to say. " * 20
    )
    state = faults.fold([Step(3, 9), Crashed(reason)])
    assert len(rules.judge(state).verdict) < 400
    assert "halve micro_batch_size" in rules.judge(state).verdict


def test_explain_shows_every_rule_with_its_numbers() -> None:
    text = "\n".join(explain.lines(faults.fold(faults.long()), faults.BAND))
    for rule in RULES:
        assert rule.name in text
        assert rule.source in text
    assert "against" in text
