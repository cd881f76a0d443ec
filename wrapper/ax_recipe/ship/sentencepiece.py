"""The pieces of a SentencePiece model, for tokenizers that are a ``tokenizer.model`` alone.

The file is a protobuf message: field 1, repeated, is a piece, whose field 1 is its text; its id is its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def ids(folder: Path) -> dict[str, int]:
    """Each piece with its id; empty where there is no ``tokenizer.model``, or another kind of file has its name."""
    file = folder / "tokenizer.model"
    if not file.is_file():
        return {}
    try:
        pieces = [piece for number, piece in _fields(file.read_bytes()) if number == 1]
        texts = [next(text for number, text in _fields(piece) if number == 1).decode() for piece in pieces]
    except (ValueError, IndexError, StopIteration):  # a tiktoken's list of ranks, or a file cut short
        return {}
    return {text: i for i, text in enumerate(texts)}


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and bytes of a message's fields; those that are plain numbers come without bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind, length = key & 7, 0
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(kind)
        if at + length > len(data):
            raise IndexError(at)
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value, shift = 0, 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
