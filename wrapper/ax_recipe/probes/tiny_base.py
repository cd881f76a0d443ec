"""Write what Axolotl needs to pre-train a small Llama: a tokenizer trained on the text, and a config.json.

Run by the training environment's python: ``tiny_base.py PLAN.json``. The weights are Axolotl's to make
(``reinit_weights``), so nothing here loads torch.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# Llama 3's, for its chat template; the order gives their ids.
BEGIN, PAD, END = "<|begin_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>"
# Qwen 2's words, to the letter: Ollama knows a tokenizer by this expression, and splits text wrongly where it does not.
# An empty line is one token wherever it stands, so that a prompt ends in the very tokens that training showed.
WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [BEGIN, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", END, PAD]


def read(path: str) -> str:
    """A file's text; data may lie in another storage."""
    with fsspec.open(path, "rt", encoding="utf-8") as file:
        text: str = file.read()
    return text


def texts(data: list[dict[str, Any]]) -> Iterator[str]:
    """Every role and message of chat rows in JSON lines."""
    for source in data:
        for line in read(source["path"]).splitlines():
            for message in json.loads(line)["messages"]:
                yield message["role"] + "\n\n"
                yield message["content"]


def main() -> None:
    """Build ``BASE/untrained`` as the plan says."""
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder = Path(plan["base"]) / "untrained"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(WORDS, "isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, as_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan["scratch"]["vocab_size"],
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(plan["texts"]), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"bos_token": BEGIN, "eos_token": END, "pad_token": PAD}
    ids = {f"{name}_id": SPECIAL.index(token) for name, token in tokens.items()}
    length = plan["scratch"]["model"]["max_position_embeddings"]
    tokenizer_config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **tokens}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "rope_theta": 10000.0,
        **ids,
        **plan["scratch"]["model"],
        # In rows of 64, as the real ones: a few rows that no token uses.
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    print(f"tokenizer of {tokenizer.get_vocab_size()} entries in {folder}")


if __name__ == "__main__":
    main()
