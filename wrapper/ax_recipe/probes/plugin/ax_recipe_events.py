"""Our plugin inside Axolotl's trainer: exact events as JSON lines, and a stop that ends in a resumable checkpoint.

Name it as ``plugins: [ax_recipe_events.EventsPlugin]`` with this folder on PYTHONPATH; it needs nothing but Axolotl.
AX_RECIPE_EVENTS is the file that rank 0 appends events to. When the file that AX_RECIPE_STOP names appears, or
SIGTERM arrives at any rank, all ranks finish their step, save a whole checkpoint and leave with exit code 0. On SIGUSR2
a rank writes to its log where each of its threads is.
AX_RECIPE_HELD_OUT_ONLY keeps `axolotl evaluate` from scoring the training rows as well; to the file AX_RECIPE_LOSSES it
then appends what each held-out row costs, and each line of the file AX_RECIPE_GENERAL.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from axolotl.integrations.base import BasePlugin
from axolotl.utils.logging import get_logger
from datasets import Dataset
from transformers import TrainerCallback, set_seed

LOG = get_logger("axolotl.ax_recipe")  # Axolotl drops INFO of loggers that are not its own
STEP_EVERY_S = 0.2  # a step event takes 0.05 ms, but a year-long file of them helps nobody
SMALL_ROWS = 50_000  # saved in a second or two
PACKAGES = ("axolotl", "transformers", "torch", "accelerate", "peft", "trl", "bitsandbytes")


class Sink:
    """Appends events to the file; each is one write, so a reader never sees two halves mixed."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o644)

    def write(self, event: str, **values: Any) -> None:
        """Append one event; a full disk costs the events, never the training."""
        line = json.dumps({"event": event, "time": time.time(), **_plain(values)}, allow_nan=False)
        if self._file < 0:
            return
        try:
            os.write(self._file, line.encode() + b"\n")
        except OSError as error:
            LOG.warning(f"Events can no longer be written: {error}")
            os.close(self._file)
            self._file = -1


class NoSink(Sink):
    """What ranks other than 0 have."""

    def __init__(self) -> None:
        self._file = -1


class EventsPlugin(BasePlugin):  # type: ignore[misc]  # Axolotl is absent from the type checker's environment
    """Tells of the run's phases, and puts ``EventsCallback`` into its trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.sink: Sink = NoSink()
        self.after_training = False

    def register(self, _cfg: Any) -> None:
        """Say that the plugin is alive: Axolotl goes on without a word to us where one cannot be imported."""
        # A runner that finds a training hung asks each of its processes where its threads are; 2 is stderr, the log.
        faulthandler.register(signal.SIGUSR2, file=2)
        _save_small_data_here()
        path = os.environ.get("AX_RECIPE_EVENTS")
        if not path or os.environ.get("RANK", "0") != "0" or not isinstance(self.sink, NoSink):
            return
        self.sink = Sink(path)
        self.sink.write("registered", pid=os.getpid(), versions=_versions())

    def pre_model_load(self, cfg: Any) -> None:
        """Weights are about to be read."""
        self.sink.write("phase", name="loading", exact=True)
        if cfg.liger_rope and (cfg.lora_qkv_kernel or cfg.lora_o_kernel):
            _let_liger_rope_through(cfg)
        # Axolotl 0.19 seeds only its trainer, when an adapter or new weights have their first random values already:
        # those depended on what came before, as on whether the data was tokenised now or by an earlier run.
        if (cfg.adapter or cfg.reinit_weights) and cfg.seed is not None:
            set_seed(cfg.seed)

    def post_model_load(self, _cfg: Any, model: Any) -> None:
        """Count the parameters; bitsandbytes packs two 4-bit weights into one element."""
        total = sum(_size(parameter) for parameter in model.parameters())
        trainable = sum(_size(parameter) for parameter in model.parameters() if parameter.requires_grad)
        self.sink.write("parameters", trainable=trainable, total=total, exact=True)

    def post_trainer_create(self, _cfg: Any, trainer: Any) -> None:
        """SIGTERM often goes to the data loaders' workers too, and a dead worker fails the training."""
        for name in ("get_train_dataloader", "get_eval_dataloader"):
            setattr(trainer, name, _shielded(getattr(trainer, name)))

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[TrainerCallback]:
        """Every rank takes part: they have to agree on a stop. The one hook that `axolotl evaluate` calls too."""
        if os.environ.get("AX_RECIPE_HELD_OUT_ONLY"):
            _evaluate_held_out_only(trainer, str(cfg.base_model))
        return [EventsCallback(self.sink, os.environ.get("AX_RECIPE_STOP"))]

    def post_train(self, _cfg: Any, _model: Any) -> None:
        """Axolotl 0.19 calls this after the last step and again after the model is saved."""
        if not self.after_training:
            self.after_training = True
            self.sink.write("phase", name="saving", exact=True)

    def post_train_unload(self, _cfg: Any) -> None:
        """Everything is saved."""
        self.sink.write("phase", name="finished", exact=True)


def _let_liger_rope_through(cfg: Any) -> None:
    """Make `liger_rope` act beside Axolotl's LoRA attention kernels; called after the Liger plugin, which comes first.

    Axolotl (0.19) rewrites the attention with the rotary embedding that it finds, then lets Liger put a faster one into
    the model's module, where the rewritten attention no longer looks.
    """
    from axolotl.monkeypatch import lora_kernels

    attention = lora_kernels.get_attention_cls_from_config(cfg)
    fused = getattr(sys.modules[attention.__module__], "apply_rotary_pos_emb", None)
    if fused is not None and hasattr(lora_kernels, "apply_rotary_pos_emb"):
        lora_kernels.apply_rotary_pos_emb = fused


def _save_small_data_here() -> None:
    """Save small tokenised data without workers: each that datasets (4.8) starts imports Axolotl anew, 10 s a set."""
    save = Dataset.save_to_disk
    if save.__name__ == "save_here":
        return

    def save_here(self: Any, *args: Any, num_proc: int | None = None, **kwargs: Any) -> Any:
        return save(self, *args, num_proc=num_proc if len(self) > SMALL_ROWS else None, **kwargs)

    Dataset.save_to_disk = save_here


def _evaluate_held_out_only(trainer: Any, model: str) -> None:
    """`axolotl evaluate` (0.19) scores every training row before the held-out ones: hours, for nothing."""
    evaluate, losses = trainer.evaluate, os.environ.get("AX_RECIPE_LOSSES")

    def held_out_only(rows: Any = None, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        if metric_key_prefix == "train":
            return {}
        metrics = evaluate(rows, metric_key_prefix=metric_key_prefix, **kwargs)
        if losses:
            from ax_recipe_losses import record  # type: ignore[import-not-found]  # beside us, on the same PYTHONPATH

            record(trainer, model, rows, os.environ.get("AX_RECIPE_GENERAL"), losses)
        return metrics

    trainer.evaluate = held_out_only


class Shield:
    """Prepares a data loader's worker: of all SIGTERMs it obeys its trainer's alone."""

    def __init__(self, prepare: Callable[[int], None] | None) -> None:
        self.prepare = prepare

    def __call__(self, worker: int) -> None:
        """Run in the worker, before its first batch."""
        if self.prepare:
            self.prepare(worker)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    parent = os.getppid()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _masked(start_workers: Callable[[], Any]) -> Callable[[], Any]:
    """Have workers (torch 2.13 starts them here) be born with SIGTERM blocked: it may come before their shield."""

    def masked() -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return start_workers()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    return masked


def _shielded(make: Callable[..., Any]) -> Callable[..., Any]:
    def shielded(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        loader = getattr(made, "base_dataloader", made)  # what accelerate 1.13 wraps
        if not isinstance(loader.worker_init_fn, Shield):  # an evaluation may get the same loader again
            loader.worker_init_fn = Shield(loader.worker_init_fn)
            loader._get_iterator = _masked(loader._get_iterator)
        return made

    return shielded


class EventsCallback(TrainerCallback):  # type: ignore[misc]  # as above
    """Writes what the trainer does, and brings all ranks to a stop together."""

    def __init__(self, sink: Sink, stop_file: str | None) -> None:
        self.sink = sink
        self.stop_file = Path(stop_file) if stop_file else None
        self.reason: str | None = None
        self.stopping = False
        self.step_told = 0.0

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Tell the size of the run. Until here SIGTERM may kill: there is nothing to save yet."""
        _on_sigterm(self._terminated)
        self.sink.write(
            "began",
            total_steps=state.max_steps,
            world_size=args.world_size,
            micro_batch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            epochs=args.num_train_epochs,
            exact=True,
        )
        self._step(state)
        if args.eval_on_start:
            self.sink.write("phase", name="evaluating", exact=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the step; stop if anybody asked for it."""
        now = time.monotonic()
        if now - self.step_told >= STEP_EVERY_S or state.global_step >= state.max_steps:
            self.step_told = now
            self._step(state)
        if not self.stopping and self._asked(args):
            self._stop(args, state, control)
        self._next_phase(control)

    def on_epoch_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """An epoch may end in an evaluation or a checkpoint."""
        self._next_phase(control)

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Tell metrics with all their digits and the step they belong to; their names are the trainer's."""
        logs = logs or {}
        if "train_loss" in logs:
            kind = "completed"
        elif "loss" in logs or "grad_norm" in logs:
            kind = "metrics"
        elif any(name.startswith("eval_") for name in logs):
            kind = "evaluation"
        else:
            return
        values = {name: value for name, value in logs.items() if isinstance(value, int | float)}
        step = {} if kind == "completed" else {"step": state.global_step}
        self.sink.write(kind, values=values, exact=True, **step)

    def on_evaluate(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """An evaluation is over; a checkpoint may follow it."""
        after = "training" if state.global_step else "compiling"
        self.sink.write("phase", name="saving" if control.should_save else after, exact=True)

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """A checkpoint is whole."""
        path = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")  # noqa: PTH118  # as the log writes it
        self.sink.write("saved", path=path, step=state.global_step, exact=True)
        self.sink.write("phase", name="training", exact=True)

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Training is over: at its last step, or at the stop that was asked for."""
        _on_sigterm(signal.SIG_DFL)
        self._step(state)
        if self.stopping and state.global_step < state.max_steps:
            self.sink.write("interrupted", reason=self.reason or "asked to stop", exact=True)

    def _step(self, state: Any) -> None:
        self.sink.write("step", step=state.global_step, total_steps=state.max_steps, exact=True)

    def _next_phase(self, control: Any) -> None:
        if control.should_evaluate or control.should_save:
            name = "evaluating" if control.should_evaluate else "saving"
            self.sink.write("phase", name=name, exact=True)

    def _terminated(self, _number: int, _frame: FrameType | None) -> None:
        self.reason = "SIGTERM"

    def _asked(self, args: Any) -> bool:
        if self.reason is None and self.stop_file is not None and self.stop_file.exists():
            self.reason = "the stop file"
        return _any_rank(self.reason is not None, args)

    def _stop(self, args: Any, state: Any, control: Any) -> None:
        """Save before leaving, and skip an evaluation that is due: a batch system waits for seconds only."""
        self.stopping = True
        args.save_only_model = False  # without the optimizer nothing could be resumed
        control.should_evaluate = False
        control.should_save = True
        control.should_training_stop = True
        LOG.info(f"Stopping at step {state.global_step} of {state.max_steps} with a checkpoint: {self.reason}")


def _on_sigterm(handler: Any) -> None:
    """Ray trains in a thread beside its worker's own, where no signal can be handled: there the file alone stops it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _any_rank(flag: bool, args: Any) -> bool:
    """Whether ``flag`` holds on any rank; ranks that train independently of each other must not wait for others."""
    if args.world_size <= 1 or not torch.distributed.is_initialized():
        return flag
    flags = torch.tensor([int(flag)], device=args.device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags.item())


def _size(parameter: Any) -> int:
    if hasattr(parameter, "ds_numel"):  # DeepSpeed ZeRO-3 keeps a piece of it here
        return int(parameter.ds_numel)
    packed = 2 if type(parameter).__name__ == "Params4bit" else 1
    return int(parameter.numel()) * packed * (parameter.element_size() if packed == 2 else 1)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
