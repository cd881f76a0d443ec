"""Ask a model questions through its own chat template, with transformers, in the training environment.

``answer.py PLAN.json`` puts the recipe's checks to the base and to the tuned model and writes the answers;
``answer.py --chat MODEL [SYSTEM]`` talks with one model on this terminal, a line a question.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

LONGEST_ANSWER_TOKENS = 256


class Speaker:
    """A model with its tokenizer; ``template`` stands in where the tokenizer (a base's) has none."""

    def __init__(self, folder: str, template: str | None = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.chat_template = self.tokenizer.chat_template or template
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()

    def answer(self, messages: list[dict[str, str]]) -> str:
        """The greedy answer: the same every time, so that base and tuned differ by training alone."""
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.model.device)
        ends = [self.tokenizer.eos_token_id]
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=LONGEST_ANSWER_TOKENS,
                do_sample=False,
                eos_token_id=ends,
                pad_token_id=self.tokenizer.pad_token_id or ends[0],
            )
        return str(self.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def ask(folder: str, prompts: list[str], template: str | None) -> list[str]:
    """The answers of the model in ``folder``, one question a conversation."""
    speaker = Speaker(folder, template)
    return [speaker.answer([{"role": "user", "content": prompt}]) for prompt in prompts]


def checks(plan: dict[str, Any]) -> None:
    """Write both models' answers to the recipe's questions, and which of them match."""
    prompts, pattern = plan["checks"]["prompts"], plan["checks"]["matches"]
    # The base is asked in the words that the tuned model was trained with: its own template may be another, or none.
    template = AutoTokenizer.from_pretrained(plan["model"]).chat_template
    base, tuned = (ask(folder, prompts, template) for folder in (plan["base"], plan["model"]))
    rows = [
        {
            "prompt": prompt,
            "base": before,
            "tuned": after,
            "base_matches": bool(re.search(pattern, before)),
            "tuned_matches": bool(re.search(pattern, after)),
        }
        for prompt, before, after in zip(prompts, base, tuned, strict=True)
    ]
    Path(plan["answers"]).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for row in rows:
        print(f"> {row['prompt']}\n  base:  {row['base']}\n  tuned: {row['tuned']}", flush=True)


def chat(folder: str, system: str) -> None:
    """Answer each line of stdin; the conversation goes on until the end of input."""
    speaker = Speaker(folder)
    messages = [{"role": "system", "content": system}] if system else []
    while True:
        print("> ", end="", flush=True)
        question = sys.stdin.readline()
        if not question:
            return
        if question.strip():
            messages.append({"role": "user", "content": question.strip()})
            messages.append({"role": "assistant", "content": speaker.answer(messages)})
            print(messages[-1]["content"], flush=True)


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if sys.argv[1] == "--chat":
        chat(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
    else:
        checks(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
