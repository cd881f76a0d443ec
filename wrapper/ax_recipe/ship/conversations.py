"""The conversations on which a chat template and its Go twin must agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ax_recipe.ship.gotemplate import Message

ROLES = {"s": "system", "u": "user", "a": "assistant"}
CORE = ("u", "su", "uau", "suau", "uauau", "suauau", "uauauau", "suauauau")
"""Shapes by first letters: one to four turns, with a system message and without; all end with the user."""

TEXTS = {
    "plain words": ("Answer shortly.", "What is two plus two?", "It is four.", "And three plus three?"),
    "odd characters": (
        "Grüße, 世界! 👩‍👩‍👧 “so”",
        "{{ .Content }} {% raw %} {# no #} }} {{",
        "\\n %s $1 </b> <b> & 'one' \"two\"",
        "naïve\u00a0Ω\u200d\uff5c ```py```",
    ),
    "several lines": ("One.\n\nTwo:\n  - three", 'def f():\n    """doc"""', "a\tb\n\n\nc", '"\n"""\nend'),
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages with a name for what is special about them."""

    kind: str
    messages: tuple[Message, ...]


def make(shape: str, texts: tuple[str, ...]) -> tuple[Message, ...]:
    """Messages of the roles in ``shape`` (``suau``), with ``texts`` in turn."""
    return tuple({"role": ROLES[role], "content": texts[i % len(texts)]} for i, role in enumerate(shape))


def core(*, system: bool) -> Iterator[Conversation]:
    """Conversations that must agree to the byte; those with a system message only if asked for."""
    for kind, texts in TEXTS.items():
        for shape in CORE:
            if system or "s" not in shape:
                yield Conversation(kind, make(shape, texts if "s" in shape else texts[1:]))


def rare(*, system: bool) -> Iterator[Conversation]:
    """Conversations outside the training data as a rule: a difference is told, not refused."""
    padded = ("\n padded ", "  so\t", "\tit is \r\n", " \n ends\n\n")
    shapes: list[tuple[str, str, tuple[str, ...]]]
    shapes = [("white space around a text", shape, padded) for shape in ("u", "su", "uau", "suau")]
    shapes += [("an empty user text", "u", ("",)), ("an empty answer", "uau", ("x", "", "y"))]
    shapes += [("an empty system text", "su", ("", "x")), ("an empty system text", "suau", ("", "x", "y", "z"))]
    shapes += [("a system message later on", shape, TEXTS["plain words"]) for shape in ("uasu", "suasu")]
    shapes += [("a conversation begun by the assistant", "au", ("Hello!", "Who are you?"))]
    shapes += [("an answer begun for the assistant", shape, ("One", "Two", "Three")) for shape in ("ua", "sua")]
    for kind, shape, texts in shapes:
        if system or "s" not in shape:
            yield Conversation(kind, make(shape, texts))
