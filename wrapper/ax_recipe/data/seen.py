"""Which rows have been seen before: on disk, so that memory does not grow with the data."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any


class Seen:
    """Remembers rows by their content, with the place of the first of each."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("")  # a file of SQLite's own, gone when it is closed
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("CREATE TABLE seen (content INTEGER PRIMARY KEY, place TEXT) WITHOUT ROWID")

    def before(self, row: Mapping[str, Any]) -> str | None:
        """Where an equal row stood, or None; `remember` it to find the next."""
        found = self._base.execute("SELECT place FROM seen WHERE content = ?", (content(row),)).fetchone()
        return str(found[0]) if found else None

    def remember(self, row: Mapping[str, Any], place: str) -> None:
        """Note where this row stands, unless an equal one came before."""
        self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (content(row), place))

    def close(self) -> None:
        """Forget everything."""
        self._base.close()


def content(row: Mapping[str, Any]) -> int:
    """64 bits of a row's content, in whichever order its columns stand."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
