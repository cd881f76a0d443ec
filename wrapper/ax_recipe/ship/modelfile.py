"""Write and read Modelfiles: the grammar of Ollama 0.30 to 0.33, with quoting that loses nothing.

A Modelfile has no escapes, drops what Go does not print, and ends a quoted value at the first line that ends with the
quotes. So not every text can stand in one; the HTTP API takes them all. What the file cannot carry it says in a
comment.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ax_recipe import assets
from ax_recipe.errors import RecipeError
from ax_recipe.ship.files import read_json, write_json

Scalar = str | int | float | bool

INTEGERS = (
    *("draft_num_predict", "main_gpu", "num_batch", "num_ctx", "num_gpu", "num_keep", "num_predict", "num_thread"),
    *("repeat_last_n", "seed", "top_k"),
)
FLOATS = ("frequency_penalty", "min_p", "presence_penalty", "repeat_penalty", "temperature", "top_p", "typical_p")
BOOLEANS = ("use_mmap",)
COMMANDS = (
    *("adapter", "draft", "from", "license", "message", "parameter", "parser", "renderer", "requires", "system"),
    "template",
)
TRUTHS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
"""The words that Go's ``strconv.ParseBool`` takes."""

_QUOTES = '"""'
_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What Ollama is told of a model.

    ``source`` and ``adapter`` are paths or, for ``source``, the name of a model in Ollama. ``notes`` become comments
    on top. Parameters are those of Ollama's API by name, without ``stop``.
    """

    source: str
    template: str | None = None
    stops: tuple[str, ...] = ()
    system: str | None = None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    adapter: str | None = None
    notes: tuple[str, ...] = ()

    def request(self) -> dict[str, object]:
        """The same as fields of ``POST /api/create``, but for the files: this form carries every text."""
        parameters: dict[str, object] = dict(check_parameters(self.parameters))
        if self.stops:
            parameters["stop"] = list(self.stops)
        fields = {"template": self.template, "system": self.system, "parameters": parameters or None}
        return {name: value for name, value in fields.items() if value is not None}


def check_parameters(parameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """``parameters`` with each value of its own type.

    Raises :class:`RecipeError` for an unknown name or a wrong type: Ollama's API takes both in silence (0.33).
    """
    return {name: _checked(name, value) for name, value in parameters.items()}


def _checked(name: str, value: Scalar) -> Scalar:
    known = [*INTEGERS, *FLOATS, *BOOLEANS]
    if name == "stop":
        raise RecipeError("stop is not set as a parameter", "the stops come from the chat template; add yours to them")
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise RecipeError(
            f"Ollama has no parameter {name!r}",
            f"did you mean {near[0]}?" if near else "known are: " + ", ".join(known),
        )
    if name in BOOLEANS and isinstance(value, bool):
        return value
    if name in INTEGERS and isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if name in FLOATS and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    kind = "true or false" if name in BOOLEANS else "a whole number" if name in INTEGERS else "a number"
    raise RecipeError(f"Ollama's parameter {name} is {kind}, not {value!r}")


def is_carried(char: str) -> bool:
    """Whether the parser keeps ``char``: tab, line ends, and what Go's ``strconv.IsPrint`` takes.

    Python's ``isprintable`` is the same set, up to the age of the Unicode tables; of characters from after Unicode
    15.0 (Go 1.21) we are not sure and say no.
    """
    return char in "\t\n\r" or (char.isprintable() and not "\U0002ebf0" <= char <= "\U0002ee5d")


def obstacle(text: str) -> str | None:
    """Why a Modelfile cannot carry ``text``, or None where it can."""
    lost = sorted({char for char in text if not is_carried(char)})
    if lost:
        return "a Modelfile drops " + ", ".join(f"U+{ord(char):04X}" for char in lost)
    for line_end in re.finditer(r"[\r\n]", text):
        start = (_QUOTES + text[: line_end.start()]).rstrip(_SPACE)
        if len(start) >= 6 and start.endswith(_QUOTES):
            return 'a line that ends with """ ends the value'
    return None


def quote(text: str) -> str:
    """``text`` as a value; raises :class:`RecipeError` where :func:`obstacle` finds one."""
    if reason := obstacle(text):
        raise RecipeError(f"this text cannot stand in a Modelfile: {reason}: {text[:60]!r}")
    return _QUOTES + text + _QUOTES


def render(modelfile: Modelfile) -> str:
    """The text of a Modelfile; reads back as the same value, but for what its comments say it cannot carry."""
    from jinja2 import FileSystemLoader, StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # Ollama's TEMPLATE is Go, whose braces are Jinja's too: it enters as a value only, never as source.
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(assets.templates()),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quote
    environment.filters["place"] = _place
    carried, left_out = _carried(modelfile)
    return environment.get_template("Modelfile.j2").render(
        modelfile=carried,
        parameters=check_parameters(modelfile.parameters),
        notes=[line for note in (*modelfile.notes, *left_out) for line in note.splitlines()],
    )


def _carried(modelfile: Modelfile) -> tuple[Modelfile, list[str]]:
    """The part that the file can carry, and a note for each part that it cannot."""
    left_out = []
    if modelfile.system and (reason := obstacle(modelfile.system)):
        left_out.append(f"SYSTEM is left out here ({reason}); created through Ollama's API, the model has it.")
        modelfile = replace(modelfile, system=None)
    left_out += [
        f"The stop {stop!a} is left out here ({reason}); created through Ollama's API, the model has it."
        for stop in modelfile.stops
        if (reason := obstacle(stop))
    ]
    stops = tuple(stop for stop in modelfile.stops if not obstacle(stop))
    return replace(modelfile, stops=stops), left_out


def _place(path: str) -> str:
    """A path or name as a value: bare where that reads back the same."""
    bare = path == path.strip() and path and not path.startswith('"') and obstacle(path) is None
    return path if bare and not re.search(r"[\r\n\t]", path) else quote(path)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its name in small letters, and its value; of PARAMETER and MESSAGE also the name or role."""

    name: str
    value: str
    key: str | None = None


def commands(text: str) -> tuple[Command, ...]:
    """The commands of a Modelfile, read as Ollama reads it.

    Raises :class:`RecipeError` with the line where Ollama refuses the file.
    """
    found = tuple(_commands(text.removeprefix("\ufeff")))
    if not any(command.name == "from" for command in found):
        raise RecipeError("the Modelfile has no FROM line")
    return found


_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"([A-Za-z]+)[ \t]")
# One blank only: Ollama takes a second one for the end of an empty name.
_KEY = {"parameter": re.compile(r"([A-Za-z0-9_]+)[ \t]"), "message": re.compile(r"([A-Za-z]+)[ \t]")}


def _commands(text: str) -> Iterator[Command]:
    position = _match(_BLANK, text, 0).end()
    while position < len(text):
        line = f"line {len(re.findall(chr(10), text[:position])) + 1} of the Modelfile"
        name = _NAME.match(text, position)
        if not name or name[1].lower() not in COMMANDS:
            raise RecipeError(f"{line}: a command must be one of {', '.join(COMMANDS).upper()}")
        command, position, key = name[1].lower(), name.end(), None
        if command in _KEY:
            found = _KEY[command].match(text, position)
            if not found:
                raise RecipeError(f"{line}: {command.upper()} needs a name and a value")
            key, position = found[1], found.end()
        if command == "message" and key not in ("system", "user", "assistant"):
            raise RecipeError(f'{line}: the role of a MESSAGE must be "system", "user" or "assistant"')
        value, position = _value(text, position, line)
        yield Command(command, value, key)
        position = _match(_BLANK, text, position).end()


def _match(pattern: re.Pattern[str], text: str, position: int) -> re.Match[str]:
    match = pattern.match(text, position)
    if match is None:
        raise AssertionError(pattern.pattern)
    return match


def _value(text: str, position: int, line: str) -> tuple[str, int]:
    """The value from ``position`` on, and where it ends: at the first line end by which its quotes are closed."""
    for end in (*(match.start() for match in re.finditer(r"[\r\n]", text[position:])), len(text) - position):
        raw = "".join(char for char in text[position : position + end] if is_carried(char)).strip(_SPACE)
        if (value := _unquoted(raw)) is not None:
            return value, position + end
    raise RecipeError(f"{line}: the quotes of this value are never closed")


def _unquoted(raw: str) -> str | None:
    for quotes in (_QUOTES, '"'):
        if raw.startswith(quotes):
            closed = len(raw) >= 2 * len(quotes) and raw.endswith(quotes)
            return raw[len(quotes) : -len(quotes)] if closed else None
    return raw


def parse(text: str) -> Modelfile:
    """A Modelfile's text as the value that :func:`render` writes.

    Raises :class:`RecipeError` where Ollama would refuse it, and for commands that we never write.
    """
    single: dict[str, str] = {}
    stops: list[str] = []
    parameters: dict[str, Scalar] = {}
    for command in commands(text):
        if command.key == "stop":
            stops.append(command.value)
        elif command.name == "parameter":
            parameters[command.key or ""] = _typed(command.key or "", command.value)
        elif command.name in ("from", "template", "system", "adapter") and command.name not in single:
            single[command.name] = command.value
        else:
            raise RecipeError(
                f"{command.name.upper()} is not one of the commands that ax-recipe writes, or stands twice"
            )
    return Modelfile(
        single["from"],
        single.get("template") or None,
        tuple(stops),
        single.get("system") or None,
        parameters,
        single.get("adapter"),
    )


def _typed(name: str, text: str) -> Scalar:
    """A parameter's text as Go reads it."""
    try:
        value: Scalar = int(text) if name in INTEGERS else float(text) if name in FLOATS else TRUTHS.get(text, text)
    except ValueError:
        value = text
    return check_parameters({name: value})[name]


REST = "Modelfile.rest.json"
"""Beside a Modelfile that cannot carry all of it: the system prompt and stops, whole."""


def write(modelfile: Modelfile, path: Path) -> None:
    """Write the Modelfile to ``path``, and what it cannot carry beside it.

    With bare line feeds: a carriage return would end up in the prompt.
    """
    path.write_text(render(modelfile), encoding="utf-8", newline="\n")
    rest = path.with_name(REST)
    rest.unlink(missing_ok=True)
    if _carried(modelfile)[1]:
        write_json(rest, {"system": modelfile.system, "stops": list(modelfile.stops)})


def read(path: Path) -> Modelfile:
    """What :func:`write` wrote, with whatever a person has changed in the Modelfile since."""
    found, rest = parse(path.read_text(encoding="utf-8")), read_json(path.with_name(REST))
    stops = tuple(dict.fromkeys((*rest.get("stops", ()), *found.stops)))
    return replace(found, system=found.system or rest.get("system"), stops=stops)
