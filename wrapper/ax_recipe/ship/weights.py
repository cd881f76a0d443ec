"""Read safetensors files without their library: 8 bytes of length, a JSON header, then the bytes of the tensors."""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ax_recipe.errors import RunFailedError
from ax_recipe.ship.files import read_json, write_json

INDEX = "model.safetensors.index.json"
HEAD = "model-00002-of-00002.safetensors"
_LONGEST_HEADER = 100_000_000  # bytes; the safetensors library refuses more, too


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor in a file: ``dtype`` as safetensors writes it (BF16), ``start`` and ``stop`` in bytes of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file by name; raises :class:`RunFailedError` where it is cut short or no safetensors."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise RunFailedError(f"{file} is no whole safetensors file", "copy or merge it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise RunFailedError(f"{file} has no readable header: {error}", "copy or merge it again") from error
    header.pop("__metadata__", None)
    found = {name: _tensor(name, fields, file, 8 + length) for name, fields in header.items()}
    if any(tensor.stop > size for tensor in found.values()):
        raise RunFailedError(f"{file} is cut short: {size} bytes", "copy or merge it again")
    return found


def _tensor(name: str, fields: Mapping[str, list[int]], file: Path, offset: int) -> Tensor:
    start, stop = fields["data_offsets"]
    return Tensor(name, str(fields["dtype"]), tuple(fields["shape"]), file, offset + start, offset + stop)


def shards(folder: Path) -> list[Path]:
    """The weight files that make up the model: those of the index, else ``model.safetensors``."""
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        return [folder / name for name in names]
    return [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []


def strays(folder: Path) -> list[Path]:
    """Weight files that are no part of the model but that ``ollama create`` would take: in the folder and one below."""
    found = [*folder.glob("model*.safetensors"), *folder.glob("*/model*.safetensors")]
    return sorted(set(found) - set(shards(folder)))


def of_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model by name; raises :class:`RunFailedError` where a file is missing or broken."""
    found: dict[str, Tensor] = {}
    for file in shards(folder):
        if not file.is_file():
            raise RunFailedError(f"{file} is missing: {INDEX} names it", "copy or merge it again")
        found |= tensors(file)
    return found


def same(one: Tensor, other: Tensor) -> bool:
    """Whether both hold the same bytes; reads up to the first difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return all(a == b for a, b in zip(_chunks(one), _chunks(other), strict=True))


def all_zero(tensor: Tensor) -> bool:
    """Whether every byte is zero."""
    return not any(any(chunk) for chunk in _chunks(tensor))


def _chunks(tensor: Tensor, size: int = 1 << 20) -> Iterator[bytes]:
    if tensor.start == tensor.stop:  # an empty tensor, perhaps of an empty file, which cannot be mapped
        return
    with tensor.file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for start in range(tensor.start, tensor.stop, size):
            yield mapped[start : min(start + size, tensor.stop)]


def sample(tensor: Tensor, count: int = 4096) -> list[float]:
    """The first values of an F32, F16 or BF16 tensor."""
    import struct

    width = {"F32": 4, "F16": 2, "BF16": 2}[tensor.dtype]
    raw = next(_chunks(tensor, count * width), b"")
    if tensor.dtype == "BF16":  # the upper half of a float32
        raw = b"".join(b"\0\0" + raw[i : i + 2] for i in range(0, len(raw), 2))
    form = "e" if tensor.dtype == "F16" else "f"
    return list(struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw))


def put_back(tensor: Tensor, other: Tensor) -> None:
    """Put ``other``'s bytes in the place of ``tensor``'s; other hard links to the file keep it as it was."""
    part = tensor.file.with_name(f".{tensor.file.name}.part")
    shutil.copyfile(tensor.file, part)
    with part.open("r+b") as stream:
        stream.seek(tensor.start)
        stream.writelines(_chunks(other))
    part.replace(tensor.file)


def add(folder: Path, tensor: Tensor, name: str) -> None:
    """Put ``tensor`` into the model as a weight file of its own (:data:`HEAD`), and into the index."""
    size = tensor.stop - tensor.start
    header = json.dumps({name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [0, size]}}).encode()
    part = folder / f".{HEAD}.part"
    with part.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.writelines(_chunks(tensor))
    found = of_folder(folder)
    total = sum(other.stop - other.start for other in found.values()) + size
    # transformers takes a model.safetensors for all of the model, whatever the index says.
    names = {"model.safetensors": "model-00001-of-00002.safetensors"}
    files = {other.name: names.get(other.file.name, other.file.name) for other in found.values()} | {name: HEAD}
    for old, new in names.items():
        if (folder / old).is_file():
            (folder / old).rename(folder / new)
    part.replace(folder / HEAD)
    index = read_json(folder / INDEX)
    changed = {"metadata": {**index.get("metadata", {}), "total_size": total}, "weight_map": files}
    write_json(folder / INDEX, changed)
