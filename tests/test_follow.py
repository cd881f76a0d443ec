"""Following a growing file loses nothing, doubles nothing, and ends with its last line."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.observe.follow import CHUNK, LINE_LIMIT, Follower, Splitter

ALPHABET = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"a", b" 8%|", "█".encode(), b"\xff", b"\xe2\x96", b" ", b"{'loss': 1}"]
)
TEXTS = st.lists(ALPHABET, max_size=40).map(b"".join)


def expected(data: bytes) -> list[str]:
    return [
        text
        for piece in data.replace(b"\r", b"\n").split(b"\n")
        if (text := piece.decode("utf-8", "replace")) and not text.isspace()
    ]


@given(TEXTS, st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_of_the_bytes_gives_the_same_lines(data: bytes, cuts: list[int]) -> None:
    splitter = Splitter()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    found = [line for start, end in pairwise(edges) for line in splitter.split(data[start:end])]
    assert found + splitter.rest() == expected(data)


@given(st.binary(max_size=300))
def test_random_bytes_become_text(data: bytes) -> None:
    splitter = Splitter()
    assert splitter.split(data) + splitter.rest() == expected(data)


def test_a_half_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    follower = Follower(path)
    assert list(follower.poll()) == ["one"]
    assert list(follower.poll()) == []
    with path.open("ab") as file:
        file.write(b"o\rthree")
    assert list(follower.poll()) == ["two"]
    assert list(follower.drain()) == ["three"]
    assert not follower.closed


def test_a_character_may_come_in_two_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes("█".encode()[:1])
    follower = Follower(path)
    assert list(follower.poll()) == []
    path.write_bytes("█\n".encode())
    assert list(follower.poll()) == ["█"]
    assert follower.closed


def test_a_file_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "later.log")
    assert list(follower.poll()) == []
    (tmp_path / "later.log").write_text("here\n")
    assert list(follower.poll()) == ["here"]


def test_a_file_that_was_cut_is_read_from_its_start_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a long first line\n")
    follower = Follower(path)
    list(follower.poll())
    path.write_text("new\n")
    assert list(follower.poll()) == ["new"]


def test_a_file_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    follower = Follower(path)
    list(follower.poll())
    (tmp_path / "next").write_text("the new file is longer\n")
    (tmp_path / "next").replace(path)
    assert list(follower.poll()) == ["the new file is longer"]


def test_every_line_of_a_real_writer_arrives(tmp_path: Path) -> None:
    path, found = tmp_path / "log", list[str]()
    follower = Follower(path)
    code = "import sys\nfor n in range(2000): print(n, end='\\r' if n % 3 else '\\n', flush=n % 7 == 0)"
    with path.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=file)
        while child.poll() is None:
            found += follower.poll()
    found += follower.drain()
    assert found == [str(number) for number in range(2000)]


def test_a_line_without_an_end_cannot_fill_the_memory(tmp_path: Path) -> None:
    splitter = Splitter()
    found = [line for _ in range(LINE_LIMIT // CHUNK + 2) for line in splitter.split(b"x" * CHUNK)]
    assert len(found) == 1
    assert sum(map(len, found + splitter.rest())) == (LINE_LIMIT // CHUNK + 2) * CHUNK
