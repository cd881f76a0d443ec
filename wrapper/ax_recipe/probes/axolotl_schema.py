"""Print what the installed Axolotl accepts as its configuration: one JSON object, one true JSON Schema.

Run by the training environment's python. ``axolotl config-schema`` cannot be used: in 0.19 it mixes a banner
into stdout and falls back to a list of names. Output: ``{"axolotl": VERSION, "schema": SCHEMA}``, sorted keys.
The schema is draft 2020-12 plus annotations that hold what Axolotl knows but pydantic's types do not say:

``x-plugins``     the key exists only while one of these plugins is listed
``x-values``      plain string that fails minutes later unless it is one of these ...
``x-open``        ... or matches this pattern (a hub path, a module of one's own)
``x-numeric``     a string here must read as a number
``x-deprecated``  what Axolotl says about the key; ``x-removed`` when it refuses the key
``x-alias-of``    another accepted spelling of that key
``x-switch``      which subschema holds, by the value of a neighbouring key (``/key``: of a top-level key)
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

# Before Axolotl is imported: no telemetry thread, no look-up of hub kernels.
os.environ.update(AXOLOTL_DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

from listening import listening  # type: ignore[import-not-found]  # beside us

Json = dict[str, Any]

# Keys that are gone from the model but that Axolotl still answers for (validation.py, `check_*_fields`).
REMOVED = (
    "unsloth_cross_entropy_loss",
    "unsloth_lora_mlp",
    "unsloth_lora_o",
    "unsloth_lora_qkv",
    "unsloth_rms_norm",
    "unsloth_rope",
)
SAMPLES: dict[str, list[Any]] = {
    "boolean": [True],
    "integer": [1, 2],
    "number": [1.0],
    "string": ["x"],
    "array": [["x"]],
    "object": [{}],
}
# The shortest config that every version takes (0.18 wants the batch).
PLAIN = {"base_model": "x", "learning_rate": 1e-4, "datasets": [{"path": "x", "type": "alpaca"}]}
PLAIN |= {"micro_batch_size": 1, "gradient_accumulation_steps": 1}
REFUSED = "refused: "
ONE_OF = re.compile(r"one of:? (\[.*?\])")
COMPLAINT = re.compile(r"deprecat|no longer|removed|superseded|not recommended", re.IGNORECASE)
# `validate_config` reads datasets as one of these before pydantic sees them (utils/config/__init__.py, 0.19).
DATASET_OF_RL = {"dpo": "DPODataset", "ipo": "DPODataset", "simpo": "DPODataset", "kto": "KTODataset"}
# Which folder of prompt strategies `rl` looks into (utils/data/rl.py, 0.19); all others are SFT.
STRATEGIES_OF_RL = {"orpo": "orpo", "kto": "kto", "ebft": "ebft"}
STRATEGIES_OF_RL |= dict.fromkeys(("dpo", "ipo", "simpo", "grpo", "gdpo"), "dpo")


def main() -> int:
    """Print the object; everything else that is printed meanwhile goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = {"axolotl": version("axolotl"), "schema": whole_schema()}
    print(json.dumps(answer, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
    return 0


def whole_schema() -> Json:
    """Build the schema of ``AxolotlInputConfig``: plugins, plain-string values, old keys and datasets told apart."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    schema = model_schema(AxolotlInputConfig)
    schema["title"] = "Axolotl config"
    schema["x-unknown"] = "Axolotl drops it in silence"
    add_plugins(schema)
    add_values(schema)
    add_numeric(schema)
    add_fsdp_prefix(schema)
    add_deprecations(schema)
    add_datasets(schema)
    return schema


def model_schema(model: type[Any]) -> Json:
    """Generate the JSON Schema of a pydantic model, every accepted name of a field included."""
    from pydantic.json_schema import GenerateJsonSchema
    from pydantic_core import PydanticSerializationError

    class Generate(GenerateJsonSchema):
        """Survives what pydantic cannot say in JSON, adds the names that aliases hide, leaves out titles."""

        def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic names it
            return False

        def enum_schema(self, schema: Any) -> Json:
            values = [member.value for member in schema["members"]]
            if all(isinstance(value, str) for value in values):
                return super().enum_schema(schema)
            # Values such as torch.int8: the person writes the member's name, in the case its validator reads.
            return {"title": schema["cls"].__name__, "enum": enum_names(schema["cls"])}

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Json:  # noqa: ARG002
            return {}

        def encode_default(self, dft: Any) -> Any:
            try:
                return super().encode_default(dft)
            except PydanticSerializationError:
                return str(dft)

        def dict_schema(self, schema: Any) -> Json:
            keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
            return {**super().dict_schema(schema), **({"propertyNames": keys} if keys else {})}

        def model_schema(self, schema: Any) -> Json:
            return with_aliases(super().model_schema(schema), schema["cls"])

    return dict(model.model_json_schema(schema_generator=Generate))


def enum_names(enum: type[Any]) -> list[Any]:
    """List the spellings of an enum whose values are no strings, as its own reader takes them."""
    names = [member.name for member in enum]
    read = getattr(enum, "from_string", None)
    extra = [name for name in ("fp8", "float8") if read is not None and read(name) is not None]
    values = [member.value for member in enum if isinstance(member.value, int)]
    return [name.lower() if read is None else name for name in names] + extra + values


def with_aliases(schema: Json, model: type[Any]) -> Json:
    """Add a property for every name by which ``model`` accepts each field."""
    properties = schema.get("properties", {})
    by_name = bool(model.model_config.get("populate_by_name"))
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        names = [alias] if isinstance(alias, str) else [c for c in getattr(alias, "choices", ()) if isinstance(c, str)]
        names += [name] if by_name or not names else []
        known = next((each for each in names if each in properties), None)
        if known is None:
            continue
        if isinstance(field.deprecated, str):
            properties[known]["x-deprecated"] = field.deprecated
        for other in names:
            properties.setdefault(other, {**properties[known], "x-alias-of": known})
    return schema


def add_plugins(schema: Json) -> None:
    """Merge the arguments of every bundled integration, each marked with the plugins that bring it."""
    from axolotl.integrations.base import BasePlugin

    adapters = {"llama-adapter", "lora", "qlora"}
    paths: list[str] = []
    for module in integration_modules():
        for name, plugin in plugin_classes(module, BasePlugin):
            paths.append(f"{module.__name__}.{name}")
            adapters |= {each.name for each in plugin.get_adapter_capabilities()}
            if arguments := plugin.get_input_args():
                merge_arguments(schema, paths[-1], load(arguments))
    for path, model in unimportable_plugins():
        paths.append(path)
        merge_arguments(schema, path, model)
    always_on(schema)
    schema["x-plugins"] = sorted(paths)
    string_branch(schema["properties"]["adapter"])["x-values"] = sorted(adapters)


def always_on(schema: Json) -> None:
    """Free the keys of plugins that Axolotl (from 0.20) registers by itself, and allow its ``module:class`` form."""
    from axolotl.integrations import base

    always = set(getattr(base, "BUILTIN_PLUGINS", ()))
    for value in schema["properties"].values():
        if not always.isdisjoint(value.get("x-plugins", ())):
            del value["x-plugins"]
    if hasattr(base, "normalize_plugin_name"):
        schema["x-plugin-colon"] = True


def integration_modules() -> Iterator[ModuleType]:
    """Import each bundled integration's package, then its plugin module (both paths are in use)."""
    for name in integrations():
        for path in (name, f"{name}.plugin", f"{name}.plugins"):
            with contextlib.suppress(ImportError):
                yield importlib.import_module(path)


def integrations() -> Iterator[str]:
    """List the full names of the bundled integrations."""
    import axolotl.integrations

    prefix = "axolotl.integrations."
    yield from (info.name for info in pkgutil.iter_modules(axolotl.integrations.__path__, prefix) if info.ispkg)


def plugin_classes(module: ModuleType, base: type[Any]) -> Iterator[tuple[str, Any]]:
    """Find the plugins that ``module`` offers: name and instance."""
    for name in sorted({*dir(module), *getattr(module, "__all__", ())}):
        found = getattr(module, name, None)
        if inspect.isclass(found) and issubclass(found, base) and found is not base:
            yield name, found()


def unimportable_plugins() -> Iterator[tuple[str, Any]]:
    """Find by text the plugins whose own dependency is absent here (llm_compressor), by file their arguments."""
    import axolotl.integrations

    for name in integrations():
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            continue
        folder = Path(next(iter(axolotl.integrations.__path__)), name.rpartition(".")[2])
        text = "".join(path.read_text("utf-8") for path in sorted(folder.glob("*.py")))
        arguments = load_file(folder / "args.py")
        models = [each for each in vars(arguments).values() if getattr(each, "__module__", "") == arguments.__name__]
        for plugin in re.findall(r"^class (\w+)\(BasePlugin\)", text, re.MULTILINE):
            yield from ((f"{name}.{plugin}", model) for model in models if f'{model.__name__}"' in text)


def load(path: str) -> Any:
    """Import the object at a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def load_file(path: Path) -> ModuleType:
    """Import a module by its file, without its package."""
    name = f"{path.parent.name}_{path.stem}"
    loader = SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, loader, origin=str(path)))
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def merge_arguments(schema: Json, plugin: str, model: type[Any]) -> None:
    """Add the properties of a plugin's argument model; where the base has the key already, the base wins."""
    added = model_schema(model)
    schema["$defs"].update(added.get("$defs", {}))
    for key, value in added.get("properties", {}).items():
        present = schema["properties"].setdefault(key, {**value, "x-plugins": []})
        if "x-plugins" in present:
            present["x-plugins"] = sorted({*present["x-plugins"], plugin})


def string_branch(schema: Json) -> Json:
    """Find the part of a (possibly nullable) schema that says ``type: string``."""
    return next(each for each in (schema, *schema.get("anyOf", ())) if each.get("type") == "string")


def add_values(schema: Json) -> None:
    """Name what Axolotl keeps as plain strings and looks up long after the model is loaded."""
    from axolotl.utils.schemas.enums import CustomSupportedOptimizers
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    own = [member.value for member in CustomSupportedOptimizers]
    optimizers = sorted({*own, *(member.value for member in OptimizerNames)})
    # one_cycle and rex are Axolotl's own (core/builders/base.py).
    schedulers = sorted({"one_cycle", "rex", *(member.value for member in SchedulerType)})
    properties = schema["properties"]
    string_branch(properties["optimizer"])["x-values"] = optimizers
    string_branch(properties["lr_scheduler"])["x-values"] = schedulers
    add_chat_templates(schema)
    for key, value in properties.items():
        listed = ONE_OF.search(said(key, "no such value") or "") if has_plain_text(value) else None
        if listed:
            string_branch(value)["x-values"] = sorted(json.loads(listed[1].replace("'", '"')))
    string_branch(properties["attn_implementation"])["x-open"] = "/"  # a kernel of the hub


def has_plain_text(schema: Json) -> bool:
    """Tell whether any text is taken as far as the schema goes."""
    return {"type": "string"} in (schema, *schema.get("anyOf", ()))


def add_chat_templates(schema: Json) -> None:
    """Name the templates that exist; the top level takes no other, a dataset takes any text and fails later."""
    from axolotl.utils.chat_templates import base

    names = sorted({*schema["$defs"]["ChatTemplate"]["enum"], *base._CHAT_TEMPLATES})
    known = {"x-values": names, "x-open": f"^tokenizer_default_fallback_({'|'.join(base._CHAT_TEMPLATES)})$"}
    for properties in (schema["properties"], schema["$defs"]["SFTDataset"]["properties"]):
        string_branch(properties["chat_template"]).update(known)


def add_numeric(schema: Json) -> None:
    """Mark the strings that Axolotl turns into numbers itself (``learning_rate: "2e-4"``)."""
    for key, value in schema["properties"].items():
        kinds = {branch.get("type") for branch in value.get("anyOf", ())}
        if {"string", "number"} <= kinds and "float" in (said(key, "not a number") or ""):
            string_branch(value)["x-numeric"] = True


def add_fsdp_prefix(schema: Json) -> None:
    """Accept a legacy ``fsdp_`` before the keys of ``fsdp_config``, which Axolotl strips (validation.py)."""
    properties = schema["$defs"]["FSDPConfig"]["properties"]
    for key in [each for each in properties if not each.startswith("fsdp_")]:
        note = f"Use `{key}`: the `fsdp_` prefix inside `fsdp_config` is deprecated."
        properties.setdefault(f"fsdp_{key}", {**properties[key], "x-alias-of": key, "x-deprecated": note})


def add_deprecations(schema: Json) -> None:
    """Ask Axolotl what it says to each key, and keep what sounds like an old key."""
    properties = schema["properties"]
    for key, value in list(properties.items()):
        answers = [said(key, sample) or "" for sample in samples(value)] if "x-plugins" not in value else []
        if answers and all(COMPLAINT.search(answer) for answer in answers):
            value.setdefault(*old(answers))
    for key in REMOVED:
        if text := said(key, True):
            properties.setdefault(key, {"x-removed": text.removeprefix(REFUSED)})


def old(answers: list[str]) -> tuple[str, str]:
    """Tell a key that Axolotl refuses from one that it only warns of: the annotation and its text."""
    refused = all(answer.startswith(REFUSED) for answer in answers)
    return "x-removed" if refused else "x-deprecated", answers[0].removeprefix(REFUSED)


def samples(schema: Json) -> list[Any]:
    """Make up values for each typed branch of the schema; some text where there is none."""
    branches = (schema, *schema.get("anyOf", ()))
    typed = [branch for branch in branches if branch.get("type") in SAMPLES]
    return [value for branch in typed for value in branch.get("enum", SAMPLES[branch["type"]])] or ["x"]


def said(key: str, value: Any) -> str | None:
    """Hear what Axolotl logs, or raises (then REFUSED goes before it), about ``key``: the shortest line with it."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    config = {**PLAIN, key: value}
    records: list[str] = []
    with listening(records):
        try:
            AxolotlInputConfig(**copy.deepcopy(config))
        except Exception as error:  # noqa: BLE001 - validators raise DeprecationWarning, ImportError, ...
            records.append(REFUSED + error_text(error, key))
    lines = [" ".join(text.split()) for text in records if key in text]
    return min(lines, key=len) if lines else None


def error_text(error: Exception, key: str) -> str:
    """Take the message about ``key`` out of a validation error, without pydantic's frame around it."""
    details: Callable[[], list[Json]] = getattr(error, "errors", list)
    for each in details():
        if key in map(str, each["loc"]) or key in each["msg"]:
            text = str(each["msg"]).removeprefix("Value error, ")
            return text if key in text else f"{key}: {text}"
    return str(error)


def add_datasets(schema: Json) -> None:
    """Switch on ``rl``: which model reads a dataset, and which ``type`` names exist."""
    definitions = schema["$defs"]
    cases = {rl: {"$ref": f"#/$defs/{name}"} for rl, name in DATASET_OF_RL.items() if name in definitions}
    usual: Json = {"$ref": "#/$defs/SFTDataset"}
    if "SyntheticDataset" in definitions:
        synthetic = {"_synthetic": {"$ref": "#/$defs/SyntheticDataset"}}
        usual = {"x-switch": {"key": "type", "cases": synthetic, "default": usual}}
    items = schema["properties"]["datasets"]["anyOf"][0]
    items["items"] = {"x-switch": {"key": "/rl", "cases": cases, "default": usual}}
    kinds = {rl: {"$ref": f"#/$defs/strategy-{name}"} for rl, name in STRATEGIES_OF_RL.items()}
    for name, values in strategies().items():
        definitions[f"strategy-{name}"] = {"type": "string", "x-values": values, "x-open": own_strategy(values)}
    for name in ("SFTDataset", "DPODataset", "KTODataset", "PretrainingDataset"):
        kind = string_branch(definitions[name]["properties"]["type"])
        kind["x-switch"] = {"key": "/rl", "cases": kinds, "default": {"$ref": "#/$defs/strategy-sft"}}


def strategies() -> dict[str, list[str]]:
    """List the names for ``datasets[].type`` by family (``sft`` without ``rl``)."""
    from axolotl.prompters import PromptStyle
    from axolotl.utils.data import wrappers

    package = "axolotl.prompt_strategies"
    sft = {"messages", *wrappers.DATASET_HANDLERS, *functions(package, "load", "load_")}
    sft |= {f"{name}.load" for name in sft if "." not in name and name not in wrappers.DATASET_HANDLERS}
    sft |= {f"{name}:{style.value}" for name in wrappers.DATASET_HANDLERS for style in PromptStyle}
    sft |= {f"bradley_terry.{name}" for name in functions(f"{package}.bradley_terry", "load", "load_")}
    families = {name: functions(f"{package}.{name}", "default", "") for name in set(STRATEGIES_OF_RL.values())}
    return {name: sorted(found) for name, found in {"sft": sft, **families}.items()}


def functions(package: str, default: str, prefix: str) -> set[str]:
    """List ``module`` (for its ``default`` function) and ``module.function`` of the strategies in ``package``."""
    found = set()
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if info.ispkg or info.name == "base":  # packages hold other families, base is their loader
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        found |= {
            f"{info.name}.{name}"
            for name in own
            if inspect.isfunction(getattr(module, name))
            and name.startswith(prefix)
            and not name.startswith("_")
            and name != "load"
        }
        if callable(getattr(module, default, None)):
            found.add(info.name)
    return found


def own_strategy(values: list[str]) -> str:
    """Write the pattern of a strategy of one's own: a dotted path that begins with none of Axolotl's modules."""
    modules = sorted({re.split("[.:]", value)[0] for value in values})
    return rf"^(?!({'|'.join(modules)})[.:])\w[\w.]*\.\w+$"


if __name__ == "__main__":
    sys.exit(main())
