"""Compare the merged model's logits with those of the base model and its adapter, in the training environment.

    python compare_logits.py --base BASE --adapter OUT --merged MERGED < prompts.json

Standard input is a JSON list of prompts, each a text that is encoded as it stands. Prints one JSON object: the largest
absolute difference of any logit, the mean Kullback-Leibler divergence in nats a token, and how often the likeliest
token is the same.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(path: str, rows: int | None = None) -> Any:
    """A model in float32, with ``rows`` embeddings where the adapter was trained with more than the base has."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if rows and rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def logits(model: Any, batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """The logits of every position of every prompt."""
    model.eval()
    with torch.no_grad():
        return [model(input_ids=batch).logits[0].float() for batch in batches]


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


def main() -> None:
    """Read the prompts, run both models, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "merged"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.adapter)
    prompts = json.load(sys.stdin)
    batches = [tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids for prompt in prompts]
    merged = load(options.merged)
    rows = merged.get_input_embeddings().weight.shape[0]
    ours = logits(merged, batches)
    del merged
    base = PeftModel.from_pretrained(load(options.base, rows), options.adapter)
    print(json.dumps(compare(ours, logits(base, batches))))


if __name__ == "__main__":
    main()
