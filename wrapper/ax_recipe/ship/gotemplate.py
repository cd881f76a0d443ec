"""Run the part of Go's text/template that our templates are written in, as Ollama does.

Only what :mod:`ax_recipe.ship.chat_template` emits is understood: text, pipelines of one command, ``if``, ``range``
with two variables, ``define``, ``template``, and seven functions. Anything else is refused, so that a template this
module renders is one whose meaning here and in Go is the same; the tests hold that against Go itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ax_recipe.errors import RecipeError

Message = Mapping[str, str]
"""``{"role": ..., "content": ...}``, as chat APIs have it."""


class GoTemplateError(RecipeError):
    """The template is not Go that we know, or fails while running."""


@dataclass(frozen=True, slots=True)
class _Scope:
    dot: Any
    variables: Mapping[str, Any]
    today: str
    templates: dict[str, list[_Node]] = field(default_factory=dict)


_Value = Callable[[_Scope], Any]
_Node = Callable[[_Scope, list[str]], _Scope]

_ACTION = re.compile(r"\{\{(- )?((?:\"(?:[^\"\\]|\\.)*\"|`[^`]*`|[^\"`])*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"\s+|(?P<string>\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`)|(?P<variable>\$\w*(?:\.\w+)*)|(?P<dot>(?:\.[A-Za-z]\w*)+|\.)"
    r"|(?P<number>\d+)|(?P<word>[A-Za-z]\w*)|(?P<close>\)(?:\.\w+)*)|(?P<mark>:=|[(,])"
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_SPACE = " \t\r\n"


def collate(messages: Sequence[Message]) -> tuple[str, list[dict[str, str]]]:
    """What Ollama makes ``.System`` and ``.Messages`` of a conversation.

    Neighbours of one role become one message, and all system texts one text, both with an empty line between; the
    system messages stay among the others.
    """
    collated: list[dict[str, str]] = []
    for message in messages:
        if collated and collated[-1]["Role"] == message["role"]:
            collated[-1]["Content"] += "\n\n" + message["content"]
        else:
            collated.append({"Role": message["role"], "Content": message["content"]})
    return "\n\n".join(m["content"] for m in messages if m["role"] == "system"), collated


def render(template: str, messages: Sequence[Message], *, today: str = "2026-01-31") -> str:
    """The prompt that Ollama makes of ``messages``; ``today`` is what ``currentDate`` says (YYYY-MM-DD)."""
    return Program(template)(messages, today=today)


class Program:
    """A template, parsed once: call it with conversations."""

    def __init__(self, template: str) -> None:
        self._templates: dict[str, list[_Node]] = {}
        self._nodes = _Parser(template, self._templates).parse()

    def __call__(self, messages: Sequence[Message], *, today: str = "2026-01-31") -> str:
        """The prompt; raises :class:`GoTemplateError` where Go would stop."""
        system, collated = collate(messages)
        dot = {"System": system, "Messages": collated}
        out: list[str] = []
        _run(self._nodes, _Scope(dot, {"$": dot}, today, self._templates), out)
        return "".join(out)


def quote(text: str) -> str:
    """``text`` as a Go string in double quotes, in ASCII and on one line."""
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(char: str) -> str:
    plain = {value: key for key, value in _SIMPLE.items()}
    if char in plain:
        return "\\" + plain[char]
    if char.isascii() and char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def _unquote(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]

    def char(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        if digits is None and match[4] not in _SIMPLE:
            raise GoTemplateError(f"unknown escape in {text}")
        return chr(int(digits, 16)) if digits else _SIMPLE[match[4]]

    return _ESCAPE.sub(char, text[1:-1])


def _run(nodes: Sequence[_Node], scope: _Scope, out: list[str]) -> None:
    for node in nodes:
        scope = node(scope, out)


def _truth(value: object) -> bool:
    return bool(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _slice(value: Any, *ends: int) -> Any:
    start, stop = (*ends, None)[:2] if ends else (0, None)
    whole = _bytes(value) if isinstance(value, str) else value
    if not 0 <= (start or 0) <= (len(whole) if stop is None else stop) <= len(whole):
        raise GoTemplateError(f"slice bounds {ends} are out of range for a length of {len(whole)}")
    part = whole[start:stop]
    return part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part


def _len(value: Any) -> int:
    return len(_bytes(value) if isinstance(value, str) else value)


def _index(value: Any, position: int) -> Any:
    if not 0 <= position < len(value):
        raise GoTemplateError(f"index {position} is out of range for a length of {len(value)}")
    return value[position]


def _eq(first: object, *others: object) -> bool:
    if any(type(other) is not type(first) for other in others):
        raise GoTemplateError("incompatible types for comparison")
    return first in others


def _and(scope: _Scope, *values: _Value) -> Any:
    result: Any = None
    for value in values:
        if not _truth(result := value(scope)):
            break
    return result


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": _eq,
    "ne": lambda first, second: not _eq(first, second),
    "not": lambda value: not _truth(value),
    "len": _len,
    "slice": _slice,
    "index": _index,
}


class _Parser:
    """Text to nodes, by recursive descent over the actions."""

    def __init__(self, template: str, templates: dict[str, list[_Node]]) -> None:
        self._pieces = _pieces(template)
        self._templates = templates
        self._tokens: list[tuple[str, str]] = []

    def parse(self) -> list[_Node]:
        nodes, end = self._nodes()
        if end:
            raise GoTemplateError(f"unexpected {{{{ {end} }}}}")
        return nodes

    def _nodes(self) -> tuple[list[_Node], str]:
        """Nodes up to the ``end`` or ``else`` that closes them; its word, or nothing at the end of the text."""
        nodes: list[_Node] = []
        for is_action, text in self._pieces:
            if not is_action:
                nodes.append(_text(text))
                continue
            self._tokens = _tokens(text)
            word = self._tokens[0][1] if self._tokens else ""
            if word in ("end", "else"):
                self._tokens.pop(0)
                return nodes, word
            nodes.append(self._action(word))
        return nodes, ""

    def _action(self, word: str) -> _Node:
        action = {"if": self._if, "range": self._range, "define": self._define, "template": self._template}.get(word)
        if action:
            self._tokens.pop(0)
            return action()
        if [kind for kind, _ in self._tokens[:2]] == ["variable", "mark"]:
            return self._declare()
        value = self._pipeline()
        return _print(value)

    def _pipeline(self) -> _Value:
        value = self._command()
        if self._tokens:
            raise GoTemplateError(f"unexpected {self._tokens[0][1]!r} in an action")
        return value

    def _command(self) -> _Value:
        """A function with its arguments, or one operand, up to a closing bracket or the end."""
        if not self._tokens:
            raise GoTemplateError("missing value for command")
        kind, text = self._tokens[0]
        if kind != "word":
            return self._operand()
        self._tokens.pop(0)
        operands: list[_Value] = []
        while self._tokens and self._tokens[0][0] != "close":
            operands.append(self._operand())
        return _call(text, operands)

    def _operand(self) -> _Value:
        kind, text = self._tokens.pop(0)
        if kind == "string":
            constant = _unquote(text)
            return lambda _: constant
        if kind == "number":
            number = int(text)
            return lambda _: number
        if kind == "dot":
            return _path(lambda scope: scope.dot, text.split(".")[1:] if text != "." else [])
        if kind == "variable":
            name, *fields = text.split(".")
            return _path(_variable(name), fields)
        if text == "(":
            inner = self._command()
            if not self._tokens or self._tokens[0][0] != "close":
                raise GoTemplateError("unclosed left bracket")
            return _path(inner, self._tokens.pop(0)[1].split(".")[1:])
        if kind == "word":
            return _call(text, [])
        raise GoTemplateError(f"unexpected {text!r} in an action")

    def _declare(self) -> _Node:
        name = self._tokens[0][1]
        if self._tokens[1][1] != ":=" or "." in name:
            raise GoTemplateError("only simple declarations are known")
        del self._tokens[:2]
        value = self._pipeline()
        return lambda scope, _: replace(scope, variables={**scope.variables, name: value(scope)})

    def _if(self) -> _Node:
        condition = self._pipeline()
        then, end = self._nodes()
        otherwise: list[_Node] = []
        if end == "else" and self._tokens:
            otherwise = [self._action("if")]
        elif end == "else":
            otherwise, end = self._nodes()
        if end not in ("end", "else"):
            raise GoTemplateError("unexpected end of the template in an if")

        def node(scope: _Scope, out: list[str]) -> _Scope:
            _run(then if _truth(condition(scope)) else otherwise, scope, out)
            return scope

        return node

    def _range(self) -> _Node:
        marks = [text for _, text in self._tokens[:4]]
        if len(marks) < 4 or (marks[1], marks[3]) != (",", ":="):
            raise GoTemplateError("only `range $i, $value := list` is known")
        del self._tokens[:4]
        over = self._pipeline()
        body, end = self._nodes()
        if end != "end":
            raise GoTemplateError("unexpected end of the template, or an else, in a range")

        def node(scope: _Scope, out: list[str]) -> _Scope:
            for i, item in enumerate(over(scope)):
                _run(body, replace(scope, dot=item, variables={**scope.variables, marks[0]: i, marks[2]: item}), out)
            return scope

        return node

    def _define(self) -> _Node:
        name = _unquote(self._tokens.pop(0)[1])
        self._templates[name], end = self._nodes()
        if end != "end":
            raise GoTemplateError("unexpected end of the template in a define")
        return lambda scope, _: scope

    def _template(self) -> _Node:
        name = _unquote(self._tokens.pop(0)[1])
        value = self._pipeline()

        def node(scope: _Scope, out: list[str]) -> _Scope:
            if name not in scope.templates:
                raise GoTemplateError(f"template {name!r} is not defined")
            dot = value(scope)
            _run(scope.templates[name], replace(scope, dot=dot, variables={"$": dot}), out)
            return scope

        return node


def _pieces(template: str) -> Iterator[tuple[bool, str]]:
    position, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[position : match.start()]
        text = text.lstrip(_SPACE) if trim else text
        text = text.rstrip(_SPACE) if match[1] else text
        if text:
            yield False, text
        yield True, match[2]
        position, trim = match.end(), bool(match[3])
    rest = template[position:]
    if "{{" in rest:
        raise GoTemplateError(f"unclosed action: {rest[rest.index('{{') :][:40]!r}")
    if rest:
        yield False, rest.lstrip(_SPACE) if trim else rest


def _tokens(action: str) -> list[tuple[str, str]]:
    tokens, position = [], 0
    while position < len(action):
        match = _TOKEN.match(action, position)
        if not match:
            raise GoTemplateError(f"unexpected {action[position]!r} in the action {{{{{action}}}}}")
        if match.lastgroup:
            tokens.append((match.lastgroup, match.group()))
        position = match.end()
    return tokens


def _text(text: str) -> _Node:
    def node(scope: _Scope, out: list[str]) -> _Scope:
        out.append(text)
        return scope

    return node


def _print(value: _Value) -> _Node:
    def node(scope: _Scope, out: list[str]) -> _Scope:
        result = value(scope)
        if not isinstance(result, str):
            raise GoTemplateError(f"only text is printed, not {type(result).__name__}")
        out.append(result)
        return scope

    return node


def _variable(name: str) -> _Value:
    def value(scope: _Scope) -> Any:
        if name not in scope.variables:
            raise GoTemplateError(f"undefined variable {name}")
        return scope.variables[name]

    return value


def _path(start: _Value, fields: Sequence[str]) -> _Value:
    def value(scope: _Scope) -> Any:
        found = start(scope)
        for name in fields:
            if not isinstance(found, Mapping) or name not in found:
                raise GoTemplateError(f"there is no field {name}")
            found = found[name]
        return found

    return value


def _call(name: str, operands: Sequence[_Value]) -> _Value:
    if name == "and":
        return lambda scope: _and(scope, *operands)
    if name == "currentDate":
        return lambda scope: scope.today
    if name not in _FUNCTIONS:
        raise GoTemplateError(f"function {name!r} is not known")
    function = _FUNCTIONS[name]
    return lambda scope: function(*(operand(scope) for operand in operands))
