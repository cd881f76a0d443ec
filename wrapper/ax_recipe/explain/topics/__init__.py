"""What can be explained: each topic's name and title; its text lies beside, as a template for its numbers."""

from __future__ import annotations

from collections.abc import Mapping

TOPICS: Mapping[str, str] = {
    "pretraining-and-finetuning": "Pre-training and fine-tuning: the same exercise, other texts",
    "chat-template": "Chat template: how a conversation becomes one text",
    "lora": "LoRA: train a small addition, leave the model alone",
    "qlora": "QLoRA: the same adapter, over a base kept in 4 bits",
    "precision": "Precision: how many bits a number gets",
    "packing": "Packing: short rows share one long sequence",
    "gradient-accumulation": "Gradient accumulation: a large batch, a piece at a time",
    "learning-rate": "Learning rate: how far one step goes",
    "loss": "Loss: how surprised the model is by the right answer",
    "grad-norm": "Gradient norm: how hard a batch pulls",
    "merge": "Merge: the adapter is added into the model for good",
    "quantisation": "Quantisation: the finished model in fewer bits",
    "kv-cache": "KV cache: the memory of the conversation so far",
}
