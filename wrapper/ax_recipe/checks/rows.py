"""The data that a config names: whether it is there, and whether its rows are what the config takes them for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from ax_recipe.checks.model import written
from ax_recipe.checks.subject import Subject, as_number, nearest
from ax_recipe.checks.unwritten import unwritten
from ax_recipe.data import formats, glance, turns
from ax_recipe.data.marks import marks
from ax_recipe.data.rows import Row, Source, fault, locate, read
from ax_recipe.data.turns import EMPTY, UNTRAINED, TurnsError
from ax_recipe.errors import Problem, RecipeError
from ax_recipe.forecast import by_bytes
from ax_recipe.recipe.document import Keys

# What can be read in a quarter of a second, of all files together: the whole of them. Of more the first rows must do;
# `ax-recipe data` reads them all.
WHOLE_BYTES = 8 << 20
SAMPLE = 200  # rows of a larger file
LISTED = 20  # rows of a dataset that are named for each kind of flaw
_UNPACKED = 8  # times the size of a .gz
_COUNTED_BYTES = 20 << 20  # files up to this size are counted whole


@dataclass(frozen=True, slots=True)
class Looked:
    """One local dataset of the config: where its key is, all its rows or the first, and how many there are."""

    key: Keys
    dataset: Mapping[str, Any]
    source: Source
    first: tuple[Row, ...]
    rows: int | None

    @property
    def values(self) -> list[Mapping[str, Any]]:
        """The rows that can be read."""
        return [row.value for row in self.first if row.value is not None]


_READERS = ("json", "csv", "text", "parquet", "arrow")  # of `datasets`: a `path` that says how, not where
ROOMS = ("datasets", "test_datasets", "pretraining_dataset")


def data(subject: Subject) -> Iterator[Problem]:
    """Every finding about the data: AX004, AX012 to AX024, AX053, AX058, AX059."""
    named = any(subject.list(room) for room in ("datasets", "pretraining_dataset"))
    if not named and not subject.has_plugin("NemoGym"):  # that plugin brings its own
        yield subject.problem("AX053", "datasets", "no data is named to train on", "datasets: [{path: ..., type: ...}]")
    for key, dataset in subject.datasets(*ROOMS):
        yield from _paths(subject, key, dataset)
    looked = list(_looked(subject))
    for found in looked:
        yield from _listed(_rows(subject, found))
    yield from _held_out(subject, looked)


def unread(subject: Subject) -> Iterator[str]:
    """The names of local data of which no more than the first rows are looked at."""
    return (str(dataset["path"]) for _, dataset, _, whole in _sources(subject) if not whole)


def _sources(subject: Subject) -> Iterator[tuple[Keys, Mapping[str, Any], Source, bool]]:
    """The local data that can be read here, and whether it is to be read whole."""
    left = WHOLE_BYTES
    for key, dataset in subject.datasets(*ROOMS):
        try:
            if source := _source(subject, dataset):
                size = sum(path.stat().st_size * (_UNPACKED if path.suffix == ".gz" else 1) for path in source.files)
                whole = size <= left
                left -= size if whole else 0
                yield key, dataset, source, whole
        except OSError:  # gone, or not ours to read: the training says so as well
            continue


def _paths(subject: Subject, key: Keys, dataset: Mapping[str, Any]) -> Iterator[Problem]:
    """AX004, AX012, AX023: the files of a dataset, and its split."""
    text = dataset.get("path")
    if not text:
        yield subject.problem("AX004", key, "no `path`: nothing says where the rows are", "path: data.jsonl")
    if not isinstance(text, str) or "://" in text:
        return
    path = subject.path(text)
    if path is not None and not path.exists():
        yield subject.problem("AX012", (*key, "path"), f"no such file: {path}", nearest(path))
    if wrong := _fault(path, dataset):
        yield subject.problem("AX014", (*key, "path"), f"{path}: {wrong[0]}", wrong[1])
    split = dataset.get("split")
    if path is not None and path.is_file() and isinstance(split, str) and not re.match(r"train(\W|$)", split):
        message = f"unknown split {split!r}: a file on its own is all `train`"
        yield subject.problem("AX023", (*key, "split"), message, "split: train, or a part such as train[:500].")
    files = dataset.get("data_files")
    folder = subject.folder if path is None and text in _READERS else path
    for index, name in enumerate(files if isinstance(files, list) else []):
        if isinstance(name, str) and folder and folder.is_dir() and not _any_place(subject, folder, name):
            yield subject.problem("AX012", (*key, "data_files", index), f"no such file: {name}", nearest(folder / name))


def _fault(path: Path | None, dataset: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why no row is read from a path that is there."""
    if path is None or not path.exists() or dataset.get("data_files"):
        return None
    try:
        return fault(path, _located(path, dataset))
    except OSError:  # gone, or not ours to read
        return None


def _located(path: Path, dataset: Mapping[str, Any]) -> Source:
    ds_type, split = dataset.get("ds_type"), dataset.get("split")
    return locate(path, ds_type if isinstance(ds_type, str) else None, split if isinstance(split, str) else None)


def _any_place(subject: Subject, folder: Path, name: str) -> bool:
    if "://" in name or "*" in name:
        return True
    return any((place / name).exists() for place in (Path(), folder, subject.folder))


def _source(subject: Subject, dataset: Mapping[str, Any]) -> Source | None:
    """The files of a local dataset; None for the hub, and for what only the training environment can read."""
    text = dataset.get("path")
    path = subject.path(text) if isinstance(text, str) and "://" not in text else None
    if path is None or not path.exists() or (path.is_dir() and dataset.get("data_files")) or _fault(path, dataset):
        return None
    source = _located(path, dataset)
    return source if source.kind else None


def _looked(subject: Subject) -> Iterator[Looked]:
    for key, dataset, source, whole in _sources(subject):
        try:
            first = tuple(read(source) if whole else islice(read(source), SAMPLE))
            yield Looked(key, dataset, source, first, len(first) if whole else _count(source, first))
        except OSError:  # as above
            continue


def _count(source: Source, first: Sequence[Row]) -> int | None:
    if len(first) < SAMPLE:
        return len(first)
    small = sum(path.stat().st_size for path in source.files) <= _COUNTED_BYTES
    return sum(1 for _ in read(source)) if small else None


def _listed(found: Iterable[Problem]) -> Iterator[Problem]:
    """The first rows with each kind of flaw, and how many more have it; what is said of the config stays."""
    alike: dict[str, list[Problem]] = {}
    for problem in found:
        if problem.key:
            yield problem
        else:
            alike.setdefault(problem.code, []).append(problem)
    for rows in alike.values():
        yield from _summed(rows, LISTED)


def _summed(rows: Sequence[Problem], listed: int) -> Iterator[Problem]:
    yield from rows[:listed]
    if more := rows[listed:]:
        words = f"{len(more)} more {'row' if len(more) == 1 else 'rows'} like {'this' if listed == 1 else 'these'}"
        yield replace(more[0], message=words, suggestion="`ax-recipe data` lists them.")


def _rows(subject: Subject, found: Looked) -> Iterator[Problem]:
    """AX013 to AX017, AX020: whether the rows are what the dataset's type reads."""
    if not found.first:
        where = str(found.source.files[0])
        yield Problem("AX014", "error", "has no rows", where, 1, None, "Is this the right file?")
        return
    yield from (row.problem("AX014", "error", row.broken, "Mend or remove it.") for row in found.first if row.broken)
    rows = found.values
    if not rows:
        return
    lacking = list(_columns(subject, found, rows))
    yield from lacking
    if not lacking:
        yield from _each(subject, found)
        yield from _lengths(subject, found, rows)


def _is_chat(subject: Subject, dataset: Mapping[str, Any]) -> bool:
    return dataset.get("type") in ("chat_template", "chat_template.load") and not subject.keys.get("rl")


def _columns(subject: Subject, found: Looked, rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    rl = subject.text("rl")
    wanted = formats.columns(found.dataset, rl)
    form = formats.recognise(rows[0])
    if wanted is None:
        if found.dataset.get("type") is None and form.name != formats.TOKENS and not rl:
            message = f"no type is given, and the rows are no tokens: they look like {form.name}"
            usual = f"type: {formats.TYPES.get(form.name, 'chat_template')}"
            fix = _paired(subject, rows[0]) if form.name == formats.PREFERENCE else usual
            yield subject.problem("AX013", found.key, message, fix)
        return
    for name in formats.lacking(wanted, rows):
        has = ", ".join(map(str, list(rows[0])[:6])) or "nothing"
        key = (*found.key, "type")
        message = f"{found.dataset.get('type')} reads `{name}`, and the rows have {has}"
        fix = _paired(subject, rows[0]) if form.name == formats.PREFERENCE else _better(found.dataset, form, name)
        yield subject.problem("AX013", key, message, fix)


def _each(subject: Subject, found: Looked) -> Iterator[Problem]:
    """AX013, AX015 to AX017, AX059: the rows that lack what others have, the same that `ax-recipe data` names."""
    wanted = formats.columns(found.dataset, subject.text("rl")) or ()
    whole = []
    for row, value in ((row, row.value) for row in found.first if row.value is not None):
        if lacking := [name for name in wanted if value.get(name) is None]:
            yield row.problem("AX013", "error", turns.lacks(value, lacking), "Mend or remove this row.")
        else:
            whole.append((row, value))
    if _is_chat(subject, found.dataset):
        yield from _conversations(subject, found, whole)
        yield from unwritten(subject, found.key, found.dataset, (value for _, value in whole))
    elif answers := [name for name in wanted if name in formats.ANSWERS]:
        yield from (_untrained(row) for row, value in whole if not any(str(value[name]).strip() for name in answers))
    look = marks(found.dataset, subject.keys, cache(lambda: written(subject, found.dataset) or ""))
    marked = [problem for row, _ in whole if (problem := look.problem(row))]
    yield from marked if len(marked) < len(whole) else _summed(marked, 1)


def _paired(subject: Subject, row: Mapping[str, Any]) -> str | None:
    """The keys that read rows of preferences: the same that `new` writes."""
    rl = subject.text("rl")
    try:
        keys = glance.preference_keys(row, rl or "dpo", subject.text("chat_template") or "")
    except RecipeError as error:
        return error.hint
    named = ", ".join(f"{key}: {value}" for key, value in keys.items())
    return f"The rows are preferences: {named}{'' if rl else ', with rl: dpo'}."


def _better(dataset: Mapping[str, Any], form: formats.Form, name: str) -> str:
    if form.name == formats.CHAT and dataset.get("type") == "chat_template":
        return f"field_messages: {form.field}"
    if form.name == formats.COMPLETION and dataset.get("type") == "completion":
        return f"field: the column that holds the text, instead of {name}."
    return f"The rows look like {form.name}: type: {formats.TYPES.get(form.name, 'chat_template')}."


def _conversations(subject: Subject, found: Looked, rows: Sequence[tuple[Row, Mapping[str, Any]]]) -> Iterator[Problem]:
    """AX015, AX016, AX017: fields and roles of the turns."""
    how = turns.settings(found.dataset, subject.keys)
    roles: dict[str, int] = {}
    wrong, trained = [], 0
    for row, value in rows:
        try:
            read_turns = turns.read(value, how)
        except TurnsError as error:
            wrong.append(row.problem("AX015", "error", error.message, _mapped(value, how)))
            continue
        for turn in read_turns:
            roles[turn.role] = roles.get(turn.role, 0) + 1
        said = [turn for turn in read_turns if turn.content.strip() or turn.extra]
        taught = any(turn.trained for turn in said)
        trained += taught
        if not taught:
            yield _untrained(row) if said else row.problem("AX017", "warning", EMPTY, "Remove it.")
    yield from wrong if roles else _summed(wrong, 1)  # one mapping reads all of them, where none can be read
    yield from _roles(subject, found, how, roles, trained)


def _mapped(row: Mapping[str, Any], how: turns.Roles) -> str | None:
    """The mapping that would read these turns."""
    messages = row.get(how.field)
    turn = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], Mapping) else {}
    role = next((key for key in ("role", "from", "speaker", "author") if key in turn), None)
    content = next((key for key in ("content", "value", "text", "message") if key in turn), None)
    if role and content and (role, content) != (how.role, how.content):
        return f"message_property_mappings: {{role: {role}, content: {content}}}"
    return "Mend or remove this row."


def _untrained(row: Row) -> Problem:
    return row.problem("AX017", "warning", UNTRAINED, "Remove it, or mend it.")


def _roles(
    subject: Subject, found: Looked, how: turns.Roles, roles: Mapping[str, int], trained: int
) -> Iterator[Problem]:
    if not roles:
        return
    named = ", ".join(sorted(roles))
    if not trained:
        key = (*found.key, "roles_to_train" if "roles_to_train" in found.dataset else "type")
        message = f"nothing is trained: of the roles {named} none is one of {', '.join(sorted(how.trained)) or 'none'}"
        fix = "roles_to_train: [assistant], and roles: {assistant: [...]} with the data's own name for it."
        yield subject.problem("AX016", key, message, fix)
        return
    strange = sorted(set(roles) - {"user", "assistant", "system", "tool", "developer", "ipython", *how.roles.values()})
    if strange:
        message = f"the data has roles that chat templates do not know: {', '.join(strange)}"
        fix = "roles: {user: [...], assistant: [...]} with the data's own names."
        yield subject.problem("AX015", (*found.key, "type"), message, fix, "warning")


def _lengths(subject: Subject, found: Looked, rows: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """AX020, by what is written: only what is wrong under any tokenizer is an error."""
    longest = subject.number("sequence_len")
    if not longest or found.dataset.get("type") in ("completion", "pretrain") or subject.keys.get("rl"):
        return
    lengths = [_characters(row) for row in rows]
    # No vocabulary of today makes fewer than one token of ten characters of running text.
    if min(lengths) / 10 > longest:
        message = f"every row is longer: the shortest has {min(lengths)} characters, and too long rows are dropped"
        yield subject.problem("AX020", "sequence_len", message, "A larger sequence_len.")
    elif (long := sum(by_bytes.tokens(row) > longest for row in rows)) * 10 > len(lengths):
        message = f"about {long / len(lengths):.0%} of the rows are longer, and are dropped"
        yield subject.problem("AX020", "sequence_len", message, "`ax-recipe data` counts them exactly.", "warning")


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(inner) for inner in value.values())
    return sum(_characters(inner) for inner in value) if isinstance(value, list) else 0


def _held_out(subject: Subject, looked: Sequence[Looked]) -> Iterator[Problem]:
    """AX021, AX022: how many rows are held out."""
    size = as_number(subject.keys.get("val_set_size"))
    trained = [found for found in looked if found.key[0] == "datasets"]
    known = [found.rows for found in trained if found.rows is not None]
    total = sum(known) if len(known) == len(trained) == len(subject.list("datasets")) and known else None
    if size is not None and size >= 1:
        fix = f"val_set_size: {size / 100:g} for {size:g} per cent." if size < 100 else "A share, such as 0.05."
        # Axolotl 0.19 reads any number as a float, which datasets takes for a share and refuses after all is loaded.
        message = f"{size:g} is no share of the rows, and Axolotl takes no number of them"
        yield subject.problem("AX021", "val_set_size", message, fix)
    packs = (
        subject.on("sample_packing")
        and subject.keys.get("eval_sample_packing") is not False
        and not subject.keys.get("rl")
    )
    if packs and (about := _held_out_tokens(looked, size, total)) is not None:
        need = (subject.number("sequence_len") or 512) * (subject.number("micro_batch_size") or 1)
        if about < need:
            key = "eval_sample_packing" if "eval_sample_packing" in subject.keys else "sample_packing"
            message = f"the held-out rows have about {about:.0f} tokens, fewer than the {need:.0f} of one packed batch"
            yield subject.problem("AX022", key, message, "eval_sample_packing: false")


def _held_out_tokens(looked: Sequence[Looked], size: float | None, total: int | None) -> float | None:
    tests = [found for found in looked if found.key[0] == "test_datasets"]
    if tests and all(found.rows is not None for found in tests):
        return sum(_mean(found) * (found.rows or 0) for found in tests)
    trained = [found for found in looked if found.key[0] == "datasets"]
    if not size or total is None or not trained:
        return None
    held = total * size if size < 1 else size
    return held * sum(_mean(found) * (found.rows or 0) for found in trained) / total


def _mean(found: Looked) -> float:
    lengths = [by_bytes.tokens(row) for row in found.values]
    return sum(lengths) / len(lengths) if lengths else 0.0


CHECKS = (data,)
