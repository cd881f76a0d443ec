"""What Axolotl, launchers and batch systems say in words, as one table: a sample line, how it goes, what it means."""

from __future__ import annotations

import re
from collections.abc import Callable

from ax_recipe.observe.events import (
    Began,
    Completed,
    Crashed,
    Evaluation,
    Event,
    Interrupted,
    Metrics,
    Parameters,
    Phase,
    Saved,
    Warned,
)

Build = Callable[[re.Match[str], float | None], Event]
# A word that the text must hold (most texts mean nothing, and ``in`` says so fastest), the pattern, the event.
Phrase = tuple[str, re.Pattern[str], Build]


def meaning(text: str, phrases: tuple[Phrase, ...], time: float | None) -> Event | None:
    """The event that the first fitting phrase makes of ``text``."""
    for word, pattern, build in phrases:
        if word in text and (found := pattern.search(text)):
            return build(found, time)
    return None


def _phase(name: str) -> Build:
    return lambda _, time: Phase(name, time)


def _saved(found: re.Match[str], time: float | None) -> Event:
    path = found[1].strip()
    step = re.search(r"checkpoint-(\d{1,12})$", path)
    return Saved(path, int(step[1]) if step else None, time)


def _completed(_: re.Match[str], time: float | None) -> Event:
    return Completed({}, time)


def _old_memory(found: re.Match[str], time: float | None) -> Event:
    used, cache = float(found[1]), float(found[2] or 0.0)
    return Metrics({"allocated_gib": used, "reserved_gib": used + cache}, None, time)


def _evaluated(found: re.Match[str], time: float | None) -> Event:
    return Evaluation({found[1]: float(found[2])}, None, time)


def _parameters(found: re.Match[str], time: float | None) -> Event:
    trainable, total = (int(text.replace(",", "") or 0) for text in found.groups())
    return Parameters(trainable, total, time)


def _counted(found: re.Match[str], time: float | None) -> Event:
    return Began(int(found[1].replace(",", "")), time=time)


def _interrupted(found: re.Match[str], time: float | None) -> Event:
    return Interrupted(found[0].strip(), time)


def _crashed(found: re.Match[str], time: float | None) -> Event:
    return Crashed(found[0].strip(), None, time)


def _rank_crashed(found: re.Match[str], time: float | None) -> Event:
    return Crashed(found[0], int(found[1]), time)


def _warned(found: re.Match[str], time: float | None) -> Event:
    return Warned(found[0], None, time=time)


def _phrase(word: str, pattern: str, build: Build) -> Phrase:
    return word, re.compile(pattern), build


# Said through Axolotl's logger; the text is the message without its stamp.
MESSAGES: tuple[Phrase, ...] = (
    # Attempting to load plugin: axolotl.integrations.liger.LigerPlugin
    _phrase("Attempting", r"^Attempting to load plugin", _phase("importing")),
    # Loading raw datasets...   Loading prepared dataset from disk at prep/8e6ee193...   Loading dataset: d.jsonl with
    _phrase("Loading", r"^Loading (?:raw |prepared )?dataset", _phase("preparing")),
    # Unable to find prepared dataset in prep/eabf4812
    _phrase("Unable", r"^Unable to find prepared dataset", _phase("preparing")),
    # merging datasets   (until 0.12)
    _phrase("merging", r"^merging datasets", _phase("preparing")),
    # loading model and peft_config...   (until 0.10)
    _phrase("oading model", r"^[Ll]oading model", _phase("loading")),
    # converting PEFT model w/ prepare_model_for_kbit_training
    _phrase("kbit", r"prepare_model_for_kbit_training", _phase("quantising")),
    # Starting trainer...
    _phrase("Starting", r"^Starting trainer", _phase("compiling")),
    # Running evaluation step...   (since 0.13)
    _phrase("Running", r"^Running evaluation step", _phase("evaluating")),
    # Starting eval set evaluation...   ([axolotl.evaluate])
    _phrase("Starting", r"^Starting \w+ set evaluation", _phase("evaluating")),
    # eval_loss: 1.6203413009643555   ([axolotl.evaluate])
    _phrase("eval_", r"^(eval_loss|eval_ppl): (\d+(?:\.\d+)?(?:e[+-]?\d+)?|nan|inf)$", _evaluated),
    # Evaluation results saved to out/eval_summary.csv
    _phrase("Evaluation", r"^Evaluation results saved to", _phase("finished")),
    # Saving model checkpoint to ./out/checkpoint-6
    _phrase("Saving", r"^Saving (?:model )?checkpoint to (.+)", _saved),
    # Training completed! Saving trained model to ./out.   Training Completed!!! Saving pre-trained model to ./out
    _phrase("ompleted!", r"^Training [Cc]ompleted!", _completed),
    # Model successfully saved to ./out
    _phrase("successfully", r"^Model successfully saved", _phase("finished")),
    # Stopping at step 8 of 200 with a checkpoint: SIGTERM   (our plugin)
    _phrase("Stopping", r"^Stopping at step \d+ of \d+ with a checkpoint.*", _interrupted),
    # Loss is too high, stopping training (loss_watchdog_threshold)
    _phrase("too high", r"^Loss is too high, stopping training.*", _crashed),
    # ['python', '-u', '-m', 'axolotl.cli.train', '--local_rank=1', 'c.yml'] exits with return code = -9   (DeepSpeed's)
    _phrase("exits with", r"exits with return code = (?!0$|-2$|-15$)-?\d+$", _crashed),
    # Success! Preprocessed data path: `dataset_prepared_path: ./prep`
    _phrase("Success!", r"^Success! Preprocessed data", _phase("finished")),
    # Running merge of LoRA with base model...
    _phrase("merge of", r"^Running merge of LoRA", _phase("merging")),
    # Copying non-model files to output directory...
    _phrase("Copying", r"^Copying non-model files", _phase("merging")),
    # Saving merged model to: out/merged...
    _phrase("merged", r"^Saving merged model", _phase("merging")),
    # Applied LoRA to 28/38 tensors
    _phrase("Applied", r"^Applied LoRA to [1-9]", _phase("finished")),
    # cuda memory usage while training: 12.345GB (+1.234GB cache, +1.2GB misc)   (until 0.11)
    _phrase("memory usage", r"usage while training: (\d+\.?\d*)GB(?: \((?:\+(\d+\.?\d*)GB cache)?.*\))?", _old_memory),
)

# Said by anybody, on a line of its own.
NOTICES: tuple[Phrase, ...] = (
    # [INFO|trainer.py:2409] 2026-11-22 13:00:00,123 >>   Total optimization steps = 1,200   (transformers' trainer)
    _phrase("optimization", r"Total optimization steps = ([\d,]{0,20}\d)(?![\d,])", _counted),
    # trainable params: 167,772,160 || all params: 8,198,033,408 || trainable%: 2.0465
    _phrase("trainable", r"trainable params: ([\d,]{1,30}) \|\| all params: ([\d,]{1,30})(?!\d)", _parameters),
    # [transformers] torch.distributed process group is initialized, but parallel_mode != ParallelMode.DISTRIBUTED. In
    _phrase("parallel_mode", r"parallel_mode != ParallelMode\.DISTRIBUTED", _warned),
    # E1122 13:43:02.012000 9322 .../multiprocessing/api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 9348) of
    _phrase("exitcode", r"failed \(exitcode: -?\d+\) local_rank: (\d{1,6}) \(pid: \d+\)", _rank_crashed),
    #   traceback : Signal 9 (SIGKILL) received by PID 9348
    _phrase("received by", r"Signal (?:4|6|7|8|9|11) \(SIG\w+\) received by PID \d+", _crashed),
    # W1122 ... api.py:1028] Received 2 death signal, shutting down workers   Received Signals.SIGINT death signal
    _phrase("death signal", r"Received \S+ death signal, shutting down workers", _interrupted),
    # torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.   (where a launcher cut the traceback)
    _phrase("OutOfMemory", r"^torch\.(?:cuda\.)?OutOfMemoryError: .*", _crashed),
    # [rank1]:[E1122 ...] [PG ID 0 PG GUID 0 Rank 1] Watchdog caught collective operation timeout: WorkNCCL(...)
    _phrase("Watchdog", r"Watchdog caught collective operation timeout", _crashed),
    # terminate called after throwing an instance of 'c10::DistBackendError'
    _phrase("terminate", r"^terminate called after throwing an instance of .*", _crashed),
    # slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-22T13:00:00 DUE TO TIME LIMIT ***
    _phrase("slurmstepd", r"slurmstepd: error: \*\*\* .*CANCELLED.*", _interrupted),
    # slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch
    _phrase("Detected", r"Detected \d+ oom.kill event.*", _crashed),
    # Killed   /var/spool/job/script: line 14:  3117 Killed                  axolotl train config.yml
    _phrase("Killed", r"^(?:.*: line \d+: +\d+ )?Killed(?: {2,}.*)?$", _crashed),
    # Segmentation fault (core dumped)
    _phrase(
        "Segmentation", r"^(?:.*: line \d+: +\d+ )?Segmentation fault(?: +\(core dumped\))?(?: {2,}.*)?$", _crashed
    ),
    # Bus error (core dumped)
    _phrase("Bus error", r"^Bus error(?: +\(core dumped\))?$", _crashed),
    # accelerate: error: unrecognized arguments: --lerning-rate   Error: No such option: --lr   (argparse, click)
    _phrase(
        "rror: ", r"^(?:[\w .-]+: e|E)rror: (?:unrecognized arguments|Invalid value|No such option|Missing).*", _crashed
    ),
    # bash: line 1: axolotl: command not found
    _phrase("not found", r"\b(?:axolotl|accelerate|torchrun): (?:command )?not found$", _crashed),
    # Aborted (core dumped)
    _phrase("Aborted", r"^Aborted(?: +\(core dumped\))?$", _crashed),
)
