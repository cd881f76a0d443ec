"""Print, as one JSON object, the versions of what a training environment holds; imports none of it."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "axolotl", "torch", "transformers", "peft", "trl", "accelerate", "datasets", "bitsandbytes", "liger-kernel",
    "flash-attn", "cut-cross-entropy", "deepspeed", "ray", "lm-eval", "wandb", "mlflow", "trackio", "tensorboard",
)  # fmt: skip

found = {"python": platform.python_version()}
for name in PACKAGES:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        continue
print(json.dumps(found))
