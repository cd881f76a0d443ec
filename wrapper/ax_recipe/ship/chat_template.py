"""Carry a chat template over to Ollama: from the trained tokenizer's Jinja to a Go TEMPLATE that is proven equal.

The text around each turn is learned by rendering (:mod:`ax_recipe.ship.turns`), written in a few plain Go forms, and
the form that renders a family of conversations to the very bytes of the Jinja is taken. None: an error, never a
guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ax_recipe.errors import RecipeError
from ax_recipe.ship import conversations
from ax_recipe.ship.conversations import Conversation
from ax_recipe.ship.forms import forms
from ax_recipe.ship.gotemplate import Program
from ax_recipe.ship.hf_jinja import HfTemplate, RefusedError
from ax_recipe.ship.turns import DATE, Probe, Turns, learn

DAYS = ("2026-01-31", "2031-11-02")
"""Days on which both templates are compared, where one writes the date."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The tokenizer's special tokens as text: ``ends`` beside EOS, ``others`` by transformers' name."""

    bos: str | None = None
    eos: str | None = None
    added: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        """What a chat template sees: ``bos_token``, ``eos_token`` and the others, those that there are."""
        named = {**self.others, "bos_token": self.bos, "eos_token": self.eos}
        return {name: text for name, text in named.items() if text is not None}


@dataclass(frozen=True, slots=True)
class GoTemplate:
    """The TEMPLATE and stops for Ollama; ``system`` says how the chat template takes a system message."""

    template: str
    stops: tuple[str, ...]
    system: str
    warnings: tuple[str, ...] = ()
    compared: int = 0


def derive(jinja: str, tokens: SpecialTokens, *, adds_bos: bool) -> GoTemplate:
    """The Go twin of a chat template.

    ``adds_bos`` says whether the engine puts the BOS token in front by itself: then it is left out of the template.
    Raises :class:`RecipeError` where no form renders every core conversation to the same bytes.
    """
    trained = HfTemplate(jinja, tokens.variables())
    probe = Probe(trained, tokens.bos or "" if adds_bos else "")
    turns = learn(probe)
    with_system = turns.system.kind in ("first", "last user")
    core = _expected(probe, conversations.core(system=with_system), strict=True)
    rare = _expected(probe, conversations.rare(system=with_system), strict=False)
    fitting = _fitting(forms(turns, tokens.bos or ""), core, rare)
    template, missed = min(fitting, key=lambda found: len(found[1]))
    told = (trained.told,) if trained.told else ()
    differing = (f"{kind}: Ollama's prompt differs from the trained one" for kind in missed)
    warnings = (*told, *_system_warnings(turns), *differing)
    return GoTemplate(template, stops(turns, tokens), turns.system.kind, warnings, len(core) + len(rare))


def _fitting(candidates: Iterator[str], core: list[_Expected], rare: list[_Expected]) -> list[tuple[str, list[str]]]:
    """The candidates that agree in the core, each with the rare kinds in which it does not; up to a perfect one."""
    fitting: list[tuple[str, list[str]]] = []
    first = None
    for template in dict.fromkeys(candidates):
        program = Program(template)
        difference = next(_differences(program, core), None)
        if difference is None:
            missed = dict.fromkeys(conversation.kind for conversation, _ in _differences(program, rare))
            fitting.append((template, list(missed)))
            if not missed:
                break
        first = first or difference
    if not fitting and first:
        shape = "".join(message["role"][0] for message in first[0].messages)
        raise RecipeError(f"no Go template renders as this chat template does: {first[0].kind} ({shape})\n{first[1]}")
    return fitting


def renders(jinja: str, tokens: SpecialTokens, text: str) -> bool:
    """Whether the chat template writes ``text`` at the very start."""
    messages = conversations.make("u", ("Hello",))
    return Probe(HfTemplate(jinja, tokens.variables()), "").text(messages, today=DAYS[0]).startswith(text)


_Expected = tuple[Conversation, str, str]


def _expected(probe: Probe, family: Iterator[Conversation], *, strict: bool) -> list[_Expected]:
    expected = []
    for conversation in family:
        messages = conversation.messages
        for day in DAYS:
            text = probe.begun if messages[-1]["role"] == "assistant" else probe.text
            try:
                expected.append((conversation, day, text(messages, today=day)))
            except RefusedError:
                if strict:
                    raise
    return expected


def _differences(program: Program, expected: Sequence[_Expected]) -> Iterator[tuple[Conversation, str]]:
    for conversation, day, text in expected:
        found = program(conversation.messages, today=day)
        if found != text:
            yield conversation, f"  trained: {text!r}\n  Ollama:  {found!r}"


def _system_warnings(turns: Turns) -> list[str]:
    said = {
        "refused": "the chat template refuses system messages: Ollama's prompt leaves them out",
        "ignored": "the chat template leaves system messages out, and so does Ollama's prompt",
    }
    return [said[turns.system.kind]] if turns.system.kind in said else []


def stops(turns: Turns, tokens: SpecialTokens) -> tuple[str, ...]:
    """What ends an answer: the first special token after it, EOS, and the openings of turns written in plain text."""
    special = {token for token in (*tokens.added, tokens.bos, tokens.eos, *tokens.ends) if token and token.strip()}
    close = (turns.assistant_close or "").strip()
    found = _first_token(turns.to_user, special) or _first_marker(turns.to_user) or close
    ended = turns.assistant_close or found
    opening = _first_line(turns.to_user.partition(ended)[2] if ended else turns.to_user)
    closing = turns.user_close or ""
    answer = _first_line(turns.to_assistant.removeprefix(closing)) or _heading(closing)
    plain = [text for text in (opening, answer) if not (_first_token(text, special) or _first_marker(text))]
    openings = [opening, *plain] if opening in special else plain
    ends = dict.fromkeys((found, tokens.eos or "", *tokens.ends, *(text for text in openings if len(text) > 1)))
    return tuple(text for text in ends if text and text != tokens.bos and not DATE.search(text))


def _first_token(text: str, special: set[str]) -> str:
    pattern = "|".join(re.escape(token) for token in sorted(special, key=len, reverse=True))
    match = re.search(pattern, text) if pattern else None
    return match[0] if match else ""


def _first_marker(text: str) -> str:
    """A leading ``<...>`` or ``[|...|]``: a token in all but name where the tokenizer does not list it."""
    match = re.match(r"\s*(<[^<>\s]+>|\[\|[^\[\]\s]+\|\])", text)
    return match[1] if match else ""


def _heading(text: str) -> str:
    """The last line of a user's turn, where it is the answer's heading."""
    last = text.strip().rpartition("\n")[2]
    return last if last.endswith(":") else ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0].strip()
