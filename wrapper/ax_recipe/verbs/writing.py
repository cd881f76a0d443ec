"""A recipe out of a few answers: the data and the model are looked at, and each choice is written with its reason."""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.data import formats, glance
from ax_recipe.data.glance import Glance
from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.forecast import memory
from ax_recipe.forecast.hardware import parse
from ax_recipe.plan import plan as plans
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe.edit import flow
from ax_recipe.run import preparing, rundir
from ax_recipe.verbs import choosing
from ax_recipe.verbs.choosing import Answers, Wish

GOALS = ("chat", "instruct", "completion", "pretrain", "preference")
SCHEMA = "ax-recipe.schema.json"
_GOAL_OF = {
    formats.CHAT: "chat",
    formats.ALPACA: "instruct",
    formats.COMPLETION: "completion",
    formats.PREFERENCE: "preference",
}
_FORMS = {goal: form for form, goal in _GOAL_OF.items()} | {"pretrain": formats.COMPLETION}
_REASONS_AT = 34


@dataclass(frozen=True, slots=True)
class Written:
    """The recipe's file, and what its author should know of it."""

    file: Path
    notes: tuple[str, ...]


def suggest(base: str, data: str) -> str:
    """A name for a recipe that learns from this data."""
    model = re.sub(r"(?i)(meta-|-instruct|-base|-it$)", "", base.rstrip("/").rpartition("/")[2])
    stem = Path(data.rstrip("/")).name.split(".")[0]
    return re.sub(r"[^a-z0-9.]+", "-", f"{model}-{stem}".lower()).strip("-.") or "mine"


def goal_of(data: str) -> str:
    """What data of this form is for; a chat where it cannot be looked at.

    :raises RecipeError: it is of no form that is known.
    """
    seen = _look(data)
    return _GOAL_OF[seen.form] if seen else "chat"


def copy(source: str, name: str) -> Written:
    """Copy a recipe to ``NAME.yaml`` here, with the data files that lie beside it, as one's own.

    :raises RecipeError: there is no such recipe, the target is there already, or other data is where its data goes.
    """
    target, recipe = recipes.new_file(name), recipes.load(source)
    folder = recipe.file.resolve().parent
    copies = {
        target.parent / path.relative_to(folder): path
        for _, path in recipes.local_files(recipe)
        if path.is_file() and path.is_relative_to(folder)
    }
    for copied, path in copies.items():
        if copied.exists() and not filecmp.cmp(path, copied, shallow=False):
            hint = "what is in it stays; choose a name in another folder: other/mine"
            raise RecipeError(f"{copied} is there already, and is not that of {recipe.name}", hint)
    for copied, path in copies.items():
        if not copied.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = recipe.file.read_text(encoding="utf-8")
    rundir.write(target, text if "yaml-language-server" in text else _with_schema(target, text))
    return Written(target, ())


def write(answers: Answers) -> Written:
    """Look at the data and the base, decide, and write the recipe.

    :raises RecipeError: the answers do not go together, or the data is no good.
    """
    target = recipes.new_file(answers.name).absolute()
    seen = _look(answers.data)
    goal = answers.goal or (_GOAL_OF[seen.form] if seen else "chat")
    if seen and seen.form != _FORMS[goal] and not (goal == "instruct" and seen.form == formats.CHAT):
        fitting = [name for name in GOALS if _FORMS[name] == seen.form]
        raise RecipeError(
            f"--goal {goal}: {answers.data} holds {seen.form} rows", f"--goal {' or '.join(fitting)} fits them"
        )
    goal = "chat" if seen and seen.form == formats.CHAT else goal
    wish = Wish(answers, target, goal, choosing.model(answers.base), seen, parse(answers.gpus))
    method, why, notes = _method(wish)
    target.parent.mkdir(parents=True, exist_ok=True)
    rundir.write(target, _with_schema(target, _text(wish, method, why, target.parent)))
    return Written(shown(target), (*notes, *_notes(wish)))


def shown(target: Path) -> Path:
    """The path as a person would type it from here."""
    return target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target


def _look(data: str) -> Glance | None:
    path = Path(data).expanduser()
    if path.exists():
        return glance.at(path)
    if recipes.is_local(data, Path()) or data.count("/") != 1:
        raise RecipeError(f"{data}: no such file", "a file or folder of rows, or a hub id such as owner/name")
    return None


def _notes(wish: Wish) -> Iterator[str]:
    if wish.seen is None:
        here = Path(wish.answers.data).expanduser().exists()
        why = "can be read by the training environment alone" if here else "is not on this machine"
        name = shown(wish.target)
        yield f"{wish.answers.data} {why}: look at it with `ax-recipe data {name}`, then at `type`"
    if wish.seen and wish.goal == "chat" and (guessed := glance.guesses(glance.chat_keys(wish.seen.first))):
        yield f"roles are guessed by who answers whom, and the assistant's words are trained: {guessed}"
    if wish.model.shape is None:
        yield f"the size of {wish.model.base} is not known here: `ax-recipe plan` says how to have it"


def _method(wish: Wish) -> tuple[str, str, list[str]]:
    """The best method that fits the hardware by the memory model, why, and what is to be said of it."""
    parameters = wish.model.shape.parameters if wish.model.shape else 0
    ways = ["lora", "qlora"] if wish.hardware.kind else ["lora"]
    if wish.goal == "pretrain" or (0 < parameters < 7e8 and wish.goal != "preference" and (wish.rows or 0) >= 5000):
        ways = ["full", *ways]
    verdicts = {way: _verdict(wish, way) for way in ways}
    for wanted in (memory.FITS, memory.TIGHT):
        for way, verdict in verdicts.items():
            if verdict == wanted:
                return way, f"{way} {verdict} {wish.hardware} by `ax-recipe plan`", []
    if memory.UNKNOWN in verdicts.values():
        way = ways[0] if wish.model.shape or not wish.hardware.kind else "qlora"
        least = "least memory: its need is not known here"
        return way, least if wish.hardware.kind else "no plan of memory for the CPU", []
    note = f"even {ways[-1]} will not fit {wish.hardware}: more GPUs, or a smaller base"
    return ways[-1], "the smallest there is", [note]


def _verdict(wish: Wish, method: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "draft.yaml"
        file.write_text(_text(wish, method, "", file.parent), encoding="utf-8")
        recipe = recipes.load(str(file))
        try:
            return preparing.foretold(plans.make(recipe, wish.hardware, "out", "prepared", "base")).verdict
        except MissingError:
            return memory.UNKNOWN


class _Lines:
    """The recipe's text as it grows: each line with its reason behind it, where there is one."""

    def __init__(self) -> None:
        self.text = ""

    def put(self, key: str, value: Any, reason: str = "", indent: str = "") -> None:
        """One key with its value."""
        if isinstance(value, Mapping) and any("\n" in str(inner) for inner in value.values()):
            self.line(f"{indent}{key}:", reason)
            for name, inner in value.items():
                self.put(name, inner, "", indent + "  ")
            return
        self.line(f"{indent}{key}: {_value(value)}", reason)

    def line(self, line: str, reason: str = "") -> None:
        """One line; a reason that would not fit beside it stands above."""
        if reason and max(len(line) + 2, _REASONS_AT) + len(reason) > 118:
            indent = " " * (len(line) - len(line.lstrip(" -")))
            self.text += f"{indent}# {reason}\n{line}\n"
            return
        self.text += f"{line:<{_REASONS_AT - 2}}  # {reason}\n" if reason else f"{line}\n"


def _value(value: Any) -> str:
    """A value on one line, as a person would write it: rates with their exponent, line ends as such."""
    if isinstance(value, float) and 0 < value < 1e-3:
        return re.sub(r"e-0?", "e-", f"{value:.1e}")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) and "\n" in value else flow(value)


def _with_schema(target: Path, text: str) -> str:
    """The text behind the editor's line for the schema, which is written beside the recipe."""
    rundir.write(target.parent / SCHEMA, recipes.schema_text())
    return f"# yaml-language-server: $schema={SCHEMA}\n{text}"


def _text(wish: Wish, method: str, why: str, folder: Path) -> str:
    """The whole recipe, with paths that start at ``folder``."""
    lines, answers, model = _Lines(), wish.answers, wish.model
    about = f"{Path(model.base).name} learns from {Path(answers.data).name}"
    lines.line(f"# {about}, for {wish.hardware}.")
    lines.line("# Written by `ax-recipe new`, each choice with its reason; change what you know better.")
    lines.line(f"# ax-recipe check {shown(wish.target)} looks it over, plan says memory and time, run starts it.")
    lines.put("about", about)
    lines.put("base", _path(model.base, folder))
    lines.put("method", method, why)
    rl, template = wish.rl, choosing.template(wish)
    if rl:
        lines.put("rl", rl, choosing.why_rl(wish))
    if template:
        lines.put("chat_template", *template)
    _put_data(lines, wish, template[0] if template else "", folder)
    _put_training(lines, wish, method)
    lines.put("gpus", str(wish.hardware) if wish.hardware.kind else 0)
    _put_ship(lines, wish)
    special = dict(choosing.special(wish, template[0] if template else ""))
    if special:
        lines.line("axolotl:")
        lines.line("  special_tokens:")
        for name, (token, reason) in special.items():
            lines.put(name, token, reason, "    ")
    return lines.text


def _path(text: str, folder: Path) -> str:
    """A local path as the recipe's folder sees it; a hub id as it is."""
    path = Path(text).expanduser()
    if not path.exists():
        return text
    path = path.resolve()
    near = path.is_relative_to(folder.resolve())
    return f"./{os.path.relpath(path, folder.resolve())}" if near else str(path)


def _put_data(lines: _Lines, wish: Wish, template: str, folder: Path) -> None:
    keys, why = choosing.data_keys(wish, template)
    lines.line("data:")
    lines.put("- path", _path(wish.answers.data, folder), why, "  ")
    for key, value in keys.items():
        guessed = glance.guesses(keys) if key == "roles" else ""
        lines.put(key, value, f"guessed: {guessed}" if guessed else "", "    ")
    beside = glance.held_out(Path(wish.answers.data).expanduser())
    rows = wish.rows
    if beside:
        lines.line("held_out:", "rows that are only evaluated on lie beside the data")
        lines.put("- path", _path(str(beside), folder), "", "  ")
        for key, value in keys.items():
            lines.put(key, value, "", "    ")
    elif rows is None or rows >= 10:
        share = 0.1 if rows and rows < 200 else 0.05 if rows and rows < 2000 else 0.01
        some = max(1, round(share * rows)) if rows else 1
        kept = f"{some:,} of {rows:,} rows {'is' if some == 1 else 'are'}" if rows else "a hundredth is"
        lines.put("val_set_size", share, f"{kept} kept apart, to see whether it learns or memorises")


def _put_training(lines: _Lines, wish: Wish, method: str) -> None:
    rows = wish.rows
    if method != "full":
        r = 16 if rows and rows < 2000 else 32
        few = bool(rows and rows < 2000)
        lora = {"r": r, "alpha": r, "dropout": 0.05 if few else 0}
        lines.put("lora", lora, "room for a tone or a form; few rows, so some dropout" if few else "room for a skill")
    lines.line("train:")
    epochs, why = choosing.epochs(wish)
    lines.put("num_epochs", epochs, why, "  ")
    lines.put("learning_rate", *choosing.rate(wish, method), "  ")
    lines.put("warmup_ratio", 0.1 if wish.goal == "preference" else 0.03, "", "  ")
    length, why = choosing.length(wish)
    lines.put("sequence_len", length, why, "  ")
    packed = choosing.packs(wish, length)
    if not packed and wish.goal != "preference":
        empty = "so few tokens fill only a handful of sequences"
        lines.put("sample_packing", False, empty if wish.hardware.kind else "a CPU cannot keep packed rows apart", "  ")
    lines.put("global_batch_size", *choosing.batch(wish, length, packed), "  ")
    if rows is None or rows >= 10:
        lines.put("evals_per_epoch", 4 if rows is None or rows > 5000 else 1, "", "  ")


def _put_ship(lines: _Lines, wish: Wish) -> None:
    if not wish.answers.ollama:
        lines.line(f"# Not for Ollama: ax-recipe run {shown(wish.target)} --until check-merge")
        return
    shape = wish.model.shape
    lines.line("ship:")
    lines.put("model", re.sub(r"[^a-z0-9._-]+", "-", wish.target.stem.lower()), "its name in Ollama", "  ")
    if shape and shape.parameters >= 3.5e8:
        small = shape.parameters < 4e9
        why = "small models lose more to 4 bit" if small else "a third of the size, hardly worse"
        lines.put("quantize", "q8_0" if small else "q4_K_M", why, "  ")
    most = shape.max_positions if shape and shape.max_positions else 8192
    lines.put(
        "num_ctx", min(most, max(4096, choosing.length(wish)[0])), "tokens of conversation that Ollama keeps", "  "
    )
