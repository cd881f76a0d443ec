"""Print how many tokens a tokenizer makes of a conversation, with the opening of the answer.

``prompt_tokens.py FOLDER MESSAGES``; the BOS that the tokenizer's config says is added counts once.
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer


def count(folder: str, messages: list[dict[str, str]]) -> int:
    """The number of tokens of ``messages``."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    ids = list(encoded["input_ids"])
    config = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = bool(config.get("add_bos_token")) and ids[:1] != [tokenizer.bos_token_id]
    return len(ids) + added


if __name__ == "__main__":
    print(json.dumps({"tokens": count(sys.argv[1], json.loads(sys.argv[2]))}))
