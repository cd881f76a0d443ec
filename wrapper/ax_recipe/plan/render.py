"""A config in, the text of an Axolotl YAML out: the template lays it out, and every value survives the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from ax_recipe import assets
from ax_recipe.plan.plan import Config

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment


class _Left:
    """A key that the plan leaves to Axolotl: its whole line goes."""

    def __repr__(self) -> str:
        return "\x00left\x00"  # no YAML text can hold a NUL, so no value is mistaken for it


_LEFT = _Left()


def render(config: Config, title: str, hardware: str, *, explain: bool = False) -> str:
    """Lay ``config`` out as a commented Axolotl YAML.

    :param explain: end each key's line with where its value came from.
    :raises AssertionError: the text does not read back as the config: a bug of the template.
    """
    template = environment().get_template("axolotl.yaml.j2")
    laid_out = _laid_out_keys()
    others = {key: value for key, value in config.values.items() if key not in laid_out}
    # A key the template names but the plan leaves open is no mistake; a key the template misspells is.
    known = dict.fromkeys(laid_out, _LEFT)
    names = {"title": _Comment(title), "hardware": _Comment(hardware), "others": others}
    text = template.render({**known, **config.values, **names})
    lines = [line.rstrip() for line in text.split("\n") if repr(_LEFT) not in line]
    if explain:
        lines = [_explained(line, config) for line in lines]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    if (yaml.safe_load(text) or {}) != dict(config.values):
        raise AssertionError("axolotl.yaml.j2 does not carry the config whole")
    return text


def script(name: str, words: Mapping[str, str | list[str] | None]) -> str:
    """Lay ``words`` out by the template called ``name``, each as it is, on one line; None is left out."""

    def as_is(value: str | list[str] | None) -> Any:
        if isinstance(value, list):
            return [_Comment(each) for each in value]
        return _LEFT if value is None else _Comment(value)

    return environment().get_template(name).render({key: as_is(value) for key, value in words.items()})


@cache
def environment() -> SandboxedEnvironment:
    """The Jinja environment in which every expression prints one whole YAML value, and none may be undefined."""
    from jinja2 import FileSystemLoader, StrictUndefined  # here, for a run that goes on renders nothing
    from jinja2.sandbox import SandboxedEnvironment

    made = SandboxedEnvironment(
        loader=FileSystemLoader(assets.templates()),
        undefined=StrictUndefined,
        finalize=_yaml,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.tests["given"] = lambda value: value is not _LEFT
    return made


class _Comment(str):
    """Text for a comment line: shown as it is, on one line."""

    __slots__ = ()


@cache
def _laid_out_keys() -> tuple[str, ...]:
    source = (assets.templates() / "axolotl.yaml.j2").read_text(encoding="utf-8")
    return tuple(key for key, name in re.findall(r"^(\w+): \{\{ (\w+) \}\}$", source, re.MULTILINE) if key == name)


def _yaml(value: Any) -> str:
    """What an expression prints: one YAML value; blocks start on the next line, indented."""
    from jinja2 import StrictUndefined

    if isinstance(value, _Left):
        return repr(value)
    if isinstance(value, _Comment):
        return "".join(char if char.isprintable() else "?" for char in " ".join(value.split()))
    if isinstance(value, StrictUndefined):
        return str(value)  # raises, and names the variable
    if value and isinstance(value, Mapping | list | tuple):
        block = _dumped(_plain(value), None)
        return "\n" + "\n".join(f"  {line}" for line in block.rstrip("\n").split("\n"))
    style = '"' if isinstance(value, str) and not value.isprintable() else None  # newlines as \n, on the one line
    text = _dumped(_plain(value), style)
    # A dumped scalar may end in "...", the end-of-document mark.
    return text.removesuffix("\n").removesuffix("\n...")


class _Dumper(yaml.SafeDumper):
    """Writes line ends as escapes: the blank lines of a text are not the template's, which are thinned out."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None),
)


def _dumped(value: Any, style: str | None) -> str:
    for as_unicode in (True, False):
        text = yaml.dump(
            value,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=as_unicode,
            width=10**6,
            default_style=style,
            default_flow_style=False,
        )
        # PyYAML 6 writes NEL and its like bare, and reads them back as line ends: those go in escapes.
        if text.replace("\n", "").isprintable():
            break
    return text


def _plain(value: Any) -> Any:
    """The same value in the types that YAML's safe dumper knows."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _explained(line: str, config: Config) -> str:
    key = line.partition(":")[0]
    origin = config.origins.get(key)
    if origin is None:
        return line
    source = (
        ".".join(str(part) for part in origin.recipe_key) if origin.source == "recipe" and origin.recipe_key else ""
    )
    words = ": ".join(part for part in (" ".join(filter(None, (origin.source, source))), origin.reason) if part)
    return f"{line}  # {words}"
