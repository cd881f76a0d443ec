"""Render a chat template as transformers does, without transformers.

The settings are those of ``apply_chat_template`` in transformers 4.44 to 5: an immutable sandbox, trimmed blocks,
loop controls, the ``generation`` block, ``raise_exception``, ``strftime_now`` and a ``tojson`` that keeps every
character.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ax_recipe.errors import RecipeError
from ax_recipe.ship.gotemplate import Message


class RefusedError(RecipeError):
    """The template itself refuses this conversation, or cannot be rendered with it."""


class _Generation(Extension):
    """``{% generation %}`` marks what the assistant said, for the training mask; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None, **more: bool) -> str:
    separators = more.pop("separators", None)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)  # type: ignore[arg-type]


Clock = Callable[[str], str]
"""strftime's format to text."""


def _now(form: str) -> str:
    return datetime.now().strftime(form)


_GREETING = "Hello"


@dataclass(frozen=True, slots=True)
class _Way:
    """How a template is given what is the same for all: no tools as None or an empty list, texts bare or as parts."""

    tools: tuple[()] | None = None
    parts: bool = False
    told: str = ""


_WAYS = (
    _Way(),
    _Way((), told="the chat template cannot be rendered without tools: compared with an empty list of them"),
    _Way(parts=True, told="the chat template takes a text as a list of parts: compared with one part each"),
)


class HfTemplate:
    """A compiled chat template together with the tokenizer's special tokens (``bos_token``, ``eos_token``, ...).

    ``told`` says in words where it cannot be rendered as transformers renders a text without tools.
    """

    def __init__(self, text: str, tokens: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(text)
        except TemplateError as error:
            raise RecipeError(f"the chat template is not valid Jinja: {error}") from error
        self._way = next((way for way in _WAYS if self._writes(way)), _WAYS[0])

    @property
    def told(self) -> str:
        """What a person should know of how it is rendered; empty where that is nothing."""
        return self._way.told

    def _writes(self, way: _Way) -> bool:
        self._way = way
        try:
            return _GREETING in self.render([{"role": "user", "content": _GREETING}])
        except RefusedError:
            return False

    def render(
        self, messages: Sequence[Message], *, prompt: bool = True, tools: Sequence[object] = (), clock: Clock = _now
    ) -> str:
        """The text of ``messages`` with what tools there are; ``prompt`` opens the assistant's turn at the end.

        Raises :class:`RefusedError` where the template raises, or trips over something it expects (tools, images).
        """
        try:
            return self._template.render(
                messages=[self._given(message) for message in messages],
                add_generation_prompt=prompt,
                tools=list(tools) or (None if self._way.tools is None else []),
                documents=None,
                strftime_now=clock,
                **self._tokens,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise RefusedError(f"the chat template refuses this conversation: {error}") from error

    def _given(self, message: Message) -> dict[str, object]:
        content = message["content"]
        return {**message, "content": [{"type": "text", "text": content}] if self._way.parts else content}
