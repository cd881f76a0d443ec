"""The rules at work: when each is asked, how it is raised and cleared, and the one judgement of them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from ax_recipe.observe import measures
from ax_recipe.observe.alerts import SEVERITIES, Alert, Asked, Band, Given, Held, Judgement, Reading, Rule
from ax_recipe.observe.table import RULES

if TYPE_CHECKING:
    from ax_recipe.observe.state import State

LOUD = ("not_finite", "zero_loss", "frozen")
"""Alarms beside which a word on how loss and gradients go would be noise."""
ENOUGH_FOR_TARGET = 16
"""Logs before which nothing is said of the band."""
_LOOKS = 32
"""The whole table is gone through at every log at first, then whenever a 32nd of the logs so far has come ..."""
_FURTHEST = 1000
"""... and at least this often."""

BY_NAME = {rule.name: rule for rule in RULES}
_ASKED: dict[str, list[Rule]] = {}
for _rule in RULES:
    _ASKED.setdefault(_rule.asked, []).append(_rule)
_WORDS = [rule for rule in RULES if rule.words is not None]


def note(state: State, name: str) -> None:
    """Raise the alarm ``name``, once a run."""
    if all(alert.rule != name for alert in state.alerts):
        rule = BY_NAME[name]
        state.alerts.append(Alert(rule.severity, name, rule.sentence, state.step))


def read(state: State, text: str) -> None:
    """Hold a warning or the reason of a failure against every rule that knows words."""
    for rule in _WORDS:
        if rule.words is not None and rule.words.search(text):
            note(state, rule.name)


def count(state: State) -> None:
    """A training log has come: ask the rules of every log if one could hold, and now and then all the others."""
    windows = state.windows
    if state.repeats or not windows.calm(state.loss, state.grad_norm):
        ask(state, "log", windows.logs)
    warm = 0 if len(windows.baseline) == 100 else measures.warm(state)
    windows.add(state.step, state.loss, state.grad_norm, state.epoch, warm)
    if windows.logs >= windows.next_look:
        look(state)


def look(state: State) -> None:
    """Ask the rules whose windows are long; ever more seldom, so that a run of a million logs costs no more."""
    windows = state.windows
    windows.next_look = windows.logs + max(1, min(_FURTHEST, windows.logs // _LOOKS))
    if len(windows.speeds) == windows.speeds.maxlen:
        windows.best_speed = max(windows.best_speed, median(windows.speeds))
    if not any(alert.rule in LOUD for alert in state.alerts):
        ask(state, "look", windows.logs)


def ask(state: State, when: Asked, at: float) -> None:
    """Ask every rule of that kind; ``at`` is its clock: logs, evaluations, or seconds."""
    given = Given(state)
    for rule in _ASKED[when]:
        if rule.measure is not None:
            _weigh(state, rule, rule.measure(given, rule), at)


def _weigh(state: State, rule: Rule, reading: Reading | None, at: float) -> None:
    """Raise, keep or clear the alert of ``rule`` by what it has just read."""
    held = state.held.get(rule.name)
    holds = reading is not None and reading.holds
    if held is None and not holds:
        return
    if held is None:
        held = state.held[rule.name] = Held(at, at, state.step)
    held.marks = [*held.marks, holds][-rule.within :]
    if not holds:
        _ease(state, rule, held, at)
        return
    held.last = at
    if rule.asked == "log":
        state.windows.uneasy_until = max(state.windows.uneasy_until, int(at) + 2 * max(rule.window, rule.within) + 2)
    if sum(held.marks) >= rule.times and at - held.first >= rule.lasting and reading is not None:
        _raise(state, rule, held, reading)


def _raise(state: State, rule: Rule, held: Held, reading: Reading) -> None:
    fresh, held.raised = not held.raised, True
    if rule.severity == "OK" or (rule.window == 0 and not fresh):
        return
    alert = Alert(rule.severity, rule.name, rule.sentence.format(**reading.words), held.step)
    for index, old in enumerate(state.alerts):
        if old.rule == rule.name:
            state.alerts[index] = alert
            return
    state.alerts.append(alert)


def _ease(state: State, rule: Rule, held: Held, at: float) -> None:
    """A clean reading: forget what was not yet raised, clear what has been clean for long enough."""
    if held.raised and (rule.window == 0 or at - held.last < 2 * rule.window):
        return
    if held.raised or not any(held.marks):
        del state.held[rule.name]
        gone = [alert for alert in state.alerts if alert.rule == rule.name]
        state.past += gone
        state.alerts[:] = [alert for alert in state.alerts if alert not in gone]


def judge(state: State, target: Band | None = None, now: float | None = None) -> Judgement:
    """Everything there is to say: the worst severity, one verdict, all alerts.

    ``target`` is the recipe's band of the training loss, ``now`` (unix seconds) the time to judge a silence by; the
    last event's when it is left out. Alerts: how it ended, the alarms in the order in which they came, the rest.
    """
    given = Given(state, target, now)
    found = (*_ending(state), *state.alerts, *_at_once(given))
    wrong = sorted(found, key=lambda alert: -SEVERITIES.index(alert.severity))
    severity = wrong[0].severity if wrong else "OK"
    if severity in ("ACT", "STOP"):
        return Judgement(severity, " ".join(alert.message for alert in wrong[:3]), found)
    done = [_done(state)] if state.status == "finished" else []
    right = ", ".join([*done, *_right(given)])
    said = [alert.message for alert in wrong[:2]]
    if right or not said:
        right = right or "nothing to judge yet"
        said.append(f"{right[0].upper()}{right[1:]}.")
    return Judgement(severity, " ".join(said), found)


def _done(state: State) -> str:
    if not state.trained:
        return "Finished"
    if state.total_steps is None:
        return "Finished by its trainer's word (the log tells no steps: its lines are counted)"
    return "Finished: all steps done" if state.step >= state.total_steps else "Finished early, as it may"


def _ending(state: State) -> tuple[Alert, ...]:
    severity = {"failed": "STOP", "interrupted": "ACT"}.get(state.status)
    if severity is None:
        return ()
    reason = _first_sentences(state.failure or "no reason given")
    text = f"{state.status.capitalize()} at step {state.step}: {reason}."
    return (Alert(severity, state.status, text, state.step),)


def _first_sentences(text: str) -> str:
    """As many whole sentences as 160 characters hold, at least one: torch goes on about its allocator for ten."""
    head, *rest = text.split(". ")
    for sentence in rest:
        if len(head) + len(sentence) > 160:
            break
        head = f"{head}. {sentence}"
    return head.rstrip(". ")[:300]


def _at_once(given: Given) -> Iterator[Alert]:
    """The rules that need the person's target or the clock."""
    for rule in _ASKED["judge"]:
        reading = rule.measure(given, rule) if rule.measure else None
        if reading is not None and reading.holds:
            step = reading.words.get("since", given.state.step)
            yield Alert(rule.severity, rule.name, rule.sentence.format(**reading.words), int(str(step)))


def _right(given: Given) -> Iterator[str]:
    """What is well, in the order of the four things that a person looks at, unless an alert says otherwise."""
    state = given.state
    raised = {alert.rule for alert in state.alerts}
    if not raised & {*LOUD, "rising", "divergence", "lasting_spike"}:
        yield from _loss_words(given)
    norms = [y for _, y in state.grad_norms.tail(measures.SETTLED) if math.isfinite(y)]
    if len(norms) >= 16 and not raised & {*LOUD, "grad_drift", "grad_explosion"}:
        yield f"the gradient norm is stable around {median(norms[-8:]):.3g}"
    schedule = measures.off_schedule(given, BY_NAME["learning_rate"])
    if schedule is not None and not schedule.holds:
        yield f"the learning rate follows its {schedule.words['name']} schedule"
    actives = [y for _, y in state.actives.tail(measures.SETTLED) if math.isfinite(y)]
    if len(actives) >= 8 and any(actives) and "memory" not in raised:
        yield f"memory is flat at {median(actives[-max(1, len(actives) // 4) :]):.2f} GiB"


def _loss_words(given: Given) -> Iterator[str]:
    state = given.state
    ends = measures.ends(state)
    if ends is None:
        return
    early, late = ends
    yield f"the loss falls ({early:.4g} to {late:.4g})" if late < early * 0.99 else f"the loss is level at {late:.4g}"
    recent = state.windows.losses
    if given.target and state.stage in measures.ALONE and len(recent.values) >= ENOUGH_FOR_TARGET:
        low, high = given.target
        at = recent.late(min(measures.SETTLED, len(recent.values)))
        if low <= at <= high:
            yield f"within its target of {low:g} to {high:g}"


def explain(state: State, target: Band | None = None, now: float | None = None) -> list[tuple[Rule, str, str]]:
    """Each rule with how it stands (``holds since step 7``, ``clean``, ``not known``) and its numbers."""
    given = Given(state, target, now)
    raised = {alert.rule: alert for alert in judge(state, target, now).alerts}
    rows = []
    for rule in RULES:
        reading = rule.measure(given, rule) if rule.measure else None
        numbers = "" if reading is None else f"{reading.value:.4g} against {reading.limit:.4g}"
        if rule.name in raised:
            stands = f"holds since step {raised[rule.name].step}"
        elif reading is None:
            stands = "not seen" if rule.asked == "words" else "not known"
        else:
            stands = "holds" if reading.holds else "clean"
        rows.append((rule, stands, numbers))
    return rows
