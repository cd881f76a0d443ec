"""Recipe and hardware in, every decision out: the Axolotl keys of a run, each with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.forecast import architecture
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.choose import Choice
from ax_recipe.forecast.hardware import CPU, Hardware
from ax_recipe.plan import decide
from ax_recipe.plan.decide import Decided, Wish
from ax_recipe.recipe.document import Keys
from ax_recipe.recipe.recipe import Lora, Recipe, Scratch, Train, resolve


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key came from: ``recipe``, ``default``, ``hardware`` or ``run``; why; and the recipe's own key."""

    source: str
    reason: str = ""
    recipe_key: Keys | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """One Axolotl YAML: its keys in order, and the origin of each."""

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before anything starts. ``base`` is the pre-training of a model that is made here.

    ``choice`` is how memory and speed were weighed against each other; where they were not, ``careful`` says why.
    """

    recipe: Recipe
    hardware: Hardware
    train: Config
    base: Config | None
    choice: Choice | None = None
    careful: str = ""


class _Keys:
    """Collects the keys of one YAML with their origins; a key whose value is None is left to Axolotl."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[str, Origin] = {}

    def put(self, key: str, value: Any, origin: Origin) -> None:
        if value is not None:
            self.values[key] = value
            self.origins[key] = origin

    def overrule(self, keys: Mapping[str, Any], prefix: Keys) -> None:
        for key, value in keys.items():
            reason = f"wins over {self.values[key]!r}" if key in self.values else ""
            self.values[key] = value
            self.origins[key] = Origin("recipe", reason, (*prefix, key))

    def config(self) -> Config:
        return Config(self.values, self.origins)


def make(
    recipe: Recipe,
    hardware: Hardware,
    output_dir: str,
    prepared_dir: str,
    base_dir: str,
    missing: frozenset[str] = frozenset(),
) -> Plan:
    """Decide every Axolotl key of ``recipe`` on ``hardware``.

    ``output_dir`` is where Axolotl writes the adapter or model, ``prepared_dir`` where it caches tokenised data, and
    ``base_dir`` where a base that is made here lies (``base_dir/untrained`` before its pre-training). ``missing`` names
    what of ``decide.OPTIONAL``, and ``decide.KERNEL``, the training environment is known not to have.

    :raises RecipeError: the hardware cannot train it as asked.
    """
    # Both spellings of a data file must mean the same file wherever Axolotl is started from.
    folder = recipe.file.resolve().parent
    base = None
    if not isinstance(recipe.base, str):
        base = _pretraining(recipe, folder, prepared_dir, base_dir)
    train, decided = _finetuning(recipe, hardware, folder, (output_dir, prepared_dir, base_dir), missing)
    return Plan(recipe, hardware, train, base, decided.choice, decided.careful)


def shape_of(recipe: Recipe) -> Shape | None:
    """The dimensions of the recipe's base; None where they are not known here, or are no language model's."""
    if isinstance(recipe.base, Scratch):
        config = {"model_type": "llama", **recipe.base.model, "vocab_size": recipe.base.vocab_size}
        return architecture.from_config(config, recipe.name)
    try:
        return architecture.find(recipe.base, recipe.file.resolve().parent)
    except (MissingError, RecipeError):
        return None


def alone(config: Config) -> Config | None:
    """The same for one process alone, as an evaluation is; None where nothing is spread over several."""
    if not decide.LAYOUTS & config.values.keys():
        return None
    left = {key: value for key, value in config.values.items() if key not in decide.LAYOUTS}
    return Config(left, {key: origin for key, origin in config.origins.items() if key in left})


def with_plugin(plan: Plan, plugin: str) -> Plan:
    """The same plan with our own events plugin in each YAML: ``run`` has it, ``render`` has not."""

    def watched(config: Config) -> Config:
        values = {**config.values, "plugins": [*config.values.get("plugins", []), plugin]}
        origins = dict(config.origins)
        origins.setdefault("plugins", Origin("run", "reports exact steps and saves when asked to stop"))
        return Config(values, origins)

    return replace(plan, train=watched(plan.train), base=plan.base and watched(plan.base))


def _finetuning(
    recipe: Recipe, hardware: Hardware, folder: Path, places: tuple[str, str, str], missing: frozenset[str]
) -> tuple[Config, Decided]:
    output_dir, prepared_dir, base_dir = places
    keys = _Keys()
    scratch = not isinstance(recipe.base, str)
    base = base_dir if scratch else resolve(str(recipe.base), folder)
    keys.put("base_model", base, Origin("recipe", "made by this run" if scratch else "", ("base",)))
    keys.put("load_in_4bit", True if recipe.method == "qlora" else None, Origin("recipe", "qlora", ("method",)))
    if recipe.method == "qlora":
        # Axolotl (0.19) trains so without it, but merges into weights whose scales were not quantised: 0.2 % off.
        reason = "as training does it; merge-lora knows it by this key alone"
        keys.put("bnb_config_kwargs", {"bnb_4bit_use_double_quant": True}, Origin("default", reason))
    if recipe.method != "full":
        _put_lora(keys, recipe.method, recipe.lora)
    keys.put("rl", recipe.rl, Origin("recipe", "", ("rl",)))
    keys.put("chat_template", _chat_template(recipe, recipe.data), _from(recipe, "chat_template"))
    _put_data(keys, recipe, folder, prepared_dir)
    _put_training(keys, recipe, recipe.train, ("train",))
    _put_logging(keys, recipe.train)
    shape = shape_of(recipe) if hardware.kind else None
    insists = "sample_packing" in recipe.document.value.get("train", {})
    wish = Wish(recipe.train, recipe.method, dict(keys.values), recipe.axolotl, shape, insists, missing)
    decided = decide.decide(wish, hardware)
    _put_decisions(keys, decided, ("train",))
    if keys.values["sample_packing"]:
        # Axolotl packs what it evaluates too; a set that fills too few packs gives no loss at all.
        keys.put("eval_sample_packing", False, Origin("default", "held-out rows are scored one by one, however few"))
    keys.put("output_dir", output_dir, Origin("run"))
    keys.overrule(recipe.axolotl, ("axolotl",))
    return keys.config(), decided


def _pretraining(recipe: Recipe, folder: Path, prepared_dir: str, base_dir: str) -> Config:
    scratch = recipe.base
    assert not isinstance(scratch, str)  # noqa: S101 - narrows the type; make() has asked already
    keys = _Keys()
    made_here = Origin("recipe", "the base is pre-trained here", ("base",))
    keys.put("base_model", str(Path(base_dir) / "untrained"), made_here)
    keys.put("reinit_weights", True, Origin("default", "pre-training starts from random weights"))
    keys.put("chat_template", _chat_template(recipe, scratch.data), _from(recipe, "chat_template"))
    keys.put("datasets", [_data(row, folder) for row in scratch.data], Origin("recipe", "", ("base", "data")))
    keys.put("val_set_size", 0.0, Origin("default", "a base is judged by what is made of it"))
    keys.put("dataset_prepared_path", prepared_dir, Origin("run"))
    # On the CPU everywhere: the same text gives the same few million weights, whatever the machine.
    room = ("base", "train")
    _put_training(keys, recipe, scratch.train, room)
    wish = Wish(scratch.train, "full", dict(keys.values), scratch.axolotl, None, insists=True)
    _put_decisions(keys, decide.decide(wish, CPU), room)
    _put_logging(keys, scratch.train, checkpoints=False)
    keys.put("output_dir", base_dir, Origin("run"))
    keys.overrule(scratch.axolotl, ("base", "axolotl"))
    return keys.config()


def _put_lora(keys: _Keys, method: str, lora: Lora) -> None:
    keys.put("adapter", method, Origin("recipe", "", ("method",)))
    for name, value in (("r", lora.r), ("alpha", lora.alpha), ("dropout", lora.dropout)):
        keys.put(f"lora_{name}", value, Origin("recipe", "", ("lora", name)))
    if lora.target_modules:
        modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
        keys.put("lora_target_modules", modules, Origin("recipe", "", ("lora", "target_modules")))
    else:
        keys.put("lora_target_linear", True, Origin("default", "an adapter on every linear layer learns best"))


def _put_data(keys: _Keys, recipe: Recipe, folder: Path, prepared_dir: str) -> None:
    # Axolotl 0.19 drops ds_type from the rows of these, and from no others (utils/config/__init__.py).
    told = recipe.rl not in {"dpo", "ipo", "simpo", "kto"}
    keys.put("datasets", [_data(row, folder, told=told) for row in recipe.data], Origin("recipe", "", ("data",)))
    if recipe.held_out:
        rows = [{**(row := _data(each, folder)), "split": row.get("split", "train")} for each in recipe.held_out]
        keys.put("test_datasets", rows, Origin("recipe", "", ("held_out",)))
    else:
        keys.put("val_set_size", recipe.val_set_size, _from(recipe, "val_set_size"))
    if recipe.rl:
        keys.put("sample_packing", False, Origin("default", "Axolotl packs no pairs of answers"))
    keys.put("dataset_prepared_path", prepared_dir, Origin("run"))


def _put_training(keys: _Keys, recipe: Recipe, train: Train, room: Keys) -> None:
    names = (
        "sequence_len", "sample_packing", "num_epochs", "max_steps", "learning_rate", "lr_scheduler", "warmup_ratio",
        "warmup_steps", "weight_decay", "seed",
    )  # fmt: skip
    for name in names:
        if name not in keys.values:
            key = (*room, name)
            keys.put(
                name, getattr(train, name), Origin("recipe" if key in recipe.document.lines else "default", "", key)
            )


def _put_decisions(keys: _Keys, decided: Decided, room: Keys) -> None:
    names = {"gradient_accumulation_steps": "global_batch_size"}
    named = ("micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "optimizer", "sample_packing")
    for each in decided.decisions:
        where = (*room, names.get(each.key, each.key)) if each.key in named else None
        keys.put(each.key, each.value, Origin(each.source, each.reason, where))


def _put_logging(keys: _Keys, train: Train, *, checkpoints: bool = True) -> None:
    def given_or_default(value: Any) -> Origin:
        return Origin("default" if value is None else "recipe")

    keys.put("logging_steps", train.logging_steps or 1, given_or_default(train.logging_steps))
    keys.put("include_tkps", True, Origin("default", "tokens per second in the log"))
    if "val_set_size" in keys.values or "test_datasets" in keys.values:
        keys.put("evals_per_epoch", train.evals_per_epoch or 1, given_or_default(train.evals_per_epoch))
    if not checkpoints:
        keys.put("save_strategy", "no", Origin("default", "a base this small is made anew, not resumed"))
        return
    keys.put("saves_per_epoch", train.saves_per_epoch or 1, given_or_default(train.saves_per_epoch))
    keys.put("save_total_limit", 2, Origin("default", "the newest checkpoint, and one in case it is torn"))


def _chat_template(recipe: Recipe, data: Sequence[Mapping[str, Any]]) -> str | None:
    """The recipe's own, or the tokenizer's; none where no data is written with one: a base often has none."""
    spoken = any("chat_template" in str(row.get("type")) for row in data)
    return recipe.chat_template or ("tokenizer_default" if spoken else None)


def _from(recipe: Recipe, name: str) -> Origin:
    return Origin("recipe" if (name,) in recipe.document.lines else "default", "", (name,))


def _data(row: Mapping[str, Any], folder: Path, *, told: bool = True) -> dict[str, Any]:
    path = resolve(str(row["path"]), folder)
    suffix = Path(path).suffix
    kind = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}.get(suffix)
    # Told a bare file, Axolotl asks the hub for a data set of that name first.
    extra = {"ds_type": kind} if told and kind and Path(path).is_absolute() else {}
    return {"path": path, **extra, **{key: value for key, value in row.items() if key != "path"}}
