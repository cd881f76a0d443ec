"""From a folder with a model and its tokenizer to a folder for Ollama: staged weights, Modelfile, checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.ship import adapter as adapters
from ax_recipe.ship import chat_template, convert, gguf, mend, modelfile, stage, tokenizer, weights
from ax_recipe.ship.chat_template import GoTemplate
from ax_recipe.ship.convert import Converter
from ax_recipe.ship.files import link, read_json
from ax_recipe.ship.merged import Check, Folders
from ax_recipe.ship.modelfile import Modelfile, Scalar
from ax_recipe.ship.tokenizer import TokenizerFiles

MODEL = "model"
"""The staged model's folder inside the exported one."""

_NO_GGUF = "safetensors, which an Ollama before 0.34.1 imports: for a later one, a GGUF is made with --llama-cpp DIR"

ADAPTER = "adapter"
"""The staged adapter's folder inside the exported one."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person wants of the model in Ollama beside what its files say.

    ``jinja`` stands in for the tokenizer's chat template: a dataset's own one, or a prompter's (see ``prompter.py``).
    ``gguf`` is a ready file to run instead of the weights, ``converter`` makes one of them. ``trained`` and ``base``
    are the run's output_dir and the base model's folder. ``adapter`` is put beside the model, which is its base then;
    ``four_bit`` says that it was trained on that base in 4 bit.
    """

    system: str | None = None
    num_ctx: int | None = None
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    jinja: str | None = None
    gguf: Path | None = None
    converter: Converter | None = None
    trained: Path | None = None
    base: Path | None = None
    adapter: Path | None = None
    four_bit: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """What was exported: the Modelfile as value and as text, where it lies, and what was checked."""

    template: str
    stops: tuple[str, ...]
    modelfile: str
    checks: tuple[Check, ...]
    value: Modelfile
    file: Path
    source: Path

    def as_json(self) -> dict[str, object]:
        """The answer of ``ax-recipe export --json``."""
        checks = [check.as_json() for check in self.checks]
        return {"template": self.template, "stops": list(self.stops), "modelfile": self.modelfile, "checks": checks}


def export(folder: Path, out: Path, wishes: Wishes | None = None) -> Export:
    """Write a Modelfile and a staged model for ``ollama create`` into ``out``; ``folder`` itself is not changed.

    Raises :class:`MissingError` where there is no model, and :class:`RecipeError` where the chat template is missing
    or cannot be carried over, or an adapter is to be shipped that a GGUF cannot hold.
    """
    _refuse_odd(folder)
    wishes = _with_ready(folder, wishes or Wishes())
    if wishes.adapter:
        adapters.require_carried(wishes.adapter, folder)
        _converter_of_adapters(wishes)
    files = tokenizer.load(wishes.trained or folder)
    jinja = wishes.jinja or files.chat_template
    if not jinja:
        _refuse_without_template(wishes.trained or folder)
    add_bos, bos_check = _bos(files, jinja, spoken=wishes.jinja is None)
    go = chat_template.derive(jinja, files.tokens, adds_bos=add_bos)
    source, checks = _source(folder, out, wishes, jinja, add_bos=add_bos)
    checks = (*checks, *_adapter(folder, out, wishes))
    value = _modelfile(go, source.relative_to(out).as_posix(), wishes, folder)
    text = modelfile.render(value)
    modelfile.write(value, out / "Modelfile")
    all_checks = (*checks, _template_check(go), bos_check, *_modelfile_checks(value, text, wishes, folder))
    return Export(go.template, value.stops, text, all_checks, value, out / "Modelfile", source)


def _refuse_odd(folder: Path) -> None:
    if not folder.is_dir():
        raise MissingError(f"{folder} is no folder")
    if (folder / "adapter_config.json").is_file() and not weights.shards(folder):
        raise RecipeError(f"{folder} holds an adapter, not a model", "merge it first: axolotl merge-lora")


def _with_ready(folder: Path, wishes: Wishes) -> Wishes:
    """A folder whose one model is a GGUF already means that."""
    ready = [path for path in folder.glob("*.gguf") if not path.name.startswith("mmproj")]
    return replace(wishes, gguf=ready[0]) if len(ready) == 1 and not (wishes.gguf or weights.shards(folder)) else wishes


def _refuse_without_template(folder: Path) -> NoReturn:
    others = tokenizer.other_templates(folder)
    if others:
        raise RecipeError(
            f"{folder} has chat templates for {', '.join(others)}, and none called default",
            f"save the one that was trained with as {folder / 'chat_template.jinja'}",
        )
    raise RecipeError(
        f"{folder} has no chat template",
        "trained on plain instructions, it needs --format and its data's type, e.g. alpaca; a base cannot chat",
    )


def _bos(files: TokenizerFiles, jinja: str, *, spoken: bool) -> tuple[bool, Check]:
    """Whether the engine is to add the BOS, and the check that says so.

    A chat is trained on what the template renders and nothing else (Axolotl encodes it without special tokens); a
    prompter's text (not ``spoken``) on what the tokenizer adds.
    """
    bos = files.tokens.bos
    if not bos:
        return False, Check("begin of text", "ok", "the tokenizer has no BOS token")
    if not spoken:
        return files.adds_bos, Check(
            "begin of text", "ok", f"{bos} is {'' if files.adds_bos else 'not '}added, as in training"
        )
    rendered = chat_template.renders(jinja, files.tokens, bos)
    if rendered:
        by = "the tokenizer adds it" if files.adds_bos else "the TEMPLATE writes it"
        return files.adds_bos, Check("begin of text", "ok", f"{bos} once: {by}")
    if files.adds_bos:
        said = f"training had no {bos}, the tokenizer would add it: add_bos_token is false in the staged tokenizer"
        return False, Check("begin of text", "mended", said)
    return False, Check("begin of text", "ok", f"no {bos}, as in training")


def _source(folder: Path, out: Path, wishes: Wishes, jinja: str, *, add_bos: bool) -> tuple[Path, tuple[Check, ...]]:
    """What FROM names, and the checks on it. The staged folder's small files stay, also beside a GGUF."""
    out.mkdir(parents=True, exist_ok=True)
    staged = stage.stage(folder, out / MODEL, whole=wishes.gguf is None)
    if wishes.jinja is not None and wishes.trained is None:
        stage.put_chat_template(staged, wishes.jinja)
    checks = mend.mend(Folders(staged, wishes.trained, wishes.base))
    if wishes.jinja is not None:
        stage.put_chat_template(staged, wishes.jinja)
    stage.tell_bos(staged, add_bos=add_bos)
    latest = _latest((*stage.staging_checks(folder), *checks))

    def held(file: Path) -> tuple[Check, ...]:
        config = read_json(staged / "config.json")
        return gguf.examine(file, tokenizer.load(staged), jinja, config, adds_bos=add_bos)

    if wishes.gguf is not None:
        target = out / wishes.gguf.name
        if target.resolve() != wishes.gguf.resolve():
            link(wishes.gguf.resolve(), target)
        kept = (latest[name] for name in ("tokenizer", "chat template") if name in latest)
        return target, (*kept, *held(target))
    made = out / f"{MODEL}.gguf"
    made.unlink(missing_ok=True)
    if wishes.converter is None:
        if latest["architecture"].verdict == "ok":
            latest["architecture"] = Check("architecture", "warning", _NO_GGUF)
        return staged, tuple(latest.values())
    failure = _converted(staged, made, wishes.converter, latest)
    return (staged, (*latest.values(), failure)) if failure else (made, (*latest.values(), *held(made)))


def _converted(staged: Path, target: Path, converter: Converter, latest: dict[str, Check]) -> Check | None:
    """Make the GGUF in the place of the staged weights; where it cannot be, why, and whether Ollama's import can."""
    try:
        convert.convert(staged, target, converter)
    except RunFailedError as error:
        importable = "architecture" in latest and latest["architecture"].verdict == "ok"
        rest = "an Ollama before 0.34.1 can import it" if importable else "and no Ollama can import it"
        return Check("gguf", "warning" if importable else "error", f"{error}\n{rest}")
    stage.drop_weights(staged)
    for name in ("rope", "pre-tokenizer"):  # the converter knows the new keys, and the file says how it splits
        latest.pop(name, None)
    latest["architecture"] = Check("architecture", "ok", "llama.cpp's converter takes it")
    return None


def _converter_of_adapters(wishes: Wishes) -> Converter:
    if wishes.converter is None:
        raise MissingError(
            "an adapter needs llama.cpp's converter: Ollama's own mixes up the rows of q_proj and k_proj",
            f"name a checkout of llama.cpp by --llama-cpp or {convert.VARIABLE}",
        )
    return wishes.converter


def _adapter(folder: Path, out: Path, wishes: Wishes) -> tuple[Check, ...]:
    """Make the adapter's GGUF beside the base's, and see that it holds all of it."""
    if wishes.adapter is None:
        return ()
    staged = adapters.stage(wishes.adapter, out / ADAPTER)
    file = convert.convert_lora(staged, folder, out / adapters.FILE, _converter_of_adapters(wishes))
    return tuple(adapters.examine(file, wishes.adapter, quantised_base=wishes.four_bit))


def _latest(checks: Iterable[Check]) -> dict[str, Check]:
    """The last verdict on each question; that it was mended is not lost because it is well now."""
    latest: dict[str, Check] = {}
    for check in checks:
        before = latest.get(check.name)
        if before is None or before.verdict != "mended" or check.verdict != "ok":
            latest[check.name] = check
    return latest


def _modelfile(go: GoTemplate, source: str, wishes: Wishes, folder: Path) -> Modelfile:
    parameters = dict(wishes.parameters)
    longest = _longest(folder)
    if wishes.num_ctx is not None:
        parameters["num_ctx"] = wishes.num_ctx
    elif longest is not None and longest < 4096:  # less than Ollama's smallest default
        parameters.setdefault("num_ctx", longest)
    if wishes.system and go.system in ("refused", "ignored"):
        raise RecipeError(
            "a system prompt is asked for, but the chat template has no place for it",
            "leave it out, or train with a chat template that takes one",
        )
    return Modelfile(
        f"./{source}",
        go.template,
        tuple(dict.fromkeys((*go.stops, *wishes.stops))),
        wishes.system,
        parameters,
        f"./{adapters.FILE}" if wishes.adapter else None,
        notes=("The TEMPLATE renders to the same bytes as the chat template that was trained with.",),
    )


def _longest(folder: Path) -> int | None:
    config = read_json(folder / "config.json")
    text = config.get("text_config", config)
    longest = text.get("max_position_embeddings")
    return longest if isinstance(longest, int) else None


def _template_check(go: GoTemplate) -> Check:
    said = f"equal to the trained one in {go.compared} renderings"
    if not go.warnings:
        return Check("template", "ok", said)
    return Check("template", "warning", "; ".join((said, *go.warnings)))


def _modelfile_checks(value: Modelfile, text: str, wishes: Wishes, folder: Path) -> tuple[Check, ...]:
    checks = []
    read = modelfile.parse(text)
    if read == replace(value, notes=()):
        checks.append(Check("modelfile", "ok", "reads back as it was meant"))
    else:
        checks.append(
            Check("modelfile", "warning", "cannot carry all of it, see its comments: deploy by `ax-recipe deploy`")
        )
    longest = _longest(folder)
    if wishes.num_ctx and longest and wishes.num_ctx > longest:
        checks.append(
            Check("context", "warning", f"num_ctx {wishes.num_ctx} is more than the model's {longest} positions")
        )
    return tuple(checks)
