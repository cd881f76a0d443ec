"""What a run was doing when it failed: by the frames of the traceback where they tell it, else by the log before it."""

from __future__ import annotations

import re

from ax_recipe.diagnose.cause import Cause
from ax_recipe.diagnose.causes import table
from ax_recipe.diagnose.reading import Failure, Reading

# The functions of Axolotl, transformers and peft that are a phase (of observe.events.PHASES); the innermost counts.
_FUNCTIONS = {
    "saving": "_save_checkpoint save_model save_pretrained _save_optimizer_and_scheduler save_trained_model",
    "evaluating": "evaluation_loop prediction_step evaluate_dataset",
    "training": "training_step compute_loss _inner_training_loop inner_training_loop",
    "loading": "load_model _load_pretrained_model load_adapter load_lora setup_model_and_tokenizer load_tokenizer "
    "_load_optimizer_and_scheduler _load_rng_state _load_from_checkpoint",
    "preparing": "prepare_datasets load_datasets tokenize_prompt _load_raw_datasets",
}
_PHASES = {name: phase for phase, names in _FUNCTIONS.items() for name in names.split()}
_FUNCTION = re.compile(r"\bin (\w+)$")
_MERGING = re.compile(r"\bin (?:do_merge_lora|merge_lora\w*|merge_and_unload)$")
# The first step compiles, and quantising is part of loading: words for the screen, not for a failure.
_PLAIN = {"compiling": "training", "quantising": "loading"}


def phase_of(cause: Cause, failure: Failure | None, reading: Reading, stage: str) -> str:
    """The phase of ``failure``, or that in which the log ends; ``stage`` is that of our run, if it is one."""
    if cause is table.NONE:
        return "finished"
    if stage == "merge":
        return "merging"
    if failure is None and reading.state.status == "finished":
        return "training"  # its figures tell it, though it ended well
    if failure is None:
        return _PLAIN.get(reading.phase, reading.phase)
    if any(_MERGING.search(frame) for frame in failure.frames):
        return "merging"
    for frame in reversed(failure.frames):
        if (found := _FUNCTION.search(frame)) and found[1] in _PHASES:
            return _PHASES[found[1]]
    return _PLAIN.get(failure.phase, failure.phase)
