"""Files of data to rows, one at a time, each with its file and line; memory does not grow with the file."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ax_recipe.errors import Problem, Severity

KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".txt": "text"}
"""What can be read without the training environment; the rest (parquet, arrow, the hub) is asked of it."""

_CHUNK = 1 << 20  # characters
_LONGEST_ROW = 64 << 20  # characters of one item of a JSON array, beyond which it counts as broken
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # as surrogateescape gives the bytes that are none
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, or of a whole one: the value tells
_TORN = (EOFError, gzip.BadGzipFile, zlib.error)
_SLICE = re.compile(r"\w+\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it begins; ``value`` is None where it cannot be read, and then ``broken`` says why.

    ``item`` counts from 1 where a line does not tell it: in a JSON array, which may be all on one line, and in what
    has no lines at all (``line`` None); else it is 0.
    """

    file: str
    line: int | None
    value: Mapping[str, Any] | None
    broken: str | None = None
    item: int = 0

    def __str__(self) -> str:
        """``rows.jsonl:3``, ``array.json:1, row 3`` or ``rows.parquet, row 3``."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}, row {self.item}" if self.item else place

    def problem(self, code: str, severity: Severity, message: str, fix: str | None) -> Problem:
        """A finding about this row."""
        words = f"row {self.item}, {message}" if self.item else message
        return Problem(code, severity, words, self.file, self.line, None, fix)


@dataclass(frozen=True, slots=True)
class Source:
    """Local files of one kind; ``kind`` is None where only the training environment can read them."""

    files: tuple[Path, ...]
    kind: str | None
    split: str | None = None


def locate(path: Path, ds_type: str | None = None, split: str | None = None) -> Source:
    """The data files at a local path that exists: the file itself, or those in the folder that are of the split."""
    files = _of_folder(path, split) if path.is_dir() else [path] if path.is_file() else []
    kinds = {_kind(file, ds_type) for file in files}
    return Source(tuple(files), kinds.pop() if len(kinds) == 1 else None, split)


def fault(path: Path, source: Source) -> tuple[str, str] | None:
    """Why nobody reads rows from a local path that exists, and what to do; None where somebody can.

    :raises OSError: a file cannot be opened.
    """
    if not path.is_file() and not path.is_dir():
        return "neither a file nor a folder", "Save the rows as a file."
    if not source.files:
        return "holds no file of rows", f"Rows are in {', '.join(KINDS)} or .parquet."
    suffixes = sorted({_suffix(file) for file in source.files if file.is_file()})
    if source.kind is None and len(suffixes) > 1:
        words = f"holds {' and '.join(suffixes)}, and Axolotl reads the files of one kind alone"
        return words, "Name the file, or data_files: [...] beside the folder."
    if ".tsv" in suffixes:
        return "is separated by tabs, which Axolotl takes for JSON", "Save it as .csv with commas, or as .jsonl."
    return next((found for file in source.files if source.kind and (found := _misread(file, source.kind))), None)


def _misread(file: Path, kind: str) -> tuple[str, str] | None:
    """An encoding or a separator that every row would be broken by."""
    head = b""
    with suppress(*_TORN), _bytes(file) as opened:  # a torn archive is told by its rows
        head = opened.read(4096)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return f"{file.name} is UTF-16, and Axolotl reads UTF-8", "Save it as UTF-8."
    first = head.partition(b"\n")[0]
    if kind == "json" and first.strip() == b"{":
        words = "Save the list in it alone, such as by: jq -c '.data[]' all.json > rows.jsonl"
        return f"{file.name} is one JSON object over many lines, and each row is a line or an item of a list", words
    if kind == "json" and first.lstrip().startswith(b"{'"):
        return f"{file.name} is Python's own form of a dict, in single quotes, and no JSON", "Write it with json.dumps."
    mark = next((words for mark, words in ((b";", "semicolons"), (b"\t", "tabs")) if mark in first), None)
    if kind == "csv" and mark and b"," not in first:
        words = f"{file.name} has {mark} between its columns, and Axolotl reads commas"
        return words, "Save it with commas, or as .jsonl."
    return None


def _suffix(file: Path) -> str:
    return Path(file.name.removesuffix(".gz")).suffix


def _kind(file: Path, ds_type: str | None) -> str | None:
    if ds_type:
        return ds_type if ds_type in {"json", "csv", "text"} else None
    suffix = _suffix(file)
    # A file of another name is JSON to Axolotl 0.19 (utils/data/shared.py), were it not for the binary ones.
    return KINDS.get(suffix, None if suffix in {".parquet", ".arrow", ".zst", ".xz", ".zip"} else "json")


def _of_folder(folder: Path, split: str | None) -> list[Path]:
    """As `datasets` sorts a folder: by the split that stands in a file's name, else all of it is train."""
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():  # save_to_disk's own form
        return [folder]
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and Path(path.name.removesuffix(".gz")).suffix in {*KINDS, ".parquet", ".arrow"}
    )
    files = [path for path in files if path.name not in {"dataset_infos.json", "dataset_info.json"}]
    wanted = re.split(r"\W", split or "train")[0]
    named = [path for path in files if re.search(rf"(^|\W|_){re.escape(wanted)}(\W|_|$)", path.stem)]
    return named or files


def read(source: Source) -> Iterator[Row]:
    """Every row of the source that its split takes.

    :raises OSError: a file cannot be opened.
    """
    rows = (row for file in source.files for row in _file(file, source.kind))
    start, stop = part(source)
    return islice(rows, start, stop)


def part(source: Source) -> tuple[int, int | None]:
    """The rows that ``train[10:500]`` or ``train[:5%]`` takes, as a half-open range; all of them for other splits."""
    match = _SLICE.fullmatch((source.split or "").strip())
    if not match:
        return 0, None
    ends = match["start"], match["stop"]
    needs_total = any(end and (end.endswith("%") or end.startswith("-")) for end in ends)
    total = sum(1 for file in source.files for _ in _file(file, source.kind)) if needs_total else 0
    start, stop = (None if end is None else _index(end, total) for end in ends)
    return start or 0, stop


def _index(text: str, total: int) -> int:
    number = int(text.removesuffix("%"))
    number = round(total * number / 100) if text.endswith("%") else number
    return max(0, total + number) if text.startswith("-") else number


def _file(path: Path, kind: str | None) -> Iterator[Row]:
    line = 0
    with _opened(path) as file:
        try:
            for row in _rows(file, str(path), kind):
                line = row.line or line
                yield row
        except _TORN as error:
            yield Row(str(path), line + 1, None, f"no whole gzip file: {error}")


def _rows(file: IO[str], name: str, kind: str | None) -> Iterator[Row]:
    if kind == "csv":
        return _csv(file, name)
    if kind == "text":
        return (_text(line.rstrip("\n"), name, number) for number, line in enumerate(file, 1))
    return _array(file, name) if _is_array(file) else _lines(file, name)


def _opened(path: Path) -> IO[str]:
    return io.TextIOWrapper(_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def _bytes(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def _is_array(file: IO[str]) -> bool:
    head = file.read(4096).lstrip()
    file.seek(0)
    return head.startswith("[")


def _lines(file: IO[str], name: str) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        if line.isspace():  # `datasets` skips them, too
            continue
        yield _row(line, name, number)


def _row(text: str, name: str, number: int) -> Row:
    if not text.isascii() and (found := _NOT_UTF8.search(text)):
        return Row(name, number, None, f"no UTF-8, column {found.start() + 1}")
    try:
        value = json.loads(text.rstrip())
    except (ValueError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        return Row(name, number, None, f"no JSON: {what}{where}")
    return _checked(value, name, number, escaped=_HALF.search(text) is not None)


def _text(text: str, name: str, number: int) -> Row:
    found = None if text.isascii() else _NOT_UTF8.search(text)
    return (
        Row(name, number, None, f"no UTF-8, column {found.start() + 1}") if found else Row(name, number, {"text": text})
    )


def _checked(value: Any, name: str, number: int, *, escaped: bool) -> Row:
    if not isinstance(value, dict):
        return Row(name, number, None, f"{_word(value)} where a JSON object is expected")
    if escaped and (half := _half(value)):
        return Row(name, number, None, f"no Unicode: {half} is one half of a character")
    return Row(name, number, value)


def _half(value: Any) -> str | None:
    """The escape of a surrogate without its other half, which no tokenizer takes."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"\\u{ord(error.object[error.start]):04x}"
    return None


def _word(value: Any) -> str:
    words = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}
    return words.get(type(value), "nothing")


def _array(file: IO[str], name: str) -> Iterator[Row]:
    """The items of one JSON array, however long: as much of it is held as one item needs."""
    decoder = json.JSONDecoder()
    buffer, line, ended, item = file.read(_CHUNK), 1, False, 0
    buffer, line = _skip(buffer, line, "[")
    comma = True  # one stands between two items, and nowhere else
    while True:
        parted = not comma and buffer.lstrip().startswith(",")
        buffer, line = _skip(buffer, line, "," if parted else "")
        comma = comma or parted
        if buffer.startswith("]"):
            if comma and item:
                yield Row(name, line, None, "no JSON: a comma before the end of the array")
            return
        try:
            value, end = decoder.raw_decode(buffer) if buffer else (None, 0)
            complete = end < len(buffer) or ended
        except (ValueError, RecursionError):
            complete, end = False, 0
        if complete and end and not comma:
            yield Row(name, line, None, "no JSON: no comma before this item of the array", item + 1)
            return
        if complete and end:
            item, comma = item + 1, False
            wild = not buffer.isascii() and _NOT_UTF8.search(buffer, 0, end)
            escaped = _HALF.search(buffer, 0, end) is not None
            row = Row(name, line, None, "no UTF-8") if wild else _checked(value, name, line, escaped=escaped)
            yield replace(row, item=item)
            line += buffer.count("\n", 0, end)
            buffer = buffer[end:]
        elif ended or len(buffer) > _LONGEST_ROW:
            yield Row(name, line, None, "no JSON: the array breaks off here", item + 1)
            return
        else:
            more = file.read(_CHUNK)
            buffer, ended = buffer + more, not more


def _skip(buffer: str, line: int, mark: str) -> tuple[str, int]:
    """Leave out white space and one ``mark``."""
    rest = buffer.lstrip()
    rest = rest.removeprefix(mark).lstrip()
    return rest, line + buffer.count("\n", 0, len(buffer) - len(rest))


def _csv(file: IO[str], name: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_ROW)
    reader = csv.DictReader(file)
    line = 2
    try:
        for value in reader:
            cells = {str(key): cell for key, cell in value.items() if key is not None}
            extra = value.get(None)  # where DictReader puts cells without a column
            broken = f"{len(cells) + len(extra)} cells where the head has {len(cells)}" if extra else None
            if any(cell and not cell.isascii() and _NOT_UTF8.search(cell) for cell in cells.values()):
                broken = "no UTF-8"
            yield Row(name, line, None if broken else cells, broken)
            line = reader.line_num + 1
    except csv.Error as error:
        yield Row(name, line, None, f"no CSV: {error}")
