"""Learn the literal text of a chat template by rendering conversations of marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ax_recipe.errors import RecipeError
from ax_recipe.ship.conversations import ROLES
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.hf_jinja import HfTemplate, RefusedError

SystemKind = Literal["first", "last user", "ignored", "refused"]

DATE = re.compile("\ue0f0([^\ue0f1]*)\ue0f1")
"""How a date stands in learned text: its strftime format between two private characters."""

SPACES = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Trim:
    """White space that the template takes off a text, at either end."""

    left: str = ""
    right: str = ""


@dataclass(frozen=True, slots=True)
class System:
    """Where the system text goes; ``before`` is all that precedes it in a first turn, ``after`` leads to the user.

    In a last user's turn, ``before`` is what stands between that turn's opening and it.
    ``later`` is what stands around a system message between an answer and the next user, where it is written there.
    """

    kind: SystemKind
    before: str = ""
    after: str = ""
    trim: Trim = Trim()
    later: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Turns:
    """The literal text between the contents of a conversation without a system message.

    ``head`` user ``to_assistant`` answer ``to_user`` user ``prompt``. The closings are what ends a user's and an
    assistant's text when nothing is to follow, or None where that is not part of the text above.
    """

    head: str
    to_assistant: str
    to_user: str
    prompt: str
    user_close: str | None
    assistant_close: str | None
    system: System
    user_trim: Trim = Trim()
    assistant_trim: Trim = Trim()


class Probe:
    """A chat template as the tokenizer applies it, less the BOS that the engine adds by itself."""

    def __init__(self, template: HfTemplate, added_bos: str) -> None:
        self._template = template
        self._bos = added_bos

    def text(self, messages: Sequence[Message], *, prompt: bool = True, today: str | None = None) -> str:
        """The rendered text; without ``today`` (YYYY-MM-DD), dates stand as :data:`DATE` marks."""

        def clock(form: str) -> str:
            return f"\ue0f0{form}\ue0f1" if today is None else on_day(form, today)

        return self._template.render(messages, prompt=prompt, clock=clock).removeprefix(self._bos)

    def begun(self, messages: Sequence[Message], *, today: str) -> str:
        """As ``apply_chat_template(continue_final_message=True)``: the text up to the end of the last message."""
        text, last = self.text(messages, prompt=False, today=today), messages[-1]["content"]
        if last not in text:
            raise RefusedError("the last message is not part of the text")
        return text[: text.rindex(last) + len(last)]


def on_day(form: str, today: str) -> str:
    """``strftime(form)`` on a day given as YYYY-MM-DD, in the C locale."""
    from datetime import date

    return date.fromisoformat(today).strftime(form)


def learn(probe: Probe) -> Turns:
    """What the template puts around and between the contents.

    Raises :class:`RecipeError` where it is no such template: contents changed, repeated or in another order, turns
    that are written in several ways.
    """
    head, to_assistant, to_user, second, second_user, prompt = _literals(probe, "uauau")
    if _literals(probe, "u") != (head, prompt) or (to_assistant, to_user) != (second, second_user):
        raise RecipeError("the chat template writes its turns in several ways; no Go template can be derived from it")
    user_close, assistant_close = _closings(probe, head, to_assistant)
    if user_close is not None and not (to_assistant.startswith(user_close) and prompt.startswith(user_close)):
        user_close = None
    if assistant_close is not None and not to_user.startswith(assistant_close):
        assistant_close = None
    return Turns(
        head,
        to_assistant,
        to_user,
        prompt,
        user_close,
        assistant_close,
        _system(probe, head, to_user),
        _trim(probe, "u", 0),
        _trim(probe, "uau", 1),
    )


def _marked(shape: str) -> list[Message]:
    return [{"role": ROLES[role], "content": f"Xq{role}{i}qX"} for i, role in enumerate(shape)]


def _split(text: str, messages: Sequence[Message]) -> tuple[str, ...]:
    """The literals around the contents, one more than messages."""
    literals = []
    for message in messages:
        if text.count(message["content"]) != 1:
            raise RecipeError(f"the chat template does not write the {message['role']}'s text once and in order")
        literal, text = text.split(message["content"])
        literals.append(literal)
    return (*literals, text)


def _literals(probe: Probe, shape: str, *, prompt: bool = True) -> tuple[str, ...]:
    messages = _marked(shape)
    return _split(probe.text(messages, prompt=prompt), messages)


def _closings(probe: Probe, head: str, to_assistant: str) -> tuple[str | None, str | None]:
    closings: list[str | None] = []
    for shape, before in (("u", (head,)), ("ua", (head, to_assistant))):
        try:
            *literals, close = _literals(probe, shape, prompt=False)
        except RefusedError:
            closings.append(None)
        else:
            closings.append(close if tuple(literals) == before else None)
    return closings[0], closings[1]


def _system(probe: Probe, head: str, to_user: str) -> System:
    messages = _marked("su")
    mark = messages[0]["content"]
    try:
        text = probe.text(messages)
    except RefusedError:
        return System("refused")
    if mark not in text:
        if text != probe.text(messages[1:]):
            raise RecipeError("the chat template changes with a system message but does not write it")
        return System("ignored")
    before, after, _ = _split(text, messages)
    trim = _trim(probe, "su", 0)
    if probe.text(_marked("suau")).startswith(before + mark):
        return System("first", before, after, trim, _later(probe, head))
    literals = _split(probe.text(_reordered("suauau")), _reordered("suauau", moved=True))
    lead = before.removeprefix(head)
    if not before.startswith(head) or literals[4:6] != (to_user + lead, after):
        raise RecipeError("the chat template puts the system message at a place that no Go template can follow")
    return System("last user", lead, after, trim)


def _later(probe: Probe, head: str) -> tuple[str, str] | None:
    messages = _marked("uasu")
    try:
        text = probe.text(messages)
    except RefusedError:
        return None
    if not text.startswith(head) or any(text.count(message["content"]) != 1 for message in messages):
        return None
    _, _, before, after, _ = _split(text, messages)
    return before, after


def _reordered(shape: str, *, moved: bool = False) -> list[Message]:
    """Marks of ``shape``, with the system's moved to just before the last user's if asked."""
    first, *others = _marked(shape)
    return [*others[:-1], first, others[-1]] if moved else [first, *others]


def _trim(probe: Probe, shape: str, position: int) -> Trim:
    messages = _marked(shape)
    mark = messages[position]["content"]
    plain = probe.text(messages)
    if plain.count(mark) != 1:
        return Trim()
    left, right = plain.split(mark)
    found: dict[str, str] = {"left": "", "right": ""}
    for space in SPACES:
        padded = [{**m, "content": f"{space}{mark}{space}"} if i == position else m for i, m in enumerate(messages)]
        before, _, after = probe.text(padded).partition(mark)
        found["left"] += space if before == left else ""
        found["right"] += space if after == right else ""
    return Trim(found["left"], found["right"])
