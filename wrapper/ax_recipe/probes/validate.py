"""Let the installed Axolotl validate a config for hardware that need not be here; prints one JSON object.

    python validate.py CONFIG.yml '{"bf16": true, "fp8": true, "tf32": true, "n_gpu": 4, "n_node": 1,
                                    "compute_capability": "sm_90"}'

``{"errors": [{"loc": [...], "message": ...}], "warnings": [...]}``. Works on a copy, since Axolotl adds a hundred
defaults to what it validates. Where no plugin or only the two usual ones are listed, its schema alone is imported,
which takes a third of the time.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

# Before Axolotl is imported: no telemetry thread, no look-up on the hub.
os.environ.update(AXOLOTL_DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import yaml
from listening import listening  # type: ignore[import-not-found]  # beside us

Json = dict[str, Any]
Check = tuple[list[Any], Callable[[], object]]  # where it looks, and what raises
RL_PAIRS = ("dpo", "ipo", "simpo")
ARGUMENTS = {"liger": "LigerArgs", "cut_cross_entropy": "CutCrossEntropyArgs"}
PLUGIN = re.compile(rf"axolotl\.integrations\.({'|'.join(ARGUMENTS)})(?:\.plugin)?\.\w+")


def main() -> None:
    """Validate, and print what Axolotl said; whatever else is printed meanwhile goes to stderr."""
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    target = {"capabilities": json.loads(sys.argv[2]), "env_capabilities": {"torch_version": version("torch")}}
    said: list[str] = []
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors = validate(copy.deepcopy(config), target, said)
    print(json.dumps({"errors": errors, "warnings": list(dict.fromkeys(said))}))


def validate(config: Json, target: Json, said: list[str]) -> list[Json]:
    """The errors that Axolotl raises; it logs its warnings into ``said``."""
    usual = [PLUGIN.fullmatch(str(plugin)) for plugin in config.get("plugins") or ()]
    names = [match[1] for match in usual if match]
    checks = alone(config, target, names) if len(names) == len(usual) else with_plugins(config, target)
    place: list[Any] = []
    try:
        for place, check in checks:  # noqa: B007 - where it was when it raised
            with listening(said):
                check()
    except Exception as error:  # noqa: BLE001 - validators raise DeprecationWarning, ImportError, ...
        return list(described(error, place))
    return []


def alone(config: Json, target: Json, plugins: list[str]) -> Iterator[Check]:
    """The schema with its validators: each dataset first, as `validate_config` does, then the whole."""
    from axolotl.utils.schemas import datasets
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities

    for index, each in enumerate(config.get("datasets") or ()):
        kind: Any = datasets.SFTDataset
        if config.get("rl") in RL_PAIRS:
            kind = datasets.DPODataset
        elif config.get("rl") == "kto":
            kind = datasets.KTODataset
        elif isinstance(each, dict) and each.get("type") == "_synthetic":
            kind = datasets.SyntheticDataset
        yield ["datasets", index], partial(kind, **each)
    whole = type("Config", (AxolotlConfigWCapabilities, *map(arguments, plugins)), {})
    yield [], partial(whole, **config, **target)


def arguments(plugin: str) -> type[Any]:
    """The keys that a plugin brings, without the plugin, whose import takes seconds."""
    import axolotl.integrations

    name = f"axolotl.integrations.{plugin}"
    package = ModuleType(name)
    package.__path__ = [str(Path(folder, plugin)) for folder in axolotl.integrations.__path__]
    sys.modules[name] = package
    found: type[Any] = getattr(importlib.import_module(f"{name}.args"), ARGUMENTS[plugin])
    return found


def with_plugins(config: Json, target: Json) -> Iterator[Check]:
    """All of Axolotl's own way, which registers the plugins."""
    from axolotl.utils.config import prepare_plugins, validate_config
    from axolotl.utils.dict import DictDefault

    read = DictDefault(config)
    yield ["plugins"], partial(prepare_plugins, read)
    yield [], partial(validate_config, read, **target)


def described(error: Exception, place: list[Any]) -> Iterator[Json]:
    """One entry for each thing that a validation error names; one for any other exception."""
    details = getattr(error, "errors", None)
    if not callable(details):
        yield {"loc": place, "message": str(error) or type(error).__name__}
        return
    for each in details():
        message = str(each["msg"]).removeprefix("Value error, ")
        yield {"loc": [*place, *each["loc"]], "message": message}


if __name__ == "__main__":
    main()
