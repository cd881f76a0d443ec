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


def write_gguf(path: Path, keys: Mapping[str, Any], tensors: Mapping[str, tuple[int, int]] | None = None) -> None:
    """Write a GGUF of version 3: ``tensors`` are name to ggml type (0 F32, 12 Q4_K) and number of weights."""
    heads, size = b"", 0
    for name, (kind, weights) in (tensors or {"token_embd.weight": (0, 4)}).items():
        heads += _string(name) + struct.pack("<IQIQ", 1, weights, kind, size)
        size += weights * 4 if kind == 0 else weights // 256 * 144
    path.write_bytes(gguf_head(keys, len(tensors or "1"), heads) + bytes(size))


def gguf_head(keys: Mapping[str, Any], count: int, heads: bytes) -> bytes:
    """All of a GGUF of version 3 before its weights; ``heads`` describe its ``count`` tensors."""
    body = b"".join(_string(name) + _typed(value) for name, value in keys.items())
    head = b"GGUF" + struct.pack("<IQQ", 3, count, len(keys)) + body + heads
    return head + bytes(-len(head) % 32)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: object) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    assert isinstance(value, list)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def gguf_keys(**changes: object) -> dict[str, object]:
    """What a good GGUF of :func:`write_model` and :func:`write_tokenizer` says; None takes a key away."""
    keys: dict[str, object] = {
        "general.architecture": "llama",
        "llama.rope.freq_base": 5e5,
        "tokenizer.chat_template": CHAT,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": list(WORDS),
        "tokenizer.ggml.token_type": [3, 3, 1, 1],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }
    keys |= {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in keys.items() if value is not None}
