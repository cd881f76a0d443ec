"""Ask a model questions through its own chat template, with transformers, in the training environment.

``answer.py PLAN.json merged|adapter OUT.json`` puts the recipe's questions to the base and to that form of the tuned
model and writes the answers; ``answer.py --chat MODEL [SYSTEM]`` talks with one model here, a line a question.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

LONGEST_ANSWER_TOKENS = 256


class Speaker:
    """A model with its tokenizer; ``template`` stands in where the tokenizer (a base's) has none."""

    def __init__(self, model: Any, folder: str, template: str | None = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.chat_template = self.tokenizer.chat_template or template
        self.model = model

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


def load(folder: str) -> Any:
    """The model in ``folder``, as it was saved."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(device).eval()


def adapted(base: Any, adapter: str) -> Any:
    """``base`` with an adapter over it, and with the embeddings that were added for it."""
    rows = len(AutoTokenizer.from_pretrained(adapter))
    if rows > base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(base, adapter).eval()


def ask(speaker: Speaker, prompts: list[str]) -> list[str]:
    """The answers to ``prompts``, one question a conversation."""
    return [speaker.answer([{"role": "user", "content": prompt}]) for prompt in prompts]


def both(plan: dict[str, Any], form: str) -> tuple[list[str], list[str]]:
    """The answers of the base and of the tuned model; the base is loaded once where the adapter lies over it.

    The base is asked in the words that the tuned model was trained with: its own template may be another, or none.
    """
    prompts, base = plan["checks"]["prompts"], plan["base"]
    folder = plan["output"] if form == "adapter" else plan["model"]
    template = AutoTokenizer.from_pretrained(folder).chat_template
    model = load(base)
    before = ask(Speaker(model, base, template), prompts)
    if form == "adapter":
        return before, ask(Speaker(adapted(model, folder), folder), prompts)
    del model
    return before, ask(Speaker(load(folder), folder), prompts)


def answers(plan: dict[str, Any], form: str, out: Path) -> None:
    """Write both models' answers to the recipe's questions."""
    base, tuned = both(plan, form)
    triples = zip(plan["checks"]["prompts"], base, tuned, strict=True)
    rows = [{"prompt": prompt, "base": before, "tuned": after} for prompt, before, after in triples]
    out.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for row in rows:
        print(f"> {row['prompt']}\n  base:  {row['base']}\n  tuned: {row['tuned']}", flush=True)


def chat(folder: str, system: str) -> None:
    """Answer each line of stdin; the conversation goes on until the end of input."""
    speaker = Speaker(load(folder), folder)
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
        answers(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2], Path(sys.argv[3]))
