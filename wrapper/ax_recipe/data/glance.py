"""A look at data before there is a recipe for it: its form, how many rows and how long, and the keys that read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ax_recipe.data import formats
from ax_recipe.data.formats import ALPACA, CHAT, COMPLETION, PREFERENCE
from ax_recipe.data.rows import fault, locate, read
from ax_recipe.data.turns import ROLES
from ax_recipe.errors import RecipeError
from ax_recipe.forecast import by_bytes

SAMPLE = 2000
_WRITTEN = "### Instruction:\n{instruction}\n\n### Response:\n"
_WRITTEN_WITH_INPUT = "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
_ASIDE = frozenset(["system", "tool", "developer", "ipython"])  # neither asks nor answers
_SPOKEN = frozenset(["developer", "ipython"])  # Axolotl maps them to nothing, and chat templates know them
_KNOWN = "known are messages; instruction and output, or question and answer; text; chosen and rejected: rename them so"
_HELD_OUT = ("held-out", "held_out", "test", "validation", "valid", "val", "eval", "dev")


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen: ``lengths`` are of the first rows, in tokens by their bytes, the shortest first."""

    form: str
    first: tuple[Mapping[str, Any], ...]
    rows: int
    lengths: tuple[int, ...]

    def longest(self, share: float) -> int:
        """The length that so great a share of the rows does not exceed."""
        return self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))]

    @property
    def mean(self) -> float:
        """Tokens of a usual row."""
        return sum(self.lengths) / len(self.lengths)


def at(path: Path) -> Glance | None:
    """Look at a local file or folder; None where only the training environment can read it (parquet, arrow).

    :raises RecipeError: there are no rows, or none of a form that is known.
    """
    source = locate(path)
    if wrong := fault(path, source):
        raise RecipeError(f"{path}: {wrong[0]}", wrong[1])
    if source.kind is None:
        return None
    found = [row.value for row in islice(read(source), SAMPLE) if row.value]
    if not found:
        raise RecipeError(f"{path}: holds no row that can be read", f"ax-recipe data {path} says what is wrong with it")
    form = formats.recognise(found[0])
    if form.missing or form.name not in {CHAT, ALPACA, COMPLETION, PREFERENCE}:
        columns = ", ".join(found[0])
        lacks = f", and a {form.name} row would have {' and '.join(form.missing)}" if form.missing else ""
        raise RecipeError(f"{path}: its columns are {columns}{lacks}", _KNOWN)
    field = form.field or next((name for name in formats.CHATS if name in found[0]), "messages")
    if form.name == CHAT and not any(_turns(row, field) for row in found):
        words = "turns are a list: [{role: user, content: ...}, {role: assistant, content: ...}]"
        raise RecipeError(f"{path}: `{field}` holds no turns", words)
    rows = len(found) if len(found) < SAMPLE else sum(1 for _ in read(source))
    return Glance(form.name, tuple(found), rows, tuple(sorted(round(by_bytes.tokens(row)) for row in found)))


def held_out(path: Path) -> Path | None:
    """The file beside the data that is named as one to be kept for evaluation."""
    if not path.is_file():
        return None
    names = [f"{prefix}{word}{path.suffix}" for word in _HELD_OUT for prefix in ("", f"{path.stem}-", f"{path.stem}_")]
    return next((found for name in names if (found := path.with_name(name)).is_file() and found != path), None)


def chat_keys(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The dataset keys for rows of turns: the column, its parts' names, and roles that Axolotl does not know."""
    field = formats.recognise(rows[0]).field or "messages"
    turns = [turn for row in rows for turn in _turns(row, field)]
    role = "role" if "role" in turns[0] else "from"
    content = "content" if "content" in turns[0] else "value"
    keys: dict[str, Any] = {"type": "chat_template"}
    if field != "messages":
        keys["field_messages"] = field
    if (role, content) != ("role", "content"):
        keys["message_property_mappings"] = {"role": role, "content": content}
    speakers = [[str(turn.get(role)) for turn in _turns(row, field)] for row in rows]
    names = dict.fromkeys(name for names in speakers for name in names)
    if set(names) - set(ROLES) - _SPOKEN:
        guessed = _guessed(speakers)
        roles: dict[str, list[str]] = {}
        for name in names:
            roles.setdefault(_known(name) or guessed[name], []).append(name)
        keys["roles"] = roles
    return keys


def guesses(keys: Mapping[str, Any]) -> str:
    """Which names of the ``roles`` in a dataset's keys were taken for what, in words; empty where none was."""
    roles: Mapping[str, Sequence[str]] = keys.get("roles") or {}
    taken = {role: [name for name in names if _known(name) is None] for role, names in roles.items()}
    return ", ".join(f"{' and '.join(names)} as {role}" for role, names in taken.items() if names)


def _turns(row: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    found = formats.listed(row.get(field))
    return [turn for turn in found if isinstance(turn, Mapping)] if isinstance(found, list) else []


def _known(name: str) -> str | None:
    """The role of a name that Axolotl or chat templates know, in capitals or not."""
    return name if name in _SPOKEN else ROLES.get(name.lower())


def _guessed(speakers: Iterable[Sequence[str]]) -> dict[str, str]:
    """The role of each name that nobody knows: what it is in most of its turns."""
    votes: dict[str, Counter[str]] = {}
    for names in speakers:
        names = [name for name in names if _known(name) not in _ASIDE]
        for index, name in enumerate(names):
            if _known(name) is None:
                votes.setdefault(name, Counter())[_side(names, index)] += 1
    return {name: counted.most_common(1)[0][0] for name, counted in votes.items()}


def _side(names: Sequence[str], index: int) -> str:
    """Who stands beside a user is the assistant and the other way round; else who ends it is the assistant."""
    beside = [known for name in (*names[:index][-1:], *names[index + 1 :][:1]) if (known := _known(name))]
    if beside:
        return "user" if beside[0] == "assistant" else "assistant"
    return "assistant" if names[index] == names[-1] else "user"


def instruct_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset keys for rows of question and answer; other columns than Alpaca's get a prompt of their own."""
    if {"instruction", "output"} <= set(row):
        return {"type": "alpaca"}
    question = next(name for name in formats.QUESTIONS if name in row)
    answer = next(name for name in formats.ANSWERS if name in row)
    names = {"field_instruction": question, "field_output": answer}
    return {"type": {**names, "format": _WRITTEN_WITH_INPUT, "no_input_format": _WRITTEN}}


def text_keys(row: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset keys for rows of text."""
    return {"type": "completion"} if "text" in row else {"type": "completion", "field": "content"}


def preference_keys(row: Mapping[str, Any], rl: str, template: str) -> dict[str, Any]:
    """The dataset keys for rows with a chosen and a rejected answer (Axolotl 0.19, prompt_strategies/).

    :raises RecipeError: no type of Axolotl reads such rows with that template.
    """
    chosen = row["chosen"]
    if formats.is_chat(chosen):
        if rl == "orpo":
            return {"type": "chat_template.argilla"}
        if len(chosen) > 1:
            return {"type": "chat_template.argilla_chat"}
    if rl == "dpo" and isinstance(chosen, str) and "prompt" in row and template in {"chatml", "llama3"}:
        return {"type": f"{template}.prompt_pairs"}
    if rl == "dpo" and (asked := _asked(row)) and not row.get("system"):  # which that type would leave out
        return {"type": "chat_template.default", "field_messages": asked}
    found = f"chosen is {'text' if isinstance(chosen, str) else 'no whole conversation'}, the columns {', '.join(row)}"
    raise RecipeError(
        f"these preferences cannot be read with rl: {rl} and {template}: {found}",
        "make chosen and rejected whole conversations: [{role: user, ...}, {role: assistant, ...}]",
    )


_PAIR = frozenset(["chosen", "rejected"])


def _asked(row: Mapping[str, Any]) -> str | None:
    """The column with what both answers answer: turns, or the text of one."""
    turns = next((key for key, value in row.items() if formats.is_chat(value) and key not in _PAIR), None)
    return turns or next((name for name in formats.QUESTIONS if isinstance(row.get(name), str)), None)
