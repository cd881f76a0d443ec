"""The configuration: refused by Axolotl at the start, or found wrong when it is used."""

from __future__ import annotations

import re

from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

_CHECK = Remedy("Check the file before anything loads: each finding names its line.", command="ax-recipe check {file}")

CAUSES = (
    Cause(
        "bad-config",
        "The configuration is wrong{what}: Axolotl, or what reads it, refuses a value.",
        patterns(
            r"validation errors? for (?![\s\S]*bf16 requested, but AMP)\w+\s+(?P<what>[a-z]\w*(?:\.[\w\[\]-]+)*)\n",
            r"validation errors? for (?![\s\S]*bf16 requested, but AMP)\w+",
            r"(?P<what>\S+) is not a valid (?:OptimizerNames|SchedulerType|IntervalStrategy|\w+Strategy)",
            r"yaml\.(?:scanner|parser|composer|constructor)\.\w+",
            r"unrecognized arguments: (?P<what>[^\n]+)",
            r"No such option: (?P<what>\S+)",
            r"load_best_model_at_end requires the sav(?:e|ing)",
            r"Invalid (?:learning rate|beta parameter|weight_decay value)|`r` should be a positive integer",
            r"should be either an int or float|max_steps must be set|IterableDataset\w*' has no len",
            r"Failed to download .*config|lora_r[^\n]*(?:must|should)",
            r"No such file or directory: '(?P<what>[^']+\.ya?ml)'",
            r"fine-tuning on purely quantized models|does not support an attention implementation",
            r"Path '?(?P<what>\S+?)'? does not exist",
        ),
        (
            sign("unrecognized arguments", r"error: unrecognized arguments: (?P<what>.+)"),
            sign("Invalid value for", r"^Error: Invalid value for (?P<what>[^:]+)"),
            sign("No such option", r"^Error: No such option:? (?P<what>\S+)"),
        ),
        (_CHECK,),
        "measured with Axolotl 0.19",
        framed=(
            (re.compile(r"^ZeroDivisionError"), re.compile(r"calculate_total_num_steps|batch_size")),
            (
                re.compile(r"^(?:DeprecationWarning|NotImplementedError|ValueError|TypeError)\b"),
                re.compile(r"validate_config|utils/schemas/"),
            ),
        ),
    ),
)
