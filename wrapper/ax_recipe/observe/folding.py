"""Events folded into the state of a run: what each changes, and what the end of its process decides.

Two sources may tell of the same step. Our plugin's events are ``exact``; once one was seen in an attempt, what the
log says about steps, metrics, evaluations, checkpoints and phases is left out, and the log keeps what it alone has:
lines, warnings, tracebacks, the configuration. So feed a run's ``events.jsonl`` before its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from ax_recipe.observe import rules
from ax_recipe.observe.curve import Curve
from ax_recipe.observe.events import (
    Began,
    Completed,
    Config,
    Crashed,
    DiskSample,
    Evaluation,
    Event,
    GpuSample,
    Interrupted,
    Line,
    Metrics,
    MirrorSample,
    Parameters,
    Phase,
    Registered,
    Saved,
    StageEnded,
    StageStarted,
    Step,
    Tick,
    Warned,
)
from ax_recipe.observe.state import State, Status
from ax_recipe.observe.windows import Windows

LINE_CHARS = 2000  # of a line in the tail: a log may hold one of megabytes
_COUNTED = frozenset((Phase, Began, Step, Metrics, Evaluation, Saved, Completed, Parameters))
_OUTSIDE = frozenset((Tick, GpuSample, DiskSample, MirrorSample))  # what comes whether the run does anything or not
_CURVE_NAMES = ("losses", "eval_losses", "grad_norms", "learning_rates", "actives", "throughputs")
_NUMBERS = ("step", "epoch", "loss", "eval_loss", "first_eval_loss", "logged_step", "repeats", "checkpoint")
_NOISE = ("ChildFailedError", "CalledProcessError", "SystemExit", "failed (exitcode:", "the log ends inside a")
_INTERRUPTS = ("KeyboardInterrupt", "SignalException", "Signals.SIGINT", "Signals.SIGTERM")


def advance(state: State, event: Event) -> None:
    """Fold one event into ``state``."""
    kind = type(event)
    if kind in _COUNTED and getattr(event, "exact", False) != state.exact:
        if not state.exact:
            _trust(state)
        elif kind is not Phase or state.trained:  # until the first step the log tells more phases
            return
    time = event.time
    if time is not None:
        if state.started is None and kind not in _OUTSIDE:  # a viewer that comes late is not when the run began
            state.started = time
        if time > (state.now or 0.0):
            state.now = time
    if kind not in _OUTSIDE:
        # A line without a stamp is as new as the newest thing known when it came.
        moved = state.now if time is None else time
        if moved is not None and (state.moved is None or moved > state.moved):
            state.moved = moved
    _FOLDS[kind](state, event)


def _trust(state: State) -> None:
    """From here on the plugin is the source: what the log has counted in this attempt will come again, exactly."""
    state.exact = True
    if state.from_log:
        for name in _CURVE_NAMES:
            setattr(state, name, Curve())
        state.first_eval_loss = None
        state.windows = Windows()
    state.logged_step = None
    state.paced = None
    state.paces.clear()


def _registered(state: State, event: Registered) -> None:
    _trust(state)
    state.versions = event.versions


def _phase(state: State, event: Phase) -> None:
    if event.name == "finished":
        _reached_end(state)
        return
    if event.name in ("importing", "preparing", "loading", "compiling", "merging"):
        _recover(state)
    if state.status == "running":
        state.phase = event.name


def _reached_end(state: State) -> None:
    state.completed = True
    if state.status == "running":
        _settle(state, "finished" if _whole(state) else "interrupted")


def _whole(state: State) -> bool:
    """Whether all steps were done: an exit without an error is not enough, Axolotl also leaves so when interrupted."""
    if not state.trained:
        return True
    if (state.config or {}).get("early_stopping_patience"):
        return True
    if state.total_steps is None:  # a log without bars: the trainer's own summary is all there is
        return bool(state.summary)
    return state.step >= state.total_steps


def _settle(state: State, status: Status, reason: str | None = None) -> None:
    state.status = state.phase = status
    state.failure = reason or state.failure
    state.failed_step = state.step
    if state.windows.logs and state.trained:
        rules.look(state)


def _recover(state: State) -> None:
    if state.status != "running":
        state.status = "running"
        state.completed = False


def _began(state: State, event: Began) -> None:
    state.total_steps = event.total_steps or state.total_steps
    state.world_size = event.world_size or state.world_size
    state.total_epochs = event.epochs or state.total_epochs


def _claim(state: State) -> None:
    """A stage that begins to train owns the numbers: those of an earlier stage that trained are not its own."""
    if state.trained_stage:
        _forget(state)
        state.segments = 1
    state.trained_stage = state.stage


def _forget(state: State) -> None:
    """What was counted and judged so far is another training's."""
    for name in (*_CURVE_NAMES, *_NUMBERS):
        setattr(state, name, getattr(State(), name))
    state.paces.clear()
    state.windows = Windows()
    state.past += [alert for alert in state.alerts if alert.rule in state.held]
    state.alerts[:] = [alert for alert in state.alerts if alert.rule not in state.held]
    state.held = {}


def _again(state: State, step: int) -> None:
    """Forget the training before, for one that began anew logs its first ``step``; evaluations before that are its own.

    No step 0 would tell: a training that goes on from a checkpoint begins its bar there, too.
    """
    own = list(takewhile(lambda point: point[0] < step, reversed(state.eval_losses.points)))[::-1]
    now, last = state.step, state.eval_loss
    _forget(state)
    state.step, state.eval_loss = now, last
    for x, y in own:
        state.eval_losses.add(x, y)
    state.first_eval_loss = own[0][1] if own else None


def _step(state: State, event: Step) -> None:
    if not state.trained:
        _claim(state)
    if event.corrects:
        for curve in (state.losses, state.grad_norms, state.learning_rates, state.actives, state.throughputs):
            curve.move_last(event.step)
        state.logged_step = event.step
    if event.step < state.step and not event.corrects:
        state.segments += 1
        state.logged_step = None
        _recover(state)
    elif event.step > (state.failed_step or 0) and state.status == "failed":
        _recover(state)
    _pace(state, event)
    state.step = event.step
    state.total_steps = event.total_steps or state.total_steps
    if state.status == "running":
        state.phase = "training" if event.step else "compiling"


def _pace(state: State, event: Step) -> None:
    if event.seconds is not None:
        state.paces.append(event.seconds)
    elif event.exact and event.time is not None:
        step, time = state.paced or (event.step, event.time)
        if event.step > step:  # not state.step: a metrics event moves that between two of these
            state.paces.append((event.time - time) / (event.step - step))
        state.paced = event.step, event.time


def _metrics(state: State, event: Metrics) -> None:
    values = event.values
    step = state.step if event.step is None else event.step
    known = state.windows
    if state.trained and state.logged_step is None and known.logs and step <= known.first_step:
        _again(state, step)
    _remember(state, values)
    if "loss" not in values and "grad_norm" not in values:
        return  # a line on memory alone (Axolotl 0.11)
    if not state.trained:
        _claim(state)
    if step > state.step:
        state.step = step
    if step == state.logged_step:
        state.repeats += 1
    else:
        state.logged_step = step
        state.from_log = not event.exact
        _draw(state, step, values)
    rules.count(state)


def _remember(state: State, values: Mapping[str, float]) -> None:
    get = values.get
    state.loss = get("loss", state.loss)
    state.grad_norm = get("grad_norm", state.grad_norm)
    state.learning_rate = get("learning_rate", state.learning_rate)
    state.epoch = get("epoch", state.epoch)
    state.active_gib = get("active_gib", state.active_gib)
    state.allocated_gib = get("allocated_gib", state.allocated_gib)
    state.reserved_gib = get("reserved_gib", state.reserved_gib)
    _tokens(state, values)


def _draw(state: State, step: int, values: Mapping[str, float]) -> None:
    if "loss" in values:
        state.losses.add(step, values["loss"])
    if "grad_norm" in values:
        state.grad_norms.add(step, values["grad_norm"])
    if "learning_rate" in values:
        state.learning_rates.add(step, values["learning_rate"])
    if "active_gib" in values:
        state.actives.add(step, values["active_gib"])
    if state.tokens_per_second is not None:
        state.throughputs.add(step, state.tokens_per_second)
        state.windows.speeds.append(state.tokens_per_second)


def _tokens(state: State, values: Mapping[str, float]) -> None:
    """Axolotl tells trainable tokens a second of one GPU; the mean over all ranks since the start is second best."""
    per_gpu = values.get("tokens_per_second_per_gpu")
    if per_gpu is not None:
        state.tokens_per_second_per_gpu = per_gpu
        state.tokens_per_second = per_gpu * state.world_size
    elif state.tokens_per_second_per_gpu is None and "tokens_per_second_mean" in values:
        state.tokens_per_second = values["tokens_per_second_mean"]


def _evaluation(state: State, event: Evaluation) -> None:
    step = state.step if event.step is None else event.step
    state.epoch = event.values.get("epoch", state.epoch)
    loss = event.values.get("eval_loss")
    if loss is not None:
        state.eval_loss = loss
        state.eval_losses.add(step, loss)
        if state.first_eval_loss is None:
            state.first_eval_loss = loss
        rules.ask(state, "evaluation", len(state.eval_losses.points))
    elif "eval_runtime" in event.values and not any(name.endswith("_loss") for name in event.values):
        rules.note(state, "no_eval_loss")


def _saved(state: State, event: Saved) -> None:
    state.checkpoint = event


def _completed(state: State, event: Completed) -> None:
    state.completed = True
    state.summary.update(event.values)
    state.epoch = event.values.get("epoch", state.epoch)


def _config(state: State, event: Config) -> None:
    state.config = event.values
    if not state.exact:
        _recover(state)


def _parameters(state: State, event: Parameters) -> None:
    state.parameters = event


def _warned(state: State, event: Warned) -> None:
    state.lines.append(f"{event.level} {event.text[:LINE_CHARS]}")
    rules.read(state, event.text)


def _crashed(state: State, event: Crashed) -> None:
    state.lines.append(event.text[:LINE_CHARS])
    if state.status == "interrupted":
        return
    if state.status == "finished":
        rules.note(state, "crashed_late")
        return
    if any(word in event.text for word in _INTERRUPTS):
        if state.status == "running":
            _settle(state, "interrupted", event.text)
        return
    rules.read(state, event.text)
    noise = any(word in event.text for word in _NOISE)
    _settle(state, "failed", state.failure if noise and state.failure else event.text[:LINE_CHARS])


def _interrupted(state: State, event: Interrupted) -> None:
    if state.status == "running":
        _settle(state, "interrupted", event.reason)


def _stage_started(state: State, event: StageStarted) -> None:
    if event.stage == state.stage:  # once more: what was wrong with the attempt before is over
        state.past += state.alerts
        state.alerts.clear()
        state.held.clear()
    state.stage = event.stage
    state.stages[event.stage] = "running"
    state.exact = state.from_log = False
    state.failure = None
    state.completed = False
    state.status = "running"
    state.phase = "starting"


def _stage_ended(state: State, event: StageEnded) -> None:
    end(state, event.exit_code)
    state.stages[event.stage] = {"finished": "done"}.get(state.status, state.status)


def end(state: State, exit_code: int | None) -> None:
    """The process is gone: decide what its log left open. ``exit_code`` is None where nobody knows it.

    Success is the last step, not the code; a code that is not 0 after the model was saved stays a success.
    """
    if state.status != "running":
        return
    if state.completed and _whole(state):
        _settle(state, "finished")
    elif exit_code in (130, 143, -2, -15):
        _settle(state, "interrupted", f"stopped by a signal (exit code {exit_code})")
    elif exit_code:
        _settle(state, "failed", f"the process ended with code {exit_code}")
    elif exit_code == 0:
        early = not _whole(state)
        _settle(state, "interrupted" if early else "finished", "it left before its last step" if early else None)


def _gpu_sample(state: State, event: GpuSample) -> None:
    state.gpus = event.gpus
    rules.ask(state, "sample", event.time or state.now or 0.0)


def _disk_sample(state: State, event: DiskSample) -> None:
    state.disk = event
    rules.ask(state, "sample", event.time or state.now or 0.0)


def _mirror_sample(state: State, event: MirrorSample) -> None:
    state.mirror = event
    state.lines.append(f"mirror: {event.words[:LINE_CHARS]}")
    rules.ask(state, "sample", event.time or state.now or 0.0)


def _tick(_state: State, _event: Tick) -> None:
    """The time was taken already."""


def _line(state: State, event: Line) -> None:
    state.lines.append(event.text[:LINE_CHARS])


_FOLDS: dict[type[Any], Any] = {
    Phase: _phase,
    Registered: _registered,
    Began: _began,
    Step: _step,
    Metrics: _metrics,
    Evaluation: _evaluation,
    Saved: _saved,
    Completed: _completed,
    Config: _config,
    Parameters: _parameters,
    Warned: _warned,
    Crashed: _crashed,
    Interrupted: _interrupted,
    StageStarted: _stage_started,
    StageEnded: _stage_ended,
    GpuSample: _gpu_sample,
    DiskSample: _disk_sample,
    MirrorSample: _mirror_sample,
    Tick: _tick,
    Line: _line,
}
