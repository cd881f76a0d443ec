"""Ask a merged model in transformers: ``transformers_.py MODEL QUESTIONS.json`` prints what ``llama.py`` prints."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, logging


def main() -> None:
    """Answer greedily in 32 bits."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    rows = []
    for messages in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        encoded = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        count = encoded["input_ids"].shape[1]
        with torch.inference_mode():
            output = model.generate(
                **encoded, max_new_tokens=40, do_sample=False, pad_token_id=tokenizer.pad_token_id or 0
            )
        rows.append({"prompt": prompt, "ids": encoded["input_ids"][0].tolist(), "answer": output[0, count:].tolist()})
    print("\n" + json.dumps(rows), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    main()
