"""Train tiny random models of real architectures by real Axolotl, all in one process: its imports take half a minute.

Run by the training environment's python: ``tiny_training.py CASES.json``. Prints one line of JSON for each case; what
else is printed goes to stderr.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import shutil
import sys
import time
import traceback
from pathlib import Path
from typing import Any

os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}

import yaml

Json = dict[str, Any]


def make_tokenizer(folder: Path, case: Json) -> int:
    """A tokenizer of a few hundred entries with the real one's special tokens; returns how many it has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokens = case["tokenizer"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=tokens["special"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(case["texts"], trainer)
    begin = tokens["named"].get("bos_token")
    if tokens["adds_bos"]:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024, **tokens["named"]}
    if tokens["chat_template"]:
        config["chat_template"] = tokens["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return int(tokenizer.get_vocab_size())


def make_model(case: Json) -> None:
    """A base model folder: the architecture's own classes with random weights, and a tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    folder = Path(case["config"]["base_model"])
    folder.mkdir(parents=True)
    size = {"vocab_size": -(-make_tokenizer(folder, case) // 64) * 64}
    values = dict(case["model"])
    kind = values.pop("model_type")
    if "text_config" in values:
        values["text_config"] = {**values["text_config"], **size}
        (folder / "preprocessor_config.json").write_text('{"image_processor_type": "Gemma3ImageProcessor"}')
        (folder / "processor_config.json").write_text('{"processor_class": "Gemma3Processor"}')
    else:
        values |= size
    set_seed(7)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **values)).save_pretrained(folder)


def train(case: Json) -> Json:
    """Make the base, train it as the config says, and tell what was seen."""
    from axolotl.cli.args import TrainerCliArgs
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets, load_preference_datasets
    from axolotl.train import train as train_model

    make_model(case)
    path = Path(case["folder"]) / "axolotl.yml"
    path.write_text(yaml.safe_dump(case["config"]))
    cfg = load_cfg(str(path))  # a Path does not pass its own validation (0.19)
    load = load_preference_datasets if cfg.rl else load_datasets
    data = load(cfg=cfg, cli_args=TrainerCliArgs())
    model, tokenizer, trainer = train_model(cfg=cfg, dataset_meta=data)
    history = trainer.state.log_history
    return {
        "model": type(getattr(model, "base_model", model)).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad),
        "steps": trainer.state.global_step,
        "losses": [row["loss"] for row in history if "loss" in row],
        "gradients": [row["grad_norm"] for row in history if "grad_norm" in row],
        "eval_losses": [row["eval_loss"] for row in history if "eval_loss" in row],
        "learnt": learnt(data.train_dataset, tokenizer),
        "eos": tokenizer.eos_token,
        "pad": tokenizer.pad_token,
        "files": sorted(each.name for each in Path(cfg.output_dir).iterdir()),
    }


def learnt(dataset: Any, tokenizer: Any) -> str | None:
    """What the first row teaches, special tokens and all; None where rows have no labels yet."""
    row = next(iter(dataset))
    if "labels" not in row:
        return None
    return str(tokenizer.decode([int(token) for token in row["labels"] if token != -100]))


def finite(value: Any) -> Any:
    """NaN as None: JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [finite(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    """Train each case; a case that fails is told as its traceback, and the next one follows."""
    for case in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        started = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):
            try:
                seen = train(case)
            except BaseException:  # noqa: BLE001 - Axolotl ends by SystemExit too; each case is told by itself
                seen = {"error": traceback.format_exc()}
        seen = {name: finite(value) for name, value in seen.items()}
        seen |= {"name": case["name"], "seconds": time.monotonic() - started}
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()
        shutil.rmtree(case["folder"], ignore_errors=True)
        gc.collect()


if __name__ == "__main__":
    main()
