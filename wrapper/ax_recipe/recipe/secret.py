"""Secrets: found in a file before they reach a YAML, a log or a report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ax_recipe.errors import Problem
from ax_recipe.recipe.document import Document, Keys, dotted

CODE = "AX057"

# Names that hold a secret itself: Axolotl 0.21 has comet_api_key, swanlab_api_key, swanlab_lark_secret,
# swanlab_lark_webhook_url (whoever knows it may post) and hatchery.api_key. A pad_token or an api_token_env is none.
_NAMES = re.compile(
    r"api_?key|access_?key|private_?key|wandb_key|secret|passw(or)?d|credential|webhook_url|(^|_)(hf|hub|auth|access|api|bearer)_token$",
    re.IGNORECASE,
)
# What the hub, GitHub, OpenAI, AWS and Slack hand out can be told by its form; a Weights & Biases key cannot.
_FORMS = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|sk-[\w-]{20,}|AKIA[A-Z0-9]{16}|xox[abpr]-[\w-]{10,})"
)
_USERINFO = re.compile(r"\b[a-z][a-z0-9+.-]*://([^\s/@:]*:[^\s/@]+|[^\s/@]{16,})@", re.IGNORECASE)
_VARIABLES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CONNECTION_STRING)$", re.IGNORECASE)
_SHORTEST = 8  # a shorter value of such a variable is a word like "true" or a file's name, and in every text


def find(document: Document) -> list[Problem]:
    """One problem (AX057) to each secret that the file has in it; none repeats the secret."""
    held = [value for value in from_environment().values() if len(value) >= _SHORTEST]
    found = []
    for path, value in _texts(document.value, ()):
        why = _why(path, value, held)
        if why:
            fix = f"Remove it, and set {_variable(path)} in the environment, which nothing here writes down."
            line, key = document.line(path), dotted(path)
            found.append(Problem(CODE, "error", f"{why}: it would lie open in every file of the run",
                                 document.file, line, key, fix))  # fmt: skip
    return found


def is_named(key: str) -> bool:
    """Whether what is called so is a secret by its name."""
    return _NAMES.search(key) is not None


def has_form(text: str) -> bool:
    """Whether a token, or an address with a password in it, is in ``text``, as far as their form tells."""
    return bool(_FORMS.search(text) or _USERINFO.search(text))


def from_environment() -> Mapping[str, str]:
    """Each variable of the environment that holds a secret by its name."""
    return {name: value for name, value in os.environ.items() if _VARIABLES.search(name)}


def _why(path: Keys, value: str, held: list[str]) -> str | None:
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if value.strip() and is_named(name):
        return "a secret"
    if _FORMS.search(value):
        return "a token"
    if _USERINFO.search(value):
        return "an address with a password in it"
    return "the value of a secret variable of the environment" if any(each in value for each in held) else None


def _variable(path: Keys) -> str:
    """The variable that the libraries read in its place."""
    words = "_".join(part for part in path if isinstance(part, str)).upper()
    known = ("COMET_API_KEY", "SWANLAB_API_KEY", "WANDB_API_KEY")
    if "MLFLOW" in words:
        return "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return next((name for name in known if name in words), "HF_TOKEN or its like")


def _texts(value: Any, path: Keys) -> Iterator[tuple[Keys, str]]:
    """Every text in a value with its path; a key is a text as well."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str) and has_form(key):
                yield path, key
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))
    elif isinstance(value, str):
        yield path, value
