"""How each rule reads the state: pure functions from what is given to a value against its limit, or None for unknown.

A window counts logs. Beyond 4096 logs a curve keeps only extremes, so the long windows are approximate there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from ax_recipe.observe.alerts import Given, Reading, Rule
from ax_recipe.observe.events import Gpu
from ax_recipe.observe.schedule import warmup_steps

if TYPE_CHECKING:
    from ax_recipe.observe.state import State

GIB_ENOUGH = 1.0  # less than this is the CPU, or a toy
ALONE = (None, "train")
"""The stages whose loss the recipe's band is about; a foreign log has no stage."""
SETTLED = 50
"""Logs whose median says where the loss stands to the band."""


def not_finite(given: Given, _rule: Rule) -> Reading | None:
    """Loss or gradient norm is nan or infinite."""
    known = [value for value in (given.state.loss, given.state.grad_norm) if value is not None]
    wild = [value for value in known if not math.isfinite(value)]
    return Reading(bool(wild), (wild or known)[0], math.inf) if known else None


def zero_loss(given: Given, rule: Rule) -> Reading | None:
    """The loss is 0; a gradient that is not finite is the louder alarm, for transformers prints such a loss as 0."""
    loss, grad = given.state.loss, given.state.grad_norm
    if loss is None:
        return None
    return Reading(abs(loss) <= rule.limit and (grad is None or math.isfinite(grad)), abs(loss), rule.limit)


def frozen(given: Given, rule: Rule) -> Reading | None:
    """The gradient norm is 0."""
    grad = given.state.grad_norm
    return None if grad is None else Reading(grad == rule.limit, grad, rule.limit)


def ranks_alone(given: Given, rule: Rule) -> Reading | None:
    """Several logs of the same step."""
    repeats = given.state.repeats
    return Reading(repeats >= rule.limit, repeats, rule.limit)


def spike(given: Given, rule: Rule) -> Reading | None:
    """The loss against the median of the logs before it and their spread."""
    loss, recent = given.state.loss, given.state.windows.losses
    if loss is None or recent.middle is None or recent.middle <= 0:
        return None
    middle = recent.middle
    limit = max(middle + 6 * max(recent.spread, 0.02 * middle), rule.limit * middle, middle + 0.05)
    words = {"ratio": f"{loss / middle:.1f}", "usual": f"{middle:.4g}", "value": f"{loss:.4g}"}
    return Reading(loss > limit, loss, limit, words)


def divergence(given: Given, rule: Rule) -> Reading | None:
    """The smoothed loss against the best it has been."""
    windows = given.state.windows
    if not math.isfinite(windows.best_average):
        return None
    limit = rule.limit * windows.best_average + 0.1
    words = {"value": f"{windows.average:.4g}", "best": f"{windows.best_average:.4g}"}
    return Reading(windows.average > limit, windows.average, limit, words)


def explosion(given: Given, rule: Rule) -> Reading | None:
    """The gradient norm against 100, and against the median of those before it."""
    grad, usual = given.state.grad_norm, given.state.windows.grads.middle
    if grad is None:
        return None
    limit = 100.0 if usual is None else min(100.0, rule.limit * usual)
    words = {"value": f"{grad:.3g}", "usual": "unknown" if usual is None else f"{usual:.3g}"}
    return Reading(grad > limit, grad, limit, words)


def drift(given: Given, rule: Rule) -> Reading | None:
    """The median gradient norm against the run's own band: half to twice that of the 100 logs behind the warm-up."""
    windows = given.state.windows
    if len(windows.baseline) < 100 or windows.logs < 150:
        return None
    own, late = median(windows.baseline), windows.grads.late(rule.window)
    factor = max(late / own, own / late) if own and late else math.inf
    return Reading(factor > rule.limit, factor, rule.limit, {"value": f"{late:.3g}", "own": f"{own:.3g}"})


def bad_start(given: Given, rule: Rule) -> Reading | None:
    """The first losses, if nothing has brought them down since the warm-up: that of random weights falls at once."""
    state, windows = given.state, given.state.windows
    if windows.logs < 20 or len(windows.start) < 10 or state.step < 2 * warm(state):
        return None
    start = median(windows.start)
    stays = windows.best_average > 0.9 * start
    return Reading(start > rule.limit and stays, start, rule.limit, {"value": f"{start:.3g}"})


def rising(given: Given, rule: Rule) -> Reading | None:
    """The median of the last 20 logs of the loss against that of the first 10."""
    windows = given.state.windows
    if windows.logs < 40 or len(windows.start) < 10 or len(windows.losses.values) < 20:
        return None
    early, late = median(windows.start), windows.losses.late(20)
    words = {"early": f"{early:.4g}", "late": f"{late:.4g}"}
    return Reading(late > early * rule.limit + 0.02, late, early * rule.limit + 0.02, words)


def ends(state: State) -> tuple[float, float] | None:
    """The medians of the loss's first and last third; None while there are fewer than 8."""
    values = [y for _, y in state.losses.points if math.isfinite(y)]
    if len(values) < 8:
        return None
    third = max(2, min(len(values) // 3, 200))
    return median(values[:third]), median(values[-third:])


def plateau(given: Given, rule: Rule) -> Reading | None:
    """How far the loss fell within the last fifth of the run, against what its noise can tell apart."""
    state = given.state
    logs = (state.total_steps or 0) // state.windows.every
    if state.windows.logs < max(rule.window, logs // 5) + 16:
        return None
    kept = min(1.0, len(state.losses) / state.windows.logs)
    count = max(rule.window, int(logs // 5 * kept))
    return _fall(state.losses.tail(count), rule.limit)


def still_falling(state: State) -> Reading | None:
    """How far the loss fell within the last fifth of its logs, however few; None of fewer than 12."""
    count = len(state.losses) // 5
    return _fall(state.losses.tail(count), 0.05) if count >= 12 else None


def _fall(points: Sequence[tuple[float, float]], share: float) -> Reading | None:
    values = [y for _, y in points]
    if not math.isfinite(sum(values)):
        return None
    third = len(values) // 3
    first, last = values[:third], values[-third:]
    fell = fmean(first) - fmean(last)
    error = math.sqrt((stdev(first) ** 2 + stdev(last) ** 2) / third)
    limit = max(share * fmean(values), 2 * error)
    return Reading(fell < limit, fell, limit, {"value": f"{fmean(values):.3g}", "since": f"{points[0][0]:.0f}"})


def above_target(given: Given, rule: Rule) -> Reading | None:
    """A plateau that lies above the band."""
    state, held = given.state, given.state.held.get("plateau")
    if given.target is None or state.stage not in ALONE or not state.windows.losses.full:
        return None
    late = state.windows.losses.late(SETTLED)
    rate = (state.config or {}).get("learning_rate")
    low = isinstance(rate, int | float) and rate < 1e-4
    words = {
        "value": f"{late:.3g}",
        "high": f"{given.target[1]:g}",
        "since": held.step if held else 0,
        "more": " The rate is low: 2 to 5 times it may do as well." if low else "",
    }
    flat = held is not None and held.raised
    return Reading(flat and late > given.target[1] + rule.limit, late, given.target[1], words)


def below_target(given: Given, rule: Rule) -> Reading | None:
    """The median loss against the lower end of the band."""
    state = given.state
    if given.target is None or state.stage not in ALONE or len(state.windows.losses.values) < SETTLED:
        return None
    late, low = state.windows.losses.late(SETTLED), given.target[0]
    words = {"value": f"{late:.3g}", "low": f"{low:g}"}
    return Reading(late < rule.limit * low, late, rule.limit * low, words)


def memorising(given: Given, rule: Rule) -> Reading | None:
    """How far the loss fell where the last epoch began, beyond its trend."""
    falls = given.state.windows.falls
    if not falls:
        return None
    step, share = falls[-1]
    return Reading(share > rule.limit, share, rule.limit, {"share": f"{share:.0%}", "step": step})


def overfit(given: Given, rule: Rule) -> Reading | None:
    """The last two evaluations against the best one, while the training loss still falls."""
    state = given.state
    scores = [(x, y) for x, y in state.eval_losses.points if math.isfinite(y)]
    if len(scores) < 3:
        return None
    step, best = min(scores, key=lambda point: point[1])
    limit = rule.limit * best
    worse = all(y > limit and x > step for x, y in scores[-2:])
    then = [y for x, y in state.losses.points if x <= step][-8:]
    late = [y for _, y in state.losses.tail(8)]
    falls = bool(then and late) and median(late) < median(then)
    words = {"value": f"{scores[-1][1]:.4g}", "best": f"{best:.4g}", "step": f"{step:.0f}"}
    return Reading(worse and falls, min(y for _, y in scores[-2:]), limit, words)


def held_out(given: Given, _rule: Rule) -> Reading | None:
    """Whether the configuration keeps rows for an evaluation, once training goes on."""
    state = given.state
    if state.config is None or not state.step or state.stage not in ALONE or not state.trained:
        return None
    kept = float(state.config.get("val_set_size") or 0)
    none = not kept and not state.config.get("test_datasets") and not state.eval_losses.points
    return Reading(none, kept, 0.0)


def off_schedule(given: Given, rule: Rule) -> Reading | None:
    """The logged learning rate against the configured schedule, in shares of the peak."""
    state = given.state
    rate, due = state.learning_rate, state.learning_rate_expected
    peak = (state.config or {}).get("learning_rate")
    if rate is None or due is None or not isinstance(peak, int | float) or not peak:
        return None
    away = abs(rate - due) / peak
    name = str((state.config or {}).get("lr_scheduler") or "cosine")
    words = {"value": f"{rate:.4g}", "due": f"{due:.4g}", "name": name}
    return Reading(away > rule.limit, away, rule.limit, words)


def leak(given: Given, rule: Rule) -> Reading | None:
    """Four successive medians of active memory: each no lower than the one before, and all in all more."""
    state = given.state
    logs = (state.total_steps or 0) // state.windows.every
    block = rule.window if logs >= 8 * rule.window else max(12, logs // 8)
    points = state.actives.tail(4 * block)
    if len(points) < 4 * block:
        return None
    medians = [median(y for _, y in points[start : start + block]) for start in range(0, 4 * block, block)]
    grown, limit = medians[3] - medians[0], max(rule.limit * medians[0], 0.25)
    steps = (points[-1][0] - points[0][0]) * 0.75 or 1
    card = _card(state)
    left = (card - (state.reserved_gib or medians[3])) / grown * steps if card and grown > 0 else None
    words = {
        "early": f"{medians[0]:.2f}",
        "late": f"{medians[3]:.2f}",
        "rate": f"{1000 * grown / steps:.2f}",
        "left": "" if left is None else f", out of memory in about {left:,.0f} steps",
    }
    return Reading(medians == sorted(medians) and grown > limit, grown, limit, words)


def fragments(given: Given, rule: Rule) -> Reading | None:
    """Reserved memory against active memory."""
    active, reserved = given.state.active_gib, given.state.reserved_gib
    if not active or not reserved or active < GIB_ENOUGH:
        return None
    ratio = reserved / active
    words = {"ratio": f"{ratio:.2f}", "active": f"{active:.1f}", "reserved": f"{reserved:.1f}"}
    return Reading(ratio > rule.limit and reserved - active > GIB_ENOUGH, ratio, rule.limit, words)


def near_oom(given: Given, rule: Rule) -> Reading | None:
    """Reserved memory against the card."""
    card, reserved = _card(given.state), given.state.reserved_gib
    if not card or not reserved:
        return None
    share = reserved / card
    return Reading(share > rule.limit, share, rule.limit, {"share": f"{share:.0%}", "left": f"{card - reserved:.1f}"})


def _card(state: State) -> float:
    return max((gpu.memory_total_gib or 0.0 for gpu in state.gpus), default=0.0)


def slow(given: Given, rule: Rule) -> Reading | None:
    """The median speed of the last logs against the best such median."""
    windows = given.state.windows
    if not windows.best_speed:
        return None
    late = median(windows.speeds)
    words = {"drop": f"{1 - late / windows.best_speed:.0%}"}
    return Reading(late < rule.limit * windows.best_speed, late / windows.best_speed, rule.limit, words)


def hang(given: Given, rule: Rule) -> Reading | None:
    """Seconds since anything came of the run, while it should be training, against its own pace."""
    state = given.state
    now = given.now if given.now is not None else state.now
    pace = state.step_seconds
    if state.status != "running" or state.phase != "training" or pace is None or now is None or state.moved is None:
        return None
    silent, limit = now - state.moved, max(rule.limit, 10 * pace)
    busy = [gpu for gpu in state.gpus if _stuck(gpu)]
    stuck = " The GPUs are busy at low power: a collective call waits for a rank that does not come." if busy else ""
    return Reading(silent > limit, silent, limit, {"silent": f"{silent / 60:.0f}", "pace": f"{pace:.3g}", "why": stuck})


def _stuck(gpu: Gpu) -> bool:
    busy = gpu.utilisation is not None and gpu.utilisation > 0.95
    return busy and bool(gpu.power_w and gpu.power_limit_w and gpu.power_w < 0.5 * gpu.power_limit_w)


def lagging(given: Given, rule: Rule) -> Reading | None:
    """The least busy of the GPUs that hold the run's memory, against their median."""
    state = given.state
    most = max((gpu.memory_used_gib or 0.0 for gpu in state.gpus), default=0.0)
    used = [gpu for gpu in state.gpus if (gpu.memory_used_gib or 0.0) > max(GIB_ENOUGH, most / 2)]
    if state.world_size < 2 or len(used) < 2 or state.phase != "training" or state.status != "running":
        return None
    shares = [(_share(gpu, used), gpu.index) for gpu in used]
    share, index = min(shares)
    return Reading(share < rule.limit, share, rule.limit, {"gpu": index, "share": f"{share:.0%}"})


def _share(gpu: Gpu, group: list[Gpu]) -> float:
    """The smaller of this GPU's utilisation and power as shares of the group's medians."""
    shares = [1.0]
    for name in ("utilisation", "power_w"):
        known = [value for each in group if (value := getattr(each, name)) is not None]
        own = getattr(gpu, name)
        if own is not None and known and median(known):
            shares.append(own / median(known))
    return min(shares)


def throttled(given: Given, rule: Rule) -> Reading | None:
    """A GPU that its driver slows down, or that is within two degrees of it."""
    hot = [
        gpu
        for gpu in given.state.gpus
        if gpu.throttled or (gpu.temperature_c and gpu.slowdown_c and gpu.temperature_c >= gpu.slowdown_c - rule.limit)
    ]
    if not given.state.gpus:
        return None
    names = ", ".join(f"GPU {gpu.index}" for gpu in hot)
    why = next((gpu.throttled for gpu in hot if gpu.throttled), "heat")
    return Reading(bool(hot), len(hot), 0, {"names": names, "why": why})


def disk(given: Given, rule: Rule) -> Reading | None:
    """Free space against what the next checkpoints need; after the last step there are none."""
    state, room = given.state, given.state.disk
    if room is None or not room.checkpoint_gib or (state.total_steps and state.step >= state.total_steps):
        return None
    limit = rule.limit * room.checkpoint_gib
    words = {"free": f"{room.free_gib:.1f}", "size": f"{room.checkpoint_gib:.1f}"}
    return Reading(room.free_gib < limit, room.free_gib, limit, words)


def mirror(given: Given, _rule: Rule) -> Reading | None:
    """Whether the last copy to where else the run is kept failed."""
    told = given.state.mirror
    return Reading(bool(told.error), float(bool(told.error)), 0, {"error": told.error.rstrip(".")}) if told else None


def stale(given: Given, rule: Rule) -> Reading | None:
    """Steps since the last checkpoint against the configured interval."""
    state = given.state
    interval = _save_interval(state)
    if interval is None or state.status != "running":
        return None
    saved = state.checkpoint.step if state.checkpoint else state.windows.first_step
    if saved is None:
        return None
    since = state.step - saved
    words = {"since": f"{since:,}", "interval": f"{interval:,.0f}"}
    return Reading(since > rule.limit * interval, since, rule.limit * interval, words)


def _save_interval(state: State) -> float | None:
    """Steps between two checkpoints as configured; None where that is not known."""
    config, total = state.config or {}, state.total_steps
    if not total or config.get("save_strategy") in ("no", "best"):
        return None
    steps, saves = config.get("save_steps"), config.get("saves_per_epoch")
    epochs = state.total_epochs or config.get("num_epochs")
    if isinstance(steps, int | float) and steps > 0:
        return float(steps) if steps >= 1 else steps * total
    if isinstance(saves, int | float) and saves > 0 and isinstance(epochs, int | float) and epochs > 0:
        return max(1.0, total / (saves * epochs))
    return None


def watchdog_near(given: Given, _rule: Rule) -> Reading | None:
    """The loss against Axolotl's own threshold."""
    threshold = (given.state.config or {}).get("loss_watchdog_threshold")
    if not isinstance(threshold, int | float) or given.state.loss is None:
        return None
    words = {"value": f"{given.state.loss:.4g}", "threshold": f"{threshold:g}"}
    return Reading(given.state.loss > threshold, given.state.loss, threshold, words)


def warm(state: State) -> int:
    """The steps that warm up; 16 where nothing is known of them."""
    if state.config is None or state.total_steps is None:
        return 16
    return max(16, warmup_steps(state.config, state.total_steps))
