"""What a new recipe says where nobody said it: each value with its reason, by the data, the base and the hardware."""

from __future__ import annotations

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
from ax_recipe.forecast import architecture, by_bytes
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.recipe import recipe as recipes
from ax_recipe.ship import tokenizer as tokenizers
from ax_recipe.ship.tokenizer import TokenizerFiles
from ax_recipe.view.figures import counted

_LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_LEAST_SEQUENCES, _LEAST_STEPS = 200, 50  # of an epoch: below these a training has too few steps to learn by
_PAIRS = {"dpo": "_chat", "orpo": "", "": ""}


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
class Wish:
    """All answers, and what was found by looking; paths are absolute."""

    answers: Answers
    target: Path
    goal: str
    model: Model
    seen: Glance | None
    hardware: Hardware

    @property
    def rows(self) -> int | None:
        """How many rows the data has; None where it is not here."""
        return self.seen.rows if self.seen else None

    @property
    def rl(self) -> str | None:
        """How preferences are learned; None where there are none to learn."""
        if self.goal != "preference":
            return None
        # For ORPO Axolotl 0.19 reads whole conversations alone.
        whole = self.seen is None or formats.is_chat(self.seen.first[0]["chosen"])
        return "orpo" if whole and not self.model.taught else "dpo"


def refuse_base(base: str) -> None:
    """Stop where ``base`` names no model.

    :raises RecipeError: it is neither a folder nor of the form of a hub id.
    """
    if not Path(base).expanduser().is_dir() and (recipes.is_local(base, Path()) or base.count("/") != 1):
        raise RecipeError(f"{base}: no such folder", "a model's folder, or a hub id such as owner/name")


def model(base: str) -> Model:
    """What is known here of ``base``.

    :raises RecipeError: it names no model, or its files are wrong.
    """
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


def template(wish: Wish) -> tuple[str, str] | None:
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


def data_keys(wish: Wish, template: str) -> tuple[Mapping[str, Any], str]:
    """The keys with which Axolotl reads the data."""
    if wish.seen is None:
        pairs = f"chat_template.argilla{_PAIRS[wish.rl or '']}"
        kinds = {"chat": "chat_template", "instruct": "alpaca", "preference": pairs}
        return {"type": kinds.get(wish.goal, "completion")}, "not looked at here: its type is a guess"
    seen, first = wish.seen, wish.seen.first
    middle = seen.longest(0.5)
    tokens = f"{middle:,} tokens in the middle, {seen.lengths[-1]:,} at most ({by_bytes.RULE})"
    why = f"{counted(seen.rows, 'row')}, {tokens}"
    if wish.goal == "chat":
        return glance.chat_keys(first), why
    if wish.goal == "instruct":
        return glance.instruct_keys(first[0]), why
    if wish.goal == "preference":
        return glance.preference_keys(first[0], wish.rl or "dpo", template), why
    return glance.text_keys(first[0]), why


def why_rl(wish: Wish) -> str:
    """Why preferences are learned as they are."""
    if wish.rl == "orpo":
        return "from a base, in one go"
    if wish.model.taught:
        return "the model can answer already; now it learns which is better"
    return "orpo would suit a base, and reads whole conversations alone"


def packs(wish: Wish, length: int) -> bool:
    """Whether rows share sequences: not on the CPU, not as pairs, and not where that leaves too few steps."""
    if wish.hardware.kind is None or wish.goal == "preference":
        return False
    return wish.seen is None or wish.seen.rows * wish.seen.mean / length >= _LEAST_SEQUENCES


def epochs(wish: Wish) -> tuple[int, str]:
    """How often each row is seen: the fewer there are, the more often."""
    rows = wish.rows
    if wish.goal in {"preference", "pretrain"}:
        soon = "preferences are learned at once, and overlearned soon"
        return 1, soon if wish.goal == "preference" else "text is read once"
    if rows is None:
        return 1, "how many rows there are is not known here"
    epochs = 4 if rows < 500 else 3 if rows < 2000 else 2 if rows < 20_000 else 1
    often = "enough to be seen once" if epochs == 1 else f"few: each is seen {epochs} times"
    return epochs, f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} {often}"


def rate(wish: Wish, method: str) -> tuple[float, str]:
    """The learning rate's peak."""
    parameters = wish.model.shape.parameters if wish.model.shape else 8e9
    if wish.goal == "preference":
        rate = 5e-6 if wish.model.taught else 8e-6
        return rate, "preferences unlearn a model to speak at the rates of a fine-tune"
    if method == "full":
        return (1e-4 if parameters < 5e8 else 2e-5), "every weight moves: a tenth of LoRA's rate"
    if parameters < 5e8:
        return 5e-4, "small models bear, and need, a higher rate"
    return (1e-4, "it can converse already") if wish.model.taught else (2e-4, "usual for LoRA on a base")


def length(wish: Wish) -> tuple[int, str]:
    """The shortest usual sequence_len that nearly all rows fit in, in tokens."""
    most = wish.model.shape.max_positions if wish.model.shape and wish.model.shape.max_positions else _LENGTHS[-1]
    if wish.seen is None:
        return min(2048, most), "a usual length: the data is not here to be measured"
    if wish.goal in {"completion", "pretrain"} and wish.seen.lengths[-1] > 2048:
        return min(4096, most), "long texts are cut into pieces of this length"
    # Bytes tell tokens within a quarter or so, of English; what is longer than sequence_len is dropped.
    needed = 1.25 * wish.seen.longest(0.99)
    least = _LENGTHS[2] if wish.hardware.kind else _LENGTHS[0]  # shorter sequences leave a GPU idle
    wanted = next((length for length in _LENGTHS if length >= max(needed, least)), _LENGTHS[-1])
    length = min(wanted, most)
    longer = sum(tokens > length for tokens in wish.seen.lengths) / len(wish.seen.lengths)
    rest = f"; {longer:.1%} are longer and dropped" if longer else ""
    return length, f"99 % of the rows have at most {wish.seen.longest(0.99):,} tokens or so{rest}"


def batch(wish: Wish, length: int, packed: bool) -> tuple[int, str]:
    """So many rows a step that an epoch has steps enough; a multiple of the GPUs."""
    gpus = max(1, wish.hardware.count)
    rows = wish.rows
    units = None
    if wish.seen and rows:
        units = rows * wish.seen.mean / length if packed else float(rows)
    size = next((size for size in (32, 16, 8, 4) if units is None or units / size >= _LEAST_STEPS), 4)
    size = gpus * -(-size // gpus)
    if units is None:
        return size, "rows a step, over all GPUs"
    word = "full sequences" if packed else "rows"
    return size, f"{word} a step, about {counted(max(1, round(units / size)), 'step')} an epoch"


def special(wish: Wish, template: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """The special tokens that the base's tokenizer does not name as this training needs them."""
    family, files = wish.model.family, wish.model.tokenizer
    turns = template not in {"", "alpaca"}
    eos = files.tokens.eos if files else None
    ends = family.eos if family and turns and template != "tokenizer_default" else None
    if ends and ends != eos and _knows(files, ends):
        eos = ends
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
