"""Time a model's greedy answers in transformers: ``bench.py ORDER.json``.

The order: ``model``, perhaps ``adapter`` (put on it with peft), ``template`` (a tokenizer's folder), ``prompts``,
``tokens`` (at most, an answer), ``rounds``. Prints ``{"device", "memory", "rows": [{"first", "tokens", "seconds",
"answer"}]}``, with the memory in bytes and times in seconds; a round before the first warms up and is not counted.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging


class Clock:
    """What ``generate`` gives each token to as it comes; the prompt comes first."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: list[float] = []

    def put(self, _value: Any) -> None:
        """Note when it came."""
        self.times.append(time.perf_counter() - self.started)

    def end(self) -> None:
        """Nothing more comes."""


def load(order: dict[str, Any]) -> Any:
    """The model, with its adapter where there is one, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype="auto")
    if order.get("adapter"):
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, order["adapter"])
    return model.to(device).eval()


def memory() -> int:
    """The most that the GPU held, else what this process holds now."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import psutil

    return int(psutil.Process().memory_info().rss)


def main() -> None:
    """Ask every prompt in every round."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(order["template"])
    model = load(order)
    rows = []
    for number in range(order["rounds"] + 1):
        for prompt in order["prompts"]:
            messages = [{"role": "user", "content": prompt}]
            inputs = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            ).to(model.device)
            clock, length = Clock(), inputs["input_ids"].shape[1]
            with torch.inference_mode():
                output = model.generate(
                    **inputs,
                    max_new_tokens=order["tokens"],
                    do_sample=False,
                    streamer=clock,
                    pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                )
            answer = tokenizer.decode(output[0, length:], skip_special_tokens=True).strip()
            row = {"first": clock.times[1], "tokens": len(clock.times) - 1, "seconds": clock.times[-1]}
            if number:
                rows.append({**row, "answer": answer})
    print(json.dumps({"device": str(model.device), "memory": memory(), "rows": rows}))


if __name__ == "__main__":
    main()
