"""What a model is to learn from, measured: every dataset of a recipe, an Axolotl YAML, or a file of rows on its own."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ax_recipe import assets
from ax_recipe.axolotl import Axolotl
from ax_recipe.checks import checking, foreign
from ax_recipe.checks.model import written
from ax_recipe.checks.subject import Subject
from ax_recipe.data import formats, turns
from ax_recipe.data import rows as files
from ax_recipe.data.counting import ByBytes, ByTokenizer, Counter
from ax_recipe.data.marks import marks
from ax_recipe.data.measure import How, Measured, measure, packing, quantile
from ax_recipe.data.rows import KINDS, Row, Source
from ax_recipe.data.samples import reader
from ax_recipe.data.seen import Seen
from ax_recipe.data.turns import Template
from ax_recipe.errors import MissingError, Problem, RecipeError
from ax_recipe.forecast import by_bytes
from ax_recipe.forecast.hardware import CPU
from ax_recipe.process import Partner
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe.document import Document, Keys
from ax_recipe.ship import tokenizer as tokenizers

_DRAWN = "the chat template is not on this machine: marks of no model stand for its own, tools and calls are left out"

Progress = Callable[[str, int], Callable[[Row], None]]
"""Told of each dataset and its size in bytes; gives what is told of each row."""


class UnreadError(RecipeError):
    """A local path that is there, and no rows are read from it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One dataset: its room (``datasets``, ``test_datasets``), path, type, and what was found."""

    room: str
    path: str
    type: str | None
    measured: Measured


@dataclass(frozen=True, slots=True)
class Survey:
    """All of it. ``exact``: by the base's own tokenizer. ``notes`` say what could not be looked at, and why."""

    name: str
    parts: tuple[Part, ...]
    problems: tuple[Problem, ...]
    sequence_len: int | None
    epochs: float
    exact: bool
    notes: tuple[str, ...]

    def of(self, room: str) -> list[Measured]:
        """What was found in one room."""
        return [part.measured for part in self.parts if part.room == room]


def of_file(
    name: str,
    gpus: str | None,
    axolotl: Axolotl | None,
    changes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Survey:
    """Read all the data that a recipe, an Axolotl YAML, or a data file's name stands for.

    :raises RecipeError: there is no such file, or its keys are wrong.
    :raises MissingError: the program that counts tokens failed.
    """
    subject, known = _subject(name, gpus, axolotl, changes)
    notes = [f"its keys have {checking.summary(known)}: ax-recipe check {shlex.quote(name)}"] if known else []
    with ExitStack() as stack:
        counter = _counter(subject, notes, stack)
        seen = {room: Seen() for room in ("datasets", "test_datasets")}
        for each in seen.values():
            stack.callback(each.close)
        parts, problems = [], []
        for key, dataset in subject.datasets("datasets", "pretraining_dataset", "test_datasets"):
            how = _how(subject, dataset, counter, seen, str(key[0]))
            try:
                source = _source(subject, dataset)
                rows = files.read(source) if isinstance(source, Source) else source
                tick = progress(str(dataset.get("path")), _size(source)) if progress else _ignore
                found = measure(rows, how, tick)
            except (MissingError, UnreadError) as error:
                code = "AX012" if isinstance(error, MissingError) else "AX014"
                problems.append(subject.problem(code, (*key, "path"), error.message, error.hint))
                continue
            parts.append(Part(str(key[0]), str(dataset.get("path")), _type(dataset), found))
            problems += [*found.problems, *_whole(subject, key, dataset, found, how)]
            if found.form and found.form.name == formats.CHAT and written(subject, dataset) is None:
                notes += [_DRAWN] if _DRAWN not in notes else []
    epochs = subject.number("num_epochs") or 1.0
    return Survey(name, tuple(parts), tuple(problems), _longest(subject), epochs, counter.exact, tuple(notes))


def _ignore(_: Row) -> None:
    return None


def _longest(subject: Subject) -> int | None:
    """The sequence_len, in tokens; None where there is none, or a number that no row is measured by."""
    found = subject.number("sequence_len")
    return int(found) if found and math.isfinite(found) else None


def _type(dataset: Mapping[str, Any]) -> str | None:
    kind = dataset.get("type")
    return kind if isinstance(kind, str) else None if kind is None else "user_defined"


def _subject(
    name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str]
) -> tuple[Subject, Sequence[Problem]]:
    """The config to look at, and what is wrong with its keys: the last of a recipe's, which is the fine-tune.

    Around a data file one is made up.
    """
    path = Path(name).expanduser()
    suffix = Path(name.removesuffix(".gz")).suffix
    other = path.exists() and suffix not in {"", ".yaml", ".yml"}
    data = path.is_dir() or other or suffix in {*KINDS, ".parquet", ".arrow"}
    if not data:
        if not path.exists() and not suffix and (unknown := recipes.unknown(name)):
            raise RecipeError(f"{name} is no recipe, and no file or folder of rows", unknown.hint)
        return checking.looked(name, gpus, axolotl, changes)[-1]
    if not path.exists():
        raise RecipeError(f"{name}: no such file", "a data file, a recipe's name, or a YAML")
    document = Document({"datasets": [{"path": str(path.resolve())}]}, file=name)
    return Subject(document, CPU, Path.cwd(), axolotl), ()


def _source(subject: Subject, dataset: Mapping[str, Any]) -> Source | Iterator[Row]:
    """Local files, or rows that the training environment reads for us.

    :raises MissingError: there is no such file, or nobody to read it.
    :raises UnreadError: it is nothing that rows are read from.
    """
    text, split = str(dataset.get("path") or ""), dataset.get("split")
    path = subject.path(text) if "://" not in text else None
    ds_type = dataset.get("ds_type")
    if path is not None:
        if not path.exists():
            raise MissingError(f"no such file: {path}", "check the path, and where relative ones start")
        named = dataset.get("data_files")
        source = files.locate(path, ds_type if isinstance(ds_type, str) else None, str(split) if split else None)
        if not named and (wrong := files.fault(path, source)):
            raise UnreadError(f"{path}: {wrong[0]}", wrong[1])
        if source.kind and source.files and not named:
            return source
    if subject.axolotl is None:
        raise MissingError(
            f"{text}: only the training environment can read it, and no axolotl is installed here",
            "name one: --axolotl PATH",
        )
    if unsafe := foreign.unsafe_format(dataset):
        raise MissingError(f"{text}: {unsafe[1]}, and here it is only looked at", "save it as .jsonl or .parquet")
    asked = {name: dataset.get(name) for name in ("split", "name", "revision", "data_files", "ds_type")}
    return _asked(subject.axolotl, {"path": str(path or text), **asked}, text)


def _asked(axolotl: Axolotl, asked: Mapping[str, Any], name: str) -> Iterator[Row]:
    with Partner(axolotl.python, assets.probe("read_rows.py"), json.dumps(asked)) as partner:
        for number, value in enumerate(partner.all(), 1):
            yield Row(name, None, value, item=number)


def _size(source: Source | Iterator[Row]) -> int:
    return sum(path.stat().st_size for path in source.files) if isinstance(source, Source) else 0


def _counter(subject: Subject, notes: list[str], stack: ExitStack) -> Counter:
    folder = subject.tokenizer()
    if folder is None:
        base = subject.text("base_model")
        notes.append(f"tokens are {by_bytes.RULE}: the tokenizer of {base or 'a base'} is not on this machine")
    elif subject.axolotl is None:
        notes.append(f"tokens are {by_bytes.RULE}: no axolotl is installed here, whose tokenizers count them")
    else:
        return stack.enter_context(ByTokenizer(subject.axolotl, str(folder / "tokenizer.json")))
    return ByBytes()


def _how(subject: Subject, dataset: Mapping[str, Any], counter: Counter, seen: Mapping[str, Seen], room: str) -> How:
    template, eos = _template(subject, dataset)
    held_out = room == "test_datasets"
    return How(
        reader=reader(dataset, subject.keys, template, eos),
        counter=counter,
        sequence_len=_longest(subject),
        seen=seen["test_datasets" if held_out else "datasets"],
        trained_on=seen["datasets"] if held_out else None,
        strategy=str(subject.keys.get("excess_length_strategy") or "drop"),
        columns=formats.columns(dataset, subject.text("rl")),
        marks=marks(dataset, subject.keys, cache(lambda: written(subject, dataset) or "")),
    )


def _template(subject: Subject, dataset: Mapping[str, Any]) -> tuple[Template, str]:
    """The template that the dataset is read with, as far as its text is here, and the end token."""
    folder = subject.tokenizer()
    own = tokenizers.load(folder) if folder else None
    named = own.tokens.variables() if own else {}
    special = {name: text for name, text in subject.block("special_tokens").items() if isinstance(text, str)}
    tokens = {"bos_token": "", "eos_token": "</s>", **named, **special}
    ends = [str(each) for each in subject.list("eot_tokens")] or [tokens["eos_token"]]
    text = written(subject, dataset) or turns.PLAIN
    train_ends = dataset.get("train_on_eot", dataset.get("train_on_eos", "turn"))
    return Template(text, tokens, ends, str(train_ends or "none").lower()), tokens["eos_token"]


def _whole(subject: Subject, key: Keys, dataset: Mapping[str, Any], found: Measured, how: How) -> Iterator[Problem]:
    """What is wrong with all of a dataset, rather than with one row."""
    if not found.rows:
        yield subject.problem("AX014", (*key, "path"), "has no rows", "Is this the right file?")
    elif found.tokens and not found.trained:
        at = (*key, "roles_to_train" if "roles_to_train" in dataset else "type")
        yield subject.problem("AX016", at, "nothing is trained: every label is masked", "roles_to_train: [assistant]")
    if found.rows and found.truncated == found.rows - found.broken and found.truncated and how.strategy == "drop":
        yield subject.problem("AX020", "sequence_len", "every row is longer, and is dropped", "A larger sequence_len.")
    if found.unlisted:
        words = f"{found.unlisted} more rows have findings that are not listed"
        yield subject.problem("AX014", (*key, "path"), words, "Mend those that are listed first.", "warning")


def has_error(survey: Survey) -> bool:
    """Whether one of the findings is an error."""
    return checking.has_error(survey.problems)


def figures(parts: Sequence[Measured], sequence_len: int | None) -> dict[str, Any]:
    """The figures of several datasets together, per epoch."""
    lengths: dict[int, int] = {}
    for part in parts:
        for length, count in part.lengths.items():
            lengths[length] = lengths.get(length, 0) + count
    tokens = sum(part.tokens for part in parts)
    filled = packing(lengths, sequence_len) if sequence_len else None
    return {
        "rows": sum(part.rows for part in parts),
        "broken": sum(part.broken for part in parts),
        "tokens": tokens,
        "lengths": {
            "min": min(lengths, default=0),
            "median": quantile(lengths, 0.5),
            "p95": quantile(lengths, 0.95),
            "max": max(lengths, default=0),
        },
        "truncated": sum(part.truncated for part in parts),
        "trained_share": round(sum(part.trained for part in parts) / tokens, 4) if tokens else 0.0,
        "packing_efficiency": None if filled is None else round(filled, 4),
        "duplicates": sum(part.duplicates for part in parts),
        "overlap": sum(part.overlap for part in parts),
    }


def as_json(survey: Survey) -> dict[str, Any]:
    """The survey as ``data --json`` prints it: the figures are those of the training data."""
    trained = [part.measured for part in survey.parts if part.room != "test_datasets"]
    held_out = survey.of("test_datasets")
    return {
        **figures(trained, survey.sequence_len),
        "overlap": sum(part.overlap for part in held_out),
        "exact": survey.exact,
        "sequence_len": survey.sequence_len,
        "datasets": [_part(part, survey.sequence_len) for part in survey.parts if part.room != "test_datasets"],
        "held_out": [_part(part, survey.sequence_len) for part in survey.parts if part.room == "test_datasets"],
        "notes": list(survey.notes),
        **checking.as_json(survey.problems),
    }


def _part(part: Part, sequence_len: int | None) -> dict[str, Any]:
    form = part.measured.form
    return {
        "path": part.path,
        "type": part.type,
        "format": form.name if form else None,
        "missing": list(form.missing) if form else [],
        **figures([part.measured], sequence_len),
    }
