"""How a training can go wrong without an exception, and what ends one from outside."""

from __future__ import annotations

from ax_recipe.diagnose import remedies
from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

CAUSES = (
    Cause(
        "nan",
        "Loss or gradients are not finite (transformers shows such a loss as 0).",
        patterns(
            r"training diverged: loss|[Ll]oss is (?:NaN|nan)\b",
            r"probability tensor contains either `inf`, `nan`",
            r"returned nan values in its \d+th output",
            r"Current loss scale already at minimum",
        ),
        (),
        (
            Remedy("Half the learning rate.", {"learning_rate": remedies.half_rate}),
            Remedy("Warm up, and hold gradients in bounds.", {"warmup_ratio": 0.1, "max_grad_norm": 1.0}),
            Remedy("Train in bf16: fp16 overflows.", {"bf16": True, "fp16": False}),
        ),
        "measured with Axolotl 0.19; Axolotl issues 1771, 1806",
    ),
    Cause(
        "diverged",
        "The training ran away: the loss stays where nothing is learnt, or Axolotl's loss watchdog stopped it.",
        patterns(r"Loss is too high, stopping training"),
        (sign("Loss is too high, stopping training"),),
        (
            Remedy("Half the learning rate.", {"learning_rate": remedies.half_rate}),
            Remedy("A higher bound, if the loss of this data starts there.", {"loss_watchdog_patience": 10}),
        ),
        "Axolotl utils/callbacks (0.19)",
    ),
    Cause(
        "masked-labels",
        "Nothing is trained: loss or gradients are exactly 0, because every label is masked.",
        patterns(r"nothing was learnt: loss"),
        (),
        (
            Remedy("Look at what is trained of the rows (red is masked).", command="axolotl preprocess {file} --debug"),
            Remedy("Train on what the assistant says.", {"train_on_inputs": False, "roles_to_train": ["assistant"]}),
        ),
        "Axolotl issues 1761, 2089, 3453",
    ),
    Cause(
        "interrupted",
        "Somebody or something asked it to stop: a key, a signal, a closed terminal, a time limit.",
        patterns(r"^(?:[\w.]*\.)?(?:KeyboardInterrupt|SignalException)\b", r"died with <Signals\.SIG(?:INT|TERM|HUP)"),
        (sign("TERM_RUNLIMIT"), sign("PBS: job killed", r"PBS: job killed: walltime")),
        (remedies.RESUME,),
        "measured with Axolotl 0.19",
        echo=3,
        broad=True,
    ),
)
