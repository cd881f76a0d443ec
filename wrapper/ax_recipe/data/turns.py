"""A conversation to the text that is tokenised, and the parts of it that are trained, as Axolotl 0.19 has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import Any

from ax_recipe.errors import RecipeError
from ax_recipe.ship.hf_jinja import HfTemplate

Span = tuple[int, int]

ROLES = {"human": "user", "user": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
ROLES |= {"tool": "tool"}
"""What Axolotl calls the roles of data, where ``roles:`` says nothing (prompt_strategies/chat_template.py)."""

# What is said of a row that teaches nothing.
EMPTY, UNTRAINED = "is empty", "nothing in it is trained: no answer"
# Stands in for a template whose text is not here: a mark of three tokens before a turn, one after it.
PLAIN = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"

_GAP = 12  # characters between a turn and its end token; Axolotl allows three tokens
_OPEN, _CLOSE = "\ue0d0", "\ue0d1"


class TurnsError(RecipeError):
    """A row's turns cannot be read; the message says what is wrong with them."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: its role in the template's words, its text, and whether it is trained."""

    role: str
    content: str
    trained: bool
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Roles:
    """How a dataset names its turns' parts and roles, and which it trains."""

    field: str
    role: str
    content: str
    roles: Mapping[str, str]
    trained: frozenset[str]
    training: str | None
    drop_system: bool
    all_trained: bool


def settings(dataset: Mapping[str, Any], keys: Mapping[str, Any]) -> Roles:
    """Read the settings of a chat_template dataset; what is of the wrong type is left at its default."""
    named = dataset.get("message_property_mappings")
    named = named if isinstance(named, Mapping) else {}
    given = dataset.get("roles")
    roles = ROLES
    if isinstance(given, Mapping) and given:
        roles = {str(source): str(to) for to, sources in given.items() for source in _listed(sources)}
    wanted = dataset.get("roles_to_train")
    trained = ["assistant"] if wanted is None else _listed(wanted)
    return Roles(
        field=str(dataset.get("field_messages") or "messages"),
        role=str(named.get("role") or dataset.get("message_field_role") or "role"),
        content=str(named.get("content") or dataset.get("message_field_content") or "content"),
        roles=roles,
        trained=frozenset(roles.get(str(role), str(role)) for role in trained),
        training=dataset.get("message_field_training"),
        drop_system=bool(dataset.get("drop_system_message")),
        all_trained=bool(keys.get("train_on_inputs")),
    )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def read(row: Mapping[str, Any], how: Roles) -> list[Turn]:
    """The turns of a row.

    :raises TurnsError: there are none, or they lack the fields that are read.
    """
    messages = row.get(how.field)
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError as error:
            raise TurnsError(f"`{how.field}` is text, and no JSON: {error}") from error
    if not isinstance(messages, list):
        raise TurnsError(f"`{how.field}` holds no list of turns")
    if not messages:
        raise TurnsError(f"`{how.field}` is empty")
    turns = [_turn(message, how, index) for index, message in enumerate(messages)]
    if turns[0].role != "system" and isinstance(row.get("system"), str):
        turns.insert(0, Turn("system", row["system"], how.all_trained or "system" in how.trained))
    return turns[1:] if how.drop_system and turns[0].role == "system" else turns


def _turn(message: Any, how: Roles, index: int) -> Turn:
    if not isinstance(message, Mapping):
        raise TurnsError(f"`{how.field}[{index}]` is no mapping")
    content = message.get(how.content)
    wanted = [how.role] if message.get("tool_calls") else [how.role, how.content]
    if lacking := [name for name in wanted if message.get(name) is None]:
        raise TurnsError(f"`{how.field}[{index}]` {lacks(message, lacking[:1])}")
    name = str(message[how.role])
    role = how.roles.get(name, name)
    trained = how.all_trained or role in how.trained
    if how.training and message.get(how.training) is not None:
        trained = bool(message[how.training])
    extra = {key: message[key] for key in ("tool_calls", "name", "reasoning_content") if message.get(key) is not None}
    return Turn(role, _text(content), trained, extra)


def lacks(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """That a row or a turn has nothing at these keys: ``has `output` empty (null)``, ``has no `text`, it has a``."""
    there = ", ".join(f"`{name}`" for name in names if name in row)
    absent = ", ".join(f"`{name}`" for name in names if name not in row)
    has = ", ".join(str(key) for key in list(row)[:6]) or "nothing"
    words = [f"has {there} empty (null)" if there else "", f"has no {absent}, it has {has}" if absent else ""]
    return " and ".join(word for word in words if word)


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part if isinstance(part, Mapping) else {"text": str(part)} for part in content]
        return "".join(str(part.get("text") or part.get("content") or part.get("value") or "") for part in parts)
    return "" if content is None else str(content)


class Template:
    """A chat template that also tells where in its text each turn stands."""

    def __init__(
        self, text: str, tokens: Mapping[str, str], ends: Sequence[str] = (), train_ends: str = "turn"
    ) -> None:
        self._template = HfTemplate(text, tokens)
        self._ends = [end for end in ends if end]
        self._train_ends = train_ends
        self._literals: dict[tuple[str, ...], list[str]] = {}

    def lay_out(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> tuple[str, list[Span]]:
        """The text of the turns and the spans of it that are trained, end tokens included.

        :raises RecipeError: the template refuses the conversation.
        """
        text = self._render(turns, tools)
        places = self._places(text, turns)
        for index in [index for index, turn in enumerate(turns) if turn.extra]:
            places[index] = self._around(text, turns, index, tools) or places[index]
        spans: list[Span] = []
        last: Span | None = None
        for turn, (start, stop) in zip(turns, places, strict=True):
            if stop == start:  # Axolotl finds no turn there, and no end of it
                continue
            if turn.trained:
                spans.append((start, stop))
            if (turn.trained or self._train_ends == "all") and (end := self._end(text, stop)):
                last = end
                if self._train_ends in {"turn", "all"}:
                    spans.append(end)
        if self._train_ends == "last" and last:
            spans.append(last)
        return text, sorted(spans)

    def _render(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> str:
        messages: Any = [{"role": turn.role, "content": turn.content, **turn.extra} for turn in turns]
        return self._template.render(messages, prompt=False, tools=tools)

    def _around(self, text: str, turns: Sequence[Turn], index: int, tools: Sequence[Any]) -> Span | None:
        """Where a turn of more than content stands: what a mark in its place leaves over, as Axolotl has it."""
        mark = f"{_OPEN}{_CLOSE}"
        marked = [*turns[:index], Turn(turns[index].role, mark, False), *turns[index + 1 :]]
        before, found, after = self._render(marked, tools).partition(mark)
        start, stop = len(commonprefix([before, text])), len(text) - len(after)  # noqa: RUF071 -- no paths
        return (start, stop) if found and text.endswith(after) and start <= stop else None

    def _places(self, text: str, turns: Sequence[Turn]) -> list[Span]:
        """Where each content stands: by the literal text around marks, else by looking for it from left to right."""
        pieces = self._pieces(turns)
        for contents in ([turn.content for turn in turns], [turn.content.strip() for turn in turns]):
            if len(pieces) == len(contents) + 1 and text == _joined(pieces, contents):
                return _spans(pieces, contents)
        return _searched(text, turns)

    def _pieces(self, turns: Sequence[Turn]) -> list[str]:
        roles = tuple(turn.role for turn in turns)
        if roles not in self._literals:
            marks = [f"{_OPEN}{index}{_CLOSE}" for index in range(len(turns))]
            marked = [Turn(role, mark, False) for role, mark in zip(roles, marks, strict=True)]
            self._literals[roles] = _split(self._render(marked), marks) if len(self._literals) < 1000 else []
        return self._literals[roles]

    def _end(self, text: str, stop: int) -> Span | None:
        found = [(place, place + len(end)) for end in self._ends if (place := text.find(end, stop, stop + _GAP)) >= 0]
        return min(found, default=None)


def _split(text: str, marks: Sequence[str]) -> list[str]:
    pieces = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            return []
        pieces.append(before)
    return [*pieces, text]


def _joined(pieces: Sequence[str], contents: Sequence[str]) -> str:
    return "".join(part for pair in zip(pieces, [*contents, ""], strict=True) for part in pair)


def _spans(pieces: Sequence[str], contents: Sequence[str]) -> list[Span]:
    spans, place = [], 0
    for piece, content in zip(pieces[:-1], contents, strict=True):
        place += len(piece)
        spans.append((place, place + len(content)))
        place += len(content)
    return spans


def _searched(text: str, turns: Sequence[Turn]) -> list[Span]:
    spans, place = [], 0
    for turn in turns:
        wanted = next((each for each in (turn.content, turn.content.strip()) if each and each in text[place:]), "")
        start = text.index(wanted, place) if wanted else place
        place = start + len(wanted)
        spans.append((start, place))
    return spans
