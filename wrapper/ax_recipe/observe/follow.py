"""Bytes of growing log files become lines of text: none is lost, none is doubled, none comes half."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 1 << 16  # bytes read at once: what fits into the processor's cache is read a third faster than a megabyte
LINE_LIMIT = 1 << 20  # bytes: a "line" longer than this is cut, so that a file without line ends cannot fill memory


def opened(path: Path) -> BinaryIO:
    """The log at ``path`` as UTF-8, whatever its byte order mark says: Windows PowerShell's ``>`` writes UTF-16.

    Raises OSError if it cannot be read, or there is no room for a copy of what is UTF-16.
    """
    file = path.open("rb")
    head = file.peek(3)
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    if not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return file
    with file:
        return _recoded(file)


def _recoded(file: BinaryIO) -> BinaryIO:
    """A nameless copy of UTF-16 in UTF-8: its readers ask for lines by their bytes, and for its end."""
    from tempfile import TemporaryFile

    copy = TemporaryFile()  # noqa: SIM115 -- the caller closes it
    decoder = codecs.getincrementaldecoder("utf-16")("replace")
    while data := file.read(CHUNK):
        copy.write(decoder.decode(data).encode())
    copy.write(decoder.decode(b"", final=True).encode())
    copy.seek(0)
    return copy


class Splitter:
    """Cuts a stream of bytes into lines at every CR or LF; the unfinished rest waits for its end.

    tqdm ends a bar with CR and writes the next text right behind it, hence both ends count.
    """

    def __init__(self) -> None:
        self._half = b""
        self.closed = False

    def split(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, without blank ones; bad UTF-8 becomes replacement characters."""
        if not data:
            return []
        self.closed = data.endswith(b"\n")
        whole, end, half = data.replace(b"\r", b"\n").rpartition(b"\n")
        if end:
            whole = self._half + whole
            self._half = half
        elif len(self._half) + len(half) > LINE_LIMIT:
            whole, self._half = self._half + half, b""
        else:
            self._half += half
            return []
        return _lines(whole)

    def rest(self) -> list[str]:
        """The unfinished line, if there is one: ask when nothing more can come."""
        half, self._half = self._half, b""
        return _lines(half)


def _lines(data: bytes) -> list[str]:
    """The lines of ``data`` that are not blank: tqdm writes blanks to clear its bar."""
    return [line for line in data.decode("utf-8", "replace").split("\n") if line and not line.isspace()]


class Follower:
    """Reads what was added to one file since the last ``poll``; the file may not exist yet, shrink or be replaced.

    ``offset`` is how many bytes of the present file were read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self._splitter = Splitter()
        self._identity: tuple[int, int] | None = None

    @property
    def closed(self) -> bool:
        """Whether the last byte read ended a line with LF."""
        return self._splitter.closed

    def poll(self) -> Iterator[str]:
        """The lines completed since the last call, read as they are asked for: a long log never is in memory."""
        while data := self._read():
            yield from self._splitter.split(data)

    def drain(self) -> Iterator[str]:
        """Everything that is left, the unfinished last line too: call it after the writer has ended."""
        yield from self.poll()
        yield from self._splitter.rest()

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                self._turn_back_if_replaced(file.fileno())
                file.seek(self.offset)
                data = file.read(CHUNK)
        except OSError:  # not there yet, gone, or not to be read: a viewer has nothing to show, and goes on
            return b""
        self.offset += len(data)
        return data

    def _turn_back_if_replaced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        identity = (status.st_dev, status.st_ino)
        if self._identity not in (None, identity) or status.st_size < self.offset:
            self.offset = 0
            self._splitter = Splitter()
        self._identity = identity
