"""Bring an exported model into Ollama, then prove on the live server that it is asked as it was trained.

The proof: the prompts that the server renders are the trained ones, a prompt is as many tokens as the tokenizer makes
of it, and a question is answered and the answer ends by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from ax_recipe.errors import RecipeError, RunFailedError
from ax_recipe.ship import conversations, convert, gguf, modelfile, tokenizer
from ax_recipe.ship.export import MODEL
from ax_recipe.ship.files import read_json
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.hf_jinja import HfTemplate, RefusedError
from ax_recipe.ship.merged import IMPORTED, Check
from ax_recipe.ship.modelfile import Modelfile
from ax_recipe.ship.ollama import (
    QUANTISATIONS,
    Creation,
    Ollama,
    Progress,
    Report,
    UnshownError,
    address,
    files_of,
    model_name,
    quantisation,
)
from ax_recipe.ship.tokenizer import TokenizerFiles
from ax_recipe.ship.turns import Probe

SHAPES = ("u", "su", "uau", "suau")
"""The conversations that a live server is asked to render: every text of :data:`conversations.TEXTS` in each."""

LONGEST_ANSWER = 512
"""Tokens after which an answer that has not ended never will; less where num_ctx leaves less."""

TRIAL = "ax-recipe-trial"
"""The tag of a model that is not proven yet. It is always the same, so that none is left over for long."""

QUESTION = "Who are you, and what can you do for me?"

Count = Callable[[Path, Sequence[Message]], int]
"""How many tokens the tokenizer in a folder makes of a conversation, with the answer's opening."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What ``export`` wrote into a folder: the Modelfile, what its FROM and ADAPTER name, the trained tokenizer."""

    folder: Path
    value: Modelfile
    source: Path
    trained: TokenizerFiles
    adapter: Path | None = None

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer's files, as they are to be used."""
        return self.folder / MODEL


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
    question: str = QUESTION
    count: Count | None = None


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


def read(folder: Path) -> Exported:
    """What ``export`` wrote into ``folder``.

    :raises RecipeError: it did not, or Ollama cannot import what it wrote.
    """
    file = folder / "Modelfile"
    if not file.is_file() or not (folder / MODEL).is_dir():
        raise RecipeError(f"{folder} holds nothing exported", f"ax-recipe export {folder}, then deploy")
    value = modelfile.read(file)
    source = folder / value.source
    if not source.exists():
        raise RecipeError(f"{file}: FROM {value.source} is not there", "export it again")
    names = read_json(folder / MODEL / "config.json").get("architectures") or ["none"]
    if source.is_dir() and names[0] not in IMPORTED:
        raise RecipeError(
            f"Ollama cannot import {names[0]} from its weights",
            "export a GGUF: with --llama-cpp DIR (a checkout of llama.cpp), or --gguf FILE (a ready one)",
        )
    adapter = folder / value.adapter if value.adapter else None
    if adapter and not adapter.is_file():
        raise RecipeError(f"{file}: ADAPTER {value.adapter} is not there", "export it again")
    return Exported(folder, value, source, tokenizer.load(folder / MODEL), adapter)


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
        made = Deployed(name, server.url, tuple(prove(server, trial, exported, wanted)))
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


def prove(server: Ollama, name: str, exported: Exported, wanted: Wanted) -> Iterator[Check]:
    """Put the live model to the proof, and leave it out of memory."""
    try:
        server.unload(name)
        yield _prompts(server, name, exported)
        yield from _answer(server, name, exported, wanted)
        server.unload(name)
    except RunFailedError as error:
        yield Check("answer", "error", str(error))


def _expected(exported: Exported, messages: Sequence[Message]) -> str:
    """The trained prompt, less the BOS that the engine adds; Ollama puts the Modelfile's SYSTEM first."""
    tokens = exported.trained.tokens
    template = HfTemplate(exported.trained.chat_template or "", tokens.variables())
    bos = tokens.bos or "" if exported.trained.adds_bos else ""
    return Probe(template, bos).text(_with_system(exported, messages), today=date.today().isoformat())


def _with_system(exported: Exported, messages: Sequence[Message]) -> list[Message]:
    system = exported.value.system
    if not system or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def _prompts(server: Ollama, name: str, exported: Exported) -> Check:
    compared = 0
    for texts in conversations.TEXTS.values():
        for shape in SHAPES:
            messages = conversations.make(shape, texts if "s" in shape else texts[1:])
            try:
                expected = _expected(exported, messages)
                if not _fits(expected, exported):
                    continue
                found = server.rendered(name, messages)
            except RefusedError:  # no place for a system message: Modelfile and proof go without
                continue
            except UnshownError as error:
                return Check("prompt", "warning", str(error))
            compared += 1
            if found != expected:
                return Check("prompt", "error", f"not the trained one\n  trained: {expected!r}\n  Ollama:  {found!r}")
    if not compared:
        return Check("prompt", "warning", "num_ctx is too small for any of the conversations to compare")
    return Check("prompt", "ok", f"{compared} rendered by the server, each equal to the trained one")


def _fits(prompt: str, exported: Exported) -> bool:
    """Whether a prompt surely fits num_ctx: a token is a byte at least. Ollama leaves out what does not fit."""
    room = exported.value.parameters.get("num_ctx")
    for token in sorted(exported.trained.tokens.added, key=len, reverse=True):
        prompt = prompt.replace(token, "x")
    return not isinstance(room, int) or len(prompt.encode()) < room


def _answer(server: Ollama, name: str, exported: Exported, wanted: Wanted) -> Iterator[Check]:
    messages: list[Message] = [{"role": "user", "content": wanted.question}]
    reply = server.chat(name, messages, {"temperature": 0, "num_predict": _longest(exported.value.parameters)})
    yield _tokens(reply.prompt_tokens, exported, messages, wanted)
    shown = reply.text.strip()
    if reply.ended != "stop":
        told = f"it goes on after {reply.answer_tokens} tokens ({reply.ended}): ...{shown[-60:]!r}"
        yield Check("answer", "error", told)
    elif not shown:
        yield Check("answer", "error", f"nothing was answered to {wanted.question!r}")
    else:
        yield Check("answer", "ok", f"ends by itself after {reply.answer_tokens} tokens: {_short(shown)!r}")


def _longest(parameters: Mapping[str, Any]) -> int:
    room = parameters.get("num_ctx")
    return min(LONGEST_ANSWER, room // 2) if isinstance(room, int) else LONGEST_ANSWER


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _tokens(found: int, exported: Exported, messages: Sequence[Message], wanted: Wanted) -> Check:
    if wanted.count is None:
        said = f"{found} in Ollama; no training environment here to count them with"
        return Check("prompt tokens", "warning", said)
    expected = wanted.count(exported.tokenizer, _with_system(exported, messages))
    if found == expected:
        return Check("prompt tokens", "ok", f"{found}, as the tokenizer makes them")
    bos = exported.trained.tokens.bos
    why = f": {bos} twice?" if found == expected + 1 and bos else ""
    if not why and exported.source.is_dir():  # Ollama's import knows a few ways to split text, and says nothing else
        why = ": its import splits text otherwise; export a GGUF with --llama-cpp or --gguf"
    return Check("prompt tokens", "error", f"{found} in Ollama, {expected} by the tokenizer{why}")
