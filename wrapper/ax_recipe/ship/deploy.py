"""Bring an exported model into Ollama under a trial's name; it gets its own when it is proven (see ``live.py``)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ax_recipe.errors import RecipeError
from ax_recipe.ship import convert, gguf
from ax_recipe.ship.export import MODEL
from ax_recipe.ship.exported import Exported
from ax_recipe.ship.live import Proof, prove
from ax_recipe.ship.merged import Check
from ax_recipe.ship.ollama import (
    QUANTISATIONS,
    Creation,
    Ollama,
    Progress,
    Report,
    address,
    files_of,
    model_name,
    quantisation,
)

TRIAL = "ax-recipe-trial"
"""The tag of a model that is not proven yet. It is always the same, so that none is left over for long."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to make of it: the model's name in Ollama, and how to put it to the proof.

    A model of that ``name`` that is there already is replaced if ``replace`` says so, or if it is ``own``; else the
    new one gets ``beside`` as its tag. ``tag`` is the person's own choice of one.
    """

    name: str
    quantize: str | None = None
    replace: bool = False
    tag: str | None = None
    own: bool = False
    beside: str = "new"
    proof: Proof = field(default_factory=Proof)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A model that was brought to a server, and what the proof said; one that failed it is not kept there."""

    name: str
    url: str
    checks: tuple[Check, ...] = field(default=())

    @property
    def kept(self) -> bool:
        """Whether it is there under its name."""
        return not self.wrong

    @property
    def run(self) -> str:
        """The command that talks to it."""
        return f"{self._where}ollama run {self.name}"

    @property
    def undo(self) -> str:
        """The command that takes it away again."""
        return f"{self._where}ollama rm {self.name}"

    @property
    def _where(self) -> str:
        return "" if self.url == address() else f"OLLAMA_HOST={self.url} "

    @property
    def wrong(self) -> list[str]:
        """What the proof found that must not be."""
        return [f"{check.name}: {check.detail}" for check in self.checks if check.verdict == "error"]

    def in_words(self) -> str:
        """What a person is told at the end."""
        if self.kept:
            return f"Talk to it:  {self.run}\nTo undo it:  {self.undo}"
        return f"Not kept: it was made under another name and taken away again; {self.name} is as it was before."

    def as_json(self) -> dict[str, object]:
        """The answer of ``ax-recipe deploy --json``."""
        checks = [{"name": check.name, "verdict": check.verdict, "detail": check.detail} for check in self.checks]
        told = {"model": self.name, "host": self.url, "kept": self.kept, "run": self.run, "undo": self.undo}
        return {**told, "checks": checks}


def deploy(server: Ollama, exported: Exported, wanted: Wanted, report: Report) -> Deployed:
    """Create the model on ``server``, which must be there and new enough, prove it, and only then give it its name.

    :raises RecipeError: a name or quantisation that Ollama does not take, or a tag that is taken.
    :raises RunFailedError: the server could not make it.
    """
    name = choose_name(server, wanted)
    source, quantize = _quantised(exported, wanted.quantize, report)
    trial = f"{_bare(name)}:{TRIAL}"
    adapters = {exported.adapter.name: exported.adapter} if exported.adapter else {}
    server.create(Creation(trial, files_of(source), exported.value.request(), adapters, quantize), report)
    try:
        if server.has(name):
            server.unload(name)  # two models on one GGUF share a runner, and its way to render (0.33)
        made = Deployed(name, server.url, tuple(prove(server, trial, exported, wanted.proof)))
        if made.kept:
            server.copy(trial, name)
    finally:
        server.delete(trial)
    return made


def choose_name(server: Ollama, wanted: Wanted) -> str:
    """The name to create: the wanted one, or the same with a tag where that one is taken and stays."""
    name = model_name(wanted.name)
    bare = _bare(name)
    if wanted.tag is not None:
        tagged = model_name(f"{bare}:{wanted.tag}")
        if server.has(tagged) and not (wanted.replace or wanted.own):
            raise RecipeError(f"{tagged} is there already", "name another --tag, or --replace it")
        return tagged
    if wanted.replace or wanted.own or not server.has(name):
        return name
    return model_name(f"{bare}:{re.sub(r'[^A-Za-z0-9._-]', '-', wanted.beside)}")


def _bare(name: str) -> str:
    """A model's name without its tag."""
    place, slash, last = name.rpartition("/")
    return f"{place}{slash}{last.partition(':')[0]}"


def _quantised(exported: Exported, wanted: str | None, report: Report) -> tuple[Path, str | None]:
    """What to send, and what Ollama is to quantise it to: nothing where the GGUF is quantised already.

    What Ollama does not make, llama.cpp's own program does, where it is at hand.
    """
    source = exported.source
    if wanted is None or (source.is_file() and gguf.read(source).is_quantised):
        return source, None
    if quantisation(wanted):
        return source, wanted
    tool = convert.program("llama-quantize")
    if tool is None or not source.is_file():
        raise RecipeError(
            f"Ollama cannot quantise to {wanted}",
            f"it makes {', '.join(QUANTISATIONS)}; others need a GGUF (export --llama-cpp DIR, or a ready one: --gguf)"
            " and llama.cpp's llama-quantize, on PATH or in LLAMA_CPP_DIR",
        )
    report(Progress(f"llama-quantize makes {wanted.upper()}"))
    return convert.quantise(source, exported.folder / f"{MODEL}-{wanted.upper()}.gguf", wanted.upper(), tool), None
