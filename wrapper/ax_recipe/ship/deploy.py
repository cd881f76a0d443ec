"""Bring an exported model into Ollama under a trial's name; it gets its own when it is proven (see ``live.py``)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ax_recipe.errors import MissingError, RecipeError
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

_EMBEDDING = "token_embd.weight"
"""A matrix that every GGUF of a language model has: its type tells the precision of one that is not quantised."""


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
        told = {"model": self.name, "host": self.url, "kept": self.kept, "run": self.run, "undo": self.undo}
        return {**told, "checks": [check.as_json() for check in self.checks]}


def deploy(server: Ollama, exported: Exported, wanted: Wanted, report: Report) -> Deployed:
    """Create the model on ``server``, which must be there and new enough, prove it, and only then give it its name.

    :raises RecipeError: a name or quantisation that Ollama does not take, or a tag that is taken.
    :raises MissingError: this Ollama takes no more than GGUFs as they are, and it would take more to make one.
    :raises RunFailedError: the server could not make it.
    """
    name = choose_name(server, wanted)
    source, quantize = to_send(server, exported, wanted.quantize, exported.folder, report)
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


def to_send(
    server: Ollama, exported: Exported, wanted: str | None, folder: Path, report: Report
) -> tuple[Path, str | None]:
    """What to send, and what Ollama is to quantise it to: nothing where the GGUF is so already.

    What Ollama does not make, llama.cpp's own program does, into ``folder``.

    :raises RecipeError: Ollama does not make it, and that program is not at hand; :class:`MissingError` likewise where
        it is one that makes nothing.
    """
    tool = quantiser(server, exported, wanted)
    if tool is None or wanted is None:
        return exported.source, None if _is_made(exported.source, wanted) else wanted
    report(Progress(f"llama-quantize makes {wanted.upper()}"))
    return convert.quantise(exported.source, folder / f"{MODEL}-{wanted.upper()}.gguf", wanted.upper(), tool), None


def quantiser(server: Ollama, exported: Exported, wanted: str | None) -> Path | None:
    """The llama-quantize that is to make ``wanted``; None where Ollama does it, or nothing is to be made.

    :raises RecipeError: Ollama does not make it, and there is none.
    :raises MissingError: this Ollama makes nothing, and what was exported is no GGUF by itself, or there is none.
    """
    makes, source = server.makes(), exported.source
    if not makes:
        _require_plain(server, exported)
    if _is_made(source, wanted) or (makes and wanted and quantisation(wanted)):
        return None
    tool = convert.program("llama-quantize")
    if tool and source.is_file():
        return tool
    if not makes:
        as_is = gguf.read(source).types.get(_EMBEDDING, "F16")
        raise MissingError(
            f"Ollama {server.version()} at {server.url} does not quantise, and there is no llama-quantize here",
            f"have llama.cpp (brew, apt) or build it in {convert.VARIABLE}, or take it as it is: --quantize {as_is}",
        )
    raise RecipeError(
        f"Ollama cannot quantise to {wanted}",
        f"it makes {', '.join(QUANTISATIONS)}; others need a GGUF (export --llama-cpp DIR, or a ready one: --gguf)"
        f" and llama.cpp's llama-quantize, on PATH or in {convert.VARIABLE}",
    )


def _require_plain(server: Ollama, exported: Exported) -> None:
    """Refuse what an Ollama that makes nothing would refuse, before anything is sent."""
    who = f"Ollama {server.version()} at {server.url}"
    if exported.adapter:
        raise MissingError(
            f"{who} takes no adapters: none does since 0.34.1",
            "deploy the merge; llama.cpp's llama-server --lora takes base and adapter as they were exported",
        )
    if not exported.source.is_file():
        raise MissingError(
            f"{who} takes a GGUF, and safetensors were exported: since 0.34.1 it makes none of them",
            "export a GGUF: with --llama-cpp DIR (a checkout of llama.cpp), or --gguf FILE (a ready one)",
        )


def _is_made(source: Path, wanted: str | None) -> bool:
    """Whether nothing is to be done: no quantisation is wanted, or the GGUF is quantised, or of that precision."""
    if wanted is None:
        return True
    head = gguf.read(source) if source.is_file() else None
    return head is not None and (head.is_quantised or head.types.get(_EMBEDDING) == wanted.upper())
