"""Compare the merged model's logits with those of the base model and its adapter, in the training environment.

    python compare_logits.py --base BASE --adapter OUT --merged MERGED [--four-bit] PROMPTS.json

The file is a JSON list: texts, encoded as they stand, or conversations, written by the adapter's chat template.
With ``--four-bit`` the base is put into 4 bit first, as QLoRA trains on it. Prints one JSON object: the largest
absolute difference of any logit, the mean Kullback-Leibler divergence in nats a token, and how often the likeliest
token is the same; ``adapter_kl`` is the divergence between the base alone and the base with the adapter, ``dtype`` what
was computed in.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, logging

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def dtype(path: str) -> torch.dtype:
    """32 bits, in which nothing is rounded; on a GPU that cannot hold so much, the 16 that models are saved in."""
    if DEVICE == "cpu":
        return torch.float32
    with torch.device("meta"):
        from transformers import AutoConfig

        shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    free, _ = torch.cuda.mem_get_info()
    return torch.float32 if shape.num_parameters() * 5 < free else torch.bfloat16


def load(path: str, kind: torch.dtype, rows: int | None = None, *, four_bit: bool = False) -> Any:
    """A model, with ``rows`` embeddings where the adapter was trained with more than the base has."""
    # Axolotl 0.19's own choice for QLoRA (utils/config, loaders/model.py).
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=kind
    )
    more = {"quantization_config": nf4} if four_bit else {}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=kind, device_map={"": DEVICE}, **more)
    if rows and rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def logits(model: Any, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """The logits of every position of every prompt."""
    model.eval()
    with torch.no_grad():
        return [model(input_ids=batch.to(DEVICE)).logits[0].float().cpu() for batch in batches]


def compare(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> dict[str, float | int]:
    """What differs between two models' logits on the same prompts."""
    one, other = torch.cat(ours), torch.cat(theirs)
    logs, other_logs = one.log_softmax(-1), other.log_softmax(-1)
    divergence = (other_logs.exp() * (other_logs - logs)).sum(-1)
    return {
        "tokens": one.shape[0],
        "max_abs_diff": (one - other).abs().max().item(),
        "mean_kl": divergence.mean().item(),
        "top1_agreement": (one.argmax(-1) == other.argmax(-1)).float().mean().item(),
    }


def encoded(tokenizer: Any, prompt: Any) -> torch.Tensor:
    """A text's ids, or a conversation's."""
    if isinstance(prompt, str):
        return tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    return tokenizer.apply_chat_template(prompt, return_dict=True, return_tensors="pt")["input_ids"]


def main() -> None:
    """Read the prompts, run both models, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "merged"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--four-bit", action="store_true")
    parser.add_argument("prompts", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(options.adapter)
    batches = [encoded(tokenizer, prompt) for prompt in json.loads(options.prompts.read_text(encoding="utf-8"))]
    kind = dtype(options.merged)
    merged = load(options.merged, kind)
    rows = merged.get_input_embeddings().weight.shape[0]
    ours = logits(merged, batches)
    del merged
    base = PeftModel.from_pretrained(load(options.base, kind, rows, four_bit=options.four_bit), options.adapter)
    theirs = logits(base, batches)
    with base.disable_adapter():
        moved = compare(logits(base, batches), theirs)["mean_kl"]
    print(json.dumps({**compare(ours, theirs), "adapter_kl": moved, "dtype": str(kind).removeprefix("torch.")}))


if __name__ == "__main__":
    main()
