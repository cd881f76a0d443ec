"""Check a YAML document against a JSON Schema by pydantic's lax rules; each finding says what to write instead.

The schema speaks for itself: an object with ``properties`` is closed unless ``additionalProperties`` opens it
(pydantic drops unknown keys in silence; here they are errors), and the ``x-`` annotations of
`probes/axolotl_schema.py` carry what Axolotl checks only after the model is loaded, or never.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from ax_recipe.errors import Problem, Severity
from ax_recipe.recipe.document import Document, Keys, dotted

Json = Mapping[str, Any]

# What people write who come from other trainers; used only where the name on the right exists in the schema.
RENAMED = {
    "adam_eps": "adam_epsilon",
    "alpha": "lora_alpha",
    "batch_size_per_device": "micro_batch_size",
    "context_length": "sequence_len",
    "cutoff_len": "sequence_len",
    "dataset": "datasets",
    "dropout": "lora_dropout",
    "eta_min": "cosine_min_lr_ratio",
    "epochs": "num_epochs",
    "finetuning_type": "adapter",
    "grad_accum": "gradient_accumulation_steps",
    "grad_clip": "max_grad_norm",
    "gradient_accumulation": "gradient_accumulation_steps",
    "load_4bit": "load_in_4bit",
    "load_8bit": "load_in_8bit",
    "lora_rank": "lora_r",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "max_length": "sequence_len",
    "max_seq_len": "sequence_len",
    "max_seq_length": "sequence_len",
    "model": "base_model",
    "model_max_length": "sequence_len",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "num_train_epochs": "num_epochs",
    "optim": "optimizer",
    "packing": "sample_packing",
    "per_device_eval_batch_size": "eval_batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "precision": "bf16",
    "quantization_bit": "load_in_4bit",
    "r": "lora_r",
    "rank": "lora_r",
    "report_to": "use_wandb",
    "sharding_strategy": "reshard_after_forward",
    "fsdp_sharding_strategy": "reshard_after_forward",
    "sharegpt": "chat_template",
    "scheduler": "lr_scheduler",
    "target_modules": "lora_target_modules",
    "test_size": "val_set_size",
    "train_batch_size": "micro_batch_size",
    "train_dataset": "datasets",
    "warmup": "warmup_ratio",
}

_NAMES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}
_TRUTH = frozenset(["0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"])
_INTEGER = re.compile(r"\s*[+-]?\d+(_\d+)*(\.0+)?\s*", re.ASCII)


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


@dataclass(frozen=True, slots=True)
class _Finding:
    path: Keys
    code: str
    message: str
    suggestion: str | None = None
    severity: Severity = "error"


def _problem(document: Document, found: _Finding) -> Problem:
    key, line = dotted(found.path) or None, document.line(found.path)
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

    def plugins(self) -> Iterator[_Finding]:
        """Plugins that cannot exist: Axolotl prints a traceback, trains without them and ends with exit code 0."""
        if not self.shipped:
            return
        for index, plugin in enumerate(self.listed):
            near = _nearest(plugin, self.shipped, cutoff=0.85)
            if plugin in self.foreign and (near or "." not in plugin or plugin.startswith("axolotl.")):
                near = near or _nearest(plugin, self.shipped, cutoff=0.5)
                message = f"unknown plugin {plugin!r}: Axolotl 0.19 trains without it, and does not stop"
                yield _Finding(("plugins", index), "AX008", message, _mean(near))

    def value(self, value: Any, schema: Json, path: Keys) -> list[_Finding]:
        """Find what is wrong with ``value``."""
        schema = self.resolve(schema, path)
        if "anyOf" in schema:
            return self.any_of(value, schema["anyOf"], path)
        if "enum" in schema or "const" in schema:
            return _choice(value, _values(schema), path)
        kind = schema.get("type")
        if kind is not None and not _is(value, kind):
            return [_wrong(value, [schema], path)]
        if kind == "array" and isinstance(value, (list, tuple)):
            return self.array(value, schema, path)
        if isinstance(value, dict) and (kind == "object" or "properties" in schema):
            return list(self.object(value, schema, path))
        return list(_limits(value, schema, path))

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

    def any_of(self, value: Any, branches: Sequence[Json], path: Keys) -> list[_Finding]:
        """Take the branch that fits best; one finding where the value is of no branch's kind."""
        results = [(self.value(value, branch, path), branch) for branch in branches]
        best = min((found for found, _ in results), key=lambda found: _weight(found, path))
        if not best or _weight(best, path)[0] == 0:
            return best
        resolved = [self.resolve(branch, path) for branch in branches]
        choices = [each for branch in resolved for each in _values(branch)]
        if choices and isinstance(value, str):
            return _choice(value, choices, path)
        return [_wrong(value, resolved, path)]

    def array(self, value: Sequence[Any], schema: Json, path: Keys) -> list[_Finding]:
        fixed = schema.get("prefixItems", ())
        rest = schema.get("items", {})
        found = list(_limits(value, schema, path))
        for index, item in enumerate(value):
            found += self.value(item, fixed[index] if index < len(fixed) else rest, (*path, index))
        return found

    def object(self, value: Mapping[Any, Any], schema: Json, path: Keys) -> Iterator[_Finding]:
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
                yield _Finding(path, "AX004", f"`{key}` is missing", f"Add `{key}:`{_of(properties.get(key, {}))}.")

    def known(self, value: Any, schema: Json, path: Keys) -> Iterator[_Finding]:
        key = path[-1]
        if (text := schema.get("x-removed")) and value not in (None, False):
            yield _Finding(path, "AX009", f"Axolotl no longer takes this key: {text}", f"Remove `{key}`.")
            return
        if (text := schema.get("x-deprecated")) and value is not None:
            yield _Finding(path, "AX009", text, severity="warning")
        if needs := schema.get("x-plugins"):
            yield from self.needed(value, needs, path)
        yield from self.value(value, schema, path)

    def needed(self, value: Any, plugins: Sequence[str], path: Keys) -> Iterator[_Finding]:
        if not set(plugins).isdisjoint(self.listed):
            return
        plugin = min(plugins, key=len)
        severity: Severity = "warning" if value in (None, False) else "error"
        message = f"read only by {plugin.rpartition('.')[2]}, which is not in `plugins:`; Axolotl drops it in silence"
        yield _Finding(path, "AX007", message, f"Add `- {plugin}` to `plugins:`.", severity)

    def unknown(self, key: Any, schema: Json, path: Keys) -> _Finding:
        if not isinstance(key, str):
            return _Finding(path, "AX001", f"unknown key, read as {_found(key)}", "Put it in quotes, if it is meant.")
        if key in schema.get("x-elsewhere", ()):
            message = f"not read here; {self.root.get('x-unknown', 'it has no effect')}"
            return _Finding(path, "AX011", message, "Remove it, or see which kind of dataset takes it.", "warning")
        after = f": {self.root['x-unknown']}" if "x-unknown" in self.root else ""
        finding = _Finding(path, "AX001", f"unknown key{after}", self.place(key, schema, path))
        if len(path) == 1 and self.foreign:
            return replace(finding, message=f"{finding.message}, unless {self.foreign[0]} reads it", severity="warning")
        return finding

    def place(self, key: str, schema: Json, path: Keys) -> str | None:
        """Which name was meant, or where the key belongs."""
        plain = key.strip().lower().replace("-", "_").replace(" ", "_")
        here = schema.get("properties", {})
        if (meant := RENAMED.get(plain)) and meant in here:
            return _mean(meant)
        if plain in here:
            return _mean(plain)
        if len(path) > 1 and key in self.root.get("properties", ()):
            return f"`{key}` belongs at the top level: check the indentation."
        if near := _nearest(plain, here):
            return _mean(near)
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


def _weight(found: Iterable[_Finding], path: Keys) -> tuple[int, int, int]:
    """How badly a branch fits: not this kind of value at all, then errors, then warnings."""
    found = list(found)
    kind = any(each.path == path and each.code in ("AX002", "AX003") for each in found)
    errors = sum(each.severity == "error" for each in found)
    return (kind, errors, len(found) - errors)


def _is(value: Any, kind: str) -> bool:
    """Whether pydantic's lax mode takes ``value`` for ``kind`` (tried against pydantic 2.13)."""
    if kind == "string":
        return isinstance(value, (str, bytes))
    if kind == "boolean":
        return value in (0, 1) if isinstance(value, (bool, int, float)) else _text(value).lower() in _TRUTH
    if kind == "integer":
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**63
        return isinstance(value, int) or whole or _INTEGER.fullmatch(_text(value)) is not None
    if kind == "number":
        return isinstance(value, (int, float)) or _number(_text(value)) is not None
    if kind == "array":
        return isinstance(value, (list, tuple, set, frozenset))
    return value is None if kind == "null" else isinstance(value, dict)


def _text(value: Any) -> str:
    """Text of text and (`!!binary`) bytes, else nothing."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _number(text: str) -> float | None:
    try:
        return float(text) if text.isascii() else None
    except ValueError:
        return None


def _limits(value: Any, schema: Json, path: Keys) -> Iterator[_Finding]:
    """Length, range, pattern, and the names that plain text may take."""
    if isinstance(value, (list, tuple)):
        few, many = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not few <= len(value) <= many:
            yield _Finding(path, "AX010", f"{len(value)} items where {few if len(value) < few else many} are the limit")
    if schema.get("type") in ("integer", "number"):
        number = value if isinstance(value, int) else float(_text(value) or value)
        for bound, words, holds in _bounds(schema, number):
            if not holds:
                yield _Finding(path, "AX010", f"expected {words} {bound}, found {_found(value)}")
    if schema.get("type") == "string":
        yield from _names(_text(value), schema, path)


def _bounds(schema: Json, number: float) -> Iterator[tuple[float, str, bool]]:
    if (bound := schema.get("minimum")) is not None:
        yield bound, "at least", number >= bound
    if (bound := schema.get("maximum")) is not None:
        yield bound, "at most", number <= bound
    if (bound := schema.get("exclusiveMinimum")) is not None:
        yield bound, "more than", number > bound
    if (bound := schema.get("exclusiveMaximum")) is not None:
        yield bound, "less than", number < bound


def _names(text: str, schema: Json, path: Keys) -> Iterator[_Finding]:
    if schema.get("x-numeric") and _number(text) is None:
        yield _Finding(path, "AX002", f"expected a number, found {_found(text)}")
    if (pattern := schema.get("pattern")) and not re.search(pattern, text):
        yield _Finding(path, "AX003", f"{_found(text)} does not match {pattern}")
    if schema.get("format") == "regex" and (error := _broken(text)):
        yield _Finding(path, "AX003", f"{_found(text)} is no regular expression: {error}")
    if (
        text
        and (names := schema.get("x-values"))
        and text not in names
        and not re.search(schema.get("x-open", "(?!)"), text)
    ):
        yield from _choice(text, names, path)


def _broken(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return None


def _choice(value: Any, choices: Sequence[Any], path: Keys) -> list[_Finding]:
    """Nothing where ``value`` is one of ``choices`` (1 and 1.0 and true are one, as in pydantic)."""
    if value in choices:
        return []
    names = [each for each in choices if isinstance(each, str)]
    near = RENAMED.get(value) if isinstance(value, str) else None
    near = near if near in names else _nearest(str(value).lower(), names, cutoff=0.5)
    listed = f"One of {_listed(choices)}."
    message = f"{_found(value)} is not one of the values that exist"
    return [_Finding(path, "AX003", message, f"{_mean(near)} {listed}" if near else listed)]


def _wrong(value: Any, schemas: Sequence[Json], path: Keys) -> _Finding:
    kinds = [_kind(each) for each in schemas if each.get("type") != "null"] or ["nothing"]
    expected = " or ".join(dict.fromkeys(kinds))
    fix = None
    if value is None:
        fix = "Give a value, or remove the line."
    elif "text" in kinds and isinstance(value, (bool, int, float)):
        fix = f'Put it in quotes: "{_written(value)}".'
    elif "a list" in expected and not isinstance(value, dict):
        fix = f"Write `- {value}` on a line of its own."
    return _Finding(path, "AX002", f"expected {expected}, found {_found(value)}", fix)


def _written(value: Any) -> str:
    """As it stood in the file: what YAML 1.1 reads as false where text is wanted was a bare no, as in save_strategy."""
    return {False: "no", True: "true"}[value] if isinstance(value, bool) else str(value)


def _kind(schema: Json) -> str:
    if "enum" in schema or "const" in schema:
        return _listed(schema.get("enum") or [schema["const"]])
    return _NAMES.get("number" if schema.get("x-numeric") else schema.get("type", ""), "another kind of value")


def _of(schema: Json) -> str:
    """`` (a number)`` after the name of a missing key, where the schema says."""
    kinds = [_NAMES[each["type"]] for each in (schema, *schema.get("anyOf", ())) if each.get("type") in _NAMES]
    return f" ({' or '.join(kinds)})" if kinds else ""


def _found(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    name = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return f"{short} ({name.get(type(value), type(value).__name__)})"


def _listed(values: Sequence[Any], most: int = 12) -> str:
    words = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


def _nearest(name: str, names: Iterable[str], cutoff: float = 0.75) -> str | None:
    return next(iter(get_close_matches(name, list(names), n=1, cutoff=cutoff)), None)


def _mean(name: str | None) -> str | None:
    return f"Did you mean `{name}`?" if name else None
