"""Write what was learned of a chat template as Go templates, in a few plain forms.

Go's text/template has no functions for text beside ``slice``, ``len`` and ``eq``, so trimming is written as a
recursion and a date is cut out of Ollama's ``currentDate``. A last message of the assistant is one that it is to go
on with: it is not closed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from ax_recipe.errors import RecipeError
from ax_recipe.ship.gotemplate import quote
from ax_recipe.ship.modelfile import is_carried
from ax_recipe.ship.turns import DATE, SPACES, Trim, Turns

_START = '{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}\n{{- if eq .Role "user" }}'
_FIRST = 'eq (index $.Messages 0).Role "system"'
_PRESENT = (("$.System", "$.System"), (_FIRST, "$.System"), (_FIRST, "(index $.Messages 0).Content"))
"""When a system text is there, and which: all of them, or the first message alone."""

_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_LONG_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_DATES = {
    "Y": "{{ slice currentDate 0 4 }}",
    "y": "{{ slice currentDate 2 4 }}",
    "m": "{{ slice currentDate 5 7 }}",
    "d": "{{ slice currentDate 8 10 }}",
    "%": "%",
}


def forms(turns: Turns, bos: str) -> Iterator[str]:
    """Templates to try, the plainest first."""
    for body in (*_by_message(turns, bos), *_by_pair(turns)):
        yield "".join(_definition(trim) for trim in dict.fromkeys(_trims(turns))) + body


def _openings(turns: Turns, bos: str) -> Iterator[str]:
    """What may be the opening of a user's turn, within the text that leads from an answer to the next user."""
    if turns.assistant_close is not None:
        yield turns.to_user[len(turns.assistant_close) :]
    yield turns.head.removeprefix(bos)
    for start in range(len(turns.to_user)):
        if turns.head.endswith(turns.to_user[start:]):
            yield turns.to_user[start:]
            return


def _by_message(turns: Turns, bos: str) -> Iterator[str]:
    """Forms in which each message brings its own opening and closing, as in ChatML."""
    if turns.user_close is None:
        return
    for opening in dict.fromkeys(_openings(turns, bos)):
        fits = turns.system.kind != "first" or turns.system.after.endswith(opening)
        if fits and turns.head.endswith(opening) and turns.to_user.endswith(opening):
            yield from _own_turns(turns, opening, turns.user_close, bos)


def _own_turns(turns: Turns, opening: str, user_close: str, bos: str) -> Iterator[str]:
    lead, after = turns.head.removesuffix(opening), turns.system.after.removesuffix(opening)
    prompt = turns.prompt[len(user_close) :]
    tail = _if('and $last (ne .Role "assistant")', literal(prompt))
    for answer, last in itertools.product(_answers(turns, opening, user_close, prompt), _last_systems(turns)):
        user = literal(opening) + last + _content(".Content", turns.user_trim) + literal(user_close)
        loop = f'{_START}{user}{{{{ else if eq .Role "assistant" }}}}{answer}'
        if turns.system.kind != "first":
            yield f"{literal(lead)}{loop}{{{{ end }}}}{tail}{{{{ end }}}}"
            continue
        for head, own in _own_systems(turns, lead, after, bos):
            yield f'{head}{loop}{{{{ else if eq .Role "system" }}}}{own}{{{{ end }}}}{tail}{{{{ end }}}}'
        for present, text in _PRESENT:
            head = _head(turns, (lead, after), present, text)
            yield f"{head}{loop}{{{{ end }}}}{tail}{{{{ end }}}}"
        yield f"{head}{loop}{_later_system(turns, opening)}{{{{ end }}}}{tail}{{{{ end }}}}"


def _answers(turns: Turns, opening: str, user_close: str, prompt: str) -> Iterator[str]:
    """The assistant's turn; a last one is being written still: it may open as the prompt does, and is not closed."""
    start = turns.to_assistant[len(user_close) :]
    closed = _content(".Content", turns.assistant_trim) + _if("not $last", literal(turns.to_user.removesuffix(opening)))
    yield literal(start) + closed
    if start != prompt:
        yield _either(prompt, start) + closed


def _own_systems(turns: Turns, lead: str, after: str, bos: str) -> Iterator[tuple[str, str]]:
    """Heads and system turns where each system message stands at its place in the conversation."""
    start = bos if lead.startswith(bos) and turns.system.before.startswith(bos) else ""
    default, before = lead[len(start) :], turns.system.before[len(start) :]
    if not default or before.startswith(default):
        own = literal(before[len(default) :]) + _content(".Content", turns.system.trim) + literal(after)
        yield literal(lead), own
        yield literal(lead), _if(".Content", own)
        return
    own = literal(before) + _content(".Content", turns.system.trim) + literal(after)
    for absent in ("not .System", _FIRST.replace("eq", "ne", 1)):
        yield literal(start) + _if(absent, literal(default)), own


def _later_system(turns: Turns, opening: str) -> str:
    """A branch for system messages that are not the first message."""
    close = turns.to_user.removesuffix(opening)
    if turns.system.later is None or not turns.system.later[0].startswith(close):
        return ""
    before, after = turns.system.later[0].removeprefix(close), turns.system.later[1].removesuffix(opening)
    own = literal(before) + _content(".Content", turns.system.trim) + literal(after)
    return f'{{{{ else if and $i (eq .Role "system") }}}}{own}'


def _by_pair(turns: Turns) -> Iterator[str]:
    """Forms that only hold for users and assistants in turn: what follows a text is written after it."""
    assistant = _content(".Content", turns.assistant_trim) + _if("not $last", literal(turns.to_user))
    for last in _last_systems(turns):
        user = last + _content(".Content", turns.user_trim) + _either(turns.prompt, turns.to_assistant)
        loop = f'{_START}{user}{{{{ else if eq .Role "assistant" }}}}{assistant}{{{{ end }}}}{{{{ end }}}}'
        if turns.system.kind != "first":
            yield literal(turns.head) + loop
            continue
        for present, text in _PRESENT:
            yield _head(turns, (turns.head, turns.system.after), present, text) + loop


def _either(last: str, otherwise: str) -> str:
    if last == otherwise:
        return literal(last)
    shared = _shared_start(last, otherwise)
    last, otherwise = last[len(shared) :], otherwise[len(shared) :]
    return literal(shared) + f"{{{{ if $last }}}}{literal(last)}{{{{ else }}}}{literal(otherwise)}{{{{ end }}}}"


def _shared_start(one: str, other: str) -> str:
    return one if other.startswith(one) else other if one.startswith(other) else ""


def _head(turns: Turns, around: tuple[str, str], present: str, text: str) -> str:
    """What comes before the first user: as it is without a system text, or with it and what follows it (``around``)."""
    before, (plain, after) = turns.system.before, around
    shared = _shared_start(before, plain)
    before, plain = before[len(shared) :], plain[len(shared) :]
    end = after if plain.endswith(after) else plain if after.endswith(plain) else ""
    after, plain = after.removesuffix(end), plain.removesuffix(end)
    otherwise = f"{{{{ else }}}}{literal(plain)}" if plain else ""
    with_system = literal(before) + _content(text, turns.system.trim) + literal(after)
    return f"{literal(shared)}{{{{ if {present} }}}}{with_system}{otherwise}{{{{ end }}}}{literal(end)}"


def _last_systems(turns: Turns) -> Iterator[str]:
    """The system text in front of the last user's, where the template puts it there."""
    if turns.system.kind != "last user":
        yield ""
        return
    for present, text in _PRESENT:
        condition = present if present.startswith("$") else f"({present})"
        own = literal(turns.system.before) + _content(text, turns.system.trim) + literal(turns.system.after)
        yield _if(f"and $last {condition}", own)


def _if(condition: str, body: str) -> str:
    return f"{{{{ if {condition} }}}}{body}{{{{ end }}}}" if body else ""


def _trims(turns: Turns) -> list[Trim]:
    trims = (turns.system.trim, turns.user_trim, turns.assistant_trim)
    return [trim for trim in trims if trim != Trim()]


def _content(value: str, trim: Trim) -> str:
    return f"{{{{ {value} }}}}" if trim == Trim() else f"{{{{ template {_name(trim)} {value} }}}}"


def _name(trim: Trim) -> str:
    if trim == Trim(SPACES, SPACES):
        return '"trim"'
    letters = {" ": "s", "\t": "t", "\n": "n", "\r": "r"}
    sides = ("".join(letters[space] for space in side) for side in (trim.left, trim.right))
    return '"trim {}-{}"'.format(*sides)


def _definition(trim: Trim) -> str:
    """Trimming by recursion, one byte at a time: text/template has no function for it."""
    name = _name(trim)
    left, right = (" ".join(quote(space) for space in side) for side in (trim.left, trim.right))
    first = f"{{{{ if eq (slice . 0 1) {left} }}}}{{{{ template {name} slice . 1 }}}}{{{{ else }}}}"
    last = f"{{{{ if eq (slice . (len (slice . 1))) {right} }}}}{{{{ template {name} slice . 0 (len (slice . 1)) }}}}"
    body = f"{last}{{{{ else }}}}{{{{ . }}}}{{{{ end }}}}" if right else "{{ . }}"
    body = f"{first}{body}{{{{ end }}}}" if left else body
    return f"{{{{ define {name} }}}}{{{{ if . }}}}{body}{{{{ end }}}}{{{{ end }}}}"


# Text that Go would read as an action, that a Modelfile drops (see modelfile.py) or that would end its value.
_RISKY = re.compile(r'\{\{+|\{\Z|"{3,}|[^\x20-\x7e\t\n\r]+')


def literal(text: str) -> str:
    """``text`` as Go template source, with what cannot stand there, or in a Modelfile, as a Go string."""

    def risky(match: re.Match[str]) -> str:
        if not match[0].isascii() and all(map(is_carried, match[0])):
            return match[0]
        return f"{{{{ {quote(match[0])} }}}}"

    plain, *dated = DATE.split(text)
    source = [_RISKY.sub(risky, plain)]
    for form, after in zip(dated[::2], dated[1::2], strict=True):
        source += [_date(form), _RISKY.sub(risky, after)]
    return "".join(source)


def _date(form: str) -> str:
    """A date in strftime's ``form`` from Ollama's ``currentDate``, which is always YYYY-MM-DD."""
    if form == "%Y-%m-%d":
        return "{{ currentDate }}"
    return re.sub(r"%(.)|[^%]+", lambda match: _directive(match[1]) if match[1] else literal(match[0]), form)


def _directive(letter: str) -> str:
    if letter in "bhB":
        months = _LONG_MONTHS if letter == "B" else _MONTHS
        tests = (f'{{{{ if eq (slice currentDate 5 7) "{i:02}" }}}}{month}' for i, month in enumerate(months, 1))
        return "{{ else }}".join(tests).replace("{{ else }}{{ if", "{{ else if") + "{{ end }}"
    if letter not in _DATES:
        raise RecipeError(f"the chat template writes the date with %{letter}, which Ollama's template cannot")
    return _DATES[letter]
