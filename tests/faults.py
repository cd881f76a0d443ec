"""Runs that went well, recorded; and what went wrong with them, made by altering those records."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean

from ax_recipe.observe import rules
from ax_recipe.observe.alerts import Alert, Band
from ax_recipe.observe.events import (
    Began,
    Config,
    Crashed,
    DiskSample,
    Evaluation,
    Event,
    Gpu,
    GpuSample,
    Metrics,
    MirrorSample,
    Phase,
    Saved,
    Step,
    Tick,
    Warned,
    from_json,
)
from ax_recipe.observe.folding import advance
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.schedule import expected
from ax_recipe.observe.state import State

LOGS = Path(__file__).parent / "logs"
WELL = (
    "1gpu-ok", "1gpu-flex-liger", "4gpu-ok", "ok", "2ranks-ok", "2ranks-tee-ok", "resumed", "min-lr-killed",
    "plugin-ok", "2gpu-pirate", "pirate-tiny", "pirate-tiny-base",
)  # fmt: skip
CONFIG = {
    "learning_rate": 1e-3,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.05,
    "val_set_size": 0.02,
    "saves_per_epoch": 1,
    "num_epochs": 4,
}
STRETCH = 5
BAND = (1.5, 2.5)


def recorded(name: str) -> list[Event]:
    """What the recorded run told: its exact events where the plugin wrote them, else its log."""
    exact = LOGS / f"axolotl-0.19.0-{name}.jsonl"
    if exact.exists():
        found = [event for line in exact.read_text("utf-8").splitlines() if (event := from_json(line))]
        if name == "pirate-tiny":
            return [Config(CONFIG), *found]
        log = exact.with_suffix(".log")
        return [*found, *from_text(log.read_text("utf-8", "replace"))] if log.exists() else found
    return from_text((LOGS / f"axolotl-0.19.0-{name}.log").read_text("utf-8", "replace"))


def good(name: str) -> list[Event]:
    """A run that went well, by its name in ``WELL``, or ``long``."""
    return long() if name == "long" else recorded(name)


def from_text(text: str) -> list[Event]:
    """The events of a log's text."""
    reader = LogReader()
    lines = text.replace("\r", "\n").split("\n")
    return [*reader.read(lines), *reader.finish(text.endswith("\n"))]


def long() -> list[Event]:
    """pirate-tiny at five times its length, a log a step: its curves, its noise, and the memory of a real GPU run."""
    return list(_long())


@cache
def _long() -> tuple[Event, ...]:
    real = [event for event in recorded("pirate-tiny") if isinstance(event, Metrics) and "loss" in event.values]
    noise = [_residual(real, index) for index in range(len(real))]
    memory = [event.values for event in recorded("4gpu-ok") if isinstance(event, Metrics)][1:]
    evaluations = {event.step: event for event in recorded("pirate-tiny") if isinstance(event, Evaluation)}
    total, start = 183 * STRETCH, 1_000_000.0
    out: list[Event] = [Config(CONFIG, start), Began(total, 4, 8, 1, 4.0, start, True), Phase("training", start, True)]
    for step in range(1, total + 1):
        time = start + 2.0 * step
        values = dict(_between(real, step / STRETCH))
        values["loss"] *= 1 + noise[(7 * step) % len(noise)]
        values["grad_norm"] *= 1 + noise[(11 * step) % len(noise)]
        values |= {name: memory[step % len(memory)][name] for name in ("active_gib", "allocated_gib", "reserved_gib")}
        values["learning_rate"] = expected(CONFIG, total, step - 1) or 0.0
        values["tokens_per_second_per_gpu"] = 7400 * (1 + noise[(5 * step) % len(noise)])
        out += [Step(step, total, None, False, time, True), Metrics(values, step, time, True)]
        if step % STRETCH == 0 and (scored := evaluations.get(step // STRETCH)):
            out.append(Evaluation(scored.values, step, time, True))
        if step % (total // 4) == 0:
            out.append(Saved(f"out/checkpoint-{step}", step, time, True))
        if step % 10 == 0:
            out += [GpuSample(tuple(map(_gpu, range(4))), time), DiskSample(900.0, 2.0, time)]
    return tuple(out)


def _residual(real: list[Metrics], index: int) -> float:
    """How far a log's loss lies from its neighbours' mean, as a share."""
    near = [event.values["loss"] for event in real[max(0, index - 4) : index + 5]]
    return (real[index].values["loss"] - fmean(near)) / fmean(near) if 4 < index < len(real) - 5 else 0.0


def _between(real: list[Metrics], at: float) -> Iterator[tuple[str, float]]:
    """The logged values at a step between two logs, averaged over five logs."""
    index = min(len(real) - 2, max(0, int(at / 2) - 1))
    share = at / 2 - 1 - index
    for name in ("loss", "grad_norm", "epoch"):
        reach = 0 if name == "epoch" else 2
        pair = [fmean(e.values[name] for e in real[max(0, i - reach) : i + reach + 1]) for i in (index, index + 1)]
        yield name, pair[0] + share * (pair[1] - pair[0])


def _gpu(index: int) -> Gpu:
    return Gpu(index, "NVIDIA A100-SXM4-80GB", 0.97, 24.0, 79.2, 60, 330, 400, 90)


Change = Callable[[int, dict[str, float]], dict[str, float]]


def changed(change: Change, events: Iterable[Event] | None = None) -> list[Event]:
    """``long()`` with the values of each log as ``change(step, values)`` has them."""
    out: list[Event] = []
    for event in long() if events is None else events:
        if isinstance(event, Metrics):
            event = replace(event, values=change(event.step or 0, dict(event.values)))
        out.append(event)
    return out


def scaled(name: str, begin: int, factor: Callable[[int], float]) -> list[Event]:
    """``long()`` with one value multiplied by ``factor(steps since begin)`` from step ``begin`` on."""

    def change(step: int, values: dict[str, float]) -> dict[str, float]:
        return {**values, name: values[name] * factor(step - begin)} if step >= begin else values

    return changed(change)


def fixed(begin: int, end: int = 10**9, **values: float) -> list[Event]:
    """``long()`` with some values fixed from ``begin`` to before ``end``."""
    return changed(lambda step, old: {**old, **values} if begin <= step < end else old)


def flat(begin: int, level: float) -> list[Event]:
    """``long()`` whose loss stays at ``level``, with its own noise, from ``begin`` on."""
    base = long()
    real = {event.step: event.values["loss"] for event in base if isinstance(event, Metrics)}
    mean = fmean(value for step, value in real.items() if step and step >= begin)

    def change(step: int, values: dict[str, float]) -> dict[str, float]:
        near = fmean(real[each] for each in range(max(1, step - 10), min(915, step + 10) + 1))
        return {**values, "loss": level * values["loss"] / near} if step >= begin else values

    return changed(change, base) if mean else base


def without(*kinds: type[Event]) -> list[Event]:
    """``long()`` without some kinds of events."""
    return [event for event in long() if type(event) not in kinds]


def only(events: list[Event], until: int) -> list[Event]:
    """The events up to step ``until``."""
    out: list[Event] = []
    for event in events:
        if isinstance(event, Step) and event.step > until:
            break
        out.append(event)
    return out


def sampled(begin: int, change: Callable[[Gpu], Gpu]) -> list[Event]:
    """``long()`` with other GPUs from step ``begin`` on."""
    start = 1_000_000.0 + 2.0 * begin
    return [
        replace(event, gpus=tuple(map(change, event.gpus)))
        if isinstance(event, GpuSample) and (event.time or 0) >= start
        else event
        for event in long()
    ]


def scores(*losses: float) -> list[Event]:
    """``long()`` with other evaluations: one every 150 steps."""
    out: list[Event] = []
    told = iter(losses)
    for event in long():
        if isinstance(event, Evaluation):
            continue
        out.append(event)
        if isinstance(event, Metrics) and event.step and event.step % 150 == 0:
            out.append(Evaluation({"eval_loss": next(told)}, event.step, event.time, True))
    return out


def text_with(name: str, value: str, after: str) -> list[Event]:
    """The real log of four GPUs with the value of a metric replaced in every line behind ``after``."""
    text = (LOGS / "axolotl-0.19.0-4gpu-ok.log").read_text("utf-8", "replace")
    head, mark, tail = text.partition(after)
    assert mark
    return from_text(head + mark + re.sub(rf"'{name}': '[^']*'", f"'{name}': '{value}'", tail))


@dataclass(frozen=True)
class Fault:
    """What was done to a real record, the rule that must say so, and the step at which it began."""

    what: str
    rule: str
    severity: str
    make: Callable[[], list[Event]]
    begin: int = 0
    target: Band | None = None


def _unscheduled(step: int, values: dict[str, float]) -> dict[str, float]:
    return {**values, "learning_rate": 1e-3} if step > 300 else values


FAULTS = (
    Fault("gradient norm nan, loss printed as 0 (text of a real log)", "not_finite", "STOP",
          lambda: text_with("grad_norm", "nan", "10/20 ["), 11),
    Fault("loss nan", "not_finite", "STOP", lambda: fixed(400, loss=math.nan), 400),
    Fault("loss 0 (text of a real log)", "zero_loss", "STOP", lambda: text_with("loss", "0", "10/20 ["), 11),
    Fault("gradient norm 0 (text of a real log)", "frozen", "STOP", lambda: text_with("grad_norm", "0", "10/20 ["), 11),
    Fault("one log with twice the loss", "spike", "WATCH",
          lambda: scaled("loss", 500, lambda n: 2.0 if n == 0 else 1), 500),
    Fault("loss jumps to 2.5 times and stays", "lasting_spike", "STOP",
          lambda: scaled("loss", 500, lambda _: 2.5), 500),
    Fault("loss grows by 1 % a step", "divergence", "STOP", lambda: scaled("loss", 450, lambda n: 1.01**n), 450),
    Fault("loss grows by 0.4 % a step", "divergence", "STOP", lambda: scaled("loss", 450, lambda n: 1.004**n), 450),
    Fault("gradient norm 15 times, every fifth log", "grad_explosion", "ACT",
          lambda: scaled("grad_norm", 500, lambda n: 15.0 if n % 5 == 0 else 1), 500),
    Fault("gradient norm 15 times, once", "grad_spike", "WATCH",
          lambda: scaled("grad_norm", 500, lambda n: 15.0 if n == 0 else 1), 500),
    Fault("gradient norm sinks to a fifth", "grad_drift", "WATCH",
          lambda: scaled("grad_norm", 400, lambda n: max(0.2, 1 - n / 100)), 400),
    Fault("loss of random weights that never falls", "bad_start", "ACT", lambda: flat(1, 11.7), 1),
    Fault("loss rises slowly to 9", "rising", "WATCH", lambda: changed(lambda s, v: {**v, "loss": 6 + s / 300}), 1),
    Fault("loss flat at 3.2, target 1.5 to 2.5", "above_target", "ACT", lambda: flat(400, 3.2), 400, BAND),
    Fault("loss at 0.2, target 1.5 to 2.5", "below_target", "WATCH", lambda: flat(700, 0.2), 700, BAND),
    Fault("loss falls by 30 % as each epoch begins", "memorising", "WATCH",
          lambda: changed(lambda s, v: {**v, "loss": v["loss"] * 0.7 ** int(s / 229)}), 229),
    Fault("held-out loss turns round", "overfit", "ACT", lambda: scores(3.0, 2.4, 2.2, 2.3, 2.5, 2.9), 450),
    Fault("no rows held out", "no_held_out", "WATCH",
          lambda: [Config({**CONFIG, "val_set_size": 0}), *without(Evaluation, Config)], 1),
    Fault("learning rate stays at its peak", "learning_rate", "ACT", lambda: changed(_unscheduled), 301),
    Fault("learning rate stays at its peak (text of a real log)", "learning_rate", "ACT",
          lambda: text_with("learning_rate", "0.0002", "11/20 ["), 12),
    Fault("active memory grows by 5 MiB a step", "memory", "WATCH",
          lambda: changed(lambda s, v: {**v, "active_gib": v["active_gib"] + 0.005 * max(0, s - 300)}), 300),
    Fault("reserved 1.5 times active", "fragmentation", "WATCH",
          lambda: scaled("reserved_gib", 400, lambda _: 1.4), 400),
    Fault("reserved 95 % of the card", "near_out_of_memory", "ACT", lambda: fixed(400, reserved_gib=75.5), 400),
    Fault("tokens a second fall by 30 %", "slow", "WATCH",
          lambda: scaled("tokens_per_second_per_gpu", 500, lambda _: 0.7), 500),
    Fault("no line for 4 minutes while training", "hang", "ACT",
          lambda: [*only(long(), 500), Tick(1_000_000.0 + 1000 + 241)], 500),
    Fault("one GPU at a third of the others' power", "imbalance", "WATCH",
          lambda: sampled(400, lambda gpu: replace(gpu, power_w=110) if gpu.index == 2 else gpu), 400),
    Fault("one GPU throttled by heat", "throttled", "WATCH",
          lambda: sampled(400, lambda gpu: replace(gpu, throttled="heat") if gpu.index == 1 else gpu), 400),
    Fault("3 GiB of disk left, checkpoints of 2 GiB", "disk", "ACT",
          lambda: [*only(long(), 400), DiskSample(3.0, 2.0, 1_000_810.0)], 400),
    Fault("the copy to the run's mirror fails", "mirror", "WATCH",
          lambda: [*only(long(), 400), MirrorSample("s3://bucket/x", "the bucket is gone", 1_000_810.0)], 400),
    Fault("no checkpoint is written", "stale_checkpoint", "WATCH",
          lambda: without(Saved), 228),
    Fault("loss above loss_watchdog_threshold", "watchdog_near", "STOP",
          lambda: [Config({**CONFIG, "loss_watchdog_threshold": 8.0}), *scaled("loss", 500, lambda _: 6.0)[1:]], 500),
    Fault("CUDA out of memory", "out_of_memory", "STOP",
          lambda: [*only(long(), 300), Crashed("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.")],
          300),
    Fault("a rank killed for host memory", "killed", "STOP",
          lambda: [*only(long(), 300), Crashed("failed (exitcode: -9) local_rank: 1 (pid: 7) of binary: python")], 300),
    Fault("NCCL timeout", "nccl_timeout", "STOP",
          lambda: [*only(long(), 300), Crashed("Watchdog caught collective operation timeout: WorkNCCL")], 300),
    Fault("disk full", "disk_full", "STOP",
          lambda: [*only(long(), 300), Crashed("OSError: [Errno 28] No space left on device")], 300),
    Fault("a plugin that is not there", "plugin_failed", "ACT",
          lambda: [Warned("Failed to load plugin: cut_cross_entropy.Plugin"), *long()]),
    Fault("every rank trains alone (recorded)", "ranks_alone", "STOP", lambda: recorded("2ranks-independent")),
    Fault("all labels masked (recorded)", "zero_loss", "STOP", lambda: recorded("masked")),
    Fault("diverged, transformers printed 0 (recorded)", "not_finite", "STOP", lambda: recorded("nan")),
    Fault("evaluation without a loss (recorded)", "no_eval_loss", "WATCH",
          lambda: recorded("packed-eval-without-loss")),
    Fault("a rank killed (recorded)", "killed", "STOP", lambda: recorded("2ranks-killed-rank")),
)  # fmt: skip


def fold(events: Iterable[Event]) -> State:
    """The state after all events."""
    state = State()
    for event in events:
        advance(state, event)
    return state


def first(fault: Fault) -> tuple[Alert, int] | None:
    """The alert of the fault's rule and the step at which it was first given; None if it never was."""
    state = State()
    for event in fault.make():
        advance(state, event)
        for alert in rules.judge(state, fault.target).alerts:
            if alert.rule == fault.rule:
                return alert, state.step
    return None
