"""The same questions to the same model in every form: adapter, merged, and each quantisation in Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from ax_recipe import assets, process
from ax_recipe.errors import AxRecipeError
from ax_recipe.ship import convert, deploy, gguf, llama
from ax_recipe.ship.exported import Exported
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.llama import Engine
from ax_recipe.ship.ollama import Creation, Ollama, Progress, Reply, Report, files_of

QUANTISATIONS = (None, "Q8_0", "Q4_K_M")
"""What Ollama is asked to make: the trained precision, and the two in use."""

CONTEXT = 2048
"""Tokens of context in llama.cpp's server: questions and answers here are short."""

_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Row:
    """One timed answer: seconds to its first token and to its last, and how many tokens it has."""

    first: float
    seconds: float
    tokens: int
    answer: str

    @property
    def pace(self) -> float:
        """Tokens a second after the first."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9)


@dataclass(frozen=True, slots=True)
class Result:
    """One form of the model in one engine; ``memory`` in bytes. Without rows, ``problem`` says why."""

    form: str
    engine: str
    rows: tuple[Row, ...] = ()
    memory: int | None = None
    problem: str = ""

    def spread(self, of: Callable[[Row], float]) -> tuple[float, float, float]:
        """Median, least and most of a figure."""
        values = [of(row) for row in self.rows]
        return median(values), min(values), max(values)

    def agreement(self, reference: Result) -> float:
        """How alike the answers are to the reference's, 1 for the same text."""
        pairs = zip(self.rows, reference.rows, strict=True)
        ratios = [SequenceMatcher(None, a.answer, b.answer, autojunk=False).ratio() for a, b in pairs]
        return sum(ratios) / len(ratios)


@dataclass(frozen=True, slots=True)
class Order:
    """What to ask: each prompt in each round, with at most ``tokens`` of answer."""

    prompts: Sequence[str]
    rounds: int = 3
    tokens: int = 64


def in_transformers(order: Order, python: Path, model: Path, adapter: Path | None, base: str) -> Iterator[Result]:
    """The merged model, then the adapter on its base where there is one; each in a process of its own."""
    forms = [("merged", {"model": str(model)})]
    if adapter:
        forms.append(("adapter", {"model": base, "adapter": str(adapter)}))
    for form, what in forms:
        asked = {"template": str(model), "prompts": list(order.prompts), "tokens": order.tokens, "rounds": order.rounds}
        with TemporaryDirectory() as folder:
            file = Path(folder) / "order.json"
            file.write_text(json.dumps({**asked, **what}), encoding="utf-8")
            yield _probed(form, python, file)


def _probed(form: str, python: Path, file: Path) -> Result:
    try:
        value: dict[str, Any] = process.probe(python, assets.probe("bench.py"), str(file), environment=_OFFLINE)
    except AxRecipeError as error:
        return Result(form, "transformers", problem=error.message)
    rows = tuple(Row(row["first"], row["seconds"], row["tokens"], row["answer"]) for row in value["rows"])
    return Result(form, f"transformers, {value['device']}", rows, value["memory"])


@dataclass(frozen=True, slots=True)
class Form:
    """A GGUF of the model, with its adapter beside it or by itself."""

    name: str
    gguf: Path
    adapter: Path | None = None


def forms(exported: Sequence[Exported], folder: Path, report: Report) -> Iterator[Form]:
    """The GGUFs of what was exported; with llama-quantize at hand, also those quantised of the merge's."""
    for each in exported:
        if not each.source.is_file():
            continue
        yield Form("adapter" if each.adapter else "as trained", each.source, each.adapter)
        tool = convert.program("llama-quantize")
        if tool and not each.adapter and not gguf.read(each.source).is_quantised:
            for kind in QUANTISATIONS[1:]:
                report(Progress(f"llama-quantize makes {kind}"))
                yield Form(kind, convert.quantise(each.source, folder / f"{kind}.gguf", kind, tool))


def in_llama_cpp(order: Order, engine: Engine, found: Iterable[Form]) -> Iterator[Result]:
    """Each form in llama.cpp's own server, one after the other."""
    for form in found:
        try:
            with llama.serve(engine, form.gguf, CONTEXT, form.adapter) as served:
                rows = tuple(_rounds(order, partial(served.chat, tokens=order.tokens)))
                yield Result(form.name, f"llama.cpp, {engine.name}", rows, served.memory())
        except AxRecipeError as error:
            yield Result(form.name, "llama.cpp", problem=error.message)


def in_ollama(order: Order, server: Ollama, exported: Exported, name: str, report: Report) -> Iterator[Result]:
    """Each quantisation, made under a tag of its own and taken away again; without the shipped system prompt."""
    fields = {key: value for key, value in exported.value.request().items() if key != "system"}
    adapters = {exported.adapter.name: exported.adapter} if exported.adapter else {}
    alone = adapters or (exported.source.is_file() and gguf.read(exported.source).is_quantised)
    for quantize in QUANTISATIONS[:1] if alone else QUANTISATIONS:
        form = "adapter" if adapters else quantize or "as trained"
        tagged = f"{name.partition(':')[0]}:bench-{form.replace(' ', '-').lower()}"
        try:
            with TemporaryDirectory(dir=exported.folder) as folder:
                source, asked = deploy.to_send(server, exported, quantize, Path(folder), report)
                server.create(Creation(tagged, files_of(source), fields, adapters, asked), report)
            try:
                rows = _rounds(order, partial(server.chat, tagged, options=_options(order)))
                yield Result(form, "Ollama", tuple(rows), server.memory(tagged))
            finally:
                server.unload(tagged)
                server.delete(tagged)
        except AxRecipeError as error:
            yield Result(form, "Ollama", problem=error.message)


def _options(order: Order) -> dict[str, object]:
    return {"temperature": 0, "num_predict": order.tokens}


def _rounds(order: Order, ask: Callable[[Sequence[Message]], Reply]) -> Iterator[Row]:
    for number in range(order.rounds + 1):  # the first loads the model, and is not counted
        for prompt in order.prompts:
            reply = ask([{"role": "user", "content": prompt}])
            if number:
                yield Row(reply.first_s, reply.all_s, reply.answer_tokens, reply.text.strip())
