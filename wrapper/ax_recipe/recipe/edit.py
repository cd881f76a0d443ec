"""A recipe's text with other values in it: whatever is not changed stays as its author wrote it, comments included."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from ax_recipe.errors import RecipeError
from ax_recipe.recipe.document import Keys, dotted


def edited(text: str, changes: Mapping[Keys, Any]) -> str:
    """``text`` (a YAML mapping) with each path of keys set to its value; what is not there yet is added.

    :raises RecipeError: an alias (``*name``) stands for what is to be changed, or is changed with it.
    :raises AssertionError: the result does not read back as meant: a bug of this module.
    """
    try:
        return _edited(text, changes)
    except (yaml.YAMLError, AssertionError) as error:
        if not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise
        named = ", ".join(dotted(keys) for keys in changes)
        hint = "write the value out at each place, or change it by hand"
        raise RecipeError(f"an alias (*name) of the recipe stands in the way of {named}", hint) from error


def _edited(text: str, changes: Mapping[Keys, Any]) -> str:
    wanted = yaml.safe_load(text) or {}
    for keys, value in changes.items():
        text = _set(text, keys, value)
        wanted = _with(wanted, keys, value)
    if yaml.safe_load(text) != wanted:
        raise AssertionError("the edited recipe does not read back as it was meant")
    return text


def _with(value: Any, keys: Keys, new: Any) -> Any:
    if not keys:
        return new
    changed = copy.copy(value) if value is not None else {}
    inner = changed[keys[0]] if isinstance(changed, list) else changed.get(keys[0])
    changed[keys[0]] = _with(inner, keys[1:], new)
    return changed


def _set(text: str, keys: Keys, value: Any) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for depth, key in enumerate(keys):
        inner = _child(node, key)
        if inner is None:
            return _add(text, node, key, _nested(keys[depth + 1 :], value))
        node = inner
        if isinstance(node, yaml.ScalarNode):
            return _replace(text, node, _nested(keys[depth + 1 :], value))
    return _replace(text, node, value)


def _child(node: Any, key: Any) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return node.value[key]
    return next((value for name, value in node.value if name.value == key), None)


def _nested(keys: Keys, value: Any) -> Any:
    return {keys[0]: _nested(keys[1:], value)} if keys else value


def _replace(text: str, node: Any, value: Any) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    body = text[start:end]
    kept = len(body.rstrip())  # a block reaches to where the next key begins
    gap = " " if start and text[start - 1] == ":" else ""  # an empty value stands right behind its colon
    return text[:start] + gap + flow(value) + text[start + kept :]


def _add(text: str, node: Any, key: str, value: Any) -> str:
    if node.flow_style:
        close = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return f"{text[:close].rstrip()}{comma}{key}: {flow(value)}{text[close:]}"
    indent = " " * node.start_mark.column
    block = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10**6)
    lines = "".join(f"{indent}{line}\n" for line in block.splitlines())
    after = _line_end(text, _last(node).end_mark)
    break_before = "" if text[:after].endswith("\n") else "\n"
    return text[:after] + break_before + lines + text[after:]


def _last(node: Any) -> Any:
    """The deepest node at the end of a block."""
    while not node.flow_style and isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
        if isinstance(node, yaml.ScalarNode):
            break
    return node


def _line_end(text: str, mark: Any) -> int:
    """Behind the line that a node ends on; a block scalar ends at the beginning of the next."""
    if mark.column == 0 and mark.index:
        return int(mark.index)
    end = text.find("\n", mark.index)
    return len(text) if end < 0 else end + 1


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    # In a list, since a text that may stand bare on a line of its own, as 0{ may, breaks the {} that it is put into.
    text = yaml.safe_dump([value], sort_keys=False, allow_unicode=True, default_flow_style=True, width=10**6)
    return text.strip()[1:-1]
