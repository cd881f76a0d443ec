"""What in a config makes the training run code that is no part of it: Axolotl 0.19 to 0.21, wherever they import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ax_recipe import assets
from ax_recipe.checks.subject import Subject, is_true
from ax_recipe.errors import Problem
from ax_recipe.recipe.document import Keys
from ax_recipe.run import stages

CODE = "AX056"

_FIX = "Read that code first; then `run --trust`."

# prompt_strategies/ and its rooms for rl. Of `a.b.c` Axolotl imports b itself, whatever it is: os, subprocess, ...
_STRATEGIES = frozenset(
    (
        "alpaca_chat", "alpaca_instruct", "alpaca_w_system", "bradley_terry", "chat_template", "chatml", "completion",
        "context_qa", "creative_acr", "dpo", "ebft", "input_output", "kto", "llama2_chat", "llama3", "messages",
        "metharme", "orcamini", "orpo", "passthrough", "pretrain", "pygmalion", "stepwise_supervised", "user_defined",
        "zephyr",
    )
)  # fmt: skip
# The builders of `datasets` that only read. Its `pandas` is none: it unpickles, which is running what it reads.
_READERS = frozenset(
    (
        "arrow", "audiofolder", "csv", "hdf5", "imagefolder", "json", "jsonl", "lance", "niftifolder", "parquet",
        "pdffolder", "text", "txt", "videofolder", "webdataset", "xml",
    )
)  # fmt: skip
# Hub kernels are compiled programs; these are of the authors of transformers.
_KERNELS = "kernels-community/"
# Keys at any depth: arguments that Axolotl hands on to transformers and datasets.
_FLAGS: Mapping[str, str] = {
    "trust_remote_code": "runs the programs that lie beside a model or a dataset",
    "allow_all_kernels": "loads compiled kernels of anybody",
    "use_kernels": "loads compiled kernels of anybody (Axolotl sets allow_all_kernels with it)",
    "nemo_gym_enabled": "clones a repository and runs its servers",
    "nemo_gym_auto_start": "runs the servers of a repository",
    "custom_generate": "runs a program that lies beside a model",
}
# Keys whose value is a module, a program, or where one lies.
_NAMED: Mapping[Keys, str] = {
    ("torchdistx_path",): "is put on Python's path, and a module is imported from it",
    ("trainer_cls",): "is imported as the trainer",
    ("cls_model_config",): "is imported as the model's class",
    ("trl", "rollout_func"): "is imported and called",
    ("trl", "reward_funcs"): "is imported and called",
    ("hatchery", "reward_funcs"): "is imported and called",
    ("vllm", "serve_module"): "is imported and run",
    ("export", "llama_cpp_dir"): "holds programs that are run",
    ("nemo_gym_dir",): "holds programs that are run",
}


def code(subject: Subject) -> Iterator[Problem]:
    """AX056: every key that makes the training run what did not come with Axolotl; a warning each."""
    found = (*_flags(subject.keys, ()), *_plugins(subject), *_data(subject), *_named(subject), *_tasks(subject))
    for path, message in found:
        yield subject.problem(CODE, path, message, _FIX, "warning")
    kernel = subject.text("attn_implementation") or ""
    if "/" in kernel and not kernel.startswith(_KERNELS):
        yield subject.problem(CODE, "attn_implementation", f"{kernel} is a compiled kernel", _FIX, "warning")


def _flags(value: Any, path: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in _FLAGS and inner and (is_true(inner) or not isinstance(inner, bool)):
                yield (*path, key), _FLAGS[key]
            elif key == "weights_only" and inner is not None and not is_true(inner):
                yield (*path, key), "unpickles weights, which is running what they hold"
            else:
                yield from _flags(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _flags(inner, (*path, index))


def without_plugins(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys with Axolotl's own plugins alone, which may be imported where a config is only looked at."""
    plugins = keys.get("plugins")
    if not isinstance(plugins, list):
        return keys
    kept = [plugin for plugin in plugins if str(plugin).startswith("axolotl.")]
    return {key: value for key, value in keys.items() if key != "plugins"} | ({"plugins": kept} if kept else {})


def _plugins(subject: Subject) -> Iterator[tuple[Keys, str]]:
    for index, plugin in enumerate(subject.list("plugins")):
        if plugin and not _own(str(plugin)):
            yield ("plugins", index), f"{plugin} is imported and run with every step; it is none of Axolotl's own"


def _own(name: str) -> bool:
    """Whether a module is Axolotl's, or lies in the folder of our own plugins, which is the first that is looked in."""
    first = name.partition(".")[0]
    ours = first.isidentifier() and (assets.probe(stages.PLUGIN_FOLDER) / f"{first}.py").is_file()
    return first == "axolotl" or ours


def _data(subject: Subject) -> Iterator[tuple[Keys, str]]:
    for path, dataset in subject.datasets("datasets", "test_datasets", "pretraining_dataset"):
        kind = dataset.get("type")
        if isinstance(kind, str) and "." in kind and not _strategy(kind):
            yield (*path, "type"), f"{kind} is imported and called; it is none of Axolotl's prompt strategies"
        if found := unsafe_format(dataset):
            yield (*path, found[0]), found[1]


def unsafe_format(dataset: Mapping[str, Any]) -> tuple[str, str] | None:
    """The key by which merely reading a dataset runs what its files hold, and why; None where it does not."""
    reader = dataset.get("ds_type")
    if isinstance(reader, str) and reader.lower() not in _READERS:
        return "ds_type", f"{reader} is no plain format: such a file can hold a program"
    if dataset.get("path") == "pandas":
        return "path", "pandas, as a dataset, unpickles its files, which is running what they hold"
    return None


def _strategy(kind: str) -> bool:
    first, *rest = kind.split(".")
    return (first in _STRATEGIES and len(rest) == 1) or kind.startswith("axolotl.prompt_strategies.")


def _named(subject: Subject) -> Iterator[tuple[Keys, str]]:
    for path, what in _NAMED.items():
        value: Any = subject.keys
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        names = value if isinstance(value, list) else [value]
        for name in names:
            plain = path == ("cls_model_config",) and "." not in str(name)  # a class of transformers
            if name and not _own(str(name)) and not plain:
                yield path, f"{name} {what}"


def _tasks(subject: Subject) -> Iterator[tuple[Keys, str]]:
    for index, task in enumerate(subject.list("lm_eval_tasks")):
        if isinstance(task, str) and ("/" in task or task.endswith((".yaml", ".yml"))):
            yield ("lm_eval_tasks", index), f"{task} is a task's file, which may call functions that lie beside it"
