"""The proof on a live server that a model is asked as it was trained.

The prompts that it renders are the trained ones, a prompt is as many tokens as the tokenizer makes of it, and a
question is answered and the answer ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ax_recipe.errors import RunFailedError
from ax_recipe.ship import conversations
from ax_recipe.ship.exported import Exported
from ax_recipe.ship.gotemplate import Message
from ax_recipe.ship.hf_jinja import HfTemplate, RefusedError
from ax_recipe.ship.merged import Check
from ax_recipe.ship.ollama import Ollama, UnshownError
from ax_recipe.ship.turns import Probe

SHAPES = ("u", "su", "uau", "suau")
"""The conversations that a live server is asked to render: every text of :data:`conversations.TEXTS` in each."""

LONGEST_ANSWER = 512
"""Tokens after which an answer that has not ended never will; less where num_ctx leaves less."""

QUESTION = "Who are you, and what can you do for me?"

Count = Callable[[Path, Sequence[Message]], int]
"""How many tokens the tokenizer in a folder makes of a conversation, with the answer's opening."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a live model is asked, and how its prompt's tokens are counted; without ``count``, they are not."""

    question: str = QUESTION
    count: Count | None = None


def prove(server: Ollama, name: str, exported: Exported, proof: Proof) -> Iterator[Check]:
    """Put the live model to the proof, and leave it out of memory."""
    try:
        server.unload(name)
        yield _prompts(server, name, exported)
        yield from _answer(server, name, exported, proof)
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


def _answer(server: Ollama, name: str, exported: Exported, proof: Proof) -> Iterator[Check]:
    messages: list[Message] = [{"role": "user", "content": proof.question}]
    reply = server.chat(name, messages, {"temperature": 0, "num_predict": _longest(exported.value.parameters)})
    yield _tokens(reply.prompt_tokens, exported, messages, proof)
    shown = reply.text.strip()
    if reply.ended != "stop":
        told = f"it goes on after {reply.answer_tokens} tokens ({reply.ended}): ...{shown[-60:]!r}"
        yield Check("answer", "error", told)
    elif not shown:
        yield Check("answer", "error", f"nothing was answered to {proof.question!r}")
    else:
        yield Check("answer", "ok", f"ends by itself after {reply.answer_tokens} tokens: {_short(shown)!r}")


def _longest(parameters: Mapping[str, Any]) -> int:
    room = parameters.get("num_ctx")
    return min(LONGEST_ANSWER, room // 2) if isinstance(room, int) else LONGEST_ANSWER


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _tokens(found: int, exported: Exported, messages: Sequence[Message], proof: Proof) -> Check:
    if proof.count is None:
        said = f"{found} in Ollama; no training environment here to count them with"
        return Check("prompt tokens", "warning", said)
    expected = proof.count(exported.tokenizer, _with_system(exported, messages))
    if found == expected:
        return Check("prompt tokens", "ok", f"{found}, as the tokenizer makes them")
    bos = exported.trained.tokens.bos
    why = f": {bos} twice?" if found == expected + 1 and bos else ""
    if not why and exported.source.is_dir():  # Ollama's import knows a few ways to split text, and says nothing else
        why = ": its import splits text otherwise; export a GGUF with --llama-cpp or --gguf"
    return Check("prompt tokens", "error", f"{found} in Ollama, {expected} by the tokenizer{why}")
