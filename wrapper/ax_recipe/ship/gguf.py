"""Read the head of a GGUF file, and hold what it says against the model that it was made of.

The format (version 2 and 3): magic, version, how many tensors and keys, the keys with typed values, then each tensor's
name, shape, type and place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ax_recipe.errors import RunFailedError
from ax_recipe.ship.merged import Check
from ax_recipe.ship.tokenizer import TokenizerFiles

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 30  # bytes; anything longer in a head means that it is none

BLOCKS = {
    **{"F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q4_1": (32, 20)},
    **{"Q5_0": (32, 22), "Q5_1": (32, 24), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144)},
    **{"Q5_K": (256, 176), "Q6_K": (256, 210)},
}
"""How many weights a block of a type holds, and in how many bytes (ggml's block structures)."""

_TYPES = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K"},
    **{13: "Q5_K", 14: "Q6_K", 30: "BF16"},
}
_WIDE = {"F32", "F16", "BF16"}


@dataclass(frozen=True, slots=True)
class Gguf:
    """The head of a file: its keys, and the type of every tensor by name (``type 23`` for one not known here)."""

    file: Path
    keys: Mapping[str, Any]
    types: Mapping[str, str]

    @property
    def is_quantised(self) -> bool:
        """Whether its matrices are in fewer than 16 bits."""
        return not set(self.types.values()) <= _WIDE

    def of_architecture(self, name: str) -> Any:
        """A key that is written under the architecture's name, such as ``rope.freq_base``."""
        return self.keys.get(f"{self.keys.get('general.architecture')}.{name}")


def read(file: Path) -> Gguf:
    """The head of ``file``; raises :class:`RunFailedError` where it is no GGUF, or cut short."""
    try:
        with file.open("rb") as stream:
            return _read(file, stream)
    except (struct.error, UnicodeDecodeError, KeyError, EOFError) as error:
        raise RunFailedError(f"{file} is no whole GGUF file", "convert or copy it again") from error


def _read(file: Path, stream: IO[bytes]) -> Gguf:
    if stream.read(4) != b"GGUF" or _number(stream, "<I") not in (2, 3):
        raise RunFailedError(f"{file} is no GGUF file of version 2 or 3", "convert it with llama.cpp's converter")
    tensors, keys = _number(stream, "<Q"), _number(stream, "<Q")
    values = {_string(stream): _value(stream, _number(stream, "<I")) for _ in range(keys)}
    types, end = {}, 0
    for _ in range(tensors):
        name, shape = _string(stream), [_number(stream, "<Q") for _ in range(_number(stream, "<I"))]
        kind, offset = _number(stream, "<I"), _number(stream, "<Q")
        types[name] = _TYPES.get(kind, f"type {kind}")
        end = max(end, offset + _size(types[name], shape))
    alignment = values.get("general.alignment", 32)
    start = -(-stream.tell() // alignment) * alignment
    if start + end > file.stat().st_size:
        raise RunFailedError(f"{file} is cut short: {file.stat().st_size} bytes", "convert or copy it again")
    return Gguf(file, values, types)


def _size(kind: str, shape: list[int]) -> int:
    weights = 1
    for side in shape:
        weights *= side
    block, width = BLOCKS.get(kind, (1, 0))
    return weights // block * width


def _bytes(stream: IO[bytes], count: int) -> bytes:
    found = stream.read(count) if count <= _LONGEST else b""
    if len(found) != count:
        raise EOFError
    return found


def _number(stream: IO[bytes], form: str) -> Any:
    return struct.unpack(form, _bytes(stream, struct.calcsize(form)))[0]


def _string(stream: IO[bytes]) -> str:
    return _bytes(stream, _number(stream, "<Q")).decode("utf-8", "surrogateescape")


def _value(stream: IO[bytes], kind: int) -> Any:
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        return _number(stream, _NUMBERS[kind])
    of, count = _number(stream, "<I"), _number(stream, "<Q")
    if of in (_STRING, _ARRAY):
        return [_value(stream, of) for _ in range(count)]
    form = f"<{count}{_NUMBERS[of][1]}"
    return list(struct.unpack(form, _bytes(stream, struct.calcsize(form))))


def examine(
    file: Path, trained: TokenizerFiles, jinja: str, config: Mapping[str, Any], *, adds_bos: bool
) -> tuple[Check, ...]:
    """Whether the file says of tokenizer, chat template, end, begin and rope what the trained model says.

    ``config`` is the model's config.json; raises :class:`RunFailedError` where ``file`` is no whole GGUF.
    """
    found = read(file)
    kinds = sorted(set(found.types.values()), key=lambda kind: (kind in _WIDE, kind))
    size = file.stat().st_size / 2**20
    whole = Check("gguf", "ok", f"{file.name}, {len(found.types)} tensors, {size:.1f} MiB, {' '.join(kinds)}, whole")
    template = _template(found.keys.get("tokenizer.chat_template"), jinja)
    rest = (_tokens, _end, _pre_tokenizer, _rope)
    questions: tuple[Callable[[Gguf, TokenizerFiles, Mapping[str, Any]], Iterator[Check]], ...] = rest
    others = (check for question in questions for check in question(found, trained, config))
    return (whole, template, _begin(found, adds_bos=adds_bos), *others)


def _template(found: str | None, jinja: str) -> Check:
    name = "gguf template"
    if found == jinja:
        return Check(name, "ok", "the trained one")
    if found is None:
        return Check(name, "warning", "none in it: only the TEMPLATE tells how to ask, and other programs have none")
    # Ollama 0.30 takes the GGUF's own template where it knows tools or thinking and the TEMPLATE does not.
    wins = any(word in found for word in ("tools", "tool_call", "think"))
    said = "not the trained one" + (", and Ollama would take it in place of the TEMPLATE" if wins else "")
    return Check(name, "error" if wins else "warning", said)


def _begin(found: Gguf, *, adds_bos: bool) -> Check:
    told = found.keys.get("tokenizer.ggml.add_bos_token")
    if told is None:
        return Check("gguf begin", "warning", "it does not say whether a BOS is added: the engine goes by its kind")
    if told != adds_bos:
        return Check("gguf begin", "error", f"the engine would {'' if told else 'not '}add a BOS, unlike in training")
    return Check("gguf begin", "ok", f"a BOS is {'' if told else 'not '}added by the engine")


def _tokens(found: Gguf, trained: TokenizerFiles, _: Mapping[str, Any]) -> Iterator[Check]:
    tokens = found.keys.get("tokenizer.ggml.tokens", [])
    moved = [text for text, i in trained.ids.items() if i >= len(tokens) or not _same(tokens[i], text)]
    if moved:
        some = ", ".join(moved[:3])
        yield Check("gguf tokens", "error", f"{len(moved)} of the tokenizer's are missing or moved ({some})")
    else:
        yield Check("gguf tokens", "ok", f"{len(tokens)}, each of the tokenizer's {len(trained.ids)} in its place")


def _same(one: str, other: str) -> bool:
    """Equal but for the blank, for which SentencePiece has a sign of its own that converters may write out."""
    return one == other or one.replace("\u2581", " ") == other.replace("\u2581", " ")


def _end(found: Gguf, trained: TokenizerFiles, _: Mapping[str, Any]) -> Iterator[Check]:
    wanted = trained.ids.get(trained.tokens.eos or "")
    told = found.keys.get("tokenizer.ggml.eos_token_id")
    if wanted is not None:
        said = f"{trained.tokens.eos} ({wanted})" + ("" if told == wanted else f" is trained, it has {told}")
        yield Check("gguf end", "ok" if told == wanted else "error", said)


def _pre_tokenizer(found: Gguf, _t: TokenizerFiles, _c: Mapping[str, Any]) -> Iterator[Check]:
    if found.keys.get("tokenizer.ggml.model") == "gpt2":
        pre = found.keys.get("tokenizer.ggml.pre", "default")
        said = f"text is split as {pre} does" + (", which is no model's own way" if pre == "default" else "")
        yield Check("gguf pre-tokenizer", "error" if pre == "default" else "ok", said)


def _rope(found: Gguf, _: TokenizerFiles, config: Mapping[str, Any]) -> Iterator[Check]:
    text = config.get("text_config", config)
    rope = text.get("rope_parameters") or {}
    wanted = text.get("rope_theta") or rope.get("full_attention", rope).get("rope_theta")
    if isinstance(wanted, int | float):
        told = found.of_architecture("rope.freq_base") or 10000.0  # llama.cpp's own value where none is written
        same = abs(told - wanted) <= 1e-5 * wanted
        said = f"freq_base {told:g}" + ("" if same else f", trained was {wanted:g}")
        yield Check("gguf rope", "ok" if same else "error", said)
