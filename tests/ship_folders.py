"""Small model folders, written by hand: a base, a run's output with an adapter, and what a merge leaves."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORDS = ("<s>", "</s>", "a", "b")
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def floats(rows: int, columns: int, value: float) -> tuple[tuple[int, int], bytes]:
    """An F32 tensor, every value the same."""
    return (rows, columns), struct.pack("<f", value) * (rows * columns)


def write_safetensors(path: Path, tensors: Mapping[str, tuple[tuple[int, ...], bytes]], dtype: str = "F32") -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(data)]}
        start += len(data)
    text = json.dumps(header).encode()
    body = b"".join(data for _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def write_tokenizer(folder: Path, added: Sequence[str] = (), eos: str = "</s>", chat: str | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json, and the chat template as a file of its own."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokens = [{"id": len(WORDS) + i, "content": text, "special": True} for i, text in enumerate(added)]
    model = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": tokens, "post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(model))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": eos}))
    if chat:
        (folder / "chat_template.jinja").write_text(chat)


def write_model(folder: Path, *, rows: int = len(WORDS), weight: float = 1.0, **config: object) -> None:
    """Write a model of three tensors and its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": rows,
        "eos_token_id": 1,
        "rope_theta": 5e5,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    write_safetensors(
        folder / "model.safetensors",
        {
            "model.embed_tokens.weight": floats(rows, 2, 0.5),
            "model.layers.0.q.weight": floats(2, 2, weight),
            "model.layers.0.k.weight": floats(2, 2, weight),
        },
    )


def write_run(folder: Path, **whole: tuple[tuple[int, int], bytes]) -> tuple[Path, Path, Path]:
    """A base, an output_dir with an adapter and a trained tokenizer, and the merge as Axolotl's default leaves it."""
    base, trained, merged = folder / "base", folder / "out", folder / "out/merged"
    rows = len(WORDS) + 1
    write_model(base, rows=rows)
    write_model(merged, rows=rows, weight=2.0, tie_word_embeddings=True)
    for place in (base, merged):
        write_tokenizer(place)
    write_tokenizer(trained, ("<|end|>",), "<|end|>", CHAT)
    (trained / "adapter_config.json").write_text("{}")
    pairs = {
        f"base_model.model.model.layers.0.{name}.lora_{part}.weight": floats(*shape, 1.0)
        for name in "qk"
        for part, shape in (("A", (1, 2)), ("B", (2, 1)))
    }
    write_safetensors(trained / "adapter_model.safetensors", {**pairs, **whole})
    return base, trained, merged
