"""The person's file: found by name or path, checked against recipe.schema.json, and read into one frozen value."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from ax_recipe import assets
from ax_recipe.errors import Problem, ProblemsError, RecipeError
from ax_recipe.recipe import document as documents
from ax_recipe.recipe import scoring, secret
from ax_recipe.recipe.document import Document, Keys
from ax_recipe.recipe.schema import check, taken
from ax_recipe.recipe.values import read_as
from ax_recipe.recipe.words import RENAMED

# What Axolotl's keys are called where a recipe says more with them.
_OWN_NAMES = {"base_model": "base", "datasets": "data"}


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter; ``target_modules`` None means every linear layer, one string is a regular expression."""

    r: int
    alpha: float
    dropout: float
    target_modules: str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Train:
    """How to train; None is left to the plan or to Axolotl. Batch sizes are in rows, lengths in tokens."""

    num_epochs: float
    max_steps: int | None
    learning_rate: float
    lr_scheduler: str
    warmup_ratio: float | None
    warmup_steps: int | None
    weight_decay: float | None
    optimizer: str | None
    sequence_len: int
    global_batch_size: int
    micro_batch_size: int | None
    sample_packing: bool
    gradient_checkpointing: bool | None
    evals_per_epoch: int | None
    saves_per_epoch: int | None
    logging_steps: int | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class Scratch:
    """A small Llama that is pre-trained here before it is fine-tuned."""

    data: Sequence[Mapping[str, Any]]
    vocab_size: int
    model: Mapping[str, Any]
    train: Train
    axolotl: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Targets:
    """What "converged" means for this recipe: the band of the training loss, and bounds in nats a token."""

    loss: Sequence[float] | None
    eval_loss: float | None
    forgotten: float | None


@dataclass(frozen=True, slots=True)
class Checks:
    """Questions whose answers show that the tuned model learned it, and the base had not; `scoring` reads the rest."""

    prompts: Sequence[str | Mapping[str, Any]]
    at_least: int | None
    matches: str | None
    not_matches: str | None
    contains: str | Sequence[str] | None
    not_contains: str | Sequence[str] | None
    equals: str | None
    json: bool | None
    min_chars: int | None
    max_chars: int | None

    @property
    def questions(self) -> list[tuple[str, scoring.Expectations]]:
        """Each question with all that is expected of its answer."""
        return scoring.questions(asdict(self))

    @property
    def enough(self) -> int:
        """How many answers must be good."""
        return len(self.prompts) if self.at_least is None else self.at_least


@dataclass(frozen=True, slots=True)
class Ship:
    """What goes to Ollama; None means: the recipe's name, the trained precision, the training sequence_len."""

    model: str | None
    quantize: str | None
    num_ctx: int | None
    system: str | None
    parameters: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe as its file gives it, with the schema's defaults filled in."""

    name: str
    document: Document
    about: str | None
    base: str | Scratch
    method: str
    rl: str | None
    chat_template: str | None
    data: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]] | None
    val_set_size: float | None
    lora: Lora
    train: Train
    gpus: str | int | None
    targets: Targets
    checks: Checks | None
    ship: Ship
    axolotl: Mapping[str, Any]
    changes: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """Where the recipe was read from; its relative paths start at this file's folder."""
        return Path(self.document.file or ".")


# What Ollama makes itself until 0.34, then what llama.cpp's llama-quantize (tools/quantize, November 2026) makes
# without an importance matrix. Either takes them in capitals or not.
QUANTISATIONS = (
    "q4_K_M", "q4_K_S", "q8_0", "f16", "bf16", "f32", "q6_K", "q5_K_M", "q5_K_S", "q5_K", "q5_1", "q5_0", "q4_K",
    "q4_1", "q4_0", "q3_K_L", "q3_K_M", "q3_K_S", "q3_K", "q2_K", "q2_0", "q1_0", "iq4_NL", "iq4_XS", "iq3_M", "iq3_S",
    "iq3_XS", "iq3_XXS", "mxfp4_MOE", "tq2_0", "tq1_0",
)  # fmt: skip
_DATA = frozenset([".jsonl", ".json", ".parquet", ".csv", ".txt"])
_ROOMS = {"Lora": Lora, "Train": Train, "Scratch": Scratch, "Targets": Targets, "Checks": Checks, "Ship": Ship}


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe."""
    value: dict[str, Any] = json.loads(schema_text())
    return value


def schema_text() -> str:
    """The same as its file has it."""
    return Path(__file__).with_name("recipe.schema.json").read_text(encoding="utf-8")


def bundled() -> list[Path]:
    """The recipes that ship with ax-recipe, by name."""
    return sorted(assets.recipes().glob("*.yaml"), key=lambda path: path.stem)


def find(name: str) -> Path:
    """The file of a bundled recipe's name or of a path.

    :raises RecipeError: neither is there; names the nearest.
    """
    path = Path(name).expanduser()
    looks_like_path = path.suffix in {".yaml", ".yml"} or len(path.parts) > 1
    if looks_like_path:
        if path.is_file() and path.suffix in _DATA:
            words = f"a recipe's file ends in .yaml; `ax-recipe data {shlex.quote(name)}` reads rows"
            raise RecipeError(f"{name} is no recipe, by its name", words)
        if path.is_file():
            return path
        raise RecipeError(f"{name}: no such recipe file", "name another file, or a bundled recipe: `ax-recipe list`")
    if name in _names():
        return assets.recipes() / f"{name}.yaml"
    if Path(f"{name}.yaml").is_file():
        raise RecipeError(f"no bundled recipe is called {name!r}", f"for the file beside you say {name}.yaml")
    near = get_close_matches(name, _names(), n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "`ax-recipe list` shows those there are"
    raise RecipeError(f"no recipe is called {name!r}", f"{hint} (a file needs its .yaml)")


def unknown(name: str) -> RecipeError | None:
    """Why ``name`` stands for no recipe and no YAML, with what is near; None where it does."""
    try:
        find(name)
    except RecipeError as error:
        return error
    return None


def _names() -> list[str]:
    return [path.stem for path in bundled()]


def load(name: str, changes: Sequence[str] = (), left_out: Collection[str] = ()) -> Recipe:
    """Read the recipe called ``name`` (or at that path) with ``changes`` of the form ``train.num_epochs=3``.

    ``left_out`` are keys (``train.num_epochs``) that are known to be wrong, and read as if they were not there.

    :raises RecipeError: not found, not YAML, or (ProblemsError) with every problem of the file.
    """
    path = find(name)
    document = documents.read(path)
    if not _is_recipe(document):
        raise RecipeError(
            f"{path} is an Axolotl YAML, and this wants a recipe (which has a `base` and `data`)",
            "check, plan and data take it as it is; a recipe says less, and `ax-recipe new` writes one",
        )
    value = copy.deepcopy(dict(document.value))
    for change in changes:
        _apply(value, change)
    for key in left_out:
        _remove(value, key)
    document = replace(document, value=value, problems=() if left_out else document.problems)
    problems = [*map(_hinted, check(document, schema())), *_unmakeable(document), *secret.find(document)]
    if not problems:
        problems = list(_impossible(document))
    if any(problem.severity == "error" for problem in problems):
        raise ProblemsError(problems)
    return Recipe(name=path.stem, document=document, **_filled(schema(), document.value), changes=tuple(changes))


def axolotl_yaml(name: str, changes: Sequence[str] = ()) -> Document | None:
    """The YAML written for Axolotl itself that ``name`` is the path of; None where it is a recipe's name or file.

    :raises RecipeError: it is one, and is to be changed.
    """
    path = Path(name).expanduser()
    if path.suffix not in {".yaml", ".yml"} or not path.is_file() or _is_recipe(document := documents.read(path)):
        return None
    if changes:
        raise RecipeError("--set changes a recipe, and this is an Axolotl YAML", "change the file itself")
    return document


def _is_recipe(document: Document) -> bool:
    """Whether a YAML has a key that every recipe has, and that Axolotl has not."""
    return not {"base", "data"}.isdisjoint(document.value)


def _impossible(document: Document) -> Iterator[Problem]:
    """A band of no loss at all, checks that no answer could fail, or that no answers could pass."""
    low, high = map(float, (document.value.get("targets") or {}).get("loss") or (0, 0))
    if low > high:
        problem = _problem(document, "AX010", ("targets", "loss"), f"no loss is above {low:g} and below {high:g}")
        yield replace(problem, suggestion=f"The lower bound comes first: [{high:g}, {low:g}]")
    checks = document.value.get("checks") or {"prompts": []}
    for index, (question, wanted) in enumerate(scoring.questions(checks)):
        if not wanted:
            yield _problem(
                document, "AX004", ("checks", "prompts", index), f"expects nothing of the answer to {question!r}"
            )
    if read_as(checks.get("at_least", 0), "integer") > len(checks["prompts"]):
        yield _problem(
            document, "AX010", ("checks", "at_least"), f"more than there are prompts ({len(checks['prompts'])})"
        )


def _unmakeable(document: Document) -> Iterator[Problem]:
    """A type that nothing makes of a model, which would be told hours later, when it is brought into Ollama."""
    ship = document.value.get("ship")
    wanted = ship.get("quantize") if isinstance(ship, Mapping) else None
    by_name = {name.lower(): name for name in QUANTISATIONS}
    if isinstance(wanted, str) and wanted.lower() not in by_name:
        message = f"{wanted!r} is no type that Ollama makes, or llama-quantize without an importance matrix"
        near = get_close_matches(wanted.lower(), by_name, n=1)
        meant = f"Did you mean {by_name[near[0]]}? " if near else ""
        usual = f"{meant}Usual are {', '.join(QUANTISATIONS[:3])} and q5_K_M; left out, it stays as trained."
        problem = _problem(document, "AX003", ("ship", "quantize"), message)
        yield replace(problem, suggestion=usual)


def _problem(document: Document, code: str, keys: Keys, message: str) -> Problem:
    return Problem(code, "error", message, document.file, document.line(keys), documents.dotted(keys))


def _hinted(problem: Problem) -> Problem:
    """Tell whoever wrote a key of a block, another trainer's name for one, or a raw Axolotl key, where it goes."""
    if problem.code != "AX001" or problem.key is None:
        return problem
    name = problem.key.rpartition(".")[2]
    wanted = RENAMED.get(name, name)
    blocks = {key: room.lower() for room in ("Train", "Lora", "Ship") for key in schema()["$defs"][room]["properties"]}
    blocks |= {f"lora_{key}": "lora" for key in schema()["$defs"]["Lora"]["properties"]}
    if wanted in _OWN_NAMES:
        return replace(problem, suggestion=f"A recipe calls it `{_OWN_NAMES[wanted]}`.")
    for word in (wanted, *get_close_matches(wanted, blocks, n=1, cutoff=0.8)):
        if word in blocks:
            place = f"{blocks[word]}.{word.removeprefix('lora_')}"
            return replace(problem, suggestion=f"Did you mean {place}? A raw Axolotl key goes under `axolotl:`.")
    return problem if problem.suggestion else replace(problem, suggestion="A raw Axolotl key goes under `axolotl:`.")


def parse_change(change: str) -> tuple[tuple[str, ...], Any]:
    """The keys and the value of a change of the form ``train.num_epochs=3``.

    :raises RecipeError: it is not of that form, or its value is not YAML.
    """
    key, equals, text = change.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
        raise RecipeError(f"--set {change}: not of the form key=value", "for example --set train.num_epochs=3")
    try:
        new = documents.value(text)
    except ProblemsError as error:
        shown = change if len(change) < 80 else f"{change[:80]} ..."
        raise RecipeError(f"--set {shown}: {error.problems[0].message}", error.problems[0].suggestion) from error
    return tuple(key.split(".")), new


def _apply(value: dict[str, Any], change: str) -> None:
    keys, new = parse_change(change)
    *path, last = keys
    for name in path:
        inner = value.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {change}: {name} is a value, not a block", "name the whole key, as in the recipe")
        value = inner
    value[last] = new


def _remove(value: dict[str, Any], key: str) -> None:
    """Take away what lies at ``key``; of a list all, so that its other items are not taken for their neighbours."""
    *path, last = key.partition("[")[0].split(".")
    room: Any = value
    for name in path:
        room = room.get(name) if isinstance(room, dict) else None
    if isinstance(room, dict):
        room.pop(last, None)


def _filled(node: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    """Give each property its value, its default, or None, and each block its class."""
    return {name: _fill(of, value.get(name, of.get("default"))) for name, of in node["properties"].items()}


def _fill(node: Mapping[str, Any], value: Any) -> Any:
    room = _room(node, value)
    if room:
        # A block that must hold something (required keys) is absent when it is left out.
        definition = schema()["$defs"][room]
        if value is None and definition.get("required"):
            return None
        return _ROOMS[room](**_filled(definition, value or {}))
    return taken(value, node, schema())


def _room(node: Mapping[str, Any], value: Any) -> str | None:
    """The name of the block's class, where the schema refers to one that this value can be."""
    for option in node.get("anyOf", [node]):
        name = str(option.get("$ref", "")).rpartition("/")[2]
        if name in _ROOMS and (value is None or isinstance(value, dict)):
            return name
    return None


def is_local(text: str, folder: Path) -> bool:
    """Whether a base or data path means a file or folder rather than a hub id such as ``owner/name``."""
    if "://" in text:  # s3://, gs://, hf://: Axolotl opens it itself
        return False
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        return True
    return Path(text).suffix in _DATA or (folder / text).exists()


def resolve(text: str, folder: Path) -> str:
    """A local path made absolute from ``folder``; a hub id as it is."""
    return str((folder / Path(text).expanduser()).resolve()) if is_local(text, folder) else text


def local_files(recipe: Recipe) -> Iterator[tuple[Keys, Path]]:
    """Every local file or folder that the recipe names, with the recipe's key for it."""
    folder = recipe.file.resolve().parent
    named: list[tuple[Keys, str]] = []

    def add(room: Keys, rows: Sequence[Mapping[str, Any]] | None) -> None:
        named.extend(((*room, index, "path"), str(row["path"])) for index, row in enumerate(rows or []))

    add(("data",), recipe.data)
    add(("held_out",), recipe.held_out)
    if isinstance(recipe.base, str):
        named.append((("base",), recipe.base))
    else:
        add(("base", "data"), recipe.base.data)
    for key, text in named:
        if is_local(text, folder):
            yield key, Path(resolve(text, folder))


def new_file(name: str) -> Path:
    """The file of a new recipe of that name.

    :raises RecipeError: it is there already.
    """
    target = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
    if target.exists():
        raise RecipeError(f"{target} is there already", "choose another name, or remove it first")
    return target
