"""YAML text to `Document`: the values that Axolotl would read (YAML 1.1, PyYAML safe) and the line of each key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ax_recipe.errors import MissingError, Problem, ProblemsError

Keys = tuple[Any, ...]  # keys and list indexes from the top: ("datasets", 0, "type")

# The parser in C reads a config in 1 ms, the one in Python in 15; where libyaml is absent only speed is lost.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 1_000_000  # a config is a few kilobytes; Axolotl's longest example has 5
MAX_NODES = 50_000  # aliases expanded: a few lines of YAML can stand for billions of nodes
MAX_DEPTH = 60  # the parsers recurse

_FIX = "Look here and one line up: indentation, an open quote or bracket, no space after `:`."

# What PyYAML's own constructors let through beside YAMLError, for `2024-13-01`, `!!bool maybe`, `!!int ''` ...
_BROKEN = (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


@dataclass(frozen=True, slots=True)
class Document:
    """A YAML file as read: ``lines`` maps the path of every key and list item to its line, from 1.

    ``problems`` are findings that did not stop the reading (AX005, a key given twice). Of a config that was made of a
    recipe, ``ours`` is what the recipe calls each key; it can name any other under the block ``room``.
    """

    value: Mapping[str, Any]
    lines: Mapping[Keys, int] = field(default_factory=lambda: MappingProxyType({}))
    file: str | None = None
    problems: tuple[Problem, ...] = ()
    ours: Mapping[Any, Keys] | None = None
    room: Keys = ()

    def spelt(self, path: Keys) -> Keys:
        """``path`` as the person's file has it."""
        if self.ours is None or not path:
            return path
        return (*self.ours.get(path[0], (*self.room, path[0])), *path[1:])

    def line(self, path: Keys) -> int | None:
        """Find the line of ``path``, or of the nearest thing around it that has one."""
        return next((self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines), None)


def read(path: Path) -> Document:
    """Read a YAML file; MissingError where it cannot be read, ProblemsError (AX006) where it is no mapping."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MissingError(
            f"{path}: cannot be read: {error.strerror}", "Check the path and its permissions."
        ) from error
    return parse(data, str(path))


def parse(text: str | bytes, file: str | None = None) -> Document:
    """Read YAML text; ProblemsError (AX006) with line and column for broken, endless or empty YAML."""
    text = _decoded(text, file)
    nodes = _nodes(text, file)
    if not nodes:
        raise _refused(file, None, "the file is empty", "Start with `base_model:`, or copy a recipe that exists.")
    builder = _Builder(file, text)
    value = builder.build(nodes[0], ())
    if not isinstance(value, dict):
        name = {list: "a list", str: "text", type(None): "nothing"}.get(type(value), type(value).__name__)
        raise _refused(file, 1, f"the top level is {name}", "Write `key: value` lines.")
    return Document(value, builder.lines, file, tuple(builder.problems))


def value(text: str) -> Any:
    """Read one value of any kind, with the limits of a file; ProblemsError (AX006) as for one, None for no text."""
    text = _decoded(text, None)
    nodes = _nodes(text, None)
    return _Builder(None, text).build(nodes[0], ()) if nodes else None


def _nodes(text: str, file: str | None) -> list[yaml.Node]:
    """The one document of ``text``, or none."""
    try:
        nodes = _compose(text)
    except (*_BROKEN, RecursionError) as error:
        raise _broken(error, file, text) from error
    if len(nodes) > 1:
        raise _refused(file, nodes[1].start_mark.line + 1, "a second YAML document begins", "Keep one, without `---`.")
    return nodes


def _decoded(data: str | bytes, file: str | None) -> str:
    if len(data) > MAX_BYTES:
        raise _refused(file, None, f"longer than {MAX_BYTES:,} bytes", "Is this the configuration, or the data?")
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte {data[error.start]:#04x} is not UTF-8"
        raise _refused(file, line, found, "Save the file as UTF-8.") from error


def _compose(text: str) -> list[yaml.Node]:
    """Compose the node graph of each document in ``text``."""
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecursionError(f"nested more than {MAX_DEPTH} levels deep")
    return list(yaml.compose_all(text, Loader=Loader))


class _Builder:
    """Builds plain values out of nodes, and notes the line of each on the way."""

    def __init__(self, file: str | None, text: str) -> None:
        self.file = file
        self.text = text
        self.lines: dict[Keys, int] = {}
        self.problems: list[Problem] = []
        self._seen: set[yaml.Node] = set()
        self._inside: set[yaml.Node] = set()
        self._count = 0
        self._loader = Loader("")

    def build(self, node: yaml.Node, path: Keys) -> Any:
        self._count += 1
        if self._count > MAX_NODES or node in self._inside:
            raise _refused(self.file, node.start_mark.line + 1, "aliases (`*name`) expand without end", "Write it out.")
        self._inside.add(node)
        try:
            return self._value(node, path)
        except _BROKEN as error:
            raise _broken(error, self.file, self.text, node) from error
        finally:
            self._inside.discard(node)

    def _value(self, node: yaml.Node, path: Keys) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return dict(self._items(node, path))
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return [self._item(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._loader.construct_object(node, deep=True)

    def _item(self, node: yaml.Node, path: Keys) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.build(node, path)

    def _items(self, node: yaml.MappingNode, path: Keys) -> Iterator[tuple[Any, Any]]:
        if node not in self._seen:  # an alias brings the same node again, its merge keys already gone
            self._seen.add(node)
            self._find_duplicates(node, path)
            self._loader.flatten_mapping(node)
        for key_node, value_node in node.value:
            key = self.build(key_node, ())
            hash(key)  # TypeError for a list as a key, which PyYAML refuses as well
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            yield key, self.build(value_node, (*path, key))

    def _find_duplicates(self, node: yaml.MappingNode, path: Keys) -> None:
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line, same = key.start_mark.line + 1, (key.tag, key.value)
            if same in first:
                self.problems.append(_duplicate(self.file, line, first[same], (*path, key.value)))
            first.setdefault(same, line)


def dotted(path: Keys) -> str:
    """``("datasets", 0, "type")`` as ``datasets[0].type``."""
    text = "".join(f"[{part}]" if isinstance(part, int) and not isinstance(part, bool) else f".{part}" for part in path)
    return text.removeprefix(".")


def _duplicate(file: str | None, line: int, before: int, path: Keys) -> Problem:
    return Problem(
        code="AX005",
        severity="error",
        message=f"key given twice: YAML keeps this one and drops line {before} in silence",
        file=file,
        line=line,
        key=dotted(path),
        suggestion=f"Remove line {before} or line {line}.",
    )


def _broken(error: Exception, file: str | None, text: str, node: yaml.Node | None = None) -> ProblemsError:
    mark = getattr(error, "problem_mark", None) or (node.start_mark if node else None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n", 1)[0]
    if mark is None:
        return _refused(file, None, f"not valid YAML: {what}", _FIX)
    lines = text.splitlines()[mark.line : mark.line + 1]
    tab = any("\t" in line[: mark.column + 1] for line in lines)
    begins = getattr(error, "context_mark", None)
    if begins and begins.line != mark.line:
        what += f", for what begins in line {begins.line + 1}"
    fix = "Indent with spaces: YAML allows no tabs there." if tab else _FIX
    return _refused(file, mark.line + 1, f"not valid YAML: {what} (column {mark.column + 1})", fix)


def _refused(file: str | None, line: int | None, message: str, suggestion: str) -> ProblemsError:
    return ProblemsError([Problem("AX006", "error", message, file, line, None, suggestion)])
