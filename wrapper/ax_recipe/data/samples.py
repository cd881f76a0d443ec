"""A row to what the tokenizer gets of it: pieces of text, each with its trained spans, by the dataset's type."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ax_recipe.data import formats, turns
from ax_recipe.data.turns import Span, Template, TurnsError

_TASK = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
)
_STYLES = {
    "instruct": ("### Instruction:\n{instruction}\n\n", "### Input:\n{input}\n\n", "### Response:\n", "{system}\n\n"),
    "chat": ("USER: {instruction}\n", "{input}\n", "ASSISTANT:", "SYSTEM: {system}\n"),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """Text that is tokenised by itself; ``special``: with what the tokenizer puts before a text (a BOS)."""

    text: str
    trained: tuple[Span, ...] = ()
    special: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One row as it is trained: its segments, or, where it came as tokens, how many and how many of them trained.

    ``split``: too long a row is cut into several instead of being dropped.
    """

    segments: tuple[Segment, ...] = ()
    counted: tuple[int, int] | None = None
    split: bool = False


Reader = Callable[[Mapping[str, Any]], Sample]


def reader(dataset: Mapping[str, Any], keys: Mapping[str, Any], template: Template, eos: str) -> Reader:
    """What turns a row of this dataset into a sample; it raises TurnsError for a row that cannot be read."""
    kind = dataset.get("type")
    name = re.sub(r":\w+$", "", str(kind)).removesuffix(".load") if isinstance(kind, str) else ""
    if keys.get("rl") or name.startswith("bradley_terry"):
        return _preferred
    if name == "chat_template":
        return _Chat(dataset, keys, template)
    if name in {"completion", "pretrain"}:
        column = formats.columns(dataset) or ("text",)
        return lambda row: Sample(_ended(_whole(_text(row, column[0]), special=True), eos), split=True)
    if name == "input_output":
        return _segments
    if kind is None:
        return _Guessed(dataset, keys, template, eos)
    return _Instruction(dataset, eos, trains_all=bool(keys.get("train_on_inputs")))


def _ended(answer: Segment, eos: str) -> tuple[Segment, ...]:
    """The answer and the end token, which Axolotl puts only where it is not there yet."""
    return (answer,) if answer.text.endswith(eos) else (answer, _whole(eos))


def _whole(text: str, *, special: bool = False) -> Segment:
    return Segment(text, ((0, len(text)),), special)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        raise TurnsError(turns.lacks(row, [column]))
    return value if isinstance(value, str) else str(value)


class _Chat:
    """Reads conversations."""

    def __init__(self, dataset: Mapping[str, Any], keys: Mapping[str, Any], template: Template) -> None:
        self._how = turns.settings(dataset, keys)
        self._template = template
        self._tools = str(dataset.get("field_tools") or "tools")

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        read = turns.read(row, self._how)
        if not any(turn.content.strip() or turn.extra for turn in read):
            return Sample()
        tools = formats.listed(row.get(self._tools))
        text, spans = self._template.lay_out(read, tools if isinstance(tools, list) else ())
        said = any(turn.trained and (turn.content.strip() or turn.extra) for turn in read)
        return Sample((Segment(text, tuple(spans) if said else ()),))  # an end of nothing teaches no answer


class _Instruction:
    """Reads one instruction and its answer, in the words of Axolotl's prompters."""

    def __init__(self, dataset: Mapping[str, Any], eos: str, *, trains_all: bool) -> None:
        kind = dataset.get("type")
        self._kind = kind if isinstance(kind, Mapping) else None
        self._style = "chat" if "chat" in str(kind) else "instruct"
        names = formats.columns(dataset) or ("instruction", "output")
        self._asked, self._answer = names[:-1] or names, names[-1]
        if isinstance(kind, Mapping):
            self._asked, self._answer = names[:1], str(kind.get("field_output") or "output")
        elif names[-1] in {"system", "system_prompt"}:
            self._asked, self._answer = (names[0],), names[1]
        self._eos, self._trains_all = eos, trains_all

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        prompt, answer = self._prompt(row), _text(row, self._answer)
        asked = _whole(prompt, special=True) if self._trains_all else Segment(prompt, (), special=True)
        if not answer.strip():
            return Sample((asked,))
        return Sample((asked, *_ended(_whole(answer), self._eos)))

    def _prompt(self, row: Mapping[str, Any]) -> str:
        words = {
            "instruction": "\n".join(_text(row, name) for name in self._asked),
            "input": str(row.get("input") or ""),
        }
        if self._kind is not None:
            form = self._kind.get("format") if words["input"] else self._kind.get("no_input_format")
            text = str(form or "{instruction} {input} ")
            return text.replace("{instruction}", words["instruction"]).replace("{input}", words["input"])
        ask, given, answer, system = _STYLES[self._style]
        more = ", paired with an input that provides further context" if words["input"] else ""
        told = str(row.get("system") or row.get("system_prompt") or _TASK.format(more=more))
        middle = given.replace("{input}", words["input"]) if words["input"] else ""
        return system.replace("{system}", told) + ask.replace("{instruction}", words["instruction"]) + middle + answer


def _segments(row: Mapping[str, Any]) -> Sample:
    parts = row.get("segments")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise TurnsError("`segments` holds no list of mappings")
    made = [(str(part.get("text") or ""), bool(part.get("label"))) for part in parts]
    return Sample(tuple(_whole(text) if label else Segment(text) for text, label in made))


def _preferred(row: Mapping[str, Any]) -> Sample:
    """The question once, and each answer: both are learnt from."""
    asked = next((row[key] for key in ("prompt", "question", "instruction", "input", "messages") if row.get(key)), "")
    answers = [row[key] for key in ("chosen", "rejected", "completion") if row.get(key)]
    if not answers:
        raise TurnsError(f"has no answers, it has {', '.join(map(str, list(row)[:6])) or 'nothing'}")
    return Sample((Segment(_said(asked), (), special=True), *(_whole(_said(answer)) for answer in answers)))


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return _said(value.get("content") or value.get("value") or "")
    return "\n".join(_said(each) for each in value) if isinstance(value, list) else str(value)


class _Guessed:
    """Reads rows whose dataset has no type: tokens, or the form that they look like, which is one for all of them."""

    def __init__(self, dataset: Mapping[str, Any], keys: Mapping[str, Any], template: Template, eos: str) -> None:
        self._how = dataset, keys, template, eos
        self._form: str | None = None

    def __call__(self, row: Mapping[str, Any]) -> Sample:
        form = formats.recognise(row)
        sample = _of_form(form, row, *self._how)
        self._form = self._form or form.name
        if form.name != self._form:
            raise TurnsError(f"has the form {form.name}, and the rows before it {self._form}")
        return sample


def _of_form(
    form: formats.Form,
    row: Mapping[str, Any],
    dataset: Mapping[str, Any],
    keys: Mapping[str, Any],
    template: Template,
    eos: str,
) -> Sample:
    if form.name == formats.TOKENS:
        ids, labels = row.get("input_ids") or [], row.get("labels") or []
        return Sample(counted=(len(ids), sum(label != -100 for label in labels) if labels else len(ids)))
    if isinstance(row.get("segments"), list):
        return _segments(row)
    if form.name == formats.CHAT:
        if form.field is None:
            empty = next((name for name in formats.CHATS if name in row), None)
            raise TurnsError(f"`{empty}` holds no turns" if empty else turns.lacks(row, ["messages"]))
        named = {"role": "from", "content": "value"} if "from" in row[form.field][0] else {}
        chat = {**dataset, "field_messages": form.field, "message_property_mappings": named}
        return _Chat(chat, keys, template)(row)
    if form.name in {formats.PREFERENCE, formats.RATED}:
        return _preferred(row)
    if form.name == formats.ALPACA:
        names = [key for key in formats.QUESTIONS if row.get(key)]
        last = next((key for key in formats.ANSWERS if row.get(key) is not None), "output")
        asked, answer = Segment("\n".join(_text(row, name) for name in names), (), special=True), _text(row, last)
        return Sample((asked, *_ended(_whole(answer), eos)) if answer.strip() else (asked,))
    return Sample(_ended(_whole(_text(row, "text"), special=True), eos), split=True)
