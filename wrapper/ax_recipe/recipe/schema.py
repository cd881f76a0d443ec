"""Check a YAML document against a JSON Schema by pydantic's lax rules; each finding says what to write instead.

The schema speaks for itself: an object with ``properties`` is closed unless ``additionalProperties`` opens it
(pydantic drops unknown keys in silence; here they are errors), and the ``x-`` annotations of
`probes/axolotl_schema.py` carry what Axolotl checks only after the model is loaded, or never.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ax_recipe.errors import Problem, Severity
from ax_recipe.recipe.document import Document, Keys, dotted
from ax_recipe.recipe.values import Finding, choice, is_a, limits, read_as, wrong
from ax_recipe.recipe.words import RENAMED, Json, described, kinds_of, mean, nearest


def check(
    document: Document | Json, schema: Json, *, file: str | None = None, known_plugins: Collection[str] = ()
) -> list[Problem]:
    """All the problems of ``document``, ordered by line; empty when it is right.

    ``file`` names the findings of a plain mapping. ``known_plugins`` are paths that may stand in ``plugins:``
    beside Axolotl's own, and that bring no key.
    """
    if not isinstance(document, Document):
        document = Document(document, file=file)
    walk = _Walk(schema, document.value, known_plugins)
    found = [_problem(document, each) for each in (*walk.object(document.value, schema, ()), *walk.plugins())]
    return sorted((*document.problems, *found), key=lambda each: (each.line or 0, each.key or ""))


def keys(schema: Json) -> list[str]:
    """List the names that the top level of ``schema`` takes, second spellings left out."""
    return sorted(key for key, value in schema["properties"].items() if "x-alias-of" not in value)


def taken(value: Any, schema: Json, root: Json) -> Any:
    """``value``, which ``schema`` (a part of ``root``) accepts, as what it is taken for: `"no"` may be false.

    What an ``x-switch`` decides is left as it is.
    """
    schema = _target(schema, root)
    if isinstance(value, list) and "items" in schema:
        return [taken(each, schema["items"], root) for each in value]
    if isinstance(value, Mapping) and "properties" in schema:
        return {key: taken(each, schema["properties"].get(key, {}), root) for key, each in value.items()}
    if "anyOf" in schema:
        branches = [_target(each, root) for each in schema["anyOf"]]
        if isinstance(value, str) and any(_takes_text(each, value) for each in branches):
            return value
        kinds = [each for each in branches if each.get("type") != "string"]
        return taken(value, next((each for each in kinds if is_a(value, each.get("type", ""))), {}), root)
    return value if value is None or "enum" in schema else read_as(value, schema.get("type"))


def _target(schema: Json, root: Json) -> Json:
    target: Any = root
    for part in schema["$ref"].removeprefix("#/").split("/") if "$ref" in schema else ():
        target = target[part]
    return target if "$ref" in schema else schema


def _takes_text(schema: Json, text: str) -> bool:
    return text in _values(schema) if {"enum", "const"} & schema.keys() else schema.get("type") == "string"


def _problem(document: Document, found: Finding) -> Problem:
    key, line = dotted(document.spelt(found.path)) or None, document.line(found.path)
    return Problem(found.code, found.severity, found.message, document.file, line, key, found.suggestion)


class _Walk:
    """One pass over one value: ``root`` is the schema, ``top`` the whole value, which `x-switch` may ask."""

    def __init__(self, root: Json, top: Json, known_plugins: Collection[str]) -> None:
        self.root = root
        self.top = top
        self.shipped: Sequence[str] = root.get("x-plugins", ())
        plugins = top.get("plugins")
        items = plugins if isinstance(plugins, list) else ()
        self.listed = [self._full(each) if isinstance(each, str) else "" for each in items]
        self.foreign = [each for each in self.listed if each and each not in (*self.shipped, *known_plugins)]

    def _full(self, plugin: str) -> str:
        """Axolotl also finds its own plugins without ``axolotl.integrations.`` (integrations/base.py, 0.19)."""
        plugin = plugin.replace(":", ".") if self.root.get("x-plugin-colon") else plugin
        full = f"axolotl.integrations.{plugin}"
        return full if full in self.shipped else plugin

    def plugins(self) -> Iterator[Finding]:
        """Plugins that cannot exist: Axolotl prints a traceback, trains without them and ends with exit code 0."""
        if not self.shipped:
            return
        for index, plugin in enumerate(self.listed):
            near = nearest(plugin, self.shipped, cutoff=0.85)
            if plugin in self.foreign and (near or "." not in plugin or plugin.startswith("axolotl.")):
                near = near or nearest(plugin, self.shipped, cutoff=0.5)
                message = f"unknown plugin {plugin!r}: Axolotl 0.19 trains without it, and does not stop"
                yield Finding(("plugins", index), "AX008", message, mean(near))

    def value(self, value: Any, schema: Json, path: Keys) -> list[Finding]:
        """Find what is wrong with ``value``."""
        schema = self.resolve(schema, path)
        if "anyOf" in schema:
            return self.any_of(value, schema["anyOf"], path)
        if "enum" in schema or "const" in schema:
            return choice(value, _values(schema), path)
        kind = schema.get("type")
        if kind is not None and not is_a(value, kind):
            return [self.mistaken(value, [schema], path)]
        if kind == "array" and isinstance(value, (list, tuple)):
            return self.array(value, schema, path)
        if isinstance(value, dict) and (kind == "object" or "properties" in schema):
            return list(self.object(value, schema, path))
        return list(limits(value, schema, path))

    def resolve(self, schema: Json, path: Keys) -> Json:
        """Follow the ``$ref`` and ``x-switch`` of ``schema``."""
        while True:
            if "$ref" in schema:
                target: Any = self.root
                for part in schema["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
                schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
            elif "x-switch" in schema:
                schema = self.switch(schema, path)
            else:
                return schema

    def switch(self, schema: Json, path: Keys) -> Json:
        """Choose the case that holds, and note in ``x-elsewhere`` the keys that the other cases know."""
        rule = schema["x-switch"]
        at = self.top if rule["key"].startswith("/") else _follow(self.top, path)
        chosen = at.get(rule["key"].removeprefix("/")) if isinstance(at, dict) else None
        cases = rule["cases"]
        case = cases.get(chosen, rule["default"]) if isinstance(chosen, str) else rule["default"]
        others = [self.resolve(each, path) for each in (*cases.values(), rule["default"]) if each is not case]
        elsewhere = {key for each in others for key in (*each.get("properties", ()), *each.get("x-elsewhere", ()))}
        rest = {key: value for key, value in schema.items() if key != "x-switch"}
        return {**rest, **case, "x-elsewhere": elsewhere | set(schema.get("x-elsewhere", ()))}

    def any_of(self, value: Any, branches: Sequence[Json], path: Keys) -> list[Finding]:
        """Take the branch that fits best; one finding where the value is of no branch's kind."""
        results = [(self.value(value, branch, path), branch) for branch in branches]
        best = min((found for found, _ in results), key=lambda found: _weight(found, path))
        if not best or _weight(best, path)[0] == 0:
            return best
        resolved = [self.resolve(branch, path) for branch in branches]
        choices = [each for branch in resolved for each in _values(branch)]
        if choices and isinstance(value, str):
            return choice(value, choices, path)
        return [self.mistaken(value, resolved, path)]

    def mistaken(self, value: Any, schemas: Sequence[Json], path: Keys) -> Finding:
        """A value of no kind that is wanted; text in the place of a block may be the one thing that it must hold."""
        found = wrong(value, schemas, path)
        for each in schemas:
            listed = each.get("type") == "array"
            block = self.resolve(each.get("items", {}), path) if listed else each
            required = block.get("required", ())
            if (
                isinstance(value, str)
                and len(required) == 1
                and block["properties"][required[0]].get("type") == "string"
            ):
                line = f"{'- ' if listed else ''}{required[0]}: {value}"
                return replace(found, suggestion=f"Write `{line}`{' on a line of its own' if listed else ''}.")
        return found

    def array(self, value: Sequence[Any], schema: Json, path: Keys) -> list[Finding]:
        fixed = schema.get("prefixItems", ())
        rest = schema.get("items", {})
        found = list(limits(value, schema, path))
        for index, item in enumerate(value):
            found += self.value(item, fixed[index] if index < len(fixed) else rest, (*path, index))
        return found

    def object(self, value: Mapping[Any, Any], schema: Json, path: Keys) -> Iterator[Finding]:
        properties: Json = schema.get("properties", {})
        other: Any = schema.get("additionalProperties", not properties)
        for key, item in value.items():
            here = (*path, key)
            if key in properties:
                yield from self.known(item, properties[key], here)
            elif other is False:
                yield self.unknown(key, schema, here)
            else:
                yield from self.value(key, schema.get("propertyNames", {}), here)
                yield from self.value(item, other if isinstance(other, dict) else {}, here)
        for key in schema.get("required", ()):
            if key not in value:
                yield Finding(path, "AX004", f"`{key}` is missing", f"Add `{key}:`{kinds_of(properties.get(key, {}))}.")

    def known(self, value: Any, schema: Json, path: Keys) -> Iterator[Finding]:
        key = path[-1]
        if (text := schema.get("x-removed")) and value not in (None, False):
            yield Finding(path, "AX009", f"Axolotl no longer takes this key: {text}", f"Remove `{key}`.")
            return
        if (text := schema.get("x-deprecated")) and value is not None:
            yield Finding(path, "AX009", text, severity="warning")
        if needs := schema.get("x-plugins"):
            yield from self.needed(value, needs, path)
        yield from self.value(value, schema, path)

    def needed(self, value: Any, plugins: Sequence[str], path: Keys) -> Iterator[Finding]:
        if not set(plugins).isdisjoint(self.listed):
            return
        plugin = min(plugins, key=len)
        severity: Severity = "warning" if value in (None, False) else "error"
        message = f"read only by {plugin.rpartition('.')[2]}, which is not in `plugins:`; Axolotl drops it in silence"
        yield Finding(path, "AX007", message, f"Add `- {plugin}` to `plugins:`.", severity)

    def unknown(self, key: Any, schema: Json, path: Keys) -> Finding:
        if not isinstance(key, str):
            return Finding(path, "AX001", f"unknown key, read as {described(key)}", "Put it in quotes, if it is meant.")
        if key in schema.get("x-elsewhere", ()):
            message = f"not read here; {self.root.get('x-unknown', 'it has no effect')}"
            return Finding(path, "AX011", message, "Remove it, or see which kind of dataset takes it.", "warning")
        after = f": {self.root['x-unknown']}" if "x-unknown" in self.root else ""
        finding = Finding(path, "AX001", f"unknown key{after}", self.place(key, schema, path))
        if len(path) == 1 and self.foreign:
            return replace(finding, message=f"{finding.message}, unless {self.foreign[0]} reads it", severity="warning")
        return finding

    def place(self, key: str, schema: Json, path: Keys) -> str | None:
        """Which name was meant, or where the key belongs."""
        plain = key.strip().lower().replace("-", "_").replace(" ", "_")
        here = schema.get("properties", {})
        if (meant := RENAMED.get(plain)) and meant in here:
            return mean(meant)
        if plain in here:
            return mean(plain)
        if len(path) > 1 and key in self.root.get("properties", ()):
            return f"`{key}` belongs at the top level: check the indentation."
        turned = next((each for each in here if sorted(each.split("_")) == sorted(plain.split("_"))), None)
        if near := turned or nearest(plain, here):
            return mean(near)
        return self.home(key, path)

    def home(self, key: str, path: Keys) -> str | None:
        """Name the block of the top level that takes ``key``."""
        homes = [name for name, each in self.root.get("$defs", {}).items() if key in each.get("properties", ())]
        for block, each in self.root.get("properties", {}).items():
            if block != path[0] and any(f"#/$defs/{name}'" in str(each) for name in homes):
                return f"`{key}` belongs inside `{block}:`."
        return None


def _follow(value: Any, path: Keys) -> Any:
    for part in path:
        value = value[part]
    return value


def _values(schema: Json) -> Sequence[Any]:
    """Collect the values that ``schema`` names."""
    return [schema["const"]] if "const" in schema else schema.get("enum") or schema.get("x-values", ())


def _weight(found: Iterable[Finding], path: Keys) -> tuple[int, int, int]:
    """How badly a branch fits: not this kind of value at all, then errors, then warnings."""
    found = list(found)
    kind = any(each.path == path and each.code in ("AX002", "AX003") for each in found)
    errors = sum(each.severity == "error" for each in found)
    return (kind, errors, len(found) - errors)
