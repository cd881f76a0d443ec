"""What is worth a word about a run, as data: events that alarm at once, and the four judgements of its health."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ax_recipe.observe.state import State

SEVERITIES = ("OK", "WATCH", "ACT", "STOP")


@dataclass(frozen=True, slots=True)
class Alert:
    """One finding: ``severity`` is one of ``SEVERITIES``, ``step`` where it began."""

    severity: str
    rule: str
    message: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An alarm: ``holds`` on the newest metrics, ``times`` in a row, or ``words`` in a warning or a failure."""

    name: str
    severity: str
    message: str
    holds: Callable[[State], bool] | None = None
    times: int = 1
    words: re.Pattern[str] | None = None


def _wild(value: float | None) -> bool:
    return value is not None and not math.isfinite(value)


def _sane(state: State) -> bool:
    return math.isfinite(state.loss or 0) and abs(state.loss or 0) > 1e-6 and math.isfinite(state.grad_norm or 0)


RULES = (
    Rule(
        "not_finite",
        "STOP",
        "Loss or gradients are not finite: stop, resume from a checkpoint before this step with half the learning "
        "rate, and prefer bf16 to fp16. (transformers prints such a loss as 0.)",
        holds=lambda state: _wild(state.grad_norm) or _wild(state.loss),
    ),
    Rule(
        "zero_loss",
        "STOP",
        "The loss is exactly 0: all labels are masked, or packing meets an attention that cannot keep rows apart. "
        "Look at the labels with `axolotl preprocess --debug`.",
        holds=lambda state: state.loss is not None and abs(state.loss) <= 1e-6 and not _wild(state.grad_norm),
        times=3,
    ),
    Rule(
        "frozen",
        "STOP",
        "The gradient is exactly 0: nothing reaches the trained weights. Check adapter, target modules and masking.",
        holds=lambda state: state.grad_norm == 0,
        times=3,
    ),
    Rule(
        "ranks_alone",
        "STOP",
        "The processes train independently of each other: check the launcher (on the CPU set ACCELERATE_USE_CPU=true).",
        holds=lambda state: state.repeats >= 3,
        words=re.compile(r"parallel_mode != ParallelMode\.DISTRIBUTED"),
    ),
    Rule(
        "plugin_failed",
        "ACT",
        "A plugin could not be loaded and Axolotl goes on without it: check its name and where it is installed.",
        words=re.compile(r"Failed to load plugin: \S+"),
    ),
    Rule(
        "no_eval_loss",
        "WATCH",
        "An evaluation gave no eval_loss: its set is too small for packing. Set eval_sample_packing: false.",
    ),
    Rule(
        "watchdog",
        "STOP",
        "Axolotl's loss watchdog stopped the training: the loss stayed above loss_watchdog_threshold.",
        words=re.compile(r"Loss is too high, stopping training"),
    ),
    Rule(
        "out_of_memory",
        "STOP",
        "Out of memory: halve micro_batch_size and double gradient_accumulation_steps, turn on "
        "gradient_checkpointing, or shorten sequence_len.",
        words=re.compile(r"OutOfMemoryError|CUDA out of memory|DefaultCPUAllocator: can't allocate memory"),
    ),
    Rule(
        "crashed_late",
        "WATCH",
        "A process crashed after the model was saved: the log's last lines say what it was still about to do.",
    ),
    Rule(
        "killed",
        "STOP",
        "A process was killed (SIGKILL), most often for want of host memory: fewer dataset_num_proc and "
        "dataloader workers.",
        words=re.compile(r"exitcode: -9|SIGKILL|^Killed|oom.kill"),
    ),
)
_BY_NAME = {rule.name: rule for rule in RULES}


def note(state: State, name: str) -> None:
    """Raise the alarm ``name`` once a run."""
    if all(alert.rule != name for alert in state.alerts):
        rule = _BY_NAME[name]
        state.alerts.append(Alert(rule.severity, name, rule.message, state.step))


def count(state: State) -> None:
    """Hold the newest metrics against every rule that asks for them."""
    if state.loss and state.grad_norm and not state.counts and not state.repeats and _sane(state):
        return  # nearly every step: no rule can hold
    for rule in RULES:
        if rule.holds is None:
            continue
        if not rule.holds(state):
            state.counts.pop(rule.name, None)
            continue
        state.counts[rule.name] = state.counts.get(rule.name, 0) + 1
        if state.counts[rule.name] == rule.times:
            note(state, rule.name)


def read(state: State, text: str) -> None:
    """Hold a warning or the reason of a failure against every rule that knows words."""
    for rule in RULES:
        if rule.words is not None and rule.words.search(text):
            note(state, rule.name)


def alerts(state: State) -> list[Alert]:
    """Everything to say now: the alarms raised, the way the run ended, and the judgements that are not OK."""
    ended = _ending(state)
    judged = [alert for judge in JUDGEMENTS if (alert := judge(state)) is not None and alert.severity != "OK"]
    return [*ended, *state.alerts, *judged]


def judge(state: State) -> tuple[str, str]:
    """The worst severity, and the verdict: how it ended, what is wrong, and what is right."""
    wrong = sorted(alerts(state), key=lambda alert: -SEVERITIES.index(alert.severity))
    if wrong:
        return wrong[0].severity, " ".join(alert.message for alert in wrong[:3])
    right = [alert.message for judge in JUDGEMENTS if (alert := judge(state)) is not None]
    done = "Finished: all steps done" if state.trained else "Finished"
    said = [done, *right] if state.status == "finished" else right
    text = ", ".join(said) or "nothing to judge yet"
    return "OK", f"{text[0].upper()}{text[1:]}."


def _ending(state: State) -> list[Alert]:
    severity = {"failed": "STOP", "interrupted": "ACT"}.get(state.status)
    if severity is None:
        return []
    reason = (state.failure or "no reason given").rstrip(".")
    return [Alert(severity, state.status, f"{state.status.capitalize()} at step {state.step}: {reason}.", state.step)]


def _falling(state: State) -> Alert | None:
    values = [y for _, y in state.losses.points if math.isfinite(y)]
    if len(values) < 8 or _silent(state):
        return None
    third = max(2, min(len(values) // 3, 200))
    early, late = median(values[:third]), median(values[-third:])
    if late < early * 0.99:
        return Alert("OK", "loss", f"the loss falls ({early:.4g} to {late:.4g})")
    if late > early * 1.1:
        return Alert("WATCH", "loss", f"The loss has risen from {early:.4g} to {late:.4g}.", state.step)
    return Alert("OK", "loss", f"the loss is level at {late:.4g}")


def _steady(state: State) -> Alert | None:
    values = [y for _, y in state.grad_norms.points if math.isfinite(y)]
    if len(values) < 16 or _silent(state):
        return None
    band, late = median(values), median(values[-8:])
    if late > 100 or late > 10 * band:
        return Alert(
            "ACT", "grad_norm", f"Gradient norms explode ({band:.3g} to {late:.3g}): lower the rate.", state.step
        )
    return Alert("OK", "grad_norm", f"the gradient norm is stable around {late:.3g}")


def _on_schedule(state: State) -> Alert | None:
    rate, due = state.learning_rate, state.learning_rate_expected
    if rate is None or due is None or state.config is None:
        return None
    peak = float(state.config["learning_rate"])
    name = state.config.get("lr_scheduler") or "cosine"
    if abs(rate - due) > 0.02 * peak:
        return Alert(
            "ACT", "learning_rate", f"The learning rate is {rate:.4g} where {name} says {due:.4g}.", state.step
        )
    return Alert("OK", "learning_rate", f"the learning rate follows its {name} schedule")


def _flat(state: State) -> Alert | None:
    values = [y for _, y in state.actives.points if math.isfinite(y)]
    if len(values) < 8 or not any(values):
        return None
    quarter = max(1, len(values) // 4)
    quarters = [median(values[index * quarter : (index + 1) * quarter]) for index in range(4)]
    grown = quarters[3] - quarters[0]
    if quarters == sorted(quarters) and grown > max(0.02 * quarters[0], 0.25):
        return Alert("WATCH", "memory", f"Active memory grows: {quarters[0]:.2f} to {quarters[3]:.2f} GiB.", state.step)
    return Alert("OK", "memory", f"memory is flat at {quarters[3]:.2f} GiB")


def _silent(state: State) -> bool:
    """Whether a louder alarm already says what is wrong with loss and gradients."""
    return any(alert.rule in ("not_finite", "zero_loss", "frozen") for alert in state.alerts)


JUDGEMENTS: tuple[Callable[[State], Alert | None], ...] = (_falling, _steady, _on_schedule, _flat)
