"""A recipe out of a few answers: the data and the model are looked at, and each choice is written with its reason."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.checks.model import MARKS
from ax_recipe.data import formats, glance
from ax_recipe.data.glance import Glance
from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.explain import families
from ax_recipe.explain.families import Family
from ax_recipe.forecast import architecture, memory
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware, parse
from ax_recipe.plan import plan as plans
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe.edit import flow
from ax_recipe.run import preparing, rundir
from ax_recipe.ship import tokenizer as tokenizers
from ax_recipe.ship.tokenizer import TokenizerFiles

GOALS = ("chat", "instruct", "completion", "pretrain", "preference")
SCHEMA = "ax-recipe.schema.json"
_GOAL_OF = {
    formats.CHAT: "chat",
    formats.ALPACA: "instruct",
    formats.COMPLETION: "completion",
    formats.PREFERENCE: "preference",
}
_FORMS = {goal: form for form, goal in _GOAL_OF.items()} | {"pretrain": formats.COMPLETION}
_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_REASONS_AT = 34
_LEAST_SEQUENCES, _LEAST_STEPS = 200, 50  # of an epoch: below these a training has too few steps to learn by


@dataclass(frozen=True, slots=True)
class Answers:
    """What a person says: ``goal`` None follows the data; ``gpus`` as on the command line."""

    name: str
    base: str
    data: str
    goal: str | None
    gpus: str
    ollama: bool


@dataclass(frozen=True, slots=True)
class Model:
    """The base as far as it can be known here; ``taught``: it can converse already."""

    base: str
    shape: Shape | None
    family: Family | None
    tokenizer: TokenizerFiles | None
    taught: bool


@dataclass(frozen=True, slots=True)
class Written:
    """The recipe's file, and what its author should know of it."""

    file: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Wish:
    """All answers, and what was found by looking; paths are absolute."""

    answers: Answers
    target: Path
    goal: str
    model: Model
    seen: Glance | None
    hardware: Hardware


def path_of(name: str) -> Path:
    """The file of a new recipe of that name.

    :raises RecipeError: it is there already.
    """
    target = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if target.exists():
        raise RecipeError(f"{target} is there already", "choose another name, or remove it first")
    return target


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
    """Copy a recipe with its data, as one's own.

    :raises RecipeError: there is no such recipe, or the target is there already.
    """
    target = recipes.own(source, name)
    text = target.read_text(encoding="utf-8")
    if "yaml-language-server" not in text:
        rundir.write(target, _with_schema(target, text))
    return Written(target, ())


def write(answers: Answers) -> Written:
    """Look at the data and the base, decide, and write the recipe.

    :raises RecipeError: the answers do not go together, or the data is no good.
    """
    target = path_of(answers.name).absolute()
    seen = _look(answers.data)
    goal = answers.goal or (_GOAL_OF[seen.form] if seen else "chat")
    if seen and seen.form != _FORMS[goal] and not (goal == "instruct" and seen.form == formats.CHAT):
        fitting = [name for name in GOALS if _FORMS[name] == seen.form]
        raise RecipeError(
            f"--goal {goal}: {answers.data} holds {seen.form} rows", f"--goal {' or '.join(fitting)} fits them"
        )
    goal = "chat" if seen and seen.form == formats.CHAT else goal
    wish = _Wish(answers, target, goal, _model(answers.base), seen, parse(answers.gpus))
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


def refuse_base(base: str) -> None:
    """Stop where ``base`` names no model.

    :raises RecipeError: it is neither a folder nor of the form of a hub id.
    """
    if not Path(base).expanduser().is_dir() and (recipes.is_local(base, Path()) or base.count("/") != 1):
        raise RecipeError(f"{base}: no such folder", "a model's folder, or a hub id such as owner/name")


def _model(base: str) -> Model:
    refuse_base(base)
    folder = Path(base).expanduser()
    shape, files = None, None
    try:
        shape = architecture.find(base)
    except MissingError:
        if folder.is_dir():
            raise
    if (folder / "tokenizer.json").is_file():
        files = tokenizers.load(folder)
    family = families.of(base)
    taught = bool(files.chat_template) if files else families.is_taught(base)
    return Model(base, shape, family, files, taught)


def _notes(wish: _Wish) -> Iterator[str]:
    if wish.seen is None:
        name = shown(wish.target)
        yield f"{wish.answers.data} is not on this machine: look at it with `ax-recipe data {name}`, then at `type`"
    if wish.seen and wish.goal == "chat" and (guessed := glance.guesses(glance.chat_keys(wish.seen.first))):
        yield f"roles are guessed by who answers whom, and the assistant's words are trained: {guessed}"
    if wish.model.shape is None:
        yield f"the size of {wish.model.base} is not known here: `ax-recipe plan` says how to have it"


def _method(wish: _Wish) -> tuple[str, str, list[str]]:
    """The best method that fits the hardware by the memory model, why, and what is to be said of it."""
    parameters = wish.model.shape.parameters if wish.model.shape else 0
    ways = ["lora", "qlora"] if wish.hardware.kind else ["lora"]
    if wish.goal == "pretrain" or (0 < parameters < 7e8 and wish.goal != "preference" and (_rows(wish) or 0) >= 5000):
        ways = ["full", *ways]
    verdicts = {way: _verdict(wish, way) for way in ways}
    for wanted in (memory.FITS, memory.TIGHT):
        for way, verdict in verdicts.items():
            if verdict == wanted:
                return way, f"{way} {verdict} {wish.hardware} by `ax-recipe plan`", []
    if memory.UNKNOWN in verdicts.values():
        way = ways[0] if wish.model.shape or not wish.hardware.kind else "qlora"
        why = (
            "no plan of memory for the CPU"
            if wish.hardware.kind is None
            else "least memory: its need is not known here"
        )
        return way, why, []
    note = f"even {ways[-1]} will not fit {wish.hardware}: more GPUs, or a smaller base"
    return ways[-1], "the smallest there is", [note]


def _verdict(wish: _Wish, method: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "draft.yaml"
        file.write_text(_text(wish, method, "", file.parent), encoding="utf-8")
        recipe = recipes.load(str(file))
        try:
            return preparing.foretold(plans.make(recipe, wish.hardware, "out", "prepared", "base")).verdict
        except MissingError:
            return memory.UNKNOWN


def _rows(wish: _Wish) -> int | None:
    return wish.seen.rows if wish.seen else None


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


def _text(wish: _Wish, method: str, why: str, folder: Path) -> str:
    """The whole recipe, with paths that start at ``folder``."""
    lines, answers, model = _Lines(), wish.answers, wish.model
    about = f"{_short(model.base)} learns from {_short(answers.data)}"
    lines.line(f"# {about}, for {wish.hardware}.")
    lines.line("# Written by `ax-recipe new`, each choice with its reason; change what you know better.")
    lines.line(f"# ax-recipe check {shown(wish.target)} looks it over, plan says memory and time, run starts it.")
    lines.put("about", about)
    lines.put("base", _path(model.base, folder))
    lines.put("method", method, why)
    rl, template = _rl(wish), _template(wish)
    if rl:
        why_rl = (
            "from a base, in one go" if rl == "orpo" else "the model can answer already; now it learns which is better"
        )
        lines.put("rl", rl, why_rl)
    if template:
        lines.put("chat_template", *template)
    _put_data(lines, wish, template[0] if template else "", folder)
    _put_training(lines, wish, method)
    lines.put("gpus", str(wish.hardware) if wish.hardware.kind else 0)
    _put_ship(lines, wish)
    special = dict(_special(wish, template[0] if template else ""))
    if special:
        lines.line("axolotl:")
        lines.line("  special_tokens:")
        for name, (token, reason) in special.items():
            lines.put(name, token, reason, "    ")
    return lines.text


def _short(name: str) -> str:
    return Path(name.rstrip("/")).name


def _path(text: str, folder: Path) -> str:
    """A local path as the recipe's folder sees it; a hub id as it is."""
    path = Path(text).expanduser()
    if not path.exists():
        return text
    path = path.resolve()
    near = path.is_relative_to(folder.resolve())
    return f"./{os.path.relpath(path, folder.resolve())}" if near else str(path)


def _rl(wish: _Wish) -> str | None:
    if wish.goal != "preference":
        return None
    return "dpo" if wish.model.taught else "orpo"


def _template(wish: _Wish) -> tuple[str, str] | None:
    """The chat template and why; None where the data is no conversation."""
    model = wish.model
    if wish.goal not in {"chat", "preference"}:
        return None
    if model.tokenizer and model.tokenizer.chat_template:
        return "tokenizer_default", "the model's own, found beside its tokenizer"
    if model.family and model.taught:
        return model.family.own_template, f"what {model.family.name} models were taught in"
    if model.family:
        name = model.family.base_template
        if model.tokenizer is None or _has_marks(model.tokenizer, name):
            return name, f"a base knows no turns yet; its family, {model.family.name}, has the marks for these"
    if model.tokenizer:
        known = next((name for name in ("chatml", "llama3", "gemma") if _has_marks(model.tokenizer, name)), None)
        if known:
            return known, "its marks are tokens of this tokenizer"
        return "alpaca", "plain words: this tokenizer has no marks for turns"
    if model.taught:
        return "tokenizer_default", "the model's own"
    return "alpaca", "plain words, which need no new tokens; this base is of no family that is known here"


def _has_marks(files: TokenizerFiles, template: str) -> bool:
    return all(mark in files.ids for mark in MARKS.get(template, ()))


def _put_data(lines: _Lines, wish: _Wish, template: str, folder: Path) -> None:
    keys, why = _data_keys(wish, template)
    lines.line("data:")
    lines.put("- path", _path(wish.answers.data, folder), why, "  ")
    for key, value in keys.items():
        guessed = glance.guesses(keys) if key == "roles" else ""
        lines.put(key, value, f"guessed: {guessed}" if guessed else "", "    ")
    beside = glance.held_out(Path(wish.answers.data).expanduser())
    rows = _rows(wish)
    if beside:
        lines.line("held_out:", "rows that are only evaluated on lie beside the data")
        lines.put("- path", _path(str(beside), folder), "", "  ")
        for key, value in keys.items():
            lines.put(key, value, "", "    ")
    elif rows is None or rows >= 10:
        share = 0.1 if rows and rows < 200 else 0.05 if rows and rows < 2000 else 0.01
        kept = f"{max(1, round(share * rows)):,} of {rows:,} rows are" if rows else "a hundredth is"
        lines.put("val_set_size", share, f"{kept} kept apart, to see whether it learns or memorises")


def _data_keys(wish: _Wish, template: str) -> tuple[Mapping[str, Any], str]:
    if wish.seen is None:
        rl = _rl(wish)
        kinds = {
            "chat": "chat_template",
            "instruct": "alpaca",
            "preference": f"chat_template.argilla{_PAIRS[rl or '']}",
        }
        return {"type": kinds.get(wish.goal, "completion")}, "on the hub, not looked at: its type is a guess"
    seen, first = wish.seen, wish.seen.first
    middle = seen.longest(0.5)
    why = f"{seen.rows:,} rows, {middle:,} tokens in the middle, {seen.lengths[-1]:,} at most (characters / 4)"
    if wish.goal == "chat":
        return glance.chat_keys(first), why
    if wish.goal == "instruct":
        return glance.instruct_keys(first[0]), why
    if wish.goal == "preference":
        return glance.preference_keys(first[0], _rl(wish) or "dpo", template), why
    return glance.text_keys(first[0]), why


_PAIRS = {"dpo": "_chat", "orpo": "", "": ""}


def _put_training(lines: _Lines, wish: _Wish, method: str) -> None:
    rows = _rows(wish)
    if method != "full":
        r = 16 if rows and rows < 2000 else 32
        few = bool(rows and rows < 2000)
        lora = {"r": r, "alpha": r, "dropout": 0.05 if few else 0}
        lines.put("lora", lora, "room for a tone or a form; few rows, so some dropout" if few else "room for a skill")
    lines.line("train:")
    epochs, why = _epochs(wish)
    lines.put("num_epochs", epochs, why, "  ")
    lines.put("learning_rate", *_rate(wish, method), "  ")
    lines.put("warmup_ratio", 0.1 if wish.goal == "preference" else 0.03, "", "  ")
    length, why = _length(wish)
    lines.put("sequence_len", length, why, "  ")
    packed = _packs(wish, length)
    if not packed and wish.goal != "preference":
        empty = "so few tokens fill only a handful of sequences"
        lines.put("sample_packing", False, empty if wish.hardware.kind else "a CPU cannot keep packed rows apart", "  ")
    lines.put("global_batch_size", *_batch(wish, length, packed), "  ")
    if rows is None or rows >= 10:
        lines.put("evals_per_epoch", 4 if rows is None or rows > 5000 else 1, "", "  ")


def _packs(wish: _Wish, length: int) -> bool:
    """Whether rows share sequences: not on the CPU, not as pairs, and not where that leaves too few steps."""
    if wish.hardware.kind is None or wish.goal == "preference":
        return False
    return wish.seen is None or wish.seen.rows * wish.seen.mean / length >= _LEAST_SEQUENCES


def _epochs(wish: _Wish) -> tuple[int, str]:
    rows = _rows(wish)
    if wish.goal in {"preference", "pretrain"}:
        return (
            1,
            "preferences are learned at once, and overlearned soon"
            if wish.goal == "preference"
            else "text is read once",
        )
    if rows is None:
        return 1, "how many rows there are is not known here"
    epochs = 4 if rows < 500 else 3 if rows < 2000 else 2 if rows < 20_000 else 1
    return epochs, f"{rows:,} rows are " + (
        "enough to be seen once" if epochs == 1 else f"few: each is seen {epochs} times"
    )


def _rate(wish: _Wish, method: str) -> tuple[float, str]:
    parameters = wish.model.shape.parameters if wish.model.shape else 8e9
    if wish.goal == "preference":
        rate = 5e-6 if wish.model.taught else 8e-6
        return rate, "preferences unlearn a model to speak at the rates of a fine-tune"
    if method == "full":
        return (1e-4 if parameters < 5e8 else 2e-5), "every weight moves: a tenth of LoRA's rate"
    if parameters < 5e8:
        return 5e-4, "small models bear, and need, a higher rate"
    return (1e-4, "it can converse already") if wish.model.taught else (2e-4, "usual for LoRA on a base")


def _length(wish: _Wish) -> tuple[int, str]:
    most = wish.model.shape.max_positions if wish.model.shape and wish.model.shape.max_positions else _LENGTHS[-1]
    if wish.seen is None:
        return min(2048, most), "a usual length: the data is not here to be measured"
    if wish.goal in {"completion", "pretrain"} and wish.seen.lengths[-1] > 2048:
        return min(4096, most), "long texts are cut into pieces of this length"
    # Characters tell tokens within a quarter or so; what is longer than sequence_len is dropped.
    needed = 1.25 * wish.seen.longest(0.99)
    least = _LENGTHS[2] if wish.hardware.kind else _LENGTHS[0]  # shorter sequences leave a GPU idle
    wanted = next((length for length in _LENGTHS if length >= max(needed, least)), _LENGTHS[-1])
    length = min(wanted, most)
    longer = sum(tokens > length for tokens in wish.seen.lengths) / len(wish.seen.lengths)
    rest = f"; {longer:.1%} are longer and dropped" if longer else ""
    return length, f"99 % of the rows have at most {wish.seen.longest(0.99):,} tokens or so{rest}"


def _batch(wish: _Wish, length: int, packed: bool) -> tuple[int, str]:
    """So many rows a step that an epoch has steps enough; a multiple of the GPUs."""
    gpus = max(1, wish.hardware.count)
    rows = _rows(wish)
    units = None
    if wish.seen and rows:
        units = rows * wish.seen.mean / length if packed else float(rows)
    size = next((size for size in (32, 16, 8, 4) if units is None or units / size >= _LEAST_STEPS), 4)
    size = gpus * -(-size // gpus)
    if units is None:
        return size, "rows a step, over all GPUs"
    word = "full sequences" if packed else "rows"
    return size, f"{word} a step, about {max(1, round(units / size)):,} steps an epoch"


def _put_ship(lines: _Lines, wish: _Wish) -> None:
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
    lines.put("num_ctx", min(most, max(4096, _length(wish)[0])), "tokens of conversation that Ollama keeps", "  ")


def _special(wish: _Wish, template: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """The special tokens that the base's tokenizer does not name as this training needs them."""
    family, files = wish.model.family, wish.model.tokenizer
    turns = template not in {"", "alpaca"}
    eos = files.tokens.eos if files else None
    if (
        family
        and family.eos
        and turns
        and template != "tokenizer_default"
        and eos != family.eos
        and _knows(files, family.eos)
    ):
        eos = family.eos
        other = "" if wish.model.taught else "; a base ends texts with another"
        yield "eos_token", (eos, f"what ends a turn{other}")
    pad = files.tokens.others.get("pad_token") if files else None
    if pad and pad != eos:
        return
    spare = (family.pad if turns else family.text_pad) if family else None
    if spare and spare != eos and _knows(files, spare):
        yield "pad_token", (spare, "never a token that the model has to learn")


def _knows(files: TokenizerFiles | None, token: str) -> bool:
    return files is None or token in files.ids
